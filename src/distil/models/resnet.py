"""The residual nets of the CIFAR experiments, with free depths and widths.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, section 4.2. Differs
from it in the shortcuts that change the shape: a 1x1 convolution with batch norm, as the distillation literature's
benchmarks use, instead of padding with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError

__all__ = ["BasicBlock", "CifarResNet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut; the output is taken after the ReLU."""

    def __init__(self, below: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(below, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or below != width:
            self.shortcut = nn.Sequential(nn.Conv2d(below, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``relu(F(inputs) + shortcut(inputs))``."""
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))


class CifarResNet(nn.Module):
    """A ResNet for small images: a 3x3 stem at full resolution, stages of basic blocks, average pool, linear.

    The stages are ``layer1``, ``layer2``, … (each output is after a ReLU; the first keeps the resolution, the others
    halve it), then ``avgpool`` and ``fc``.

    Args:
        depth: 8, 14, 20, 32, 44, 56, 110, … (6n + 2): n blocks in each of three stages. Or the number of blocks of
            each stage, as a sequence.
        classes: the number of outputs.
        channels: input channels.
        widths: the channels of each stage.
        stem: the channels of the stem; default ``widths[0]``.

    >>> import torch
    >>> CifarResNet(8, classes=10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int | Sequence[int] = 20,
        *,
        classes: int = 10,
        channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        stem: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(depth, int):
            if depth < 8 or (depth - 2) % 6:
                raise DistilError(
                    f"CifarResNet: depth={depth} is not 6n + 2; take 8, 14, 20, 32, 44, 56 or 110, or give the blocks "
                    "of each stage."
                )
            depth = [(depth - 2) // 6] * len(widths)
        if len(depth) != len(widths) or min(*depth, *widths) < 1:
            raise DistilError(
                f"CifarResNet: {len(depth)} stages of {list(depth)} blocks but widths {list(widths)}; give one width "
                "for each stage, all at least 1."
            )
        below = stem or widths[0]
        self.stages = len(widths)
        self.conv1 = nn.Conv2d(channels, below, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(below)
        for k, (blocks, width) in enumerate(zip(depth, widths)):
            first = BasicBlock(below, width, 2 if k else 1)
            self.add_module(
                f"layer{k + 1}", nn.Sequential(first, *(BasicBlock(width, width) for _ in range(1, blocks)))
            )
            below = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(below, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` for images ``[B, channels, H, W]``."""
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        for k in range(self.stages):
            hidden = getattr(self, f"layer{k + 1}")(hidden)
        return self.fc(self.avgpool(hidden).flatten(1))
