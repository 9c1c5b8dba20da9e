"""Methods in a run of ``fit``: co-training, several teachers, inner optimizers, ramps, adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distil.engine import Distiller, Method, Term, fit, ramp
from distil.methods import KD, RKD, FitNets, Supervised
from engine import toys
from engine.test_fit import TRAIN, VAL, run


class Peers(Method):
    """Two students that teach each other and learn from labels."""

    labels = True
    at_equality = {"a": None, "b": None}  # noqa: RUF012

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        logits = {name: handle(batch).logits for name, handle in student.items()}
        losses = nn.functional.cross_entropy
        other = {"a": logits["b"].detach(), "b": logits["a"].detach()}
        return {
            n: Term(losses(z, batch["labels"], reduction="none") + (z - other[n]).square().mean(1))
            for n, z in logits.items()
        }

    def deployed(self, student: Any, teacher: Any) -> nn.Module:
        return student["b"].module


def test_two_students_train_under_optimizers_of_their_own() -> None:
    students = {"a": toys.seeded(lambda: toys.mlp(4), 1), "b": toys.seeded(lambda: toys.mlp(6), 2)}
    start = {name: toys.state(model) for name, model in students.items()}
    distiller = Distiller(students, None, Peers(), example=toys.batch(TRAIN, 4))
    result = fit(
        distiller, TRAIN, VAL, steps=1, batch_size=16, schedule="constant", device="cpu",
        optimizer={"student.a": torch.optim.SGD, "student.b": "adam"}, lr={"student.a": 1e-5, "student.b": 0.01},
    )  # fmt: skip
    moved = {
        n: max(float((m.state_dict()[k] - v).abs().max()) for k, v in start[n].items()) for n, m in students.items()
    }
    assert 0 < moved["a"] < 1e-4
    assert moved["b"] == pytest.approx(0.01, rel=1e-3)  # Adam's first step is the learning rate
    assert result.model is students["b"]


def test_two_teachers() -> None:
    class Mean(toys.Hint):
        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
            known = torch.stack([handle(batch).logits for handle in teacher.values()]).mean(0)
            return {"hint": Term((student(batch).logits - known).square().mean(1))}

    result = run(Mean(), teacher={"x": toys.mlp(5), "y": toys.mlp(6)}, epochs=3)
    assert result.history[-1]["loss"] < result.history[1]["loss"]


def test_a_controller_learns_through_the_student() -> None:
    """Bilevel: the gate moves by its own Adam only; the loop's optimizer, weight decay and clip never touch it."""
    method = toys.Controller(lr=0.05)
    student, teacher = toys.pair()
    data = {"train": TRAIN, "val": VAL}
    distiller = Distiller(student, teacher, method, example={n: toys.batch(d, 4) for n, d in data.items()})
    before = toys.state(method)
    result = fit(
        distiller, data, VAL, steps=1, weight_decay=0.5, clip=1.0, check_teacher=False, device="cpu", batch_size=8
    )
    moved = max(float((method.state_dict()[name] - value).abs().max()) for name, value in before.items())
    assert moved == pytest.approx(0.05, rel=1e-2)
    assert not any(p.requires_grad or p.grad is not None for p in method.gate.parameters())
    assert set(distiller.groups()) == {"student"}
    assert result.history[-1]["terms"].keys() == {"controller"}


def test_a_ramp_moves_with_the_run() -> None:
    settings: dict[str, Any] = {"epochs": 3, "lr": 1e-9}
    terms = [r["terms"].keys() for r in run(Supervised() + ramp(epochs=2) * KD(), **settings).history[1:]]
    assert terms == [{"supervised"}, {"supervised", "kd"}, {"supervised", "kd"}]
    loss = [r["loss"] for r in run(ramp(fraction=1.0, first=1, last=2) * KD(), batch_size=40, **settings).history[1:]]
    assert [value / loss[0] for value in loss] == pytest.approx([1, 4 / 3, 5 / 3], rel=1e-4)


def test_adapters_have_a_group_of_their_own() -> None:
    frozen = run(
        RKD(distance=0.1, angle=0.1) + FitNets(tap=("one", "two")), toys.images(), toys.images(), make=Flat,
        optimizer={"student": "sgd", "fitnets": "adam"}, lr={"student": 1e-12, "fitnets": 1e-2},
    )  # fmt: skip
    start = toys.pair(Flat)[0].state_dict()
    assert all(torch.allclose(p, start[name]) for name, p in frozen.model.named_parameters())


class Flat(toys.CNN):
    """A CNN both of whose stages have one size, with room for a regressor."""

    def __init__(self, width: int) -> None:
        super().__init__(4)
        self.two[0] = nn.Conv2d(4, 4, 1)
