"""INFER's recipe at toy size: all arms, equal budgets, sets and networks stored once."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from distil.cli import main
from distil.loops.lab import Lab
from distil.loops.own_condense import CondenseRun
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.settings import from_yaml
from distil.models import load_model
from distil.report.check import validate
from distil.systems.infer import Infer, share_of_budget

PAGE = Path(__file__).resolve().parents[2] / "docs" / "condensing.md"
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


KINDS = ["CifarResNet", "MobileNet", "EfficientNet", "ShuffleNet"]


def published(verb: str) -> list[str]:
    """The line of the page that asks a verb for the authors' setting."""
    (line,) = re.findall(rf"^distil ({verb} .*shufflenet.*)$", PAGE.read_text(encoding="utf-8"), re.M)
    return shlex.split(line)


def test_the_published_setting_is_one_line_that_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    words = published("run infer")
    assert main([*words, "--dry-run", "--json"]) == 0
    setup = json.loads(capsys.readouterr().out)
    nets = [setup["pair"]["teacher"], *setup["more_teachers"]]
    kinds = [type(load_model(spec, classes=10, input_shape=(3, 32, 32))).__name__ for spec in nets]
    assert kinds == KINDS
    made = Infer(**{**setup["synthesis"], "skip": (), "networks": None})
    assert (made.steps, made.rate, made.statistics, made.first, made.jitter) == (1000, 0.25, 1.0, 10.0, 4)
    counts = {10: 2400, 50: 11200}  # images a class, and the updates that the page names
    for per_class, updates in counts.items():
        images = 10 * share_of_budget(per_class, networks=4, classes=10) * 5
        assert updates == 400 * -(-images // setup["views"]["batch"])
    assert setup["training"]["updates"] == counts[setup["per_class"]]


def test_the_line_runs_at_toy_size(tmp_path: Path) -> None:
    nets = ["distil:mobilenet(width=0.25)", "timm:test_efficientnet", "distil:shufflenet(width=0.25)"]
    asked = [each for each in published("run infer") if "=" in each]
    first = "pair.teacher='distil:resnet(depth=8, widths=(4, 8, 8))'"
    small = (
        *TINY,
        f"more_teachers={json.dumps(nets)}",
        first,
        "per_class=5",
        "synthesis.steps=1",
        "training.updates=2",
    )
    setup = prepare_setup(load_recipe("infer"), assignments=[*asked, *small])
    report = run_recipe(load_recipe("infer"), setup, tmp_path, Lab(tmp_path), command="distil run", system="infer")
    assert "3 real images a class and 12 additive ones for all classes, which give 15" in report["setting"]["INFER"]
    assert all(name in report["setting"]["Networks"] for name in nets)
    assert [arm["name"] for arm in report["arms"]] == ARMS


def test_own_images_are_condensed_by_the_same_networks_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CondenseRun] = []
    monkeypatch.setattr("distil.cli.condense._check", lambda settings, device, as_json: seen.append(settings))
    assert main([*published("condense"), "--dry-run"]) == 0
    [run] = seen
    assert [type(load_model(spec, classes=10)).__name__ for spec in run.teachers] == KINDS
    assert (run.method, run.per_class, run.train_teacher, run.options) == ("infer", 10, 200, {})
    plain = Infer()
    assert (plain.steps, plain.rate, plain.statistics, plain.first, plain.jitter) == (1000, 0.25, 1.0, 10.0, 4)
