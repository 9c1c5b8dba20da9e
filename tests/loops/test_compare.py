"""Comparisons: equal budgets or none at all, and seeds that pair: same initial weights, same order of the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from distil.data import load, split
from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.engine.distiller import Distiller
from distil.errors import DistilError
from distil.loops import training
from distil.loops.compare import compare, equal_budgets, run_arms
from distil.loops.lab import Arm, Lab, Outcome
from distil.loops.training import Teacher, Training, build_model, distil
from distil.report.check import validate
from distil.tasks import get_task

from .fakes import arm, outcome

TASK = get_task("classification")


def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def two(**budget: Any) -> dict[str, Arm]:
    return {
        "alone": arm("reference", lambda seed: outcome(50 + seed)),
        "kd": arm("method", lambda seed: outcome(60 + seed, **budget), "kd"),
    }


def test_arms_run_seed_by_seed_and_are_reused(tmp_path: Path) -> None:
    order: list[tuple[str, int]] = []

    def noted(name: str) -> Any:
        def run(seed: int) -> Outcome:
            order.append((name, seed))
            return outcome(seed)

        return run

    arms = {"a": arm("reference", noted("a")), "b": arm("method", noted("b"))}
    run_arms(arms, (0, 1), lab(tmp_path))
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    found = run_arms(arms, (0, 1, 2), lab(tmp_path))
    assert order[4:] == [("a", 2), ("b", 2)]
    assert [o.metrics["best"]["accuracy"] for o in found["a"]] == [0, 1, 2]


@pytest.mark.parametrize("key", ["updates", "batch_size", "labels", "trials"])
@pytest.mark.parametrize("value", [7.0, 1000.0])
def test_unequal_budgets_are_refused_by_key_and_arm(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(DistilError, match=f"'alone' and 'kd' have unequal budgets: {key} .* against {value:g}"):
        run_arms(two(**{key: value}), (0, 1), lab(tmp_path))


def test_one_seed_with_another_budget_is_enough(tmp_path: Path) -> None:
    arms = two()
    arms["kd"] = arm("method", lambda seed: outcome(60, updates=11.0 if seed == 2 else 10.0), "kd")
    run_arms(arms, (0, 1), lab(tmp_path))
    with pytest.raises(DistilError, match="unequal budgets: updates 10 against 11"):
        run_arms(arms, (0, 1, 2), lab(tmp_path))


def test_a_bound_may_have_any_budget(tmp_path: Path) -> None:
    arms = {**two(), "more": arm("bound", lambda seed: outcome(90, updates=1e6))}
    outcomes = run_arms(arms, (0,), lab(tmp_path))
    equal_budgets(arms, outcomes)
    assert outcomes["more"][0].budget["updates"] == 1e6


@pytest.mark.parametrize(
    ("seeds", "says"), [((), "give at least one"), ((1, 1), "all different"), ((-1,), "from 0"), ((2**63,), "from 0")]
)
def test_seeds_that_cannot_be_paired_are_refused(tmp_path: Path, seeds: tuple[int, ...], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        run_arms(two(), seeds, lab(tmp_path))


def test_a_comparison_needs_a_reference(tmp_path: Path) -> None:
    arms = {"kd": two()["kd"], "again": two()["kd"]}
    with pytest.raises(DistilError, match="needs a reference arm"):
        run_arms(arms, (0,), lab(tmp_path))


def test_the_report_pairs_by_seed_and_judges_against_reference_and_rivals(tmp_path: Path) -> None:
    arms = {**two(), "rival": arm("rival", lambda seed: outcome(55 + seed), "dkd")}
    report = compare(arms, (0, 1, 2), lab(tmp_path), title="t", task=TASK)
    validate(report)
    found = {(v["arm"], v["against"]): v for v in report["verdicts"]}
    assert set(found) == {("kd", "alone"), ("rival", "alone"), ("kd", "rival")}
    assert found["kd", "alone"]["outcome"] == "helped"
    assert found["kd", "alone"]["difference"]["mean"] == pytest.approx(10)
    assert found["kd", "rival"]["difference"]["mean"] == pytest.approx(5)
    assert report["arms"][1]["cost"]["teacher_share"] == 0.25


def test_an_adjusted_comparison_counts_rivals_too_and_puts_the_best_first(tmp_path: Path) -> None:
    arms = {**two(), "better": arm("method", lambda seed: outcome(70 + seed), "dkd")}
    arms |= {"rival": arm("rival", lambda seed: outcome(55 + seed), "dist")}
    report = compare(arms, (0, 1, 2), lab(tmp_path), title="t", task=TASK, adjust=True)
    validate(report)
    assert report["adjustment"] == {"kind": "bonferroni", "comparisons": 5, "level": 0.95}
    assert [v["difference"]["level"] for v in report["verdicts"]] == pytest.approx([0.99] * 5)
    order = [(v["arm"], v["against"]) for v in report["verdicts"]]
    assert order == [
        *(("better", "alone"), ("kd", "alone"), ("rival", "alone")),
        *(("better", "rival"), ("kd", "rival")),
    ]
    plain = compare(arms, (0, 1, 2), lab(tmp_path), title="t", task=TASK)
    assert plain["adjustment"] == {"kind": "none", "comparisons": 5, "level": 0.95}
    assert plain["verdicts"][0]["arm"] == "kd"


# ---- what the seeds pair, seen from inside real runs


class Watched(Distiller):
    """A Distiller that notes the weights it starts from and the ids of every batch."""

    seen: ClassVar[list[tuple[str, list[int]]]] = []

    def __init__(self, student: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(student, *args, **kwargs)
        self.ids: list[int] = []
        Watched.seen.append((fingerprint(student), self.ids))

    def totals(self, window: Any) -> Any:
        made = super().totals(window)
        self.ids += [int(i) for batch in made.batches for i in batch["id"]]
        return made


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    monkeypatch.setattr(training, "Distiller", Watched)
    Watched.seen = []
    return Watched.seen


def small() -> Bundle:
    whole = load("digits")
    (train,) = split(whole.train, [60])
    (val,) = split(whole.val, [30])
    return replace(whole, train=train, val=val, test=val, fingerprint="digits-60-30")


def teacher(bundle: Bundle) -> Teacher:
    module = build_model("distil:mlp(hidden=12)", bundle, seed=0, role="teacher").eval()
    return Teacher(module, {"accuracy": 0.0}, fingerprint(module), 0.0)


METHODS = {
    "alone": "supervised",
    "kd": "0.1*supervised + 0.9*kd(temperature=4)",
    "nd": "supervised + 2*directnorm",  # with a projector, whose weights and dropout are drawn too
    "rkd": "supervised + rkd(angle=0)",
}


def test_arms_of_a_seed_share_initial_weights_and_data_order(tmp_path: Path, seen: list[tuple[str, list[int]]]) -> None:
    bundle = small()
    taught = teacher(bundle)
    plan = Training(epochs=2, batch_size=16)

    def runner(method: str) -> Any:
        return lambda seed: distil(
            lab(tmp_path), method, "distil:mlp(hidden=6)", taught, bundle, plan, seed=seed, check_teacher=False
        )

    arms = {
        name: arm("reference" if name == "alone" else "method", runner(text), text) for name, text in METHODS.items()
    }
    outcomes = run_arms(arms, (0, 1), lab(tmp_path))
    first, second = seen[: len(arms)], seen[len(arms) :]
    for rows in (first, second):
        assert len({weights for weights, _ in rows}) == 1
        assert all(ids == rows[0][1] for _, ids in rows)
        assert len(rows[0][1]) == 2 * 60
    assert first[0][0] != second[0][0]
    assert first[0][1] != second[0][1]
    assert sorted(first[0][1][:60]) == sorted(second[0][1][:60])
    assert all(o.budget == outcomes["alone"][0].budget for rows in outcomes.values() for o in rows)


def test_a_run_repeated_is_equal_and_independent_of_the_callers_generator(tmp_path: Path) -> None:
    bundle = small()
    taught = teacher(bundle)
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        torch.rand(noise + 3)
        plan = Training(epochs=2, batch_size=16)
        student = "distil:mlp(hidden=6, dropout=0.3)"
        found.append(distil(lab(tmp_path), METHODS["nd"], student, taught, bundle, plan, seed=1, check_teacher=False))
    one, two = found
    assert one.metrics == two.metrics
    assert [r["loss"] for r in one.history if r["epoch"]] == [r["loss"] for r in two.history if r["epoch"]]
    assert one.agreement == two.agreement
