"""The survey's weights on real images: three teachers that each know a third of the classes teach one student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from distil.data.bundle import Bundle, View
from distil.errors import DistilError
from distil.loops.fidelity import fidelity, quality_table, shifted
from distil.loops.images import ImagePair, Pair, image_pair
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Teacher, Training, distil, train_teacher
from distil.tasks import get_task

__all__ = ["Teachers", "teachers_experiment"]


def _pair() -> ImagePair:
    return ImagePair(
        train=1000,
        teacher_train=6000,
        val=1000,
        teacher="distil:mlp(hidden=128)",
        student="distil:mlp(hidden=32)",
        teacher_training=Training(epochs=6, batch_size=64, lr=1e-3),
    )


@dataclass(frozen=True)
class Teachers:
    """Settings of the part on several teachers.

    Attributes:
        pair: the data; ``pair.teacher`` is what each teacher is, trained on the images of its classes alone.
        count: of teachers, among whom the classes are dealt out in order.
        training: of every student.
        temperature, smoothing: of the method, in every arm (smoothing in its own).
        shift, strength: what is done to test images for the column on robustness.
    """

    pair: ImagePair = field(default_factory=_pair)
    count: int = 3
    training: Training = field(default_factory=lambda: Training(epochs=20, batch_size=64, lr=2e-3))
    temperature: float = 2.0
    smoothing: float = 0.1
    shift: str = "noise"
    strength: float = 0.2


def teachers_experiment(setup: Teachers, lab: Lab) -> Experiment:
    """Return the arms: alone, even means, and weights by confidence, entropy, gate, turn and certainty."""
    pair = image_pair(setup.pair, lab)
    known = _dealt(len(pair.bundle.classes), setup.count)
    teachers = [_expert(setup, lab, pair.rich, classes, k) for k, classes in enumerate(known)]
    modules = {f"t{k}": teacher.module for k, teacher in enumerate(teachers)}
    away = shifted(pair.bundle, setup.shift, strength=setup.strength)
    look = fidelity(pair.bundle, list(modules.values()), away)
    how = f"temperature={setup.temperature:g}"
    lessons: dict[str, tuple[Role, str, str]] = {
        "uniform": ("rival", "Mean of probabilities", f"kd_dd_survey({how})"),
        "logits": ("rival", "Mean of logits", f"kd_dd_survey(target=logits, {how})"),
        "alternate": ("rival", "In turn, by batch", f"kd_dd_survey(teachers=alternate, {how})"),
        "confidence": ("method", "By confidence on the label", f"kd_dd_survey(teachers=confidence, {how})"),
        "entropy": ("method", "By entropy", f"kd_dd_survey(teachers=entropy, {how})"),
        "gate": ("method", "By a learned gate", f"kd_dd_survey(teachers=gate, {how})"),
        "sure": ("ablation", "Even, samples by certainty", f"kd_dd_survey(certainty=entropy, {how})"),
        "agreed": ("ablation", "Even, samples by variance", f"kd_dd_survey(certainty=variance, {how})"),
        "confidence-sure": (
            "ablation", "By confidence, samples by certainty",
            f"kd_dd_survey(teachers=confidence, certainty=entropy, {how})",
        ),
        "smooth": (
            "ablation", "By confidence, smoothed",
            f"kd_dd_survey(teachers=confidence, smoothing={setup.smoothing:g}, {how})",
        ),
        "uniform-alone": ("ablation", "Mean of probabilities, no labels", f"kd_dd_survey(label_weight=0, {how})"),
        "confidence-alone": (
            "ablation", "By confidence, no labels beside", f"kd_dd_survey(teachers=confidence, label_weight=0, {how})",
        ),
    }  # fmt: skip

    def arm(role: Role, label: str, method: str, taught: Any = modules, phrase: str = "") -> Arm:
        def run(seed: int) -> Outcome:
            return distil(
                lab, method, setup.pair.student, taught, pair.bundle, setup.training, seed=seed, diagnostics=look,
                check_teacher=False,
            )  # fmt: skip

        return Arm(role, run, label=label, phrase=phrase or label, expression=method)

    arms = {"alone": arm("reference", "Student alone", "supervised", None, "the student alone")}
    arms |= {name: arm(role, label, text) for name, (role, label, text) in lessons.items()}
    arms["whole"] = arm("bound", "One teacher of all classes", f"kd_dd_survey({how})", pair.teacher)
    arms["whole-sure"] = arm(
        "bound", "One teacher of all, samples by certainty", f"kd_dd_survey(certainty=entropy, {how})", pair.teacher
    )
    setting = {
        **pair.setting(setup.training),
        "Teacher": f"{setup.count} of {setup.pair.teacher}, each trained on the images of its own classes among "
        f"{setup.pair.teacher_train}; each gives scores for all classes. The bounds have one of that form, trained on "
        "all of them",
        "Weights": f"labels and teachers count 1 each, temperature {setup.temperature:g}, untuned and equal in every "
        "arm; 'no labels' leaves the first out (weights by confidence still read them)",
        "Check": "teachers are no better than chance on all classes, by design, so that check is left out",
    }
    shift = {"noise": f"noisy (standard deviation {setup.strength:g})", "dim": f"dimmed by {setup.strength:g}"}
    return Experiment(
        f"{setup.count} teachers that each know a part: {pair.bundle.name}",
        pair.bundle,
        arms,
        None,
        setting,
        tables=[_knowledge(pair, teachers, known)],
        closing=lambda report: [quality_table(report, shift=shift[setup.shift])],
    )


def _dealt(classes: int, count: int) -> list[list[int]]:
    """Deal the classes out in order; the last teachers get one more where they do not divide evenly."""
    if not 2 <= count <= classes:
        raise DistilError(f"teachers.count={count} must lie in 2 … {classes}, the classes there are.")
    ends = [classes * k // count for k in range(count + 1)]
    return [list(range(first, last)) for first, last in pairwise(ends)]


def _expert(setup: Teachers, lab: Lab, rich: Bundle, classes: Sequence[int], number: int) -> Teacher:
    """Train a teacher on its own classes; its scores are for all of them."""
    part = replace(
        rich,
        train=_only(rich.train, classes),
        val=_only(rich.val, classes),
        fingerprint=f"{rich.fingerprint}-classes{list(classes)}",
    )
    name = f"teacher of {', '.join(rich.classes[k] for k in classes)}"
    return train_teacher(lab, setup.pair.teacher, part, setup.pair.teacher_training, seed=number, name=name)


def _only(data: Any, classes: Sequence[int]) -> View:
    labels: Tensor = data.labels
    return View(data, torch.as_tensor([k for k, label in enumerate(labels.tolist()) if label in classes]))


def _knowledge(pair: Pair, teachers: Sequence[Teacher], known: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """Return how each teacher does on its own classes and on all."""
    task, test = get_task(pair.bundle.task), pair.bundle.test
    rows = []
    for k, (teacher, classes) in enumerate(zip(teachers, known)):
        own = task.evaluate(teacher.module, _only(test, classes), role="teacher")[task.metric]
        named = ", ".join(pair.bundle.classes[c] for c in classes)
        rows.append([f"teacher {k + 1}", named, own, teacher.metrics[task.metric]])
    return {
        "title": "What each teacher knows",
        "note": "Test accuracy on the classes it was trained on, and on all.",
        "head": ["teacher", "classes", "own classes", "all classes"],
        "rows": rows,
    }
