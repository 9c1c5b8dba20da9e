"""INFER's recipe at toy size: all arms, equal budgets, sets and networks stored once."""

from __future__ import annotations

import json
from pathlib import Path

from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.settings import from_yaml
from distil.report.check import validate

ARMS = ["hard", "soft", "sre2l", "rded", "infer", "dynamic", "real", "per-class"]
TINY = (
    "pair.data=digits",
    "pair.size=8",
    "pair.train=400",
    "pair.teacher_train=400",
    "pair.val=100",
    "pair.teacher='distil:cnn(widths=(8, 16))'",
    "pair.student='distil:cnn(widths=(4, 4))'",
    "pair.teacher_training.epochs=12",
    "pair.teacher_training.lr=0.02",
    "more_teachers=['distil:cnn(widths=(12,))']",
    "per_class=3",
    "training.checks=2",
    "training.updates=4",
    "synthesis.steps=2",
    "views.batch=16",
    "test=100",
    "seeds=[0]",
)


def test_the_recipe_runs_and_its_arms_have_equal_budgets(tmp_path: Path) -> None:
    recipe = load_recipe("infer")
    setup = prepare_setup(recipe, assignments=TINY)
    report = run_recipe(recipe, setup, tmp_path, Lab(tmp_path), command="distil run infer", system="infer")
    validate(json.loads(json.dumps(report)))
    assert from_yaml(recipe.Setup(), tmp_path / "settings.yaml") == setup
    assert [arm["name"] for arm in report["arms"]] == ARMS
    assert report["arms"][0]["role"] == "reference"
    assert {arm["role"] for arm in report["arms"]} == {"reference", "rival", "method", "ablation"}
    budgets = [arm["budget"] for arm in report["arms"]]
    assert all(budget == {"updates": 4, "batch_size": 16, "labels": 30, "trials": 1} for budget in budgets)
    stored = [path.name for path in (tmp_path / "stages").iterdir()]
    assert sum(name.startswith("set-infer") for name in stored) == 2  # one set for four arms, one for each class
    assert "2 real images a class and 4 additive ones" in report["setting"]["INFER"]
