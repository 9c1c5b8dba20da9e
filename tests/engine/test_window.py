"""The window of micro-batches: exact totals, whatever the host divides by, and every real step noticed once."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from distil.engine import Distiller, Method, Term
from distil.errors import DistilError
from distil.methods import DIST, KD, Supervised
from engine import toys


def ragged(sizes: list[int], unlabelled: int = 0) -> list[dict[str, torch.Tensor]]:
    data = toys.vectors(sum(sizes), dtype=torch.float64)
    data.labels[:unlabelled] = -100
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [toys.batch(data, size, start) for size, start in zip(sizes, starts)]


def joined(window: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: torch.cat([part[key] for part in window]) for key in window[0]}


def doubled(method: Any = None) -> Distiller:
    student, teacher = (model.double() for model in toys.pair())
    chosen = 0.9 * KD() + 0.5 * Supervised() if method is None else method
    return Distiller(student, teacher, chosen, example=toys.batch(toys.vectors(dtype=torch.float64), 4))


@pytest.mark.parametrize("sizes", [[12], [6, 6], [7, 5], [1, 4, 2, 5]], ids=str)
@pytest.mark.parametrize("divides", [True, False])
def test_totals_make_any_split_exact(sizes: list[int], divides: bool) -> None:
    window = ragged(sizes, unlabelled=5)
    whole, split = doubled(), doubled()
    one = whole(joined(window))
    one.loss.backward()
    totals = split.totals(window)
    shown = []
    for part in window:
        step = split(part, totals=totals, divides=divides)
        (step.loss / len(window) if divides else step.loss).backward()
        shown.append(step.terms)
    for name, grad in toys.grads(whole).items():
        assert torch.allclose(grad, toys.grads(split)[name], rtol=1e-9, atol=1e-14)
    split.watch()
    split.after_step()
    for name, value in one.terms.items():
        assert split.ctx.terms[name].item() == pytest.approx(value.item(), rel=1e-9)
        assert sum(float(s[name]) for s in shown) / len(shown) == pytest.approx(value.item(), rel=1e-9)


def test_a_coupled_term_is_averaged_over_micro_batches() -> None:
    window = ragged([6, 6])
    distiller = doubled(DIST())
    alone = [doubled(DIST())(part).terms["dist.intra"] for part in window]
    totals = distiller.totals(window)
    for part in window:
        distiller(part, totals=totals, divides=False)
    distiller.after_step()
    assert distiller.ctx.terms["dist.intra"].item() == pytest.approx(float(sum(alone)) / 2, rel=1e-12)


def test_a_window_without_any_label_gives_zero_and_a_gradient_path() -> None:
    window = ragged([4, 2], unlabelled=6)
    distiller = doubled(Supervised())
    totals = distiller.totals(window)
    for part in window:
        loss = distiller(part, totals=totals).loss
        assert loss == 0
        loss.backward()
    assert all(not grad.any() for grad in toys.grads(distiller).values())


def test_only_batches_of_the_window_are_taken() -> None:
    distiller, window = doubled(), ragged([4, 4])
    totals = distiller.totals(window)
    with pytest.raises(DistilError, match=r"not one of the 2 that totals\(\) was given"):
        distiller(dict(window[0]), totals=totals)
    for _ in window:
        distiller(totals=totals)
    with pytest.raises(DistilError, match="not one of the 2"):
        distiller(totals=totals)
    with pytest.raises(DistilError, match="empty window"):
        distiller.totals([])


def test_unequal_counts_without_totals_are_announced_once() -> None:
    distiller = doubled()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for part in (*ragged([4, 4]), *ragged([3]), *ragged([2])):
            distiller(part)
    assert ["unequal numbers" in str(w.message) for w in told] == [True]


class Miscounts(Method):
    """Weighs half of what it says it counts."""

    at_equality = {"miscounts": "zero"}  # noqa: RUF012

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        values = (student(batch).logits - teacher(batch).logits).square().mean(1)
        return {"miscounts": Term(values, torch.full_like(values, 0.5))}


@pytest.mark.parametrize("joint", [True, False])
def test_counts_that_disagree_with_the_weights_are_refused(joint: bool) -> None:
    distiller, (part,) = doubled(Miscounts()), ragged([8])
    with pytest.raises(DistilError, match=r"'miscounts' counts 4 elements on this batch, but counts\(\) said 8"):
        distiller(part, totals=distiller.totals([part]) if joint else None)


# --- watching -------------------------------------------------------------------------------------------------------


class Ticks(toys.Hint):
    """Notes the terms of every step."""

    def setup(self, student: Any, teacher: Any) -> None:
        self.seen: list[tuple[int, float]] = []

    def after_step(self, ctx: Any) -> None:
        self.seen.append((ctx.step, float(ctx.terms["ticks"])))


def ticking() -> tuple[Distiller, Ticks]:
    distiller = doubled(Ticks())
    return distiller, distiller.method.components[0].method


def test_after_step_runs_once_per_real_step_under_accumulation() -> None:
    distiller, ticks = ticking()
    host = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = host.prepare(distiller, torch.optim.SGD(distiller.parameters(), lr=0.1))
    assert distiller.watch(optimizer) is optimizer  # accelerate's wrapper has no hook table of its own
    for part in ragged([4] * 6):
        with host.accumulate(model):
            host.backward(model(part).loss)
            optimizer.step()
            optimizer.zero_grad()
    assert [step for step, _ in ticks.seen] == [0, 1, 2]
    assert distiller.ctx.micro == 0


def test_after_step_waits_for_the_last_of_two_optimizers() -> None:
    distiller, ticks = ticking()
    net = distiller.student
    first, second = distiller.watch(
        torch.optim.SGD(net.hidden.parameters(), lr=0.1), torch.optim.Adam(net.head.parameters(), lr=0.1)
    )
    for part in ragged([4, 4]):
        distiller(part).loss.backward()
        count = len(ticks.seen)
        first.step()
        assert len(ticks.seen) == count
        second.step()
    assert len(ticks.seen) == 2


def test_watching_again_lets_go_of_the_first() -> None:
    distiller, ticks = ticking()
    old = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1))
    new = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1))
    distiller(ragged([4])[0]).loss.backward()
    old.step()
    assert ticks.seen == []
    new.step()
    assert len(ticks.seen) == 1


def test_a_step_that_a_scaler_skipped_is_not_one() -> None:
    distiller, ticks = ticking()
    optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1, fused=True))
    bad, good = ragged([4, 4])
    distiller(bad).loss.backward()
    optimizer.found_inf = torch.ones(())  # as a fused optimizer has it under a scaler; its hook runs all the same
    optimizer.step()
    assert (ticks.seen, distiller.ctx.step, distiller.ctx.micro) == ([], 0, 0)
    optimizer.found_inf = torch.zeros(())
    value = distiller(good).terms["ticks"].item()
    optimizer.step()
    assert ticks.seen == [(0, value)]


def test_totals_begin_a_window_anew() -> None:
    """A scaler that skips an unfused optimizer runs no hook; the next window must not inherit what was left."""
    distiller, ticks = ticking()
    distiller.watch()
    bad, good = ragged([4, 4])
    distiller(totals=distiller.totals([bad]))
    value = distiller(totals=distiller.totals([good])).terms["ticks"].item()
    distiller.after_step()
    assert ticks.seen == [(0, value)]
