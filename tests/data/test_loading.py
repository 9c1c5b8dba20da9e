"""Deterministic loading: the same samples whatever the workers, the start, the ranks, and the caller's generators."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from distil.data import (
    Batches,
    DictDataset,
    FullBatch,
    PlainBatches,
    Streams,
    View,
    as_batches,
    epoch_order,
    indexed,
)
from distil.errors import DistilError


def noisy(inputs: torch.Tensor) -> torch.Tensor:
    """An augmentation that draws from all three global generators."""
    return inputs + random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return 11

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return torch.rand(2) + position, position % 3


def same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(left, right)
    )


@pytest.fixture
def data() -> DictDataset:
    return DictDataset(torch.arange(22.0).view(11, 2), torch.arange(11) % 3, torch.arange(50, 61), transform=noisy)


def test_items_and_batches_are_dicts(data: DictDataset) -> None:
    item = data[3]
    assert set(item) == {"inputs", "labels", "id"}
    assert item["id"] == 53
    batch = next(iter(Batches(data, 4, seed=0, shuffle=False)))
    assert batch["inputs"].shape == (4, 2)
    assert batch["labels"].dtype == batch["id"].dtype == torch.int64
    assert batch["id"].tolist() == [50, 51, 52, 53]


@pytest.mark.parametrize("make", [lambda: Pairs(), lambda: DictDataset(torch.zeros(11, 2), transform=noisy)])
def test_workers_do_not_change_the_values(make: Any) -> None:
    alone = list(Batches(make(), 3, seed=5, shuffle=True).iterate(2))
    helped = list(Batches(make(), 3, seed=5, shuffle=True, workers=2).iterate(2))
    assert same(alone, helped)
    assert alone[0]["inputs"].unique().numel() > 1


def test_an_epoch_can_be_entered_anywhere(data: DictDataset) -> None:
    for dataset in (data, DictDataset(data.inputs, data.labels)):
        batches = Batches(dataset, 2, seed=1, shuffle=True)
        whole = list(batches.iterate(3))
        for start in range(len(batches) + 1):
            assert same(list(batches.iterate(3, start)), whole[start:])


def test_epochs_and_seeds_differ_and_repeat(data: DictDataset) -> None:
    batches = Batches(data, 11, seed=1, shuffle=True)
    first, second = next(batches.iterate(0)), next(batches.iterate(1))
    assert sorted(first["id"].tolist()) == sorted(second["id"].tolist())
    assert first["id"].tolist() != second["id"].tolist()
    assert not torch.equal(first["inputs"].sort(0).values, second["inputs"].sort(0).values)
    batches.set_epoch(1)
    assert same([second], list(batches))
    assert not torch.equal(next(Batches(data, 11, seed=2, shuffle=True).iterate(0))["id"], first["id"])


def test_a_sample_depends_on_its_id_not_on_its_position(data: DictDataset) -> None:
    alone = next(Batches(View(data, torch.tensor([7])), 1, seed=1, shuffle=False).iterate(4))
    whole = next(Batches(data, 11, seed=1, shuffle=True).iterate(4))
    row = int((whole["id"] == 57).nonzero())
    assert torch.equal(alone["inputs"][0], whole["inputs"][row])


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_callers_generators_alone(data: DictDataset, workers: int) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    list(Batches(data, 4, seed=0, shuffle=True, workers=workers))
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected  # noqa: NPY002


def test_the_fast_path_equals_the_slow_one() -> None:
    pixels = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8)
    fast = DictDataset(pixels, torch.arange(9) % 2)
    slow = DictDataset(pixels, torch.arange(9) % 2, transform=lambda image: image)
    assert (fast.in_bulk, slow.in_bulk) == (True, False)
    left = list(Batches(fast, 4, seed=3, shuffle=True))
    assert same(left, list(Batches(slow, 4, seed=3, shuffle=True)))
    assert left[0]["inputs"].dtype == torch.float32
    assert float(left[0]["inputs"].max()) <= 1.0
    views = [View(d, torch.tensor([8, 2, 4]), torch.tensor([5, -100, 6])) for d in (fast, slow)]
    assert same(*[list(Batches(view, 2, seed=0, shuffle=False)) for view in views])
    assert next(iter(Batches(views[0], 3, seed=0, shuffle=False)))["labels"].tolist() == [5, -100, 6]


def test_data_smaller_than_a_batch_shrink_it_with_one_warning(data: DictDataset) -> None:
    with pytest.warns(UserWarning, match="batch_size=64 is larger than the 11 samples") as caught:
        batches = Batches(data, 64, seed=0, shuffle=True)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(batch["id"]) for batch in batches] == [11]
    assert len(batches) == 1


def test_drop_last(data: DictDataset) -> None:
    batches = Batches(data, 4, seed=0, shuffle=True, drop_last=True)
    assert [len(batch["id"]) for batch in batches] == [4, 4]
    assert len(batches) == 2
    assert len(Batches(data, 4, seed=0, shuffle=True)) == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 7), st.booleans(), st.booleans(), st.integers(0, 3))
def test_ranks_share_the_global_batch(n: int, world: int, size: int, shuffle: bool, drop: bool, epoch: int) -> None:
    if drop and n < world:
        return
    data = DictDataset(torch.arange(float(n)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranks = [
            Batches(data, size, seed=9, shuffle=shuffle, drop_last=drop, rank=r, world=world) for r in range(world)
        ]
    ids = [[batch["id"].tolist() for batch in rank.iterate(epoch)] for rank in ranks]
    assert len({tuple(map(len, batches)) for batches in ids}) == 1
    assert all(len(rank) == len(batches) for rank, batches in zip(ranks, ids))
    order = epoch_order(n, 9, epoch, shuffle).tolist()
    for step in range(len(ids[0])):
        dealt = [ids[r][step][k] for k in range(len(ids[0][step])) for r in range(world)]
        begin = step * ranks[0].batch_size * world
        assert dealt == (order * 2 * world)[begin : begin + len(dealt)]
    if not drop:
        assert {i for rank in ids for batch in rank for i in batch} == set(range(n))


def test_wrong_arguments_are_refused(data: DictDataset) -> None:
    with pytest.raises(DistilError, match="dataset is empty"):
        Batches(DictDataset(torch.zeros(0, 2)), 4, seed=0, shuffle=False)
    with pytest.raises(DistilError, match="batch_size=0"):
        Batches(data, 0, seed=0, shuffle=False)
    with pytest.raises(DistilError, match="nothing for 12 ranks"):
        Batches(data, 1, seed=0, shuffle=False, drop_last=True, world=12)
    with pytest.raises(DistilError, match="stable ids"):
        indexed(iter([1]))
    with pytest.raises(DistilError, match=r"samples \[0, 1\]… cannot be stacked .*\(2,\), \(3,\)"):
        list(Batches(_Ragged(), 2, seed=0, shuffle=False))


class _Ragged(Dataset[Any]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2 + position), 0


def test_as_batches_takes_datasets_loaders_lists_and_dicts(data: DictDataset) -> None:
    made = as_batches(data, 4, seed=3, shuffle=True)
    assert isinstance(made, Batches)
    assert as_batches(made) is made
    assert made.resumable
    tensors = as_batches(TensorDataset(torch.zeros(5, 2), torch.arange(5)), 2)
    assert [batch["labels"].tolist() for batch in tensors] == [[0, 1], [2, 3], [4]]
    assert isinstance(as_batches({"inputs": torch.zeros(2, 3)}), FullBatch)
    with pytest.raises(DistilError, match="type int hold no batches"):
        as_batches(3)


def test_plain_iterables_resume_only_at_epoch_starts() -> None:
    loader = DataLoader(TensorDataset(torch.arange(4.0)), batch_size=2)
    plain = as_batches(loader)
    assert isinstance(plain, PlainBatches)
    assert not plain.resumable
    assert len(plain) == len(list(plain)) == len(list(plain.iterate(1))) == 2
    with pytest.raises(DistilError, match="resumed only at the start of an epoch, not at batch 1"):
        plain.iterate(0, 1)
    with pytest.raises(DistilError, match="can be read only once"):
        as_batches(iter([1]))
    with pytest.raises(DistilError, match="has no length"):
        len(as_batches(_Endless()))


class _Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([torch.zeros(2)] * 3)


def test_an_iterable_dataset_is_batched() -> None:
    assert [len(batch) for batch in as_batches(_Endless(), 2)] == [2, 1]


def test_plain_iterables_pass_the_epoch_on() -> None:
    class Sampler:
        epoch = -1

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    class Loader(list[Any]):
        sampler = Sampler()

    list(PlainBatches(Loader([1])).iterate(7))
    assert Loader.sampler.epoch == 7


def test_streams_run_in_lock_step_and_reorder_the_short_one(data: DictDataset) -> None:
    short = DictDataset(torch.arange(4.0))
    parts = {"train": Batches(data, 2, seed=0, shuffle=True), "small": Batches(short, 2, seed=0, shuffle=True)}
    streams = Streams(parts, epoch_of="longest")
    assert len(streams) == 6
    steps = list(streams)
    assert [set(step) for step in steps] == [{"train", "small"}] * 6
    rounds = [sorted(i for step in steps[k : k + 2] for i in step["small"]["id"].tolist()) for k in (0, 2, 4)]
    assert rounds == [[0, 1, 2, 3]] * 3
    orders = [[step["small"]["id"].tolist() for step in steps[k : k + 2]] for k in (0, 2, 4)]
    assert orders[0] != orders[1] or orders[1] != orders[2]
    assert same([step["train"] for step in steps], list(parts["train"].iterate(0)))


@pytest.mark.parametrize("epoch_of", ["longest", "shortest", "small"])
def test_streams_resume_anywhere(data: DictDataset, epoch_of: str) -> None:
    parts = {
        "train": Batches(data, 2, seed=0, shuffle=True),
        "small": Batches(DictDataset(torch.arange(5.0)), 2, seed=0, shuffle=True),
    }
    streams = Streams(parts, epoch_of)
    whole = [step for epoch in range(3) for step in streams.iterate(epoch)]
    for epoch in range(3):
        for start in range(len(streams)):
            tail = list(streams.iterate(epoch, start))
            expected = whole[epoch * len(streams) + start : (epoch + 1) * len(streams)]
            assert all(same([a[n] for a in tail], [b[n] for b in expected]) for n in parts)
    if epoch_of == "shortest":  # the longer one runs on, so nothing of it is left out
        seen = {i for step in whole for i in step["train"]["id"].tolist()}
        assert len(seen) == 11


def test_streams_refuse_unknown_names_and_plain_iterables(data: DictDataset) -> None:
    with pytest.raises(DistilError, match="'train'"):
        Streams({"train": Batches(data, 2, seed=0, shuffle=True)}, epoch_of="trian")
    with pytest.raises(DistilError, match=r"'a' is PlainBatches"):
        Streams({"a": PlainBatches([1])})
    with pytest.raises(DistilError, match="no stream"):
        Streams({})


def test_a_dict_of_datasets_keeps_the_seed_of_the_first(data: DictDataset) -> None:
    streams = as_batches({"train": data, "more": DictDataset(torch.zeros(11))}, 11, seed=4, shuffle=True)
    step = next(iter(streams))
    alone = next(iter(Batches(data, 11, seed=4, shuffle=True)))
    assert torch.equal(step["train"]["id"], alone["id"])
    assert step["more"]["id"].tolist() != [i - 50 for i in alone["id"].tolist()]


def test_full_batch_is_the_same_every_epoch() -> None:
    full = FullBatch({"inputs": torch.eye(2), "labels": torch.tensor([1, 0]), "mask": torch.tensor([False, True])})
    assert len(full) == len(list(full)) == 1
    assert list(full.iterate(3, 1)) == []
    assert full.labels is not None
    assert full.labels.tolist() == [0]
