"""MobileNetV2 for small images.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv
1801.04381. Differs from it in the strides alone: stem and first stages keep the resolution, so that 32 pixels end at 4.
"""

from __future__ import annotations

from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["InvertedResidual", "MobileNet"]

# Of each stage its stride, and its groups of blocks: expansion, channels at width 1, how many.
STAGES = (
    (1, ((1, 16, 1), (6, 24, 2))),
    (2, ((6, 32, 3),)),
    (2, ((6, 64, 4), (6, 96, 3))),
    (2, ((6, 160, 3), (6, 320, 1))),
)
STEM, LAST = 32, 1280


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and no more than a tenth below."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


def _unit(below: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, relu: bool = True) -> nn.Module:
    conv = nn.Conv2d(below, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), *([nn.ReLU6()] if relu else []))


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel by itself, narrow again without ReLU; a shortcut if it fits."""

    def __init__(self, below: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = below * expansion
        widen = [_unit(below, hidden)] if expansion > 1 else []
        self.body = nn.Sequential(
            *widen, _unit(hidden, hidden, 3, stride, groups=hidden), _unit(hidden, width, relu=False)
        )
        self.adds = stride == 1 and below == width

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the narrow map."""
        found: Tensor = self.body(inputs)
        return inputs + found if self.adds else found


class MobileNet(nn.Module):
    """MobileNetV2 with four resolutions (``layer1`` … ``layer4``), ``last`` (1x1, the pooled map), ``avgpool``, ``fc``.

    Args:
        width: how many times as wide as the published net, rounded to multiples of 8; 0.5 is the distillation
            benchmarks' MobileNetV2.
        classes: the number of outputs.
        channels: input channels.
        dropout: before the classifier.

    >>> import torch
    >>> MobileNet(0.25, classes=10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: float = 0.5, *, classes: int = 10, channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if not width > 0 or min(classes, channels) < 1 or not 0 <= dropout < 1:
            raise DistilError(
                f"MobileNet: width={width} must be above 0, classes={classes} and channels={channels} at least 1, and "
                f"dropout={dropout} in [0, 1)."
            )
        below = _rounded(STEM * width)
        self.stem = _unit(channels, below, 3)
        for k, (stride, groups) in enumerate(STAGES):
            blocks: list[nn.Module] = []
            for expansion, thin, count in groups:
                for _ in range(count):
                    blocks.append(InvertedResidual(below, _rounded(thin * width), 1 if blocks else stride, expansion))
                    below = _rounded(thin * width)
            self.add_module(f"layer{k + 1}", nn.Sequential(*blocks))
        wide = _rounded(LAST * max(1.0, width))
        self.last = _unit(below, wide)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(wide, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` for images ``[B, channels, H, W]``."""
        hidden = self.stem(inputs)
        for k in range(len(STAGES)):
            hidden = getattr(self, f"layer{k + 1}")(hidden)
        return self.fc(self.dropout(self.avgpool(self.last(hidden)).flatten(1)))
