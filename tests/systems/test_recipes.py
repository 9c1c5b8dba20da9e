"""Recipes at toy size: they run, reports validate, budgets are equal, and a killed one goes on to the same figures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distil import catalog, demo
from distil.cli import main
from distil.errors import DistilError
from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.settings import from_yaml, update
from distil.report import load
from distil.report.check import validate

needs_data = pytest.mark.skipif(not os.environ.get("DISTIL_DATA"), reason="DISTIL_DATA names no data root")
IMAGES = (
    "pair.train=120",
    "pair.teacher_train=200",
    "pair.val=60",
    "pair.teacher='distil:mlp(hidden=24)'",
    "pair.student='distil:mlp(hidden=4)'",
    "pair.teacher_training.epochs=5",
    "pair.teacher_training.lr=0.01",
    "training.epochs=2",
    "seeds=[0, 1]",
)
DENSE = (
    "pair.limit=24",
    "pair.teacher='distil:unet(width=6)'",
    "pair.student='distil:unet(width=2)'",
    "pair.teacher_training.epochs=12",
    "pair.teacher_training.batch_size=4",
    "pair.teacher_training.lr=0.02",
    "training.epochs=2",
    "training.batch_size=8",
    "seeds=[0]",
)
ARMS = {
    "pld": ["alone", "kd", "dist", "pld-hot", "pld", "uniform", "teacher-order"],
    "nd": ["alone", "kd", "kd++", "cosine", "norm", "nd"],
    "ff-g2m": ["mlp", "ff-g2m", "glnn", "lfd", "hfd", "gcn"],
    "acam-kd": ["alone", "mse", "cwd", "maskd", "acam", "no-channel", "no-spatial", "detached", "no-diversity"],
    "diswot": ["median", "random", "largest", "diswot", "gram"],
}


def run(slug: str, out: Path, *settings: str) -> dict[str, Any]:
    recipe = load_recipe(slug)
    setup = prepare_setup(recipe, assignments=settings)
    report = run_recipe(recipe, setup, out, Lab(out), command=f"distil run {slug}", system=slug)
    assert from_yaml(recipe.Setup(), out / "settings.yaml") == setup
    return report


def sound(report: dict[str, Any], slug: str) -> None:
    """What holds for every report of a recipe."""
    validate(json.loads(json.dumps(report)))
    assert report["system"] == slug
    assert report["arms"][0]["role"] == "reference"
    assert sorted(arm["name"] for arm in report["arms"]) == sorted(ARMS[slug])
    assert {arm["role"] for arm in report["arms"]} >= {"reference", "rival", "method", "ablation"}
    budgets = [arm["budget"] for arm in report["arms"] if arm["role"] != "bound"]
    assert all(budget == budgets[0] for budget in budgets)
    assert set(budgets[0]) == {"updates", "batch_size", "labels", "trials"}
    judged = {(v["arm"], v["against"]) for v in report["verdicts"]}
    reference = ARMS[slug][0]
    rivals = [arm["name"] for arm in report["arms"] if arm["role"] == "rival"]
    for arm in report["arms"]:
        if arm["role"] not in ("reference", "bound"):
            assert (arm["name"], reference) in judged
        if arm["role"] == "method":
            assert judged >= {(arm["name"], rival) for rival in rivals}
        accuracy = arm["metrics"]["accuracy"]
        assert all(0 <= value <= 100 for score in ("last", "best") for value in accuracy[score])


@pytest.mark.parametrize("slug", ["pld", "nd"])
def test_the_image_recipes_run_on_digits(slug: str, tmp_path: Path) -> None:
    report = run(slug, tmp_path, "pair.data=digits", *IMAGES)
    sound(report, slug)
    assert load(tmp_path)["arms"] == report["arms"]
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8").lower()


def test_how_embeddings_lie_is_shown_of_every_arm_whose_widths_are_the_teachers(tmp_path: Path) -> None:
    widths = ("pair.teacher=distil:mlp(hidden=8)", "pair.student=distil:mlp(hidden=8)")
    report = run("nd", tmp_path, "pair.data=digits", *IMAGES, *widths, "seeds=[0]")
    for arm in report["arms"]:
        assert set(arm["diagnostics"]) == {"cosine with class mean", "length over teacher's"}, arm["name"]
    narrow = run("nd", tmp_path / "narrow", "pair.data=digits", *IMAGES, "seeds=[0]")
    told = {arm["name"] for arm in narrow["arms"] if arm["diagnostics"]}
    assert told == {"kd++", "cosine", "norm", "nd"}


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("slug", ["pld", "nd"])
def test_the_image_recipes_run_on_their_own_data(slug: str, tmp_path: Path) -> None:
    report = run(slug, tmp_path, *IMAGES, "seeds=[0]")
    sound(report, slug)
    assert report["data"]["name"] == "fashion-mnist"
    assert (report["data"]["train"], report["data"]["val"], report["data"]["test"]) == (120, 60, 10000)


@pytest.mark.data
@needs_data
def test_the_graph_recipe_runs_on_cora(tmp_path: Path) -> None:
    report = run(
        "ff-g2m", tmp_path, "hidden=16", "teacher_training.epochs=12", "teacher_training.lr=0.05", "seeds=[0, 1]"
    )
    sound(report, "ff-g2m")
    assert report["data"]["train"] == 140
    bound = next(arm for arm in report["arms"] if arm["role"] == "bound")
    assert bound["budget"] == {}
    assert bound["metrics"]["accuracy"]["last"][0] != bound["metrics"]["accuracy"]["last"][1]  # one for each seed
    (serving,) = report["tables"]
    assert [row[0] for row in serving["rows"]] == ["MLP without edges", "graph network with neighbour fetching"]
    told = next(arm for arm in report["arms"] if arm["name"] == "ff-g2m")["diagnostics"]
    assert set(told) > {"cosine", "distances", "share of highfrequency"}


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("teacher", ["gat", "sage"])
def test_the_graph_recipe_hides_nodes_and_runs_glnns_variants(teacher: str, tmp_path: Path) -> None:
    short = ("hidden=16", "teacher_training.epochs=15", "seeds=[0]", "inductive=true", "variants=true", "noise=0.001")
    report = run("ff-g2m", tmp_path, f"teacher={teacher}", "teacher_training.lr=0.05", *short)
    extra = {"glnn-turns", "glnn-hops", "gnn-kd", teacher}
    assert {arm["name"] for arm in report["arms"] if arm["role"] == "bound"} == extra
    assert report["data"]["test"] == 200
    assert "200 test nodes and their" in report["setting"]["Data"]


@pytest.mark.data
@needs_data
def test_the_dense_recipe_runs_on_camvid(tmp_path: Path) -> None:
    if not Path(os.environ["DISTIL_DATA"], "camvid", "train.parquet").is_file():
        pytest.skip("DISTIL_DATA holds no camvid")
    report = run("acam-kd", tmp_path, *DENSE)
    sound(report, "acam-kd")
    assert report["metric"] == {"name": "mIoU", "higher_is_better": True, "unit": "%", "score": "best"}
    assert (report["data"]["train"], report["data"]["val"]) == (24, 24)
    arms = {arm["name"]: arm for arm in report["arms"]}
    for name, arm in arms.items():
        watched = arm["expression"].startswith("acam_kd")
        assert ({"mask movement", "pairwise Dice"} <= set(arm["diagnostics"])) is watched, name
        assert arm["parameters"] == arms["alone"]["parameters"]  # nothing of the methods ships
        assert all(0 <= share <= 100 for share in arm["agreement"])
        assert sum(arm["reliability"]["count"]) > 0
    kinds = {"mean channel mask", "mean spatial mask"}
    assert kinds & set(arms["no-channel"]["diagnostics"]) == {"mean spatial mask"}
    for name in ("mask movement", *kinds):
        assert all(0 < value < 1 for value in arms["acam"]["diagnostics"][name])


SEARCHED = (
    *IMAGES[:3],
    "pair.data=digits",
    "pair.teacher='distil:cnn(widths=(8, 32))'",
    "pair.teacher_training.epochs=8",
    "pair.teacher_training.lr=0.02",
    "pair.teacher_training.batch_size=20",
    "ranking.data=digits",
    "ranking.depths=[1, 3]",
    "ranking.teacher=8",
    "ranking.inits=[normal]",
    "ranking.batch=16",
    "limits.parameters=3000",
    "search.evaluations=8",
    "search.population=4",
    "training.epochs=1",
    "seeds=[0, 1]",
)


def test_the_search_recipe_runs_on_digits(tmp_path: Path) -> None:
    report = run("diswot", tmp_path, *SEARCHED)
    sound(report, "diswot")
    assert [table["title"] for table in report["tables"]] == ["Rank correlation on space S0", "What was picked"]
    assert [row[0] for row in report["tables"][1]["rows"]] == ["0", "1"]
    assert all(arm["parameters"] <= 3000 for arm in report["arms"])
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert arms["gram"]["diagnostics"]["parameters"] == arms["diswot"]["diagnostics"]["parameters"]
    assert "parameter count ranks better" in report["setting"]["Beware"]
    assert "Rank correlation on space S0" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_unequal_width_gets_a_projector_and_the_mechanism_is_reported(tmp_path: Path) -> None:
    report = run("nd", tmp_path, "pair.data=digits", *IMAGES)
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert set(arms["kd++"]["diagnostics"]) == {"cosine with class mean", "length over teacher's"}
    assert arms["kd"]["diagnostics"] == {}
    assert arms["kd++"]["parameters"] == arms["alone"]["parameters"]  # the projector does not ship


def test_every_recipe_states_valid_settings_for_its_evidence() -> None:
    for slug, card in catalog.systems().items():
        if (card.folder / "recipe.py").is_file():
            recipe = load_recipe(slug)
            assert recipe.EVIDENCE
            for settings in recipe.EVIDENCE:
                update(recipe.Setup(), settings)


def test_a_graph_without_a_tuned_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=r"data='core'\) has no tuned setting; did you mean 'cora'"):
        run("ff-g2m", tmp_path, "data=core")
    with pytest.raises(DistilError, match=r"teacher='gtc'\) has no tuned setting; did you mean 'gcn'"):
        run("ff-g2m", tmp_path, "teacher=gtc")
    with pytest.raises(DistilError, match="at least one hop"):
        run("ff-g2m", tmp_path, "hops=0")


def test_the_demo_gives_both_arms_the_same_updates_and_labels(tmp_path: Path) -> None:
    setup = prepare_setup(demo, assignments=["training.epochs=1", "teacher_training.epochs=1", "seeds=[0, 1]"])
    report = run_recipe(demo, setup, tmp_path, Lab(tmp_path), command="distil run")
    alone, taught = (arm["budget"] for arm in report["arms"])
    assert alone == taught == {"updates": 26, "batch_size": 50, "labels": 50, "trials": 1}


def test_a_demo_whose_updates_cannot_be_equal_is_refused_before_anything_runs(tmp_path: Path) -> None:
    setup = prepare_setup(demo, assignments=["training.epochs=1", "training.batch_size=48"])
    with pytest.raises(DistilError, match="2 batches of 48, which do not divide the 27 updates"):
        demo.experiment(setup, Lab(tmp_path))


# ---- killed and resumed

KILLED = ["run", "pld", *(word for text in ("pair.data=digits", *IMAGES) for word in ("--set", text))]


def figures(report: Mapping[str, Any]) -> Any:
    """What must be equal: everything but the clock and how the command was typed."""
    arms = []
    for arm in report["arms"]:
        kept = {key: arm[key] for key in ("name", "metrics", "curves", "terms", "agreement", "reliability", "budget")}
        arms.append(kept)
    return arms, report["verdicts"], report["seeds"], report["data"]


def done(out: Path) -> int:
    return len(list(out.glob("stages/arm-*/tree.json")))


def test_a_killed_recipe_goes_on_to_the_same_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "distil", *KILLED, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while done(out) < 3 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, said
    survived = done(out)
    assert 3 <= survived < 14
    assert not (out / "report.json").exists()
    kept = {path: path.read_bytes() for path in out.glob("stages/arm-*/tree.json")}

    assert main(["run", "pld", "--out", str(out), "--resume"]) == 0  # settings come from the run's folder
    assert main([*KILLED, "--out", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    assert figures(load(out)) == figures(load(tmp_path / "whole"))
    assert {path: path.read_bytes() for path in kept} == kept  # what was done was not done again
    assert done(out) == 14
