"""A small convolutional net for small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["SmallCNN"]


class SmallCNN(nn.Module):
    """Stages of 3x3 convolution, batch norm and ReLU, each but the first behind a 2x2 max pool; then pooled and linear.

    Inputs are ``[B, channels, H, W]`` of any size. The stages are ``layer1``, ``layer2``, … and end after their ReLU;
    then ``avgpool`` (the embedding is flattened after it) and ``fc``.

    Args:
        channels: input channels.
        classes: the number of outputs.
        widths: the channels of each stage; one stage per entry.
        norm: batch normalisation after each convolution; without it the convolutions have a bias.

    >>> import torch
    >>> SmallCNN(1, 10, widths=(4, 8))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, channels: int = 3, classes: int = 10, *, widths: Sequence[int] = (16, 32, 64), norm: bool = True
    ) -> None:
        super().__init__()
        if not widths or min(channels, classes, *widths) < 1:
            raise DistilError(f"SmallCNN: channels={channels}, classes={classes}, widths={tuple(widths)} must be >= 1.")
        self.stages = len(widths)
        for k, (below, width) in enumerate(pairwise([channels, *widths])):
            parts: list[nn.Module] = [nn.MaxPool2d(2, ceil_mode=True)] if k else []
            parts.append(nn.Conv2d(below, width, 3, padding=1, bias=not norm))
            if norm:
                parts.append(nn.BatchNorm2d(width))
            self.add_module(f"layer{k + 1}", nn.Sequential(*parts, nn.ReLU()))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` for images ``[B, channels, H, W]``."""
        hidden = inputs
        for k in range(self.stages):
            hidden = getattr(self, f"layer{k + 1}")(hidden)
        return self.fc(self.avgpool(hidden).flatten(1))
