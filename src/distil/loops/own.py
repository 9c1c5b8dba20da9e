"""Distilling on the user's own things: data by path or name, models by name or factory, methods as expressions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.data import load
from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.loading import mix_seed
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError
from distil.loops.compare import check_seeds, compare
from distil.loops.lab import Arm, Lab, code_of
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

__all__ = ["OwnRun", "checked", "opened", "run_own", "tried"]


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
        taps: your paths for meanings, ``{emb: avgpool}``.
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
    taps: dict[str, str] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    seeds: tuple[int, ...] = (0,)


def checked(run: OwnRun, lab: Lab) -> tuple[Bundle, Teacher]:
    """Load everything, try every method on a batch, and score the teacher; what does not fit stops before training.

    Raises:
        DistilError: missing data or models, other class counts, a tap that does not exist, settings that cannot be, a
            teacher at chance, …
    """
    for name in ("data", "student", "teacher"):
        if not getattr(run, name):
            raise DistilError(f"--{name} is missing; see `distil train --help`.")
    check_seeds(run.seeds)
    if not run.methods:
        raise DistilError("--methods is missing; name at least one, e.g. kd,dkd,pld.")
    for text in run.methods:
        parse(text)
    bundle, module = opened(run, lab)
    return bundle, tried(run, bundle, module, lab, lambda: _student(run, bundle))


def opened(run: OwnRun, lab: Lab) -> tuple[Bundle, nn.Module]:
    """Read the data and make the teacher, its weights from the file where there is one."""
    lab.progress.begin(f"reading {run.data}")
    bundle = load(run.data, **_shape(run))
    for note in bundle.notes:
        lab.progress.say(f"{bundle.name}: {note}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed("model", "teacher", 0))
        module = load_model(
            run.teacher,
            classes=len(bundle.classes),
            input_shape=bundle.input_shape,
            weights=run.teacher_weights,
            pretrained=run.pretrained,
        )
    return bundle, module


def tried(run: OwnRun, bundle: Bundle, module: nn.Module, lab: Lab, student: Callable[[], nn.Module]) -> Teacher:
    """Try every method on a batch with a student that is thrown away, then score the teacher (and train it before)."""
    learns = [parameter.requires_grad for parameter in module.parameters()]
    for text in ("supervised", *run.methods):
        _try(text, run, bundle, module, lab, student())
    for parameter, on in zip(module.parameters(), learns, strict=True):
        parameter.requires_grad_(on)  # the trials froze it, and it may be trained yet
    return _teacher(run, bundle, module, lab)


def _shape(run: OwnRun) -> dict[str, int]:
    """How images are read, as far as it was said."""
    if run.channels not in (None, 1, 3):
        raise DistilError(f"channels={run.channels} is impossible; expected 1 (grey) or 3 (RGB).")
    given = {key: value for key in ("size", "channels", "limit") if (value := getattr(run, key)) is not None}
    for key, value in given.items():
        if value < 1:
            raise DistilError(f"{key}={value} is impossible; expected at least 1.")
    return given


def _try(text: str, run: OwnRun, bundle: Bundle, teacher: nn.Module, lab: Lab, student: nn.Module) -> None:
    """Make one step on a few samples."""
    example, options = example_of(bundle), run.training.options()
    try:
        distiller = Distiller(
            student, teacher, parse(text), task=bundle.task, example=example, epochs=run.training.epochs, taps=run.taps
        )
        distiller.totals([example])
        if distiller.prepared:  # else it waits for its pass over the data
            quiet = {"epochs": None, "steps": 1, "diagnose": False, "check_teacher": False}
            fit(distiller, [example], device=lab.device, **{**options, **quiet})
    except DistilError as error:
        # The settings and models alone are at fault where the bare label loss cannot run.
        raise error if text == "supervised" else DistilError(f"The method '{text}' does not fit: {error}") from None


def _student(run: OwnRun, bundle: Bundle) -> nn.Module:
    model = build_model(run.student, bundle, seed=run.seeds[0])
    return load_weights(model, run.student_weights) if run.student_weights else model


def _teacher(run: OwnRun, bundle: Bundle, module: nn.Module, lab: Lab) -> Teacher:
    if run.train_teacher:
        longer = replace(run.training, epochs=run.train_teacher)
        teacher = train_teacher(lab, run.teacher, bundle, longer, seed=0, start=module)
    else:
        task = get_task(bundle.task)
        module.eval()
        scores = task.evaluate(module, bundle.test, role="teacher")
        teacher = Teacher(module, scores, fingerprint(module), 0.0, name=run.teacher)
    above_chance(teacher.module, bundle)
    return teacher


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
    task, student = get_task(bundle.task), _student(run, bundle)
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
        student_fingerprint=fingerprint(student),
        student_code=code_of(student),
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
            taps=run.taps,
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
        base = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80] or "method"
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
