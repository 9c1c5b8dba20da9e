"""Comparisons of whole feature maps: what predicts them, how layers flow, context at several scales, class maps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, same_shape, shaped
from distil.functional.reduction import reduce, working

__all__ = ["class_attention", "flow_matrix", "fsp", "hierarchical_context", "initial_log_scale", "vid"]

MAP = ("B", "C", "H", "W")
POOLS: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "avg": F.adaptive_avg_pool2d,
    "max": F.adaptive_max_pool2d,
}
FSP_VARIANTS = ("code", "torchdistill", "paper")
LEVELS = (4, 2, 1)
ORDERS = ("top", "bottom")
TAP = "tap convolutional stages"


def initial_log_scale(variance: float = 5.0, *, eps: float = 1e-5) -> float:
    """Return the ρ whose variance ``log(1 + e^ρ) + eps`` is ``variance``: where :func:`vid` starts.

    >>> round(initial_log_scale(5.0), 4)
    4.9932
    """
    if not variance > eps:
        raise DistilError(f"initial_log_scale: variance={variance} must be above eps={eps}.")
    return variance - eps + math.log(-math.expm1(eps - variance))


def vid(
    student_map: Tensor,
    teacher_map: Tensor,
    log_scale: Tensor,
    *,
    eps: float = 1e-5,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return how unlikely the teacher's map is under a Gaussian around the student's: VID's bound on information.

    ``½ [(μ − t)² / v + log v]`` averaged over channels and positions, ``v = log(1 + e^ρ) + eps`` for each channel. It
    may fall below 0, and is not 0 at equality: there a smaller variance is better still.

    Args:
        student_map: (B, C, H, W), the mean μ that a regressor made of the student's map.
        teacher_map: the same shape.
        log_scale: (C,), the learned ρ; see :func:`initial_log_scale`.
        eps: the least variance.
        weight: (B,) or broadcastable to it.
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if the shapes differ or ρ has another width.

    >>> vid(torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1), torch.full((2,), initial_log_scale(1.0)))
    tensor(0.5000)

    Paper: Ahn et al., *Variational Information Distillation for Knowledge Transfer*, CVPR 2019, arXiv 1904.05835.
    """
    same_shape("vid", student_map, teacher_map, "put a regressor on the student, and bring both to one size")
    shaped("vid", "the student's map", student_map, MAP, TAP)
    shaped("vid", "log_scale", log_scale, (student_map.shape[1],), "give one value per channel")
    student, teacher, rho = working(student_map, teacher_map, log_scale)
    variance = (F.softplus(rho) + eps).reshape(1, -1, 1, 1)
    values = 0.5 * ((student - teacher).square() / variance + variance.log()).flatten(1).mean(1)
    return reduce(values, weight, reduction=reduction)


def flow_matrix(first_map: Tensor, second_map: Tensor, *, pool: str = "avg") -> Tensor:
    """Return the inner products of two layers' channels, averaged over positions: the flow from one to the other.

    ``G_ij = 1/(H·W) Σ_hw second_i · first_j``; the larger map is pooled down to the smaller.

    Args:
        first_map: (B, C_1, H_1, W_1).
        second_map: (B, C_2, H_2, W_2) of a layer further on.
        pool: "avg" or "max".

    Returns:
        (B, C_2, C_1).

    >>> flow_matrix(torch.ones(1, 2, 2, 2), 3 * torch.ones(1, 1, 1, 1))
    tensor([[[3., 3.]]])

    Paper: Yim et al., *A Gift from Knowledge Distillation*, CVPR 2017.
    """
    known("flow_matrix", "pool", pool, tuple(POOLS))
    shaped("flow_matrix", "the first map", first_map, MAP, TAP)
    shaped("flow_matrix", "the second map", second_map, (first_map.shape[0], "C", "H", "W"), TAP)
    first, second = working(first_map, second_map)
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    first, second = (m if tuple(m.shape[2:]) == size else POOLS[pool](m, size) for m in (first, second))
    with torch.autocast(first.device.type, enabled=False):
        return second.flatten(2) @ first.flatten(2).mT / (size[0] * size[1])


def fsp(
    student_flow: Tensor,
    teacher_flow: Tensor,
    *,
    variant: str = "code",
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return how far two flows between layers are apart; sum over pairs of layers yourself.

    "code" (RepDistiller; weight 50): the mean of (G_s − G_t)²; "paper": its sum, the squared Frobenius norm;
    "torchdistill": Σ_j ‖(G_s − G_t)_·j‖₂ with one norm for each channel of the second layer.

    Args:
        student_flow: (B, C_2, C_1) of :func:`flow_matrix`.
        teacher_flow: the same shape.
        variant: "code", "paper" or "torchdistill"; the latter two pool flows by their maximum.
        weight: (B,) or broadcastable to it.
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if the shapes differ: the widths of the layers must be equal.

    >>> left, right = torch.zeros(1, 2, 2), torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    >>> [float(fsp(left, right, variant=v)) for v in ("code", "paper", "torchdistill")]
    [6.25, 25.0, 5.0]

    Paper: Yim et al., *A Gift from Knowledge Distillation*, CVPR 2017.
    """
    known("fsp", "variant", variant, FSP_VARIANTS)
    same_shape("fsp", student_flow, teacher_flow, "tap layers of equal widths, or put a 1x1 convolution on the student")
    shaped("fsp", "the student's flow", student_flow, ("B", "C_2", "C_1"), "make it with flow_matrix")
    student, teacher = working(student_flow, teacher_flow)
    gap = student - teacher
    if variant == "torchdistill":
        values = torch.linalg.vector_norm(gap, dim=2).sum(1)
    else:
        squared = gap.square().flatten(1)
        values = squared.mean(1) if variant == "code" else squared.sum(1)
    return reduce(values, weight, reduction=reduction)


def hierarchical_context(
    student_map: Tensor, teacher_map: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return ReviewKD's loss of one level: the error of the map, and of it pooled to 4x4, 2x2 and 1x1.

    ``Σ_k w_k · mean (pool_k(s) − pool_k(t))² / Σ_k w_k`` with w = 1, ½, ¼, … over the sizes used; a size not below the
    map's height is left out, and the weights are halved on used sizes alone.

    Args:
        student_map: (B, C, H, W), fused and brought to the teacher's shape.
        teacher_map: the same shape.
        weight: (B,) or broadcastable to it.
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if the shapes differ.

    >>> hierarchical_context(torch.zeros(1, 1, 2, 2), torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]]))
    tensor(0.7500)

    Paper: Chen et al., *Distilling Knowledge via Knowledge Review*, CVPR 2021, arXiv 2104.09044.
    """
    same_shape("hierarchical_context", student_map, teacher_map, "fuse the student's map to the teacher's shape")
    shaped("hierarchical_context", "the student's map", student_map, MAP, TAP)
    student, teacher = working(student_map, teacher_map)
    gap, share, total = student - teacher, 1.0, 1.0
    values = gap.square().flatten(1).mean(1)
    for size in LEVELS:
        if size < gap.shape[2]:
            share /= 2
            total += share
            # Pooling is linear: the pooled difference is the difference of the pooled maps.
            values = values + share * F.adaptive_avg_pool2d(gap, (size, size)).square().flatten(1).mean(1)
    return reduce(values / total, weight, reduction=reduction)


def class_attention(
    student_maps: Tensor,
    teacher_maps: Tensor,
    *,
    size: int = 2,
    normalise: bool = True,
    binarise: bool = False,
    classes: int = 0,
    order: str = "top",
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return how far class activation maps are apart, after pooling to ``size`` x ``size``: CAT-KD's loss.

    Each class's pooled map is scaled to length 1 (zeros stay zeros), then the mean squared difference. With
    ``normalise`` it does not change under a positive scale of any class's map.

    Args:
        student_maps: (B, N, H_s, W_s), a map for each class (see :func:`distil.functional.class_maps`).
        teacher_maps: (B, N, H_t, W_t).
        size: the side to which both are pooled.
        normalise: scale each class's map to length 1 over positions.
        binarise: replace the teacher's map by where it is above the mean of its absolute values, before pooling.
        classes: compare so many classes of each sample only, in the teacher's order of scores; 0 compares all.
        order: "top" (the highest scores) or "bottom".
        weight: (B,) or broadcastable to it.
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if the batches or the numbers of classes differ.

    >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    >>> class_attention(left, right, size=2)
    tensor(0.5000)

    Paper: Guo et al., *Class Attention Transfer Based Knowledge Distillation*, CVPR 2023, arXiv 2304.12777.
    """
    known("class_attention", "order", order, ORDERS)
    shaped("class_attention", "the student's maps", student_maps, ("B", "N", "H", "W"), "give a map for each class")
    wanted = (*student_maps.shape[:2], "H", "W")
    shaped("class_attention", "the teacher's maps", teacher_maps, wanted, "both must score the same classes")
    if size < 1 or not 0 <= classes <= student_maps.shape[1]:
        raise DistilError(
            f"class_attention: size={size} must be at least 1, and classes={classes} lie in 0 … {wanted[1]}."
        )
    student, teacher = working(student_maps, teacher_maps)
    ranking = teacher.mean((2, 3)).argsort(dim=1, descending=order == "top")[:, :classes]
    if binarise:
        teacher = (teacher > teacher.abs().mean((2, 3), keepdim=True)).to(teacher.dtype)
    student, teacher = (F.adaptive_avg_pool2d(m, (size, size)).flatten(2) for m in (student, teacher))
    if normalise:
        student, teacher = F.normalize(student, dim=2), F.normalize(teacher, dim=2)
    values = (student - teacher).square().mean(2)
    return reduce((values.gather(1, ranking) if classes else values).mean(1), weight, reduction=reduction)
