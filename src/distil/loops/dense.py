"""A teacher and a student that label every pixel: what the dense recipes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from distil.data import load
from distil.data.bundle import Bundle
from distil.engine.distiller import Distiller
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.training import Teacher, Training, distil, train_teacher

__all__ = ["DensePair", "Pair", "Probe", "dense_pair"]


class Probe(Protocol):
    """Something that watches a run and gives figures about it afterwards; made anew for every run."""

    def watch(self, distiller: Distiller, done: int, total: int) -> None:
        """Look after each step."""

    def __call__(self, distiller: Distiller) -> Mapping[str, float]:
        """Return the figures."""


@dataclass(frozen=True)
class DensePair:
    """Which data, teacher and student.

    Attributes:
        data: a name that ``distil.load`` reads.
        limit: at most this many samples of each split; all by default.
        teacher, student: models by name.
    """

    data: str = "camvid"
    limit: int | None = None
    teacher: str = "distil:unet(width=32)"
    student: str = "distil:unet(width=8)"
    teacher_training: Training = field(
        default_factory=lambda: Training(epochs=20, batch_size=16, lr=3e-3, precision="bf16")
    )


@dataclass(frozen=True)
class Pair:
    """The data at hand, the trained teacher, and the student's name."""

    chosen: DensePair
    bundle: Bundle
    teacher: Teacher

    def arm(
        self, lab: Lab, role: Role, label: str, method: str, training: Training, *, phrase: str = "",
        probe: Callable[[], Probe] | None = None,
    ) -> Arm:  # fmt: skip
        """Return an arm that teaches the student with ``method``, watched by a fresh probe for every seed."""

        def run(seed: int) -> Outcome:
            one = probe() if probe is not None else None
            return distil(
                lab,
                method,
                self.chosen.student,
                self.teacher,
                self.bundle,
                training,
                seed=seed,
                diagnostics=one,
                watch=one.watch if one is not None else None,
            )

        return Arm(role, run, label=label, phrase=phrase or label, expression=method)

    def setting(self, training: Training) -> dict[str, str]:
        """Return what a reader must know."""
        c, b = self.chosen, self.bundle
        height, width = b.input_shape[1:]
        return {
            "Data": f"{c.data} at {height} x {width}: {len(b.train)} training images (mirrored at random), "
            f"{len(b.val)} to choose the epoch, {len(b.test)} test images",
            "Teacher": f"{c.teacher}, {c.teacher_training.epochs} epochs on the same images",
            "Student": c.student,
            "Budget": f"{training.epochs} epochs of batches of {training.batch_size}, {training.optimizer}, learning "
            f"rate {training.lr:g} ({training.schedule}), {training.precision}, for every arm",
        }


def dense_pair(chosen: DensePair, lab: Lab) -> Pair:
    """Load the data and train (or find) the teacher."""
    bundle = load(chosen.data, limit=chosen.limit)
    return Pair(chosen, bundle, train_teacher(lab, chosen.teacher, bundle, chosen.teacher_training, seed=0))
