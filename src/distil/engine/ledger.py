"""What a run remembers: its figures, its best weights, and how far it is in its epoch. A checkpoint holds all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch.distributed as dist
from torch import Tensor

from distil.data.bundle import NO_LABEL
from distil.data.loading import Batches, Streams
from distil.engine.method import Sum
from distil.engine.processes import of_every
from distil.engine.window import rank, world_size

__all__ = ["Ledger", "labels_read"]


@dataclass
class Ledger:
    """The books of one run.

    Attributes:
        history: one record per epoch, and one of the first step.
        last, best: validation metrics; ``best`` with its ``"epoch"``.
        best_state: the weights that were best, on the CPU.
        stale: evaluations since the best.
        stopped: patience has ended.
        seconds, samples: spent so far.
        teacher_seconds: of those, inside teachers' passes before this process took over.
        validation_seconds, diagnosis_seconds: of ``seconds``, for scoring epochs and for measuring shares.
        prepare_seconds: spent before training, on the methods' pass over the data; not among ``seconds``.
        batch: micro-batches of the open epoch already used.
        chosen: the ids that the open epoch trains on, where they were selected.
        terms, loss, steps: sums over the open epoch, and how many steps went into them.
        seen: how many of those steps each term was part of.
        shares: the last measured shares of the gradient.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_state: dict[str, Tensor] | None = None
    stale: int = 0
    stopped: bool = False
    seconds: float = 0.0
    teacher_seconds: float = 0.0
    validation_seconds: float = 0.0
    diagnosis_seconds: float = 0.0
    prepare_seconds: float = 0.0
    samples: int = 0
    batch: int = 0
    chosen: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    loss: float | Tensor = 0.0
    steps: int = 0
    shares: dict[str, dict[str, float]] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Return everything, as a checkpoint stores it: of the open epoch's loss, each process's own sum."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"loss": self._every_loss()}

    def _every_loss(self) -> float | Tensor:
        if not isinstance(self.loss, Tensor) or world_size() == 1:
            return self.loss
        return of_every(self.loss)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        for f in fields(self):
            setattr(self, f.name, state.get(f.name, getattr(self, f.name)))  # older checkpoints know fewer figures
        if isinstance(self.loss, Tensor) and self.loss.ndim:
            self.loss = self.loss[rank()]

    def add(self, terms: Mapping[str, Tensor], loss: Tensor) -> None:
        """Add one step."""
        for name, value in terms.items():
            known = self.terms.get(name)
            self.terms[name] = value.clone() if known is None else known.to(value.device) + value
            self.seen[name] = self.seen.get(name, 0) + 1
        self.loss = loss + (self.loss.to(loss.device) if isinstance(self.loss, Tensor) else self.loss)
        self.steps += 1

    def close(self) -> dict[str, Any]:
        """Return the open epoch's mean loss and terms, and begin a new epoch."""
        count = max(1, self.steps)
        loss = self.loss
        if isinstance(loss, Tensor) and world_size() > 1:
            dist.all_reduce(loss)
            loss = loss / world_size()
        # A term that a schedule switched off for some steps is averaged over the others.
        means = {name: float(value) / self.seen[name] for name, value in self.terms.items()}
        self.seen = {}
        self.terms, self.loss, self.steps, self.batch, self.chosen = {}, 0.0, 0, 0, None
        return {"loss": float(loss) / count, "terms": means}

    def diagnosis(self) -> dict[str, Any]:
        """Return the last measured shares of the gradient, under the names of the history."""
        return {f"{name}s": self.shares.get(name, {}) for name in ("share", "cosine", "norm")}

    def judge(
        self, metrics: Mapping[str, float], metric: str, *, higher: bool, epoch: int, ties: str = "first"
    ) -> bool:
        """Note an evaluation; say whether it is the best so far (of equals, as ``ties``); no number never is."""
        self.last = dict(metrics)
        sign = 1 if higher else -1
        gain = sign * (metrics[metric] - self.best[metric]) if self.best else math.inf
        if metrics[metric] == metrics[metric] and (gain > 0 or (gain == 0 and ties == "last")):
            self.best, self.stale = {**metrics, "epoch": float(epoch)}, 0
            return True
        self.stale += 1
        return False


def labels_read(source: Any, method: Sum, stream: str = "") -> int | None:
    """Return how many labels a source offers to those who may read them; ``None`` where counting is not cheap."""
    if isinstance(source, Streams):
        counts = [labels_read(part, method, name) for name, part in source.streams.items()]
        return None if None in counts else sum(c for c in counts if c is not None)
    readers = [c.method.labels for c in method]
    if not any(r is True or (r is not False and stream in r) for r in readers):
        return 0
    labels = getattr(source.dataset if isinstance(source, Batches) else source, "labels", None)
    return int((labels != NO_LABEL).sum()) if isinstance(labels, Tensor) else None
