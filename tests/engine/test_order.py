"""Which model runs first: the teacher, from the second step on, where a component asked it about the batch itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.engine import Distiller, Method, Term, ramp
from distil.engine.host import seed_draws
from distil.methods import KD, Supervised
from engine import toys


class Noted(nn.Module):
    """Writes its name down whenever it runs."""

    def __init__(self, name: str, calls: list[str], seed: int) -> None:
        super().__init__()
        self.name, self.calls, self.net = name, calls, toys.seeded(lambda: nn.Linear(6, toys.CLASSES), seed)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls.append(self.name)
        return self.net(inputs)


def made(method: Any) -> tuple[Distiller, list[str], dict[str, Tensor]]:
    calls: list[str] = []
    batch = toys.batch(toys.vectors(8), 8)
    distiller = Distiller(Noted("student", calls, 1), Noted("teacher", calls, 2), method, example=batch, steps=10)
    distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1))
    calls.clear()
    return distiller, calls, batch


def test_the_teacher_runs_first_from_the_second_step_on_and_no_number_moves() -> None:
    distiller, calls, batch = made(Supervised() + KD())
    losses = []
    for expected in (["student", "teacher"], ["teacher", "student"], ["teacher", "student"]):
        losses.append(distiller(batch).loss)
        assert calls == expected
        calls.clear()
    assert torch.equal(losses[0], losses[1])


def test_a_teacher_that_nobody_asks_is_left_alone() -> None:
    distiller, calls, batch = made(Supervised())
    for _ in range(3):
        distiller(batch)
    assert calls == ["student"] * 3


class Elsewhere(Method):
    """Asks the teacher about other inputs than the batch's."""

    at_equality = {"elsewhere": None}  # noqa: RUF012

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        other = {**batch, "inputs": batch["inputs"] + 1}
        return {"elsewhere": Term((student(batch).logits - teacher(other).logits).square().mean(1))}


def test_passes_on_other_inputs_are_not_made_ahead() -> None:
    distiller, calls, batch = made(Elsewhere())
    for _ in range(3):
        distiller(batch)
    assert calls == ["student", "teacher"] * 3


def test_a_component_that_is_switched_off_asks_for_nothing() -> None:
    distiller, calls, batch = made(Supervised() + ramp(fraction=0.5, first=1.0, last=0.0) * KD())
    distiller.ctx.step = 0
    distiller(batch)
    distiller(batch)
    calls.clear()
    distiller.ctx.step = 9
    distiller(batch)
    assert calls == ["student"]


@pytest.mark.parametrize("seed", [0, 7])
def test_seeding_without_an_accelerator_is_torchs_own(seed: int) -> None:
    torch.manual_seed(seed)
    expected = torch.rand(3)
    seed_draws(seed)
    assert torch.equal(torch.rand(3), expected)
