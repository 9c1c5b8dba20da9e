"""The survey's experiments on several teachers, and on every way to choose real samples, at toy size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distil.errors import DistilError
from distil.loops.condensers import CONDENSERS
from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.settings import update
from distil.report.check import validate
from distil.systems.kd_dd_survey.recipe import EVIDENCE, FURTHER, SELECTED, Setup

TEACHERS = (
    "part=teachers",
    "teachers.pair.data=digits",
    "teachers.pair.train=120",
    "teachers.pair.teacher_train=400",
    "teachers.pair.val=60",
    "teachers.pair.teacher='distil:mlp(hidden=24)'",
    "teachers.pair.student='distil:mlp(hidden=8)'",
    "teachers.pair.teacher_training.epochs=15",
    "teachers.pair.teacher_training.lr=0.01",
    "teachers.training.epochs=2",
    "seeds=[0]",
)
SETS = (
    "data.train=200",
    "data.val=60",
    "student='distil:mlp(hidden=8)'",
    "training.updates=6",
    "training.checks=2",
    "teacher_training.epochs=8",
    "teacher_training.lr=0.01",
    "seeds=[0]",
)


def run(out: Path, *settings: str) -> dict[str, Any]:
    recipe = load_recipe("kd-dd-survey")
    setup = prepare_setup(recipe, assignments=settings)
    lab = Lab(out, shared=out / "shared")
    report = run_recipe(recipe, setup, out, lab, command="distil run kd-dd-survey", system="kd-dd-survey")
    validate(json.loads(json.dumps(report)))
    return report


def test_three_teachers_know_a_third_each_and_every_weight_is_an_arm(tmp_path: Path) -> None:
    report = run(tmp_path, *TEACHERS)
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert {"uniform", "logits", "confidence", "entropy", "gate", "alternate", "sure", "agreed", "smooth"} <= set(arms)
    budgets = [arm["budget"] for arm in report["arms"] if arm["role"] != "bound"]
    assert all(budget == budgets[0] for budget in budgets)
    assert {v["arm"] for v in report["verdicts"] if v["against"] == "uniform"} >= {"confidence", "entropy", "gate"}
    knows, quality = report["tables"]
    named = [name for row in knows["rows"] for name in row[1].split(", ")]
    assert sorted(named) == sorted(report["data"]["classes"])  # each class belongs to one teacher
    for row in knows["rows"]:
        assert row[2] > 60  # by chance 25 or 33
        assert row[3] < 45  # of other classes nothing is right
    assert len(quality["rows"]) == len(arms)
    for name in ("agreement, %", "KL", "ECE", "drop", "p50 ms", "parameters", "bytes"):
        assert all(row[quality["head"].index(name)] is not None for row in quality["rows"]), name


def test_every_way_to_choose_real_samples_is_an_arm_with_its_bytes(tmp_path: Path) -> None:
    assert any({*SELECTED, *FURTHER} <= set(one.get("arms", ())) for one in EVIDENCE)
    chosen = ["random", *SELECTED, *FURTHER, "random-soft", "herding-soft", "full"]
    report = run(tmp_path, *SETS, f"arms={json.dumps(chosen)}", "per_class=2")
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert list(arms) == chosen
    bytes_of = next(table for table in report["tables"] if table["title"] == "Accuracy over bytes")
    size = {row[0]: row[-1] for row in bytes_of["rows"]}
    assert size["Herding, soft labels"] > size["Herding"] > 0  # stored logits count
    assert size["All data"] > size["Herding, soft labels"]
    assert size["CRAIG, weighed"] > size["Herding"]  # and so do weights


def test_every_condenser_that_chooses_is_in_the_experiment() -> None:
    choosing = {name for name, one in CONDENSERS.items() if "condense_select" in one.run}
    assert choosing == set(SELECTED) | set(FURTHER)


@pytest.mark.parametrize("evidence", EVIDENCE, ids=str)
def test_the_settings_of_the_evidence_are_settings(evidence: dict[str, Any]) -> None:
    assert len(update(Setup(), evidence).seeds) >= 3


def test_parts_and_teachers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="part='teacher' is unknown; did you mean 'teachers'"):
        run(tmp_path / "a", "part=teacher")
    with pytest.raises(DistilError, match=r"teachers\.count=1 must lie in 2 … 10"):
        run(tmp_path / "b", *TEACHERS, "teachers.count=1")
