"""Tuning as a report shows it: every trial of every arm, what was chosen on validation, and what it cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distil.errors import Diverged
from distil.loops.grid import Point
from distil.loops.lab import Lab, Outcome
from distil.tasks import Task

__all__ = ["Tuned", "score_text", "tune_arms", "tuning_report", "tuning_seed", "tuning_words"]

FIRST_SEED = 1000


@dataclass(frozen=True)
class Tuned:
    """The trials of one arm, each with its best validation score, and the place of the one that was chosen."""

    points: Sequence[Point]
    scores: Sequence[float]
    chosen: int
    seconds: float

    @property
    def point(self) -> Point:
        """What was chosen."""
        return self.points[self.chosen]


def tuning_seed(seeds: Sequence[int]) -> int:
    """Return the seed of all trials: none of those that are shown.

    >>> tuning_seed([0, 1, 2]), tuning_seed([1000])
    (1000, 1001)
    """
    return next(seed for seed in itertools.count(FIRST_SEED) if seed not in seeds)


def tune_arms(
    lab: Lab,
    arms: Mapping[str, Sequence[Point]],
    run: Callable[[str, Point], Callable[[int], Outcome]],
    *,
    seed: int,
    task: Task,
    code: Callable[[str], str] | None = None,
    **inputs: Any,
) -> dict[str, Tuned]:
    """Run every trial of every arm once under ``seed`` and choose each arm's by its best validation score.

    Args:
        arms: the trials by the arm's name, the same number for each; of equal scores the first is chosen.
        run: from an arm's name and a trial to ``seed → Outcome``.
        code: from a trial's expression to the hash of the code it depends on, where that is not all of it.
        inputs: what all runs depend on; part of the key of stored ones.

    A trial that diverges (NaN, infinity) is the worst there is, and is shown so; its score is NaN.

    Raises:
        Diverged: all trials of an arm.
    """
    chosen: dict[str, Tuned] = {}
    for name, points in arms.items():
        seconds = 0.0
        scores: list[float] = []
        last: Diverged | None = None
        for point in points:
            lab.progress.begin(f"tuning {name}: {point.text}")
            try:
                scores += lab.trials(
                    name, lambda _, name=name, point=point: run(name, point), [point.values], seed=seed,  # type: ignore[misc]
                    metric=task.metric, higher_is_better=task.higher_is_better, made=point.expression,
                    code=code(point.expression) if code else "", **inputs,
                )  # fmt: skip
            except Diverged as error:
                lab.progress.say(f"{name}, {point.text}: {error}")
                scores.append(math.nan)
                last = error
                continue
            seconds += lab.costs[f"arm-{name}-tune-{seed}"]
        finite = [score for score in scores if not math.isnan(score)]
        if not finite:
            raise Diverged(f"Every trial of '{name}' diverged; the last said: {last}")
        best = scores.index((max if task.higher_is_better else min)(finite))
        chosen[name] = Tuned(points, scores, best, seconds)
    return chosen


def score_text(score: float, form: str) -> str:
    """Return a trial's score as a reader sees it.

    >>> score_text(0.5, ".1f"), score_text(float("nan"), ".1f")
    ('0.5', 'diverged')
    """
    return "diverged" if math.isnan(score) else format(score, form)


def _finite(score: float) -> float | None:
    return None if math.isnan(score) else score


def tuning_report(chosen: Mapping[str, Tuned], *, seed: int, task: Task) -> dict[str, Any]:
    """Return all trials as plain values, for ``report.json``."""
    return {
        "seed": seed,
        "metric": task.metric,
        "scored_on": "validation",
        "trials": max(len(one.points) for one in chosen.values()),
        "arms": {
            name: {
                "chosen": dict(one.point.values),
                "seconds": one.seconds,
                "tried": [
                    {"point": dict(point.values), "expression": point.expression, "score": _finite(score)}
                    for point, score in zip(one.points, one.scores, strict=True)
                ],
            }
            for name, one in chosen.items()
        },
    }


def tuning_words(chosen: Mapping[str, Tuned], *, seed: int, task: Task) -> dict[str, str]:
    """Return the same for a reader: one line for the rule, and one for each arm."""
    trials = max(len(one.points) for one in chosen.values())
    seconds = sum(one.seconds for one in chosen.values())
    lines = {
        "Tuning": f"{trials} trials for every arm, each trained once with seed {seed} and judged by its best "
        f"validation {task.metric}; {seconds:.0f} s in all, part of no arm's own cost. Arms with fewer values to try "
        "were tried at other learning rates"
    }
    for name, one in chosen.items():
        tried = "; ".join(f"{p.text}: {score_text(s, '.4g')}" for p, s in zip(one.points, one.scores, strict=True))
        lines[f"Tuning of {name}"] = f"{one.point.text} was chosen ({tried})"
    return lines
