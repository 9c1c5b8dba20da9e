"""Early exits: small heads that turn a stage's features into class scores, thrown away after training.

A map is brought down by separable convolutions, pooled and read by a linear layer; tokens are merged two by two, run
through transformer blocks, and read at the class token or as their mean. How deep an exit is depends on how many
stages follow the one it reads.

Hao et al., One-for-All, NeurIPS 2023, arXiv 2310.19444, appendix and official code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError
from distil.models.tokens import Block

__all__ = ["MapExit", "PatchMerging", "SepConv", "TokenExit", "exit_for", "square_grid"]

FINAL_GRID = 7  # patches a side that merging stops above
HEADS = 4


@final
class SepConv(nn.Module):
    """Two separable convolutions with BatchNorm and ReLU; the first halves height and width, the second widens.

    >>> SepConv(4, 6)(torch.zeros(2, 4, 8, 8)).shape
    torch.Size([2, 6, 4, 4])
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
            nn.Conv2d(channels, out, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the map at half the size, rounded up; a map of one position stays one."""
        found: Tensor = self.op(features)
        return found


@final
class MapExit(nn.Sequential):
    """From a map ``[N, C, H, W]`` to scores ``[N, K]``: a `SepConv` for each stage that follows, pooling, a linear map.

    Each convolution doubles the channels but the last, which gives ``width``; at the last stage a 1x1 convolution
    (with bias) stands in their place. Members are numbered as in the official code.

    Args:
        channels: C.
        left: the stages of the net after this one.
        width: what the linear layer reads.
        classes: K.

    >>> MapExit(4, left=2, width=10, classes=3)(torch.zeros(2, 4, 1, 1)).shape
    torch.Size([2, 3])
    """

    def __init__(self, channels: int, *, left: int, width: int, classes: int) -> None:
        plan = [channels * 2**k for k in range(left)] + [width]
        body: list[nn.Module] = [SepConv(a, b) for a, b in pairwise(plan)]
        body = body or [nn.Conv2d(channels, width, 1)]
        super().__init__(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
        _start(self)


@final
class PatchMerging(nn.Module):
    """Two by two neighbouring tokens, side by side, LayerNorm, one linear map: ``[N, H, W, D]`` to half the sides.

    An odd side gets zeros at its end.

    >>> PatchMerging(4, 6)(torch.zeros(2, 5, 4, 4)).shape
    torch.Size([2, 3, 2, 6])
    """

    def __init__(self, dim: int, out: int, *, act: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out, bias=False)
        self.act: nn.Module = nn.GELU() if act else nn.Identity()

    def forward(self, grid: Tensor) -> Tensor:
        """Return the merged grid; the order of the four is (0, 0), (1, 0), (0, 1), (1, 1) by row and column."""
        grid = F.pad(grid, (0, 0, 0, grid.shape[2] % 2, 0, grid.shape[1] % 2))
        four = [grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        found: Tensor = self.act(self.reduction(self.norm(torch.cat(four, -1))))
        return found


@final
class TokenExit(nn.Module):
    """From tokens ``[N, L, D]`` to scores ``[N, K]``: merged to about 7x7, blocks, class token or mean, a linear map.

    Where nothing is merged and D differs from ``width``, one linear map without bias takes the place of merging. Class
    tokens pass the merging as they are.

    Args:
        dim: D.
        grid: the patches in height and width; L is their product and the class tokens.
        left: the stages of the net after this one; so many blocks, at least one.
        width: the blocks' width.
        classes: K.
        class_tokens: how many tokens before the patches; the first is read, and the mean of the patches where there is
            none.

    >>> TokenExit(8, grid=(14, 14), left=2, width=8, classes=3, class_tokens=1)(torch.zeros(2, 197, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self, dim: int, *, grid: Sequence[int], left: int, width: int, classes: int, class_tokens: int = 0
    ) -> None:
        super().__init__()
        self.grid, self.class_tokens = (grid[0], grid[1]), class_tokens
        # log2 of how often the last grid fits into this one, rounded down.
        count = max((math.isqrt(grid[0] * grid[1]) // FINAL_GRID).bit_length() - 1, 0)
        if count and class_tokens and dim != width:
            raise DistilError(
                f"an exit merges {grid[0]}x{grid[1]} patches of width {dim} to width {width}, and {class_tokens} class "
                f"token(s) of width {dim} have to pass beside them: both widths must be equal. Leave this stage out "
                "with branches=, or take a student whose tokens are as wide as its embedding."
            )
        self.merging = nn.Sequential(
            *(PatchMerging(width if k else dim, width, act=not k or k < count - 1) for k in range(count))
        )
        self.widen = nn.Identity() if count or dim == width else nn.Linear(dim, width, bias=False)
        self.blocks = nn.Sequential(*(_block(width) for _ in range(max(left, 1))))
        self.head = nn.Linear(width, classes)
        _start(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores; a map ``[N, D, H, W]`` is read as a grid of tokens."""
        tokens = tokens.flatten(2).mT if tokens.ndim == 4 else tokens
        first, patches = tokens[:, : self.class_tokens], tokens[:, self.class_tokens :]
        if len(self.merging):
            patches = self.merging(patches.unflatten(1, self.grid)).flatten(1, 2)
        tokens = torch.cat([first, patches], 1) if self.class_tokens else patches
        tokens = self.blocks(self.widen(tokens))
        found: Tensor = self.head(tokens[:, 0] if self.class_tokens else tokens.mean(1))
        return found


def exit_for(
    shape: Sequence[int],
    *,
    left: int,
    classes: int,
    width: int,
    teacher_width: int = 0,
    tokens: bool | None = None,
    class_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> MapExit | TokenExit:
    """Return the exit that fits a stage's output.

    Args:
        shape: ``[N, C, H, W]``, or ``[N, L, D]`` of tokens; the batch size is not read.
        left: the stages of the net after this one.
        classes: the scores it gives.
        width: of the student's embedding.
        teacher_width: of the teacher's; the linear layer of a map's exit reads as many features as the wider one has.
        tokens: whether a map is a grid of tokens (a Swin transformer's); by default it is not.
        class_tokens: how many come first in a sequence; by default what leaves a square grid (:func:`square_grid`).
        grid: the rows and columns of the other tokens, where known; by default a square, as square images have it.

    Raises:
        DistilError: neither a map nor tokens, or tokens that do not lie on a square grid where none is given.

    >>> type(exit_for((2, 16, 8, 8), left=1, classes=3, width=16)).__name__
    'MapExit'
    """
    if len(shape) == 4 and not tokens:
        return MapExit(shape[1], left=left, width=max(width, teacher_width), classes=classes)
    if len(shape) == 4:
        return TokenExit(shape[1], grid=shape[2:], left=left, width=width, classes=classes)
    if len(shape) != 3:
        raise DistilError(
            f"an exit reads feature maps [N, C, H, W] or tokens [N, L, D]; a stage of the student gives {list(shape)}. "
            "Name stages that are maps or tokens with taps=, or leave exits out with branches=none."
        )
    if grid is None:
        class_tokens, side = square_grid(shape[1], class_tokens)
        grid = side, side
    return TokenExit(
        shape[2], grid=grid, left=left, width=width, classes=classes, class_tokens=class_tokens or 0,
    )  # fmt: skip


def square_grid(length: int, class_tokens: int | None = None) -> tuple[int, int]:
    """Return how many of ``length`` tokens are class tokens, and the side of the square grid of the others.

    For square images alone: 4 x 6 patches and a class token would be taken for 5 x 5 patches.

    Args:
        length: all tokens.
        class_tokens: how many come before the patches; by default 0, 1 or 2, whichever leaves a square.

    Raises:
        DistilError: the others are no square.

    >>> square_grid(197), square_grid(784), square_grid(198), square_grid(21, 5)
    ((1, 14), (0, 28), (2, 14), (5, 4))
    """
    for count in (0, 1, 2) if class_tokens is None else (class_tokens,):
        side = math.isqrt(max(length - count, 0))
        if side and side * side == length - count:
            return count, side
    said = "0, 1 or 2 class tokens" if class_tokens is None else f"class_tokens={class_tokens}"
    raise DistilError(
        f"{length} tokens with {said} leave no square grid of patches, which exits merge two by two; say how many "
        "class tokens there are with class_tokens=, give square images, or leave exits out with branches=none."
    )


def _block(width: int) -> Block:
    """A transformer block as exits have them: no bias in queries, keys and values; LayerNorm with torch's epsilon."""
    block = Block(width, math.gcd(HEADS, width), 4 * width)
    block.norm1, block.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
    block.attn.qkv = nn.Linear(width, 3 * width, bias=False)
    return block


def _start(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
