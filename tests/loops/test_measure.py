"""What a model costs and how its answers compare, on numbers counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distil.loops.measure import agreement, latency, reliability, size_in_bytes
from distil.tasks import Prediction, get_task


def said(answers: list[int], labels: list[int], *, sure: float = 2.0) -> Prediction:
    logits = sure * torch.eye(3)[answers]
    return {"logits": logits, "labels": torch.tensor(labels), "id": torch.arange(len(labels))}


def test_agreement_is_the_share_of_equal_answers_among_counted_samples() -> None:
    student, teacher = said([0, 1, 2, 0], [0, 0, 0, -100]), said([0, 1, 1, 1], [0, 0, 0, -100])
    assert agreement(student, teacher) == pytest.approx(200 / 3)
    student["mask"] = torch.tensor([True, False, True, True])
    assert agreement(student, teacher) == pytest.approx(50)


def test_reliability_counts_confidence_and_accuracy_by_bin() -> None:
    found = reliability(said([0, 1, 2, 2], [0, 1, 0, -100], sure=2.0))
    confidence = float(torch.tensor([2.0, 0, 0]).softmax(0).max())
    place = int(confidence * 10)
    assert found["count"] == [3 if k == place else 0 for k in range(10)]
    assert found["accuracy"][place] == pytest.approx(2 / 3)
    assert found["confidence"][place] == pytest.approx(confidence)
    certain = reliability(said([0], [0], sure=1e4))
    assert certain["count"][9] == 1  # a confidence of 1 stays in the last bin


def test_size_counts_parameters_and_the_bytes_of_buffers() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert size_in_bytes(net) == (8 + 4, 4 * (8 + 4 + 4) + 8)
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    assert size_in_bytes(tied) == (4, 16)


class Noted(nn.Module):
    """Counts its calls, and whether they were made in training mode or with gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls, self.wrong = nn.Linear(4, 3), 0, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.wrong += self.training or torch.is_grad_enabled()
        result: Tensor = self.linear(inputs)
        return result


def test_latency_is_measured_in_eval_without_gradient_and_restores_the_mode() -> None:
    net = Noted().train()
    found = latency(get_task("classification"), net, {"inputs": torch.zeros(2, 4)}, seconds=0.0)
    assert net.calls == 3 + 10
    assert net.wrong == 0
    assert net.training
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert found["batch"] == 2
    assert found["throughput_per_s"] == pytest.approx(2000 / found["p50_ms"])
    latency(get_task("classification"), net, {"inputs": torch.zeros(2, 4)}, seconds=60.0)
    assert net.calls == 13 + 3 + 200
