"""The divergences again, with the gradient written down instead of recorded.

Each function equals its plain twin of the same name in value and gradient and keeps one buffer, the gradient, where
autograd keeps several; rows are taken in blocks that stay in the cache. No gradient reaches the teacher, and a second
derivative does not exist and is refused: where either is wanted, use the twin.
"""

from __future__ import annotations

from functools import partial

import torch  # noqa: F401  (the examples use it)
from torch import Tensor

from distil.errors import DistilError
from distil.functional import _kernels as kernels
from distil.functional import _row_kernels as row_kernels
from distil.functional._checks import IGNORE, class_index, counted_weight, known, positive, same_shape
from distil.functional._closed import Closed, Kernel
from distil.functional.divergence import SAME_CLASSES, SCALES, nckd, tckd
from distil.functional.mixtures import check_share, check_unit
from distil.functional.ranking import WEIGHTS
from distil.functional.reduction import reduce

__all__ = [
    "cosine",
    "decoupled",
    "dkd",
    "interpolated_kl",
    "jsd",
    "kl",
    "plackett_luce",
    "reverse_kl",
    "skew_kl",
    "skew_reverse_kl",
    "standardised_kl",
    "total_variation",
]


def kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
) -> Tensor:
    """Return T² · KL(p ‖ q), row by row.

    Arguments, values and errors are those of :func:`distil.functional.divergence.kl`, its twin.

    >>> kl(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), temperature=2.0)
    tensor(0.4898)
    """
    kernel = partial(kernels.kl, temperature=temperature)
    return _divergence("kl", student_logits, teacher_logits, kernel, temperature, weight, reduction, scale)


def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
) -> Tensor:
    """Return T² · KL(q ‖ p), row by row.

    Arguments, values and errors are those of :func:`distil.functional.divergence.reverse_kl`, its twin.

    >>> reverse_kl(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(0.4621)
    """
    kernel = partial(kernels.reverse, temperature=temperature)
    return _divergence("reverse_kl", student_logits, teacher_logits, kernel, temperature, weight, reduction, scale)


def jsd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "none",
) -> Tensor:
    """Return the generalised Jensen-Shannon divergence.

    Arguments, values and errors are those of :func:`distil.functional.mixtures.jsd`, its twin.

    >>> jsd(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(0.3278)
    """
    check_share("jsd", "beta", beta)
    kernel = partial(kernels.jsd, temperature=temperature, beta=beta)
    return _divergence("jsd", student_logits, teacher_logits, kernel, temperature, weight, reduction, scale)


def skew_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "none",
) -> Tensor:
    """Return KL(p ‖ α p + (1 − α) q).

    Arguments, values and errors are those of :func:`distil.functional.mixtures.skew_kl`, its twin.

    >>> skew_kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(1.0988)
    """
    check_share("skew_kl", "alpha", alpha, closed=True)
    kernel = partial(kernels.skew, temperature=temperature, alpha=alpha)
    return _divergence("skew_kl", student_logits, teacher_logits, kernel, temperature, weight, reduction, scale)


def skew_reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "none",
) -> Tensor:
    """Return KL(q ‖ α p + (1 − α) q).

    Arguments, values and errors are those of :func:`distil.functional.mixtures.skew_reverse_kl`, its twin.

    >>> skew_reverse_kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), alpha=0.9)
    tensor(1.0988)
    """
    check_share("skew_reverse_kl", "alpha", alpha)
    kernel = partial(kernels.skew_reverse, temperature=temperature, alpha=alpha)
    return _divergence("skew_reverse_kl", student_logits, teacher_logits, kernel, temperature, weight, reduction, scale)


def total_variation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "none",
) -> Tensor:
    """Return ½ Σ_c |p_c − q_c|.

    Arguments, values and errors are those of :func:`distil.functional.mixtures.total_variation`, its twin.

    >>> total_variation(torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, -9.0]]))
    tensor(0.5000)
    """
    kernel = partial(kernels.variation, temperature=temperature)
    return _divergence("total_variation", student_logits, teacher_logits, kernel, temperature, weight, reduction, scale)


def interpolated_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    share: float = 0.5,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "none",
) -> Tensor:
    """Return the divergence from a target between student and teacher.

    Arguments, values and errors are those of :func:`distil.functional.mixtures.interpolated_kl`, its twin.

    >>> interpolated_kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), share=0.0)
    tensor(0.)
    """
    check_unit("interpolated_kl", "share", share)
    kernel = partial(kernels.interpolated, temperature=temperature, share=share)
    return _divergence("interpolated_kl", student_logits, teacher_logits, kernel, temperature, weight, reduction, scale)


def standardised_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
    eps: float = 1e-7,
) -> Tensor:
    """Return `kl` of the standardised logits of both sides; its twin is ``kl(standardise(s), standardise(t))``.

    Of two classes it has no gradient.

    Args:
        student_logits, teacher_logits, temperature, weight, reduction, scale: as for `kl`.
        eps: added to the standard deviation, as in :func:`distil.functional.standardise`.

    >>> standardised_kl(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[30.0, 20.0, 10.0]]))
    tensor(1.1504)

    Paper: Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024, arXiv 2403.01427.
    """
    kernel = partial(kernels.standardised, temperature=temperature, eps=eps)
    return _divergence("standardised_kl", student_logits, teacher_logits, kernel, temperature, weight, reduction, scale)


def cosine(
    student: Tensor,
    teacher: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    eps: float = 1e-8,
) -> Tensor:
    """Return 1 − cos(student, teacher) over the last axis; its twin is torch's ``1 − cosine_similarity``.

    Args:
        student: (..., D).
        teacher: the same shape.
        weight: broadcastable to the rows; "mean" divides by its sum.
        reduction: "mean", "sum" or "none".
        eps: the least length a vector is divided by.

    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor(0.2929)
    """
    return _rows("cosine", student, teacher, partial(kernels.cosine, eps=eps), weight=weight, reduction=reduction)


def plackett_luce(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    teacher_temperature: float = 1.0,
    weights: str = "teacher",
    label_first: bool = True,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return PLD's loss: one sort and two running sums a row.

    Arguments, values and errors are those of :func:`distil.functional.plackett_luce`, its twin, but for
    ``standardise``: its gradient is not written down.

    >>> plackett_luce(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1]), weights="first-only")
    tensor(0.6931)
    """
    name = "plackett_luce"
    positive(name, "teacher_temperature", teacher_temperature)
    known(name, "weights", weights, WEIGHTS)
    if labels is None and label_first:
        raise DistilError(f"{name}: labels are missing but rank 1 is the label's; give them, or label_first=False.")
    if labels is not None:
        _, counted = class_index(name, labels, student_logits.shape[:-1], student_logits.shape[-1])
        weight = counted_weight(counted, weight)
    kernel = partial(row_kernels.listwise, temperature=teacher_temperature, weights=weights)
    first = labels if label_first else None
    return _rows(name, student_logits, teacher_logits, kernel, labels=first, weight=weight, reduction=reduction)


def decoupled(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 4.0
) -> tuple[Tensor, Tensor]:
    """Return both parts of :func:`dkd`, unreduced and unweighed, from one pass over the logits.

    Its twins are `tckd` and `nckd` with ``reduction="none"``. The parts may be weighed apart afterwards, so two
    gradients are kept, not one. A row labelled −100 gives 0.

    >>> target, others = decoupled(torch.zeros(1, 3), torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([0]), temperature=1)
    >>> target, others
    (tensor([0.9213]), tensor([0.]))
    """
    kernel = partial(row_kernels.decoupled, temperature=temperature)
    positive("decoupled", "temperature", temperature)
    same_shape("decoupled", student_logits, teacher_logits, SAME_CLASSES)
    rows, width = student_logits.shape[:-1], student_logits.shape[-1]
    index, counted = class_index("decoupled", labels, rows, width)
    if width < 2:  # no other class
        parts = [
            part(student_logits, teacher_logits, labels, temperature=temperature, reduction="none")
            for part in (tckd, nckd)
        ]
        return parts[0], parts[1]
    flat = (x.reshape(-1, width) for x in (student_logits, teacher_logits.detach()))
    values = temperature**2 * counted.unsqueeze(-1) * Closed.apply(*flat, index.reshape(-1), kernel).view(*rows, 2)
    return values[..., 0], values[..., 1]


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return decoupled distillation.

    Arguments, values and errors are those of :func:`distil.functional.divergence.dkd`, its twin.

    >>> dkd(torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]), temperature=1.0)
    tensor(1.1166)
    """
    target, others = decoupled(student_logits, teacher_logits, labels, temperature=temperature)
    weight = counted_weight(labels != IGNORE, weight)
    return reduce(alpha * target + beta * others, weight, reduction=reduction)


def _divergence(
    name: str,
    student: Tensor,
    teacher: Tensor,
    kernel: Kernel,
    temperature: float,
    weight: Tensor | None,
    reduction: str,
    scale: str,
) -> Tensor:
    positive(name, "temperature", temperature)
    known(name, "scale", scale, SCALES)
    values = _rows(name, student, teacher, kernel, weight=None, reduction="none")
    return reduce(values * temperature**2 if scale == "T2" else values, weight, reduction=reduction)


def _rows(
    name: str,
    student: Tensor,
    teacher: Tensor,
    kernel: Kernel,
    *,
    weight: Tensor | None,
    reduction: str,
    labels: Tensor | None = None,
) -> Tensor:
    same_shape(name, student, teacher, SAME_CLASSES)
    width = student.shape[-1]
    flat = None if labels is None else labels.reshape(-1)
    values: Tensor = Closed.apply(student.reshape(-1, width), teacher.detach().reshape(-1, width), flat, kernel)
    return reduce(values.view(student.shape[:-1]), weight, reduction=reduction)
