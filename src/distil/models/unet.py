"""A small encoder-decoder for dense prediction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError

__all__ = ["UNet"]


def _conv(below: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(below, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Merge(nn.Module):
    """A coarse map resized to a finer one (bilinear), both concatenated, then 3x3 convolution, batch norm and ReLU."""

    def __init__(self, coarse: int, fine: int, width: int) -> None:
        super().__init__()
        self.conv = _conv(coarse + fine, width)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return the merged map at the size of ``fine``."""
        resized = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        return self.conv(torch.cat([resized, fine], 1))


class UNet(nn.Module):
    """Stages at 1/2, 1/4, 1/8 and 1/16 of the input, merged back up to 1/4; then a 1x1 convolution to class scores.

    Inputs are ``[B, channels, H, W]`` of any size from 16 on. The encoder's stages are ``down1`` … ``down4`` with
    ``width`` times 1, 2, 4 and 8 channels; the decoder's are ``up3`` (1/8, ``2 * width``) and ``up2`` (1/4, ``width``);
    ``head`` gives the score map at 1/4 of the input, which a segmentation task resizes to its labels.

    Args:
        channels: input channels.
        classes: the number of scores at each position.
        width: the channels of the first and of the last stage.

    >>> UNet(3, 11, width=4)(torch.zeros(2, 3, 32, 48)).shape
    torch.Size([2, 11, 8, 12])

    After Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, arXiv 1505.04597; differs in strided convolutions, bilinear
    resizing, batch norm, and scores at a quarter of the resolution.
    """

    def __init__(self, channels: int = 3, classes: int = 11, *, width: int = 32) -> None:
        super().__init__()
        if min(channels, classes, width) < 1:
            raise DistilError(f"UNet: channels={channels}, classes={classes}, width={width} must be >= 1.")
        w = width
        self.down1 = _conv(channels, w, 2)
        self.down2 = nn.Sequential(_conv(w, 2 * w, 2), _conv(2 * w, 2 * w))
        self.down3 = nn.Sequential(_conv(2 * w, 4 * w, 2), _conv(4 * w, 4 * w))
        self.down4 = nn.Sequential(_conv(4 * w, 8 * w, 2), _conv(8 * w, 8 * w))
        self.up3 = Merge(8 * w, 4 * w, 2 * w)
        self.up2 = Merge(2 * w, 2 * w, w)
        self.head = nn.Conv2d(w, classes, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores ``[B, classes, H/4, W/4]`` for images ``[B, channels, H, W]``."""
        quarter = self.down2(self.down1(inputs))
        eighth = self.down3(quarter)
        return self.head(self.up2(self.up3(self.down4(eighth), eighth), quarter))
