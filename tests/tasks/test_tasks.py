"""Tasks: reading batches, calling models, losses, scores, chance and the check of the teacher."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import log_loss, recall_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from distil.data import Batches, DictDataset, FullBatch
from distil.errors import DistilError
from distil.models import MLP
from distil.tasks import (
    ClassificationTask,
    NodeTask,
    Task,
    check_labels,
    get_task,
    teacher_above_chance,
)
from distil.tasks.preflight import wilson_lower


class Fixed(nn.Module):
    """Answers with the inputs themselves, so that logits are known."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


@pytest.fixture
def labelled() -> DictDataset:
    torch.manual_seed(0)
    return DictDataset(torch.randn(50, 3), torch.arange(50) % 3, ids=torch.arange(100, 150))


@pytest.mark.parametrize(
    "raw",
    [
        (torch.ones(2, 3), torch.tensor([1, 0])),
        [torch.ones(2, 3), torch.tensor([1, 0], dtype=torch.uint8)],
        {"pixel_values": torch.ones(2, 3), "labels": [1, 0]},
        {"image": torch.ones(2, 3), "label": torch.tensor([1, 0], dtype=torch.int32)},
        {"x": torch.ones(2, 3), "y": torch.tensor([1, 0]), "extra": 1},
    ],
)
def test_unpack_reads_the_usual_batches(raw: object) -> None:
    batch = ClassificationTask().unpack(raw)
    assert batch["inputs"].shape == (2, 3)
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [1, 0]


def test_unpack_fills_missing_labels_and_keeps_extras() -> None:
    assert ClassificationTask().unpack(torch.ones(2, 3))["labels"].tolist() == [-100, -100]
    batch = ClassificationTask().unpack({"inputs": torch.ones(1, 2), "id": [7], "mask": torch.ones(1)})
    assert batch["id"].tolist() == [7]
    assert "mask" in batch


def test_unpack_refuses_what_it_cannot_read() -> None:
    with pytest.raises(DistilError, match=r"keys \['a', 'b'\] has no inputs"):
        ClassificationTask().unpack({"a": 1, "b": 2})
    with pytest.raises(DistilError, match=r"labels\.argmax\(1\)"):
        ClassificationTask().unpack((torch.ones(2, 3), torch.eye(2)))
    with pytest.raises(DistilError, match="type str"):
        ClassificationTask().unpack("batch")


def test_logits_are_found_in_every_usual_output() -> None:
    task, logits = ClassificationTask(), torch.ones(2, 3)
    for output in (logits, SimpleNamespace(logits=logits), {"logits": logits}, (logits, None)):
        assert task.logits(output) is logits
    with pytest.raises(DistilError, match=r"keys \['features'\] and holds no logits"):
        task.logits({"features": logits})


def test_loss_counts_labelled_samples_only_and_equals_torch() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(6, 4, requires_grad=True), torch.tensor([0, 1, -100, 3, -100, 2])
    term = ClassificationTask().loss(logits, {"labels": labels})
    expected = nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(term.mean(), expected)
    assert term.weights is not None
    assert term.weights.tolist() == [1, 1, 0, 1, 0, 1]
    assert torch.autograd.grad(term.mean(), logits)[0][2].abs().sum() == 0


def test_loss_of_half_precision_is_computed_in_float32() -> None:
    term = ClassificationTask().loss(torch.randn(2, 3).bfloat16(), {"labels": torch.tensor([0, 1])})
    assert term.values.dtype == torch.float32


def test_loss_names_the_label_and_the_sample() -> None:
    batch = {"labels": torch.tensor([0, 12, -100]), "id": torch.tensor([4, 91, 5])}
    with pytest.raises(DistilError, match=r"label 12 of sample id 91 is outside 0\.\.9"):
        ClassificationTask().loss(torch.zeros(3, 10), batch)
    with pytest.raises(DistilError, match=r"logits of shape \(3, 10\) and labels of shape \(2,\)"):
        ClassificationTask().loss(torch.zeros(3, 10), {"labels": torch.tensor([0, 1])})


def test_check_labels_accepts_no_label_and_refuses_other_negatives() -> None:
    check_labels(torch.tensor([-100, 0, 2]), 3)
    check_labels(torch.zeros(0, dtype=torch.long), 3)
    with pytest.raises(DistilError, match="label -1 of row 1"):
        check_labels(torch.tensor([0, -1]), 3)
    with pytest.raises(DistilError, match="label 3 of sample id 8"):
        ClassificationTask(classes=3).unpack({"inputs": torch.zeros(1, 2), "labels": [3], "id": [8]})


def test_normalise_differs_by_role() -> None:
    task = ClassificationTask(normalise={"teacher": ([1.0, 2.0], [2.0, 4.0]), "student": (0.5, 0.5)})
    batch = {"inputs": torch.full((1, 2, 1, 1), 3.0)}
    assert task.call(Fixed(), batch, "teacher").flatten().tolist() == [1.0, 0.25]
    assert task.call(Fixed(), batch).flatten().tolist() == [5.0, 5.0]
    assert ClassificationTask().call(Fixed(), batch, "teacher") is batch["inputs"]


def test_normalise_refuses_wrong_roles_and_channels() -> None:
    with pytest.raises(DistilError, match="'teacher'"):
        ClassificationTask(normalise={"techer": (0.0, 1.0)})
    with pytest.raises(DistilError, match="std > 0"):
        ClassificationTask(normalise={"student": (0.0, 0.0)})
    task = ClassificationTask(normalise={"student": ([0.0] * 3, [1.0] * 3)})
    with pytest.raises(DistilError, match=r"3 channels but the inputs have shape \(2, 1, 4, 4\)"):
        task.call(Fixed(), {"inputs": torch.zeros(2, 1, 4, 4)})


def test_a_dict_of_inputs_becomes_keyword_arguments() -> None:
    class Words(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": input_ids * attention_mask}

    inputs = {"input_ids": torch.ones(2, 3), "attention_mask": torch.full((2, 3), 2.0)}
    task = ClassificationTask()
    batch = task.unpack({"inputs": inputs})
    assert task.logits(task.call(Words(), batch)).sum() == 12
    assert batch["labels"].tolist() == [-100, -100]


def test_predict_keeps_modes_ids_and_order(labelled: DictDataset) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 3)).train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    first = ClassificationTask().predict(model, labelled, batch_size=7)
    assert [model.training, model[0].training, model[1].training] == [True, True, False]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert first["id"].tolist() == list(range(100, 150))
    torch.testing.assert_close(first["logits"], ClassificationTask().predict(model, labelled, batch_size=50)["logits"])
    assert not first["logits"].is_inference()
    assert "mask" not in first


def test_predict_restores_the_mode_after_an_error() -> None:
    model = MLP(4, 5, 2).train()
    with pytest.raises(DistilError, match="first layer takes 4"):
        ClassificationTask().predict(model, DictDataset(torch.zeros(2, 3)))
    assert model.training


def test_predict_reads_a_dataloader_of_pairs() -> None:
    pairs = DataLoader(TensorDataset(torch.eye(3), torch.tensor([0, 1, 1])), batch_size=2)
    prediction = ClassificationTask().predict(Fixed(), pairs)
    assert prediction["id"].tolist() == [0, 1, 2]
    assert ClassificationTask().score(prediction)["accuracy"] == pytest.approx(200 / 3)
    with pytest.raises(DistilError, match="nothing to predict"):
        ClassificationTask().predict(Fixed(), [])


def test_scores_agree_with_a_second_source(labelled: DictDataset) -> None:
    labels = labelled.labels.clone()
    labels[:5] = -100
    data = DictDataset(labelled.inputs, labels)
    scores = ClassificationTask().evaluate(Fixed(), data)
    kept, logits = labels[5:], labelled.inputs[5:]
    assert scores["accuracy"] == pytest.approx(100 * float((logits.argmax(1) == kept).float().mean()))
    assert scores["nll"] == pytest.approx(log_loss(kept.numpy(), logits.double().softmax(1).numpy()), rel=1e-5)
    assert scores["ece"] == pytest.approx(_ece(logits.softmax(1), kept), abs=1e-6)


def _ece(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    confidence, answer = probabilities.max(1)
    total = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            gap = (answer[inside] == labels[inside]).float().mean() - confidence[inside].mean()
            total += float(inside.float().mean() * gap.abs())
    return total


def test_scores_of_broken_logits_and_of_no_labels() -> None:
    logits = torch.full((2, 3), float("nan"))
    scores = ClassificationTask().score({"logits": logits, "labels": torch.tensor([1, 2]), "id": torch.arange(2)})
    assert math.isnan(scores["nll"])
    assert math.isnan(scores["ece"])
    with pytest.raises(DistilError, match="none of the 2 samples has a label"):
        ClassificationTask().score({"logits": logits, "labels": torch.tensor([-100, -100]), "id": torch.arange(2)})


def test_chance_is_the_largest_class_share() -> None:
    task, labels = ClassificationTask(), torch.tensor([0, 1, 1, 1, -100])
    data = DictDataset(torch.zeros(5, 1), labels)
    pairs = [(torch.zeros(5, 1), labels)]
    for source in (data, Batches(data, 2, seed=0, shuffle=True), pairs, TensorDataset(torch.zeros(5, 1), labels)):
        assert task.chance(source) == pytest.approx(75.0)
    with pytest.raises(DistilError, match="no sample has a label"):
        task.chance(DictDataset(torch.zeros(2, 1)))


def test_get_task_by_name_or_itself() -> None:
    task = NodeTask()
    assert get_task(task) is task
    assert isinstance(get_task("node-classification"), Task)
    assert get_task("classification", classes=3).classes == 3  # type: ignore[attr-defined]
    with pytest.raises(DistilError, match="'classification'"):
        get_task("clasification")


class Neighbours(nn.Module):
    def forward(self, inputs: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(inputs).index_add(0, edge_index[1], inputs[edge_index[0]])


@pytest.fixture
def graph() -> FullBatch:
    return FullBatch(
        {
            "inputs": torch.eye(3),
            "edge_index": torch.tensor([[0, 1], [1, 0]]),
            "labels": torch.tensor([1, 0, 0]),
            "mask": torch.tensor([True, True, False]),
            "id": torch.arange(3),
        }
    )


def test_nodes_edges_go_only_to_whom_needs_them(graph: FullBatch) -> None:
    task, batch = NodeTask(), graph.batch
    assert torch.equal(task.call(Fixed(), batch), batch["inputs"])
    assert task.call(Neighbours(), batch)[0].tolist() == [0, 1, 0]
    assert task.evaluate(Neighbours(), graph)["accuracy"] == 100.0
    assert task.evaluate(Fixed(), graph)["accuracy"] == 0.0
    declared = Neighbours()
    declared.needs_edges = False
    with pytest.raises(TypeError, match="edge_index"):
        task.call(declared, batch)
    with pytest.raises(DistilError, match="Neighbours \\(teacher\\) needs the edges"):
        task.call(Neighbours(), {"inputs": torch.eye(3)}, "teacher")


def test_nodes_compiled_and_lambda_models_are_looked_through(graph: FullBatch) -> None:
    compiled = torch.compile(Neighbours(), backend="eager")
    assert NodeTask().call(compiled, graph.batch)[0].tolist() == [0, 1, 0]
    assert NodeTask().call(lambda inputs, edges: edges, graph.batch) is graph.batch["edge_index"]


def test_nodes_loss_and_chance_use_the_mask(graph: FullBatch) -> None:
    term = NodeTask().loss(torch.zeros(3, 3), graph.batch)
    assert term.weights is not None
    assert term.weights.tolist() == [1, 1, 0]
    assert NodeTask().chance(graph) == 50.0
    assert NodeTask().chance(graph.batch) == 50.0
    prediction = NodeTask().predict(Fixed(), graph.batch)
    assert len(prediction["logits"]) == 3
    assert prediction["mask"].tolist() == [True, True, False]


def test_wilson_matches_scipy() -> None:
    from scipy.stats import binomtest

    for correct, count in ((0, 5), (3, 7), (500, 512), (9, 9)):
        assert wilson_lower(correct, count) == pytest.approx(
            binomtest(correct, count).proportion_ci(method="wilson").low, abs=1e-9
        )


def test_preflight_passes_a_good_teacher_and_explains_a_bad_one() -> None:
    labels = torch.arange(1000).sort().values % 4
    data = DictDataset(nn.functional.one_hot(labels, 4).float(), labels)
    good = teacher_above_chance(ClassificationTask(), Fixed(), data)
    assert good["ok"]
    assert good["accuracy"] == 100.0
    assert good["samples"] == 512
    bad = teacher_above_chance(ClassificationTask(), MLP(4, 1, 4), DictDataset(torch.randn(1000, 4), labels))
    assert not bad["ok"]
    assert bad["low"] <= bad["chance"] == 25.0
    assert "not above the chance level of 25.0 %" in bad["message"]


def test_preflight_reads_sorted_data_batches_and_graphs(graph: FullBatch) -> None:
    labels = torch.arange(1000) // 500  # sorted by class: the first 64 samples would all be of class 0
    data = DictDataset(torch.zeros(1000, 2), labels)
    checked = teacher_above_chance(ClassificationTask(), lambda x: torch.tensor([1.0, 0.0]).expand(len(x), 2), data, 64)
    assert 20 < checked["accuracy"] < 80
    batches = [{"inputs": torch.eye(2), "labels": torch.tensor([0, 1])}] * 9
    assert teacher_above_chance(ClassificationTask(), Fixed(), batches, 8)["samples"] == 8
    assert (
        teacher_above_chance(ClassificationTask(), Fixed(), [(torch.eye(2), torch.tensor([0, 1]))], 8)["samples"] == 2
    )
    assert teacher_above_chance(NodeTask(), Neighbours(), graph)["samples"] == 2


def test_groups_of_classes_are_scored_by_themselves() -> None:
    """Against scikit-learn's recalls, on classes of unequal size."""
    torch.manual_seed(0)
    labels = torch.tensor([0] * 30 + [1] * 12 + [2] * 5 + [3] * 2 + [-100] * 3)
    logits = torch.randn(len(labels), 5) + 2 * nn.functional.one_hot(labels.clamp(min=0), 5)
    data = [{"inputs": logits, "labels": labels}]
    seen = ClassificationTask(groups={"head": [0, 1], "tail": (2, 3), "none": [4]}).evaluate(Fixed(), data)
    kept = labels >= 0
    answers = logits[kept].argmax(1)
    recalls = recall_score(labels[kept], answers, average=None, labels=range(4), zero_division=0)
    assert seen["balanced accuracy"] == pytest.approx(100 * recalls.mean())
    assert seen["head accuracy"] == pytest.approx(100 * recalls[:2].mean())
    assert seen["tail accuracy"] == pytest.approx(100 * recalls[2:].mean())
    assert math.isnan(seen["none accuracy"])
    assert seen["balanced accuracy"] != pytest.approx(seen["accuracy"])
    plain = ClassificationTask().evaluate(Fixed(), data)
    assert set(plain) == {"accuracy", "nll", "ece"}
    assert plain == {key: seen[key] for key in plain}


@pytest.mark.parametrize("members", [[], [3], [-1]])
def test_groups_of_classes_that_do_not_exist_are_refused(labelled: DictDataset, members: list[int]) -> None:
    with pytest.raises(DistilError, match=r"groups\['tail'\].* of the 3 classes 0 … 2"):
        ClassificationTask(groups={"tail": members}).evaluate(Fixed(), labelled)
