"""Samples that a method keeps for itself."""

from __future__ import annotations

import pytest
import torch

from distil.data import DictDataset
from distil.data.held import HeldOut, held_out_ids, held_part, inside, listed, outside, places_of
from distil.errors import DistilError


def test_a_share_of_every_class_is_held_out_whatever_the_order() -> None:
    ids, labels = torch.arange(300), torch.arange(300) % 3
    held = held_out_ids(ids, labels, 0.1)
    assert labels[held].bincount().tolist() == [10, 10, 10]
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(held_out_ids(ids[order], labels[order], 0.1), held)
    assert torch.equal(held_out_ids(ids.repeat(2), labels.repeat(2), 0.1), held)  # views of one sample
    assert not torch.equal(held_out_ids(ids, labels, 0.1, seed=1), held)


def test_small_classes_give_one_and_single_or_unlabelled_samples_none() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 2, -100, -100])
    held = held_out_ids(torch.arange(8), labels, 0.01)
    assert labels[held].tolist() == [0, 1]
    with pytest.raises(DistilError, match="too small for the controller: 3 samples, of which 1 classes"):
        held_out_ids(torch.arange(3), torch.tensor([0, 0, 1]), 0.1)


def test_who_counts_and_who_is_held() -> None:
    batch = {
        "inputs": {"x": torch.arange(4)},
        "labels": torch.tensor([0, 1, -100, 2]),
        "id": torch.tensor([3, 5, 7, 9]),
    }
    held = torch.tensor([5])
    assert outside(batch, held).tolist() == [True, False, False, True]
    assert outside({"labels": batch["labels"]}, torch.zeros(0).long()).tolist() == [True, True, False, True]
    (mine,) = inside(batch, held)
    assert mine["inputs"]["x"].tolist() == [1]
    assert inside(batch, torch.tensor([4])) == []
    with pytest.raises(DistilError, match="no 'id'"):
        outside({"labels": batch["labels"]}, held)
    assert [part.tolist() for part in listed([batch, batch])] == [[3, 5, 7, 9] * 2, [0, 1, -100, 2] * 2]
    assert places_of(torch.tensor([1]), torch.zeros(0).long()) is None


def test_held_samples_are_drawn_without_replacement_and_by_the_generator() -> None:
    held = HeldOut([{"inputs": torch.arange(k, k + 5.0), "labels": torch.arange(k, k + 5)} for k in (0, 5)])
    assert len(held) == 10
    drawn = [held.draw(4, torch.Generator().manual_seed(s))["labels"] for s in (0, 0, 1)]
    assert len(drawn[0].unique()) == 4
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(held.draw(99, torch.Generator())["labels"], torch.arange(10))


def test_batches_of_other_lengths_stay_apart() -> None:
    parts = [{"inputs": {"input_ids": torch.zeros(2, n).long()}, "labels": torch.arange(2)} for n in (3, 4)]
    held = HeldOut(parts)
    assert len(held) == 4
    lengths = {held.draw(2, torch.Generator().manual_seed(s))["inputs"]["input_ids"].shape for s in range(20)}
    assert lengths == {(2, 3), (2, 4)}


def test_the_part_that_is_held_out_of_a_data_set() -> None:
    data = DictDataset(torch.zeros(40, 1), torch.arange(40) % 2, torch.arange(100, 140))
    part = held_part(data, 0.1)
    assert torch.equal(part.ids, held_out_ids(data.ids, data.labels, 0.1))
    assert part.labels.bincount().tolist() == [2, 2]
