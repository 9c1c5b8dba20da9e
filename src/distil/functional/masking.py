"""Masks over feature maps: made from maps by learned units, applied to a squared error, and kept apart.

Maps are ``(B, C, H, W)``, positions p = 1 … HW; M units make *channel* masks ``(B, M, C)`` or *spatial* masks
``(B, M, H, W)``, all in (0, 1). No ``(B, M, C, H, W)`` tensor is ever made: the sums are factorised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, same_shape, shaped
from distil.functional.reduction import reduce, working

__all__ = [
    "attention_weights",
    "channel_masks",
    "cross_attention",
    "dice",
    "mask_movement",
    "maskd_detection",
    "maskd_segmentation",
    "masked_map",
    "masked_mse",
    "spatial_masks",
]

NORMALIZERS = ("sum", "literal")
READINGS = ("mean", "ratio")
FULL_ATTENTION = 4096  # positions up to which the whole (HW)² table is made


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """Return which positions of ``key`` each position of ``query`` attends to: softmax(QᵀK / √C_q) over keys.

    Args:
        query: (B, C_q, H, W).
        key: the same shape.

    Returns:
        (B, HW, HW); every row sums to 1.

    >>> attention_weights(torch.zeros(1, 2, 1, 2), torch.ones(1, 2, 1, 2))
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]])
    """
    _maps("attention_weights", query=query, key=key)
    query, key = working(query, key)
    with torch.autocast(query.device.type, enabled=False):
        scores = query.flatten(2).transpose(1, 2) @ key.flatten(2)
    return (scores / query.shape[1] ** 0.5).softmax(-1)


def cross_attention(
    query: Tensor, key: Tensor, value: Tensor, *, stride: int = 1, full_up_to: int = FULL_ATTENTION
) -> Tensor:
    """Return one map fused from two: at each position of ``query``, the mean of ``value`` by `attention_weights`.

    Single head, no output projection, no residual. Each position lies in the convex hull of the value's positions.

    Args:
        query, key: (B, C_q, H, W).
        value: (B, C, H, W).
        stride: average-pool all three by it first and resize the result back (bilinear); 1 keeps every position.
        full_up_to: more positions than this are attended to by torch's memory-saving kernel, with the same result;
            the whole table needs (HW)² numbers for each sample.

    Returns:
        (B, C, H, W).

    >>> value = torch.tensor([[[[1.0, 3.0]]]])
    >>> cross_attention(torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2), value)
    tensor([[[[2., 2.]]]])

    Paper: the fusion of ACAM-KD (ICCV 2025, arXiv 2503.06307), whose code is not public; the attention itself is that
    of Vaswani et al. 2017.
    """
    _maps("cross_attention", query=query, key=key, value=value)
    if stride < 1:
        raise DistilError(f"cross_attention: stride={stride} must be at least 1; 1 keeps every position.")
    query, key, value = working(query, key, value)
    size = value.shape[2:]
    if stride > 1:
        query, key, value = (F.avg_pool2d(m, stride, ceil_mode=True) for m in (query, key, value))
    tokens = value.flatten(2).transpose(1, 2)
    with torch.autocast(value.device.type, enabled=False):
        if tokens.shape[1] <= full_up_to:
            fused = attention_weights(query, key) @ tokens
        else:
            q, k = (m.flatten(2).transpose(1, 2) for m in (query, key))
            fused = F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), tokens.unsqueeze(1)).squeeze(1)
        fused = fused.transpose(1, 2).unflatten(2, value.shape[2:])
        return fused if stride == 1 else F.interpolate(fused, size=size, mode="bilinear", align_corners=False)


def channel_masks(features: Tensor, units: Tensor) -> Tensor:
    """Return σ(m_c · v) with v the mean of the map over positions: which channels each unit picks, in each sample.

    Args:
        features: (B, C, H, W).
        units: (M,), one number for each unit.

    Returns:
        (B, M, C) in (0, 1).

    >>> channel_masks(torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]]), torch.tensor([1.0, -1.0]))
    tensor([[[0.7311, 0.5000],
             [0.2689, 0.5000]]])

    Paper: ACAM-KD, ICCV 2025, arXiv 2503.06307.
    """
    _maps("channel_masks", features=features)
    shaped("channel_masks", "the row of units", units, ("M",), "give one number for each unit")
    features, units = working(features, units)
    return (units[:, None] * features.mean((2, 3)).unsqueeze(1)).sigmoid()


def spatial_masks(features: Tensor, units: Tensor) -> Tensor:
    """Return σ(m_s · z_p) at every position p of the map: where each unit looks, in each sample.

    Args:
        features: (B, C, H, W).
        units: (M, C).

    Returns:
        (B, M, H, W) in (0, 1).

    >>> spatial_masks(torch.tensor([[[[1.0, -1.0]], [[0.0, 9.0]]]]), torch.tensor([[1.0, 0.0]]))
    tensor([[[[0.7311, 0.2689]]]])

    Paper: Huang et al., *Masked Distillation with Receptive Tokens* (MasKD), ICLR 2023, arXiv 2205.14589; ACAM-KD reads
    a fused map in place of the teacher's.
    """
    _maps("spatial_masks", features=features)
    shaped(
        "spatial_masks",
        "the table of units",
        units,
        ("M", features.shape[1]),
        "give one weight for each channel of the map",
    )
    features, units = working(features, units)
    with torch.autocast(features.device.type, enabled=False):
        return (units @ features.flatten(2)).sigmoid().unflatten(2, features.shape[2:])


def masked_mse(
    student_map: Tensor,
    teacher_map: Tensor,
    masks: Tensor,
    *,
    normalizer: str = "sum",
    eps: float = 1e-5,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the squared error of two maps under each mask, over the size of the mask.

    With D = teacher − student, for one unit's mask m over channels (or positions):

    - channel: ``Σ_k m_k² Σ_p D_kp² / (HW · (Σ_k m_k + eps))``
    - spatial: ``Σ_p m_p² Σ_k D_kp² / (C · (Σ_p m_p + eps))``

    The mask is squared because it multiplies both maps before they are compared. "literal" multiplies by the mask's sum
    where "sum" divides by it, as ACAM-KD's formula is printed. Masks that learn from this error can lower it by
    vanishing: "sum" is linear in a mask's size, "literal" cubic.

    Args:
        student_map: (B, C, H, W), aligned to the teacher's shape.
        teacher_map: the same shape.
        masks: (B, M, C) over channels, or (B, M, H, W) over positions.
        normalizer: "sum" or "literal".
        eps: added to the mask's sum.
        weight: broadcastable to (B, M).
        reduction: "mean" (over samples and units), "sum" or "none": (B, M).

    Raises:
        DistilError: if the maps differ in shape, or the masks fit neither their channels nor their positions.

    >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])
    >>> masked_mse(student, teacher, torch.tensor([[[[1.0, 0.0]]]]), eps=0.0)
    tensor(1.)

    Paper: the distillation loss of MasKD (without its factor ½, see `maskd_segmentation`), and of ACAM-KD in the
    reading that takes its printed factor as a divisor.
    """
    known("masked_mse", "normalizer", normalizer, NORMALIZERS)
    same_shape("masked_mse", student_map, teacher_map, "align the student's map (1x1 convolution, resizing) first")
    _maps("masked_mse", student_map=student_map)
    batch, channels, height, width = student_map.shape
    student, teacher, masks = working(student_map, teacher_map, masks)
    squared = (teacher - student).square()
    if masks.ndim == 3:
        shaped("masked_mse", "the channel mask", masks, (batch, "M", channels), "make it from maps of that shape")
        error, other = squared.sum((2, 3)), height * width
    else:
        fix = "make it from maps of that shape"
        shaped("masked_mse", "the spatial mask", masks, (batch, "M", height, width), fix)
        error, other, masks = squared.sum(1).flatten(1), channels, masks.flatten(2)
    energy, size = (masks.square() * error.unsqueeze(1)).sum(2), masks.sum(2)
    values = energy / (other * (size + eps)) if normalizer == "sum" else energy * size / other
    return reduce(values, weight, reduction=reduction)


def dice(masks: Tensor, *, reading: str = "mean", weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Return how much the masks of one sample overlap; a loss that keeps units from agreeing.

    - "mean": the mean over ordered pairs i ≠ j of ``2 M_i·M_j / (‖M_i‖² + ‖M_j‖²)``; 1 for identical masks.
    - "ratio": ``2 Σ_i Σ_{j≠i} M_i·M_j / (Σ_i ‖M_i‖² + Σ_j ‖M_j‖²)``; M − 1 for identical masks.

    Both are 0 for masks that share nothing, and for a single mask.

    Args:
        masks: (B, M, …), not below 0.
        reading: "mean" or "ratio".
        weight: (B,) or broadcastable to it.
        reduction: "mean", "sum" or "none" (one value per sample).

    >>> same, apart = torch.ones(1, 3, 4), torch.eye(3).unsqueeze(0)
    >>> dice(same), dice(same, reading="ratio"), dice(apart)
    (tensor(1.), tensor(2.), tensor(0.))

    Paper: "mean" is MasKD's diversity loss (ICLR 2023), "ratio" ACAM-KD's (ICCV 2025) as printed.
    """
    known("dice", "reading", reading, READINGS)
    if masks.ndim < 3:
        raise DistilError(f"dice: the masks are {tuple(masks.shape)} but (B, M, …) is expected; keep the batch.")
    (masks,) = working(masks)
    flat = masks.flatten(2)
    with torch.autocast(masks.device.type, enabled=False):
        overlap = flat @ flat.transpose(1, 2)
    size = overlap.diagonal(dim1=1, dim2=2)
    count = masks.shape[1]
    others = ~torch.eye(count, dtype=torch.bool, device=masks.device)
    if reading == "mean":
        pairs = 2 * overlap / (size.unsqueeze(1) + size.unsqueeze(2) + 2e-12)
        values = (pairs * others).sum((1, 2)) / max(count * (count - 1), 1)
    else:
        values = (overlap * others).sum((1, 2)) / (size.sum(1) + 1e-12)
    return reduce(values, weight, reduction=reduction)


def masked_map(features: Tensor, masks: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return ``Σ_m w_m M_m ⊙ F``: the map seen through all its masks, which MasKD learns tokens by.

    Args:
        features: (B, C, H, W).
        masks: (B, M, C) or (B, M, H, W).
        weights: (B, M), one for each mask; all 1 by default.

    >>> masked_map(torch.tensor([[[[1.0, 2.0]]]]), torch.full((1, 3, 1, 2), 0.5))
    tensor([[[[1.5000, 3.0000]]]])
    """
    _maps("masked_map", features=features)
    features, masks = working(features, masks)
    if weights is not None:
        masks = masks * weights.reshape(*weights.shape, *[1] * (masks.ndim - 2)).to(masks.dtype)
    whole = masks.sum(1)
    return features * (whole[:, :, None, None] if masks.ndim == 3 else whole.unsqueeze(1))


def maskd_segmentation(
    student_map: Tensor,
    teacher_map: Tensor,
    tokens: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return MasKD's loss for segmentation: half the `masked_mse` under the masks that the tokens find in the teacher.

    Args:
        student_map: (B, C, H, W), aligned to the teacher's shape.
        teacher_map: the same shape.
        tokens: (M, C), learned on the teacher.
        weight: broadcastable to (B, M).
        reduction: "mean", "sum" or "none": (B, M).

    >>> student, teacher = torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1)
    >>> maskd_segmentation(student, teacher, torch.zeros(3, 2))
    tensor(0.2500)

    Paper: Huang et al., MasKD, ICLR 2023, arXiv 2205.14589. Differs from official code: none in value or gradient.
    """
    same_shape("maskd_segmentation", student_map, teacher_map, "align the student's map first")
    masks = spatial_masks(teacher_map, tokens)
    half = 0.5 * masked_mse(student_map, teacher_map, masks, reduction="none")
    return reduce(half, weight, reduction=reduction)


def maskd_detection(
    student_map: Tensor,
    teacher_map: Tensor,
    tokens: Tensor,
    importance: Tensor,
    *,
    customised: bool,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return MasKD's loss for one level of a detector: `masked_mse` under each mask, weighted by the mask's importance.

    ``Σ_m w_m Σ_hw (M_m (s − t))² / Σ_hw M_m``, averaged over channels. After the warm-up (1000 updates in the official
    code) the teacher's masks are multiplied by those that the same tokens find in the student, without gradient.

    Args:
        student_map: (B, C, H, W), aligned to the teacher's shape.
        teacher_map: the same shape.
        tokens: (M, C), learned on the teacher.
        importance: (B, M), rows that sum to 1.
        customised: whether the warm-up is over.
        weight: (B,) or broadcastable to it.
        reduction: "mean", "sum" or "none" (one value per sample).

    >>> student, teacher = torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1)
    >>> maskd_detection(student, teacher, torch.zeros(3, 2), torch.full((1, 3), 1 / 3), customised=False)
    tensor(0.5000)

    Paper: Huang et al., MasKD, ICLR 2023, arXiv 2205.14589. Differs from official code: a mask's sum is kept off 0.
    """
    same_shape("maskd_detection", student_map, teacher_map, "align the student's map first")
    masks = spatial_masks(teacher_map, tokens)
    shaped("maskd_detection", "the importance", importance, tuple(masks.shape[:2]), "give one weight for each mask")
    if customised:
        masks = masks * spatial_masks(student_map, tokens).detach()
    values = masked_mse(student_map, teacher_map, masks, eps=torch.finfo(torch.float32).tiny, reduction="none")
    (importance,) = working(importance)
    return reduce((values * importance).sum(1), weight, reduction=reduction)


def mask_movement(before: Tensor, after: Tensor) -> Tensor:
    """Return mean |ΔM|: how far the masks of the same samples have moved between two moments.

    >>> mask_movement(torch.zeros(1, 2, 3), torch.full((1, 2, 3), 0.25))
    tensor(0.2500)
    """
    if before.shape != after.shape:
        raise DistilError(
            f"mask_movement: the masks before are {tuple(before.shape)} and after {tuple(after.shape)}, which must be "
            "equal; compare masks of the same samples and units."
        )
    before, after = working(before, after)
    return (after - before).abs().mean()


def _maps(name: str, **maps: Tensor) -> None:
    first = next(iter(maps.values()))
    for label, tensor in maps.items():
        size = ("H", "W") if first.ndim != 4 else tuple(first.shape[2:])
        batch = "B" if first.ndim != 4 else first.shape[0]
        channels = first.shape[1] if label == "key" and first.ndim == 4 else "C"
        shaped(name, label, tensor, (batch, channels, *size), "tap a feature map, and bring maps to one shape")
