"""What two processes train together: ``python -m engine.ranks FOLDER`` under torchrun's variables, or alone.

Every scenario returns a tree; it is written to ``FOLDER/NAME-RANK``. Alone, batches are twice as large, so that both
ways see the same samples in every step.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.data import DictDataset
from distil.engine import Distiller, OwnOptimizer, Term, fit, ramp
from distil.engine.processes import meet
from distil.engine.serial import load_tree, save_tree
from distil.engine.window import rank, world_size
from distil.methods import CRD, KD, FitNets, Supervised
from engine import toys
from engine.kills import free_port

__all__ = ["SCENARIOS", "SHARDED", "ZERO", "by_two", "ended_alike", "read", "run_all", "same_everywhere"]

WORLD = 2


def go(distiller: Distiller, train: Any, val: Any = None, **options: Any) -> dict[str, Any]:
    """Fit, and return what came of it."""
    share = WORLD if world_size() == 1 else 1
    size = options.pop("batch_size", 4) * share
    given = {"epochs": 2, "optimizer": "sgd", "lr": 0.1, "diagnose": False, "check_teacher": False, "device": "cpu"}
    result = fit(distiller, train, val, batch_size=size, **{**given, **options})
    untimed = [{key: value for key, value in record.items() if key != "seconds"} for record in result.history]
    return {"state": toys.state(distiller), "history": untimed, "terms": dict(distiller.ctx.terms)}


def half_labelled(count: int = 22) -> DictDataset:
    """Samples of which the first third has no label, so that ranks and micro-batches count unequally."""
    data = toys.vectors(count)
    data.labels[: count // 3] = -100
    return data


def gradient() -> dict[str, Any]:
    """Ragged batches, unequal counts, two micro-batches a step."""
    data = half_labelled()
    distiller = Distiller(*toys.pair(), KD() + Supervised(), example=toys.batch(data, 4))
    return go(distiller, data, accumulate=2, clip=0.5)


def banks() -> dict[str, Any]:
    """Memories of every sample, moved by what all ranks saw; and a constant that all must find together."""
    data = toys.vectors(24)
    method = Supervised() + 0.1 * CRD(negatives=5, dim=8)
    distiller = Distiller(*toys.pair(), method, example=toys.batch(data, 4))
    distiller.prepare(data)
    return go(distiller, data, accumulate=2, epochs=3)


def statistics() -> dict[str, Any]:
    """BatchNorm: each process sees its own batches, and all must end, and be scored, alike."""
    data = toys.images(32)
    distiller = Distiller(*toys.pair(toys.CNN), KD() + Supervised(), example=toys.batch(data, 4))
    return go(distiller, data, toys.images(16, seed=4), ema=0.5, patience=1, epochs=4)


class Spare(nn.Module):
    """A student with a layer that is never called, and a branch that only one method reads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.spare, self.branch = toys.mlp(4, classes=4), nn.Linear(4, 4), nn.Linear(4, 8)
        self.head = nn.Linear(4, toys.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.trunk(inputs)
        self.branch(hidden)
        return self.head(hidden)


def unused() -> dict[str, Any]:
    """Parameters that no loss ever reaches, and some that a ramp reaches from the second epoch on."""
    data = half_labelled(24)
    student = toys.seeded(Spare, 1)
    method = Supervised() + ramp(epochs=1) * toys.Hint(tap=("branch", "hidden"))
    distiller = Distiller(student, toys.pair()[1], method, example=toys.batch(data, 4))
    return go(distiller, data, epochs=3)


def adapters() -> dict[str, Any]:
    """A regressor that waits for its ramp."""
    data = toys.images(24)
    student, teacher = (toys.seeded(lambda w=width: toys.CNN(w, norm=False), width) for width in (4, 8))
    method = KD() + ramp(epochs=1) * FitNets(tap="one")
    return go(Distiller(student, teacher, method, example=toys.batch(data, 4)), data)


class Own(toys.Hint):
    """A part of its own that learns from a mean over samples."""

    def setup(self, student: Any, teacher: Any) -> None:
        self.gate = nn.Linear(toys.CLASSES, 1)
        self.own = OwnOptimizer(self.gate, torch.optim.SGD, lr=0.1)

    def before_step(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> None:
        self.own.step((self.gate(teacher(batch).logits) - 1).square().mean())


def own() -> dict[str, Any]:
    """An own optimizer's gradients are averaged, so its part stays equal everywhere."""
    data = toys.vectors(24)
    return go(Distiller(*toys.pair(), Own() + KD(), example=toys.batch(data, 4)), data)


class Follows(toys.Memory):
    """A schedule moved by the terms of the whole step; its draws and its queue left out."""

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        known = teacher(batch).logits
        return {"memory": Term((1 - self.share) * (self.adapter(student(batch).logits) - known).square().mean(1))}


def buffers() -> dict[str, Any]:
    """A method's buffer that follows ``ctx.terms``."""
    data = toys.vectors(22)
    return go(Distiller(*toys.pair(), Follows(), example=toys.batch(data, 4)), data)


def shortcut() -> dict[str, Any]:
    """A teacher whose passes stop early, with BatchNorm folded: both processes try it, and decide alike."""
    data = toys.images(24)
    student, teacher = toys.seeded(lambda: toys.CNN(norm=False), 1), toys.seeded(toys.CNN, 2)
    distiller = Distiller(student, teacher, toys.Hint(tap="two"), example=toys.batch(data, 4))
    made = go(distiller, data, teacher_forward="truncate,fold_bn,stream")
    return made | {"kept": distiller.cast.said()["model"]["kept"]}


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    f.__name__: f for f in (gradient, statistics, unused, adapters, own, buffers, banks, shortcut)
}


class Deep(nn.Module):
    """A student of alike blocks, an embedding of ragged texts before them, and a head tied to nothing."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.words = nn.Embedding(11, width, padding_idx=0)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2)])
        self.head = nn.Linear(width, toys.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, there = self.words(inputs), (inputs != 0).unsqueeze(2)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head((hidden * there).sum(1) / there.sum(1))


def texts(count: int = 22) -> DictDataset:
    """Texts of one to six words, padded with 0."""
    draw = torch.Generator().manual_seed(5)
    words = torch.randint(1, 11, (count, 6), generator=draw)
    lengths = torch.randint(1, 7, (count, 1), generator=draw)
    words = words.masked_fill(torch.arange(6) >= lengths, 0)
    return DictDataset(words, words.sum(1) % toys.CLASSES, torch.arange(count))


def deep(method: Any = None) -> tuple[Distiller, DictDataset]:
    """The deep student, its teacher and its texts."""
    data = texts()
    student, teacher = toys.seeded(Deep, 1), toys.seeded(lambda: Deep(12), 2)
    return Distiller(student, teacher, KD() + Supervised() if method is None else method, example=data_of(data)), data


def data_of(data: DictDataset) -> dict[str, Tensor]:
    """A few samples for the dry run."""
    return toys.batch(data, 4)


def ragged() -> dict[str, Any]:
    """Ragged texts, a last batch that is smaller, two micro-batches a step, clipping."""
    distiller, data = deep()
    return go(distiller, data, texts(12), accumulate=2, clip=0.5, ema=0.5, keep="last")


def adapted() -> dict[str, Any]:
    """An adapter that stays whole beside a student that may be in shards; Adam has a state for each."""
    distiller, data = deep(KD() + FitNets(tap="head:in"))
    return go(distiller, data, texts(12), optimizer="adam", lr=0.02, clip=1.0, shard_teacher=world_size() > 1)


def resumed(folder: Path) -> dict[str, Any]:
    """Stopped after four steps and gone on with, best weights and averages among what is stored."""
    given = {"accumulate": 1, "epochs": 3, "ema": 0.6, "optimizer": "adamw", "lr": 0.02, "out": folder, "save_every": 2}

    def stop(step: int, steps: int) -> None:
        if step == 5:
            raise Stopped

    try:
        distiller, data = deep(KD() + FitNets(tap="head:in"))
        go(distiller, data, texts(12), **given, progress=stop)
    except Stopped:
        pass
    distiller, data = deep(KD() + FitNets(tap="head:in"))
    return go(distiller, data, texts(12), **given, resume=True)


class Stopped(Exception):
    """The run is cut off here."""


def straight() -> dict[str, Any]:
    """The resumed run, in one go."""
    distiller, data = deep(KD() + FitNets(tap="head:in"))
    return go(distiller, data, texts(12), epochs=3, ema=0.6, optimizer="adamw", lr=0.02)


SHARDED: dict[str, Callable[[], dict[str, Any]]] = {f.__name__: f for f in (ragged, adapted, straight)}


def first_stage() -> dict[str, Any]:
    """ZeRO 1, which sums gradients itself and averages them once; Adam, clipping, two micro-batches a step."""
    before = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = "1"
    try:
        distiller, data = deep(KD() + FitNets(tap="head:in"))
        return go(distiller, data, texts(12), optimizer="adam", lr=0.02, clip=0.5, accumulate=2, ema=0.5)
    finally:
        os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = before


def halved() -> dict[str, Any]:
    """bfloat16 by autocast, float32 weights, and how many numbers this process's optimizer keeps."""
    made: list[torch.optim.Optimizer] = []

    def factory(groups: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.AdamW(groups))
        return made[-1]

    distiller, data = deep()
    done = go(distiller, data, texts(12), precision="bf16", accumulate=2, optimizer=factory, lr=0.02)
    tensors = [value for state in made[0].state.values() for value in state.values()]
    return done | {"kept": sum(value.numel() for value in tensors if value.ndim)}


ZERO: dict[str, Callable[[], dict[str, Any]]] = {
    f.__name__: f for f in (gradient, unused, own, ragged, adapted, straight, first_stage)
}


def run_all(folder: Path, scenarios: dict[str, Callable[[], dict[str, Any]]] = SCENARIOS) -> None:
    """Run every scenario in this process."""
    for name, scenario in scenarios.items():
        torch.manual_seed(rank())
        tree = scenario()
        save_tree(tree, folder / f"{name}-{rank()}")


def by_two(place: Path, *words: str, **extra: str) -> None:
    """Have two processes run the scenarios, and write what came of them under ``place``."""
    here = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(free_port()), **extra}  # fmt: skip
    command = [sys.executable, "-m", "engine.ranks", str(place), *words]
    both = [
        subprocess.Popen(command, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    said = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said[0][-3000:] + said[1][-3000:]


def read(folder: Path, name: str) -> tuple[Any, Any, Any]:
    """What rank 0, rank 1 and the single process made."""
    first, second, alone = (load_tree(folder / place) for place in (f"two/{name}-0", f"two/{name}-1", f"one/{name}-0"))
    return first, second, alone


def ended_alike(folder: Path) -> None:
    """BatchNorm's running statistics, and their averages, are those of the first process everywhere."""
    first, second = (load_tree(folder / f"two/statistics-{r}") for r in range(WORLD))
    start = toys.pair(toys.CNN)[0].state_dict()["one.1.running_mean"]
    assert toys.same(first["state"], second["state"])
    assert not torch.equal(first["state"]["student.one.1.running_mean"], start)


def same_everywhere(first: Any, second: Any, alone: Any) -> None:
    """Both processes end with equal bits, and with the weights, terms and scores of the one that is alone."""
    assert first["state"].keys() == alone["state"].keys()
    for key, value in alone["state"].items():
        assert torch.equal(first["state"][key], second["state"][key]), key
        assert torch.allclose(first["state"][key], value, rtol=1e-4, atol=1e-5), key
    for mine, theirs in zip(first["history"], alone["history"], strict=True):
        assert mine["terms"] == pytest.approx(theirs["terms"], rel=1e-4)
        assert mine.get("val", {}) == pytest.approx(theirs.get("val", {}), rel=1e-3)


if __name__ == "__main__":
    meet("cpu")
    place, words = Path(sys.argv[1]), sys.argv[2:]
    chosen = ZERO if "zero" in words else SHARDED if "sharded" in words else SCENARIOS
    extra: dict[str, Callable[[], dict[str, Any]]] = {}
    extra |= {"resumed": lambda: resumed(place / "run"), "statistics": statistics} if words else {}
    extra |= {"halved": halved} if "zero" in words else {}
    run_all(place, {**chosen, **extra})
