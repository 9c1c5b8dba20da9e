"""`distil train` and `distil compare` on a user's own data, models and weights."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distil import load, load_model
from distil.report import load as load_report
from distil.report.check import validate
from distil.tasks import get_task

from .terminal import OWN, QUICK, Said, contents, distil

Screen = pytest.CaptureFixture[str]


def train(capsys: Screen, *words: str, data: str = "photos") -> Said:
    own = ["train", "--data", data, *OWN[2:], *QUICK, *words]
    return distil(capsys, *own, *(() if "--method" in words else ("--method", "kd")))


def good(said: Said) -> Said:
    assert said.code == 0, said.err
    assert said.complaints == []
    assert "Traceback" not in said.err
    assert "Warning:" not in said.err
    return said


def accuracies(report: dict[str, Any], name: str) -> list[float]:
    return next(a["metrics"]["accuracy"]["best"] for a in report["arms"] if a["name"] == name)


def test_a_folder_of_images_gives_a_verdict_a_page_and_students(here: Path, capsys: Screen) -> None:
    said = good(train(capsys, "--out", "run", "--lr", "0.01"))
    assert "Too few seeds to say whether distillation with kd helped" in said.out
    assert str(here / "run" / "report.html") in said.out
    assert str(here / "run" / "students") in said.out
    report = load_report(here / "run")
    validate(report)
    assert [arm["role"] for arm in report["arms"]] == ["reference", "method"]
    assert report["arms"][0]["budget"] == report["arms"][1]["budget"]
    assert report["teacher"]["metrics"]["accuracy"] == 100.0
    assert report["data"]["classes"] == ["blue", "green", "red"]
    assert shlex.split(report["command"])[:4] == ["distil", "train", "--data", "photos"]
    assert sorted(path.name for path in (here / "run" / "students").iterdir()) == [
        "alone-seed0.json",
        "alone-seed0.safetensors",
        "kd-seed0.json",
        "kd-seed0.safetensors",
    ]


def test_a_broken_image_is_counted_named_and_skipped(here: Path, capsys: Screen) -> None:
    report = good(train(capsys, "--json")).json
    (note,) = [note for note in report["data"]["notes"] if "cannot be decoded" in note]
    assert note.startswith("1 images cannot be decoded and were skipped: 'red/torn.png'")
    assert report["data"]["train"] + report["data"]["val"] + report["data"]["test"] == 72
    assert "torn.png" in (here / "runs" / "train" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("data", ["photos", "photos.csv", "photos.parquet"])
def test_the_trained_student_is_what_was_scored(here: Path, capsys: Screen, data: str) -> None:
    report = good(train(capsys, "--json", "--lr", "0.01", "--epochs", "3", data=data)).json
    bundle = load(data)
    model = load_model("models.py:make", classes=3, input_shape=bundle.input_shape)
    model.load_state_dict(load_file(here / "runs" / "train" / "students" / "kd-seed0.safetensors"))
    found = get_task("classification").evaluate(model, bundle.test)
    assert found["accuracy"] == pytest.approx(accuracies(report, "kd")[0])


@pytest.mark.parametrize("data", ["graph.npz", "graph"])
def test_a_graph_is_taught_to_an_mlp(here: Path, capsys: Screen, data: str) -> None:
    words = ["train", "--data", data, "--teacher", "models.py:eye", "--student", "distil:mlp(hidden=6)", "--json"]
    report = good(distil(capsys, *words, "--method", "ff-g2m", "--epochs", "3")).json
    validate(report)
    assert report["task"] == "node-classification"
    assert [arm["expression"] for arm in report["arms"]] == ["supervised", "ff-g2m"]
    assert report["arms"][1]["budget"]["updates"] == 3
    assert set(report["arms"][1]["terms"][0]["loss"]) == {"supervised", "lowfrequency", "highfrequency"}
    if data == "graph":
        assert report["data"]["classes"] == ["class 0", "class 1", "class 2"]


def test_weights_from_safetensors_and_from_a_wrapped_torch_file_are_one_teacher(here: Path, capsys: Screen) -> None:
    reports = []
    for file in ("knows.safetensors", "knows.pt"):
        words = ("--teacher", "models.py:make(width=3)", "--teacher-weights", file, "--json")
        reports.append(good(train(capsys, *words)).json)
    first, second = reports
    assert first["teacher"]["metrics"]["accuracy"] == 100.0
    assert first["teacher"]["fingerprint"] == second["teacher"]["fingerprint"]
    assert first["arms"][1]["metrics"] == second["arms"][1]["metrics"]
    assert "knows.pt" in second["setting"]["Teacher"]


def test_a_student_may_start_from_weights(here: Path, capsys: Screen) -> None:
    words = ("--student", "models.py:make(width=3)", "--set", "student_weights=knows.safetensors", "--lr", "1e-9")
    report = good(train(capsys, *words, "--json")).json
    assert accuracies(report, "kd") == [100.0]


def test_a_teacher_is_trained_first_and_found_again(here: Path, capsys: Screen) -> None:
    words = ("--teacher", "models.py:make(width=5)", "--train-teacher", "15", "--lr", "0.03")
    first = good(train(capsys, *words, "--out", "a"))
    assert "teacher: trained" in first.err
    second = good(train(capsys, *words, "--out", "b", "--method", "dkd + supervised"))
    assert "teacher: reused" in second.err
    reports = [load_report(here / name) for name in ("a", "b")]
    assert reports[0]["teacher"]["fingerprint"] == reports[1]["teacher"]["fingerprint"]
    assert reports[0]["arms"][0]["metrics"] == reports[1]["arms"][0]["metrics"]  # the student alone is the same


def test_compare_gives_a_leaderboard_over_paired_seeds(here: Path, capsys: Screen) -> None:
    words = ["compare", *OWN, *QUICK, "--methods", "kd(temperature=2), 0.5*supervised + dkd(beta=2)", "--seeds", "3"]
    report = good(distil(capsys, *words, "--json")).json
    validate(report)
    assert report["seeds"] == [0, 1, 2]
    names = [arm["name"] for arm in report["arms"]]
    assert names == ["alone", "kd-temperature-2", "0.5-supervised-dkd-beta-2"]
    assert [(v["arm"], v["against"]) for v in report["verdicts"]] == [(name, "alone") for name in names[1:]]
    assert all(v["difference"]["low"] <= v["difference"]["mean"] <= v["difference"]["high"] for v in report["verdicts"])
    assert len(list((here / "runs" / "compare" / "students").glob("*.safetensors"))) == 9


def test_compare_is_extended_by_resuming_with_more_seeds(here: Path, capsys: Screen) -> None:
    words = ["compare", *OWN, *QUICK, "--methods", "kd", "--out", "run"]
    first = good(distil(capsys, *words, "--seeds", "1", "--json")).json
    stages = set((here / "run" / "stages").iterdir())
    more = good(distil(capsys, "compare", "--out", "run", "--resume", "--seeds", "2", "--json")).json
    assert stages < set((here / "run" / "stages").iterdir())
    assert more["seeds"] == [0, 1]
    for before, after in zip(first["arms"], more["arms"], strict=True):
        assert after["metrics"]["accuracy"]["best"][:1] == before["metrics"]["accuracy"]["best"]
    assert yaml.safe_load((here / "run" / "settings.yaml").read_text())["seeds"] == [0, 1]


def test_a_changed_factory_is_another_student(here: Path, capsys: Screen) -> None:
    good(train(capsys, "--out", "run"))
    stages = set((here / "run" / "stages").iterdir())
    good(distil(capsys, "train", "--out", "run", "--resume"))
    assert set((here / "run" / "stages").iterdir()) == stages
    text = (here / "models.py").read_text()
    (here / "models.py").write_text(text.replace("nn.ReLU()", "nn.Tanh()"))
    (here / "run" / "checkpoints").rename(here / "elsewhere")
    good(distil(capsys, "train", "--out", "run", "--resume"))
    assert set((here / "run" / "stages").iterdir()) > stages


def test_the_teachers_passes_are_made_as_asked_and_told(here: Path, capsys: Screen) -> None:
    said = good(train(capsys, "--out", "run", "--teacher-forward", "bf16,truncate", "--method", "kd"))
    assert "Teacher's passes, kd: " in said.out
    alone, taught = load_report(here / "run")["arms"]
    assert "teacher_forward" not in alone  # it never asks the teacher
    one = taught["teacher_forward"][0]["model"]
    assert one["dropped"]["truncate"] == "a method reads the logits"
    assert "bf16" in [*one["kept"], *one["dropped"]]
    assert yaml.safe_load((here / "run" / "settings.yaml").read_text())["teacher_forward"] == "bf16,truncate"


def test_an_unknown_way_of_the_teachers_pass_is_refused_before_anything_is_written(here: Path, capsys: Screen) -> None:
    said = train(capsys, "--out", "run", "--teacher-forward", "bf61", "--method", "kd")
    assert said.code == 2
    assert "unknown option 'bf61'" in said.err
    assert not (here / "run" / "report.json").exists()


def test_settings_come_from_a_file_then_options_then_set(here: Path, capsys: Screen) -> None:
    (here / "s.yaml").write_text(
        "data: photos\nteacher: models.py:eye\nstudent: models.py:make\nmethods: [kd]\nbaseline: false\n"
        "training: {epochs: 7, batch_size: 24, lr: 1e-2}\n"
    )
    words = ["train", "--config", "s.yaml", "--epochs", "2", "--set", "training.batch_size=32", "--out", "run"]
    report = good(distil(capsys, *words, "--json")).json
    assert [arm["name"] for arm in report["arms"]] == ["kd"]
    kept = yaml.safe_load((here / "run" / "settings.yaml").read_text())
    assert (kept["training"]["epochs"], kept["training"]["batch_size"], kept["training"]["lr"]) == (2, 32, 0.01)
    assert report["arms"][0]["budget"] == {"updates": 4, "batch_size": 32, "labels": 51, "trials": 1}


def test_a_dry_run_checks_everything_and_writes_nothing(here: Path, capsys: Screen) -> None:
    before = contents(here)
    said = good(train(capsys, "--dry-run"))
    assert "Everything fits; the teacher's accuracy is 100" in said.out
    assert yaml.safe_load(said.out.partition("Everything fits")[0])["data"] == "photos"
    facts = good(train(capsys, "--dry-run", "--json")).json
    assert facts["classes"] == ["blue", "green", "red"]
    assert facts["teacher"]["accuracy"] == 100.0
    assert facts["settings"]["training"]["epochs"] == 1
    assert contents(here) == before


def test_a_batch_larger_than_the_data_is_noted_and_works(here: Path, capsys: Screen) -> None:
    said = good(train(capsys, "--batch-size", "5000"))
    notes = [line for line in said.err.splitlines() if line.startswith("note: ")]
    assert notes.count("note: batch_size=5000 is larger than the 51 samples there are; batches of 51 are used.") == 1
    assert "loading.py" not in said.err


def test_json_is_all_that_standard_output_holds(here: Path, capsys: Screen) -> None:
    said = good(train(capsys, "--json", "--batch-size", "5000"))
    assert json.loads(said.out)["kind"] == "comparison"
    assert said.out.count("\n") == 1
    assert load_report(here / "runs" / "train") == said.json


def test_an_existing_folder_is_kept_unless_told_otherwise(here: Path, capsys: Screen) -> None:
    good(train(capsys, "--out", "run"))
    kept = contents(here / "run")
    refused = train(capsys, "--out", "run")
    assert refused.code == 2
    assert "add --resume to go on with it, --overwrite to replace it" in refused.complaints[0]
    assert contents(here / "run") == kept
    good(train(capsys, "--out", "run", "--overwrite", "--method", "dkd"))
    assert [arm["name"] for arm in load_report(here / "run")["arms"]] == ["alone", "dkd"]
    assert not any(path.name.startswith(".run") for path in here.iterdir())


def test_overwriting_with_a_mistake_keeps_what_was_there(here: Path, capsys: Screen) -> None:
    good(train(capsys, "--out", "run"))
    kept = contents(here)
    for mistake in (("--method", "kdd"), ("--teacher", "models.py:blind"), ("--lr", "-1")):
        assert train(capsys, "--out", "run", "--overwrite", *mistake).code == 2
        assert contents(here) == kept


def test_resuming_with_a_mistake_keeps_the_settings(here: Path, capsys: Screen) -> None:
    good(train(capsys, "--out", "run"))
    kept = contents(here / "run")
    assert distil(capsys, "train", "--out", "run", "--resume", "--method", "kdd").code == 2
    assert contents(here / "run") == kept
    changed = distil(capsys, "train", "--out", "run", "--resume", "--lr", "0.5")
    assert changed.code == 2
    assert "belongs to a run with lr = 0.001; this one has 0.5" in changed.complaints[0]
    assert contents(here / "run") == kept


def test_runs_without_a_folder_are_numbered(here: Path, capsys: Screen) -> None:
    for _ in range(3):
        good(train(capsys, "--no-baseline"))
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["train", "train-2", "train-3"]
    (arm,) = load_report(here / "runs" / "train")["arms"]
    assert (arm["name"], arm["role"]) == ("kd", "method")  # with nothing to compare it with it is no reference


def test_a_half_finished_run_is_resumed_without_its_options(here: Path, capsys: Screen) -> None:
    whole = good(train(capsys, "--out", "whole", "--lr", "0.02", "--json")).json
    good(train(capsys, "--out", "run", "--lr", "0.02"))
    for path in (here / "run" / "stages").glob("arm-kd-*"):
        shutil.rmtree(path)
    shutil.rmtree(here / "run" / "checkpoints" / "kd-seed0")
    again = good(distil(capsys, "train", "--out", "run", "--resume", "--json")).json
    for before, after in zip(whole["arms"], again["arms"], strict=True):
        assert before["metrics"] == after["metrics"]


def test_a_damaged_stage_is_made_anew_and_said(here: Path, capsys: Screen) -> None:
    good(train(capsys, "--out", "run"))
    before = load_report(here / "run")["arms"][1]["metrics"]
    (stage,) = (here / "run" / "stages").glob("arm-kd-0-*")
    (stage / "tree.json").write_text("{")
    said = good(distil(capsys, "train", "--out", "run", "--resume"))
    assert "It is made anew." in said.err
    assert load_report(here / "run")["arms"][1]["metrics"] == before


def test_a_truncated_checkpoint_is_named(here: Path, capsys: Screen) -> None:
    good(train(capsys, "--out", "run"))
    shutil.rmtree(here / "run" / "stages")
    for path in (here / "run" / "checkpoints" / "alone-seed0").glob("step-*/tensors.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    kept = contents(here / "run")
    said = distil(capsys, "train", "--out", "run", "--resume")
    assert said.code == 2
    assert len(said.complaints) == 1
    assert "tensors.safetensors is truncated or was changed" in said.complaints[0]
    assert "Traceback" not in said.err
    assert contents(here / "run") == kept


def test_seeds_decide_and_repeat(here: Path, capsys: Screen) -> None:
    found = {}
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        torch.rand(3)
        good(train(capsys, "--out", name, "--seed", seed, "--no-baseline"))
        found[name] = load_file(here / name / "students" / f"kd-seed{seed}.safetensors")
    assert all(torch.equal(found["a"][key], found["b"][key]) for key in found["a"])
    assert not all(torch.equal(found["a"][key], found["c"][key]) for key in found["a"])
