"""Distilling on the user's own things: data by path or name, models by name or factory, methods as expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from distil.data import load
from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.engine.distiller import Distiller
from distil.errors import DistilError
from distil.loops.compare import compare
from distil.loops.lab import Arm, Lab
from distil.loops.recipe import data_report
from distil.loops.training import (
    Teacher,
    Training,
    above_chance,
    build_model,
    distil,
    example_of,
    teacher_report,
    train_teacher,
)
from distil.methods.expression import parse
from distil.models.load import load_model, load_weights
from distil.tasks import get_task

__all__ = ["OwnRun", "checked", "run_own"]


@dataclass(frozen=True)
class OwnRun:
    """The settings of ``distil train`` and ``distil compare``.

    Attributes:
        data: a path or a name that ``distil.load`` reads.
        student, teacher: models by name: ``timm:…``, ``torchvision:…``, ``distil:…``, ``module:function``,
        ``file.py:function``. teacher_weights, student_weights: safetensors or state-dict files.
        pretrained: let the teacher's library load its published weights.
        train_teacher: epochs to train (or fine-tune) the teacher on the data first; 0 takes it as it is.
        methods: expressions; one for ``train``.
        baseline: also train the student alone, with the same budget, to say whether the method helped.
        size, channels, limit: how images are read.
        training: how students are trained.
        seeds: shared by all arms.
    """

    data: str = ""
    student: str = ""
    teacher: str = ""
    teacher_weights: str | None = None
    student_weights: str | None = None
    pretrained: bool = False
    train_teacher: int = 0
    methods: tuple[str, ...] = ("kd",)
    baseline: bool = True
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    training: Training = field(default_factory=Training)
    seeds: tuple[int, ...] = (0,)


def checked(run: OwnRun, lab: Lab) -> tuple[Bundle, Teacher]:
    """Load everything, run the teacher on a slice and every method on a batch; stops before anything is trained.

    Raises:
        DistilError: missing data or models, a teacher at chance, other class counts, a tap that does not exist, …
    """
    for name in ("data", "student", "teacher"):
        if not getattr(run, name):
            raise DistilError(f"--{name} is missing; see `distil train --help`.")
    sums = {text: parse(text) for text in run.methods}
    bundle = load(run.data, **{k: v for k in ("size", "channels", "limit") if (v := getattr(run, k)) is not None})
    teacher = _teacher(run, bundle, lab)
    for text, method in sums.items():
        model = build_model(run.student, bundle, seed=run.seeds[0])
        if run.student_weights:
            load_weights(model, run.student_weights)
        try:
            Distiller(
                model, teacher.module, method, task=bundle.task, example=example_of(bundle), epochs=run.training.epochs
            )
        except DistilError as error:
            raise DistilError(f"The method '{text}' does not fit: {error}") from None
    return bundle, teacher


def _teacher(run: OwnRun, bundle: Bundle, lab: Lab) -> Teacher:
    module = load_model(
        run.teacher,
        classes=len(bundle.classes),
        input_shape=bundle.input_shape,
        weights=run.teacher_weights,
        pretrained=run.pretrained,
    )
    if run.train_teacher:
        longer = replace(run.training, epochs=run.train_teacher)
        return train_teacher(lab, run.teacher, bundle, longer, seed=0, start=module)
    above_chance(module, bundle)
    task = get_task(bundle.task)
    return Teacher(
        module.eval(), task.evaluate(module, bundle.test, role="teacher"), fingerprint(module), 0.0, name=run.teacher
    )


def run_own(run: OwnRun, lab: Lab, *, command: str, title: str) -> dict[str, Any]:
    """Train the student with every method (and alone), and return the report.

    Trained students are written to ``students/ARM-seedN.safetensors`` under the lab's folder.
    """
    bundle, teacher = checked(run, lab)
    arms: dict[str, Arm] = {}
    if run.baseline or len(run.methods) > 1:
        arms["alone"] = _arm(run, lab, bundle, teacher, "alone", "supervised", role="reference")
    for text, name in zip(run.methods, _names(run.methods), strict=True):
        arms[name] = _arm(run, lab, bundle, teacher, name, text, role="method" if arms else "reference")
    task = get_task(bundle.task)
    return compare(
        arms,
        run.seeds,
        lab,
        title=title,
        task=task,
        command=command,
        setting=_setting(run, bundle),
        data=data_report(bundle),
        teacher=teacher_report(teacher, task, bundle),
        adjust=len(run.methods) > 1,
        settings={k: v for k, v in asdict(run).items() if k not in ("seeds", "methods", "baseline")},
        data_fingerprint=bundle.fingerprint,
        teacher_fingerprint=teacher.fingerprint,
    )


def _arm(run: OwnRun, lab: Lab, bundle: Bundle, teacher: Teacher, name: str, method: str, *, role: Any) -> Arm:
    def train(seed: int) -> Any:
        return distil(
            lab,
            method,
            run.student,
            teacher,
            bundle,
            run.training,
            seed=seed,
            checkpoints=f"{name}-seed{seed}",
            check_teacher=False,
            ship=lab.out / "students" / f"{name}-seed{seed}.safetensors",
            weights=run.student_weights,
        )

    label = "Student alone" if name == "alone" else method
    return Arm(
        role,
        train,
        label=label,
        phrase="the student alone" if name == "alone" else f"the student taught by {method}",
        expression=method,
    )


def _names(methods: Sequence[str]) -> list[str]:
    """Short names for arms, unique and fit for a file name."""
    names: list[str] = []
    for text in methods:
        base = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "method"
        name, i = base, 2
        while name in names or name == "alone":
            name, i = f"{base}-{i}", i + 1
        names.append(name)
    return names


def _setting(run: OwnRun, bundle: Bundle) -> Mapping[str, str]:
    t = run.training
    return {
        "Data": f"{bundle.name}: {bundle.task}, {len(bundle.classes)} classes",
        "Teacher": run.teacher
        + (f", weights {Path(run.teacher_weights).name}" if run.teacher_weights else "")
        + (f", trained {run.train_teacher} epochs on these data first" if run.train_teacher else ""),
        "Student": run.student,
        "Budget": f"{t.epochs} epochs of batches of {t.batch_size}, {t.optimizer}, learning rate {t.lr:g} "
        f"({t.schedule}), for every arm",
        "Choice": "the epoch is chosen on validation data and scored on test data",
    }
