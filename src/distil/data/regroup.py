"""Fewer classes than the data have: labels put together, the fine ones kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from distil.data.bundle import NO_LABEL, Bundle, ids_of, indexed, labels_of
from distil.errors import DistilError

__all__ = ["FINE", "Regrouped", "regrouped"]

FINE = "fine"
"""Where an item or a batch keeps its label from before."""


class Regrouped(Dataset[dict[str, Any]]):
    """A dataset whose label k is ``groups[k]``; its items and batches keep k as ``fine``, -100 where there is none.

    >>> from distil.data import DictDataset
    >>> data = Regrouped(DictDataset(torch.zeros(3, 1), torch.tensor([4, 7, -100])), [k % 2 for k in range(10)])
    >>> data.labels, data[1]["fine"]
    (tensor([   0,    1, -100]), tensor(7))
    """

    def __init__(self, dataset: Any, groups: Sequence[int]) -> None:
        self.dataset = indexed(dataset)
        self.ids, self.fine = ids_of(self.dataset), labels_of(self.dataset)
        table = torch.tensor(list(groups))
        known = self.fine[self.fine != NO_LABEL]
        if self.fine.ndim != 1 or (len(known) and not 0 <= int(known.min()) <= int(known.max()) < len(table)):
            raise DistilError(
                f"regrouped: groups name {len(table)} classes, and the labels go from {int(known.min())} to "
                f"{int(known.max())} in shape {tuple(self.fine.shape)}; one class per sample and a group for each is "
                "expected."
            )
        self.labels = torch.where(self.fine == NO_LABEL, NO_LABEL, table[self.fine.clamp(min=0)])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = dict(self.dataset[position])
        return {**item, "labels": self.labels[position], FINE: self.fine[position]}

    @property
    def in_bulk(self) -> bool:
        """Whether :meth:`batch` gives the same values as collating single items."""
        return bool(getattr(self.dataset, "in_bulk", False))

    def batch(self, positions: Tensor) -> dict[str, Any]:
        """Return the samples at ``positions`` as one batch."""
        found: Mapping[str, Any] = self.dataset.batch(positions)
        return {**found, "labels": self.labels[positions], FINE: self.fine[positions]}


def regrouped(bundle: Bundle, groups: Sequence[int], *, classes: Sequence[str] | None = None) -> Bundle:
    """Return the data with label k replaced by ``groups[k]``; each item keeps k as ``fine``, which no method reads
    unless it says so.

    Args:
        bundle: of data with one class per sample.
        groups: the new class of each old one, 0 … G - 1, every number in use.
        classes: their names; by default the old names joined by "/".

    >>> from distil.data import load
    >>> parity = regrouped(load("digits"), [k % 2 for k in range(10)], classes=["even", "odd"])
    >>> sample = parity.train[0]
    >>> parity.classes, int(sample["labels"]) == int(sample["fine"]) % 2
    (('even', 'odd'), True)
    """
    if len(groups) != len(bundle.classes):
        raise DistilError(
            f"regrouped: {len(groups)} groups for the {len(bundle.classes)} classes of {bundle.name}; give one each."
        )
    wanted = sorted(set(groups))
    if wanted != list(range(len(wanted))):
        raise DistilError(f"regrouped: the groups are {wanted}; number them 0 … {len(wanted) - 1} without a gap.")
    members = [[name for name, g in zip(bundle.classes, groups) if g == k] for k in wanted]
    names = tuple(classes) if classes is not None else tuple("/".join(map(str, group)) for group in members)
    if len(names) != len(wanted):
        raise DistilError(f"regrouped: {len(names)} names for {len(wanted)} groups; give one for each.")
    train, val, test = (Regrouped(part, groups) for part in (bundle.train, bundle.val, bundle.test))
    name = hashlib.sha256(f"{bundle.fingerprint} {list(groups)}".encode()).hexdigest()[:16]
    note = f"{len(bundle.classes)} classes were put together as {len(wanted)}."
    return replace(
        bundle, train=train, val=val, test=test, classes=names, fingerprint=name, notes=(*bundle.notes, note),
        unlabelled=None,
    )  # fmt: skip
