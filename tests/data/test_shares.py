"""What each of several processes reads: together the data once, whatever they come as."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from distil.data import DictDataset, as_batches
from distil.data.loading import Batches, FullBatch, PlainBatches, Streams

DATA = DictDataset(torch.arange(12.0)[:, None])


def both(data: Any, **options: Any) -> list[list[Any]]:
    """What two processes read in an epoch."""
    shares = []
    for rank in range(2):
        torch.manual_seed(0)
        shares.append(list(as_batches(data, 2, rank=rank, world=2, **options).iterate(0)))
    return shares


def ids(batches: list[Any]) -> list[int]:
    return [int(i) for batch in batches for i in batch["id"]]


def test_a_list_is_dealt_out() -> None:
    first, second = both(["a", "b", "c", "d", "e"])
    assert (first, second) == (["a", "c", "e"], ["b", "d", "e"])
    assert len(as_batches(["a"] * 5, rank=1, world=2)) == 3


def test_one_batch_is_everybodys() -> None:
    assert both(["a"]) == [["a"], ["a"]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_is_dealt_out_and_says_what_it_costs(shuffle: bool) -> None:
    with pytest.warns(UserWarning, match="reads every batch of this DataLoader"):
        first, second = both(DataLoader([{"id": i} for i in range(12)], batch_size=2, shuffle=shuffle))
    assert sorted(ids(first) + ids(second)) == list(range(12))


def test_a_loader_with_its_own_sampler_is_left_alone() -> None:
    items = [{"id": i} for i in range(12)]
    seen: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rank in range(2):
            loader = DataLoader(items, batch_size=2, sampler=DistributedSampler(items, 2, rank))
            seen += ids(list(as_batches(loader, rank=rank, world=2).iterate(0)))
    assert sorted(seen) == list(range(12))


class Stream(IterableDataset[Any]):
    """Yields numbers; with ``sharded`` it has seen to its own share."""

    def __init__(self, sharded: bool) -> None:
        self.sharded = sharded

    def __iter__(self) -> Iterator[Any]:
        return iter([{"id": i} for i in range(8)])


def test_an_iterable_says_whether_it_is_a_share() -> None:
    with pytest.warns(UserWarning, match="reads every batch"):
        first, second = both(Stream(sharded=False))
    assert sorted(ids(first) + ids(second)) == list(range(8))
    first, second = both(Stream(sharded=True))
    assert ids(first) == ids(second) == list(range(8))


def test_sources_made_for_one_process_are_dealt_out() -> None:
    first, second = both(Batches(DATA, 3, seed=0, shuffle=True))
    assert sorted(ids(first) + ids(second)) == list(range(12))
    streams = Streams({"a": Batches(DATA, 3, seed=0, shuffle=True)})
    first, second = both(streams)
    assert sorted(ids([b["a"] for b in first + second])) == list(range(12))
    first, second = both(PlainBatches(["a", "b"]))
    assert first + second == ["a", "b"]


def test_a_graph_is_whole_everywhere() -> None:
    graph = FullBatch({"inputs": torch.zeros(3, 2), "id": torch.arange(3)})
    first, second = both(graph)
    assert ids(first) == ids(second) == [0, 1, 2]
