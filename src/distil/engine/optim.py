"""From names to optimizers, and the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from distil.errors import DistilError, nearest

__all__ = ["OPTIMIZERS", "SCHEDULES", "RatedGroup", "forget", "lr_factor", "make_optimizers"]

Factory = Callable[..., Optimizer]
OPTIMIZERS: dict[str, Factory] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1.0 - done,
}


class RatedGroup(list[nn.Parameter]):
    """A group of parameters, as ``groups()`` gives it, with a learning rate of its own.

    It holds unless ``lr=`` names the group, and moves with the schedule and warm-up as every rate does.

    >>> RatedGroup([nn.Parameter(torch.zeros(1))], lr=1e-4).lr
    0.0001
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float) -> None:
        super().__init__(parameters)
        self.lr = lr


def make_optimizers(
    groups: Mapping[str, list[nn.Parameter]],
    *,
    optimizer: str | Factory | Mapping[str, str | Factory],
    lr: float | Mapping[str, float],
    weight_decay: float | Mapping[str, float],
) -> dict[str, Optimizer]:
    """Make one optimizer for each distinct factory; every group keeps its own learning rate.

    Args:
        groups: named parameters, as ``distiller.groups()`` gives them.
        optimizer: a name, a class (or partial), or a mapping of group names to those; a group not named uses
            "student"'s.
        lr: a number, or a mapping of group names; a group not named uses its own rate (:class:`RatedGroup`), or
            "student"'s.
        weight_decay: likewise.
    """
    for what, value in (("optimizer", optimizer), ("lr", lr), ("weight_decay", weight_decay)):
        for name in value if isinstance(value, Mapping) else ():
            if name not in groups and name != "student":
                raise DistilError(f"{what}= names the group '{name}', which does not exist; {nearest(name, groups)}")
    by_factory: dict[int, tuple[Factory, list[dict[str, Any]]]] = {}
    for name, parameters in groups.items():
        if not parameters:
            continue
        factory = _factory(_of(optimizer, name, "optimizer"))
        named = isinstance(lr, Mapping) and name in lr
        own = parameters.lr if isinstance(parameters, RatedGroup) and not named else _of(lr, name, "lr")
        rate, decay = float(own), float(_of(weight_decay, name, "weight_decay"))
        if not rate > 0 or not math.isfinite(rate):
            raise DistilError(f"lr={rate} of group '{name}' must be a finite number above 0.")
        if not 0 <= decay < math.inf:
            raise DistilError(f"weight_decay={decay} of group '{name}' must be a finite number of at least 0.")
        options = {"params": parameters, "name": name, "lr": rate, "weight_decay": decay}
        by_factory.setdefault(id(factory), (factory, []))[1].append(options)
    made = {}
    for factory, members in by_factory.values():
        made["+".join(m["name"] for m in members)] = factory(members)
    for one in made.values():
        for group in one.param_groups:
            group["base_lr"] = group["lr"]
    return made


def forget(optimizers: Iterable[Any]) -> None:
    """Let optimizers forget momentum and moments, as if each had just been made; rates and groups stay."""
    for optimizer in optimizers:
        # DeepSpeed steps the optimizer that stands behind the run's own.
        getattr(optimizer, "base", optimizer).state.clear()


def lr_factor(schedule: str | Callable[[float], float], warmup: float) -> Callable[[float], float]:
    """Return ``factor(done)`` for ``done`` in [0, 1]: a linear warm-up over the first ``warmup``, then the schedule."""
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise DistilError(f"schedule='{schedule}' is unknown; {nearest(schedule, SCHEDULES)}")
        curve = SCHEDULES[schedule]
    else:
        curve = schedule
    if not 0 <= warmup < 1:
        raise DistilError(f"warmup={warmup} is the share of the run spent warming up; it must lie in [0, 1).")

    def factor(done: float) -> float:
        if done < warmup:
            return max(done / warmup, 1e-3)
        return curve(min(1.0, (done - warmup) / (1 - warmup)))

    return factor


def _of(value: Any, name: str, what: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if name not in value and "student" not in value:
        raise DistilError(f"{what}= says nothing of the group '{name}' and has no 'student' to fall back on.")
    return value.get(name, value.get("student"))


def _factory(value: str | Factory) -> Factory:
    if not isinstance(value, str):
        return value
    if value not in OPTIMIZERS:
        raise DistilError(
            f"optimizer='{value}' is unknown; {nearest(value, OPTIMIZERS)} A torch.optim class works too."
        )
    return OPTIMIZERS[value]
