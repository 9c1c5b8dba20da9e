"""DeepSpeed's ZeRO with two gloo processes: an optimizer in parts learns, resumes and ships what a whole one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distil.engine.serial import load_tree
from engine import ranks, toys


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenarios, run by two processes together and, whole, by this one alone."""
    root = tmp_path_factory.mktemp("zero")
    ranks.by_two(root / "two", "zero", ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE="2")
    ranks.run_all(root / "one", ranks.ZERO)
    return root


@pytest.mark.parametrize("name", ranks.ZERO)
def test_parts_learn_what_the_whole_learns(folder: Path, name: str) -> None:
    first, second, alone = ranks.read(folder, name)
    assert first["state"].keys() == alone["state"].keys()
    for key, value in alone["state"].items():
        assert torch.equal(first["state"][key], second["state"][key]), key
        assert torch.allclose(first["state"][key], value, rtol=1e-4, atol=1e-5), key
    for mine, theirs in zip(first["history"], alone["history"], strict=True):
        assert mine["terms"] == pytest.approx(theirs["terms"], rel=1e-4)
        assert mine.get("val", {}) == pytest.approx(theirs.get("val", {}), rel=1e-3)


def test_a_stopped_run_goes_on_to_the_bit(folder: Path) -> None:
    again, straight = load_tree(folder / "two/resumed-0"), load_tree(folder / "two/straight-0")
    assert toys.same(again["state"], straight["state"])
    assert again["history"] == straight["history"]
