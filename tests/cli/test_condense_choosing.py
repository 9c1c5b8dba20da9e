"""distil condense by every method that chooses: the ids of real samples, and weights where it has them, in the set."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distil.data.condensed import load_condensed
from distil.loops.condensers import CONDENSERS

from .files import CLASSES
from .terminal import distil

Screen = pytest.CaptureFixture[str]

NETS = """
from models import make

def three(classes, input_shape):
    return make(classes, input_shape, width=3)
"""
KNOWS = ("--teacher", "nets.py:three", "--teacher-weights", "knows.safetensors")
SCORED = {"uncertainty", "el2n", "grand"}
WEIGHED = {"craig", "gradmatch"}
ALONE = {
    "herding": (), "k-center": (), "clusters": (), "duplicates": (), "forgetting": ("--set", "epochs=2"), "random": (),
}  # fmt: skip
CHOOSING = [*ALONE, *sorted(SCORED), *sorted(WEIGHED)]


@pytest.fixture
def there(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(here))
    Path("nets.py").write_text(NETS)
    return here


def choose(capsys: Screen, method: str, *more: str, out: str = "small") -> None:
    said = distil(
        capsys, "condense", "--data", "photos", "--method", method, "--per-class", "3", "--device", "cpu",
        *ALONE.get(method, KNOWS), *more, "--out", out,
    )  # fmt: skip
    assert said.code == 0, said


def test_these_are_all_that_choose() -> None:
    chosen = {name for name, each in CONDENSERS.items() if each.run.startswith("distil.loops.condense_select:")}
    assert chosen | {"random"} == set(CHOOSING)


@pytest.mark.parametrize("method", CHOOSING)
def test_a_set_keeps_the_ids_of_training_samples_and_the_weights_that_a_method_gives(
    method: str, there: Path, capsys: Screen
) -> None:
    choose(capsys, method)
    small = load_condensed("small/set")
    assert small.labels.bincount().tolist() == [3, 3, 3]
    assert small.ids is not None
    assert len(set(small.ids.tolist())) == 9
    with Path("small/splits.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    assert {row[1] for row in rows if int(row[0]) in set(small.ids.tolist())} == {"train"}
    if method == "duplicates":  # none has a copy here, so each stands for itself
        assert small.weights is not None
        assert small.weights.tolist() == [1.0] * 9
        return
    if method not in WEIGHED:
        assert small.weights is None
        return
    assert small.weights is not None
    assert bool((small.weights >= 0).all())
    assert float(small.weights.std()) > 0
    students = []
    for weights in (small.weights, None):  # with its weights, and with each sample counting alike
        small = small.with_labels(small.kind, weights=weights)
        small.save("small/set")
        said = distil(
            capsys, "train", "--data", "small", "--student", "distil:mlp(hidden=4)", "--set", "updates=4", "--device",
            "cpu", "--out", f"students-{len(students)}",
        )  # fmt: skip
        assert said.code == 0, said
        students.append(load_file(f"students-{len(students)}/students/set-seed0.safetensors"))
    assert any(not torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_duplicates_are_left_out_and_classes_unbalanced_where_that_is_asked(there: Path, capsys: Screen) -> None:
    for k in range(6):  # copies of one photo, which would be chosen for its class
        first = sorted(Path("photos/red").glob("[0-9]*.png"))[0]
        (first.parent / f"copy{k}.png").write_bytes(first.read_bytes())
    choose(capsys, "uncertainty", "--set", "twins=0.999999", "--set", "balance=false", "--set", "easy=true")
    small = load_condensed("small/set")
    assert len(small) == 9
    assert len({tuple(row.tolist()) for row in small.inputs.flatten(1)}) == 9
    assert any("near-duplicates and left out" in note for note in small.made["notes"])
    assert set(small.labels.tolist()) <= set(range(len(CLASSES)))
