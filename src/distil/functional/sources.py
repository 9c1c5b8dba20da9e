"""Whose outputs are these? The loss of telling two sources apart, and the gradient that works against it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional._checks import same_shape
from distil.functional.reduction import reduce, working

__all__ = ["reversed_gradient", "source_cross_entropy"]


def source_cross_entropy(
    student_scores: Tensor, teacher_scores: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return the binary cross-entropy of a discriminator's two outputs on both sources: one value for each row.

    Targets are (1, 0) on the student's rows and (0, 1) on the teacher's; a row is the mean of its four cross-entropies,
    so the mean over rows is that over the 2B × 2 outputs of both stacked. Scores of 0 give log 2.

    Args:
        student_scores: [..., 2], what the discriminator says of the student's outputs, before any sigmoid.
        teacher_scores: the same of the teacher's; it carries gradient too, to the discriminator.
        weight: broadcastable to the rows; "mean" divides by its sum.
        reduction: "mean", "sum" or "none".

    Raises:
        DistilError: other than two scores, or different shapes.

    >>> source_cross_entropy(torch.zeros(3, 2), torch.zeros(3, 2))
    tensor(0.6931)
    >>> source_cross_entropy(torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]]))
    tensor(0.0001)

    Paper: Shen, Savvides, *MEAL V2*, 2020, arXiv 2009.08453; its text has one sigmoid output, its code these two.
    """
    same_shape("source_cross_entropy", student_scores, teacher_scores, "pass both outputs through one discriminator")
    if student_scores.shape[-1] != 2:
        raise DistilError(
            f"source_cross_entropy: the scores are {tuple(student_scores.shape)} but [..., 2] is expected, one for "
            "each source; let the discriminator end in two outputs."
        )
    student, teacher = working(student_scores, teacher_scores)
    target = torch.tensor([1.0, 0.0], dtype=student.dtype, device=student.device).expand_as(student)
    ours = F.binary_cross_entropy_with_logits(student, target, reduction="none").mean(-1)
    theirs = F.binary_cross_entropy_with_logits(teacher, (1 - target).to(teacher.dtype), reduction="none").mean(-1)
    return reduce((ours + theirs) / 2, weight, reduction=reduction)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * slopes[0], None


def reversed_gradient(values: Tensor, *, factor: float = 1.0) -> Tensor:
    """Return ``values`` unchanged, with −``factor`` times their gradient: what comes before works against what follows.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> y = reversed_gradient(x, factor=0.5)
    >>> y.backward()
    >>> y.item(), x.grad.item()
    (3.0, -0.5)

    Paper: Ganin, Lempitsky, *Unsupervised Domain Adaptation by Backpropagation*, ICML 2015, arXiv 1409.7495.
    """
    reversed_values: Tensor = _Reversed.apply(values, factor)
    return reversed_values
