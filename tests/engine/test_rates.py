"""Learning rates of groups: one that a method brings holds under every schedule; a table of rates by epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.engine import Distiller, Method, RatedGroup, Regime, Term, fit
from distil.engine.optim import make_optimizers
from distil.errors import DistilError
from engine import toys

OWN = 1e-4


class Rated(Method):
    """Teaches the student and a part of its own, which has its own rate."""

    at_equality: Mapping[str, None] = {"rated": None}

    def setup(self, student: Any, teacher: Any) -> None:
        self.part = nn.Linear(toys.CLASSES, toys.CLASSES)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        return {name: RatedGroup(group, lr=OWN) for name, group in super().groups().items()}

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        gap: Tensor = self.part(student(batch).logits) - teacher(batch).logits
        return {"rated": Term(gap.square().sum(1))}


def rates(**options: Any) -> list[dict[str, float]]:
    data = toys.vectors(24)
    student, teacher = toys.pair()
    made = Distiller(student, teacher, Rated(), example=toys.batch(data, 6))
    seen: list[dict[str, float]] = []
    options = {"epochs": 4, "batch_size": 6, "device": "cpu", "check_teacher": False, **options}
    fit(made, data, data, optimizer=toys.noting(seen), **options)
    return seen


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", Regime(((1, 2, 1.0), (3, 4, 0.1))).schedule(4)])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_a_rate_of_its_own_holds_at_every_step(schedule: str | Callable[[float], float], warmup: float) -> None:
    seen = rates(lr=0.01, schedule=schedule, warmup=warmup)
    assert len(seen) == 16
    for step in seen:
        assert step["rated"] / OWN == pytest.approx(step["student"] / 0.01, rel=1e-12)
    assert max(step["rated"] for step in seen) <= OWN
    if schedule != "constant":
        assert seen[-1]["rated"] < 0.5 * OWN


def test_it_is_overridden_by_its_name_alone() -> None:
    assert rates(lr={"student": 0.01}, schedule="constant")[0] == {"student": 0.01, "rated": OWN}
    named = rates(lr={"student": 0.01, "rated": 0.5}, schedule="constant")
    assert named[0] == {"student": 0.01, "rated": 0.5}


def test_it_holds_after_a_resumed_run(tmp_path: Path) -> None:
    options = {"lr": 0.01, "out": tmp_path, "save_every": 5, "schedule": "cosine"}
    whole = rates(**{**options, "out": None, "save_every": None})
    with pytest.raises(KeyboardInterrupt):
        rates(**options, progress=stop_at(9))
    resumed = rates(**options, resume=True)
    assert 0 < len(resumed) < 16
    assert resumed == whole[-len(resumed) :]


def stop_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_a_group_may_have_its_own_class_of_optimizer_too() -> None:
    groups = {"student": [nn.Parameter(torch.zeros(1))], "rated": RatedGroup([nn.Parameter(torch.zeros(1))], lr=OWN)}
    made = make_optimizers(groups, optimizer={"student": "sgd", "rated": "adam"}, lr=0.1, weight_decay=0.0)
    found = {name: (type(one).__name__, one.param_groups[0]["base_lr"]) for name, one in made.items()}
    assert found == {"student": ("SGD", 0.1), "rated": ("Adam", OWN)}


def test_a_rate_that_is_none_is_refused() -> None:
    groups = {"student": [nn.Parameter(torch.zeros(1))], "rated": RatedGroup([nn.Parameter(torch.zeros(1))], lr=-1.0)}
    with pytest.raises(DistilError, match=r"lr=-1\.0 of group 'rated'"):
        make_optimizers(groups, optimizer="sgd", lr=0.1, weight_decay=0.0)


def test_a_regime_is_its_table() -> None:
    regime = Regime.flat([0, 100, 0.01, 101, 300, 0.001])
    for epoch in range(301):
        assert regime(epoch) == (0.01 if epoch <= 100 else 0.001)
    factor = regime.schedule(200)
    for epoch in range(200):  # fit counts epochs from 0; the share is that before each step
        assert factor(epoch / 200) == factor((epoch + 0.9) / 200) == pytest.approx(1.0 if epoch <= 100 else 0.1)
    assert factor(1.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Regime(()), "from epoch 0 or 1"),
        (lambda: Regime(((2, 5, 0.1),)), "from epoch 0 or 1"),
        (lambda: Regime(((1, 5, 0.1), (7, 9, 0.1))), "make it 6"),
        (lambda: Regime(((1, 0, 0.1),)), "impossible"),
        (lambda: Regime(((1, 5, 0.0),)), "above 0"),
        (lambda: Regime.flat([1, 5]), "rows of three"),
        (lambda: Regime(((1, 5, 0.1),))(6), "outside 1 to 5"),
        (lambda: Regime(((1, 5, 0.1),)).schedule(6), "which has 5"),
    ],
)
def test_a_table_with_gaps_is_refused(call: object, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()  # type: ignore[operator]
