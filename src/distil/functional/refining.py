"""Which pixels of an image may be changed, by what loss, and what is left of them when they are stored.

Paper: *Enhancing Dataset Distillation via Non-Critical Region Refinement* (NRR-DD), CVPR 2025, arXiv 2503.18267.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distil.functional._checks import known, shaped
from distil.functional.batchnorm import Layer, statistics_terms
from distil.functional.collage import label_cross_entropy
from distil.functional.reduction import working

__all__ = ["REGIONS", "eight_bit", "masked_step", "refining_loss", "soft_mask"]

REGIONS = ("non-critical", "critical-only", "all-pixels")


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

    Paper: NRR-DD (the first; the others are this project's ablations).
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


def refining_loss(
    logits: Tensor, labels: Tensor, layers: Sequence[Layer] = (), *, statistics_weight: float = 1.0
) -> Tensor:
    """Return the mean cross-entropy with an image's own label plus α times its batch's distance from the statistics.

    Args:
        logits: [B, C] of a trained network.
        labels: [B].
        layers: what its batch norms were given and remember (:func:`distil.functional.statistics_terms`).
        statistics_weight: α; 0 leaves the second part out.

    Returns:
        A scalar.

    >>> layer = Layer(torch.tensor([[[1.0, 3.0]]]), torch.tensor([2.0]), torch.tensor([4.0]))
    >>> refining_loss(torch.zeros(1, 2), torch.tensor([0]), [layer], statistics_weight=0.1)
    tensor(0.9931)

    Paper: NRR-DD; Yin, Xing, Shen, *Squeeze, Recover and Relabel* (SRe2L), NeurIPS 2023, arXiv 2306.13092.
    """
    loss = label_cross_entropy(logits, labels).mean()
    return loss + statistics_weight * statistics_terms(layers).sum() if statistics_weight and layers else loss


def eight_bit(images: Tensor) -> Tensor:
    """Return images in [0, 1] on the 256 levels that a PNG keeps; those that are there already stay as they are.

    >>> eight_bit(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.5020, 1.0000])
    """
    return (images.clamp(0, 1) * 255).round() / 255


def _as(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)
