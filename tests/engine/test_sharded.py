"""FSDP2 with two gloo processes: a student in shards learns, resumes and ships what a whole one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distil.engine import fit
from distil.engine.serial import load_tree
from distil.errors import DistilError
from engine import ranks, toys
from engine.test_ranks import free_port


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sharded scenarios, run by two processes together and, whole, by this one alone."""
    root = tmp_path_factory.mktemp("sharded")
    here = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(free_port()), "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # fmt: skip
    command = [sys.executable, "-m", "engine.ranks", str(root / "two"), "sharded"]
    both = [
        subprocess.Popen(command, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    said = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said[0][-3000:] + said[1][-3000:]
    ranks.run_all(root / "one", ranks.SHARDED)
    return root


def read(folder: Path, name: str) -> tuple[Any, Any, Any]:
    """What rank 0, rank 1 and the single process made."""
    return tuple(load_tree(folder / place) for place in (f"two/{name}-0", f"two/{name}-1", f"one/{name}-0"))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ranks.SHARDED)
def test_shards_learn_what_the_whole_learns(folder: Path, name: str) -> None:
    first, second, alone = read(folder, name)
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


def test_the_checkpoint_is_whole(folder: Path) -> None:
    tree = load_tree(folder / "two" / "run" / "step-000000009")
    shapes = {name: value.shape for name, value in ranks.deep()[0].student.state_dict().items()}
    assert {n.removeprefix("student."): v.shape for n, v in tree["model"].items() if n.startswith("student.")} == shapes
    assert [value.numel() for value in tree["ema"]]


def refused(monkeypatch: pytest.MonkeyPatch, said: str, **options: Any) -> None:
    distiller, data = ranks.deep()
    with pytest.raises(DistilError, match=said):
        fit(distiller, data, steps=1, check_teacher=False, device="cpu", **options)


def test_what_cannot_be_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(monkeypatch, "this run has one", shard_teacher=True)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    refused(monkeypatch, "use FSDP2")
