"""The columns by which distillation is judged: agreement, divergence, calibration, and what is lost elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import nn

from distil.data.bundle import Bundle, DictDataset
from distil.errors import DistilError
from distil.loops.fidelity import fidelity, quality_table, shifted
from distil.report.view import further
from distil.tasks import ClassificationTask


def bundle(images: bool = False) -> Bundle:
    shape = (1, 2, 2) if images else (4,)
    x = torch.rand(40, *shape, generator=torch.Generator().manual_seed(0))
    data = DictDataset(x, torch.arange(40) % 3, torch.arange(40))
    return Bundle("toy", "classification", data, data, data, ("a", "b", "c"), shape, "toy")


def net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(4, 3).eval()


def read(student: nn.Module, teachers: list[nn.Module], away: Any = None) -> dict[str, float]:
    stand_in: Any = SimpleNamespace(deployed=lambda: student)
    return fidelity(bundle(), teachers, away)(stand_in)


def test_a_student_that_is_its_teacher_agrees_wholly_and_diverges_by_nothing() -> None:
    found = read(net(0), [net(0)])
    assert found["agreement with teachers, %"] == 100
    assert found["KL from teachers"] == pytest.approx(0, abs=1e-6)
    assert "accuracy, shifted" not in found
    assert read(net(0), []) == {}


def test_agreement_and_divergence_are_with_the_mean_of_the_teachers() -> None:
    x = bundle().test.inputs
    student, teachers = net(0), [net(1), net(2)]
    with torch.no_grad():
        mean = np.mean([softmax(t(x).numpy(), 1) for t in teachers], 0)
        ours = softmax(student(x).numpy(), 1)
    found = read(student, teachers)
    assert found["agreement with teachers, %"] == pytest.approx(100 * (mean.argmax(1) == ours.argmax(1)).mean())
    assert found["KL from teachers"] == pytest.approx(rel_entr(mean, ours).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize("images", [False, True])
def test_a_shift_of_nothing_changes_nothing_and_noise_is_the_seeds(images: bool) -> None:
    data = bundle(images)
    for kind in ("noise", "dim"):
        assert torch.equal(shifted(data, kind, strength=0.0).inputs, data.test.inputs)
    first, again, other = (shifted(data, strength=0.3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert torch.equal(first.labels, data.test.labels)
    assert torch.equal(first.ids, data.test.ids)
    if images:
        assert 0 <= first.inputs.min() <= first.inputs.max() <= 1
    torch.testing.assert_close(shifted(data, "dim", strength=0.25).inputs, 0.75 * data.test.inputs)


def test_noise_for_vectors_is_in_units_of_their_spread() -> None:
    data = bundle()
    noise = shifted(data, strength=0.5).inputs - data.test.inputs
    assert noise.std() / data.test.inputs.std() == pytest.approx(0.5, abs=0.1)


def test_shifts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(DistilError, match="shift='rotate' is unknown"):
        shifted(bundle(), "rotate")
    with pytest.raises(DistilError, match="strength=-1"):
        shifted(bundle(), strength=-1)
    with pytest.raises(DistilError, match="at most 1"):
        shifted(bundle(), "dim", strength=1.5)


def test_accuracy_elsewhere_is_that_of_the_same_student() -> None:
    away = shifted(bundle(), strength=0.5)
    student = net(3)
    assert read(student, [], away) == {"accuracy, shifted": ClassificationTask().evaluate(student, away)["accuracy"]}


def arm(name: str, last: list[float], away: list[float] | None) -> dict[str, Any]:
    seen: dict[str, Any] = {} if away is None else {"accuracy, shifted": away, "KL from teachers": [0.1, 0.3]}
    return {
        "label": name, "diagnostics": seen, "parameters": 7, "bytes": 28, "latency": {"p50_ms": 0.5},
        "metrics": {"accuracy": {"last": last, "best": [90.0, 92.0]}, "ece": {"last": [0.2, 0.2], "best": [0.1, 0.3]}},
    }  # fmt: skip


def test_the_table_has_every_column_and_leaves_open_what_is_not_known() -> None:
    report = {
        "metric": {"name": "accuracy"}, "seeds": [0, 1],
        "arms": [arm("seen", [89.0, 91.0], [80.0, 84.0]), arm("unseen", [89.0, 91.0], None)],
    }  # fmt: skip
    table = quality_table(report, shift="noisy")
    head, rows = table["head"], table["rows"]
    first, second = (dict(zip(head, row, strict=True)) for row in rows)
    assert first["accuracy"] == 91.0
    assert first["±"] == pytest.approx(2**0.5)
    assert first["drop"] == pytest.approx(8.0)
    assert (first["KL"], first["ECE"]) == (pytest.approx(0.2), pytest.approx(0.2))
    assert (first["p50 ms"], first["parameters"], first["bytes"]) == (0.5, 7, 28)
    assert second["drop"] is second["KL"] is None
    assert "noisy" in table["note"]
    [written] = further({"tables": [table]})
    assert len(written["rows"][1]) == len(head)  # the page can write it, empty cells too
