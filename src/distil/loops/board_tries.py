"""The two tries of a leaderboard's entry: its published sum, and one in which labels and method pull equally."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distil.engine.context import Context
from distil.errors import DistilError
from distil.loops.balance import TASK, Balance, balanced
from distil.loops.grid import Point
from distil.loops.images import Pair
from distil.loops.lab import Lab, code_for
from distil.loops.training import Training, build_model
from distil.methods.expression import parse

__all__ = ["ALONE", "KD", "Entry", "Kept", "Seat", "kept_from", "seats_of", "written_in"]

ALONE, KD = "alone", "kd"
STEP = 10**0.5
"""How much lower the learning rate of the second try is where a method has no weight beside the labels."""

Kept = Literal["", "alone", "none", "held", "apart"]


@dataclass(frozen=True)
class Entry:
    """A method on the board: its published sum, and what a reader must know of it.

    ``parted`` is the same sum with the labels as a component of their own, for a method that holds them: so they can be
    weighed against the rest. Of a method that mixes labels it only stands for the sum while that is measured, plain
    cross-entropy for its labels; ``weighted`` is then the sum of the second try, ``{weight}`` the rest's coefficient.
    """

    name: str
    expression: str
    label: str
    note: str = ""
    parted: str = ""
    weighted: str = ""


@dataclass(frozen=True)
class Seat:
    """An entry that fits these models: its two tries, and what was measured for the second.

    ``balance`` is ``None`` where the share it holds would not be the method's own (:func:`kept_from`).
    """

    entry: Entry
    points: tuple[Point, Point]
    balance: Balance | None


def kept_from(expression: str, *, steps: int, epochs: int) -> Kept:
    """Say what keeps labels and the rest of a sum from being weighed against each other; "" where nothing does.

    "alone": there are only labels. "none": there are none. "held": a method reads them, and no component holds them
    apart. "apart": the two never meet in one step, so that no step has a share of each.

    >>> [kept_from(text, steps=20, epochs=2) for text in ("supervised + at", "supervised", "simkd", "pld")]
    ['', 'alone', 'none', 'held']
    >>> kept_from("during(end=1)*fsp + during(start=1)*supervised", steps=20, epochs=2)
    'apart'
    """
    components = list(parse(expression))
    labels = [c.coefficient for c in components if c.name == TASK]
    rest = [c for c in components if c.name != TASK]
    if not rest:
        return "alone"
    if not labels:
        return "held" if any(c.method.labels for c in rest) else "none"
    places = (Context(step=s, steps=steps, epoch=s * epochs // steps, epochs=epochs) for s in range(steps))
    meet = any(any(c(at) for c in labels) and any(c.coefficient(at) for c in rest) for at in places)
    return "" if meet else "apart"


def seats_of(
    lab: Lab, entries: Sequence[Entry], pair: Pair, training: Training, seed: int
) -> tuple[dict[str, Seat], dict[str, str]]:
    """Return the entries that fit these models with their tries, and why others do not."""
    lower = replace(training, lr=float(f"{training.lr / STEP:.3g}"))
    alone = Entry(ALONE, TASK, "Student alone")
    models = (build_model(pair.chosen.student, pair.bundle, seed=0), pair.teacher.module)
    seats = {ALONE: Seat(alone, (_point(TASK, training, "as published"), _point(TASK, lower, "rate")), None)}
    refused = {}
    steps = training.epochs * -(-len(pair.bundle.train) // (training.batch_size * training.accumulate))
    for entry in entries:
        weighed = entry.parted or entry.expression

        def measure(entry: Entry = entry, weighed: str = weighed) -> dict[str, Any]:
            lab.progress.begin(f"weighing {entry.name}")
            return asdict(balanced(weighed, pair.chosen.student, pair.teacher.module, pair.bundle, training, seed=seed))

        try:
            stage = lab.stage(
                f"balance-{entry.name}", measure, code=code_for(entry.expression, *models), by=written_in(balanced),
                method=weighed,
                student=pair.chosen.student, teacher=pair.teacher.fingerprint, data=pair.bundle.fingerprint,
                training=training, seed=seed,
            )  # fmt: skip
        except DistilError as error:
            refused[entry.name] = str(error)
            continue
        balance = Balance(**stage.value)
        kept = kept_from(weighed, steps=steps, epochs=training.epochs)
        second = (
            _point(entry.expression, lower, "rate") if kept else _point(_weighted(entry, balance), training, "balanced")
        )
        seats[entry.name] = Seat(
            entry,
            (_point(entry.expression, training, "as published"), second),
            balance if kept in ("", "none") else None,
        )
    return seats, refused


def _weighted(entry: Entry, balance: Balance) -> str:
    """Return the balanced sum, written as the entry asks."""
    if not entry.weighted:
        return balance.expression
    (rest,) = (component for component in parse(balance.expression) if component.name != TASK)
    return parse(entry.weighted.format(weight=f"{rest.coefficient.constant:.4g}")).expression


def _point(expression: str, training: Training, kind: str) -> Point:
    values: dict[str, Any] = {"weights": kind, "lr": training.lr} if kind == "rate" else {"weights": kind}
    return Point(values, expression, training)


def written_in(function: Callable[..., Any]) -> str:
    """The hash of the file that a measurement is written in, part of the key of what it gave."""
    return hashlib.sha256(Path(inspect.getsourcefile(function) or "").read_bytes()).hexdigest()[:16]
