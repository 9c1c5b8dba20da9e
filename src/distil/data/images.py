"""Labelled images from a folder, a parquet file or a csv table, as a bundle of equally shaped uint8 tensors.

Every image is decoded once when it is loaded, so that a broken file is named before training and not after an hour of
it, and so that copies and leaks between the splits can be counted.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distil.data.bundle import Bundle, DictDataset, View
from distil.data.classes import number_labels
from distil.data.records import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    Listing,
    Record,
    image_column,
    image_label,
    is_integer,
    list_folder,
    list_parquet,
    split_name,
)
from distil.data.splits import content_of, count_copies, make_splits, read_splits
from distil.data.tables import read_table
from distil.errors import DistilError

__all__ = ["ImageFiles", "bundle_images", "read_images", "read_picture"]

MEMORY_LIMIT = 2 << 30
_CHUNK = 2048  # images decoded before the next are asked for
_SHOWN = 5


class _Decoded(NamedTuple):
    pixels: np.ndarray[Any, Any] | None
    error: str = ""


def read_images(
    path: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    image: str | None = None,
    label: str | None = None,
    classes: Sequence[int | str] | None = None,
    splits: str | Path | None = None,
    drop_leaks: bool = False,
    memory_limit: int = MEMORY_LIMIT,
) -> Bundle:
    """Read labelled images.

    Args:
        path: a folder (``CLASS/IMAGE`` or ``SPLIT/CLASS/IMAGE``, or parquet files named by split), a ``.parquet`` or a
            ``.csv`` file (columns for image and label, optionally ``split``).
        size: ``(height, width)`` or one number for both; default the common size. Images of another shape are cropped
            in the middle to the wanted proportions and resized.
        channels: 3 for RGB or 1 for grey; default what the majority has.
        seed: decides the splits made where the source has none: 70/15/15, stratified.
        limit: at most this many samples of each split, stratified.
        image, label: the columns of a table, if they have unusual names.
        classes: the class names in the order of the outputs; default those found, sorted.
        splits: a file of stored splits (``splits.csv`` of an earlier run) that decides instead of the source.
        drop_leaks: leave images of train that also stand in val or test out of train.
        memory_limit: bytes of decoded pixels kept in memory; above, images are decoded again when they are read.

    Raises:
        DistilError: if there is no image, one class only, or a source that cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise DistilError(f"there is no file or folder {str(path)!r}; correct the path.")
    if path.is_dir():
        listing = list_folder(path)
    elif path.suffix.lower() == ".parquet":
        listing = list_parquet(path, image=image, label=label)
    elif path.suffix.lower() == ".csv":
        listing = _list_csv(path, image=image, label=label)
    else:
        raise DistilError(f"{str(path)!r} is no folder, .parquet or .csv; give one of them.")
    return bundle_images(
        path.name,
        listing,
        size=size,
        channels=channels,
        seed=seed,
        limit=limit,
        classes=classes,
        splits=splits,
        drop_leaks=drop_leaks,
        memory_limit=memory_limit,
    )


def _list_csv(path: Path, *, image: str | None = None, label: str | None = None) -> Listing:
    """List the rows of a csv table with a header: a path relative to the table, a label, and optionally a split."""
    table = read_table(path)
    columns = table.columns
    image = image_column(path, list(columns), image, IMAGE_COLUMNS, "image path")
    label = image_column(path, list(columns), label, LABEL_COLUMNS, "label")
    values: list[Any] = [image_label(cell.strip() or None, table.place(k)) for k, cell in enumerate(columns[label])]
    if all(is_integer(value) for value in values):
        values = [int(value) for value in values]
    listing = Listing()
    splits = columns.get("split") or [""] * len(values)
    for name, value, split in zip(columns[image], values, splits, strict=True):
        listing.records.append(Record(name, path.parent / name.strip(), value, split_name(split.strip())))
    return listing


def bundle_images(
    name: str,
    listing: Listing,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    classes: Sequence[int | str] | None = None,
    splits: str | Path | None = None,
    drop_leaks: bool = False,
    memory_limit: int = MEMORY_LIMIT,
) -> Bundle:
    """Decode a listing and return its bundle; see :func:`read_images`."""
    notes = list(listing.notes)
    labels, names = number_labels(
        name,
        [record.label for record in listing.records],
        [record.split in (None, "train") for record in listing.records],
        notes,
        place=lambda k: f"the image {listing.records[k].name!r}",
        given=classes,
        declared=listing.classes,
        noun="images",
    )
    given = [record.split for record in listing.records]
    if splits is not None:
        given = read_splits(splits, [_content_of(record) for record in listing.records], notes)
    parts = make_splits(name, given, labels, seed, limit, notes)
    chosen = torch.cat(parts).sort().values
    records = [listing.records[k] for k in chosen.tolist()]
    shape = _shape(records, size, channels, notes)
    fits = len(records) * int(np.prod(shape)) <= memory_limit
    pixels, digests = _decode_all(records, shape, fits, notes)
    kept = torch.tensor([digest is not None for digest in digests])
    if not kept.any():
        raise DistilError(f"{name!r}: none of the {len(records)} images can be decoded; {notes[-1]}")
    ids = chosen[kept]
    dataset = _dataset(records, pixels, kept, labels[ids], ids, shape)
    if pixels is None:
        limit_mib = memory_limit / 2**20
        notes.append(f"the images take more than {limit_mib:.0f} MiB, so they are decoded when they are read.")
    found = [digest for digest in digests if digest is not None]
    positions = [torch.isin(ids, part).nonzero().flatten() for part in parts]
    positions = count_copies(found, labels[ids], positions, notes, drop=drop_leaks)
    train, val, test = (View(dataset, part) for part in positions)
    _refuse_empty(name, (train, val, test), labels[ids], notes)
    return Bundle(
        name=name,
        task="classification",
        train=train,
        val=val,
        test=test,
        classes=names,
        input_shape=shape,
        fingerprint=_content(found, labels[ids], ids, positions, names, shape),
        notes=tuple(notes),
        contents={k: _content_of(listing.records[k]) for k in ids.tolist()},
    )


def _dataset(
    records: Sequence[Record],
    pixels: np.ndarray[Any, Any] | None,
    kept: Tensor,
    labels: Tensor,
    ids: Tensor,
    shape: tuple[int, int, int],
) -> Any:
    if pixels is None:
        return ImageFiles([record for record, good in zip(records, kept.tolist()) if good], labels, ids, shape)
    tensor = torch.from_numpy(pixels)
    return DictDataset(tensor if bool(kept.all()) else tensor[kept], labels, ids)


class ImageFiles(Dataset[dict[str, Any]]):
    """Images decoded when they are read: items as those of :class:`DictDataset`, float32 in [0, 1]."""

    in_bulk = False

    def __init__(self, records: Sequence[Record], labels: Tensor, ids: Tensor, shape: tuple[int, int, int]) -> None:
        self.records, self.labels, self.ids, self.shape = list(records), labels, ids, shape

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> dict[str, Any]:
        decoded = _decode(self.records[position], self.shape)
        if decoded.pixels is None:
            name = self.records[position].name
            raise DistilError(
                f"the image {name!r} was readable when it was loaded and is not any more: {decoded.error}."
            )
        inputs = torch.from_numpy(decoded.pixels).float().div_(255)
        return {"inputs": inputs, "labels": self.labels[position], "id": int(self.ids[position])}


def _content_of(record: Record) -> str:
    """Name the encoded image: what it is decoded to depends on settings. A file that is gone holds nothing."""
    try:
        return content_of(record.source if isinstance(record.source, bytes) else record.source.read_bytes())
    except OSError:
        return content_of(b"")


def _open(record: Record) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(record.source) if isinstance(record.source, bytes) else record.source)


def _shape(
    records: Sequence[Record], size: int | tuple[int, int] | None, channels: int | None, notes: list[str]
) -> tuple[int, int, int]:
    if channels not in (None, 1, 3):
        raise DistilError(f"channels={channels}; expected 1 (grey) or 3 (RGB).")
    if isinstance(size, int):
        size = (size, size)
    if size is not None and channels is not None:
        return channels, *size
    sizes: Counter[tuple[int, int]] = Counter()
    grey = colour = 0
    for record in records:
        try:
            with _open(record) as image:
                sizes[image.height, image.width] += 1
                is_grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
        except Exception:  # whatever it is, decoding will name it
            continue
        grey, colour = grey + is_grey, colour + (not is_grey)
    if channels is None:
        channels = 1 if grey > colour else 3
        if grey and colour:
            notes.append(
                f"{grey} grey and {colour} colour images: all are read as {'grey' if channels == 1 else 'RGB'}."
            )
    if size is None:
        size = _common_size(sizes, notes)
    return channels, *size


def _common_size(sizes: Counter[tuple[int, int]], notes: list[str]) -> tuple[int, int]:
    if not sizes:
        return 32, 32  # nothing could be opened; decoding says so
    (size, count), total = sizes.most_common(1)[0], sum(sizes.values())
    if count * 2 <= total:
        shorter = sorted(min(each) for each in sizes.elements())
        side = min(224, shorter[len(shorter) // 2])
        size = (side, side)
    if count < total:
        notes.append(f"the images have {len(sizes)} sizes: all are read as {size[0]}x{size[1]}; choose with size=.")
    return size


def _decode(record: Record, shape: tuple[int, int, int]) -> _Decoded:
    from PIL import ImageOps

    channels, height, width = shape
    try:
        with _open(record) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits per pixel: PIL's own conversion would clip them to white
                image = _from_deep(image)
            image = image.convert("L" if channels == 1 else "RGB")
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height))
            pixels = np.asarray(image, dtype=np.uint8)
    except Exception as error:
        return _Decoded(None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return _Decoded(np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1)))


def read_picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Return one image file as uint8 ``[C, H, W]``, read as :func:`read_images` reads it."""
    decoded = _decode(Record(str(path), path, 0), shape)
    if decoded.pixels is None:
        raise DistilError(f"the image cannot be decoded ({decoded.error}).")
    return decoded.pixels


def _from_deep(image: Any) -> Any:
    from PIL import Image

    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))


def _decode_all(
    records: Sequence[Record], shape: tuple[int, int, int], keep: bool, notes: list[str]
) -> tuple[np.ndarray[Any, Any] | None, list[bytes | None]]:
    """Decode every image once; return the pixels (if kept) and a digest of each, ``None`` for a broken one."""
    pixels = np.zeros((len(records), *shape), np.uint8) if keep else None
    digests: list[bytes | None] = []
    broken = []
    for k, decoded in enumerate(_in_threads(records, shape)):
        if decoded.pixels is None:
            broken.append(f"{records[k].name!r} ({decoded.error})")
            digests.append(None)
            continue
        digests.append(hashlib.sha256(decoded.pixels.tobytes()).digest())
        if pixels is not None:
            pixels[k] = decoded.pixels
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        notes.append(f"{len(broken)} images cannot be decoded and were skipped: {', '.join(broken[:_SHOWN])}{more}.")
    return pixels, digests


def _in_threads(records: Sequence[Record], shape: tuple[int, int, int]) -> Iterator[_Decoded]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(records), _CHUNK):
            yield from pool.map(lambda record: _decode(record, shape), records[start : start + _CHUNK])


def _refuse_empty(name: str, parts: Sequence[View], labels: Tensor, notes: Sequence[str]) -> None:
    sizes = [len(part) for part in parts]
    if 0 in sizes:
        raise DistilError(
            f"{name!r} has {sum(sizes)} usable images, which leave train, val and test with {sizes}; none may be "
            f"empty: give more images. {' '.join(notes)}"
        )
    if len(labels.unique()) < 2:
        raise DistilError(f"{name!r} has one class only among its usable images; give at least two. {' '.join(notes)}")


def _content(
    digests: Sequence[bytes],
    labels: Tensor,
    ids: Tensor,
    parts: Sequence[Tensor],
    classes: Sequence[str],
    shape: Sequence[int],
) -> str:
    whole = hashlib.sha256(repr((tuple(classes), tuple(shape))).encode())
    for digest in digests:
        whole.update(digest)
    for tensor in (labels, ids, *parts):
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()[:16]
