"""Images with a label for every pixel: tables of picture and mask, and mirroring that turns both."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distil.data.bundle import NO_LABEL, Bundle, DictDataset, View
from distil.data.fingerprint import fingerprint
from distil.data.loading import epoch_order
from distil.errors import DistilError

__all__ = ["Mirrored", "read_masks"]

SIZE = (96, 128)


class Mirrored(Dataset[dict[str, Any]]):
    """A dataset whose items are mirrored left to right, each with probability one half, label maps with their images.

    The draw comes from torch's global generator, which ``Batches`` seeds for every item: the same seed and epoch mirror
    the same samples.

    >>> from distil.data import Batches
    >>> images = torch.tensor([[[[0.0, 1.0]]]]).repeat(8, 1, 1, 1)
    >>> data = Mirrored(DictDataset(images, images[:, 0].long()))
    >>> batch = next(iter(Batches(data, 8, seed=0, shuffle=False)))
    >>> torch.equal(batch["inputs"][:, 0].long(), batch["labels"]), batch["labels"][:, 0, 0].unique()
    (True, tensor([0, 1]))
    """

    in_bulk = False

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.ids, self.labels = dataset, dataset.ids, dataset.labels

    @property
    def fingerprint(self) -> str:
        """The content's name; that of the plain data is another."""
        return f"{fingerprint(self.dataset)}-mirrored"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = dict(self.dataset[position])
        if torch.rand(()) < 0.5:
            item["inputs"], item["labels"] = item["inputs"].flip(-1), item["labels"].flip(-1)
        return item


def read_masks(
    name: str,
    files: Mapping[str, Path],
    *,
    classes: Sequence[str],
    void: int,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    limit: int | None = None,
    mirror: bool = True,
) -> Bundle:
    """Read parquet tables of pictures and masks as a bundle for segmentation.

    Args:
        name: of the data set.
        files: ``{"train": path, "val": path, "test": path}``; columns ``image`` and ``mask`` hold encoded pictures, the
            mask's pixels being class ids.
        classes: class names; label k is ``classes[k]``.
        void: the mask's value for "no label", which becomes -100.
        size: ``(height, width)`` or one number; default 96 x 128. Pictures are resized bilinearly, masks to the nearest
            pixel.
        seed: chooses the samples where there is a limit.
        limit: at most this many samples of each split.
        mirror: mirror training items at random.
    """
    shape = (size, size) if isinstance(size, int) else tuple(size or SIZE)
    pixels, labels, parts, start = [], [], {}, 0
    for split, path in files.items():
        rows = _rows(path, limit, seed)
        images, masks = _decoded(path, rows, (shape[0], shape[1]), len(classes), void)
        pixels.append(images)
        labels.append(masks)
        parts[split] = torch.arange(start, start + len(rows))
        start += len(rows)
    whole = DictDataset(torch.cat(pixels), torch.cat(labels))
    views = {split: View(whole, part) for split, part in parts.items()}
    content = {"inputs": whole.inputs, "labels": whole.labels, **parts}
    notes = [] if limit is None else [f"at most {limit} samples of each split are used."]
    return Bundle(
        name=name,
        task="segmentation",
        train=Mirrored(views["train"]) if mirror else views["train"],
        val=views["val"],
        test=views["test"],
        classes=tuple(classes),
        input_shape=tuple(whole.inputs.shape[1:]),
        fingerprint=fingerprint(content) + ("-mirrored" if mirror else ""),
        notes=tuple(notes),
    )


def _rows(path: Path, limit: int | None, seed: int) -> list[dict[str, Any]]:
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["image", "mask"])
    except (OSError, ValueError, KeyError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DistilError(
            f"{str(path)!r} is no readable parquet file with the columns image and mask "
            f"({str(error).splitlines()[0]}); is it complete?"
        ) from error
    chosen = epoch_order(table.num_rows, seed, 0, limit is not None)[:limit].sort().values
    rows: list[dict[str, Any]] = table.take(chosen.numpy()).to_pylist()
    if not rows:
        raise DistilError(f"{str(path)!r} holds no rows; each split needs at least one sample.")
    return rows


def _decoded(
    path: Path, rows: Sequence[Mapping[str, Any]], size: tuple[int, int], classes: int, void: int
) -> tuple[Tensor, Tensor]:
    """Return images ``[N, 3, H, W]`` as bytes and label maps ``[N, H, W]``."""
    from PIL import Image

    images, masks = np.zeros((len(rows), *size, 3), np.uint8), np.zeros((len(rows), *size), np.int64)
    for k, row in enumerate(rows):
        try:
            image, mask = (Image.open(io.BytesIO(row[column]["bytes"])) for column in ("image", "mask"))
            images[k] = np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))
            masks[k] = np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST))
        except Exception as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise DistilError(
                f"row {k} of {str(path)!r} cannot be decoded ({type(error).__name__}: {reason}); download it again."
            ) from error
    labels = np.where(masks == void, NO_LABEL, masks)
    wrong = labels[(labels != NO_LABEL) & ((labels < 0) | (labels >= classes))]
    if wrong.size:
        raise DistilError(
            f"a mask of {str(path)!r} holds the value {int(wrong[0])}; expected classes 0..{classes - 1} or {void} for "
            "void."
        )
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
