"""Ranking losses: the student learns an order, not probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import class_index, counted_weight, known, positive, same_shape
from distil.functional.divergence import standardise as standardised
from distil.functional.reduction import reduce, working

__all__ = ["plackett_luce", "teacher_ranking"]

WEIGHTS = ("teacher", "uniform", "position", "first-only")
STANDARDISE = (None, "teacher", "both")


def teacher_ranking(teacher_logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the classes, best first: the label, then the others by falling teacher logit (ties: lower index first).

    Args:
        teacher_logits: (..., C).
        labels: (...), class indices; without them, or where a row is labelled −100, the order is the teacher's alone.

    Returns:
        (..., C) int64, each row a permutation.

    >>> teacher_ranking(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2]))
    tensor([[2, 1, 0]])
    """
    (keys,) = working(teacher_logits.detach())
    if labels is not None:
        index, counted = class_index("teacher_ranking", labels, keys.shape[:-1], keys.shape[-1])
        first = torch.where(counted, torch.inf, keys.gather(-1, index.unsqueeze(-1)).squeeze(-1))
        keys = keys.scatter(-1, index.unsqueeze(-1), first.to(keys.dtype).unsqueeze(-1))
    return keys.argsort(dim=-1, descending=True, stable=True)


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
    """Return how unlikely the student makes one ranking: the true label first, then the teacher's order.

    Σ_k α_k [logsumexp_{l ≥ k} s_{π_l} − s_{π_k}] with π = `teacher_ranking`. It replaces the cross-entropy, so no
    mixing weight is to be tuned; it is not 0 at student = teacher, and s is never divided by a temperature. No
    gradient reaches the teacher. O(C log C).

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        labels: (...), class indices; a row labelled −100 weighs 0. None only with ``label_first=False``.
        teacher_temperature: of α; 1, or about 4 where the teacher is nearly one-hot.
        weights: α by rank. "teacher": softmax(t / τ) at each rank (PLD) · "uniform": 1/C (ListMLE / C) · "position":
            2^(C−k) − 1, scaled to sum 1 · "first-only": (1, 0, …), which is cross-entropy.
        label_first: False ranks by the teacher alone (a control, not in the paper).
        standardise: None, "teacher" or "both": `standardise` the logits first (an ablation; it hurts).
        weight: broadcastable to the rows; "mean" divides by its sum over the labelled rows.
        reduction: "mean", "sum" or "none" (one value per row).

    Raises:
        DistilError: if shapes, labels or options do not fit.

    >>> plackett_luce(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1]), weights="first-only")
    tensor(0.6931)

    Paper: Bassam, Zhu, Bian, *PLD: A Choice-Theoretic List-Wise Knowledge Distillation*, NeurIPS 2025, arXiv
    2506.12542; "teacher" is the loss its appendix prints. Its "pListMLE" weights, as printed, equal the teacher's, so
    "position" is the classical decreasing sequence: this project's reading.
    """
    name = "plackett_luce"
    same_shape(name, student_logits, teacher_logits, "give both models the same classes in the same order")
    positive(name, "teacher_temperature", teacher_temperature)
    known(name, "weights", weights, WEIGHTS)
    known(name, "standardise", standardise, STANDARDISE)
    if labels is None and label_first:
        raise DistilError(f"{name}: labels are missing but rank 1 is the label's; give them, or label_first=False.")
    student, teacher = working(student_logits, teacher_logits.detach())
    if standardise is not None:
        teacher = standardised(teacher)
    if standardise == "both":
        student = standardised(student)
    if labels is not None:
        _, counted = class_index(name, labels, student.shape[:-1], student.shape[-1])
        weight = counted_weight(counted, weight)

    ranking = teacher_ranking(teacher, labels if label_first else None)
    ranked = student.gather(-1, ranking)
    remaining = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    values = (_alpha(teacher / teacher_temperature, ranking, weights) * (remaining - ranked)).sum(-1)
    return reduce(values, weight, reduction=reduction)


def _alpha(scores: Tensor, ranking: Tensor, weights: str) -> Tensor:
    """Return the weight of each rank, best first, broadcastable to (..., C)."""
    classes = scores.shape[-1]
    if weights == "teacher":
        return scores.softmax(-1).gather(-1, ranking)
    if weights == "uniform":
        return scores.new_full((classes,), 1 / classes)
    if weights == "first-only":
        return (torch.arange(classes, device=scores.device) == 0).to(scores.dtype)
    # 2^(C−k) − 1 over 2^C, which does not overflow with many classes.
    rank = torch.arange(1, classes + 1, device=scores.device, dtype=scores.dtype)
    gain = torch.exp2(-rank) - 2.0**-classes
    return gain / gain.sum().clamp(min=torch.finfo(scores.dtype).tiny)
