"""ShuffleNet (the first) for small images.

Zhang, Zhou, Lin, Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR 2018,
arXiv 1707.01083. Differs from it in the stem alone, which keeps the resolution instead of quartering it, so that 32
pixels end at 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError

__all__ = ["ShuffleNet", "ShuffleUnit", "shuffled"]

CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Channels of the first stage at width 1, by groups (table 1); the later stages double them."""
BLOCKS = (4, 8, 4)
STEM = 24


def shuffled(inputs: Tensor, groups: int) -> Tensor:
    """Return a map ``[B, C, H, W]`` whose channels were dealt out, so that each group next reads from all groups.

    >>> shuffled(torch.arange(6.0).view(1, 6, 1, 1), 2).flatten().tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    return inputs.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _unit(below: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(below, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


class ShuffleUnit(nn.Module):
    """Narrow by groups, deal the channels out, filter each by itself, widen by groups; a shortcut, then ReLU.

    With stride 1 the shortcut is added. With stride 2 it is the average of 3x3 pixels, and is put before what the
    branch adds: that makes ``width - below`` channels. ``first``: the groups of the narrowing convolution.
    """

    def __init__(self, below: int, width: int, stride: int, groups: int, *, first: int | None = None) -> None:
        super().__init__()
        thin, self.groups = width // 4, groups
        self.narrow = _unit(below, thin, groups=groups if first is None else first)
        self.filter = _unit(thin, thin, 3, stride, groups=thin)
        self.widen = _unit(thin, width - below if stride > 1 else width, groups=groups)
        self.shortcut = nn.AvgPool2d(3, stride, 1) if stride > 1 else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the unit's map, after the ReLU."""
        found: Tensor = self.widen(self.filter(shuffled(F.relu(self.narrow(inputs)), self.groups)))
        return F.relu(inputs + found if self.shortcut is None else torch.cat([self.shortcut(inputs), found], 1))


class ShuffleNet(nn.Module):
    """ShuffleNet with a ``stem`` at full resolution, three stages that halve it (``layer1`` … ``layer3``), ``avgpool``
    and ``fc``.

    Args:
        width: how many times as wide as the published net (1x; 0.5 and 0.25 are published too).
        groups: of the 1x1 convolutions, 1, 2, 3, 4 or 8; more groups have more channels for the same operations.
        classes: the number of outputs.
        channels: input channels.

    >>> ShuffleNet(0.25, groups=2, classes=10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: float = 1.0, groups: int = 2, *, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        if groups not in CHANNELS:
            raise DistilError(f"ShuffleNet: groups={groups} is not published; take one of {list(CHANNELS)}.")
        if not width > 0 or min(classes, channels) < 1:
            raise DistilError(
                f"ShuffleNet: width={width} must be above 0, and classes={classes} and channels={channels} at least 1."
            )
        below = _whole(STEM * width, groups)
        self.stem = nn.Sequential(*_unit(channels, below, 3), nn.ReLU())
        for k, count in enumerate(BLOCKS):
            wide = _whole(CHANNELS[groups] * 2**k * width, 4 * groups)
            if wide <= below:
                raise DistilError(
                    f"ShuffleNet: width={width} leaves {wide} channels in stage {k + 1} and {below} before it, so that "
                    f"its first unit adds none; with groups={groups} take a width of {_least(groups):g} or more."
                )
            # The stem has too few channels to be read in groups.
            blocks = [ShuffleUnit(below, wide, 2, groups, first=None if k else 1)]
            blocks += [ShuffleUnit(wide, wide, 1, groups) for _ in range(count - 1)]
            self.add_module(f"layer{k + 1}", nn.Sequential(*blocks))
            below = wide
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(below, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` for images ``[B, channels, H, W]``."""
        hidden = self.stem(inputs)
        for k in range(len(BLOCKS)):
            hidden = getattr(self, f"layer{k + 1}")(hidden)
        return self.fc(self.avgpool(hidden).flatten(1))


def _least(groups: int) -> float:
    """A width, of two digits, from which on every stage has more channels than the one before."""
    return math.ceil(100 * 3 * groups / CHANNELS[groups]) / 100


def _whole(channels: float, parts: int) -> int:
    """The nearest number of channels that divides into ``parts``, at least one for each."""
    return parts * max(1, round(channels / parts))
