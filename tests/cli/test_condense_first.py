"""What distil condense, and distil train on a set, find out before a teacher or an expert is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from .terminal import distil, refused

Screen = pytest.CaptureFixture[str]

NETS = '''
from torch import nn
from models import make


class Picky(nn.Module):
    """Takes images of 224 pixels alone, as timm's transformers do."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, inputs):
        assert inputs.shape[-1] == 224, "Input height (6) doesn't match model (224)."
        return self.head(inputs.mean((2, 3)))


def picky(classes):
    return Picky(classes)


def normed(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4 * 36, classes))
'''


@pytest.fixture
def user(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with nets of odd tastes, where nothing may be trained."""

    def never(*given: object, **options: object) -> None:
        raise AssertionError("something was trained")

    monkeypatch.syspath_prepend(str(here))
    Path("nets.py").write_text(NETS)
    for place in ("own_condense.train_teacher", "own_small.train_on", "condensed.train_on", "judging.train_on"):
        monkeypatch.setattr(f"distil.loops.{place}", never)
    monkeypatch.setattr("distil.loops.condense_matching.train_experts", never)
    return here


def made(capsys: Screen, *more: str) -> None:
    said = distil(
        capsys, "condense", "--data", "photos", "--per-class", "2", "--out", "small", "--device", "cpu", *more
    )
    assert said.code == 0, said


STUDENTS = {
    "nets.py:picky": "Input height (6) doesn't match model (224).); name a net that takes such images",
    "distil:gcn(hidden=4)": "cannot be called on inputs of shape (3, 6, 6)",
    "distil:bow(vocab=20)": "cannot be called on inputs of shape (3, 6, 6)",
    "distil:mlp(hidden=4,classes=2)": "has 2 outputs for 3 classes; make it for those",
}


def test_a_student_that_does_not_fit_a_set_is_refused_before_its_teachers_are_trained(
    user: Path, capsys: Screen
) -> None:
    made(capsys, "--teacher", "models.py:eye", "--labels", "dynamic")
    taught = ("train", "--data", "small", "--teacher", "models.py:make", "--train-teacher", "3")
    for student, sentence in STUDENTS.items():
        assert sentence in refused(capsys, *taught, "--student", student, "--dry-run")
    said = refused(capsys, *taught, "--student", "models.py:make", "--set", "student_weights=other.safetensors")
    assert "do not fit" in said
    picky = ("train", "--data", "small", "--teacher", "nets.py:picky", "--train-teacher", "3")
    assert "nets.py:picky cannot be called" in refused(capsys, *picky, "--student", "models.py:make")


def test_a_student_of_images_on_vectors_is_refused(user: Path, capsys: Screen) -> None:
    Path("rows.csv").write_text("x,y,label\n" + "".join(f"{k % 7},{k % 5},{'ab'[k % 2]}\n" for k in range(40)))
    made(capsys, "--data", "rows.csv")
    said = refused(capsys, "train", "--data", "small", "--student", "distil:cnn", "--dry-run")
    assert "distil:cnn cannot be called on inputs of shape (2,)" in said
    assert "name a net that takes such vectors" in said


TRAINED = ("--train-teacher", "3")
PLAIN, NORMED = ("--teacher", "models.py:make"), ("--teacher", "nets.py:normed")
ORDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "a teacher of other images": (("--labels", "static", "--teacher", "nets.py:picky"), "Input height (6) doesn't"),
    "a teacher of other classes": (("--labels", "static", "--teacher", "models.py:five", *TRAINED), "has 5 outputs"),
    "a judge of other images": (("--evaluate", "--student", "nets.py:picky"), "student nets.py:picky cannot be called"),
    "no room": (("--method", "infer", "--per-class", "1", *NORMED, *TRAINED), "leaves no room for a real image"),
    "too few images": (
        ("--method", "rded", "--per-class", "30", *PLAIN, *TRAINED),
        "rded needs 30 images of each class (30 x 1² crops, one from each)",
    ),
    "no batch norm": (("--method", "sre2l", *PLAIN, *TRAINED), "has no BatchNorm2d"),
    "two teachers": (("--method", "nrr-dd", *NORMED, *NORMED, *TRAINED), "nrr-dd works with one teacher"),
    "no pooled head": (("--method", "nrr-dd", *NORMED, *TRAINED), "class activation maps"),
    "no such step": (
        ("--method", "tm", "--set", "ahead=9", "--set", "expert_epochs=3"),
        "expert_epochs=3, and ahead=9 looks further",
    ),
    "experts with batch norm": (("--method", "tm", "--set", "net=nets.py:normed"), "tm follows weights alone"),
    "a net of other images": (("--method", "dm", "--set", "net=nets.py:picky"), "net=nets.py:picky of dm cannot be"),
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_cannot_be_filled_is_refused_before_anything_is_trained(
    name: str, user: Path, capsys: Screen
) -> None:
    typed, sentence = ORDERS[name]
    said = refused(capsys, "condense", "--data", "photos", "--per-class", "2", *typed)
    assert sentence in said
    assert "factor=1" not in said  # that is what it is at 6 pixels
