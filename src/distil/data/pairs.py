"""Two small images side by side as one of a hundred classes: many classes from a set that has ten."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.data.loading import mix_seed
from distil.errors import DistilError

__all__ = ["side_by_side"]


def side_by_side(pixels: Tensor, labels: Tensor, *, each: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return pairs of images, left and right, ``each`` for every pair of classes, at half their size.

    Pair ``(a, b)`` is class ``classes · a + b``. Left and right are drawn from their classes with replacement by
    ``seed``; every image is averaged over squares of 2 x 2 pixels first, so that a pair of 28 x 28 is 14 x 28.

    Args:
        pixels: uint8 (N, C, H, W) with even H and W.
        labels: (N,), each of the ``classes`` at least once.
        each: pairs of every pair of classes.
        classes: how many classes there are.
        seed: of the draw.

    Returns:
        uint8 (classes² · each, C, H / 2, W), and labels in order of their class.

    >>> images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 1, 2, 2)
    >>> made, classes = side_by_side(images, torch.tensor([0, 0, 1, 1]), each=2, classes=2)
    >>> made.shape, classes.tolist()
    (torch.Size([8, 1, 1, 2]), [0, 0, 1, 1, 2, 2, 3, 3])
    """
    if pixels.ndim != 4 or pixels.shape[2] % 2 or pixels.shape[3] % 2:
        raise DistilError(f"side_by_side halves images (N, C, H, W) of even sides; got {list(pixels.shape)}.")
    counts = labels.bincount(minlength=classes)
    if each < 1 or len(counts) != classes or int(counts.min()) < 1:
        raise DistilError(
            f"side_by_side(each={each}, classes={classes}) needs every class at least once; the labels hold "
            f"{counts.tolist()}."
        )
    small = F.avg_pool2d(pixels.float(), 2).round_().to(torch.uint8)
    rng = torch.Generator().manual_seed(mix_seed("side_by_side", seed))
    members = [(labels == c).nonzero().squeeze(1) for c in range(classes)]
    made = torch.arange(classes**2).repeat_interleave(each)
    sides = []
    for side in (made // classes, made % classes):
        drawn = torch.rand(len(made), generator=rng)
        place = torch.stack([members[c][int(u * len(members[c]))] for c, u in zip(side.tolist(), drawn)])
        sides.append(small[place])
    return torch.cat(sides, 3), made
