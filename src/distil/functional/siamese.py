"""Differentiable augmentation in which real and synthetic images are changed alike: one drawn change for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.errors import DistilError, nearest
from distil.functional._checks import shaped
from distil.functional.reduction import working

__all__ = ["SIAMESE_CHANGES", "SiameseStrengths", "SiameseView", "draw_siamese", "siamese"]

SIAMESE_CHANGES = ("color", "crop", "cutout", "flip", "scale", "rotate")


@dataclass(frozen=True)
class SiameseStrengths:
    """How strong each change is.

    Attributes:
        brightness: width of the interval, around 0, of what is added to all pixels.
        saturation: largest factor of a pixel's distance from its mean over channels; the least is 0.
        contrast: least factor of the distance from the image's mean; the largest is 1 more.
        crop: largest shift, as a share of the side. cutout: side of the blank square, as a share.
        flip: probability of a mirror image. scale: largest factor; the least is its inverse.
        rotate: largest angle, in degrees, in both directions.
    """

    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5
    crop: float = 0.125
    cutout: float = 0.5
    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0


@dataclass(frozen=True)
class SiameseView:
    """One drawn change: its name, and uniform numbers ``(1, 3)`` for all images or ``(B, 3)`` for each its own."""

    change: str
    draws: Tensor


def draw_siamese(
    generator: torch.Generator | None = None, *, changes: Sequence[str] = SIAMESE_CHANGES, count: int = 1
) -> SiameseView:
    """Draw one of the changes, each as likely, and its numbers.

    Args:
        generator: of torch, on the CPU.
        changes: names out of `SIAMESE_CHANGES`.
        count: 1 changes all images alike (what matching needs); B gives each image numbers of its own (what training
            on the finished set uses).

    >>> draw_siamese(torch.Generator().manual_seed(0), changes=("flip",)).draws.shape
    torch.Size([1, 3])
    """
    wrong = [name for name in changes if name not in SIAMESE_CHANGES]
    if wrong or not changes or count < 1:
        hint = nearest(wrong[0], SIAMESE_CHANGES) if wrong else "give at least one change, for at least one image."
        raise DistilError(f"draw_siamese: changes={tuple(changes)}, count={count}: {hint}")
    picked = int(torch.randint(len(changes), (1,), generator=generator))
    return SiameseView(changes[picked], torch.rand(count, 3, generator=generator))


def siamese(images: Tensor, view: SiameseView, *, strengths: SiameseStrengths | None = None) -> Tensor:
    """Apply one drawn change to images, differentiably: the same view on real and synthetic images pairs them.

    "color" changes brightness, saturation and contrast in this order; "crop" shifts and fills with 0; "cutout" blanks a
    square that may reach over the edge; "flip" mirrors left and right; "scale" (height and width apart) and "rotate"
    resample bilinearly about the centre. Values are not clipped.

    Args:
        images: (B, C, H, W).
        view: from :func:`draw_siamese`.
        strengths: by default those of the paper's code.

    >>> image = torch.tensor([[[[1.0, 2.0]]]])
    >>> siamese(image, SiameseView("flip", torch.zeros(1, 3)))
    tensor([[[[2., 1.]]]])

    Paper: Zhao, Bilen, *Dataset Condensation with Differentiable Siamese Augmentation*, ICML 2021, arXiv 2102.08259.
    Differs from official code: draws come from a generator that is given, not from the global one reseeded, so their
    order differs; the changes are the same functions of them.
    """
    shaped("siamese", "the images", images, ("B", "C", "H", "W"), "give a batch of images, channels first")
    if view.change not in SIAMESE_CHANGES or len(view.draws) not in (1, len(images)):
        raise DistilError(
            f"siamese: the view {view.change!r} has numbers for {len(view.draws)} images and {len(images)} are given; "
            "draw it with draw_siamese(count=1), or as many as there are images."
        )
    (pixels,) = working(images)
    draws = view.draws.to(pixels).expand(len(pixels), 3)
    return _CHANGES[view.change](pixels, draws.unbind(1), strengths or SiameseStrengths())


Drawn = tuple[Tensor, ...]


def _color(images: Tensor, draws: Drawn, how: SiameseStrengths) -> Tensor:
    bright, rich, contrast = (draw.view(-1, 1, 1, 1) for draw in draws)
    images = images + (bright - 0.5) * how.brightness
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (rich * how.saturation) + grey
    level = images.mean((1, 2, 3), keepdim=True)
    return (images - level) * (contrast + how.contrast) + level


def _crop(images: Tensor, draws: Drawn, how: SiameseStrengths) -> Tensor:
    count, _, height, width = images.shape
    rows, columns = (
        _shifted(draw, side, how.crop) for draw, side in ((draws[0], height), (draws[1], width))
    )  # (B, side), 0 and side + 1 are the blank border
    padded = F.pad(images, [1, 1, 1, 1]).permute(0, 2, 3, 1)
    each = torch.arange(count, device=images.device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _shifted(draw: Tensor, side: int, share: float) -> Tensor:
    most = int(side * share + 0.5)
    shift = (draw * (2 * most + 1)).long() - most
    return (torch.arange(side, device=draw.device) + shift[:, None] + 1).clamp(0, side + 1)


def _cutout(images: Tensor, draws: Drawn, how: SiameseStrengths) -> Tensor:
    height, width = images.shape[2:]
    tall, wide = _blank(draws[0], height, how.cutout), _blank(draws[1], width, how.cutout)
    return images * ~(tall[:, None, :, None] & wide[:, None, None, :])


def _blank(draw: Tensor, side: int, share: float) -> Tensor:
    size = int(side * share + 0.5)
    first = (draw * (side + 1 - size % 2)).long() - size // 2
    place = torch.arange(side, device=draw.device)
    return (place >= first[:, None]) & (place < first[:, None] + size)


def _flip(images: Tensor, draws: Drawn, how: SiameseStrengths) -> Tensor:
    return torch.where((draws[0] < how.flip).view(-1, 1, 1, 1), images.flip(3), images)


def _scale(images: Tensor, draws: Drawn, how: SiameseStrengths) -> Tensor:
    least = 1 / how.scale
    tall, wide = (draw * (how.scale - least) + least for draw in draws[:2])
    nothing = torch.zeros_like(tall)
    return _resampled(images, [[tall, nothing, nothing], [nothing, wide, nothing]])


def _rotate(images: Tensor, draws: Drawn, how: SiameseStrengths) -> Tensor:
    angle = (draws[0] - 0.5) * 2 * how.rotate / 180 * math.pi
    nothing = torch.zeros_like(angle)
    return _resampled(images, [[angle.cos(), -angle.sin(), nothing], [angle.sin(), angle.cos(), nothing]])


def _resampled(images: Tensor, matrix: Sequence[Sequence[Tensor]]) -> Tensor:
    theta = torch.stack([torch.stack(list(row), 1) for row in matrix], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


_CHANGES: Mapping[str, Callable[[Tensor, Drawn, SiameseStrengths], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
