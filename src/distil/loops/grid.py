"""What is tried for which arm: ``kd.temperature=1,2,4``, and as many trials for every arm of a comparison."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distil.data.loading import mix_seed
from distil.engine.schedule import literal
from distil.errors import DistilError, nearest
from distil.loops.settings import read_yaml, update
from distil.loops.training import Training
from distil.methods.expression import SCHEDULES

__all__ = ["Point", "parse_grid", "plan_trials", "split_outside"]

TUNABLE = ("lr", "weight_decay", "warmup", "schedule", "optimizer", "clip")
"""Settings of the training that leave the budget as it is; those that would not are refused."""


@dataclass(frozen=True)
class Point:
    """One trial of an arm: what differs from the arm as it was written, and what that makes of it."""

    values: Mapping[str, Any]
    expression: str
    training: Training

    @property
    def text(self) -> str:
        """The point in words: ``kd.temperature=2, training.lr=0.001``."""
        return ", ".join(f"{key}={literal(value)}" for key, value in self.values.items()) or "as written"


def parse_grid(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Read ``COMPONENT.ARGUMENT=VALUE,VALUE,…``; values are YAML, and commas inside brackets belong to a value.

    >>> parse_grid(["kd.temperature=1,2,4", "training.lr=1e-3,1e-2"])
    {'kd.temperature': [1, 2, 4], 'training.lr': [0.001, 0.01]}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, sign, values = (part.strip() for part in text.partition("="))
        if not sign:
            raise DistilError(f"--grid {text} cannot be read; write --grid kd.temperature=1,2,4.")
        if key in grid:
            raise DistilError(f"--grid names {key} twice; give all its values at once.")
        grid[key] = [_read(key, value) for value in split_outside(values)]
        _check(key, grid[key])
    return grid


def _read(key: str, text: str) -> Any:
    if not text:
        raise DistilError(f"--grid {key} has an empty value; write --grid {key}=1,2,4.")
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise DistilError(f"--grid {key}: the value '{text[:80]}' cannot be read as YAML{error}.") from None
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):  # YAML reads 1e-3 as text
        return float(value)
    return value


def _check(key: str, values: Sequence[Any]) -> None:
    if not re.fullmatch(r"[\w-]+\.\w+", key):
        raise DistilError(f"--grid {key} names no argument; write --grid kd.temperature=1,2,4.")
    for i, value in enumerate(values):
        if not isinstance(value, (int, float, str, list)):
            raise DistilError(f"--grid {key}: {value!r} is no value to try; give numbers, words or lists.")
        if list(values).index(value) != i:
            raise DistilError(f"--grid {key} holds {literal(value)} twice; give every value once.")
    if len(values) < 2:
        raise DistilError(f"--grid {key} has one value, which leaves nothing to choose; give at least two.")


def split_outside(text: str) -> list[str]:
    """Split at commas outside brackets, parentheses and quotes.

    >>> split_outside("1, [2,3], 'a,b'")
    ['1', '[2,3]', "'a,b'"]
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        quote = "" if letter == quote else quote or (letter if letter in "'\"" else "")
        depth += (not quote) * ((letter in "([{") - (letter in ")]}"))
        if letter == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def plan_trials(
    grid: Mapping[str, Sequence[Any]], arms: Mapping[str, str], training: Training, *, limit: int | None = None,
    seed: int = 0,
) -> dict[str, list[Point]]:  # fmt: skip
    """Return the trials of every arm, the same number for each.

    An arm tries every combination of the values that concern it: arguments of its own components, and settings of the
    training, which concern all. Arms with fewer combinations than the richest one (the student alone has no
    temperature) get further trials at other learning rates around the one that was set, so that no arm is tuned more
    than another.

    Args:
        grid: as :func:`parse_grid` gives it.
        arms: expressions by name.
        training: how arms are trained; where points begin.
        limit: at most so many trials for an arm, drawn by ``seed`` where there are more.
        seed: of that draw.

    Raises:
        DistilError: a component or setting that no arm has, or one that would make budgets unequal.
    """
    _check_keys(grid, arms)
    points = {name: _combined(grid, text, training) for name, text in arms.items()}
    if limit is not None:
        for name, found in points.items():
            if len(found) > limit:
                points[name] = random.Random(mix_seed("grid", name, seed)).sample(found, limit)
    most = max(len(found) for found in points.values())
    return {name: _filled(found, most) for name, found in points.items()}


def _check_keys(grid: Mapping[str, Sequence[Any]], arms: Mapping[str, str]) -> None:
    known = sorted({call.name for text in arms.values() for call in _calls(text)})
    for key, values in grid.items():
        _check(key, values)
        head, _, argument = key.partition(".")
        if head == "training":
            if argument not in TUNABLE:
                equal = argument in Training.__dataclass_fields__
                why = "is the same for every arm" if equal else "does not exist"
                raise DistilError(f"--grid {key}: training.{argument} {why}; {nearest(argument, TUNABLE)}")
        elif _plain(head) not in known:
            raise DistilError(
                f"--grid {key}: no method here has the component '{head}'; {nearest(head, [*known, 'training'])}"
            )


def _combined(grid: Mapping[str, Sequence[Any]], text: str, training: Training) -> list[Point]:
    names = {call.name for call in _calls(text)}
    mine = {key: values for key, values in grid.items() if _plain(key.partition(".")[0]) in {*names, "training"}}
    return [_point(text, training, dict(zip(mine, values))) for values in itertools.product(*mine.values())]


def _point(text: str, training: Training, values: Mapping[str, Any]) -> Point:
    for key, value in values.items():
        head, _, argument = key.partition(".")
        if head == "training":
            training = update(training, {argument: value}, "training")
        else:
            text = with_argument(text, head, argument, value)
    return Point(values, text, training)


def _filled(points: list[Point], count: int) -> list[Point]:
    """Add trials of the first point at learning rates around its own until there are ``count``."""
    first, made = points[0], list(points)
    taken = {point.training.lr for point in points}
    half, reach = 1, count - len(points)
    while len(made) < count:
        # Evenly in the logarithm, up to half a decade each way for one or two, a decade for more.
        steps = max(1, -(-reach // 2))
        factor = 10 ** (min(1.0, steps / 2) * half / steps)
        for rate in (first.training.lr / factor, first.training.lr * factor):
            rate = float(f"{rate:.3g}")
            if len(made) < count and rate not in taken:
                taken.add(rate)
                made.append(_point(first.expression, first.training, {"training.lr": rate}))
                made[-1] = Point({**first.values, "training.lr": rate}, made[-1].expression, made[-1].training)
        half += 1
    return made


# --- expressions, as text -----------------------------------------------------------------------------------------


_WORD = re.compile(r"(?<![\w.])[A-Za-z_][\w.-]*")


@dataclass(frozen=True)
class _Call:
    """Where a component stands in an expression: its name, and its arguments' place (empty where it has none)."""

    name: str
    arguments: tuple[int, int]
    bare: bool


def with_argument(text: str, component: str, argument: str, value: Any) -> str:
    """Return the expression with an argument of one component set.

    >>> with_argument("0.1*supervised + 0.9*kd(temperature=4)", "kd", "temperature", 2)
    '0.1*supervised + 0.9*kd(temperature=2)'
    >>> with_argument("pld", "pld", "teacher_temperature", 4)
    'pld(teacher_temperature=4)'
    """
    found = [call for call in _calls(text) if call.name == _plain(component)]
    if len(found) != 1:
        raise DistilError(
            f"'{component}' stands {len(found)} times in '{text}', so {component}.{argument} could mean each; tell "
            "them apart with name= and use those names."
        )
    begin, end = found[0].arguments
    inside = text[begin:end]
    kept = [part for part in split_outside(inside) if part and part.partition("=")[0].strip() != argument]
    joined = ", ".join([*kept, f"{argument}={literal(value)}"])
    return text[:begin] + (f"({joined})" if found[0].bare else joined) + text[end:]


def _calls(text: str) -> list[_Call]:
    """Find the components of an expression: words that stand by themselves, with the parentheses that follow."""
    found, place = [], 0
    while match := _WORD.search(text, place):
        begin = place = match.end()
        if text[begin:].lstrip().startswith("("):
            begin = text.index("(", begin) + 1
            place = end = _closing(text, begin)
            given = dict(part.split("=", 1) for part in split_outside(text[begin:end]) if "=" in part)
            given = {key.strip(): value.strip() for key, value in given.items()}
            found.append(_Call(_plain(given.get("name", match[0]).strip("'\"")), (begin, end), bare=False))
        else:
            found.append(_Call(_plain(match[0]), (begin, begin), bare=True))
    return [call for call in found if call.name not in map(_plain, SCHEDULES)]


def _closing(text: str, begin: int) -> int:
    depth, quote = 1, ""
    for place in range(begin, len(text)):
        letter = text[place]
        quote = "" if letter == quote else quote or (letter if letter in "'\"" else "")
        depth += (not quote) * ((letter == "(") - (letter == ")"))
        if depth == 0:
            return place
    return len(text)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")
