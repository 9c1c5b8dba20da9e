"""The wide residual nets of the CIFAR experiments.

Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146: blocks whose BatchNorm and ReLU come before
each convolution.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError

__all__ = ["WideBlock", "WideResNet"]


class WideBlock(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice, and a shortcut.

    The first block of a stage is ``opened``: what it reads has been through its first BatchNorm and ReLU already, and
    its shortcut, a 1x1 convolution where shapes change, starts there too.
    """

    def __init__(self, below: int, width: int, stride: int = 1, *, opened: bool = False) -> None:
        super().__init__()
        self.open = None if opened else nn.Sequential(nn.BatchNorm2d(below), nn.ReLU())
        self.conv1 = nn.Conv2d(below, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(below, width, 1, stride, bias=False) if stride != 1 or below != width else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the block's output, before any ReLU."""
        ready = inputs if self.open is None else self.open(inputs)
        kept = inputs if self.shortcut is None else self.shortcut(inputs)
        found: Tensor = self.conv2(F.relu(self.bn2(self.conv1(ready))))
        return kept + found


class WideResNet(nn.Module):
    """A wide ResNet for small images: WRN-``depth``-``width``.

    A ``stem`` of 16 channels, then three stages (``layer1`` to ``layer3``) of 16, 32 and 64 times ``width`` channels,
    of which the second and third halve the resolution; ``avgpool`` and ``fc``. Each stage ends after the BatchNorm and
    ReLU that the next one opens with, so that its map is one after a ReLU; the net is the same, but for ``width=1``,
    whose very first shortcut starts after that ReLU.

    Args:
        depth: 10, 16, 22, 28, 40, … (6n + 4): n blocks in each stage.
        width: how many times as wide as the thin net.
        classes: the number of outputs.
        channels: input channels.

    >>> import torch
    >>> WideResNet(16, 2, classes=10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, depth: int = 16, width: int = 2, *, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise DistilError(f"WideResNet: depth={depth} is not 6n + 4; take 10, 16, 22, 28, 34 or 40.")
        if min(width, classes, channels) < 1:
            raise DistilError(f"WideResNet: width={width}, classes={classes}, channels={channels} must be >= 1.")
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        below = 16
        for k, wide in enumerate((16 * width, 32 * width, 64 * width)):
            blocks = [WideBlock(below, wide, 2 if k else 1, opened=True)]
            blocks += [WideBlock(wide, wide) for _ in range((depth - 4) // 6 - 1)]
            self.add_module(f"layer{k + 1}", nn.Sequential(*blocks, nn.BatchNorm2d(wide), nn.ReLU()))
            below = wide
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(below, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` for images ``[B, channels, H, W]``."""
        hidden = self.stem(inputs)
        for k in (1, 2, 3):
            hidden = getattr(self, f"layer{k}")(hidden)
        return self.fc(self.avgpool(hidden).flatten(1))
