"""What a step of one method costs beside a step of the student alone: taken together, order swapped, medians."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from distil.data.bundle import Bundle
from distil.data.loading import Batches
from distil.engine.distiller import Distiller
from distil.loops.training import Training, build_model, example_of, rebuilt_student
from distil.methods.expression import parse
from distil.tasks import get_task
from distil.tasks.base import to_device

__all__ = ["step_ratio"]


def step_ratio(
    expression: str,
    against: str,
    student: str,
    teacher: nn.Module,
    bundle: Bundle,
    training: Training,
    *,
    rounds: int = 7,
    steps: int = 2,
    device: str | None = None,
) -> float:
    """Return how many times as long a training step of ``expression`` takes as one of ``against``.

    Both run on the same batches, in float32 or under the training's autocast, without data loading: forward of teacher
    and student, backward, optimizer step. ``rounds`` times A B B A of ``steps`` steps each, after one unmeasured step
    of either; the ratio is the median of the rounds'. On a busy machine single times mean little; ratios of times taken
    together do.

    Args:
        expression, against: sums of methods; the student alone is ``supervised``.
        student: the student by name.
        teacher, bundle, training: as the run has them.
        device: where it is measured; a CUDA device by default, where there is one.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    size = min(training.batch_size, len(bundle.train))
    taken = itertools.islice(Batches(bundle.train, size, seed=0, shuffle=True).iterate(0), 4)
    batches = [batch for batch in taken if len(batch["id"]) == size]  # a short last batch would be quicker
    batches = [to_device(batch, place) for batch in batches]
    sides = (expression, against)
    ours, theirs = (_stepper(e, student, teacher, bundle, training, batches, place) for e in sides)

    def timed(side: Iterator[None]) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            next(side)
        if place.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    next(ours), next(theirs)
    ratios = []
    for _ in range(rounds):
        times = [timed(side) for side in (ours, theirs, theirs, ours)]
        ratios.append((times[0] + times[3]) / (times[1] + times[2]))
    return statistics.median(ratios)


def _stepper(
    expression: str, student: str, teacher: nn.Module, bundle: Bundle, training: Training, batches: list[Any],
    place: torch.device,
) -> Iterator[None]:  # fmt: skip
    """Yield after every training step on the batches, over and over."""
    method = parse(expression)
    distiller = Distiller(
        rebuilt_student(build_model(student, bundle, seed=0), method, seed=0), teacher, method,
        task=get_task(bundle.task), example=example_of(bundle), steps=10**6, epochs=training.epochs,
    ).to(place)  # fmt: skip
    optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=1e-4, momentum=0.9))
    distiller.prepare(Batches(bundle.train, training.batch_size, seed=0, shuffle=True))
    distiller.ctx.epoch = training.epochs - 1  # warm-ups are over
    distiller.ctx.step = 10**5 * 9
    distiller.train()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.precision)
    for batch in itertools.cycle(batches):
        with torch.autocast(place.type, half or torch.bfloat16, enabled=half is not None):
            loss = distiller(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield
