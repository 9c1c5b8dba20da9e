"""The task of encoders: scored by neighbours without labels in training."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from distil.data import DictDataset
from distil.errors import DistilError
from distil.tasks import FeatureTask, get_task


def test_the_score_is_leave_one_out_k_nn() -> None:
    made = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (60,), generator=made)
    inputs = torch.randn(60, 4, generator=made) + torch.eye(3, 4)[labels]
    found = FeatureTask(k=5).evaluate(nn.Identity(), DictDataset(inputs, labels))
    right = 0
    for k in range(60):
        rest = [i for i in range(60) if i != k]
        fitted = KNeighborsClassifier(5).fit(inputs[rest].numpy(), labels[rest].numpy())
        right += int(fitted.predict(inputs[k : k + 1].numpy())[0] == int(labels[k]))
    assert found == {"neighbours": pytest.approx(100 * right / 60)}


def test_rows_without_labels_are_neither_scored_nor_neighbours() -> None:
    inputs, labels = torch.tensor([[0.0], [0.1], [5.0], [5.1], [0.05]]), torch.tensor([0, 0, 1, 1, -100])
    assert FeatureTask(k=1).evaluate(nn.Identity(), DictDataset(inputs, labels)) == {"neighbours": 100.0}
    assert FeatureTask(k=1).chance(DictDataset(inputs, labels)) == 50
    with pytest.raises(DistilError, match="1 labelled samples have no neighbours"):
        FeatureTask().evaluate(nn.Identity(), DictDataset(inputs[:1], labels[:1]))


class Part(nn.Module):
    def forward(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        return inputs if keep is None else inputs.gather(1, keep)


def test_a_dict_of_inputs_becomes_keywords_and_features_are_flattened() -> None:
    task = get_task("features")
    batch = task.unpack({"inputs": torch.arange(6.0).reshape(2, 3)})
    seen = {**batch, "inputs": {"inputs": batch["inputs"], "keep": torch.tensor([[2], [0]])}}
    assert task.call(Part(), seen).tolist() == [[2.0], [3.0]]
    seen["inputs"]["restore"] = torch.zeros(2, 3)
    assert task.call(Part(), seen, role="teacher").tolist() == [[2.0], [3.0]]
    assert task.call(Part(), batch) is batch["inputs"]
    maps = torch.arange(4.0).reshape(4, 1, 1).expand(4, 2, 3)
    assert FeatureTask(k=1).evaluate(nn.Identity(), DictDataset(maps, torch.tensor([0, 0, 0, 0])))["neighbours"] == 100


def test_labels_have_no_loss_here() -> None:
    with pytest.raises(DistilError, match="take Supervised"):
        FeatureTask().loss(torch.zeros(2, 3), {"labels": torch.zeros(2).long()})
    with pytest.raises(DistilError, match="k=0"):
        FeatureTask(k=0)
