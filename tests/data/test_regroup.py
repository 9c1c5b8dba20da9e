"""Labels put together: what stays of the fine ones, and through which views they come."""

from __future__ import annotations

import pytest
import torch

from distil.data import Batches, DictDataset, load, regrouped, split, take_per_class
from distil.data.regroup import Regrouped
from distil.errors import DistilError

PARITY = [k % 2 for k in range(10)]


def test_parity_of_digits_keeps_the_digit() -> None:
    plain, parity = load("digits"), regrouped(load("digits"), PARITY)
    assert parity.classes == ("0/2/4/6/8", "1/3/5/7/9")
    assert parity.fingerprint != plain.fingerprint
    assert parity.notes[-1] == "10 classes were put together as 2."
    for part in ("train", "val", "test"):
        ours, theirs = getattr(parity, part), getattr(plain, part)
        assert torch.equal(ours.labels, theirs.labels % 2)
        assert torch.equal(ours.ids, theirs.ids)
        positions = torch.arange(5)
        batch, before = ours.batch(positions), theirs.batch(positions)
        assert torch.equal(batch["fine"], before["labels"])
        assert torch.equal(batch["inputs"], before["inputs"])
        item = ours[3]
        assert (int(item["fine"]), int(item["labels"])) == (int(before["labels"][3]), int(before["labels"][3]) % 2)


def test_the_fine_label_comes_through_splits_and_batches() -> None:
    parity = regrouped(load("digits"), PARITY)
    (few,) = split(parity.train, [60])
    again = take_per_class(few, 5)
    assert again.labels.bincount().tolist() == [5, 5]
    for batch in Batches(again, 4, seed=0, shuffle=True):
        assert torch.equal(batch["fine"] % 2, batch["labels"])


def test_another_grouping_has_another_name_and_names_of_its_own() -> None:
    digits = load("digits")
    halves = regrouped(digits, [int(k > 4) for k in range(10)], classes=["low", "high"])
    assert halves.classes == ("low", "high")
    assert halves.fingerprint != regrouped(digits, PARITY).fingerprint


def test_samples_without_a_label_stay_without() -> None:
    data = Regrouped(DictDataset(torch.zeros(3, 1), torch.tensor([2, -100, 1])), [0, 1, 0])
    assert data.labels.tolist() == [0, -100, 1]
    assert data[1]["fine"] == -100


def test_plain_pairs_are_read_item_by_item() -> None:
    pairs = [(torch.zeros(2), k % 3) for k in range(6)]
    data = Regrouped(pairs, [0, 1, 0])
    assert not data.in_bulk
    assert data[2]["labels"] == 0
    assert next(iter(Batches(data, 6, seed=0, shuffle=False)))["fine"].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("groups", "options", "said"),
    [
        ([0, 1], {}, "2 groups for the 10 classes of digits"),
        ([0, 2] * 5, {}, "number them 0 … 1"),
        (PARITY, {"classes": ["even"]}, "1 names for 2 groups"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: list[int], options: dict[str, list[str]], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        regrouped(load("digits"), groups, **options)


def test_labels_beyond_the_groups_are_refused() -> None:
    with pytest.raises(DistilError, match="groups name 2 classes, and the labels go from 0 to 2"):
        Regrouped(DictDataset(torch.zeros(3, 1), torch.tensor([2, 0, 1])), [0, 1])
