"""A teacher and a student on a small image set: what the classification recipes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distil.data import class_thirds, load, long_tail, regrouped, split
from distil.data.bundle import Bundle, View
from distil.data.fingerprint import fingerprint
from distil.data.sources import SOURCES
from distil.engine.distiller import Distiller
from distil.errors import DistilError
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.training import Teacher, Training, distil, train_teacher
from distil.tasks import ClassificationTask

__all__ = ["SMALL_CIFAR", "ImagePair", "Pair", "image_pair", "made_of"]


@dataclass(frozen=True)
class ImagePair:
    """Which data, teacher and student.

    Attributes:
        data: a name that ``distil.load`` reads.
        size: height and width that images are brought to; by default their own.
        modulo: make label k of label k modulo this, the fine one kept apart (``distil.data.regrouped``).
        train, val: how many training and validation images are kept, stratified; the test set is whole.
        teacher_train: how many images the teacher is trained on; the students' are among them.
        imbalance: the largest class's count over the smallest's in what students and teacher are trained on, which
            then has a long tail; what chooses and tests stays balanced, and head and tail are scored by themselves.
        order: the classes from head to tail; by default by their number.
        teacher, student: models by name.
    """

    data: str = "fashion-mnist"
    size: int | None = None
    modulo: int | None = None
    train: int = 5000
    teacher_train: int = 20000
    val: int = 2000
    imbalance: float = 1.0
    order: tuple[int, ...] = ()
    teacher: str = "distil:mlp(hidden=256)"
    student: str = "distil:mlp(hidden=16)"
    teacher_training: Training = field(default_factory=lambda: Training(epochs=20, batch_size=64, lr=1e-3))


SMALL_CIFAR: Mapping[str, Any] = {
    "pair": {
        "data": "cifar10",
        "size": 16,
        "teacher": "distil:cnn(widths=(24, 48, 96))",
        "student": "distil:cnn(widths=(8, 16, 24))",
        "teacher_training": {"epochs": 15, "lr": 3e-3},
    },
    "training": {"epochs": 20},
}
"""Changes to a recipe's defaults that make it one of CIFAR-10.

Twice the epochs gave the student alone 0.5 points on validation, one seed that is not shown.
"""


@dataclass(frozen=True)
class Pair:
    """The data at hand, the trained teacher and what it was trained on, and the student's name."""

    chosen: ImagePair
    bundle: Bundle
    teacher: Teacher
    rich: Bundle

    def arm(
        self, lab: Lab, role: Role, label: str, method: str, training: Training, *, phrase: str = "",
        diagnostics: Callable[[Distiller], Mapping[str, float]] | None = None, trials: int = 1,
    ) -> Arm:  # fmt: skip
        """Return an arm that teaches the student with ``method``; ``trials`` runs chose its settings."""

        def run(seed: int) -> Outcome:
            return distil(
                lab,
                method,
                self.chosen.student,
                self.teacher,
                self.bundle,
                training,
                seed=seed,
                diagnostics=diagnostics,
                trials=trials,
            )

        return Arm(role, run, label=label, phrase=phrase or label, expression=method)

    def setting(self, training: Training) -> dict[str, str]:
        """Return what a reader must know."""
        c, b = self.chosen, self.bundle
        at = (f" at {c.size} px" if c.size else "") + (f", labels modulo {c.modulo}" if c.modulo else "")
        return {
            "Data": f"{c.data}{at}: {len(b.train)} training images, {len(b.val)} to choose the epoch, {len(b.test)} "
            f"test images{self._made()}",
            **self._tail(),
            "Teacher": f"{c.teacher}, trained on {c.teacher_train} images, the student's among them",
            "Student": c.student,
            "Budget": f"{training.epochs} epochs of batches of {training.batch_size}, {training.optimizer}, learning "
            f"rate {training.lr:g} "
            f"({training.schedule}), for every arm",
        }

    def _made(self) -> str:
        b = self.bundle
        counts = [len(part) for part in (b.train, b.val, b.test)]
        return made_of(self.chosen.data, counts, len(b.classes), even=self.chosen.imbalance == 1)

    def _tail(self) -> dict[str, str]:
        if self.chosen.imbalance == 1:
            return {}
        order = self.chosen.order or range(len(self.bundle.classes))
        counts = self.bundle.train.labels.bincount(minlength=len(self.bundle.classes)).tolist()
        named = ", ".join(f"{self.bundle.classes[k]} {counts[k]}" for k in order)
        return {
            "Long tail": f"imbalance {self.chosen.imbalance:g}, for students and teacher: {named}. Validation and test "
            "images are balanced, so accuracy is balanced accuracy where their classes are of one size"
        }


def made_of(name: str, counts: Sequence[int], classes: int, *, even: bool = True) -> str:
    """Say how a named set's images are made of another's; "" where they are not.

    Args:
        name: the set.
        counts: how many training, validation and test images are used.
        classes: how many classes there are.
        even: as many of every class, which then is said too.

    >>> made_of("cifar10", [10_000, 2_000, 10_000], 10)
    ''
    >>> made_of("fashion-pairs", [10_000, 2_000, 10_000], 100).rpartition(";")[2]
    ' 100, 20 and 100 a class are used here'
    """
    made = SOURCES[name].made if name in SOURCES else ""
    train, val, test = (f"{count / classes:.4g}" for count in counts)
    used = f"; {train}, {val} and {test} a class are used here" if even else ""
    return f"; {made}{used}" if made else ""


def image_pair(chosen: ImagePair, lab: Lab) -> Pair:
    """Load the data and train (or find) the teacher."""
    whole = load(chosen.data, size=chosen.size)
    if chosen.modulo is not None:
        if not 1 <= chosen.modulo <= len(whole.classes):
            raise DistilError(
                f"pair.modulo={chosen.modulo} must lie in 1 … {len(whole.classes)}, the classes there are."
            )
        whole = regrouped(whole, [k % chosen.modulo for k in range(len(whole.classes))])
    if chosen.teacher_train < chosen.train:
        raise DistilError(
            f"pair.teacher_train={chosen.teacher_train} is less than pair.train={chosen.train}; the student's images "
            "are among the teacher's, so give the teacher at least as many."
        )
    many = _part(whole.train, chosen.teacher_train, chosen)
    few = _part(many, chosen.train, chosen)
    (val,) = split(whole.val, [chosen.val])
    # By the samples themselves: another way of drawing as many is other data.
    drawn = fingerprint({"teacher's": many.ids, "student's": few.ids, "validation": val.ids})
    cut = f"{whole.fingerprint}-{drawn}-{chosen.teacher_train}-{chosen.val}"
    task = whole.task
    if chosen.imbalance != 1:
        cut += f"-tail{chosen.imbalance:g}{list(chosen.order) or ''}"
        task = ClassificationTask(groups=class_thirds(chosen.order or range(len(whole.classes))))
    rich: Bundle = replace(whole, train=many, val=val, fingerprint=cut, task=task)
    bundle: Bundle = replace(rich, train=few, fingerprint=f"{cut}-{chosen.train}")
    return Pair(chosen, bundle, train_teacher(lab, chosen.teacher, rich, chosen.teacher_training, seed=0), rich)


def _part(data: Any, size: int, chosen: ImagePair) -> View:
    if chosen.imbalance == 1:
        return split(data, [size])[0]
    return long_tail(data, size, imbalance=chosen.imbalance, order=chosen.order or None)
