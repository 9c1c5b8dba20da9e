"""distil train on a set whose dynamic labels are of several teachers: they answer as they did when it was judged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distil.data.condensed import load_condensed
from distil.data.fingerprint import fingerprint
from distil.loops.condensed import StudentTraining, train_on
from distil.loops.lab import Lab
from distil.loops.own_run import OwnRun
from distil.loops.own_small import opened_set
from distil.loops.training import build_model
from distil.report import load

from .files import knowing
from .terminal import contents, distil

Screen = pytest.CaptureFixture[str]

NETS = """
from models import make

def three(classes, input_shape):
    return make(classes, input_shape, width=3)
"""
KNOWS = ("--teacher", "nets.py:three", "--teacher-weights", "knows.safetensors")
EYE = ("--teacher", "models.py:eye")
STUDENT = "distil:mlp(hidden=4)"
TRAIN = ("train", "--data", "small", "--student", STUDENT, "--set", "updates=5", "--device", "cpu", "--no-baseline")


@pytest.fixture
def small(here: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set with the dynamic labels of two teachers, in ``small``, shown mixed."""
    monkeypatch.syspath_prepend(str(here))
    Path("nets.py").write_text(NETS)
    said = distil(
        capsys, "condense", "--data", "photos", "--per-class", "2", *KNOWS, *EYE, "--labels", "dynamic", "--set",
        "labelling.temperature=3", "--device", "cpu", "--out", "small",
    )  # fmt: skip
    assert said.code == 0, said
    return here


def test_they_answer_as_in_the_sets_own_evaluation(small: Path, capsys: Screen) -> None:
    said = distil(capsys, *TRAIN, *KNOWS, *EYE, "--out", "students")
    assert said.code == 0, said
    assert "not labelled by" not in said.err
    report = load("students")
    assert report["setting"]["Teachers"] == "nets.py:three, models.py:eye"
    assert not report["warnings"]
    held = load_condensed("small/set")
    assert held.record["augmentation"]["mix"] != "none"
    run = OwnRun(
        data="small", student=STUDENT, teachers=("nets.py:three", "models.py:eye"), methods=("set",),
        teachers_weights=("knows.safetensors",),
    )  # fmt: skip
    made = opened_set(run, Lab(small / "lab"))
    assert [fingerprint(teacher) for teacher in made.teachers] == held.record["labelled_by"]
    training = StudentTraining(updates=5, checks=5)
    fresh = build_model(STUDENT, made.real, seed=0)
    expected = train_on(held, fresh, training, teachers=made.teachers, val=made.real.val, seed=0).best
    stored = load_file("students/students/set-seed0.safetensors")
    assert {name: value.tolist() for name, value in stored.items()} == {k: v.tolist() for k, v in expected.items()}
    alone = build_model(STUDENT, made.real, seed=0)
    other = train_on(held, alone, training, teachers=made.teachers[:1], val=made.real.val, seed=0).best
    assert any(not torch.equal(other[name], expected[name]) for name in expected)


def test_their_order_does_not_matter(small: Path, capsys: Screen) -> None:
    save_file({"scale": torch.full((3,), 20.0)}, "eye.safetensors")
    turned = (*EYE, "--teacher-weights", "eye.safetensors", *KNOWS)
    said = distil(capsys, *TRAIN, *turned, "--dry-run", "--json")
    assert said.code == 0, said
    assert said.json["settings"]["teachers"] == ["models.py:eye", "nets.py:three"]
    assert "not labelled by" not in said.err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (EYE, "labels of 2 teachers together, and 1 was named"),
        ((*KNOWS, *EYE, *EYE), "labels of 2 teachers together, and 3 were named"),
        ((), "name each of them with --teacher"),
        ((*KNOWS, *EYE, "--teacher-weights", "a", "--teacher-weights", "b"), "3 --teacher-weights for 2 --teacher"),
        ((*KNOWS, "--teacher", "models.py:blind"), "models.py:blind is at chance"),
        ((*EYE, "--teacher-weights", "a", "--teacher-weights", "b"), "2 --teacher-weights for 1 --teacher"),
        (("--set", "teachers=[models.py:eye,nets.py:three]", "--method", "kd"), "2 teachers were named, and a method"),
        ((*KNOWS, *EYE, "--set", "teacher=models.py:eye"), "leave those out"),
    ],
)
def test_another_number_of_them_is_refused(more: tuple[str, ...], sentence: str, small: Path, capsys: Screen) -> None:
    before = contents(small)
    said = distil(capsys, *TRAIN, *more, "--dry-run")
    assert said.code == 2, said
    assert "Traceback" not in said.err
    assert sentence in " ".join(said.complaints)
    assert contents(small) == before


def test_a_method_takes_the_last_as_of_any_option_which_is_said(small: Path, capsys: Screen) -> None:
    kd = ("train", "--data", "photos", "--student", STUDENT, "--method", "kd", "--device", "cpu", "--dry-run", "--json")
    said = distil(capsys, *kd, *EYE, *KNOWS)
    assert said.code == 0, said
    found = said.json["settings"]
    assert (found["teacher"], found["teacher_weights"]) == ("nets.py:three", "knows.safetensors")
    assert not found["teachers"]
    assert "2 --teacher were given, and a method takes one: the last, nets.py:three." in said.err


def test_other_weights_are_said(small: Path, capsys: Screen) -> None:
    other = {name: 0.5 * value for name, value in knowing().items()}
    save_file(other, "half.safetensors")
    half = ("--teacher", "nets.py:three", "--teacher-weights", "half.safetensors")
    said = distil(capsys, *TRAIN, *half, *EYE, "--out", "students")
    assert said.code == 0, said
    [warning] = load("students")["warnings"]
    assert "not labelled by nets.py:three (its record has other weights" in warning
    assert "not labelled by nets.py:three" in said.err.replace("\n", " ")


def test_teachers_trained_on_the_way_are_the_same_again(here: Path, capsys: Screen) -> None:
    taught = ("--teacher", "models.py:make", "--teacher", STUDENT, "--train-teacher", "12", "--device", "cpu")
    said = distil(
        capsys, "condense", "--data", "photos", "--per-class", "2", *taught, "--labels", "dynamic", "--out", "small",
        "--set", "training.lr=0.01",
    )  # fmt: skip
    assert said.code == 0, said
    said = distil(capsys, *TRAIN, *taught, "--set", "teacher_lr=0.01", "--dry-run")
    assert said.code == 0, said
    assert "not labelled by" not in said.err


def test_a_judge_is_told_of_other_teachers_too(small: Path, capsys: Screen) -> None:
    judged = ("condense", "--data", "photos", "--existing", "small", "--device", "cpu", "--dry-run")
    assert "labels of 2 teachers together" in distil(capsys, *judged, *EYE).err.replace("\n", " ")
    assert "name each of them with --teacher" in distil(capsys, *judged).err.replace("\n", " ")
    said = distil(capsys, *judged, *KNOWS, *EYE)
    assert said.code == 0, said
    assert "not labelled by" not in said.err


@pytest.fixture
def hard(here: Path, capsys: Screen) -> Path:
    """A set of the photos with hard labels, in ``small``."""
    said = distil(capsys, "condense", "--data", "photos", "--per-class", "2", "--device", "cpu", "--out", "small")
    assert said.code == 0, said
    return here


def settings(capsys: Screen, *more: str) -> dict[str, Any]:
    said = distil(capsys, *TRAIN, "--dry-run", "--json", *more)
    assert said.code == 0, said
    found: dict[str, Any] = said.json["settings"]
    return found


def test_a_weight_decay_of_0_is_0_and_the_usual_one_is_said(hard: Path, capsys: Screen) -> None:
    assert settings(capsys)["training"]["weight_decay"] == 0.01
    assert settings(capsys, "--set", "training.weight_decay=0")["training"]["weight_decay"] == 0
    Path("settings.yaml").write_text("training: {weight_decay: 0.0}\n")
    assert settings(capsys, "--config", "settings.yaml")["training"]["weight_decay"] == 0
    for value, name in (("0", "none"), ("0.5", "much")):
        said = distil(capsys, *TRAIN, "--set", f"training.weight_decay={value}", "--out", name)
        assert said.code == 0, said
        assert load(name)["setting"]["Budget"].endswith(f"weight decay {value}")
    none, much = (load_file(f"{name}/students/set-seed0.safetensors") for name in ("none", "much"))
    assert any(not torch.equal(none[key], much[key]) for key in none)
    shutil.rmtree("none/stages")
    said = distil(capsys, "train", "--out", "none", "--resume", "--device", "cpu")  # as its settings.yaml has it
    assert said.code == 0, said
    assert load("none")["setting"]["Budget"].endswith("weight decay 0")


def test_what_no_student_of_a_set_is_trained_by_is_refused(hard: Path, capsys: Screen) -> None:
    for more in (("--precision", "bf16"), ("--set", "training.clip=1.0"), ("--train-teacher", "3")):
        said = distil(capsys, *TRAIN, *more, "--dry-run")
        assert said.code == 2, said
        assert "leave" in " ".join(said.complaints)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--teacher-weights", "nothere.safetensors"), "leave --teacher-weights out"),
        (("--pretrained",), "leave --pretrained out"),
        (("--set", "teacher_lr=0.1"), "leave --set teacher_lr out"),
        (("--teacher-forward", "auto"), "--teacher-forward is for methods"),
    ],
)
def test_what_no_student_of_hard_labels_reads_is_refused(
    more: tuple[str, ...], named: str, here: Path, capsys: Screen
) -> None:
    said = distil(capsys, "condense", "--data", "photos", "--per-class", "2", "--device", "cpu", "--out", "small")
    assert said.code == 0, said
    said = distil(capsys, *TRAIN, *more, "--dry-run")
    assert said.code == 2, said
    assert named in " ".join(said.complaints)


def test_several_take_the_place_of_one_that_settings_name(small: Path, capsys: Screen) -> None:
    Path("run.yaml").write_text("teacher: models.py:eye\nteacher_weights: eye.safetensors\n")
    said = distil(capsys, *TRAIN, *KNOWS, *EYE, "--config", "run.yaml", "--dry-run", "--json")
    assert said.code == 0, said
    found = said.json["settings"]
    assert (found["teachers"], found["teacher"]) == (["nets.py:three", "models.py:eye"], "")
    kd = ("train", "--data", "photos", "--student", STUDENT, "--method", "kd", "--device", "cpu", "--dry-run", "--json")
    said = distil(capsys, *kd, *EYE, *KNOWS, "--config", "run.yaml")
    assert said.code == 0, said
    assert said.json["settings"]["teacher"] == "nets.py:three"
