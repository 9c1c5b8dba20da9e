"""Ready batches from anywhere: lists, loaders, iterables."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DistributedSampler

from distil.errors import DistilError

__all__ = ["PlainBatches"]


class PlainBatches:
    """Any iterable of ready batches, such as a list or a DataLoader. It can be entered only at the start of an epoch.

    Its order and its randomness are the iterable's own; ``set_epoch`` is passed on to it and to its sampler.

    Args:
        source: the iterable. One that gives each process a share of its own says so: a DataLoader by its
            ``DistributedSampler``, anything else by an attribute ``sharded = True``.
        rank, world: this process's share. Batches are dealt out in rounds of ``world``; a last round that is too short
            begins again with its own first batch, so that all ranks make as many steps.

    >>> list(PlainBatches(["a", "b", "c"], rank=1, world=2))
    ['b', 'c']
    """

    resumable = False

    def __init__(self, source: Iterable[Any], *, rank: int = 0, world: int = 1) -> None:
        if isinstance(source, Iterator):
            raise DistilError(
                f"{type(source).__name__} can be read only once, but training reads the data every epoch; give a list, "
                "a DataLoader or a dataset."
            )
        self.source: Any = source
        sharded = isinstance(getattr(source, "sampler", None), DistributedSampler) or getattr(source, "sharded", False)
        self.rank, self.world = (0, 1) if sharded else (rank, world)
        self.epoch = 0
        if self.world > 1 and not isinstance(source, list | tuple):
            warnings.warn(
                f"Each of {world} processes reads every batch of this {type(source).__name__} and uses one in {world}. "
                "Give a dataset, so that each reads its share alone; or a DataLoader with a DistributedSampler.",
                stacklevel=4,
            )

    def __len__(self) -> int:
        try:
            return -(-len(self.source) // self.world)
        except TypeError:
            raise DistilError(
                f"{type(self.source).__name__} has no length; name the number of steps, or give a list, a DataLoader "
                "of a sized dataset, or a dataset."
            ) from None

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to whatever takes one."""
        self.epoch = epoch
        for part in (self.source, getattr(self.source, "sampler", None), getattr(self.source, "batch_sampler", None)):
            if part is not None and hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        return self.iterate()

    def iterate(self, epoch: int | None = None, start: int = 0) -> Iterator[Any]:
        """Yield the iterable's batches; a ``start`` other than 0 is refused, as what came before is not known."""
        if start:
            raise DistilError(
                f"{type(self.source).__name__} is a plain iterable of batches and can be resumed only at the start of "
                f"an epoch, not at batch {start}; give a dataset, or Batches(dataset, ...), for an exact resume."
            )
        self.set_epoch(self.epoch if epoch is None else epoch)
        return iter(self.source) if self.world == 1 else self._dealt(iter(self.source))

    def _dealt(self, batches: Iterator[Any]) -> Iterator[Any]:
        while dealt := list(islice(batches, self.world)):
            yield dealt[self.rank % len(dealt)]
