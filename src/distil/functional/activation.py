"""Where a classifier that pools its last map finds a class: activation maps, the share of a crop, and what may move.

All of it needs a head that reads the average of the last map over positions; then the logit without its bias is the
average of the class's map, and no gradient is needed to find it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional._checks import class_index, known, shaped
from distil.functional.crops import cropped
from distil.functional.reduction import working

__all__ = ["REGIONS", "SCALES", "activation_map", "crop_activation", "masked_step", "min_max", "soft_mask"]

REGIONS = ("non-critical", "critical-only", "all-pixels")
SCORES = ("mean", "share")
SCALES = ("min-max", "max", "none")


def activation_map(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    size: tuple[int, int] | None = None,
    scale: str = "min-max",
) -> Tensor:
    """Return where each image shows the class of its label, from 0 (least) to 1 (most).

    ``ReLU(Σ_k w_yk A_k)``, resized bilinearly to ``size`` and then brought to [0, 1] image by image
    (:func:`min_max`). For a head on the pooled map it is Grad-CAM up to a positive factor, without a backward pass.

    Args:
        features: A, [B, K, h, w], the map that the head pools.
        weight: [C, K], the head's.
        labels: [B], the class asked of each image.
        size: height and width of the result; h and w by default.
        scale: "min-max"; "max" (each map by its greatest value, so that where nothing is 0 the least stays above 0);
            or "none" (in units of the logit, without an upper end).

    Returns:
        [B, H, W], detached.

    Raises:
        DistilError: shapes that do not fit, an unknown scale, or an image without a label.

    >>> features = torch.tensor([[[[2.0, 0.0], [1.0, -1.0]]]])
    >>> activation_map(features, torch.tensor([[1.0]]), torch.tensor([0]))
    tensor([[[1.0000, 0.0000],
             [0.5000, 0.0000]]])

    Papers: Zhou et al., *Learning Deep Features for Discriminative Localization*, CVPR 2016, arXiv 1512.04150;
    Selvaraju et al., *Grad-CAM*, ICCV 2017, arXiv 1610.02391. The scaling to [0, 1] is this project's reading of
    NRR-DD (CVPR 2025, arXiv 2503.18267), whose code could not be had.
    """
    fix = "name the map that the classifier pools, e.g. taps={'map': 'layer4'}"
    known("activation_map", "scale", scale, SCALES)
    shaped("activation_map", "the map", features, ("B", "K", "h", "w"), fix)
    shaped("activation_map", "the classifier's weight", weight, ("C", features.shape[1]), fix)
    classes, counted = class_index("activation_map", labels, features.shape[:1], len(weight))
    if not bool(counted.all()):
        raise DistilError("activation_map: an image without a label (-100) has no class to look for; label them all.")
    features, weight = working(features.detach(), weight.detach())
    with torch.autocast(features.device.type, enabled=False):
        found = torch.einsum("bk,bkhw->bhw", weight[classes].to(features), features).relu()
    if size is not None and tuple(size) != tuple(found.shape[1:]):
        found = F.interpolate(found[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
    if scale == "max":
        high = found.amax((1, 2), keepdim=True)
        return found / torch.where(high > 0, high, torch.ones_like(high))
    return min_max(found) if scale == "min-max" else found


def min_max(maps: Tensor) -> Tensor:
    """Return maps scaled so that each one's least value is 0 and its greatest 1; a constant map gives zeros.

    Args:
        maps: [B, H, W].

    >>> min_max(torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]]]))
    tensor([[[0., 1.]],
    <BLANKLINE>
            [[0., 0.]]])
    """
    shaped("min_max", "the maps", maps, ("B", "H", "W"), "give one map for each image")
    (maps,) = working(maps)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, torch.ones_like(span)), 0.0)


def crop_activation(maps: Tensor, boxes: Tensor, *, side: int, score: str = "mean", threshold: float = 0.5) -> Tensor:
    """Return how much of each crop is the object: the mean of its activation map, or the share of pixels above a bar.

    A map is cropped as its image is (:func:`distil.functional.cropped`).

    Args:
        maps: [B, H, W], as :func:`activation_map` gives them.
        boxes: [B, m, 4] (left, top, width, height, in shares of the image), m crops of each image.
        side: of the crops, in pixels.
        score: "mean" of the map over the crop, or the "share" of its pixels at or above ``threshold``.
        threshold: of "share".

    Returns:
        [B, m] in [0, 1].

    Raises:
        DistilError: shapes that do not fit, an unknown score.

    >>> maps = torch.tensor([[[1.0, 0.0], [0.5, 0.0]]])
    >>> crop_activation(maps, torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5]]]), side=1)
    tensor([[0.3750, 1.0000]])

    Paper: NRR-DD, CVPR 2025, arXiv 2503.18267, where a crop is chosen by its "CAM ratio"; both scores are readings.
    """
    known("crop_activation", "score", score, SCORES)
    shaped("crop_activation", "the maps", maps, ("B", "H", "W"), "give one map for each image")
    shaped("crop_activation", "the boxes", boxes, (len(maps), "m", 4), "give four shares for each crop")
    each = boxes.shape[1]
    found = cropped(maps[:, None].repeat_interleave(each, 0), boxes.flatten(0, 1), side=side).flatten(1)
    if score == "share":
        found = (found >= threshold).to(found)
    return found.mean(1).view(len(maps), each)


def soft_mask(maps: Tensor, *, threshold: float = 0.5, region: str = "non-critical") -> Tensor:
    """Return how far each pixel may move, detached: the less it shows the class, the further.

    "non-critical": ``M = max(0, ε − C)``, 0 on the critical pixels C ≥ ε and at most ε; with ε ≤ 0 nothing moves.
    For comparison, "critical-only" is ``max(0, C − ε)`` and "all-pixels" 1 everywhere.

    Args:
        maps: C, [B, H, W] in [0, 1] (:func:`distil.functional.activation_map`).
        threshold: ε.
        region: see above.

    Returns:
        [B, 1, H, W], to be multiplied with all channels of an image (:func:`distil.functional.masked_step`).

    >>> soft_mask(torch.tensor([[[0.0, 0.4, 0.5, 1.0]]]), threshold=0.5).flatten()
    tensor([0.5000, 0.1000, 0.0000, 0.0000])

    Paper: NRR-DD, CVPR 2025, arXiv 2503.18267 (the first; the others are this project's ablations).
    """
    known("soft_mask", "region", region, REGIONS)
    shaped("soft_mask", "the maps", maps, ("B", "H", "W"), "give one map for each image")
    (maps,) = working(maps.detach())
    if region == "all-pixels":
        found = torch.ones_like(maps)
    else:
        found = (threshold - maps if region == "non-critical" else maps - threshold).clamp(min=0)
    return found[:, None]


def masked_step(
    before: Tensor, after: Tensor, mask: Tensor, *, low: Tensor | float = 0.0, high: Tensor | float = 1.0
) -> Tensor:
    """Return pixels after the masked part of a step: ``x + M · (x' − x)``, kept within the valid range.

    It is the finished step that is masked, since an adaptive optimizer divides by the size of the gradients it has
    seen: a mask on the gradient would be divided out again. Where the mask is 0 the pixels come back bit for bit,
    even if they were out of range.

    Args:
        before: x, [B, C, H, W].
        after: x', the same shape, what an optimizer made of it.
        mask: M, [B, 1, H, W] (:func:`soft_mask`).
        low, high: the valid range, numbers or tensors that broadcast (one value for each channel: [C, 1, 1]).

    >>> masked_step(torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1, 3), torch.tensor([[[[0.0, 0.5, 2.0]]]]))
    tensor([[[[0.0000, 0.5000, 1.0000]]]])

    Paper: NRR-DD, CVPR 2025, arXiv 2503.18267; the clamp and that an optimizer's step is masked are readings.
    """
    shaped("masked_step", "the step", after, before.shape, "give the images before and after one step")
    shaped("masked_step", "the mask", mask, (len(before), 1, *before.shape[2:]), "give one mask for each image")
    moved = before + mask.to(before) * (after - before)
    moved = torch.minimum(torch.maximum(moved, _as(low, moved)), _as(high, moved))
    return torch.where(mask == 0, before, moved)


def _as(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)
