"""Views of a small set's samples, drawn for a whole batch at once and known by a seed alone.

What a teacher was shown when it labelled a view, a student must be shown again. So a view is not stored: epoch e of a
seed always gives the same batches, crops, mirrors and mixtures, and a record of the seed and the settings is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distil.data.loading import mix_seed
from distil.errors import DistilError, nearest
from distil.functional.crops import crop_boxes, cropped
from distil.functional.cutmix import draw_patch, pasted

__all__ = ["CROPS", "MIXES", "Augmentation", "AugmentedBatch", "augmented", "epoch_batches"]

CROPS = ("none", "pad", "resized")
MIXES = ("none", "mixup", "cutmix")


class Samples(Protocol):
    """What is shown: a condensed set, or anything with a length that gives samples by position."""

    def __len__(self) -> int: ...

    def samples(self, positions: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Augmentation:
    """How a set's samples are shown.

    Attributes:
        crop: "pad" (shifted by up to ``pad`` pixels, what comes in is black), "resized" (a box of ``share`` of the
            area, brought to the image's size) or "none".
        pad: pixels; an eighth of the shorter side where nothing is said (4 of 32).
        share: least and largest area of a "resized" box, in (0, 1].
        flip: mirror half of the images.
        shuffle: strips along each side that change places (RDED's mosaics), before anything else; 1: none.
        mix: "mixup", "cutmix" or "none": each batch with a permutation of itself.
        alpha: of the Beta(alpha, alpha) that the own share is drawn from, once a batch.
        batch: samples in a batch.
        seed: of the draws.

    >>> Augmentation.of({"mix": "cutmix", "share": [0.5, 1.0]}).share
    (0.5, 1.0)
    """

    crop: str = "pad"
    pad: int | None = None
    share: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    shuffle: int = 1
    mix: str = "mixup"
    alpha: float = 0.8
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("crop", CROPS), ("mix", MIXES)):
            if getattr(self, name) not in known:
                raise DistilError(
                    f"augmentation.{name}={getattr(self, name)!r} is unknown; "
                    f"{nearest(str(getattr(self, name)), known)}"
                )
        low, high = self.share
        if not 0 < low <= high <= 1 or min(self.batch, self.shuffle) < 1 or (self.pad or 0) < 0 or not self.alpha > 0:
            raise DistilError(
                f"the augmentation {self} cannot be: share needs 0 < least <= largest <= 1, batch and shuffle at least "
                "1, pad at least 0, and alpha above 0."
            )

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Augmentation:
        """Return the augmentation that a set's record holds; what it does not name is at its default."""
        known = [each.name for each in fields(cls)]
        odd = next((name for name in record if name not in known), None)
        if odd is not None:
            raise DistilError(f"the augmentation names {odd!r}; {nearest(str(odd), known)}")
        given: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in record.items()}
        return cls(**given)

    def for_vectors(self) -> Augmentation:
        """Return what is left of it for inputs without pixels: mixing by mixup, if by anything."""
        return replace(self, crop="none", flip=False, shuffle=1, mix="none" if self.mix == "none" else "mixup")


class AugmentedBatch(NamedTuple):
    """Views of some samples.

    ``inputs`` ``[B, ...]`` as shown; ``positions`` ``[B]`` of the samples in the set; ``partners`` ``[B]`` of those
    mixed in (their own where nothing is); ``share``, in [0, 1], the part of each that is its own; ``rows``, where this
    batch lies in its epoch, for what was stored by view.
    """

    inputs: Tensor
    positions: Tensor
    partners: Tensor
    share: float
    rows: slice


def epoch_batches(count: int, augmentation: Augmentation, epoch: int) -> list[Tensor]:
    """Return the positions of an epoch's batches; a last batch of one sample joins the one before it.

    >>> [len(batch) for batch in epoch_batches(9, Augmentation(batch=4), 0)]
    [4, 5]
    """
    generator = torch.Generator().manual_seed(mix_seed("order", augmentation.seed, epoch))
    batches = list(torch.randperm(count, generator=generator).split(augmentation.batch))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def augmented(small: Samples, augmentation: Augmentation, epoch: int) -> Iterator[AugmentedBatch]:
    """Yield the batches of one epoch; the same epoch of the same augmentation always gives the same ones.

    Args:
        small: the set; views lie on its samples' device, drawn on the CPU, so that every device sees the same.
        augmentation: how samples are shown. Samples that are no images ``[C, H, W]`` are at most mixed up.
        epoch: which one.

    >>> from distil.data.condensed import CondensedSet
    >>> small = CondensedSet(torch.rand(4, 3, 8, 8), torch.tensor([0, 0, 1, 1]), ("a", "b"))
    >>> first, again = (next(augmented(small, Augmentation(), 3)) for _ in range(2))
    >>> torch.equal(first.inputs, again.inputs), first.inputs.shape
    (True, torch.Size([4, 3, 8, 8]))
    """
    start = 0
    for k, positions in enumerate(epoch_batches(len(small), augmentation, epoch)):
        inputs = small.samples(positions)
        generator = torch.Generator().manual_seed(mix_seed("view", augmentation.seed, epoch, k))
        how = augmentation if inputs.ndim == 4 else augmentation.for_vectors()
        shown, order, share = _mixed(_placed(inputs, how, generator), how, generator)
        yield AugmentedBatch(shown, positions, positions[order], share, slice(start, start + len(positions)))
        start += len(positions)


def _placed(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    if how.shuffle > 1:
        images = _shuffled(images, how.shuffle, generator)
    if how.crop == "resized":
        height, width = images.shape[2:]
        boxes = crop_boxes(len(images), share=how.share, mirror=0.5 if how.flip else 0.0, generator=generator)
        views = cropped(images, boxes.to(images.device), side=max(height, width))
        return views if height == width else F.interpolate(views, (height, width), mode="bilinear", antialias=True)
    pad = 0 if how.crop != "pad" else min(images.shape[2:]) // 8 if how.pad is None else how.pad
    if pad:
        offsets = torch.randint(2 * pad + 1, (2, len(images)), generator=generator)
        images = _shifted(images, pad, offsets)
    if how.flip:
        mirror = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
        images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    return images


def _shifted(images: Tensor, pad: int, offsets: Tensor) -> Tensor:
    """Cut each image's own size out of its padded form, at its own offset."""
    count, _, height, width = images.shape
    padded = F.pad(images, [pad] * 4)
    down, across = offsets.to(images.device)
    rows = (down[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (across[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    which = torch.arange(count, device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[which, channels, rows, columns]


def _shuffled(images: Tensor, strips: int, generator: torch.Generator) -> Tensor:
    """Let each image's upright strips change places, then its level ones; a last strip takes what is left over."""
    for dim in (3, 2):
        length = images.shape[dim]
        if strips > length:
            raise DistilError(f"augmentation.shuffle={strips} strips do not fit an image of {length} pixels.")
        cells = [*torch.arange(strips * (length // strips)).split(length // strips)]
        cells[-1] = torch.arange(int(cells[-1][0]), length)
        orders = [torch.cat([cells[k] for k in torch.randperm(strips, generator=generator).tolist()]) for _ in images]
        index = torch.stack(orders).to(images.device)
        shape = (len(images), 1, 1, length) if dim == 3 else (len(images), 1, length, 1)
        images = images.gather(dim, index.view(shape).expand_as(images))
    return images


def _mixed(inputs: Tensor, how: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Return the mixed batch, who was mixed in, and the share that is each sample's own."""
    count = len(inputs)
    if how.mix == "none" or count < 2:
        return inputs, torch.arange(count), 1.0
    if how.mix == "cutmix":
        patch, order = draw_patch(tuple(inputs.shape), beta=how.alpha, generator=generator)
        assert patch is not None  # it mixes always
        share = 1 - patch.height * patch.width / (inputs.shape[-2] * inputs.shape[-1])
        return pasted(inputs, inputs[order.to(inputs.device)], patch), order, share
    order = torch.randperm(count, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))  # torch draws no Beta from a generator of one's own
    share = float(np.random.default_rng(seed).beta(how.alpha, how.alpha))
    return share * inputs + (1 - share) * inputs[order.to(inputs.device)], order, share
