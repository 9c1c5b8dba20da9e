"""Comparisons of intermediate features: regression of hints, and attention maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, positive, same_shape, shaped
from distil.functional.reduction import reduce, working

__all__ = ["attention_map", "attention_transfer", "mse", "pool_match"]

VARIANTS = ("code", "paper")


def mse(
    student_features: Tensor,
    teacher_features: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the mean squared difference of two features of one shape, e.g. a regressed hint and the teacher's map.

    (1/D) Σ_d (s_d − t_d)² for each sample, D being everything but the first axis.

    Args:
        student_features: (B, ...), after the adapter if the widths differ.
        teacher_features: the same shape.
        weight: (B,) or broadcastable to it.
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if the shapes differ, or there is no batch axis.

    >>> mse(torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 3.0]]), reduction="none")
    tensor([1., 3.])

    Paper: Romero et al., *FitNets: Hints for Thin Deep Nets*, ICLR 2015, arXiv 1412.6550.
    """
    same_shape("mse", student_features, teacher_features, "put a regressor on the student, or tap stages of one size")
    if student_features.ndim == 0:
        raise DistilError("mse: the features are (), a single number, but (batch, ...) is expected; keep the batch.")
    student, teacher = working(student_features, teacher_features)
    squared = (student - teacher).square()
    values = squared if squared.ndim == 1 else squared.flatten(1).mean(1)
    return reduce(values, weight, reduction=reduction)


def pool_match(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps at the smaller of the two sizes, the larger one average-pooled down to it.

    Works per axis, so a wide map meets a tall one at the smaller height and the smaller width; channels may differ.

    >>> [tuple(m.shape) for m in pool_match(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4))]
    [(2, 3, 4, 4), (2, 5, 4, 4)]

    The rule of the CIFAR-100 reference code (mdistiller), there for square maps only.
    """
    fix = "tap convolutional stages, or reshape tokens to a grid"
    shaped("pool_match", "the student's map", student_map, ("B", "C", "H", "W"), fix)
    shaped("pool_match", "the teacher's map", teacher_map, (student_map.shape[0], "C", "H", "W"), fix)
    student, teacher = working(student_map, teacher_map)
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    student, teacher = (m if tuple(m.shape[2:]) == size else F.adaptive_avg_pool2d(m, size) for m in (student, teacher))
    return student, teacher


def attention_map(features: Tensor, *, p: float = 2, variant: str = "code") -> Tensor:
    """Return where a map is active: channels merged, positions flattened, scaled to length 1; 0 for an all-zero map.

    "code": mean_c F^p with p a whole number, signs kept; "paper": Σ_c |F|^p. They agree for even p.

    Args:
        features: (B, C, H, W) or any (B, C, ...).
        p: above 0; a larger one looks at the strongest activations only.
        variant: "code" or "paper".

    Returns:
        (B, H·W), each row of Euclidean length 1 (or all 0).

    >>> attention_map(torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]]))
    tensor([[0.9138, 0.4061]])
    """
    known("attention_map", "variant", variant, VARIANTS)
    positive("attention_map", "p", p)
    if features.ndim < 3:
        raise DistilError(
            f"attention_map: the map is {tuple(features.shape)} but (B, C, H, W) is expected; tap a stage."
        )
    if variant == "code" and p != int(p):
        raise DistilError(f"attention_map: p={p} with variant='code' keeps signs; use a whole p, or variant='paper'.")
    (features,) = working(features)
    if variant == "code":
        energy = features.pow(int(p)).mean(1)
    else:
        # |0|^p has no finite slope below p = 1: such positions are constants.
        size = features.abs()
        energy = torch.where(size > 0, torch.where(size > 0, size, torch.ones_like(size)).pow(p), size).sum(1)
    return F.normalize(energy.flatten(1), dim=1)


def attention_transfer(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    p: float = 2,
    variant: str = "code",
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return how differently two stages look at the image; widths may differ, sizes meet by `pool_match`.

    "code" (the published figures; weight 1000): mean over positions of (Q_s − Q_t)²; "paper": ‖Q_s − Q_t‖₂. One value
    per sample; sum over stages yourself. Unchanged by a positive scale of either map.

    Args:
        student_map: (B, C_s, H_s, W_s).
        teacher_map: (B, C_t, H_t, W_t).
        p: power of `attention_map`.
        variant: "code" or "paper".
        weight: (B,) or broadcastable to it.
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if a map has no (B, C, H, W) shape, or the batches differ.

    >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    >>> attention_transfer(left, right), attention_transfer(left, right, variant="paper")
    (tensor(1.), tensor(1.4142))

    Paper: Zagoruyko, Komodakis, *Paying More Attention to Attention*, ICLR 2017, arXiv 1612.03928.
    """
    student, teacher = pool_match(student_map, teacher_map)
    gap = attention_map(student, p=p, variant=variant) - attention_map(teacher, p=p, variant=variant)
    values = gap.square().mean(1) if variant == "code" else torch.linalg.vector_norm(gap, dim=1)
    return reduce(values, weight, reduction=reduction)
