"""What a data set is here: items and batches as dicts with an id, views of them, and the bundle that a source returns.

An item is ``{"inputs": tensor, "labels": int64 scalar, "id": int}``; label -100 means "no label". Where every pixel has
a label, an item's labels are a map. The id names a sample
for good: it survives shuffling, splitting and hiding of labels, and the teacher cache and the error messages use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from distil.errors import DistilError

__all__ = ["NO_LABEL", "Bundle", "DictDataset", "View", "as_dict", "collate", "ids_of", "indexed", "labels_of"]

NO_LABEL = -100

# What the common libraries call the two things; the first name present wins.
_INPUT_KEYS = ("inputs", "pixel_values", "input_values", "input_features", "input_ids", "image", "images", "img", "x")
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")
_ID_KEYS = ("id", "ids", "index", "idx")


@dataclass(frozen=True)
class Bundle:
    """A data set ready to learn from.

    Args:
        name: what the user called it.
        task: the name of the task it is for (``"classification"``, ``"node-classification"``,
            ``"text-classification"``, ``"segmentation"``), or the task itself where that holds something, as a text's
            tokenizer.
        train, val, test: datasets of items, or for a graph full batches; ids are unique over the three.
        classes: the class names; label k is ``classes[k]``.
        input_shape: the shape of one sample's inputs.
        fingerprint: a hash of the content, so that two runs can say whether they saw the same data.
        notes: what a reader must know: skipped files, splits made here, duplicates.
        unlabelled: more items without labels, if the source has them.
        contents: what each sample holds, by id, as 16 hex digits; stored splits know samples by it.
        preprocessing: how inputs are made from raw data, as plain JSON, where the data learned it (a table's columns).
    """

    name: str
    task: Any
    train: Any
    val: Any
    test: Any
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    unlabelled: Any = None
    contents: Mapping[int, str] | None = None
    preprocessing: Mapping[str, Any] | None = None


class DictDataset(Dataset[dict[str, Any]]):
    """Samples in memory, read as dict items one by one or as whole batches.

    uint8 inputs are pixels: they stay uint8 in memory and are read as float32 in [0, 1].

    Args:
        inputs: ``[N, ...]``.
        labels: ``[N]`` integers (or maps of them, ``[N, H, W]``), -100 for "no label"; ``None`` labels nothing.
        ids: ``[N]`` unique integers; default 0..N-1.
        transform: a function of one sample's inputs, for example an augmentation. It may draw from Python's, numpy's
            and torch's global generators: ``Batches`` seeds them for every item.

    >>> data = DictDataset(torch.zeros(3, 2), torch.tensor([0, 1, -100]))
    >>> data[1]["labels"], data[1]["id"], len(data)
    (tensor(1), 1, 3)
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        ids: Tensor | None = None,
        *,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        count = len(inputs)
        labels = torch.full((count,), NO_LABEL) if labels is None else torch.as_tensor(labels)
        ids = torch.arange(count) if ids is None else torch.as_tensor(ids)
        for name, tensor in (("labels", labels), ("ids", ids)):
            if len(tensor) != count:
                raise DistilError(
                    f"DictDataset: {count} inputs but {len(tensor)} {name}; there must be one for every sample."
                )
        self.inputs = inputs
        self.labels = integer_labels(labels)
        self.ids = ids.long()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, position: int) -> dict[str, Any]:
        inputs = _pixels(self.inputs[position])
        if self.transform is not None:
            inputs = self.transform(inputs)
        return {"inputs": inputs, "labels": self.labels[position], "id": int(self.ids[position])}

    @property
    def in_bulk(self) -> bool:
        """Whether :meth:`batch` gives the same values as collating single items."""
        return self.transform is None

    def batch(self, positions: Tensor) -> dict[str, Tensor]:
        """Return the samples at ``positions`` as one batch, in one indexing step (without the transform)."""
        return {
            "inputs": _pixels(self.inputs.index_select(0, positions)),
            "labels": self.labels.index_select(0, positions),
            "id": self.ids.index_select(0, positions),
        }


class View(Dataset[dict[str, Any]]):
    """Some samples of a dataset in a given order, possibly with other labels; nothing is copied.

    Args:
        dataset: a dataset of dict items.
        positions: which of its positions, in order; default all.
        labels: ``[len(positions)]`` labels that replace the dataset's own.

    >>> View(DictDataset(torch.arange(4.0), ids=torch.tensor([10, 11, 12, 13])), torch.tensor([3, 0]))[0]["id"]
    13
    """

    def __init__(self, dataset: Any, positions: Tensor | None = None, labels: Tensor | None = None) -> None:
        self.dataset = dataset
        self.positions = torch.arange(len(dataset)) if positions is None else positions.long()
        own = getattr(dataset, "labels", None)
        self.relabelled = labels is not None
        self.labels = labels.long() if labels is not None else (None if own is None else own[self.positions])
        self.ids = ids_of(dataset)[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Any:
        found = self.dataset[int(self.positions[position])]
        if isinstance(found, list):  # several views of one sample
            return [self._relabelled(item, position) for item in found]
        return self._relabelled(found, position)

    def _relabelled(self, item: Mapping[str, Any], position: int) -> dict[str, Any]:
        item = dict(item)
        if self.relabelled and self.labels is not None:
            item["labels"] = self.labels[position]
        return item

    @property
    def per_image(self) -> int:
        """How many items one position gives: 1, or the views of an image that are read at once."""
        return int(getattr(self.dataset, "per_image", 1))

    @property
    def in_bulk(self) -> bool:
        """Whether :meth:`batch` gives the same values as collating single items."""
        return bool(getattr(self.dataset, "in_bulk", False))

    def batch(self, positions: Tensor) -> dict[str, Tensor]:
        """Return the samples at ``positions`` of this view as one batch."""
        batch = dict(self.dataset.batch(self.positions[positions]))
        if self.relabelled and self.labels is not None:
            batch["labels"] = self.labels[positions]
        return batch


class _Indexed(Dataset[dict[str, Any]]):
    """Any map-style dataset, its items turned into dicts with the position as id."""

    in_bulk = False

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.ids = torch.arange(len(dataset))
        self.labels = _cheap_labels(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = as_dict(self.dataset[position])
        item.setdefault("labels", NO_LABEL)
        item["id"] = int(item.get("id", position))
        return item


def indexed(dataset: Any) -> Any:
    """Wrap any map-style dataset of ``(x, y)`` pairs or dicts so that its items are dicts with an ``id``.

    The id is the position in ``dataset``; wrap before any random subset is drawn. A dataset that already has ids is
    returned as it is.

    >>> from torch.utils.data import TensorDataset
    >>> indexed(TensorDataset(torch.zeros(2, 3), torch.tensor([1, 0])))[1]["id"]
    1
    """
    if hasattr(dataset, "in_bulk"):  # one of this project's own datasets
        return dataset
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise DistilError(
            f"indexed: {type(dataset).__name__} has no __getitem__ and __len__, so its samples have no stable ids; "
            "give a map-style dataset."
        )
    return _Indexed(dataset)


def as_dict(raw: Any) -> dict[str, Any]:
    """Return an item or a batch under this project's names: ``inputs``, and ``labels`` and ``id`` where present.

    Accepts a dict with the usual names (``pixel_values``, ``image``, ``x``, ``label``, ``target``, …), an ``(x, y)``
    pair, an ``(x, y, id)`` triple, or the inputs alone. Other entries of a dict are kept.

    >>> as_dict((torch.zeros(1), 3))["labels"]
    3
    """
    if isinstance(raw, (dict, Mapping)):
        return _renamed(raw)
    if isinstance(raw, tuple | list) and 1 <= len(raw) <= 3:
        return dict(zip(("inputs", "labels", "id"), raw))
    if isinstance(raw, Tensor):
        return {"inputs": raw}
    raise DistilError(
        f"a batch or item of type {type(raw).__name__} cannot be read; give a dict with 'inputs' and 'labels', or an "
        "(inputs, labels) pair."
    )


def _renamed(raw: Mapping[str, Any]) -> dict[str, Any]:
    item = dict(raw)
    for name, keys in (("inputs", _INPUT_KEYS), ("labels", _LABEL_KEYS), ("id", _ID_KEYS)):
        if name not in item and (found := next((key for key in keys if key in item), None)) is not None:
            item[name] = item.pop(found)
    if "inputs" not in item:
        raise DistilError(f"a batch with the keys {sorted(map(str, raw))} has no inputs; name them 'inputs'.")
    return item


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack dict items into a batch with torch's own collation; labels and ids become int64."""
    try:
        batch = cast("dict[str, Any]", default_collate([dict(item) for item in items]))
    except (RuntimeError, TypeError, KeyError) as error:
        ids = [item.get("id") for item in items[:4]]
        shapes = sorted({str(tuple(item["inputs"].shape)) for item in items if hasattr(item["inputs"], "shape")})
        raise DistilError(
            f"the samples {ids}… cannot be stacked into one batch (input shapes {', '.join(shapes) or 'none'}): "
            f"{str(error).splitlines()[0]}. Bring them to one shape, for example with size=."
        ) from error
    batch["labels"] = integer_labels(torch.as_tensor(batch["labels"]))
    return batch


def integer_labels(labels: Tensor) -> Tensor:
    """Return labels as int64, refusing what is no class id (soft or one-hot rows, fractions)."""
    if labels.dtype == torch.int64:
        return labels
    if labels.is_floating_point() or labels.is_complex():
        raise DistilError(
            f"labels of dtype {labels.dtype} and shape {tuple(labels.shape)} are no class ids; give integers "
            "0..C-1 (-100 for 'no label'), for example labels.argmax(1) for one-hot rows."
        )
    return labels.long()


def ids_of(dataset: Any) -> Tensor:
    """Return the ids of a dataset's samples, ``[N]``; the positions where it names none."""
    ids = getattr(dataset, "ids", None)
    return torch.arange(len(dataset)) if ids is None else torch.as_tensor(ids).long()


def labels_of(dataset: Any) -> Tensor:
    """Return all labels of a dataset, ``[N]`` or maps ``[N, H, W]``: its ``labels``, else those of every item read."""
    labels = _cheap_labels(dataset)
    if labels is None:
        read: Iterable[Any] = (as_dict(dataset[k]).get("labels", NO_LABEL) for k in range(len(dataset)))
        labels = torch.stack([integer_labels(torch.as_tensor(label)) for label in read])
    return labels


def _cheap_labels(dataset: Any) -> Tensor | None:
    tensors = getattr(dataset, "tensors", ())  # torch's TensorDataset
    for found in (getattr(dataset, "labels", None), getattr(dataset, "targets", None), *tensors[1:2]):
        if isinstance(found, Tensor | list | tuple) and len(found) == len(dataset):
            return integer_labels(torch.as_tensor(found))
    return None


def _pixels(inputs: Tensor) -> Tensor:
    return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs
