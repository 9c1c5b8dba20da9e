"""The survey's data side: every component of a small set switches it, what is refused, and the recipe at toy size."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distil import catalog
from distil.data import load
from distil.data.bundle import Bundle, ids_of
from distil.data.condensed import CondensedSet
from distil.errors import DistilError, Diverged
from distil.loops.condense import Order
from distil.loops.lab import Lab
from distil.loops.matching import Gradients
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.settings import update
from distil.loops.small_sets import SmallData, small_data, turned_back, whole_set
from distil.loops.training import Teacher, build_model
from distil.report.check import validate
from distil.systems.kd_dd_survey import small_set
from distil.systems.kd_dd_survey.procedure import MATCHING
from distil.systems.kd_dd_survey.recipe import FACTORS, SELECTED, _best, _Sets, _tried

NET = "distil:mlp(hidden=8)"
FEW: dict[str, dict[str, Any]] = {
    "distributions": {"iterations": 2, "net": NET},
    "gradients": {"iterations": 2, "net": NET, "batch": 8},
    "distillation gradients": {"iterations": 2, "net": NET, "batch": 8},
    "trajectories": {"iterations": 2, "net": NET, "experts": 1, "expert_epochs": 2, "ahead": 1, "lr": 1.0},
    "ridge": {"iterations": 2},
    "codes": {"iterations": 2, "net": NET},
}


@pytest.fixture(scope="module")
def digits() -> Bundle:
    return load("digits", limit=200)


def knowing(digits: Bundle) -> torch.nn.Module:
    """A teacher above chance: each class's mean image is its row."""
    teacher = build_model("distil:mlp(layers=1)", digits, seed=0)
    with torch.no_grad():
        for label in range(10):
            rows = Order(digits, 1).inputs(Order(digits, 1).real(label))
            teacher.layers[0].weight[label] = rows.mean(0).flatten() - rows.mean()
    return teacher


def made(digits: Bundle, matching: str = "distributions", **changed: Any) -> CondensedSet:
    asked = {"options": FEW[matching], "teachers": [knowing(digits)], **changed}
    return small_set(digits, 1, matching=matching, **asked)


def test_each_matching_is_built_and_gives_another_set(digits: Bundle) -> None:
    assert set(FEW) == set(MATCHING)
    sets = {name: made(digits, name) for name in MATCHING}
    assert len({small.fingerprint for small in sets.values()}) == len(MATCHING)
    for name, small in sets.items():
        assert small.labels.tolist() == list(range(10)), name
    assert {name for name, small in sets.items() if small.kind == "static"} == {"distillation gradients"}


def test_distance_carrier_labels_and_selection_switch_the_set(digits: Bundle) -> None:
    distances = [made(digits, "gradients", distance=name).fingerprint for name in ("ours", "mse", "cos")]
    assert len(set(distances)) == 3
    free, real, soft = made(digits), made(digits, carrier="real"), made(digits, labels="soft")
    assert torch.equal(free.inputs, soft.inputs)
    assert soft.logits is not None
    assert not torch.equal(free.inputs, real.inputs)
    drawn = made(digits, selection="random", options={})
    assert drawn.made["method"] == "random"
    assert {"matching", "distance", "selection", "labels", "carrier"} <= set(catalog.card("kd-dd-survey").components)


def test_samples_turned_back_are_real_ones_of_their_class_each_once_and_none_of_the_test_set(digits: Bundle) -> None:
    small = small_set(digits, 3, options={"iterations": 2, "net": NET}, carrier="real")
    assert small.ids is not None
    assert small.ids.unique().numel() == 30
    place = {int(one): k for k, one in enumerate(ids_of(digits.train))}
    picked = torch.tensor([place[int(one)] for one in small.ids])
    batch = Order(digits, 1).inputs(picked)
    assert torch.equal(small.inputs, batch)
    assert torch.equal(digits.train.labels[picked], small.labels)
    assert not set(small.ids.tolist()) & set(ids_of(digits.test).tolist())
    again = turned_back(small, digits)
    assert torch.equal(again.inputs, small.inputs)
    assert again.made["turned_back"]["mean distance"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"matching": "gradient"}, "did you mean 'gradients'"),
        ({"carrier": "text"}, "carrier='text' is unknown"),
        ({"labels": "softt"}, "did you mean 'soft'"),
        ({"selection": "rondom"}, "did you mean 'random'"),
        ({"distance": "cos"}, "dm matches none"),
        ({"labels": "soft"}, "soft labels come from a teacher|static labels come from a teacher"),
        ({"matching": "distillation gradients"}, "needs a trained teacher"),
    ],
)
def test_what_cannot_be_made_is_refused(digits: Bundle, changed: dict[str, Any], said: str) -> None:
    options = {} if "matching" in changed else {"iterations": 1, "net": NET}
    with pytest.raises(DistilError, match=said):
        small_set(digits, 1, **{"options": {} if "selection" in changed else options, **changed})


def test_a_cut_of_the_data_is_named_by_its_samples(tmp_path: Path) -> None:
    lab = Lab(tmp_path, shared=tmp_path)
    whole, cut = (small_data(SmallData(train=size), lab) for size in (None, 100))
    assert len(cut.train) == 100
    assert whole.fingerprint == load("digits").fingerprint != cut.fingerprint
    assert len(whole_set(cut)) == 100


TOY = (
    "data.train=200",
    "data.val=60",
    "student='distil:mlp(hidden=8)'",
    "unseen=['distil:mlp(layers=1)','distil:mlp(hidden=4)']",
    "training.updates=6",
    "training.checks=2",
    "teacher_training.epochs=8",
    "teacher_training.lr=0.01",
    "dm.iterations=2",
    "dc.iterations=2",
    "dc.batch=8",
    "tm.iterations=2",
    "tm.experts=1",
    "tm.expert_epochs=3",
    "krr.iterations=2",
    "latent.iterations=2",
    "seeds=[0]",
)


def test_the_recipe_runs_on_digits(tmp_path: Path) -> None:
    recipe = load_recipe("kd-dd-survey")
    setup = prepare_setup(recipe, assignments=TOY)
    lab = Lab(tmp_path, shared=tmp_path / "shared")
    report = run_recipe(recipe, setup, tmp_path, lab, command="distil run kd-dd-survey", system="kd-dd-survey")
    validate(json.loads(json.dumps(report)))
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert {"random", "dm", "dc", "tm", "krr", "latent", "dc-plain", "dm-real", "dc-kd", "full"} <= set(arms)
    assert set(arms) >= {name for name in SELECTED if name in arms}
    budgets = [arm["budget"] for arm in report["arms"] if arm["role"] != "bound"]
    assert budgets[0]["trials"] == 3
    trials = next(table for table in report["tables"] if table["title"] == "Trials")
    rows = {row[0]: row for row in trials["rows"]}
    assert len(rows) == len(arms)
    for row in rows.values():  # the first of the best scores was taken
        scores = [float(score) for score in row[2:5]]
        assert row[5] == ("1", "3.16", "0.316")[scores.index(max(scores))]
    free, real = rows[arms["dm"]["label"]], rows[arms["dm-real"]["label"]]
    assert (free[1], real[1]) == ("of the samples", f"as {arms['dm']['label']}")
    assert free[2:] == real[2:]
    assert all(budget == budgets[0] for budget in budgets)
    assert budgets[0]["labels"] == 10
    assert arms["dm-soft"]["diagnostics"]["labels bytes"][0] > arms["dm"]["diagnostics"]["labels bytes"][0]
    titles = [
        "Trials",
        "Accuracy over bytes",
        "Gain over random samples under the same labels",
        "What real samples cost",
    ]
    assert [table["title"] for table in report["tables"]] == titles
    free, real, lost, _ = report["tables"][3]["rows"][0]
    assert lost == pytest.approx(free - real)
    assert len([key for key in arms["dm"]["diagnostics"] if key.startswith("accuracy of ")]) == 2


def test_rded_stands_beside_random_images_under_its_own_labels_and_under_classes(tmp_path: Path) -> None:
    recipe = load_recipe("kd-dd-survey")
    arms = "[random, rded-hard, random-soft, random-step, rded]"
    setup = prepare_setup(recipe, assignments=[*TOY, f"arms={arms}", "augmentation.batch=5"])
    lab = Lab(tmp_path, shared=tmp_path / "shared")
    report = run_recipe(recipe, setup, tmp_path, lab, command="distil run kd-dd-survey", system="kd-dd-survey")
    found = {arm["name"]: arm for arm in report["arms"]}
    assert "CutMix" in report["setting"]["RDED's labels"]
    assert [arm["budget"] for arm in report["arms"]] == 5 * [found["random"]["budget"]]
    assert found["random"]["budget"]["batch_size"] == 5
    size = {name: arm["diagnostics"]["labels bytes"][0] for name, arm in found.items()}
    assert size["random"] == size["rded-hard"] == size["rded"] < size["random-soft"]
    gains = next(table for table in report["tables"] if table["title"].startswith("Gain over random"))
    rows = {row[0]: dict(zip(gains["head"], row, strict=True)) for row in gains["rows"]}
    for name, against in (("rded-hard", "random"), ("rded", "random-step")):
        row, other = rows[found[name]["label"]], rows[found[against]["label"]]
        assert (row["labels"], other["gain"]) == (other["labels"], "")
        assert row["gain"] == pytest.approx(row["accuracy"] - other["accuracy"])
    assert {row["labels"] for row in rows.values()} == {"classes", "logits of each sample", "logits of each view"}


def test_rdeds_images_are_the_same_under_both_kinds_of_labels(digits: Bundle, tmp_path: Path) -> None:
    setup = prepare_setup(load_recipe("kd-dd-survey"), assignments=["augmentation.batch=5"])
    teacher = Teacher(knowing(digits), {}, "toy", 0.0)
    arms = _Sets(setup, digits, teacher, Lab(tmp_path)).arms()
    hard, own, random, step = (arms[name][2](3) for name in ("rded-hard", "rded", "random", "random-step"))
    assert torch.equal(hard.inputs, own.inputs)
    assert torch.equal(random.inputs, step.inputs)
    assert (hard.kind, own.kind, step.kind) == ("hard", "dynamic", "dynamic")
    assert own.record == step.record
    assert own.record["augmentation"]["mix"] == "cutmix"
    vectors = replace(digits, input_shape=(64,))
    assert not {"rded", "rded-hard", "random-step"} & set(_Sets(setup, vectors, teacher, Lab(tmp_path)).arms())


def test_every_setting_of_the_evidence_has_two_unseen_judges_and_three_seeds() -> None:
    recipe = load_recipe("kd-dd-survey")
    for changed in recipe.EVIDENCE:
        setup = update(recipe.Setup(), changed)
        assert len({setup.student, *setup.unseen}) == 3
        assert len(setup.seeds) >= 3


def test_arms_are_chosen_by_name_and_random_is_among_them(tmp_path: Path) -> None:
    recipe = load_recipe("kd-dd-survey")
    lab = Lab(tmp_path, shared=tmp_path)
    few = [text for text in TOY if not text.startswith("seeds")]
    for arms, said in (("[random, dmm]", "did you mean 'dm'"), ("[dm]", "random is the reference")):
        with pytest.raises(DistilError, match=said):
            recipe.experiment(prepare_setup(recipe, assignments=[*few, f"arms={arms}"]), lab)
    with pytest.raises(DistilError, match="no unseen architecture"):
        recipe.experiment(prepare_setup(recipe, assignments=[*few, f"unseen=['{NET}']"]), lab)


def test_published_gradient_matching_makes_as_many_matches(digits: Bundle, tmp_path: Path) -> None:
    setup = prepare_setup(
        load_recipe("kd-dd-survey"), assignments=["per_class=5", "dc.iterations=4", "dc.outer=3", "dc.inner=2"]
    )
    teacher: Any = None
    arms = _Sets(setup, digits, teacher, Lab(tmp_path)).arms()
    ours, plain = (Gradients(**arms[name][2].args[1]) for name in ("dc", "dc-plain"))  # type: ignore[attr-defined]
    assert ours.iterations * ours.loops(5)[0] == plain.iterations * plain.loops(5)[0] == 12
    assert (plain.distance, plain.lr, plain.loops(5)[0]) == ("ours", 0.1, 1)


def test_a_rate_that_is_taken_reaches_the_maker_and_the_judges(digits: Bundle, tmp_path: Path) -> None:
    setup = prepare_setup(load_recipe("kd-dd-survey"), assignments=["dm.lr=2", "tm.lr=4", "training.lr=0.01"])
    teacher: Any = None
    made = _Sets(setup, digits, teacher, Lab(tmp_path), {"dm": 0.5, "tm": 3.0, "random": 10.0, "dc-kd": 2.0})
    assert made.options("dm")["lr"] == made.arms()["dm"][2].args[1]["lr"] == 1.0  # type: ignore[attr-defined]
    assert made.options("tm")["lr"] == 12.0
    assert made.options("dc-kd")["lr"] == 2 * made.options("dc")["lr"]
    assert _best([math.nan, 3.0, 3.0]) == FACTORS[1]


def test_a_try_that_diverges_is_the_worst(digits: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = prepare_setup(load_recipe("kd-dd-survey"), assignments=TOY)
    teacher = Teacher(build_model("distil:mlp(layers=1)", digits, seed=0), {}, "toy", 0.0)
    real = _Sets.judged

    def judged(self: _Sets, name: str, **asked: Any) -> Any:
        def run(seed: int) -> Any:
            raise Diverged("the student's loss is nan")

        arm = real(self, name, **asked)
        return replace(arm, run=run) if self.factors[name] == bad else arm

    for bad in FACTORS:
        made = _Sets(setup, digits, teacher, Lab(tmp_path / f"{bad:.1f}"))
        monkeypatch.setattr(_Sets, "judged", judged)
        scores = _tried(made, ["random"])["random"]
        assert [math.isnan(score) for score in scores] == [factor == bad for factor in FACTORS]
        assert _best(scores) != bad
