"""Coefficients that move: numbers, ramps and the arithmetic between them."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

from distil.errors import DistilError

__all__ = ["WORDS", "Schedule", "as_schedule", "cosine", "during", "literal", "ramp", "step_decay"]

WORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None, "null": None}
"""What a bare word of an expression means, where it is no string."""


class Schedule(ABC):
    """A coefficient as a function of the context. Multiply it by a number, or by a method to make a sum's component."""

    needs_steps: bool = False
    needs_epochs: bool = False

    @abstractmethod
    def __call__(self, ctx: Any) -> float:
        """Return the coefficient at ``ctx`` (reads ``step, steps, epoch, epochs``)."""

    @property
    def constant(self) -> float | None:
        """The value, where it never moves; ``None`` otherwise."""
        return None

    def takes_part(self, epoch: int) -> bool:
        """Say whether ``epoch`` lies in the stage that this coefficient belongs to; without one, all do."""
        return True

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, (int, float)):
            return Scaled(self, float(other))
        return NotImplemented

    __rmul__ = __mul__


@dataclass(frozen=True)
class Constant(Schedule):
    """A number."""

    value: float

    def __call__(self, ctx: Any) -> float:
        return self.value

    @property
    def constant(self) -> float | None:
        return self.value

    def __str__(self) -> str:
        return literal(self.value)


@dataclass(frozen=True)
class Scaled(Schedule):
    """A schedule times a number."""

    inner: Schedule
    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs_steps", self.inner.needs_steps)
        object.__setattr__(self, "needs_epochs", self.inner.needs_epochs)

    def __call__(self, ctx: Any) -> float:
        return self.factor * self.inner(ctx)

    def takes_part(self, epoch: int) -> bool:
        return self.inner.takes_part(epoch)

    @property
    def constant(self) -> float | None:
        if self.factor == 0:
            return 0.0
        return None if self.inner.constant is None else self.factor * self.inner.constant

    def __str__(self) -> str:
        return f"{literal(self.factor)}*{self.inner}"


@dataclass(frozen=True)
class Curve(Schedule):
    """A named curve over the epochs done, or over the share of the run that is done.

    ``shape`` is "linear" or "cosine" from ``first`` to ``last`` over ``length``, or "steps": ``first`` times ``last``
    for every ``length`` epochs done.
    """

    name: str
    shape: str
    by: str  # "epochs" or "fraction"
    length: float
    first: float
    last: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs_steps", self.by == "fraction")
        object.__setattr__(self, "needs_epochs", self.by == "epochs")

    def __call__(self, ctx: Any) -> float:
        if self.by == "fraction" and not ctx.steps:
            raise DistilError(f"{self} needs the length of the run: pass steps= to Distiller, or use distil.fit.")
        x = float(ctx.epoch) if self.by == "epochs" else ctx.step / ctx.steps
        if self.shape == "steps":
            return float(self.first * self.last ** (x // self.length))
        done = min(1.0, x / self.length)
        if self.shape == "cosine":
            done = 0.5 * (1 - math.cos(math.pi * done))
        return self.first + (self.last - self.first) * done

    def __str__(self) -> str:
        if self.shape == "steps":
            said = {"every": self.length, "factor": self.last, "first": self.first}
            usual = {"first": 1.0}
        else:
            said = {self.by: self.length, "first": self.first, "last": self.last}
            usual = {"first": 0.0, "last": 1.0} if self.name == "ramp" else {"first": 1.0, "last": 0.0}
        shown = [f"{key}={literal(value)}" for key, value in said.items() if usual.get(key) != value]
        return f"{self.name}({', '.join(shown)})"


@dataclass(frozen=True)
class During(Schedule):
    """1 in the epochs from ``start`` up to but not including ``end`` (``None``: to the last), else 0."""

    start: int
    end: int | None
    needs_epochs: bool = True

    def __call__(self, ctx: Any) -> float:
        return float(self.takes_part(ctx.epoch))

    def takes_part(self, epoch: int) -> bool:
        return self.start <= epoch and (self.end is None or epoch < self.end)

    def __str__(self) -> str:
        said = {"start": self.start or None, "end": self.end}
        return f"during({', '.join(f'{key}={value}' for key, value in said.items() if value is not None)})"


def ramp(
    *, epochs: float | None = None, fraction: float | None = None, first: float = 0.0, last: float = 1.0
) -> Schedule:
    """Return a linear warm-up from ``first`` to ``last``.

    Args:
        epochs: moves by whole epochs: ``first`` in epoch 0, ``last`` from epoch ``epochs`` on (KD++ uses 20).
        fraction: moves smoothly with the steps, and ends after this share of the run (0 < fraction <= 1).
        first: the value at the start.
        last: the value from the end of the ramp on.

    >>> from types import SimpleNamespace
    >>> [ramp(epochs=20)(SimpleNamespace(epoch=e)) for e in (0, 10, 20, 30)]
    [0.0, 0.5, 1.0, 1.0]
    """
    by, length = _one_length("ramp", epochs, fraction)
    return Curve("ramp", "linear", by, length, first, last)


def cosine(
    *, epochs: float | None = None, fraction: float | None = None, first: float = 1.0, last: float = 0.0
) -> Schedule:
    """Return a half cosine from ``first`` to ``last``; arguments as in :func:`ramp`.

    >>> from types import SimpleNamespace
    >>> round(cosine(fraction=1.0)(SimpleNamespace(step=5, steps=10)), 3)
    0.5
    """
    by, length = _one_length("cosine", epochs, fraction)
    return Curve("cosine", "cosine", by, length, first, last)


def step_decay(*, every: int, factor: float, first: float = 1.0) -> Schedule:
    """Return ``first * factor ** (epoch // every)``.

    >>> from types import SimpleNamespace
    >>> step_decay(every=10, factor=0.5)(SimpleNamespace(epoch=25))
    0.25
    """
    if every < 1:
        raise DistilError(f"step_decay(every={every}) must be at least 1 epoch.")
    return Curve("step_decay", "steps", "epochs", every, first, factor)


def during(*, start: int = 0, end: int | None = None) -> Schedule:
    """Return 1 in the epochs ``start <= epoch < end`` and 0 elsewhere: a stage of a run, counted from 0.

    ``during(end=30) * A() + during(start=30) * B()`` trains 30 epochs on A and the rest on B; a component whose
    coefficient is 0 is not computed. Where no component of the stage before goes on, the optimizers begin anew too:
    moments of a loss that is gone would scale the steps of the next.

    >>> from types import SimpleNamespace
    >>> [during(start=1, end=3)(SimpleNamespace(epoch=e)) for e in range(4)]
    [0.0, 1.0, 1.0, 0.0]
    """
    whole = all(isinstance(epoch, int) and not isinstance(epoch, bool) for epoch in (start, 0 if end is None else end))
    if not whole or start < 0 or (end is None and start == 0) or (end is not None and end <= start):
        raise DistilError(
            f"during(start={start}, end={end}) names no stage; give whole epochs with 0 <= start < end, e.g. "
            "during(end=30), and during(start=30) for what follows."
        )
    return During(start, end)


def as_schedule(value: float | Schedule) -> Schedule:
    """Return ``value`` as a schedule; a coefficient must be a finite number."""
    if isinstance(value, Schedule):
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not abs(value) <= sys.float_info.max:  # a whole number may be larger than any float
        raise DistilError(
            f"A coefficient must be a finite number or a schedule such as ramp(epochs=20); got {str(value)[:40]}."
        )
    return Constant(float(value))


def _one_length(name: str, epochs: float | None, fraction: float | None) -> tuple[str, float]:
    if (epochs is None) == (fraction is None):
        raise DistilError(f"{name} takes either epochs= or fraction=; got epochs={epochs}, fraction={fraction}.")
    length = epochs if epochs is not None else fraction
    assert length is not None
    if length <= 0 or (fraction is not None and fraction > 1):
        raise DistilError(f"{name}: epochs must be above 0, and fraction in (0, 1]; got {length}.")
    return "epochs" if epochs is not None else "fraction", float(length)


def literal(value: Any) -> str:
    """Return a value as an expression writes it: ``4``, ``true``, ``none``, ``stages``, ``"layer1.0"``, ``[1, 2]``.

    >>> literal(0.1), literal(("a", "b.c")), literal([2.0, None])
    ('0.1', "(a, 'b.c')", '[2, none]')
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, str):
        plain = value.isidentifier() and value.lower() not in WORDS and not iskeyword(value)
        return value if plain else repr(value)
    if isinstance(value, (tuple, list)):
        inner = ", ".join(literal(member) for member in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return str(value)
