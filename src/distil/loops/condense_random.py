"""The plainest small set: real samples, drawn at random from each class."""

from __future__ import annotations

import torch

from distil.data.condensed import CondensedSet
from distil.data.loading import mix_seed
from distil.loops.condense_check import per_class_or_all
from distil.loops.order import Order

__all__ = ["random_set"]


def random_set(order: Order) -> CondensedSet:
    """Draw ``per_class`` real samples of each class, without replacement; a class with fewer gives all.

    >>> from distil.data import load
    >>> small = random_set(Order(load("digits"), per_class=2, seed=0))
    >>> len(small), small.labels.tolist()[:4]
    (20, [0, 0, 1, 1])
    """
    counts = per_class_or_all(order, "random")
    generator = torch.Generator().manual_seed(mix_seed("condense", "random", order.seed))
    chosen = [order.real(label, limit=count, generator=generator) for label, count in enumerate(counts)]
    positions = torch.cat(chosen)
    labels = torch.arange(order.classes).repeat_interleave(torch.tensor([len(part) for part in chosen]))
    return CondensedSet(order.inputs(positions), labels, order.bundle.classes, ids=order.ids(positions))
