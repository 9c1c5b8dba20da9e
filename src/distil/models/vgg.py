"""A plain convolutional net of the VGG kind, without normalisation, for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["VGG"]


class VGG(nn.Module):
    """Stages of 3x3 convolutions with ReLU, a 2x2 max pool after each stage, then flattened; no batch norm anywhere.

    Weights are drawn by He's normal (fan out) and biases are 0. The stages are ``stage1``, ``stage2``, … and end before
    their pool; the embedding is the flattened last pool, as wide as its channels times its positions.

    Args:
        channels: input channels.
        classes: outputs of the linear layer at the end; 0 or ``None`` leaves it out, and the net is an encoder that
            returns the embedding.
        widths: the channels of each convolution, stage by stage; VGG-11 is ``((64,), (128,), (256, 256), (512, 512),
            (512, 512))`` on 32 x 32 pixels.
        size: height and width of the images, which the embedding's width follows from.
        fast: compute in channels-last order, which processors run faster; results differ by rounding.

    Raises:
        DistilError: a width below 1, or images too small for so many stages.

    >>> net = VGG(3, 0, widths=((8,), (16, 16)), size=(8, 8))
    >>> net(torch.zeros(2, 3, 8, 8)).shape, net.features
    (torch.Size([2, 64]), 64)

    Paper: Simonyan, Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015.
    """

    def __init__(
        self, channels: int = 3, classes: int | None = 10, *,
        widths: Sequence[Sequence[int]] = ((16,), (32,), (64, 64)), size: int | Sequence[int] = 32,
        fast: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        stages = [(stage,) if isinstance(stage, int) else tuple(stage) for stage in widths]
        if not stages or min(channels, *(min(stage, default=0) for stage in stages)) < 1 or (classes or 0) < 0:
            raise DistilError(f"VGG: channels={channels}, classes={classes}, widths={widths} must be at least 1.")
        height, width = (size, size) if isinstance(size, int) else size
        rest = height >> len(stages), width >> len(stages)
        if 0 in rest:
            raise DistilError(
                f"VGG: {len(stages)} stages halve images of {height} x {width} to nothing; give fewer stages."
            )
        self.stages, below = len(stages), channels
        for k, stage in enumerate(stages):
            layers: list[nn.Module] = []
            for out in stage:
                layers += [nn.Conv2d(below, out, 3, padding=1), nn.ReLU()]
                below = out
            self.add_module(f"stage{k + 1}", nn.Sequential(*layers))
        self.pool = nn.MaxPool2d(2)
        self.features = below * rest[0] * rest[1]
        self.fc = nn.Linear(self.features, classes) if classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.fast = fast

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]``, or the embedding ``[B, features]`` of an encoder."""
        hidden = inputs.contiguous(memory_format=torch.channels_last) if self.fast else inputs
        for k in range(self.stages):
            hidden = self.pool(getattr(self, f"stage{k + 1}")(hidden))
        return self.fc(hidden.flatten(1))
