"""The grid of `distil train` and `distil compare`: what is read, what every arm tries, and what is chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distil.errors import DistilError, Diverged
from distil.loops.grid import Point, parse_grid, plan_trials, with_argument
from distil.loops.lab import Lab, Outcome
from distil.loops.training import Training
from distil.loops.tuning import tune_arms, tuning_report, tuning_seed, tuning_words
from distil.methods.expression import parse
from distil.tasks import get_task

from .fakes import outcome

TRAINING = Training(lr=0.01)
ARMS = {"alone": "supervised", "kd": "0.1*supervised + 0.9*kd(temperature=4)", "at": "supervised + 50*at"}


def texts(points: list[Point]) -> list[str]:
    return [point.text for point in points]


# --- reading ------------------------------------------------------------------------------------------------------


def test_values_are_yaml() -> None:
    read = parse_grid(["at.taps=stages,[a.b, c],'d,e'", "pld.label_first=true,false", "x.y=1e-3,2.5,-1"])
    assert read == {
        "at.taps": ["stages", ["a.b", "c"], "d,e"],
        "pld.label_first": [True, False],
        "x.y": [0.001, 2.5, -1],
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["kd.temperature"], "cannot be read; write --grid kd.temperature=1,2,4"),
        (["kd=1,2"], "names no argument"),
        (["kd.temperature=1,,2"], "empty value"),
        (["kd.temperature=1,2,1"], "holds 1 twice"),
        (["kd.temperature=1,1.0"], "holds 1 twice"),
        (["kd.temperature=4"], "one value, which leaves nothing to choose"),
        (["kd.temperature=1,{a: b}"], "is no value to try"),
        (["kd.temperature=1,[2"], "cannot be read as YAML"),
        (["kd.temperature=1,2", "kd.temperature=4,8"], "names kd.temperature twice"),
    ],
)
def test_what_cannot_be_read_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(DistilError, match=said.replace("[", r"\[")):
        parse_grid(given)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"kdd.temperature": [1, 2]}, "no method here has the component 'kdd'; did you mean 'kd'"),
        ({"dkd.beta": [1, 2]}, "no method here has the component 'dkd'"),
        ({"training.epochs": [1, 2]}, "training.epochs is the same for every arm"),
        ({"training.lrr": [1, 2]}, "training.lrr does not exist; did you mean 'lr'"),
        ({"training.lr": [0.1, "much"]}, "'training.lr' is 'much'; a number is expected"),
        ({"kd.temperature": [1, 1]}, "twice"),
        ({"kd": [1, 2]}, "names no argument"),
    ],
)
def test_what_no_arm_has_is_refused(grid: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        plan_trials(grid, ARMS, TRAINING)


# --- expressions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "value", "made"),
    [
        ("kd", "kd.temperature", 2, "kd(temperature=2)"),
        ("0.5*(kd + supervised)", "kd.temperature", 2, "0.5*(kd(temperature=2) + supervised)"),
        ("at(taps=[a,b.c])+kd", "at.taps", ["d.e", "f"], "at(taps=['d.e', f])+kd"),
        ("1e-3*kd(temperature=4) + dkd", "kd.temperature", 2, "1e-3*kd(temperature=2) + dkd"),
        ("ff-g2m(tau=1)", "ff_g2m.tau", 2, "ff-g2m(tau=2)"),
        ("ff_g2m", "ff-g2m.tau", 2, "ff_g2m(tau=2)"),
        ("kd(name=hot, temperature=4) + kd", "hot.temperature", 8, "kd(name=hot, temperature=8) + kd"),
        ("kd(name=hot, temperature=4) + kd", "kd.temperature", 8, "kd(name=hot, temperature=4) + kd(temperature=8)"),
        ("ramp(epochs=3)*pld(label_first=true)", "pld.label_first", False, "ramp(epochs=3)*pld(label_first=false)"),
    ],
)  # fmt: skip
def test_an_argument_is_set_where_it_stands(text: str, key: str, value: Any, made: str) -> None:
    component, _, argument = key.partition(".")
    assert with_argument(text, component, argument, value) == made
    assert parse(made).components  # it is still an expression


def test_a_component_that_stands_twice_is_ambiguous() -> None:
    with pytest.raises(DistilError, match="'kd' stands 2 times"):
        plan_trials({"kd.temperature": [1, 2]}, {"x": "kd + ramp(epochs=2)*kd"}, TRAINING)


def test_a_schedule_is_no_component() -> None:
    with pytest.raises(DistilError, match="no method here has the component 'ramp'"):
        plan_trials({"ramp.epochs": [1, 2]}, {"x": "ramp(epochs=3)*kd"}, TRAINING)


# --- as many trials for every arm ---------------------------------------------------------------------------------


def test_every_arm_gets_as_many_trials_and_those_without_values_other_learning_rates() -> None:
    planned = plan_trials({"kd.temperature": [1, 2, 4]}, ARMS, TRAINING)
    assert texts(planned["kd"]) == ["kd.temperature=1", "kd.temperature=2", "kd.temperature=4"]
    assert [p.expression for p in planned["kd"]][1] == "0.1*supervised + 0.9*kd(temperature=2)"
    assert {p.training for p in planned["kd"]} == {TRAINING}
    for name in ("alone", "at"):
        assert texts(planned[name]) == ["as written", "training.lr=0.00316", "training.lr=0.0316"]
        assert [p.training.lr for p in planned[name]] == [0.01, 0.00316, 0.0316]
        assert {p.expression for p in planned[name]} == {ARMS[name]}


@pytest.mark.parametrize("values", [2, 3, 4, 5, 9])
def test_rates_are_all_different_and_within_a_decade(values: int) -> None:
    planned = plan_trials({"kd.temperature": list(range(1, values + 1))}, ARMS, TRAINING)
    rates = [p.training.lr for p in planned["alone"]]
    assert len(set(rates)) == len(rates) == values
    assert rates[0] == 0.01
    assert 0.001 <= min(rates) <= max(rates) <= 0.1


def test_a_rate_that_is_tried_concerns_every_arm_and_the_rest_is_filled_up() -> None:
    planned = plan_trials({"kd.temperature": [1, 4], "training.lr": [0.1, 0.2]}, ARMS, TRAINING)
    assert texts(planned["kd"]) == [
        "kd.temperature=1, training.lr=0.1",
        "kd.temperature=1, training.lr=0.2",
        "kd.temperature=4, training.lr=0.1",
        "kd.temperature=4, training.lr=0.2",
    ]
    assert [p.training.lr for p in planned["alone"]] == [0.1, 0.2, 0.0316, 0.316]
    alike = plan_trials({"training.lr": [0.1, 0.2]}, ARMS, TRAINING)
    assert {tuple(texts(points)) for points in alike.values()} == {("training.lr=0.1", "training.lr=0.2")}


def test_a_limit_draws_the_same_trials_again_and_holds_for_all() -> None:
    grid = {"kd.temperature": [1, 2, 4, 8], "training.lr": [0.1, 0.2]}
    planned = plan_trials(grid, ARMS, TRAINING, limit=3)
    assert {len(points) for points in planned.values()} == {3}
    assert plan_trials(grid, ARMS, TRAINING, limit=3) == planned
    assert plan_trials(grid, ARMS, TRAINING, limit=3, seed=1)["kd"] != planned["kd"]


def test_without_a_grid_there_is_one_trial_as_written() -> None:
    planned = plan_trials({}, ARMS, TRAINING)
    assert planned == {name: [Point({}, text, TRAINING)] for name, text in ARMS.items()}


# --- choosing -----------------------------------------------------------------------------------------------------


def test_each_arm_is_chosen_on_validation_under_a_seed_that_is_not_shown(tmp_path: Path) -> None:
    seeds: set[int] = set()

    def run(name: str, point: Point) -> Callable[[int], Outcome]:
        good = {"alone": {0.01: 50, 0.00316: 61, 0.0316: 55}, "kd": {1: 70, 2: 80, 4: 75}}[name]
        key = point.training.lr if name == "alone" else point.values["kd.temperature"]

        def give(seed: int) -> Outcome:
            seeds.add(seed)
            # What is best on test is worst on validation.
            return outcome(100.0 - good[key], val=(good[key], 1.0))

        return give

    arms = {name: ARMS[name] for name in ("alone", "kd")}
    task, seed = get_task("classification"), tuning_seed((0, 1, 1000))
    points = plan_trials({"kd.temperature": [1, 2, 4]}, arms, TRAINING)
    tuned = tune_arms(Lab(tmp_path), points, run, seed=seed, task=task)
    assert seeds == {1001}
    assert tuned["kd"].point.expression == "0.1*supervised + 0.9*kd(temperature=2)"
    assert tuned["alone"].point.training.lr == 0.00316
    report = tuning_report(tuned, seed=seed, task=task)
    assert report["trials"] == 3
    assert [t["score"] for t in report["arms"]["kd"]["tried"]] == [70, 80, 75]
    assert report["arms"]["kd"]["chosen"] == {"kd.temperature": 2}
    words = tuning_words(tuned, seed=seed, task=task)
    assert words["Tuning of kd"] == (
        "kd.temperature=2 was chosen (kd.temperature=1: 70; kd.temperature=2: 80; kd.temperature=4: 75)"
    )
    assert words["Tuning"].startswith("3 trials for every arm, each trained once with seed 1001")


def test_a_trial_that_diverges_is_the_worst_and_is_shown_so(tmp_path: Path) -> None:
    def run(name: str, point: Point) -> Callable[[int], Outcome]:
        def made(seed: int) -> Outcome:
            if point.values["kd.temperature"] in bad:
                raise Diverged("Not a number at step 3: first in the loss.")
            return outcome(70.0, val=(70.0,))

        return made

    arms = {"kd": ARMS["kd"]}
    task, seed = get_task("classification"), tuning_seed((0,))
    points = plan_trials({"kd.temperature": [1, 2]}, arms, TRAINING)
    bad = {1}
    tuned = tune_arms(Lab(tmp_path), points, run, seed=seed, task=task)
    assert tuned["kd"].point.values == {"kd.temperature": 2}
    report = tuning_report(tuned, seed=seed, task=task)
    assert [t["score"] for t in report["arms"]["kd"]["tried"]] == [None, 70]
    assert "kd.temperature=1: diverged" in tuning_words(tuned, seed=seed, task=task)["Tuning of kd"]
    bad = {1, 2}
    with pytest.raises(Diverged, match="Every trial of 'kd' diverged; the last said: Not a number"):
        tune_arms(Lab(tmp_path / "again"), points, run, seed=seed, task=task)
