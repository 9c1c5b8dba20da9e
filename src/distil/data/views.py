"""Views of images: crops, flips, colours and mixtures drawn once, noted in a few bytes each and replayed exactly.

Augmentation as it is usually read cannot be taught from stored answers: nobody knows any more which crop the teacher
saw. Here every sample has ``count`` views, numbered from 0. What makes a view is drawn from (seed, sample id, view) and
kept as a record of fixed size, so that the same pixels come back in any order, batch, worker or process.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distil.data.bundle import NO_LABEL, ids_of, indexed
from distil.data.fingerprint import fingerprint
from distil.data.loading import mix_seed
from distil.errors import DistilError, nearest

__all__ = ["KINDS", "Viewed", "Views", "replay"]

KINDS = ("crop", "flip", "colour", "mixup", "cutmix")
"""What a view may change."""

_MIXES = ("mixup", "cutmix")
_MOST = 1 << 15
_SIDE = 1 << 16
Record = Any  # np.void of :attr:`Views.layout`
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Views:
    """How many views every sample has, and what they may change.

    Args:
        count: views of each sample; 0 for none.
        kinds: some of ``crop`` (a box of random size and shape, resized back), ``flip`` (left and right), ``colour``
            (brightness, contrast, saturation), ``mixup`` and ``cutmix`` (another sample's pixels blended in or pasted
            over; the view's own sample keeps at least half; with both, one of them each time).
        seed: of the draws.
        scale, ratio: of a crop: its share of the area, and width over height.
        jitter: colours are multiplied by 1 − jitter to 1 + jitter.
        alpha: the share of a mixture is drawn from Beta(alpha, alpha).

    >>> Views(8, ("crop", "flip")).bytes
    9
    """

    count: int = 0
    kinds: tuple[str, ...] = ("crop", "flip")
    seed: int = 0
    scale: tuple[float, ...] = (0.35, 1.0)
    ratio: tuple[float, ...] = (0.75, 4 / 3)
    jitter: float = 0.4
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.count <= _MOST:
            raise DistilError(f"views.count={self.count} is impossible; expected 0 (none) to {_MOST}.")
        if not self.kinds:
            raise DistilError(f"views change nothing; name at least one of {', '.join(KINDS)}.")
        for kind in self.kinds:
            if kind not in KINDS:
                raise DistilError(f"the augmentation {kind!r} is unknown; {nearest(kind, KINDS)}")
        for name, most in (("scale", 1.0), ("ratio", math.inf)):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
                raise DistilError(f"views.{name}={list(pair)} is impossible; expected two rising numbers above 0.")
        if not 0 <= self.jitter < 1 or not self.alpha > 0:
            raise DistilError(f"views.jitter={self.jitter:g} must lie in [0, 1), and alpha={self.alpha:g} above 0.")

    def plain(self) -> dict[str, Any]:
        """Return it as JSON would hold it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Views:
        """Return what :meth:`plain` described."""
        known: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in plain.items()}
        return cls(**known)

    @property
    def mixes(self) -> bool:
        """Whether a view may hold another sample's pixels."""
        return any(kind in self.kinds for kind in _MIXES)

    @property
    def layout(self) -> np.dtype[Any]:
        """What a record holds: little-endian, without gaps; only the fields that ``kinds`` need."""
        fields: list[Any] = []
        if "crop" in self.kinds:
            fields.append(("box", "<u2", (4,)))  # top, left, height, width
        if "flip" in self.kinds:
            fields.append(("flip", "u1"))
        if "colour" in self.kinds:
            fields.append(("colour", "<f2", (3,)))
        if self.mixes:
            fields += [("partner", "<i8"), ("share", "<f4")]
        if "cutmix" in self.kinds:
            fields.append(("patch", "<u2", (4,)))
        return np.dtype(fields)

    @property
    def bytes(self) -> int:
        """The bytes of a record."""
        return self.layout.itemsize

    def untouched(self, height: int, width: int) -> Record:
        """Return the record that changes nothing."""
        record = np.zeros((), dtype=self.layout)
        for name, value in (("box", (0, 0, height, width)), ("colour", 1), ("partner", -1), ("share", 1)):
            if name in record.dtype.names:
                record[name] = value
        return record

    def draw(self, sample: int, view: int, size: tuple[int, int], others: Tensor) -> Record:
        """Return the record of a view.

        Args:
            sample: its id.
            view: its number.
            size: height and width of the image.
            others: the ids a partner is drawn from.

        >>> views, ids = Views(2, ("flip", "mixup")), torch.arange(9)
        >>> bool(views.draw(3, 1, (8, 8), ids) == views.draw(3, 1, (8, 8), ids))
        True
        """
        height, width = size
        if not 0 < max(size) < _SIDE:
            raise DistilError(f"views of images of {height}x{width} pixels cannot be recorded; expected under {_SIDE}.")
        rng, record = random.Random(mix_seed("view", self.seed, sample, view)), self.untouched(height, width)
        if "crop" in self.kinds:
            record["box"] = _box(rng, height, width, self.scale, self.ratio)
        if "flip" in self.kinds:
            record["flip"] = rng.random() < 0.5
        if "colour" in self.kinds:
            record["colour"] = [rng.uniform(1 - self.jitter, 1 + self.jitter) for _ in range(3)]
        if self.mixes:
            share, partner = rng.betavariate(self.alpha, self.alpha), int(others[int(rng.random() * len(others))])
            share = max(share, 1 - share)
            record["partner"] = partner
            if "mixup" not in self.kinds or ("cutmix" in self.kinds and rng.random() < 0.5):
                record["patch"] = patch = _patch(rng, height, width, 1 - share)
                share = 1 - patch[2] * patch[3] / (height * width)
            record["share"] = share
        return record


def replay(image: Tensor, record: Record, partner: Tensor | None = None) -> Tensor:
    """Return the view of an image that a record describes: crop, flip, colours, then the mixture.

    Args:
        image: ``[C, H, W]``; colours need values in [0, 1].
        record: as :meth:`Views.draw` gave it.
        partner: the view of the record's partner, ``[C, H, W]``, where it has one.

    Raises:
        DistilError: no image, a box outside it, colours outside [0, 1], a partner that is missing, no torchvision.

    >>> record = Views(1, ("flip",)).untouched(1, 2)
    >>> record["flip"] = 1
    >>> replay(torch.tensor([[[0.0, 1.0]]]), record)
    tensor([[[1., 0.]]])
    """
    names = record.dtype.names
    if image.ndim != 3:
        raise DistilError(f"views are of images [C, H, W]; a sample's inputs have the shape {tuple(image.shape)}.")
    if "box" in names:
        image = _cropped(image, [int(x) for x in record["box"]])
    if "flip" in names and record["flip"]:
        image = image.flip(-1)
    if "colour" in names:
        image = _coloured(image, [float(x) for x in record["colour"]])
    if "partner" not in names or int(record["partner"]) < 0:
        return image
    if partner is None or partner.shape != image.shape:
        seen = "missing" if partner is None else f"of shape {tuple(partner.shape)}, not {tuple(image.shape)}"
        raise DistilError(f"the view mixes in sample {int(record['partner'])}, which is {seen}; give its view.")
    top, left, height, width = (int(x) for x in record["patch"]) if "patch" in names else (0, 0, 0, 0)
    if height and width:
        image = image.clone()
        image[:, top : top + height, left : left + width] = partner[:, top : top + height, left : left + width]
        return image
    share = float(record["share"])
    return image * share + partner * (1 - share)


class Viewed(Dataset[Any]):
    """A dataset of images in views; ``view`` and ``augment`` (the record's bytes) stand beside every ``id``.

    Which view a sample shows is drawn anew each time it is read, so that under ``Batches`` it depends on (seed, epoch,
    id) alone. Where a view is mixed, ``labels`` is the label of the greater share, ``partner_labels`` the other's and
    ``share`` the weight of the first.

    Args:
        dataset: a map-style dataset of images; what it changes itself as they are read is not seen here.
        views: what views there are.
        per_image: how many of them one reading (and decoding) of a sample gives: an item is then a list of dicts.
        records: uint8 ``[N, count, bytes]`` that were stored, instead of drawing them.
        in_order: give the views 0, 1, … instead of drawing which.

    >>> from distil.data import Batches, DictDataset
    >>> data = Viewed(DictDataset(torch.rand(4, 1, 2, 2)), Views(6, ("flip",)), per_image=3)
    >>> batch = next(Batches(data, 6, seed=0, shuffle=False).iterate(0))
    >>> batch["id"].tolist(), len(set(batch["view"][:3].tolist())), batch["inputs"].shape
    ([0, 0, 0, 1, 1, 1], 3, torch.Size([6, 1, 2, 2]))
    """

    in_bulk = False

    def __init__(
        self, dataset: Any, views: Views, *, per_image: int = 1, records: Bytes | None = None, in_order: bool = False
    ) -> None:
        self.dataset, self.views, self.per_image, self.in_order = indexed(dataset), views, per_image, in_order
        self.ids, self.labels = ids_of(self.dataset), getattr(self.dataset, "labels", None)
        if not 1 <= per_image <= views.count:
            raise DistilError(
                f"{per_image} views of an image cannot be read at once: there are {views.count}; expected 1 to "
                f"{views.count}."
            )
        expected = (len(self.dataset), views.count, views.bytes)
        if records is not None and records.shape != expected:
            raise DistilError(f"records of shape {records.shape} do not fit; expected {expected}.")
        self.records = records

    def every(self) -> Viewed:
        """Return the same samples, all views of each in order."""
        return Viewed(self.dataset, self.views, per_image=self.views.count, records=self.records, in_order=True)

    @property
    def fingerprint(self) -> str:
        """Names the data and their views."""
        return fingerprint({"data": fingerprint(self.dataset), "views": self.views.plain()})

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Any:
        count = self.views.count
        chosen = range(self.per_image) if self.in_order else torch.randperm(count)[: self.per_image].tolist()
        item = dict(self.dataset[position])
        items = [self._view(item, position, view) for view in chosen]
        return items[0] if self.per_image == 1 else items

    def record(self, position: int, view: int, size: tuple[int, int]) -> Record:
        """Return the record of a view of the sample at ``position``."""
        if self.records is not None:
            return self.records[position, view].view(self.views.layout)[0]
        return self.views.draw(int(self.ids[position]), view, size, self.ids)

    def _view(self, item: dict[str, Any], position: int, view: int) -> dict[str, Any]:
        image = item["inputs"]
        if image.ndim != 3:
            raise DistilError(f"views are of images [C, H, W]; sample {item['id']} has the shape {tuple(image.shape)}.")
        record = self.record(position, view, tuple(image.shape[-2:]))
        found = {**item, "view": view, "augment": torch.from_numpy(_as_bytes(record))}
        if not self.views.mixes:
            return {**found, "inputs": replay(image, record)}
        other, label = self._partner(int(record["partner"]), view)
        share = float(record["share"])
        return {**found, "inputs": replay(image, record, other), "partner_labels": label, "share": share}

    def _partner(self, sample: int, view: int) -> tuple[Tensor | None, Any]:
        """Return the partner's own view of that number, not mixed again, and its label."""
        if sample < 0:
            return None, torch.tensor(NO_LABEL)
        position = self._place.get(sample)
        if position is None:
            raise DistilError(
                f"sample {sample} is mixed into a view and is not among the {len(self)} samples; give the data that "
                "the views were made of."
            )
        item = dict(self.dataset[position])
        record = self.record(position, view, tuple(item["inputs"].shape[-2:])).copy()
        record["partner"] = -1
        return replay(item["inputs"], record), torch.as_tensor(item["labels"])

    @cached_property
    def _place(self) -> dict[int, int]:
        return {int(sample): position for position, sample in enumerate(self.ids)}


def _as_bytes(record: Record) -> Bytes:
    return np.frombuffer(record.tobytes(), dtype=np.uint8).copy()


def _box(
    rng: random.Random, height: int, width: int, scale: tuple[float, ...], ratio: tuple[float, ...]
) -> tuple[int, int, int, int]:
    """Draw a box as the usual random resized crop does; where ten tries do not fit it is the whole image."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        tall, wide = max(1, round(math.sqrt(area / shape))), max(1, round(math.sqrt(area * shape)))
        if tall <= height and wide <= width:
            return rng.randint(0, height - tall), rng.randint(0, width - wide), tall, wide
    return 0, 0, height, width


def _patch(rng: random.Random, height: int, width: int, share: float) -> tuple[int, int, int, int]:
    tall, wide = int(height * math.sqrt(share)), int(width * math.sqrt(share))
    return rng.randint(0, height - tall), rng.randint(0, width - wide), tall, wide


def _cropped(image: Tensor, box: list[int]) -> Tensor:
    (top, left, tall, wide), (height, width) = box, image.shape[-2:]
    if not (tall and wide) or top + tall > height or left + wide > width:
        raise DistilError(
            f"the crop {tall}x{wide} at ({top}, {left}) does not lie in an image of {height}x{width}: the record is "
            "of another size of the data, or damaged."
        )
    if (tall, wide) == (height, width):
        return image
    cropped: Tensor = _pixels().resized_crop(image, top, left, tall, wide, [height, width], antialias=True)
    return cropped


def _coloured(image: Tensor, factors: list[float]) -> Tensor:
    if all(factor == 1 for factor in factors):
        return image
    low, high = torch.aminmax(image)
    if not 0 <= float(low) <= float(high) <= 1:
        raise DistilError(
            f"colours are changed in images in [0, 1], and these lie in [{float(low):.3g}, {float(high):.3g}]: leave "
            "'colour' out, or normalise in the task."
        )
    if image.shape[0] not in (1, 3):
        raise DistilError(f"colours are changed in grey or RGB images, and these have {image.shape[0]} channels.")
    pixels = _pixels()
    image = pixels.adjust_contrast(pixels.adjust_brightness(image, factors[0]), factors[1])
    changed: Tensor = pixels.adjust_saturation(image, factors[2]) if image.shape[0] == 3 else image
    return changed


def _pixels() -> Any:
    try:
        from torchvision.transforms.v2 import functional
    except ImportError as error:
        raise DistilError(
            "crops and colours need torchvision, which is not installed: pip install 'distil[vision]'."
        ) from error
    return functional
