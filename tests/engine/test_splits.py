"""Every method over two processes: whoever holds which samples, the gradient of uncoupled terms is that of one batch.

The split into micro-batches of one process is tested with the methods (``tests/methods``); here each of two processes
has a ragged share, itself in micro-batches, and texts come with lengths and a last batch of their own.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from distil.engine.processes import leave, meet
from distil.engine.serial import load_tree, save_tree
from engine import ranks, toys
from engine.kills import FORKS, free_port
from methods.test_contract import coupled_terms, data_of, distiller_of, models, splittable

SPLITS: dict[str, list[list[int]]] = {"even": [[3, 3], [3, 3]], "ragged": [[1, 6], [2, 3]]}
CASES = {case.name: case for case in splittable}
WORDS = "texts"


def distiller_for(name: str) -> tuple[Any, Any]:
    """The distiller of a case and its twelve samples, in double precision, without BatchNorm."""
    if name == WORDS:
        data = ranks.texts(12)
        data.labels[:5] = -100  # one process has hardly any
        made, _ = ranks.deep()
        return made.double(), data
    case = CASES[name]
    data = data_of(case, 12, dtype=torch.float64)
    made = distiller_of(case, data, *models(case, norm=False), dtype=torch.float64)
    made.method.eval()
    return made, data


def gradient(name: str, window: list[tuple[int, int]]) -> tuple[dict[str, Tensor], bool]:
    """The gradient of the uncoupled terms over some stretches of the samples; and whether there are such terms."""
    made, data = distiller_for(name)
    coupled = coupled_terms(made)
    made.watch()
    made(toys.batch(data, 12))  # what a method fixes by its first batch (constants of CRD) is the same everywhere
    made.skip_step()
    batches = [toys.batch(data, stop - start, start) for start, stop in window]
    totals = made.totals(batches)
    made.keep_live(True)
    found = False
    for part in batches:
        made(part, totals=totals, divides=False)
        free = [value for term, value in made.live.items() if term not in coupled]
        if free:
            found = True
            torch.stack(free).sum().backward()
    return toys.grads(made), found


def share(folder: Path, number: int, port: int) -> None:
    """One of two processes: its share of every case under every split, gradients added over both."""
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(number), "LOCAL_RANK": str(number), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    try:
        meet()
        for split, sizes in SPLITS.items():
            start, window = sum(sizes[0]) * number, []
            for size in sizes[number]:
                window.append((start, start + size))
                start += size
            for name in (*CASES, WORDS):
                try:
                    grads, _ = gradient(name, window)
                except Exception:  # of that case alone; both processes meet it
                    (folder / f"failed-{split}-{name}").write_text(traceback.format_exc())
                    continue
                for grad in grads.values():
                    dist.all_reduce(grad)
                if number == 0:
                    save_tree(grads, folder / f"{split}-{name}")
        leave()
    except BaseException:
        (folder / f"error-{number}").write_text(traceback.format_exc())
        sys.exit(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of every case."""
    root, port = tmp_path_factory.mktemp("splits"), free_port()
    both = [FORKS.Process(target=share, args=(root, r, port)) for r in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    errors = [file.read_text()[-3000:] for file in root.glob("error-*")]
    assert [process.exitcode for process in both] == [0, 0], errors
    return root


@pytest.mark.parametrize("name", [*CASES, WORDS])
def test_two_processes_give_the_gradient_of_one(folder: Path, name: str) -> None:
    whole, free = gradient(name, [(0, 12)])
    if not free:
        pytest.skip("every term is coupled, and says so")
    assert any(grad.any() for grad in whole.values())
    for split in SPLITS:
        failed = folder / f"failed-{split}-{name}"
        assert not failed.exists(), failed.read_text()
        found = load_tree(folder / f"{split}-{name}")
        for key, grad in whole.items():
            assert torch.allclose(found[key], grad, rtol=1e-6, atol=1e-9), (split, key)
