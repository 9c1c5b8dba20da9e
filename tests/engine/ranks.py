"""What two processes train together: ``python -m engine.ranks FOLDER`` under torchrun's variables, or alone.

Every scenario returns a tree; it is written to ``FOLDER/NAME-RANK``. Alone, batches are twice as large, so that both
ways see the same samples in every step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distil.data import DictDataset
from distil.engine import Distiller, OwnOptimizer, Term, fit, ramp
from distil.engine.serial import save_tree
from distil.engine.window import rank, world_size
from distil.methods import CRD, KD, FitNets, Supervised
from engine import toys

__all__ = ["SCENARIOS", "run_all"]

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


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    f.__name__: f for f in (gradient, statistics, unused, adapters, own, buffers, banks)
}


def run_all(folder: Path) -> None:
    """Run every scenario in this process."""
    for name, scenario in SCENARIOS.items():
        torch.manual_seed(rank())
        tree = scenario()
        save_tree(tree, folder / f"{name}-{rank()}")


if __name__ == "__main__":
    from accelerate import Accelerator

    Accelerator(cpu=True)
    run_all(Path(sys.argv[1]))
