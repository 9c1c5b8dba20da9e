"""Items, views, splits, hidden labels and fingerprints."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from distil.data import (
    NO_LABEL,
    DictDataset,
    FullBatch,
    View,
    as_dict,
    fingerprint,
    hide_labels,
    ids_of,
    indexed,
    labels_of,
    split,
    take_per_class,
)
from distil.data.select import split_positions
from distil.errors import DistilError


@pytest.fixture
def data() -> DictDataset:
    return DictDataset(torch.rand(30, 4), torch.arange(30) % 3, torch.arange(100, 130))


def test_indexed_wraps_pairs_and_dicts_and_keeps_labels_cheap() -> None:
    pairs = indexed(TensorDataset(torch.zeros(3, 2), torch.tensor([2, 0, 1])))
    assert pairs[1]["id"] == 1
    assert labels_of(pairs).tolist() == [2, 0, 1]
    rows = indexed([{"image": torch.ones(1), "label": 5, "id": 77}, {"image": torch.ones(1)}])
    assert rows[0] == {"inputs": torch.ones(1), "labels": 5, "id": 77}
    assert rows[1]["labels"] == NO_LABEL
    assert rows.labels is None
    assert labels_of(rows).tolist() == [5, NO_LABEL]
    assert indexed(pairs) is pairs
    with pytest.raises(DistilError, match="3 inputs but 2 labels"):
        DictDataset(torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(DistilError, match="no class ids"):
        DictDataset(torch.zeros(3, 1), torch.tensor([0.5, 1.0, 2.0]))


def test_as_dict_reads_a_triple() -> None:
    assert as_dict((torch.zeros(1), 1, 9))["id"] == 9


def test_views_of_views_keep_ids(data: DictDataset) -> None:
    inner = View(data, torch.tensor([4, 9, 2]))
    outer = View(inner, torch.tensor([2, 0]))
    assert [outer[k]["id"] for k in range(2)] == [102, 104]
    assert outer.ids.tolist() == [102, 104]
    assert outer.batch(torch.tensor([1]))["id"].tolist() == [104]
    assert outer.labels is not None
    assert outer.labels.tolist() == [2, 1]


@given(
    st.lists(st.integers(-1, 4), min_size=1, max_size=80),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
    st.integers(0, 5),
)
def test_splits_are_disjoint_exact_and_stratified(labels: list[int], weights: list[float], seed: int) -> None:
    values = torch.tensor(labels)
    values[values < 0] = NO_LABEL
    shares = [weight / sum(weights) * 0.999 for weight in weights]
    parts = split_positions(values, shares, seed)
    together = torch.cat(parts)
    assert len(together.unique()) == len(together)
    for part, share in zip(parts, shares):
        assert abs(len(part) - share * len(values)) <= 1
        for label in values.unique():
            expected = len(part) / len(values) * int((values == label).sum())
            assert abs(int((values[part] == label).sum()) - expected) < 2
    again = split_positions(values, shares, seed)
    assert all(torch.equal(a, b) for a, b in zip(parts, again))


def test_split_takes_counts_and_refuses_too_many(data: DictDataset) -> None:
    parts = split(data, [9, 6], seed=1)
    assert [len(part) for part in parts] == [9, 6]
    assert [part.labels.bincount().tolist() for part in parts] == [[3, 3, 3], [2, 2, 2]]
    assert not set(parts[0].ids.tolist()) & set(parts[1].ids.tolist())
    assert parts[0].ids.tolist() != split(data, [9], seed=2)[0].ids.tolist()
    with pytest.raises(DistilError, match="31 samples are wanted but there are 30"):
        split(data, [31])
    with pytest.raises(DistilError, match=r"sum to 1\.1"):
        split(data, [0.6, 0.5])
    with pytest.raises(DistilError, match="at least one size"):
        split(data, [])


def test_take_per_class(data: DictDataset) -> None:
    few = take_per_class(data, 4, seed=3)
    assert few.labels is not None
    assert few.labels.bincount().tolist() == [4, 4, 4]
    with pytest.raises(DistilError, match="class 0 has 10 samples but 11 per class"):
        take_per_class(data, 11)
    with pytest.raises(DistilError, match="no sample has a label"):
        take_per_class(DictDataset(torch.zeros(2, 1)), 1)


def test_hide_labels_by_id(data: DictDataset) -> None:
    hidden = hide_labels(data, {101, 105})
    assert hidden.labels is not None
    assert (hidden.labels != NO_LABEL).nonzero().flatten().tolist() == [1, 5]
    assert int(hidden[1]["labels"]) == 1
    assert int(hidden[0]["labels"]) == NO_LABEL
    assert data.labels.min() == 0
    with pytest.raises(DistilError, match="the id 3 is not in the dataset"):
        hide_labels(data, [101, 3])


def test_fingerprints_name_content_and_nothing_else(data: DictDataset) -> None:
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    assert fingerprint(model) == fingerprint(twin.eval()) == fingerprint(model.state_dict())
    with torch.no_grad():
        twin.bias[0] += 1e-6
    assert fingerprint(model) != fingerprint(twin)
    assert len(fingerprint(model)) == 16
    assert fingerprint(torch.zeros(2)) != fingerprint(torch.zeros(2).long())
    assert fingerprint({"a": torch.zeros(1), "b": torch.ones(1)}) != fingerprint(
        {"b": torch.zeros(1), "a": torch.ones(1)}
    )
    assert fingerprint(torch.zeros(3).bfloat16()) != fingerprint(torch.zeros(3).half())
    assert fingerprint(torch.tensor(1.0)) != fingerprint(torch.tensor(2.0))
    with pytest.raises(DistilError, match="int has no content"):
        fingerprint(3)


def test_fingerprints_of_datasets(data: DictDataset) -> None:
    same = DictDataset(data.inputs.clone(), data.labels, data.ids)
    assert fingerprint(data) == fingerprint(same)
    assert fingerprint(View(data, torch.tensor([1]))) != fingerprint(View(data, torch.tensor([2])))
    assert fingerprint(hide_labels(data, [101])) != fingerprint(hide_labels(data, [102]))
    pairs = [TensorDataset(torch.zeros(3, 2), torch.tensor([2, 0, k])) for k in (0, 1)]
    assert fingerprint(pairs[0]) != fingerprint(pairs[1])
    assert fingerprint(FullBatch({"inputs": torch.zeros(1)})) != fingerprint(FullBatch({"inputs": torch.ones(1)}))
    same.labels = torch.zeros(30, dtype=torch.long)
    assert fingerprint(data) != fingerprint(same)


def test_fingerprint_is_stable_over_releases() -> None:
    # A cache made yesterday is found by this name, so a change of the scheme must be a decision.
    assert fingerprint({"x": torch.arange(6).reshape(2, 3)}) == "48099aa09edcad58"
    assert ids_of([1, 2]).tolist() == [0, 1]
