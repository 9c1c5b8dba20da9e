"""The net that small image sets are made and judged with: equal blocks of convolution, norm and average pool."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["ConvNet"]

NORMS = ("instance", "batch", "none")


class ConvNet(nn.Module):
    """``depth`` blocks of 3x3 convolution, norm, ReLU and 2x2 average pool of equal width, then one Linear.

    Inputs are ``[B, channels, H, W]``; the state dict has the keys of the authors' code (``features.K``,
    ``classifier``). Images of one channel are padded by 3 instead of 1 before the first block, so that 28 pixels become
    32. Without batch statistics a sample's output does not depend on the others, and the net may be drawn anew and used
    in train mode.

    Args:
        channels: input channels.
        classes: the number of outputs.
        width: channels of every block.
        depth: blocks; each halves height and width.
        norm: "instance" (each channel of each sample by itself, with a learned scale and shift), "batch" or "none".
        size: height and width of the images, or one number for both.

    >>> import torch
    >>> ConvNet(3, 10, width=4, depth=2, size=8)(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 10])

    Paper: Gidaris, Komodakis, *Dynamic Few-Shot Visual Learning without Forgetting*, CVPR 2018, arXiv 1804.09458; as
    used by Zhao, Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, arXiv 2110.04181 (128 wide, 3
    deep).
    """

    def __init__(
        self,
        channels: int = 3,
        classes: int = 10,
        *,
        width: int = 128,
        depth: int = 3,
        norm: str = "instance",
        size: int | Sequence[int] = 32,
    ) -> None:
        super().__init__()
        height, breadth = (size, size) if isinstance(size, int) else (int(side) for side in size)
        if norm not in NORMS or min(channels, classes, width, depth) < 1:
            raise DistilError(
                f"ConvNet: norm={norm!r} must be one of {', '.join(NORMS)}, and channels={channels}, "
                f"classes={classes}, width={width}, depth={depth} at least 1."
            )
        blocks: list[nn.Module] = []
        below = channels
        for block in range(depth):
            padding = 3 if below == 1 and block == 0 else 1
            height, breadth = ((side + 2 * (padding - 1)) // 2 for side in (height, breadth))
            blocks.append(nn.Conv2d(below, width, 3, padding=padding))
            if norm == "instance":
                blocks.append(nn.GroupNorm(width, width))
            elif norm == "batch":
                blocks.append(nn.BatchNorm2d(width))
            blocks += [nn.ReLU(), nn.AvgPool2d(2)]
            below = width
        if min(height, breadth) < 1:
            raise DistilError(f"ConvNet: depth={depth} halves the images to nothing; use a smaller depth.")
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * height * breadth, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` for images ``[B, channels, H, W]``."""
        return self.classifier(self.features(inputs).flatten(1))
