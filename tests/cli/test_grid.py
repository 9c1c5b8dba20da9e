"""`--grid` on `distil train` and `distil compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from distil.report import load as load_report
from distil.report.check import validate

from .terminal import QUICK, contents, distil

Screen = pytest.CaptureFixture[str]
OWN = ("--data", "photos", "--teacher", "models.py:eye", "--student", "models.py:make", *QUICK)
GRID = ("--grid", "kd.temperature=1,2,4")


def arm(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(a for a in report["arms"] if a["name"] == name)


def test_a_grid_is_tuned_on_validation_counted_and_shown(here: Path, capsys: Screen) -> None:
    said = distil(capsys, "train", *OWN, *GRID, "--method", "0.5*supervised + kd", "--lr", "0.02", "--out", "run")
    assert said.code == 0, said.err
    report = load_report(here / "run")
    validate(report)
    tuning = report["tuning"]
    assert (tuning["seed"], tuning["trials"], tuning["scored_on"]) == (1000, 3, "validation")
    (name,) = [a for a in tuning["arms"] if a != "alone"]
    tried = tuning["arms"][name]["tried"]
    assert [t["point"] for t in tried] == [{"kd.temperature": t} for t in (1, 2, 4)]
    best = max(tried, key=lambda t: t["score"])
    assert tuning["arms"][name]["chosen"] == best["point"]
    assert arm(report, name)["expression"] == best["expression"]
    assert [t["point"].get("training.lr") for t in tuning["arms"]["alone"]["tried"]] == [None, 0.00632, 0.0632]
    assert {a["budget"]["trials"] for a in report["arms"]} == {3}
    page = (here / "run" / "report.html").read_text(encoding="utf-8")
    assert f"Tuning of {name}" in page
    assert "kd.temperature=4:" in page
    assert sorted(path.name for path in (here / "run" / "students").glob("*.safetensors")) == [
        f"{name}-seed0.safetensors",
        "alone-seed0.safetensors",
    ]


def test_a_resumed_run_keeps_its_grid_and_trials(here: Path, capsys: Screen) -> None:
    words = ("compare", *OWN, *GRID, "--methods", "kd,dkd", "--seeds", "1", "--out", "run")
    first = distil(capsys, *words, "--json")
    assert first.code == 0, first.err
    kept = yaml.safe_load((here / "run" / "settings.yaml").read_text())
    assert kept["grid"] == {"kd.temperature": [1, 2, 4]}
    stages = {path.name for path in (here / "run" / "stages").iterdir()}
    assert len(stages) == 9 + 3
    again = distil(capsys, "compare", "--out", "run", "--resume", "--json")
    assert again.code == 0, again.err
    assert again.json["tuning"] == first.json["tuning"]
    assert {path.name for path in (here / "run" / "stages").iterdir()} == stages
    wider = distil(capsys, *words[:-2], "--grid", "training.lr=0.001,0.01", "--out", "run", "--resume", "--json")
    assert wider.code == 0, wider.err
    assert {a["budget"]["trials"] for a in wider.json["arms"]} == {6}


def test_a_dry_run_tries_every_point_and_trains_nothing(here: Path, capsys: Screen) -> None:
    said = distil(capsys, "train", *OWN, "--method", "kd", "--grid", "kd.temperature=1,-2", "--dry-run")
    assert said.code == 2
    assert "temperature=-2" in said.err
    said = distil(capsys, "train", *OWN, "--method", "kd", *GRID, "--dry-run", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["settings"]["grid"] == {"kd.temperature": [1, 2, 4]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kd.temprature=1,2"], "kd(temprature=…) does not exist; did you mean 'temperature'?"),
        (["kkd.temperature=1,2"], "no method here has the component 'kkd'; did you mean 'kd'?"),
        (["kd.temperature=1,2", "--grid", "kd.temperature=4,8"], "names kd.temperature twice"),
        (["kd.temperature=1,2,2"], "holds 2 twice"),
        (["kd.temperature=warm,cold"], "must be a finite number"),
        (["training.batch_size=8,16"], "training.batch_size is the same for every arm"),
    ],
)
def test_a_mistake_ends_before_anything_is_written(here: Path, capsys: Screen, words: list[str], said: str) -> None:
    before = contents(here)
    seen = distil(capsys, "train", *OWN, "--method", "kd", "--grid", *words)
    assert seen.code == 2
    assert said in seen.err
    assert len(seen.err.strip().splitlines()) == 1
    assert contents(here) == before
