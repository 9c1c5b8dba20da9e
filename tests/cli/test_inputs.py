"""`distil train` with a teacher whose inputs are not those of the student."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from .terminal import QUICK, distil

Screen = pytest.CaptureFixture[str]

MODELS = """
import torch
from torch import nn


class Eye(nn.Module):
    '''Sees nothing unless dark pixels are well below 0 and images have side 12.'''

    def __init__(self, classes):
        super().__init__()
        self.scale = nn.Parameter(torch.full((classes,), 20.0))

    def forward(self, inputs):
        clear = inputs.shape[-1] == 12 and float(inputs.min()) < -1
        return inputs.mean((2, 3)).flip(1) * self.scale * clear


def eye(classes):
    return Eye(classes)


class Colour(nn.Sequential):
    pass


def colour(classes):
    return Colour(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""
SET = ("--set", "normalise.teacher=imagenet", "--set", "input_size.teacher=12")


@pytest.fixture
def own(here: Path) -> tuple[str, ...]:
    (here / "eyes.py").write_text(MODELS)
    data = ("--data", "photos", "--teacher", "eyes.py:eye", "--student", "distil:mlp", "--method", "kd")
    return ("train", *data, *QUICK)


def test_a_teacher_of_other_inputs_teaches_once_it_is_said_how(
    own: tuple[str, ...], here: Path, capsys: Screen
) -> None:
    blind = distil(capsys, *own)
    assert blind.code == 2
    assert "normalisation of its inputs" in blind.err
    said = distil(capsys, *own, *SET, "--out", "run", "--json")
    assert said.code == 0, said.err
    assert said.json["teacher"]["metrics"]["accuracy"] == 100.0
    assert said.json["setting"]["Inputs"] == (
        "the student takes the images in [0, 1]; the teacher takes them resized to 12x12, with mean 0.485 0.456 0.406 "
        "and std 0.229 0.224 0.225"
    )
    kept = yaml.safe_load((here / "run" / "settings.yaml").read_text())
    assert kept["normalise"] == {"student": "auto", "teacher": "imagenet"}
    assert kept["input_size"] == {"student": "auto", "teacher": 12}


def test_a_dry_run_shows_what_each_model_takes(own: tuple[str, ...], capsys: Screen) -> None:
    said = distil(capsys, *own, *SET, "--dry-run")
    assert said.code == 0, said.err
    assert "Inputs: the student takes the images in [0, 1]; the teacher takes them resized to 12x12" in said.out
    told = distil(capsys, *own, *SET, "--dry-run", "--json").json["inputs"]
    assert told == {"teacher": {"size": [12, 12], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}


def test_other_inputs_are_another_run(own: tuple[str, ...], here: Path, capsys: Screen) -> None:
    """A resumed run whose inputs were changed goes on from no stored stage, and from no checkpoint, of the old ones."""
    assert distil(capsys, *own, *SET, "--out", "run").code == 0
    before = {path.name for path in (here / "run" / "checkpoints").iterdir()}
    stages = {path.name for path in (here / "run" / "stages").iterdir()}
    changed = distil(capsys, *own, *SET, "--set", "normalise.student=[0.5, 0.25]", "--out", "run", "--resume")
    assert changed.code == 0, changed.err
    after = {path.name for path in (here / "run" / "checkpoints").iterdir()}
    assert before < after
    assert len(after) == 2 * len(before)
    assert len({path.name for path in (here / "run" / "stages").iterdir()} - stages) == 2


def test_grey_images_and_a_model_of_three_channels(own: tuple[str, ...], capsys: Screen) -> None:
    words = ["train", "--data", "digits", "--teacher", "eyes.py:colour", "--student", "distil:mlp", "--train-teacher"]
    said = distil(capsys, *words, "1", "--method", "kd", "--set", "limit=40", *QUICK)
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith(
        "distil: The teacher eyes.py:colour cannot take the samples of digits, whose shape is (1, 8, 8) ("
    )
    assert "--set channels=3 reads grey images as RGB" in said.err
    assert (
        distil(capsys, *words, "0", "--method", "kd", "--set", "channels=3", "--dry-run").err.count("cannot take") == 0
    )


def test_a_misspelt_role_is_refused(own: tuple[str, ...], capsys: Screen) -> None:
    said = distil(capsys, *own, "--set", "normalise.techer=imagenet")
    assert said.code == 2
    assert said.err == "distil: The setting 'normalise.techer' does not exist; did you mean 'teacher'?\n"
