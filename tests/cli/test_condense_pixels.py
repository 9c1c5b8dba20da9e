"""distil condense by the methods that optimise or cut pixels, with a user's own photos and networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distil.data.condensed import load_condensed

from .terminal import Said, distil

Screen = pytest.CaptureFixture[str]

NETS = ("--teacher", "models.py:eye", "--teacher", "models.py:eye")


def said(capsys: Screen, method: str, *more: str, per_class: int = 2) -> Said:
    words = ["condense", "--data", "photos", "--method", method, "--per-class", str(per_class), "--device", "cpu"]
    return distil(capsys, *words, "--out", "small", *more)


def test_infer_keeps_real_and_additive_images_apart(here: Path, capsys: Screen) -> None:
    made = said(capsys, "infer", *NETS, "--set", "options.statistics=0", "--set", "options.steps=2")
    assert made.code == 0, made
    small = load_condensed("small/set")
    assert small.compensators is not None
    assert (len(small.inputs), len(small.compensators), len(small)) == (3, 2, 9)
    assert small.kind == "static"
    assert small.storage()["images"] == 5 * small.inputs[0].numel()
    assert torch.equal(small.samples()[:3], small.inputs)


@pytest.mark.parametrize(
    ("method", "more", "per_class", "says"),
    [
        ("infer", (*NETS, "--set", "options.steps=2"), 2, "no BatchNorm2d; name one that has, or set statistics=0"),
        ("infer", (*NETS, "--set", "options.statistics=0"), 1, "ask for at least 2"),
        ("infer", (), 2, "needs a trained teacher"),
        ("sre2l", NETS[:2], 2, "has no BatchNorm2d"),
        ("rded", (*NETS[:2], "--set", "options.factor=5"), 2, "rded needs 50 images of each class"),
        ("rded", NETS, 2, "name one --teacher"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    here: Path, capsys: Screen, method: str, more: tuple[str, ...], per_class: int, says: str
) -> None:
    refused = said(capsys, method, *more, per_class=per_class)
    assert refused.code == 2
    assert says in " ".join(refused.err.split())
    assert not Path("small/set").exists()
