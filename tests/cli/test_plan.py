"""`distil plan`: what a run will take, from a few real steps, with nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from .bad.row import Row
from .bad_inputs import check, rows
from .terminal import OWN, QUICK, contents, distil

Screen = pytest.CaptureFixture[str]
PLAN = ("plan", *OWN, *QUICK, "--method", "kd")


@rows("plans")
def test_plans_that_cannot_be_made(row: Row, request: pytest.FixtureRequest) -> None:
    check(row, request)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time few steps: what they take does not matter here."""
    monkeypatch.setattr("distil.plan.measure.MOST", 10)


def test_a_plan_says_everything_and_writes_nothing(here: Path, capsys: Screen, fast: None) -> None:
    before = contents(here)
    said = distil(capsys, *PLAN, "--epochs", "7", "--json")
    assert said.code == 0, said.err
    found = said.json
    assert contents(here) == before
    assert (found["kind"], found["steps_per_epoch"]) == ("plan", 4)  # 51 samples in batches of 16
    assert set(found["training_seconds"]) == {"alone", "kd"}
    assert found["seconds"] > sum(found["training_seconds"].values()) > 0
    arms = found["measured"]["arms"]
    # On a busy machine the teacher's pass may be seen to take as long as the step that holds it, which bounds it.
    assert arms["alone"]["teacher"] == 0 < arms["kd"]["teacher"] <= arms["kd"]["step"]
    assert found["memory_bytes"] > arms["kd"]["memory"]["base"] > 10**7
    assert found["disk_bytes"]["dense32"] == 72 * (16 + 3 * 4)
    told = {one["said"] for section in found["figures"].values() for one in section}
    assert told == {"measured", "counted", "predicted"}
    assert all(one["how"] for section in found["figures"].values() for one in section)
    assert found["settings"]["training"]["epochs"] == 7


def test_a_plan_for_people_fits_into_eighty_columns(
    here: Path, capsys: Screen, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = distil(capsys, *PLAN)
    assert said.code == 0, said.err
    table = said.out.partition("In all: about ")[0]
    for word in ("step, kd", "whole run", "peak", "1 + P_t / (3 P_s)", "predicted", "measured"):
        assert word in table
    assert max(len(line) for line in table.splitlines() if "  " in line) <= 80


def test_several_methods_and_seeds_are_all_counted(here: Path, capsys: Screen, fast: None) -> None:
    words = ("--methods", "kd,dkd + supervised", "--set", "seeds=[0,1,2]", "--set", "training.accumulate=2")
    found = distil(capsys, *PLAN, *words, "--devices", "2", "--json").json
    assert found["workload"]["runs"] == {"alone": 3, "kd": 3, "dkd-supervised": 3}
    assert found["steps_per_epoch"] == 1  # 26 samples on each device, in steps of 32


def test_a_teacher_that_is_trained_first_is_planned_and_not_trained(here: Path, capsys: Screen, fast: None) -> None:
    plans = [
        distil(capsys, *PLAN, "--teacher", "models.py:make", "--train-teacher", epochs, "--json")
        for epochs in ("1", "100000")
    ]
    assert "teacher: trained" not in plans[1].err
    assert plans[1].json["seconds"] > 20 * plans[0].json["seconds"]


def test_a_small_memory_is_said_not_to_do(here: Path, capsys: Screen, fast: None) -> None:
    found = distil(capsys, *PLAN, "--memory", "2MB", "--json").json
    assert found["largest_batch"] == 0
    assert any(word.startswith("Micro-batches of 16 need ") for word in found["words"])


def test_a_graph_is_planned_and_told_why_it_has_no_cache(here: Path, capsys: Screen, fast: None) -> None:
    words = ["plan", "--data", "graph.npz", "--teacher", "models.py:eye", "--student", "distil:mlp(hidden=6)"]
    said = distil(capsys, *words, "--method", "ff-g2m", "--epochs", "3", "--json")
    assert said.code == 0, said.err
    found = said.json
    assert (found["steps_per_epoch"], found["largest_batch"], found["seconds_cached"]) == (1, None, None)
    assert found["measured"]["arms"]["ff-g2m"]["prepare"] > 0


def test_a_method_that_reads_features_is_told_to_need_the_live_teacher(here: Path, capsys: Screen, fast: None) -> None:
    words = ("--teacher", "models.py:make(width=9)", "--method", "fitnets(tap='1')")
    found = distil(capsys, *PLAN, *words, "--json").json
    (name,) = set(found["measured"]["arms"]) - {"alone"}
    assert found["measured"]["arms"][name]["refusal"]
    assert any(word.startswith("A cache cannot serve this method") for word in found["words"])


def test_a_long_run_is_foretold_and_a_short_one_is_not(
    here: Path, capsys: Screen, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", *PLAN[1:], "--no-baseline")
    assert "This run: " not in distil(capsys, *words, "--out", "short").err
    monkeypatch.setattr("distil.loops.own_plan.LONG", 0.0)
    said = distil(capsys, *words, "--out", "long")
    assert "This run: about " in said.err
    assert "This run: " not in distil(capsys, *words, "--out", "quiet", "--json").err
    same = [(here / name / "students" / "kd-seed0.safetensors").read_bytes() for name in ("short", "long")]
    assert same[0] == same[1]  # looking ahead changes nothing
