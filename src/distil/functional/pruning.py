"""Which weights of a network are kept: masks by magnitude over all of its tensors at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distil.errors import DistilError

__all__ = ["kept_share", "magnitude_masks", "masked_weights"]


def magnitude_masks(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, *, share: float = 0.2
) -> dict[str, Tensor]:
    """Return masks that leave out the smallest |w| among those still kept, over all tensors together.

    ``share`` of the weights that ``masks`` keep are taken out, so the pruned part p of all grows as p ← p + share ·
    (1 − p); after k rounds 1 − (1 − share)^k of them are gone, up to rounding. What was out stays out.

    Args:
        weights: tensors by name.
        masks: boolean tensors of the same names and shapes, from the round before.
        share: in [0, 1).

    >>> magnitude_masks({"a": torch.tensor([0.5, -3.0]), "b": torch.tensor([0.1, 1.0])}, share=0.5)
    {'a': tensor([False,  True]), 'b': tensor([False,  True])}

    Paper: Frankle, Carbin, *The Lottery Ticket Hypothesis*, ICLR 2019, arXiv 1803.03635.
    """
    if not 0 <= share < 1:
        raise DistilError(f"magnitude_masks: share={share} must be from 0 to below 1.")
    before = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()} if masks is None else masks
    wrong = [n for n, w in weights.items() if n not in before or before[n].shape != w.shape]
    if wrong or len(before) != len(weights):
        raise DistilError(f"magnitude_masks: the masks do not fit the weights ({', '.join(wrong) or 'other names'}).")
    kept = torch.cat([before[name].flatten() for name in weights])
    size = torch.cat([w.detach().abs().flatten() for w in weights.values()])
    out = round(share * int(kept.sum()))
    order = torch.where(kept, size, torch.full_like(size, torch.inf)).argsort(stable=True)
    after = kept.clone()
    after[order[:out]] = False
    parts = after.split([w.numel() for w in weights.values()])
    return {name: part.view(w.shape) for (name, w), part in zip(weights.items(), parts)}


def masked_weights(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights, 0 where a mask leaves one out; tensors without a mask stay as they are.

    >>> masked_weights({"a": torch.tensor([2.0, 3.0])}, {"a": torch.tensor([True, False])})
    {'a': tensor([2., 0.])}
    """
    return {
        name: torch.where(masks[name], w, torch.zeros_like(w)) if name in masks else w for name, w in weights.items()
    }


def kept_share(masks: Mapping[str, Tensor]) -> float:
    """Return the share of all weights that the masks keep.

    >>> kept_share({"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
    0.75
    """
    total = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / max(total, 1)
