"""Two processes: the gradient of one, equal buffers and parts everywhere, and no parameter that stops the reducer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distil.engine.serial import load_tree
from engine import ranks


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenarios, run once by two processes together and once by this one alone."""
    root = tmp_path_factory.mktemp("ranks")
    here = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    command = [sys.executable, "-m", "engine.ranks", str(root / "two")]
    both = [
        subprocess.Popen(command, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    said = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said[0][-3000:] + said[1][-3000:]
    ranks.run_all(root / "one")
    return root


def read(folder: Path, name: str) -> tuple[Any, Any, Any]:
    """What rank 0, rank 1 and the single process made."""
    return tuple(load_tree(folder / place) for place in (f"two/{name}-0", f"two/{name}-1", f"one/{name}-0"))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ranks.SCENARIOS)
def test_both_ranks_end_alike(folder: Path, name: str) -> None:
    first, second, _ = read(folder, name)
    assert first["state"].keys() == second["state"].keys()
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key
    assert first["history"] == second["history"]


@pytest.mark.parametrize("name", [name for name in ranks.SCENARIOS if name not in ("statistics", "adapters")])
def test_two_processes_are_one(folder: Path, name: str) -> None:
    """Without BatchNorm the split does not matter: weights, parts, buffers and losses are those of one process."""
    first, _, alone = read(folder, name)
    for key, value in alone["state"].items():
        assert torch.allclose(first["state"][key], value, rtol=1e-4, atol=1e-6), key
    for mine, theirs in zip(first["history"], alone["history"], strict=True):
        assert mine["terms"] == pytest.approx(theirs["terms"], rel=1e-4)
        assert mine.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-4)


def test_both_ranks_make_the_teachers_passes_alike(folder: Path) -> None:
    assert [made["kept"] for made in read(folder, "shortcut")] == [["truncate", "fold_bn"]] * 3


def test_what_nothing_reaches_stays(folder: Path) -> None:
    first, _, _ = read(folder, "unused")
    start = ranks.toys.seeded(ranks.Spare, 1).state_dict()
    assert torch.equal(first["state"]["student.spare.weight"], start["spare.weight"])
    assert not torch.equal(first["state"]["student.branch.weight"], start["branch.weight"])
