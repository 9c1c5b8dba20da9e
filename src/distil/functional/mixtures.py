"""Divergences of the student from a mixture of both models, and the total variation: what language models distil with.

The conventions are those of :mod:`distil.functional.divergence`: summed over classes, averaged over the counted rows.
Here the factor T² is left out unless it is asked for, as the papers below do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known
from distil.functional.divergence import SCALES, _expectation, _log_probs
from distil.functional.reduction import reduce, working

__all__ = ["interpolated_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation"]


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
    """Return the generalised Jensen-Shannon divergence of two categorical distributions given as logits.

    β · KL(p ‖ m) + (1 − β) · KL(q ‖ m) with m = β p + (1 − β) q; p the teacher's, q the student's distribution at
    temperature T. Symmetric at β = ½ and bounded by ln 2; β → 0 and β → 1 tend, divided by β and by 1 − β, to KL(p ‖ q)
    and KL(q ‖ p).

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        beta: the teacher's share of the mixture, strictly between 0 and 1.
        temperature: above 0.
        weight: broadcastable to the rows; "mean" divides by its sum.
        reduction: "mean", "sum" or "none" (one value per row).
        scale: "none", or "T2" for the factor T².

    Raises:
        DistilError: if the shapes differ, or an argument is out of its range.

    >>> jsd(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(0.3278)

    Paper: Agarwal et al., *On-Policy Distillation of Language Models*, ICLR 2024, arXiv 2306.13649.
    """
    check_share("jsd", "beta", beta)
    log_q, log_p = _log_probs("jsd", student_logits, teacher_logits, temperature)
    log_m = _mixed(log_p, log_q, beta)
    values = beta * _expectation(log_p, log_p - log_m, -1) + (1 - beta) * _expectation(log_q, log_q - log_m, -1)
    return reduce(_factor("jsd", values, temperature, scale), weight, reduction=reduction)


def total_variation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "none",
) -> Tensor:
    """Return the total variation distance ½ Σ_c |p_c − q_c|, between 0 and 1. Arguments and errors are those of `jsd`.

    >>> total_variation(torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, -9.0]]))
    tensor(0.5000)

    Paper: Wen et al., *f-Divergence Minimization for Sequence-Level Knowledge Distillation*, ACL 2023, arXiv
    2307.15190.
    """
    log_q, log_p = _log_probs("total_variation", student_logits, teacher_logits, temperature)
    values = 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)
    return reduce(_factor("total_variation", values, temperature, scale), weight, reduction=reduction)


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
    """Return KL(p ‖ α p + (1 − α) q): the forward divergence from a student that already holds a share of the teacher.

    Bounded by −ln α; α = 0 is the plain forward divergence. Arguments and errors are those of `jsd`, with ``alpha`` in
    [0, 1).

    >>> skew_kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(1.0988)

    Paper: Ko et al., *DistiLLM: Towards Streamlined Distillation for Large Language Models*, ICML 2024, arXiv
    2402.03898.
    """
    check_share("skew_kl", "alpha", alpha, closed=True)
    log_q, log_p = _log_probs("skew_kl", student_logits, teacher_logits, temperature)
    values = _expectation(log_p, log_p - _mixed(log_p, log_q, alpha), -1)
    return reduce(_factor("skew_kl", values, temperature, scale), weight, reduction=reduction)


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
    """Return KL(q ‖ α p + (1 − α) q), the reverse counterpart of `skew_kl`, with its arguments, errors and paper.

    At α = 0 it is 0 everywhere; at α → 1 the plain reverse divergence.

    >>> skew_reverse_kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), alpha=0.9)
    tensor(1.0988)
    """
    check_share("skew_reverse_kl", "alpha", alpha)
    log_q, log_p = _log_probs("skew_reverse_kl", student_logits, teacher_logits, temperature)
    values = _expectation(log_q, log_q - _mixed(log_p, log_q, alpha), -1)
    return reduce(_factor("skew_reverse_kl", values, temperature, scale), weight, reduction=reduction)


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
    """Return KL(r ‖ q) with r = softmax of (1 − λ) · student + λ · teacher logits, in which the student is a constant.

    A target that moves from the student (λ = 0, no gradient) to the teacher (λ = 1, the forward divergence).

    Args:
        student_logits, teacher_logits, temperature, weight, reduction, scale: as for `jsd`.
        share: λ, the teacher's share, in [0, 1].

    >>> interpolated_kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), share=0.0)
    tensor(0.)

    Paper: Shing et al., *TAID: Temporally Adaptive Interpolated Distillation*, ICLR 2025, arXiv 2501.16937.
    """
    check_unit("interpolated_kl", "share", share)
    log_q, _ = _log_probs("interpolated_kl", student_logits, teacher_logits, temperature)
    target = blend(student_logits, teacher_logits, share)
    log_r = (target / temperature).log_softmax(-1)
    values = _expectation(log_r, log_r - log_q, -1)
    return reduce(_factor("interpolated_kl", values, temperature, scale), weight, reduction=reduction)


def blend(student_logits: Tensor, teacher_logits: Tensor, share: float) -> Tensor:
    """Return (1 − λ) · student + λ · teacher, the student cut off; a side of share 0 is left out, −inf and all."""
    student, teacher = working(student_logits.detach(), teacher_logits)
    if share in (0, 1):
        return teacher if share == 1 else student
    return torch.lerp(student, teacher, share)


def _mixed(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """Return log(share · p + (1 − share) · q)."""
    if share == 0:
        return log_q
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def check_share(name: str, what: str, value: float, *, closed: bool = False) -> None:
    """Refuse a share of a mixture that leaves only one of its parts."""
    if not (0 <= value < 1 if closed else 0 < value < 1):
        span = "in [0, 1)" if closed else "strictly between 0 and 1"
        raise DistilError(f"{name}: {what}={value} must lie {span}; the ends are plain divergences: kl and reverse_kl.")


def check_unit(name: str, what: str, value: float) -> None:
    """Refuse a share outside [0, 1]."""
    if not 0 <= value <= 1:
        raise DistilError(f"{name}: {what}={value} must lie in [0, 1].")


def _factor(name: str, values: Tensor, temperature: float, scale: str) -> Tensor:
    known(name, "scale", scale, SCALES)
    return values * temperature**2 if scale == "T2" else values
