"""The shape and label checks that every function of this package shares: one sentence, both shapes, and the fix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distil.errors import DistilError, nearest

__all__ = ["IGNORE", "class_index", "counted_weight", "known", "positive", "same_shape", "shaped"]

IGNORE = -100


def same_shape(name: str, student: Tensor, teacher: Tensor, fix: str) -> None:
    """Refuse two tensors of different shapes."""
    if student.shape != teacher.shape:
        raise DistilError(
            f"{name}: the student gives {tuple(student.shape)} and the teacher {tuple(teacher.shape)}, "
            f"which must be equal; {fix}."
        )


def shaped(name: str, what: str, tensor: Tensor, expected: Sequence[int | str], fix: str) -> None:
    """Refuse a tensor that does not fit ``expected``, in which a string stands for any size."""
    fits = tensor.ndim == len(expected) and all(
        isinstance(want, str) or want == size for want, size in zip(expected, tensor.shape)
    )
    if not fits:
        wanted = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
        raise DistilError(f"{name}: {what} is {tuple(tensor.shape)} but ({wanted}) is expected; {fix}.")


def positive(name: str, what: str, value: float | Tensor) -> None:
    """Refuse a number that is not above 0; a tensor is not read, since that would wait for its device."""
    if not isinstance(value, Tensor) and not value > 0:
        raise DistilError(f"{name}: {what}={value} must be above 0; 1.0 leaves the values as they are.")


def known(name: str, what: str, value: str | None, options: Sequence[str | None]) -> None:
    """Refuse an unknown option, with the nearest known one."""
    if value not in options:
        names = [option for option in options if option is not None]
        raise DistilError(f"{name}: {what}={value!r} is unknown; {nearest(str(value), names)}")


def class_index(name: str, labels: Tensor, leading: Sequence[int], classes: int) -> tuple[Tensor, Tensor]:
    """Return labels that are safe to index with, and which of them count (those that are not -100).

    A label outside ``0 … classes - 1`` is refused on the CPU; elsewhere a check would wait for the device, and the
    indexing that follows asserts by itself.
    """
    if tuple(labels.shape) != tuple(leading):
        raise DistilError(
            f"{name}: labels are {tuple(labels.shape)} but the rows they label are {tuple(leading)}; "
            "give one class index per row."
        )
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise DistilError(f"{name}: labels are {labels.dtype}, not class indices; convert them with .long().")
    counted = labels != IGNORE
    if labels.device.type == "cpu":
        wrong = labels[counted & ((labels < 0) | (labels >= classes))]
        if wrong.numel():
            raise DistilError(
                f"{name}: label {int(wrong[0])} is outside the {classes} classes 0 … {classes - 1}; "
                "give the class's index, or -100 for a row without a label."
            )
    return torch.where(counted, labels, torch.zeros_like(labels)), counted


def counted_weight(counted: Tensor, weight: Tensor | None) -> Tensor:
    """Return the weight of each row: the caller's where the row counts, 0 where it does not."""
    return counted.float() if weight is None else counted * weight
