"""A training run in a process of its own, to be killed: ``python -m engine.resumable FOLDER [KILL_AT [SIGNAL]]``.

It uses everything that must survive: adapters, an own optimizer, a queue, a moving schedule, draws, dropout, BatchNorm,
EMA, two optimizers, accumulation, warm-up, a selected pool's ids. At step KILL_AT it sends itself SIGNAL (default 9).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distil.data import DictDataset
from distil.engine import Distiller, OwnOptimizer, Term, fit, ramp
from distil.engine.serial import save_tree
from distil.methods import DKD, KD, FitNets, Supervised
from engine import toys

__all__ = ["main"]


class Judge(toys.Memory):
    """The memory, and a judge of its own that learns in ``before_step``."""

    def setup(self, student: Any, teacher: Any) -> None:
        super().setup(student, teacher)
        self.judge = nn.Linear(toys.CLASSES, 1)
        self.own = OwnOptimizer(self.judge, torch.optim.Adam, lr=0.01)

    def before_step(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> None:
        real, made = self.judge(teacher(batch).logits), self.judge(student(batch).logits)
        self.own.step((nn.functional.softplus(-real) + nn.functional.softplus(made)).mean())

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        (term,) = super().forward(student, teacher, batch, ctx).values()
        fooled = nn.functional.softplus(-self.judge(student(batch).logits)).squeeze(1)
        return {"memory": Term(term.values + fooled)}


def noisy(image: Tensor) -> Tensor:
    """An augmentation that draws from torch's global generator."""
    return image + 0.05 * torch.randn(image.shape)


def select(epoch: int, pool: Any, distiller: Distiller) -> Tensor:
    """Three quarters of the pool, chosen by what the student says at that moment."""
    scores = distiller.task.predict(distiller.student, DictDataset(pool.inputs, pool.labels, pool.ids))
    return scores["id"][scores["logits"].amax(1).argsort()[: len(pool) * 3 // 4]]


def build(seed: int = 0) -> Distiller:
    """The distiller of the run."""
    student, teacher = toys.pair(toys.CNN)
    student.head = nn.Sequential(nn.Dropout(0.2), student.head)
    student.two[0] = nn.Conv2d(4, 4, 1)
    teacher.two[0] = nn.Conv2d(8, 8, 1)
    method = KD() + ramp(fraction=0.5) * DKD() + FitNets(tap="one") + Judge() + Supervised()
    return Distiller(student, teacher, method, example=toys.batch(toys.images(), 4), seed=seed)


def run(folder: Path, kill_at: int = 0, number: int = signal.SIGKILL, **options: Any) -> Distiller:
    """Train, and send this process a signal at one step."""

    def progress(step: int, steps: int) -> None:
        if step == kill_at:
            os.kill(os.getpid(), number)

    torch.manual_seed(0)
    distiller = build()
    given = {
        "steps": 12, "batch_size": 8, "accumulate": 2, "optimizer": {"student": "sgd", "fitnets": "adam"}, "lr": 0.02,
        "warmup": 0.2, "clip": 1.0, "ema": 0.7, "keep": "last", "save_every": 2, "out": folder, "resume": True,
        "check_teacher": False, "device": "cpu", "progress": progress, "select": select, **options,
    }  # fmt: skip
    pool = toys.images(48)
    train = DictDataset(pool.inputs, pool.labels, pool.ids, transform=noisy)
    result = fit(distiller, train, toys.images(16, seed=3), **given)
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]
    save_tree({"model": distiller.state_dict(), "history": history, "best": result.best}, folder / "end")
    return distiller


def main() -> None:
    """Run as the command line says."""
    folder, *rest = sys.argv[1:]
    run(Path(folder), *map(int, rest))


if __name__ == "__main__":
    main()
