"""Two processes: the gradient of one, equal buffers and parts everywhere, and no parameter that stops the reducer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine import ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenarios, run once by two processes together and once by this one alone."""
    root = tmp_path_factory.mktemp("ranks")
    ranks.by_two(root / "two", ACCELERATE_USE_CPU="true")
    ranks.run_all(root / "one")
    return root


@pytest.mark.parametrize("name", ranks.SCENARIOS)
def test_both_ranks_end_alike(folder: Path, name: str) -> None:
    first, second, _ = ranks.read(folder, name)
    assert first["state"].keys() == second["state"].keys()
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key
    assert first["history"] == second["history"]


@pytest.mark.parametrize("name", [name for name in ranks.SCENARIOS if name not in ("statistics", "adapters")])
def test_two_processes_are_one(folder: Path, name: str) -> None:
    """Without BatchNorm the split does not matter: weights, parts, buffers and losses are those of one process."""
    first, _, alone = ranks.read(folder, name)
    for key, value in alone["state"].items():
        assert torch.allclose(first["state"][key], value, rtol=1e-4, atol=1e-6), key
    for mine, theirs in zip(first["history"], alone["history"], strict=True):
        assert mine["terms"] == pytest.approx(theirs["terms"], rel=1e-4)
        assert mine.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-4)


def test_both_ranks_make_the_teachers_passes_alike(folder: Path) -> None:
    assert [made["kept"] for made in ranks.read(folder, "shortcut")] == [["truncate", "fold_bn"]] * 3


def test_what_nothing_reaches_stays(folder: Path) -> None:
    first, _, _ = ranks.read(folder, "unused")
    start = ranks.toys.seeded(ranks.Spare, 1).state_dict()
    assert torch.equal(first["state"]["student.spare.weight"], start["spare.weight"])
    assert not torch.equal(first["state"]["student.branch.weight"], start["branch.weight"])
