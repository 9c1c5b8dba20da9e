"""Teacher and label fused for each sample: the loss under a given ratio, and rules that give one without learning."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.functional._checks import class_index, counted_weight, known, same_shape, shaped
from distil.functional.divergence import SAME_CLASSES, kl
from distil.functional.reduction import reduce, working

__all__ = ["fused", "ratio_by_likelihood", "ratio_by_margin"]

LABELS_ON = ("logits", "probabilities")


def fused(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, ratio: Tensor, *, temperature: float = 1.0,
    labels_on: str = "logits", weight: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Return α_i · τ² KL(softmax(t_i / τ) ‖ softmax(s_i / τ)) + (1 − α_i) · CE(s_i, y_i), each sample with its own α.

    α = 0 is cross-entropy, α = 1 is KD, a constant is the usual fixed weight. Gradient flows into ``ratio`` where it
    has a graph.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        labels: (B,), class indices; a row labelled −100 weighs 0.
        ratio: (B,), in [0, 1]. A column (B, 1) is refused: it would multiply every sample with every other.
        temperature: τ > 0 of the teacher's part.
        labels_on: "logits", or "probabilities": the cross-entropy of softmax(s) taken as logits, as the released MLP
            script has it.
        weight: (B,) or broadcastable to it; "mean" divides by its sum over the labelled rows.
        reduction: "mean", "sum" or "none" (one value per row).

    Raises:
        DistilError: shapes or labels that do not fit, a temperature that is not above 0, an unknown option.

    >>> s, t, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    >>> fused(s, t, y, torch.tensor([0.0])), fused(s, t, y, torch.tensor([1.0]), temperature=2.0)
    (tensor(0.3133), tensor(0.4898))

    Paper: Hu et al., ICLR 2024, arXiv 2312.15112. The released CIFAR code multiplies (B, 1) by (B,), which is
    mean(α) · mean(KD) + mean(1 − α) · mean(CE).
    """
    name = "fused"
    known(name, "labels_on", labels_on, LABELS_ON)
    shaped(name, "student_logits", student_logits, ("B", "C"), "give one row per sample")
    same_shape(name, student_logits, teacher_logits, SAME_CLASSES)
    shaped(name, "ratio", ratio, (len(student_logits),), "give one number per sample (.squeeze(1) for a column)")
    student, teacher, share = working(student_logits, teacher_logits, ratio)
    index, counted = class_index(name, labels, student.shape[:1], student.shape[1])
    taught = kl(student, teacher, temperature=temperature, reduction="none")
    scores = student if labels_on == "logits" else student.softmax(1)
    told = F.cross_entropy(scores, index, reduction="none")
    return reduce(share * taught + (1 - share) * told, counted_weight(counted, weight), reduction=reduction)


def ratio_by_margin(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return α_i = max(0, T_y − mean of T over the other classes), (B,): trust the teacher as far as it is right.

    Args:
        teacher_logits: (B, C), C ≥ 2.
        labels: (B,), class indices; −100 gives the ratio of class 0, to be weighed 0.

    >>> ratio_by_margin(torch.tensor([[0.0, 0.0], [90.0, 0.0]]), torch.tensor([0, 1]))
    tensor([0., 0.])

    The rule "ADA" of TGeo-KD's release.
    """
    shaped("ratio_by_margin", "teacher_logits", teacher_logits, ("B", "C"), "give one row per sample")
    (teacher,) = working(teacher_logits)
    index, _ = class_index("ratio_by_margin", labels, teacher.shape[:1], teacher.shape[1])
    own = teacher.softmax(1).gather(1, index.unsqueeze(1)).squeeze(1)
    return (own - (1 - own) / max(teacher.shape[1] - 1, 1)).clamp(min=0)


def ratio_by_likelihood(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return α_i = 1 − exp(−CE_s / CE_t), (B,): the teacher counts where it knows the label better than the student.

    Gradient flows through the student's cross-entropy, as in the release; give a detached student to stop it.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C); where its cross-entropy is 0 the ratio is 1 (0 where the student's is 0 too).
        labels: (B,), class indices; −100 gives the ratio of class 0, to be weighed 0.

    >>> ratio_by_likelihood(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.6321])

    The rule "WLS" of TGeo-KD's release, after Zhou et al., *Rethinking Soft Labels for Knowledge Distillation*, ICLR
    2021, arXiv 2102.00650.
    """
    name = "ratio_by_likelihood"
    shaped(name, "student_logits", student_logits, ("B", "C"), "give one row per sample")
    same_shape(name, student_logits, teacher_logits, SAME_CLASSES)
    student, teacher = working(student_logits, teacher_logits)
    index, _ = class_index(name, labels, student.shape[:1], student.shape[1])
    theirs = F.cross_entropy(teacher, index, reduction="none")
    ours = F.cross_entropy(student, index, reduction="none")
    return -torch.expm1(-ours / theirs.clamp(min=torch.finfo(theirs.dtype).tiny))
