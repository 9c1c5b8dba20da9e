"""Class prototypes: the teacher's mean embedding of each class, and losses that pull towards them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import class_index, counted_weight, known, shaped
from distil.functional.reduction import reduce, working

__all__ = ["ClassMeans", "class_means", "direction_and_length", "directional_norm"]

PARTS = ("both", "cosine", "norm")


class ClassMeans:
    """Mean embedding of each class, gathered batch by batch in one pass over the data.

    m_c = mean of the embeddings labelled c. Sums are kept in float64 (float32 where the device has none) and can be
    added over processes: ``sums`` is (C, D), ``counts`` is (C,).

    Args:
        classes: how many classes there are, or their names, which error messages then use.
        decimals: round each value before and after averaging; 4 repeats the official files of ND. None: no rounding.

    Raises:
        DistilError: from `compute`, naming each class that never appeared; from `update`, if shapes or labels do not
            fit.

    >>> means = ClassMeans(2)
    >>> means.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]))
    >>> means.update(torch.tensor([[0.0, 5.0], [9.0, 9.0]]), torch.tensor([1, -100]))
    >>> means.compute()
    tensor([[2., 0.],
            [0., 5.]])
    """

    def __init__(self, classes: int | Sequence[str], *, decimals: int | None = None) -> None:
        self.names = [str(c) for c in (range(classes) if isinstance(classes, int) else classes)]
        self.decimals = decimals
        self.sums: Tensor | None = None
        self.counts: Tensor | None = None
        self._dtype = torch.float32

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add ``features`` (..., D) labelled by ``labels`` (...); −100 is left out."""
        (features,) = working(features)
        index, counted = class_index("ClassMeans", labels, features.shape[:-1], len(self.names))
        if self.sums is None or self.counts is None:
            self._dtype = features.dtype
            exact = torch.float32 if features.device.type == "mps" else torch.float64
            self.sums = features.new_zeros((len(self.names), features.shape[-1]), dtype=exact)
            self.counts = features.new_zeros(len(self.names), dtype=exact)
        width = self.sums.shape[1]
        shaped("ClassMeans", "the batch of features", features, (*labels.shape, width), "keep one tap for the pass")
        rows = _rounded(features.flatten(0, -2).to(self.sums), self.decimals)
        share = counted.flatten().to(self.counts)
        self.sums.index_add_(0, index.flatten(), rows * share.unsqueeze(1))
        self.counts.index_add_(0, index.flatten(), share)

    def compute(self) -> Tensor:
        """Return the (C, D) means in the precision of the features."""
        if self.sums is None or self.counts is None:
            raise DistilError("ClassMeans: no batch has been seen; pass the training set through update() first.")
        missing = [name for name, seen in zip(self.names, (self.counts > 0).tolist()) if not seen]
        if missing:
            shown = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
            raise DistilError(
                f"ClassMeans: no sample of class {shown} was seen, so it has no mean; "
                "use data that holds every class, or drop the class."
            )
        return _rounded(self.sums / self.counts.unsqueeze(1), self.decimals).to(self._dtype)


def _rounded(values: Tensor, decimals: int | None) -> Tensor:
    return values if decimals is None else values.round(decimals=decimals)


def class_means(
    features: Tensor, labels: Tensor, classes: int | Sequence[str], *, decimals: int | None = None
) -> Tensor:
    """Return the (C, D) mean feature of each class; `ClassMeans` does the same over many batches.

    >>> class_means(torch.tensor([[1.0], [2.0], [7.0]]), torch.tensor([0, 0, 1]), 2)
    tensor([[1.5000],
            [7.0000]])
    """
    means = ClassMeans(classes, decimals=decimals)
    means.update(features, labels)
    return means.compute()


def directional_norm(
    student_emb: Tensor,
    teacher_emb: Tensor,
    class_means: Tensor,
    labels: Tensor,
    *,
    part: str = "both",
    step: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the ND loss: point along the teacher's class mean, and be at least as long as the teacher.

    With e the unit class mean of the row's label:
    "both": 1 − ⟨s, e⟩ / max(‖s‖, ‖t‖), in 0 … 2 · "cosine": 1 − ⟨s, e⟩ / ‖s‖ · "norm": (‖s‖ − sg ‖s‖ − step)², whose
    value is constant and whose gradient −2·step·s/‖s‖ lengthens the embedding. Added to any base loss, with no warm-up.
    No gradient reaches the teacher or the means.

    Args:
        student_emb: (B, D), projected if its width differs from the teacher's.
        teacher_emb: (B, D).
        class_means: (C, D), from `ClassMeans`.
        labels: (B,), class indices; a row labelled −100 weighs 0.
        part: "both", or an ablation: "cosine", "norm".
        step: of "norm" only.
        weight: (B,) or broadcastable to it; "mean" divides by its sum over the labelled rows.
        reduction: "mean", "sum" or "none" (one value per row).

    Raises:
        DistilError: if shapes or labels do not fit, or a needed class mean is zero (on the CPU; elsewhere such a row
            gives 1 without a gradient, since a check would wait for the device).

    >>> mean, label = torch.tensor([[0.0, 2.0]]), torch.tensor([0])
    >>> directional_norm(torch.tensor([[0.0, 9.0]]), torch.tensor([[1.0, 0.0]]), mean, label)
    tensor(0.)

    Paper: Wang et al., *Improving Knowledge Distillation via Regularizing Feature Norm and Direction*, ECCV 2024, arXiv
    2305.17007. At ‖s‖ = ‖t‖ the official code takes the student's norm; so does this. "norm" follows the step form of
    the domain-adaptation work the paper compares with (SAFN): this project's reading.
    """
    name = "directional_norm"
    known(name, "part", part, PARTS)
    shaped(name, "student_emb", student_emb, ("B", "D"), "give one row per sample")
    shaped(name, "teacher_emb", teacher_emb, tuple(student_emb.shape), "project the student to the teacher's width")
    shaped(name, "class_means", class_means, ("C", student_emb.shape[1]), "take the means of the same tap")
    student, teacher, means = working(student_emb, teacher_emb.detach(), class_means.detach())
    index, counted = class_index(name, labels, student.shape[:1], len(means))

    length = torch.linalg.vector_norm(student, dim=1)
    if part == "norm":
        values = (length - length.detach() - step).square()
        return reduce(values, counted_weight(counted, weight), reduction=reduction)
    tiny = torch.finfo(student.dtype).tiny
    target = means[index]
    target_length = torch.linalg.vector_norm(target, dim=1, keepdim=True)
    if target.device.type == "cpu" and bool((counted & (target_length[:, 0] == 0)).any()):
        lost = int(labels[counted & (target_length[:, 0] == 0)][0])
        raise DistilError(
            f"{name}: the mean of class {lost} is zero, which has no direction; build the means from data that holds "
            "every class, with a teacher whose embedding of it is not zero everywhere (a dead layer)."
        )
    if part == "both":
        longest = torch.linalg.vector_norm(teacher, dim=1)
        length = torch.where(length >= longest, length, longest)
    along = (student * (target / target_length.clamp(min=tiny))).sum(1)
    return reduce(1 - along / length.clamp(min=tiny), counted_weight(counted, weight), reduction=reduction)


def direction_and_length(
    student_emb: Tensor, teacher_emb: Tensor, class_means: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return, for each sample, cos(s, m_y) and ‖s‖ / ‖t‖: what `directional_norm` is to raise.

    Args:
        student_emb: (B, D), projected where widths differ.
        teacher_emb: (B, D).
        class_means: (C, D).
        labels: (B,), class indices.

    >>> s, t, m = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    >>> direction_and_length(s, t, m, torch.tensor([0]))
    (tensor([1.]), tensor([3.]))
    """
    student, teacher, means = working(student_emb, teacher_emb, class_means)
    cosine = torch.cosine_similarity(student, means[labels], dim=1)
    return cosine, student.norm(dim=1) / teacher.norm(dim=1).clamp(min=torch.finfo(teacher.dtype).tiny)
