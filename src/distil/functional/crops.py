"""What is done to a whole batch of images before it is seen: standardised, cropped at random, or replaced by noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional._checks import positive, shaped
from distil.functional.reduction import working

__all__ = ["channel_moments", "crop_boxes", "cropped", "noise_like", "standardised_channels"]


def crop_boxes(
    count: int,
    *,
    share: tuple[float, float] = (0.4, 1.0),
    mirror: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw boxes of random area and proportions, one for each image of a batch.

    The area is uniform within ``share`` of the image, the proportions log-uniform from 3:4 to 4:3, the place uniform
    among those where the box fits; a side longer than the image is cut to it.

    Args:
        count: how many.
        share: least and largest area, 0 < least <= largest <= 1.
        mirror: how often a box is mirrored, in [0, 1]; its width is then negative and its left edge the right one.
        generator: draws, on the CPU.

    Returns:
        (count, 4): left, top, width, height, in shares of the image.

    >>> boxes = crop_boxes(3, share=(1.0, 1.0), mirror=0.0, generator=torch.Generator().manual_seed(0))
    >>> bool((boxes[:, :2] >= 0).all()), bool((boxes[:, 2:] <= 1).all())
    (True, True)
    """
    if not 0 < share[0] <= share[1] <= 1 or not 0 <= mirror <= 1 or count < 1:
        raise DistilError(
            f"crop_boxes: count={count} must be at least 1, share={share} two numbers above 0 and up to 1 in order, "
            f"and mirror={mirror} within 0 … 1."
        )
    draw = torch.rand(5, count, generator=generator)
    area = share[0] + (share[1] - share[0]) * draw[0]
    ratio = ((2 * draw[1] - 1) * math.log(4 / 3)).exp()
    width, height = ((area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1))
    left, top = (1 - width) * draw[2], (1 - height) * draw[3]
    flipped = draw[4] < mirror
    left, width = torch.where(flipped, left + width, left), torch.where(flipped, -width, width)
    return torch.stack([left, top, width, height], 1)


def cropped(images: Tensor, boxes: Tensor, *, side: int) -> Tensor:
    """Cut a box out of each image and bring it to ``side`` x ``side`` pixels, bilinearly.

    Args:
        images: (B, C, H, W).
        boxes: (B, 4), as `crop_boxes` draws them; (0, 0, 1, 1) is the whole image.
        side: of the result, in pixels.

    >>> image = torch.arange(4.0).view(1, 1, 2, 2)
    >>> cropped(image, torch.tensor([[0.0, 0.0, 1.0, 1.0], ]), side=2).flatten()
    tensor([0., 1., 2., 3.])
    """
    shaped("cropped", "the images", images, ("B", "C", "H", "W"), "crops are cut from images")
    shaped("cropped", "the boxes", boxes, (images.shape[0], 4), "give left, top, width, height for each image")
    positive("cropped", "side", side)
    (images,) = working(images)
    left, top, width, height = boxes.to(images).unbind(1)
    zero = torch.zeros_like(left)
    # From the result's square (-1 … 1) to the image's: scale by the box, move to its middle.
    across = torch.stack([width, zero, 2 * left + width - 1], 1)
    down = torch.stack([zero, height, 2 * top + height - 1], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), [*images.shape[:2], side, side], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def noise_like(inputs: Tensor, *, scale: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Return Gaussian noise N(0, scale²) of a batch's shape, type and device; nothing of the batch is in it.

    >>> noise_like(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    positive("noise_like", "scale", scale)
    return (scale * torch.randn(inputs.shape, generator=generator)).to(inputs)


def channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each channel over all images and places, (C,) each.

    A constant channel has deviation 1, so that dividing by it changes nothing.

    Args:
        images: (N, C, ...).

    >>> channel_moments(torch.tensor([[[1.0, 3.0]], [[1.0, 3.0]]]))
    (tensor([2.]), tensor([1.]))
    """
    flat = working(images)[0].transpose(0, 1).flatten(1)
    deviation = flat.std(1, correction=0)
    return flat.mean(1), torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def standardised_channels(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return (images − mean) / deviation, channel by channel.

    Args:
        images: (N, C, ...).
        mean, deviation: (C,), as `channel_moments` gives them.

    >>> standardised_channels(torch.tensor([[[1.0, 3.0]]]), torch.tensor([2.0]), torch.tensor([0.5]))
    tensor([[[-2.,  2.]]])
    """
    shape = (1, -1) + (1,) * (images.ndim - 2)
    return (images - mean.to(images).view(shape)) / deviation.to(images).view(shape)
