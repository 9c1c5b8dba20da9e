"""From what a loader gives to what methods may see: unpacked, prepared, placed, without labels nobody may read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from distil.data.loading import as_batches
from distil.engine.cast import Cast
from distil.engine.context import Context
from distil.engine.method import Batch, Sum, is_streams
from distil.tasks import Task, check_labels
from distil.tasks.base import to_device

__all__ = ["Intake", "ReadThrough"]


class Intake:
    """Makes the batch that methods see.

    Args:
        task: unpacks and prepares.
        method: says which streams' labels may be read, and may hold the one transform.
        cast: the models, and the device they are on.
    """

    def __init__(self, task: Task, method: Sum, cast: Cast) -> None:
        self.task, self.method, self.cast = task, method, cast
        self.classes: int | None = None
        self._readable: dict[str, bool] = {}
        self._mixers = method.having("transform")
        self._checked = False

    def __call__(self, raw: Any, ctx: Context) -> Batch:
        """Return the batch of a training call: opened, and changed by the one method that may."""
        batch = self.opened(raw, ctx.rng if type(self.task).prepare is not Task.prepare else None)
        for component in self._mixers:
            with torch.no_grad(), ExitStack() as stack:
                for handle in self.cast.each():
                    stack.enter_context(handle.detached())
                batch = component.method.transform(batch, *self.cast.handles(), ctx)
        return batch

    def opened(self, raw: Any, rng: torch.Generator | None) -> Batch:
        """Return the batch, or the mapping of batches, before any transform; ``rng`` is for a task that prepares."""
        if is_streams(raw):
            return {name: self._one(name, part, rng) for name, part in raw.items()}
        return self._one("", raw, rng)

    def _one(self, stream: str, raw: Any, rng: torch.Generator | None) -> Batch:
        batch = self.task.unpack(raw)
        if rng is not None:
            batch = self.task.prepare(batch, rng)
        labels: Tensor | None = batch.get("labels")
        if labels is not None and not self._reads(stream):
            batch = {key: value for key, value in batch.items() if key not in ("labels", "partner_labels")}
        elif labels is not None and self.classes and not labels.is_floating_point():
            self._check(labels, batch)
        ready: Batch = to_device(batch, self.cast.device)
        return ready

    def _reads(self, stream: str) -> bool:
        """Say whether any method may read the labels of ``stream`` ("" where there is only one)."""
        if stream not in self._readable:
            readers = [c.method.labels for c in self.method]
            self._readable[stream] = any(r is True or (r is not False and stream in r) for r in readers)
        return self._readable[stream]

    def _check(self, labels: Tensor, batch: Batch) -> None:
        """Check labels on a CPU always, on an accelerator once: each look there waits for the device."""
        if self.classes and (labels.device.type == "cpu" or not self._checked):
            self._checked = True
            low, high = torch.aminmax(labels) if labels.numel() else (0, 0)
            if int(low) < 0 or int(high) >= self.classes:
                check_labels(labels, self.classes, batch.get("id"))


class ReadThrough:
    """The training data as ``prepare`` reads them: in order, as often as it likes, one teacher pass per batch."""

    def __init__(self, data: Any, intake: Intake, seed: int) -> None:
        size = max(1, min(256, len(data))) if hasattr(data, "__len__") else 256  # a small set is no mistake here
        self._source, self._intake, self._seed = as_batches(data, size), intake, seed

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Batch]:
        rng = torch.Generator().manual_seed(self._seed)
        for raw in self._source.iterate(0):
            yield self._intake.opened(raw, rng)
            self._intake.cast.forget()
