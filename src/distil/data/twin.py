"""Two views of every sample, for methods that compare a weakly and a strongly augmented image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from distil.data.bundle import ids_of, indexed
from distil.data.fingerprint import fingerprint
from distil.errors import DistilError

__all__ = ["TwoViews"]

Augmentation = Callable[[Tensor], Tensor]


class TwoViews(Dataset[dict[str, Any]]):
    """A dataset whose items hold two augmentations of one sample: ``inputs`` (weak) and ``strong``.

    Augmentations may draw from Python's, numpy's and torch's global generators, which ``Batches`` seeds for every item.

    Args:
        dataset: any map-style dataset, not augmented.
        strong: makes the strong view of one sample's inputs, e.g. crop, mirror and ``RandAugment(2, 10)``.
        weak: makes the weak one, e.g. crop and mirror; by default the sample as it is.

    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> data = TwoViews(TensorDataset(torch.ones(3, 2), torch.arange(3)), strong=lambda x: 5 * x)
    >>> data[2]["inputs"], data[2]["strong"], data[2]["id"]
    (tensor([1., 1.]), tensor([5., 5.]), 2)
    """

    in_bulk = False

    def __init__(self, dataset: Any, *, strong: Augmentation, weak: Augmentation | None = None) -> None:
        for name, augmentation in (("strong", strong), ("weak", weak)):
            if augmentation is not None and not callable(augmentation):
                raise DistilError(
                    f"TwoViews({name}=…) is a {type(augmentation).__name__}; give a function of one sample's inputs."
                )
        self.dataset = indexed(dataset)
        self.strong, self.weak = strong, weak
        self.ids, self.labels = ids_of(self.dataset), getattr(self.dataset, "labels", None)

    @property
    def fingerprint(self) -> str:
        """The content's name; that of the plain data is another."""
        return f"{fingerprint(self.dataset)}-two-views"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = dict(self.dataset[position])
        inputs = item["inputs"]
        item["strong"] = self.strong(inputs)
        if self.weak is not None:
            item["inputs"] = self.weak(inputs)
        return item
