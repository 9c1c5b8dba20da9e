"""Deterministic loading: equal seed, epoch and id give equal samples, whatever the workers and wherever a run starts.

Three rules make a run resumable and comparable. The order of an epoch depends on ``(seed, epoch)`` alone. Every sample
is read under random generators seeded from ``(seed, epoch, id)``, so neither the number of workers nor what was read
before it matters. And reading leaves the caller's generators as they were, so data and model draw from separate wells.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from distil.data.bundle import DictDataset, collate, ids_of, indexed
from distil.data.plain import PlainBatches
from distil.errors import DistilError, nearest

__all__ = ["BatchSource", "Batches", "FullBatch", "PlainBatches", "Streams", "as_batches", "epoch_order", "mix_seed"]


@runtime_checkable
class BatchSource(Protocol):
    """What a training loop needs of its data: a length, epochs, and whether an epoch can be entered in the middle."""

    resumable: bool

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def set_epoch(self, epoch: int) -> None: ...

    def iterate(self, epoch: int | None = None, start: int = 0) -> Iterator[dict[str, Any]]: ...


def mix_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order.

    >>> mix_seed(0, 1) == mix_seed(0, 1), mix_seed(0, 1) == mix_seed(1, 0)
    (True, False)
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """Return the positions 0..n-1 in the order of one epoch; it depends on the arguments alone.

    >>> epoch_order(4, 0, 0, False)
    tensor([0, 1, 2, 3])
    """
    if not shuffle:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix_seed("order", seed, epoch)))


@contextmanager
def _generators_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


class _SeededItems(Dataset[Any]):
    """Reads items under generators seeded from (seed, epoch, id), in this process or in a worker."""

    def __init__(self, dataset: Any, ids: Tensor, seed: int, epoch: int) -> None:
        self.dataset, self.ids, self.seed, self.epoch = dataset, ids, seed, epoch

    def __getitems__(self, positions: list[int]) -> list[Any]:
        items = []
        with _generators_kept():
            for position in positions:
                seed = mix_seed(self.seed, self.epoch, int(self.ids[position]))
                random.seed(seed)
                np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
                torch.default_generator.manual_seed(seed)
                item = self.dataset[position]
                items.extend(item if isinstance(item, list) else [item])
        return items


class Batches:
    """Batches of a map-style dataset, the same for the same seed and epoch.

    Args:
        dataset: a map-style dataset of dict items or ``(x, y)`` pairs.
        batch_size: samples per batch and rank. Data smaller than a batch shrink it, with one warning. Where a dataset
            reads several views of a sample at once (``Viewed``), a batch holds as many whole samples as fit, and an
            epoch every sample with that many views.
        seed, shuffle: the order of epoch e depends on ``(seed, e)``; without ``shuffle`` it is the dataset's order.
        workers: processes that read ahead; 0 reads in this one. The values do not depend on it.
        drop_last: leave out an incomplete last batch (and, over ranks, samples that do not divide evenly).
        rank, world: this process's share. The order is dealt out like cards, so that batch k of all ranks together is
            the batch that one process with ``world * batch_size`` would see. Where the samples do not divide by
            ``world``, the order is padded with its own beginning, so that all ranks make as many steps; the ids show
            the repeats. With ``drop_last`` the remainder is left out instead.

    >>> from distil.data import DictDataset
    >>> batches = Batches(DictDataset(torch.arange(5.0)), 2, seed=0, shuffle=False)
    >>> [batch["id"].tolist() for batch in batches.iterate(epoch=0, start=1)]
    [[2, 3], [4]]
    """

    resumable = True

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        workers: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.dataset = indexed(dataset)
        count = len(self.dataset)
        if count == 0:
            raise DistilError("Batches: the dataset is empty (0 samples); at least one is needed.")
        if batch_size < 1 or not 0 <= rank < world:
            raise DistilError(
                f"Batches: batch_size={batch_size}, rank={rank}, world={world}; expected batch_size >= 1 and "
                "0 <= rank < world."
            )
        if drop_last and count < world:
            raise DistilError(f"Batches: {count} samples leave nothing for {world} ranks with drop_last=True.")
        self._share = count // world if drop_last else -(-count // world)
        each = int(getattr(self.dataset, "per_image", 1))
        self._read = max(1, batch_size // each)
        if self._read > self._share:
            warnings.warn(
                f"batch_size={batch_size} is larger than the {self._share * each} samples there are; batches of "
                f"{self._share * each} are used.",
                stacklevel=2,
            )
            self._read = self._share
        batch_size = self._read * each
        self.batch_size, self.seed, self.shuffle, self.workers = batch_size, seed, shuffle, workers
        self.drop_last, self.rank, self.world = drop_last, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        if self.drop_last:
            return self._share // self._read
        return -(-self._share // self._read)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that plain iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.iterate()

    def order(self, epoch: int) -> Tensor:
        """Return the positions that this rank reads in ``epoch``, in order."""
        order = epoch_order(len(self.dataset), self.seed, epoch, self.shuffle)
        wanted = self._share * self.world
        if wanted > len(order):
            order = order.repeat(-(-wanted // len(order)))
        return order[:wanted][self.rank :: self.world]

    def iterate(self, epoch: int | None = None, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the batches of ``epoch`` (default: the one set) from batch ``start`` on; earlier ones are not read."""
        epoch = self.epoch if epoch is None else epoch
        positions = list(self.order(epoch).split(self._read))[start : len(self)]
        if getattr(self.dataset, "in_bulk", False):
            for chosen in positions:
                yield self.dataset.batch(chosen)
            return
        items = _SeededItems(self.dataset, ids_of(self.dataset), self.seed, epoch)
        if self.workers == 0:
            for chosen in positions:
                yield collate(items.__getitems__(chosen.tolist()))
            return
        # A generator of its own: DataLoader draws a base seed, which must not come from the caller's generator.
        yield from DataLoader(
            items,
            batch_sampler=[chosen.tolist() for chosen in positions],
            num_workers=self.workers,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(0),
        )


class FullBatch:
    """A data set that is one batch, such as a graph: every epoch is that batch.

    >>> len(FullBatch({"inputs": torch.zeros(3, 2), "id": torch.arange(3)}))
    1
    """

    resumable = True

    def __init__(self, batch: Mapping[str, Any]) -> None:
        self.batch = dict(batch)

    @property
    def labels(self) -> Tensor | None:
        """The labels that count: those inside the batch's mask."""
        labels, mask = self.batch.get("labels"), self.batch.get("mask")
        return labels if labels is None or mask is None else labels[mask]

    def __len__(self) -> int:
        return 1

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.iterate()

    def iterate(self, epoch: int | None = None, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the batch, as a fresh dict of the same tensors."""
        if start == 0:
            yield dict(self.batch)


class Streams:
    """Several sources of batches in lock-step: every step is a dict ``{name: batch}``.

    The stream named by ``epoch_of`` sets the length of an epoch. The others run on through their own epochs, each with
    its own fresh order, whatever their length, so nothing is left out and a resume is exact.

    Args:
        streams: the named sources, each able to start anywhere (a dataset in :class:`Batches`, or a full batch).
        epoch_of: a name, ``"longest"`` or ``"shortest"``.
    """

    resumable = True

    def __init__(self, streams: Mapping[str, BatchSource], epoch_of: str = "longest") -> None:
        self.streams = dict(streams)
        if not self.streams:
            raise DistilError("Streams: no stream was given; at least one is needed.")
        for name, stream in self.streams.items():
            if not getattr(stream, "resumable", False):
                raise DistilError(
                    f"Streams: {name!r} is {type(stream).__name__}, which cannot be entered anywhere; give its dataset "
                    "as Batches(dataset, ...)."
                )
        self.epoch_of = epoch_of
        lengths = {name: len(stream) for name, stream in self.streams.items()}
        if epoch_of in lengths:
            self._length = lengths[epoch_of]
        elif epoch_of in ("longest", "shortest"):
            self._length = (max if epoch_of == "longest" else min)(lengths.values())
        else:
            hint = nearest(epoch_of, [*lengths, "longest", "shortest"])
            raise DistilError(f"Streams: epoch_of={epoch_of!r} names no stream; {hint}")
        self.epoch = 0

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that plain iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.iterate()

    def iterate(self, epoch: int | None = None, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield ``{name: batch}`` for ``epoch``, from step ``start`` on."""
        first = (self.epoch if epoch is None else epoch) * self._length + start
        endless = {name: _endless(stream, first) for name, stream in self.streams.items()}
        for _ in range(start, self._length):
            yield {name: next(batches) for name, batches in endless.items()}


def _endless(stream: BatchSource, step: int) -> Iterator[dict[str, Any]]:
    epoch, start = divmod(step, len(stream))
    while True:
        yield from stream.iterate(epoch, start)
        epoch, start = epoch + 1, 0


def as_batches(
    data: Any,
    batch_size: int = 256,
    *,
    seed: int = 0,
    shuffle: bool = False,
    workers: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    world: int = 1,
) -> BatchSource:
    """Return anything that holds data as a source of batches.

    Args:
        data: a map-style dataset; a source made here (returned as it is); one batch as a dict; a dict of datasets
            (they become :class:`Streams`, the first setting the epoch and keeping ``seed``); a tuple of two tensors,
            all inputs and all labels; or any iterable of ready batches, such as a list of dicts or a DataLoader. An
            ``IterableDataset`` yields samples and is batched.
        batch_size, seed, shuffle, workers, drop_last: as in :class:`Batches`; used for datasets only.
        rank, world: this process's share, as in :class:`Batches` and :class:`PlainBatches`; a source made here for one
            process is dealt out as well. One batch alone (a graph) is whole on every process.

    Raises:
        DistilError: if ``data`` holds no batches.
    """
    if isinstance(data, Batches | FullBatch | PlainBatches | Streams):
        return _dealt_out(data, rank, world) if world > 1 else data

    options: dict[str, Any] = {"shuffle": shuffle, "workers": workers, "drop_last": drop_last}

    def batched(dataset: Any, own_seed: int) -> BatchSource:
        if isinstance(dataset, Batches | FullBatch):
            return _dealt_out(dataset, rank, world) if world > 1 else dataset
        return Batches(dataset, batch_size, seed=own_seed, rank=rank, world=world, **options)

    if isinstance(data, Mapping):
        if all(isinstance(value, Tensor) for value in data.values()):
            return FullBatch(data)
        main = next(iter(data))
        named = {k: batched(v, seed if k == main else mix_seed(seed, str(k))) for k, v in data.items()}
        return Streams(named, epoch_of=main)
    if _is_pair(data):
        return batched(DictDataset(*data), seed)
    if isinstance(data, IterableDataset):
        loader = DataLoader(data, batch_size)
        loader.sharded = getattr(data, "sharded", False)
        return PlainBatches(loader, rank=rank, world=world)
    if isinstance(data, list | tuple | DataLoader):
        return PlainBatches(data, rank=rank, world=world)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return batched(data, seed)
    if isinstance(data, Iterable):
        return PlainBatches(data, rank=rank, world=world)
    raise DistilError(
        f"data of type {type(data).__name__} hold no batches; give a dataset, a DataLoader or a list of batches."
    )


def _dealt_out(source: Any, rank: int, world: int) -> BatchSource:
    """Return a source that was made for one process as this one's share of it."""
    dealt: Any = source
    if isinstance(source, Batches) and source.world == 1:
        dealt = Batches(
            source.dataset, source.batch_size, seed=source.seed, shuffle=source.shuffle, workers=source.workers,
            drop_last=source.drop_last, rank=rank, world=world,
        )  # fmt: skip
    elif isinstance(source, PlainBatches) and source.world == 1:
        dealt = PlainBatches(source.source, rank=rank, world=world)
    elif isinstance(source, Streams):
        named = {name: _dealt_out(stream, rank, world) for name, stream in source.streams.items()}
        dealt = Streams(named, epoch_of=source.epoch_of)
    return dealt


def _is_pair(data: Any) -> bool:
    """Say whether data are the tuple (all inputs, all labels)."""
    if not (isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)):
        return False
    inputs, labels = data
    return labels.ndim == 1 and not labels.is_floating_point() and inputs.ndim > 1 and len(inputs) == len(labels)
