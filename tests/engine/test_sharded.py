"""FSDP2 with two gloo processes: a student in shards learns, resumes and ships what a whole one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from distil.engine import fit
from distil.engine.serial import load_tree
from distil.errors import DistilError
from engine import ranks, toys


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sharded scenarios, run by two processes together and, whole, by this one alone."""
    root = tmp_path_factory.mktemp("sharded")
    ranks.by_two(root / "two", "sharded", ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    ranks.run_all(root / "one", ranks.SHARDED)
    return root


@pytest.mark.parametrize("name", ranks.SHARDED)
def test_shards_learn_what_the_whole_learns(folder: Path, name: str) -> None:
    first, second, alone = ranks.read(folder, name)
    ranks.same_everywhere(first, second, alone)


def test_running_statistics_are_one_processs(folder: Path) -> None:
    ranks.ended_alike(folder)


def test_a_stopped_run_goes_on_to_the_bit(folder: Path) -> None:
    again, straight = load_tree(folder / "two/resumed-0"), load_tree(folder / "two/straight-0")
    assert toys.same(again["state"], straight["state"])
    assert again["history"] == straight["history"]


def test_the_checkpoint_is_whole(folder: Path) -> None:
    tree = load_tree(folder / "two" / "run" / "step-000000009")
    shapes = {name: value.shape for name, value in ranks.deep()[0].student.state_dict().items()}
    assert {n.removeprefix("student."): v.shape for n, v in tree["model"].items() if n.startswith("student.")} == shapes
    assert [value.numel() for value in tree["ema"]]


def test_a_teacher_cannot_be_spread_over_one_process() -> None:
    distiller, data = ranks.deep()
    with pytest.raises(DistilError, match="this run has one"):
        fit(distiller, data, steps=1, check_teacher=False, device="cpu", shard_teacher=True)
