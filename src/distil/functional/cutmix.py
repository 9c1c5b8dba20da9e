"""Patches of images: where one lies, how one is drawn, and another image pasted into it (CutMix)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distil.errors import DistilError

__all__ = ["Patch", "draw_patch", "pasted", "patch_at"]


class Patch(NamedTuple):
    """A box of pixels; with a height or width of 0 it is empty."""

    top: int
    left: int
    height: int
    width: int


def patch_at(size: tuple[int, int], share: float, centre: tuple[int, int]) -> Patch:
    """Return the patch that covers 1 − ``share`` of an image, in its shape, cut off where it leaves the image.

    Args:
        size: height and width of the image, in pixels.
        share: in [0, 1], the share of the image that is left alone (λ of CutMix) where the patch lies within it.
        centre: row and column of the patch's middle.

    >>> patch_at((14, 20), 0.41, (11, 9))
    Patch(top=6, left=2, height=8, width=14)

    Paper: Yun et al., *CutMix*, ICCV 2019, arXiv 1905.04899.
    """
    if not 0 <= share <= 1 or min(size) < 1:
        raise DistilError(f"patch_at: share={share} must lie in [0, 1] and size={size} be above 0.")
    sides = []
    for length, middle in zip(size, centre):
        half = int(length * math.sqrt(1 - share)) // 2
        first, last = (min(max(place, 0), length) for place in (middle - half, middle + half))
        sides.append((first, last - first))
    return Patch(sides[0][0], sides[1][0], sides[0][1], sides[1][1])


def draw_patch(
    shape: tuple[int, ...], *, probability: float = 1.0, beta: float = 1.0, generator: torch.Generator | None = None
) -> tuple[Patch | None, Tensor]:
    """Draw a batch's patch and, for each image, the one it is pasted from.

    The share that is left alone is drawn from Beta(beta, beta), the patch's middle uniformly over the image, and the
    others as a permutation of the batch.

    Args:
        shape: of the images, [B, …, H, W].
        probability: in [0, 1], that a batch is mixed at all.
        beta: above 0; 1 is uniform.
        generator: a CPU generator.

    Returns:
        The patch, or ``None`` for a batch that stays whole, and int64 [B].

    >>> patch, order = draw_patch((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    >>> patch.height <= 8, sorted(order.tolist())
    (True, [0, 1, 2, 3])
    """
    if not beta > 0 or not 0 <= probability <= 1 or len(shape) < 3:
        raise DistilError(
            f"draw_patch: beta={beta} must be above 0, probability={probability} in [0, 1], and the images' shape "
            f"{tuple(shape)} be [B, …, H, W]."
        )
    mixes = float(torch.rand((), generator=generator)) < probability
    seed = int(torch.randint(2**62, (), generator=generator))  # torch draws no Beta from a generator of one's own
    row, column = (int(torch.randint(length, (), generator=generator)) for length in shape[-2:])
    share = float(np.random.default_rng(seed).beta(beta, beta))
    order = torch.randperm(shape[0], generator=generator)
    return patch_at((shape[-2], shape[-1]), share, (row, column)) if mixes else None, order


def pasted(images: Tensor, others: Tensor, patch: Patch) -> Tensor:
    """Return ``images`` [..., H, W] with the patch of ``others`` (the same shape) in place of their own.

    >>> pasted(torch.zeros(1, 2, 2), torch.ones(1, 2, 2), Patch(0, 1, 2, 1))
    tensor([[[0., 1.],
             [0., 1.]]])
    """
    if images.shape != others.shape or images.ndim < 3:
        raise DistilError(
            f"pasted: images {tuple(images.shape)} and others {tuple(others.shape)}; expected [..., H, W] twice."
        )
    top, left, height, width = patch
    mixed = images.clone()
    mixed[..., top : top + height, left : left + width] = others[..., top : top + height, left : left + width]
    return mixed
