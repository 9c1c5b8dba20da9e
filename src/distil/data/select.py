"""Choosing samples: stratified splits, a few per class, and hiding labels. All are views; nothing is copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distil.data.bundle import NO_LABEL, View, ids_of, indexed, labels_of
from distil.data.loading import mix_seed
from distil.errors import DistilError

__all__ = ["hide_labels", "per_class_positions", "split", "split_positions", "take_per_class"]


def split(dataset: Any, sizes: Sequence[float], seed: int = 0) -> list[View]:
    """Cut a dataset into disjoint parts in which every class has its share, give or take one sample.

    Args:
        dataset: a map-style dataset; items keep their ids.
        sizes: counts (integers), or shares (fractions that sum to at most 1). What they leave over is in no part.
        seed: decides who goes where; it depends on the labels, not on the inputs.

    >>> from distil.data import DictDataset
    >>> parts = split(DictDataset(torch.zeros(20, 1), torch.arange(20) % 2), [0.5, 0.5])
    >>> [part.labels.bincount().tolist() for part in parts]
    [[5, 5], [5, 5]]
    """
    dataset = indexed(dataset)
    return [View(dataset, part) for part in split_positions(labels_of(dataset), sizes, seed)]


def split_positions(labels: Tensor, sizes: Sequence[float], seed: int = 0) -> list[Tensor]:
    """Return the positions of each part of a stratified split; see :func:`split`. Label maps are not stratified."""
    counts = _counts(len(labels), sizes)
    labels = labels if labels.ndim == 1 else labels.new_zeros(len(labels))
    rng = np.random.default_rng(mix_seed("split", seed))
    values = labels.numpy()
    # Each sample gets its quantile within its own (shuffled) class; cutting the list sorted by quantile then gives
    # every cut the same share of every class, with exact sizes.
    place = np.empty(len(values))
    for label in np.unique(values):
        members = rng.permutation(np.flatnonzero(values == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    order = np.lexsort((rng.random(len(values)), place))
    ends = np.cumsum(counts)
    return [torch.from_numpy(np.sort(order[end - count : end])) for count, end in zip(counts, ends)]


def _counts(total: int, sizes: Sequence[float]) -> list[int]:
    if not sizes or min(sizes) < 0:
        raise DistilError(f"split: sizes={list(sizes)}; expected at least one size, none of them negative.")
    if all(isinstance(size, int) for size in sizes):
        counts = [int(size) for size in sizes]
    elif sum(sizes) > 1 + 1e-9:
        raise DistilError(f"split: the shares {list(sizes)} sum to {sum(sizes):g}; they may sum to 1 at most.")
    else:
        ends = [round(total * share) for share in np.cumsum(sizes)]
        counts = [end - start for start, end in zip([0, *ends], ends)]
    if sum(counts) > total:
        raise DistilError(f"split: {sum(counts)} samples are wanted but there are {total}; ask for fewer.")
    return counts


def take_per_class(dataset: Any, count: int, seed: int = 0) -> View:
    """Return a view with ``count`` samples of every class, chosen by ``seed``; unlabelled samples are not taken.

    >>> from distil.data import DictDataset
    >>> len(take_per_class(DictDataset(torch.zeros(9, 1), torch.arange(9) % 3), 2))
    6
    """
    dataset = indexed(dataset)
    return View(dataset, per_class_positions(labels_of(dataset), count, seed))


def per_class_positions(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return the sorted positions of ``count`` samples of every class; see :func:`take_per_class`."""
    if labels.ndim != 1:
        raise DistilError(
            f"take_per_class: the labels are maps of shape {tuple(labels.shape[1:])}, so a sample is of no one class; "
            "use split(dataset, [count])."
        )
    rng = np.random.default_rng(mix_seed("per class", seed))
    values = labels.numpy()
    chosen = []
    for label in np.unique(values[values != NO_LABEL]):
        members = np.flatnonzero(values == label)
        if len(members) < count:
            raise DistilError(
                f"take_per_class: class {label} has {len(members)} samples but {count} per class are wanted; ask for "
                f"at most {len(members)}."
            )
        chosen.append(rng.permutation(members)[:count])
    if not chosen:
        raise DistilError("take_per_class: no sample has a label; give labelled data.")
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def hide_labels(dataset: Any, keep_ids: Iterable[int] | Tensor) -> View:
    """Return a view of the whole dataset in which only the samples with these ids keep their label; others get -100.

    >>> from distil.data import DictDataset
    >>> hide_labels(DictDataset(torch.zeros(3, 1), torch.tensor([2, 1, 0])), [1]).labels
    tensor([-100,    1, -100])
    """
    dataset = indexed(dataset)
    ids = ids_of(dataset)
    keep = keep_ids.long() if isinstance(keep_ids, Tensor) else torch.tensor(list(keep_ids), dtype=torch.long)
    unknown = keep[~torch.isin(keep, ids)]
    if len(unknown):
        raise DistilError(f"hide_labels: the id {int(unknown[0])} is not in the dataset; give ids of its samples.")
    labels = labels_of(dataset)
    kept = torch.isin(ids, keep).view(-1, *[1] * (labels.ndim - 1))
    labels = torch.where(kept, labels, NO_LABEL)
    return View(dataset, labels=labels)
