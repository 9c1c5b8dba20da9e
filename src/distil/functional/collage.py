"""Small crops chosen by a score and set side by side in one image.

Paper: Sun et al., *On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm*
(RDED), CVPR 2024, arXiv 2312.03526.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import class_index, shaped
from distil.functional.reduction import working

__all__ = [
    "Chosen",
    "best_crops",
    "label_cross_entropy",
    "padded",
    "square_boxes",
    "stitched",
]


class Chosen(NamedTuple):
    """Which crops were chosen, best first: of which image, int64 [n], and which of its crops, int64 [n]."""

    image: Tensor
    crop: Tensor


def label_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return −log softmax(z)_y of each row, never reduced: how unlikely a network finds what it is shown.

    Args:
        logits: [..., C].
        labels: int64 [...], in 0 … C − 1; −100 gives 0.

    >>> label_cross_entropy(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1]))
    tensor([0.6931, 9.0001])
    """
    index, counted = class_index("label_cross_entropy", labels, logits.shape[:-1], logits.shape[-1])
    values = -working(logits)[0].log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return torch.where(counted, values, torch.zeros_like(values))


def square_boxes(
    count: int, *, share: tuple[float, float] = (0.08, 1.0), generator: torch.Generator | None = None
) -> Tensor:
    """Draw boxes of random area that are as wide as high in shares of the image, anywhere within it.

    Args:
        count: how many.
        share: least and largest area, 0 < least ≤ largest ≤ 1; the area is uniform between them.
        generator: draws, on the CPU.

    Returns:
        [count, 4]: left, top, width, height in shares of the image, as :func:`distil.functional.cropped` takes them.

    >>> square_boxes(1, share=(1.0, 1.0))
    tensor([[0., 0., 1., 1.]])
    """
    if not 0 < share[0] <= share[1] <= 1 or count < 1:
        raise DistilError(
            f"square_boxes: count={count} must be at least 1, and share={share} two numbers above 0 and up to 1 in "
            "order."
        )
    draw = torch.rand(3, count, generator=generator)
    side = (share[0] + (share[1] - share[0]) * draw[0]).sqrt().clamp(max=1)
    return torch.stack([(1 - side) * draw[1], (1 - side) * draw[2], side, side], 1)


def padded(crops: Tensor, size: tuple[int, int]) -> Tensor:
    """Return crops [N, ch, h, w] in the middle of zeros of ``size``; an odd row or column more lies below or right.

    >>> padded(torch.ones(1, 1, 1, 1), (2, 3)).squeeze()
    tensor([[0., 1., 0.],
            [0., 0., 0.]])
    """
    shaped("padded", "the crops", crops, ("N", "ch", "h", "w"), "give a batch of crops")
    down, across = (whole - part for whole, part in zip(size, crops.shape[-2:]))
    if down < 0 or across < 0:
        raise DistilError(
            f"padded: crops of {tuple(crops.shape[-2:])} do not fit into {tuple(size)}; cut smaller crops, or name "
            "the size of the whole image."
        )
    return F.pad(crops, (across // 2, across - across // 2, down // 2, down - down // 2))


def best_crops(scores: Tensor, count: int, *, largest: bool = False) -> Chosen:
    """Choose the best crop of each image, and of these the ``count`` best; of equal scores the first, in both.

    Args:
        scores: [N, m], of each of m crops of N images; smaller is better (a cross-entropy), unless ``largest``.
        count: how many images to take, 1 … N.
        largest: whether larger is better.

    Returns:
        The images and, of each, its crop, best first.

    Raises:
        DistilError: more are asked for than there are images, or a score that is not a number.

    >>> best_crops(torch.tensor([[3.0, 2.0], [1.0, 5.0], [4.0, 4.0]]), 2)
    Chosen(image=tensor([1, 0]), crop=tensor([0, 1]))

    Differs from official code: ties keep the order of the images; its sort leaves them open.
    """
    shaped("best_crops", "the scores", scores, ("images", "crops"), "give one row of scores for each image")
    if not 1 <= count <= len(scores):
        raise DistilError(
            f"best_crops: {count} crops are asked for and {len(scores)} images give one each; offer more images, or "
            "ask for fewer images or cells."
        )
    if bool(scores.isnan().any()):
        raise DistilError("best_crops: a score is not a number; check the network's outputs on the crops.")
    order = -scores if largest else scores
    best, crop = order.min(1)
    # min leaves open which of equal crops it names.
    crop = (order == best.unsqueeze(1)).to(torch.int8).argmax(1)
    image = best.argsort(stable=True)[:count]
    return Chosen(image, crop[image])


def stitched(crops: Tensor, size: tuple[int, int], *, factor: int) -> Tensor:
    """Set ``factor``² crops side by side in each image, and give all crops away.

    Of n images, cell (i, j) of a grid of ``factor`` rows holds the crops k n … (k + 1) n − 1 with k = i · factor + j,
    brought to the cell's size by repeating the nearest pixel. Where the size is no multiple of ``factor``, the first
    rows and columns of cells are one pixel larger.

    Args:
        crops: [n · factor², ch, h, w].
        size: height and width of the images, each at least ``factor``.
        factor: cells along each side; 1 only resizes.

    Returns:
        [n, ch, height, width].

    >>> stitched(torch.arange(4.0).view(4, 1, 1, 1), (3, 2), factor=2).squeeze()
    tensor([[0., 1.],
            [0., 1.],
            [2., 3.]])
    """
    shaped("stitched", "the crops", crops, ("N", "ch", "h", "w"), "give a batch of crops")
    if factor < 1 or len(crops) % factor**2 or not len(crops) or min(size) < factor:
        raise DistilError(
            f"stitched: {len(crops)} crops cannot fill images of {factor} x {factor} cells and {tuple(size)} pixels; "
            f"give a multiple of {factor**2} crops, and at least one pixel for each cell."
        )
    columns = _sides(size[1], factor)
    cells = crops.chunk(factor**2)
    rows = [
        torch.cat([F.interpolate(cells[i * factor + j], (high, wide)) for j, wide in enumerate(columns)], -1)
        for i, high in enumerate(_sides(size[0], factor))
    ]
    return torch.cat(rows, -2)


def _sides(length: int, parts: int) -> list[int]:
    """Return the sizes of nearly equal parts, the larger first."""
    return [length // parts + (k < length % parts) for k in range(parts)]
