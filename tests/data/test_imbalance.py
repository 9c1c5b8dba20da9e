"""Long tails: how many of each class, which of them, and what cannot be had."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distil.data import DictDataset, class_thirds, hide_labels, long_tail
from distil.data.imbalance import tail_counts
from distil.errors import DistilError


def data(each: int = 500, classes: int = 10) -> DictDataset:
    labels = torch.arange(each * classes) % classes
    return DictDataset(torch.zeros(len(labels), 1), labels, torch.arange(len(labels)) + 7)


@pytest.mark.parametrize("imbalance", [1.0, 10.0, 50.0, 100.0])
def test_counts_fall_exponentially(imbalance: float) -> None:
    """As CIFAR-LT has them: n_k = n_0 · μ^(−k / (C − 1))."""
    counts = long_tail(data(), imbalance=imbalance).labels.bincount().tolist()
    assert counts[0] == 500
    for k, count in enumerate(counts):
        assert abs(count - 500 * imbalance ** (-k / 9)) <= 1
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(("size", "imbalance"), [(10, 1.0), (11, 1.0), (100, 5.0), (777, 50.0), (1200, 20.0)])
def test_a_size_is_met_exactly(size: int, imbalance: float) -> None:
    counts = long_tail(data(), size, imbalance=imbalance).labels.bincount().tolist()
    assert sum(counts) == size
    assert counts == sorted(counts, reverse=True)
    for count, ideal in zip(counts, tail_counts(10, size, imbalance=imbalance)):
        assert abs(count - ideal) <= 1


def test_the_order_says_which_class_is_rare() -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    counts = long_tail(data(), 800, imbalance=50, order=order).labels.bincount()
    assert torch.equal(counts[order], long_tail(data(), 800, imbalance=50).labels.bincount())


def test_seeds_choose_the_samples_and_smaller_parts_lie_in_larger_ones() -> None:
    def ids(seed: int = 0, size: int = 600) -> set[int]:
        return set(long_tail(data(), size, seed=seed).ids.tolist())

    assert ids() == ids()
    assert ids() != ids(seed=1)
    many = long_tail(data(), 1200)
    few = long_tail(many, 600)
    assert set(few.ids.tolist()) < set(many.ids.tolist())
    assert few.labels.bincount().tolist() == long_tail(data(), 600).labels.bincount().tolist()
    assert all(few[k]["labels"] == few.labels[k] for k in range(0, 600, 50))


def test_unlabelled_samples_are_not_taken() -> None:
    shown = hide_labels(data(), range(7, 3007))
    found = long_tail(shown, imbalance=3)
    assert int(found.labels.min()) == 0
    assert found.labels.bincount()[0] == 300


@pytest.mark.parametrize(
    ("size", "options", "said"),
    [
        (3000, {}, r"class 0 has 500 samples and would keep 107. of 3000 at imbalance=50; ask for at most 13"),
        (20, {}, r"class \d has 500 samples and would keep 0 of 20"),
        (None, {"imbalance": 0.5}, "imbalance=0.5 at least 1"),
        (None, {"order": [0, 1, 2]}, r"order=\[0, 1, 2\] must name each class of the data once"),
        (None, {"order": [0, *range(9)]}, "must name each class"),
    ],
)
def test_what_cannot_be_had_is_refused(size: int | None, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        long_tail(data(), size, **options)


def test_maps_and_single_classes_have_no_tail() -> None:
    with pytest.raises(DistilError, match="labels are maps"):
        long_tail(DictDataset(torch.zeros(4, 1), torch.zeros(4, 2, 2).long()))
    with pytest.raises(DistilError, match="classes=1 must be at least 2"):
        long_tail(data(classes=1))


def test_thirds() -> None:
    assert class_thirds([5, 3, 4, 0, 1, 2]) == {"head third": (5, 3), "tail third": (1, 2)}
    with pytest.raises(DistilError, match="2 classes have no thirds"):
        class_thirds([0, 1])
