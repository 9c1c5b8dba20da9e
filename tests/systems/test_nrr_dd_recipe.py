"""NRR-DD's recipe at toy size: it runs, budgets are equal, label arms share their images, and the tables are there."""

from __future__ import annotations

import json
from pathlib import Path

from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.settings import from_yaml, update
from distil.report.check import validate

TOY = (
    "pair.data=digits",
    "pair.train=300",
    "pair.teacher_train=300",
    "pair.val=100",
    "pair.teacher='distil:cnn(widths=(8, 12))'",
    "pair.student='distil:cnn(widths=(4,))'",
    "pair.teacher_training.epochs=12",
    "pair.teacher_training.batch_size=30",
    "pair.teacher_training.lr=0.03",
    "per_class=2",
    "images.candidates=20",
    "images.crops=3",
    "images.keep=2",
    "images.steps=2",
    "images.epochs=2",
    "images.view_batch=10",
    "training.checks=1",
    "training.updates=4",
    "training.validate=50",
    "test=60",
    "seeds=[0, 1]",
)
ARMS = [
    "random",
    "nrr-dd",
    "soft",
    "onehot",
    "rded",
    "sre2l",
    "not-refined",
    "random-refined",
    "critical-only",
    "correct",
    "confident",
]


def test_the_recipe_runs_on_digits(tmp_path: Path) -> None:
    recipe = load_recipe("nrr-dd")
    setup = prepare_setup(recipe, assignments=TOY)
    report = run_recipe(recipe, setup, tmp_path, Lab(tmp_path), command="distil run nrr-dd", system="nrr-dd")
    validate(json.loads(json.dumps(report)))
    assert from_yaml(recipe.Setup(), tmp_path / "settings.yaml") == setup
    assert [arm["name"] for arm in report["arms"]] == ARMS
    budgets = [arm["budget"] for arm in report["arms"]]
    assert all(budget == budgets[0] for budget in budgets)
    assert (budgets[0]["updates"], budgets[0]["labels"]) == (4, 20)
    arms = {arm["name"]: arm for arm in report["arms"]}
    size = {name: arm["diagnostics"]["labels bytes"][0] for name, arm in arms.items()}
    assert (size["nrr-dd"], size["soft"], size["onehot"]) == (20 + 2 * 2 * 20 * 2, 20 + 2 * 10 * 20 * 2, 20)
    assert {arm["diagnostics"]["images bytes"][0] for arm in report["arms"]} == {20 * 64}
    # Three labels share one set of images for each seed, and so do no other two arms.
    assert len(list(tmp_path.glob("stages/nrr-dd-images-*"))) == 2 * (len(ARMS) - 2)
    assert [table["title"] for table in report["tables"]] == ["Labels of the same images", "NRR-DD less the other arm"]
    assert len(report["tables"][1]["rows"]) == len(ARMS) - 1
    judged = {(verdict["arm"], verdict["against"]) for verdict in report["verdicts"]}
    assert judged >= {("nrr-dd", other) for other in ("random", "soft", "onehot", "rded", "sre2l")}


def test_evidence_leaves_out_the_seed_that_was_seen_while_settings_changed() -> None:
    recipe = load_recipe("nrr-dd")
    for changed in recipe.EVIDENCE:
        assert 0 not in {**vars(recipe.Setup()), **changed}["seeds"]


def test_evidence_has_labels_for_every_view_that_students_are_shown() -> None:
    recipe = load_recipe("nrr-dd")
    sizes = []
    for changed in recipe.EVIDENCE:
        setup = update(recipe.Setup(), changed)
        views = setup.images.epochs * setup.per_class * 10
        assert views == setup.training.updates * setup.images.view_batch
        sizes.append(setup.per_class)
    assert sizes == [10, 50]
