"""The settings of a run, and which of them make a checkpoint its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from distil.data.bundle import View
from distil.data.fingerprint import fingerprint
from distil.data.loading import Batches
from distil.engine.distiller import Distiller
from distil.engine.track import Tracking
from distil.engine.window import world_size
from distil.errors import DistilError

__all__ = ["Plan", "described", "identity"]

SAME = ("seed", "batch_size", "accumulate", "epochs", "steps", "optimizer", "lr", "weight_decay", "schedule", "warmup",
        "precision", "clip", "ema", "select", "keep", "ties", "patience", "eval_every")  # fmt: skip
"""What a resumed run must share with the one that began; where it runs and how often it saves may differ."""


@dataclass(frozen=True)
class Plan:
    """The settings of one run; see :func:`distil.engine.fit.fit` for what each means."""

    epochs: int | None
    steps: int | None
    batch_size: int
    optimizer: Any
    lr: Any
    weight_decay: Any
    schedule: Any
    warmup: float
    accumulate: int
    precision: str
    clip: float | None
    ema: float | None
    patience: int | None
    keep: str
    ties: str
    select: Callable[..., Any] | None
    eval_every: int
    seed: int
    out: Path | None
    resume: bool
    save_every: int | None
    device: str | None
    workers: int
    check_teacher: bool
    shard_teacher: bool
    tracking: Tracking | None
    diagnose: bool
    progress: Callable[[int, int], None] | None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise DistilError(f"fit takes either epochs= or steps=; got epochs={self.epochs}, steps={self.steps}.")
        for name in ("epochs", "steps", "batch_size", "accumulate", "eval_every", "patience", "save_every"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise DistilError(f"{name}={value} must be a whole number of at least 1.")
        if self.keep not in ("best", "last"):
            raise DistilError(f"keep='{self.keep}' is unknown; use 'best' or 'last'.")
        if self.ties not in ("first", "last"):
            raise DistilError(f"ties='{self.ties}' is unknown; use 'first' or 'last'.")
        if self.clip is not None and not self.clip > 0:
            raise DistilError(f"clip={self.clip} is the largest norm of the gradient; it must be above 0.")
        if self.save_every is not None and self.out is None:
            raise DistilError("save_every= needs out=, the folder for checkpoints.")
        if self.resume and self.out is None:
            raise DistilError("resume=True needs out=, the folder of the run to go on with.")


def described(plan: Plan, distiller: Distiller) -> dict[str, Any]:
    """Return what a tracker shows as the settings of this run, in plain values."""
    return {"method": distiller.method.expression, **{name: _plain(getattr(plan, name)) for name in SAME}}


def identity(plan: Plan, distiller: Distiller, data: Any) -> dict[str, Any]:
    """Return what must be equal for a checkpoint to belong to this run, in plain values."""
    teachers = {name: fingerprint(model) for name, model in distiller.teachers.items()}
    settings = {name: _plain(getattr(plan, name)) for name in SAME}
    forward = distiller.cast.teacher_forward
    # Ways that change no number may differ between the run that began and the one that goes on.
    settings |= {} if forward.exact else {"teacher_forward": str(forward)}
    method, processes = distiller.method.expression, world_size()  # more processes are a larger batch, dealt otherwise
    return {"method": method, "teachers": teachers, "data": _content(data), "processes": processes, **settings}


def _content(data: Any) -> Any:
    """Name the data where that is cheap and certain: what augments or streams is not read for it."""
    if isinstance(data, Mapping) and not any(isinstance(value, Tensor) for value in data.values()):
        return {str(name): _content(part) for name, part in data.items()}
    dataset = data.dataset if isinstance(data, (Batches, DataLoader)) else data
    base = dataset
    while isinstance(base, View):
        base = base.dataset
    held = isinstance(getattr(base, "inputs", None), Tensor) or isinstance(getattr(base, "fingerprint", None), str)
    if isinstance(base, Mapping) or held:
        return fingerprint(dataset)
    if isinstance(dataset, View):
        return fingerprint({"positions": dataset.positions, "labels": dataset.labels})
    return len(dataset) if hasattr(dataset, "__len__") else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, partial):
        return [_plain(value.func), _plain(value.keywords)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(getattr(value, "__qualname__", type(value).__qualname__))
