"""A student compared with a teacher whose belief in the label is strengthened."""

from __future__ import annotations

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import IGNORE, class_index, counted_weight, known, positive, same_shape
from distil.functional.reduction import reduce, working

__all__ = ["ENHANCEMENTS", "dominant_labels", "enhanced_cross_entropy", "labelled_rows"]

ENHANCEMENTS = ("code", "target_only", "off")
"""What is raised to the exponent: all teacher probabilities, that of the label alone, or none."""


def enhanced_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    gamma: float = 1.0,
    enhance: str = "code",
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the soft cross-entropy that pushes harder towards the label where the teacher is sure of it.

    −Σ_c [(p_c + m_c)^γ − m_c] · log q_c with p = softmax(teacher / T), q = softmax(student / T) and m the one-hot
    label, without a factor T². The label's coefficient is (1 + p)^γ − 1, the others' p^γ. With γ = 1 it is the soft
    cross-entropy, whatever the label. No gradient reaches the teacher.

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        labels: class indices (...), where -100 has no label and does not count; or shares (..., C) as floats, of which
            the largest is taken. May be ``None`` with ``enhance="off"``, which reads no label and counts every row.
        gamma: the exponent, above 0; 1 to 2 is usual.
        enhance: "code" (as above), "target_only" (the others keep p, the formula of the paper's text) or "off" (p for
            all: γ = 1).
        temperature: above 0.
        weight: broadcastable to the rows; "mean" divides by its sum.
        reduction: "mean", "sum" or "none" (one value per row).

    Raises:
        DistilError: if shapes differ, gamma or temperature is not above 0, a label is out of range or missing, or an
            option is unknown.

    >>> s, t, y = torch.zeros(1, 2), torch.tensor([[30.0, -30.0]]), torch.tensor([0])
    >>> [round(float(enhanced_cross_entropy(s, t, y, gamma=g)), 3) for g in (1, 2)]  # log 2 times 2^γ − 1
    [0.693, 2.079]

    Paper: Hao et al., *One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation*,
    NeurIPS 2023, arXiv 2310.19444. Differs from official code: log-softmax in place of log of softmax; rows without a
    label.
    """
    name = "enhanced_cross_entropy"
    same_shape(name, student_logits, teacher_logits, "give both models the same classes in the same order")
    known(name, "enhance", enhance, ENHANCEMENTS)
    positive(name, "temperature", temperature)
    positive(name, "gamma", gamma)
    s, t = working(student_logits, teacher_logits.detach())
    log_q, log_p = (s / temperature).log_softmax(-1), (t / temperature).log_softmax(-1)
    share = log_p.exp()
    if enhance != "off":
        if labels is None:
            raise DistilError(f"{name}: enhance={enhance!r} needs labels; give them, or take enhance='off'.")
        index, counted = _targets(name, labels, log_q.shape)
        weight = counted_weight(counted, weight)
        own = torch.expm1(gamma * torch.log1p(share.gather(-1, index)))
        share = ((gamma * log_p).exp() if enhance == "code" else share).scatter(-1, index, own)
    # A class that gets no share adds 0, even where the student's logarithm is infinite.
    values = (share * torch.where(share > 0, -log_q, torch.zeros_like(log_q))).sum(-1)
    return reduce(values, weight, reduction=reduction)


def labelled_rows(labels: Tensor) -> Tensor:
    """Return which rows have a label: (...) of class indices (-100 has none), or of shares (..., C) as floats.

    >>> labelled_rows(torch.tensor([3, -100])), labelled_rows(torch.tensor([[0.0, 0.0], [0.2, 0.8]]))
    (tensor([ True, False]), tensor([False,  True]))
    """
    return labels.sum(-1) > 0 if labels.is_floating_point() else labels != IGNORE


def dominant_labels(labels: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Return the label with the larger part of each sample mixed from two: its own from one half upwards.

    Args:
        labels: class indices (B,), or -100.
        partner: of the samples mixed in.
        share: the part (B,) of the own label, 0 to 1.

    >>> dominant_labels(torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([0.9, 0.4]))
    tensor([0, 3])
    """
    same_shape("dominant_labels", labels, partner, "give one partner's label for each sample")
    return torch.where(share >= 0.5, labels, partner)


def _targets(name: str, labels: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return the label's place in each row, with an axis of one for the classes, and which rows have one."""
    if labels.is_floating_point():
        if labels.shape != shape:
            raise DistilError(
                f"{name}: soft labels are {tuple(labels.shape)} and the logits {tuple(shape)}; give one share for "
                "every class, or class indices."
            )
        return labels.argmax(-1, keepdim=True), labelled_rows(labels)
    index, counted = class_index(name, labels, shape[:-1], shape[-1])
    return index.unsqueeze(-1), counted
