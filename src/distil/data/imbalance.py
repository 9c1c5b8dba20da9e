"""Long-tailed subsets: class counts that fall exponentially from the head to the tail, as CIFAR-LT has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distil.data.bundle import NO_LABEL, View, indexed, labels_of
from distil.data.loading import mix_seed
from distil.errors import DistilError

__all__ = ["class_thirds", "long_tail", "long_tail_positions", "tail_counts"]


def tail_counts(classes: int, size: float, *, imbalance: float) -> list[float]:
    """Return how many samples each class has, from head to tail: ∝ imbalance^(−k / (C − 1)), ``size`` in all.

    Args:
        classes: C, at least 2.
        size: of the whole, before rounding.
        imbalance: the first count over the last, at least 1.

    >>> tail_counts(3, 21, imbalance=16)
    [16.0, 4.0, 1.0]
    """
    if classes < 2 or not imbalance >= 1:
        raise DistilError(
            f"long_tail: classes={classes} must be at least 2 and imbalance={imbalance} at least 1 (the "
            "largest class's count over the smallest's)."
        )
    shares = [imbalance ** (-k / (classes - 1)) for k in range(classes)]
    return [size * share / sum(shares) for share in shares]


def long_tail(
    dataset: Any, size: int | None = None, *, imbalance: float = 50.0, order: Sequence[int] | None = None, seed: int = 0
) -> View:
    """Return a view whose class counts fall exponentially; for the training part alone, so that scores stay balanced.

    Args:
        dataset: a map-style dataset with one label for each sample; unlabelled samples are not taken.
        size: of the view; by default the most that its classes allow.
        imbalance: the largest class's count over the smallest's, at least 1.
        order: the classes from head to tail; by default by their number.
        seed: decides which samples of a class are taken.

    Raises:
        DistilError: a class has too few samples, or would have none; ``order`` is no order of the classes.

    >>> from distil.data import DictDataset
    >>> few = long_tail(DictDataset(torch.zeros(60, 1), torch.arange(60) % 3), 26, imbalance=16, order=[2, 0, 1])
    >>> few.labels.bincount().tolist()
    [5, 1, 20]
    """
    dataset = indexed(dataset)
    return View(dataset, long_tail_positions(labels_of(dataset), size, imbalance=imbalance, order=order, seed=seed))


def long_tail_positions(
    labels: Tensor,
    size: int | None = None,
    *,
    imbalance: float = 50.0,
    order: Sequence[int] | None = None,
    seed: int = 0,
) -> Tensor:
    """Return the sorted positions of a long-tailed part; see :func:`long_tail`."""
    if labels.ndim != 1:
        raise DistilError(
            f"long_tail: the labels are maps of shape {tuple(labels.shape[1:])}, so a sample is of no one class; use "
            "split(dataset, [count])."
        )
    values = labels.numpy()
    present = np.unique(values[values != NO_LABEL]).tolist()
    ranked = present if order is None else list(order)
    if sorted(ranked) != present:
        raise DistilError(
            f"long_tail: order={ranked} must name each class of the data once; they are {present}. Leave it out to "
            "take them by number."
        )
    members = {label: np.flatnonzero(values == label) for label in ranked}
    ideal = tail_counts(len(ranked), 1.0, imbalance=imbalance)
    most = int(min(len(members[label]) / share for label, share in zip(ranked, ideal)))
    counts = _whole([share * (most if size is None else size) for share in ideal])
    if size is None:  # rounding may ask for one more than there is
        counts = [min(count, len(members[label])) for label, count in zip(ranked, counts)]
    for label, count in zip(ranked, counts):
        if not 1 <= count <= len(members[label]):
            raise DistilError(
                f"long_tail: class {label} has {len(members[label])} samples and would keep {count} of {size or most} "
                f"at imbalance={imbalance:g}; ask for at most {most}, and for enough that the rarest class keeps one."
            )
    rng = np.random.default_rng(mix_seed("long tail", seed))
    taken = [rng.permutation(members[label])[:count] for label, count in sorted(zip(ranked, counts))]
    return torch.from_numpy(np.sort(np.concatenate(taken)))


def _whole(counts: Sequence[float]) -> list[int]:
    """Round counts so that they add up as the given ones do, and never rise from head to tail."""
    ends = np.rint(np.cumsum(counts)).astype(int).tolist()
    return sorted((end - start for start, end in zip([0, *ends], ends)), reverse=True)


def class_thirds(order: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the most frequent and the rarest third of the classes, rounded down, as groups to be scored.

    >>> class_thirds(range(10))
    {'head third': (0, 1, 2), 'tail third': (7, 8, 9)}
    """
    third = len(order) // 3
    if third < 1:
        raise DistilError(f"class_thirds: {len(order)} classes have no thirds; there must be 3 at least.")
    return {"head third": tuple(order[:third]), "tail third": tuple(order[-third:])}
