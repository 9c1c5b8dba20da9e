"""Runs that are killed (SIGKILL) at seeded moments and started again until they end: what they come to must be equal.

A run is a process, or two, forked from one that has torch loaded. ``Trial`` starts it, kills it, and compares.
It uses everything that must survive: adapters, an own optimizer, a queue, a moving schedule, draws, dropout, BatchNorm,
EMA, two optimizers, accumulation, warm-up, a selected pool, and (KIND "cached") a teacher's stored answers.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distil.cache import CachedTeacher, TeacherCache
from distil.data import DictDataset
from distil.engine import Distiller, OwnOptimizer, Term, fit, ramp
from distil.engine.checkpoint import latest
from distil.engine.processes import leave, meet
from distil.engine.serial import load_tree, save_tree
from distil.engine.window import rank, world_size
from distil.methods import DKD, KD, FitNets, Supervised
from distil.tasks import get_task
from engine import toys

__all__ = ["FORKS", "KINDS", "Kill", "Trial", "free_port", "plain"]

KINDS = ("live", "cached")
STEPS = 12
FORKS = multiprocessing.get_context("forkserver")
# Loaded once, for all lives.
FORKS.set_forkserver_preload(["engine.kills", "methods.test_contract", "torch._dynamo", "torchmetrics"])
TIMES = ("seconds", "teacher_seconds", "validation_seconds", "diagnosis_seconds", "prepare_seconds")


class Queue(toys.Memory):
    """The memory with a queue that all processes fill alike after a step, and a judge of its own."""

    def setup(self, student: Any, teacher: Any) -> None:
        super().setup(student, teacher)
        self.judge = nn.Linear(toys.CLASSES, 1)
        self.own = OwnOptimizer(self.judge, torch.optim.Adam, lr=0.01)
        self.fresh: list[Tensor] = []

    def before_step(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> None:
        real, made = self.judge(teacher(batch).logits), self.judge(student(batch).logits)
        self.own.step((nn.functional.softplus(-real) + nn.functional.softplus(made)).mean())

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        known, said = teacher(batch).logits, student(batch).logits
        noise = torch.randn(known.shape, generator=ctx.rng)
        target = known * (1 - self.share) + self.share * self.queue.mean(0) + 0.1 * noise
        if ctx.training:
            self.fresh.append(known.detach())
        fooled = nn.functional.softplus(-self.judge(said)).squeeze(1)
        return {"memory": Term((self.adapter(said) - target).square().mean(1) + fooled)}

    def after_step(self, ctx: Any) -> None:
        new = torch.cat(self.fresh)[:4].contiguous()
        self.fresh = []
        parts = [torch.empty_like(new) for _ in range(world_size())]
        if world_size() > 1:
            dist.all_gather(parts, new)
        else:
            parts = [new]
        self.queue.copy_(torch.cat([*parts, self.queue])[:16])
        super().after_step(ctx)


def noisy(image: Tensor) -> Tensor:
    """An augmentation that draws from torch's global generator."""
    return image + 0.05 * torch.randn(image.shape)


def choose(epoch: int, pool: Any, distiller: Distiller) -> Tensor:
    """Three quarters of the pool, chosen by what the student says at that moment."""
    scores = distiller.task.predict(distiller.student, DictDataset(pool.inputs, pool.labels, pool.ids))
    return scores["id"][scores["logits"].amax(1).argsort()[: len(pool) * 3 // 4]]


def train(folder: Path, kind: str) -> None:
    """Train to the end, from wherever ``folder`` is, and leave there what came of it."""
    torch.manual_seed(rank())
    pool = toys.images(48)
    student, teacher = toys.pair(toys.CNN)
    student.head = nn.Sequential(nn.Dropout(0.2), student.head)
    student.two[0], teacher.two[0] = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 8, 1)
    for module, seed in ((student.two[0], 3), (teacher.two[0], 4)):
        module.load_state_dict(
            toys.seeded(lambda m=module: nn.Conv2d(m.in_channels, m.out_channels, 1), seed).state_dict()
        )
    method = KD() + ramp(fraction=0.5) * DKD() + Queue() + Supervised()
    data, optimizer = DictDataset(pool.inputs, pool.labels, pool.ids), "sgd"
    if kind == "cached":
        place = folder.parent / "cache"  # written once, by one process, before any run
        if not place.exists():
            TeacherCache.write(teacher, data, get_task("classification"), place, codec="dense32")
        teacher = CachedTeacher(TeacherCache.open(place))
    else:
        method = method + FitNets(tap="one")
        data.transform, optimizer = noisy, {"student": "sgd", "fitnets": "adam"}
    distiller = Distiller(student, teacher, method, example=toys.batch(pool, 4))
    begun(folder, rank()).touch()
    result = fit(
        distiller, data, toys.images(16, seed=3), steps=STEPS, batch_size=8 // world_size(), accumulate=2,
        optimizer=optimizer, lr=0.02, warmup=0.2, clip=1.0, ema=0.7, keep="last", save_every=1, out=folder,
        resume=True, check_teacher=False, device="cpu", select=choose,
    )  # fmt: skip
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]
    save_tree({"model": distiller.state_dict(), "history": history, "best": result.best}, folder / f"end-{rank()}")


def begun(folder: Path, number: int) -> Path:
    """The mark by which a process says that its training begins."""
    return folder.parent / f"{folder.name}-begun-{number}"


def tear(which: int) -> None:
    """Die in the middle of a checkpoint's write, the one of that number: half a file, and no folder of its name."""
    from distil.engine import serial

    left, write = [which], serial.save_file

    def torn(tensors: Any, path: Path) -> None:
        write(tensors, path)
        left[0] -= 1
        if left[0] == 0:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    serial.save_file = torn  # type: ignore[assignment]


@dataclass
class Kill:
    """One death: when, of which process, and what it left."""

    kind: str
    world: int
    victim: str
    moment: float | str
    left: str
    torn: bool


@dataclass
class Trial:
    """One kind of run in one folder: its uninterrupted twin, then lives that end early."""

    root: Path
    kind: str
    world: int
    seconds: float = 0.0
    kills: list[Kill] = field(default_factory=list)

    def whole(self) -> dict[str, Any]:
        """What the uninterrupted run comes to; its training time is the span that moments are drawn from."""
        self._live(self.root / "whole")
        return self.result("whole")

    def killed(self, name: str, draw: random.Random, *, torn: bool = False) -> bool:
        """Start the run in folder ``name`` and kill it at a drawn moment, or in a drawn write; False: it had ended."""
        folder = self.root / name
        moment: float | str = draw.uniform(0.0, 0.9 * self.seconds)
        if torn:
            moment = f"write {draw.randint(1, 4)}"
        victim = draw.choice(["all", *(str(r) for r in range(self.world))]) if self.world > 1 and not torn else "0"
        if not self._live(folder, moment, victim):
            return False
        newest = latest(folder)
        left = [*folder.glob(".step-*")]
        self.kills.append(Kill(self.kind, self.world, victim, moment, newest.name if newest else "nothing", bool(left)))
        return True

    def ended(self, name: str) -> dict[str, Any]:
        """Let the run in folder ``name`` go on to its end, and return what it came to."""
        self._live(self.root / name)
        return self.result(name)

    def result(self, name: str) -> dict[str, Any]:
        """Everything that must be equal: the result of every process, and the last checkpoint but for its clocks."""
        folder = self.root / name
        tree = load_tree(folder / f"step-{STEPS:09d}")
        for key in TIMES:
            tree["loop"].pop(key, None), tree["loop"]["ledger"].pop(key, None)
        return {"last": tree} | {f"end-{r}": load_tree(folder / f"end-{r}") for r in range(self.world)}

    def _live(self, folder: Path, moment: float | str | None = None, victim: str = "all") -> bool:
        """One life of the run; says whether it was cut short."""
        port = free_port()
        marks = [begun(folder, r) for r in range(self.world)]
        for mark in marks:
            mark.unlink(missing_ok=True)
        torn = int(moment.split()[1]) if isinstance(moment, str) else 0
        both = [
            FORKS.Process(target=live, args=(folder, self.kind, r, self.world, port, torn)) for r in range(self.world)
        ]
        for process in both:
            process.start()
        try:
            while not all(mark.exists() for mark in marks) and all(p.is_alive() for p in both):
                time.sleep(0.002)
            start = time.monotonic()
            if isinstance(moment, float):
                time.sleep(moment)
                for r, process in enumerate(both):
                    if victim in ("all", str(r)):
                        process.kill()
            for process in both:
                process.join(120)
            span = time.monotonic() - start
        finally:
            for process in both:
                process.kill()
                process.join()
        codes = [process.exitcode for process in both]
        if moment is None:
            errors = [file.read_text()[-3000:] for file in folder.parent.glob("error-*")]
            assert not any(codes), f"exit codes {codes}: {errors}"
            self.seconds = self.seconds or span
        return any(codes)


def live(folder: Path, kind: str, number: int, world: int, port: int, torn: int) -> None:
    """The life of one process; what ends it but a kill is written down."""
    torch.set_num_threads(1)
    if torn and number == 0:  # it is the first process that writes
        tear(torn)
    if world > 1:
        os.environ |= {"WORLD_SIZE": str(world), "RANK": str(number), "LOCAL_RANK": str(number),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    try:
        meet()
        train(folder, kind)
        leave()
    except BaseException:
        (folder.parent / f"error-{number}").write_text(traceback.format_exc())
        sys.exit(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def plain(value: Any) -> Any:
    """Tensors as lists, so that whole trees compare to the bit."""
    if isinstance(value, Tensor):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value
