"""The losses that methods take: equal to their plain twins, in the form that was measured to be the faster one.

With few classes, and wherever a closed form cannot serve (a teacher that learns, a temperature that is a tensor,
classes on another axis, under `torch.compile`), the plain form runs, bit for bit. See
:class:`distil.functional.backend`.

Measured on one thread of a CPU, forward and backward from unreduced values: with fewer than 64 classes the written-down
gradient of `kd` loses (a step is too small for a Python function of its own), and above them it wins from about 2¹⁵
logits on; those of `decoupled` and `plackett_luce` win from 64 classes on for any number of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distil.functional import closed_form, divergence, ranking
from distil.functional.backends import current
from distil.functional.divergence import CONVENTIONS
from distil.functional.reduction import reduce

__all__ = ["decoupled", "kd", "plackett_luce"]

CLASSES = 64
"""Classes from which "auto" takes a closed form at all: published runs with fewer stay bit-equal."""

LOGITS = 1 << 15
"""Logits of one side from which the cheapest of them, `kd`, wins."""


def kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    convention: str = "distil",
    weight: Tensor | None = None,
    reduction: str = "mean",
    dim: int = -1,
) -> Tensor:
    """Return the KD loss as a named library computes it.

    Arguments, values and errors are those of :func:`distil.functional.kd`, its plain twin.

    >>> kd(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), temperature=2.0)
    tensor(0.4898)
    """
    rule = CONVENTIONS.get(convention)
    written = rule is not None and rule.compares == "kl" and not (rule.fixed_temperature and temperature != 1)
    last = dim in (-1, student_logits.ndim - 1)
    if rule is None or not (written and last and _wins(student_logits, teacher_logits, temperature, LOGITS)):
        return divergence.kd(
            student_logits, teacher_logits, temperature=temperature, convention=convention, weight=weight,
            reduction=reduction, dim=dim,
        )  # fmt: skip
    values = closed_form.kl(student_logits, teacher_logits, temperature=temperature, scale=rule.scale, reduction="none")
    return reduce(values / student_logits.shape[-1] if rule.elements else values, weight, reduction=reduction)


def decoupled(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 4.0
) -> tuple[Tensor, Tensor]:
    """Return `tckd` and `nckd`, both unreduced; arguments and errors are theirs.

    >>> decoupled(torch.zeros(1, 3), torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([0]), temperature=1.0)[0]
    tensor([0.9213])
    """
    if _wins(student_logits, teacher_logits, temperature):
        return closed_form.decoupled(student_logits, teacher_logits, labels, temperature=temperature)
    return (
        divergence.tckd(student_logits, teacher_logits, labels, temperature=temperature, reduction="none"),
        divergence.nckd(student_logits, teacher_logits, labels, temperature=temperature, reduction="none"),
    )


def plackett_luce(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    teacher_temperature: float = 1.0,
    weights: str = "teacher",
    label_first: bool = True,
    standardise: str | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return PLD's loss.

    Arguments, values and errors are those of :func:`distil.functional.plackett_luce`, its plain twin; "both" of
    ``standardise`` always runs as written there.

    >>> plackett_luce(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1]), weights="first-only")
    tensor(0.6931)
    """
    teacher_logits = teacher_logits.detach()
    plain = standardise not in (None, "teacher")
    if plain or not _wins(student_logits, teacher_logits, teacher_temperature):
        return ranking.plackett_luce(
            student_logits, teacher_logits, labels, teacher_temperature=teacher_temperature, weights=weights,
            label_first=label_first, standardise=standardise, weight=weight, reduction=reduction,
        )  # fmt: skip
    if standardise == "teacher":
        teacher_logits = divergence.standardise(teacher_logits)
    return closed_form.plackett_luce(
        student_logits, teacher_logits, labels, teacher_temperature=teacher_temperature, weights=weights,
        label_first=label_first, weight=weight, reduction=reduction,
    )  # fmt: skip


def _wins(student: Tensor, teacher: Tensor, temperature: float | Tensor, logits: int = 0) -> bool:
    """Say whether the closed form is to run; never for what it cannot do, nor for what a check will refuse."""
    chosen = current()
    if chosen == "plain" or torch.compiler.is_compiling() or student.shape != teacher.shape or not student.ndim:
        return False
    if teacher.requires_grad or isinstance(temperature, Tensor):
        return False
    if chosen != "auto":
        return True
    return student.device.type == "cpu" and student.shape[-1] >= CLASSES and student.numel() >= logits
