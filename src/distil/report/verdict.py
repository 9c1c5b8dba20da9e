"""Whether one arm beat another: paired differences over seeds, their t-interval, and the sentence that says so.

Two arms that share a seed share the initial weights and the order of the data, so the differences seed by seed carry
less noise than the values. Everything here works on those differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distil.errors import DistilError
from distil.report.text import decimals_for, fixed, signed, with_unit

__all__ = ["HELPED", "HURT", "LEAST_SEEDS", "NONE", "Interval", "Verdict", "bonferroni", "paired_interval"]
__all__ += ["sentence", "verdict", "welch_interval"]

Outcome = Literal["helped", "no difference seen", "hurt"]
HELPED: Outcome = "helped"
NONE: Outcome = "no difference seen"
HURT: Outcome = "hurt"

#: An interval over two seeds has one degree of freedom (a factor of 12.7); below three seeds nothing is claimed.
LEAST_SEEDS = 3
#: Differences this far below the values they come from are rounding of the arithmetic, not a difference.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; the bounds are None where one value cannot tell.

    >>> Interval(4.0, 3.0, 5.0, 5).excludes_zero
    True
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    level: float = 0.95

    @property
    def half(self) -> float | None:
        """Half of the width, None where the bounds are unknown."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether both bounds lie on the same side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Verdict:
    """What the paired differences of two arms say.

    Args:
        outcome: ``"helped"``, ``"no difference seen"`` or ``"hurt"``.
        difference: arm minus other arm, with its interval.
        arm: mean of the arm.
        against: mean of the other arm.
        per_seed: the differences, one per seed.
        higher_is_better: the metric's good direction.
    """

    outcome: Outcome
    difference: Interval
    arm: float
    against: float
    per_seed: tuple[float, ...]
    higher_is_better: bool

    @property
    def too_few(self) -> bool:
        """Whether there are fewer seeds than a claim needs."""
        return self.difference.n < LEAST_SEEDS


def _finite(values: Sequence[float | None], what: str, seeds: Sequence[int] | None = None) -> list[float]:
    names = [f"position {i}" for i in range(len(values))] if seeds is None else [f"seed {seed}" for seed in seeds]
    for name, value in zip(names, values):
        if value is None or not math.isfinite(value):
            raise DistilError(f"{what} is {value} for {name}; a verdict needs a finite value for every seed.")
    return [float(value) for value in values if value is not None]


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise DistilError(f"level={level!r} is not between 0 and 1; use 0.95 for a 95 % interval.")
    return float(level)


def paired_interval(differences: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of paired differences with its t-interval.

    With n differences of mean m and standard deviation s (n - 1 in the denominator) the interval is
    ``m ± t(1 - (1 - level) / 2, n - 1) · s / √n``. It holds 0 exactly when a paired t-test has p ≥ 1 - level.

    Args:
        differences: one number per seed, any order.
        level: coverage, between 0 and 1.

    Returns:
        The interval; bounds are None for a single difference, and equal to the mean where all differences are equal.

    Raises:
        DistilError: no difference, one that is not finite, or a level outside (0, 1).

    >>> paired_interval([1.0, 2.0, 3.0]).mean
    2.0
    >>> paired_interval([0.5])
    Interval(mean=0.5, low=None, high=None, n=1, level=0.95)
    """
    level = _level(level)
    values = _finite(differences, "a difference")
    n = len(values)
    if n == 0:
        raise DistilError("there are no differences; an interval needs at least one seed.")
    if all(value == values[0] for value in values):
        mean = values[0]
        return Interval(mean, None, None, n, level) if n == 1 else Interval(mean, mean, mean, n, level)
    from scipy.special import stdtrit

    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, level)


def welch_interval(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> Interval:
    """Return the difference of the means of two independent groups with Welch's t-interval.

    With sizes n, m and variances s², r² (n - 1 and m - 1 in the denominator) the interval is
    ``d ± t(1 - (1 - level) / 2, ν) · √(s²/n + r²/m)``, ν from Welch and Satterthwaite.

    Args:
        first, second: the values of the groups; their order and number are free.
        level: coverage, between 0 and 1.

    Returns:
        The interval of first minus second, ``n`` being the size of the smaller group; bounds are None where a group
        holds a single value, and equal to the mean where neither group varies.

    Raises:
        DistilError: a group is empty, a value is not finite, or a level is outside (0, 1).

    >>> welch_interval([3.0, 4.0, 5.0], [1.0, 2.0, 3.0]).mean
    2.0
    """
    level = _level(level)
    groups = [_finite(first, "a value of the first group"), _finite(second, "a value of the second group")]
    sizes = [len(group) for group in groups]
    if not all(sizes):
        raise DistilError("a group is empty; a difference of means needs at least one value in each.")
    means = [math.fsum(group) / len(group) for group in groups]
    gap, n = means[0] - means[1], min(sizes)
    if n == 1:
        return Interval(gap, None, None, n, level)
    parts = [
        0.0 if len(set(group)) == 1 else math.fsum((v - mean) ** 2 for v in group) / (size - 1) / size
        for group, mean, size in zip(groups, means, sizes)
    ]
    if sum(parts) == 0:
        return Interval(gap, gap, gap, n, level)
    from scipy.special import stdtrit

    freedom = sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes))
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(sum(parts))
    return Interval(gap, gap - half, gap + half, n, level)


def bonferroni(level: float, comparisons: int) -> float:
    """Return the level of each interval when ``comparisons`` of them are to hold together with coverage ``level``.

    Pass it as ``level`` to `verdict` where many arms meet the same rival: the chance of one false claim among all of
    them stays below ``1 - level``.

    >>> round(bonferroni(0.95, 5), 4)
    0.99
    """
    if comparisons < 1:
        raise DistilError(f"comparisons={comparisons} is not a count; give the number of arms that are compared.")
    return 1 - (1 - _level(level)) / comparisons


def verdict(
    arm_values: Sequence[float | None],
    against_values: Sequence[float | None],
    *,
    higher_is_better: bool,
    level: float = 0.95,
    seeds: Sequence[int] | None = None,
) -> Verdict:
    """Say whether an arm is better than another one, seed by seed.

    Args:
        arm_values: the metric of the arm, one value per seed.
        against_values: the metric of the other arm, same seeds in the same order.
        higher_is_better: the metric's good direction.
        level: coverage of the interval; see `bonferroni` for many comparisons.
        seeds: the seeds' numbers, for messages.

    Returns:
        ``helped`` or ``hurt`` if the interval of the paired differences excludes 0 in that direction, else
        ``no difference seen``; always the latter below three seeds.

    Raises:
        DistilError: the lengths differ, there are no seeds, or a value is missing or not finite (the seed is named).

    >>> verdict([83.0, 83.5, 82.9], [78.0, 78.9, 78.2], higher_is_better=True).outcome
    'helped'
    """
    if len(arm_values) != len(against_values):
        raise DistilError(
            f"the arm has {len(arm_values)} values and the other arm {len(against_values)}; paired differences need "
            "the same seeds in both."
        )
    if seeds is not None and len(seeds) != len(arm_values):
        raise DistilError(f"there are {len(seeds)} seeds for {len(arm_values)} values; give one seed per value.")
    left = _finite(arm_values, "the arm's value", seeds)
    right = _finite(against_values, "the other arm's value", seeds)
    differences = tuple(0.0 if abs(a - b) <= _ROUNDING * max(abs(a), abs(b)) else a - b for a, b in zip(left, right))
    difference = paired_interval(differences, level)
    outcome: Outcome = NONE
    if difference.n >= LEAST_SEEDS and difference.excludes_zero:
        outcome = HELPED if (difference.mean > 0) == higher_is_better else HURT
    n = difference.n
    return Verdict(outcome, difference, math.fsum(left) / n, math.fsum(right) / n, differences, higher_is_better)


def sentence(
    verdict: Verdict,
    *,
    metric: str,
    unit: str = "",
    subject: str = "distillation",
    against: str = "the student alone",
) -> str:
    """Write a verdict in plain words.

    Args:
        verdict: what `verdict` returned.
        metric: the metric's name.
        unit: its unit; differences of a percentage are points.
        subject: what is judged, as it reads inside a sentence.
        against: what it is compared with, as it reads inside a sentence.

    >>> values = verdict([83.0, 83.5, 82.9], [78.0, 78.9, 78.2], higher_is_better=True)
    >>> for part in sentence(values, metric="accuracy", unit="%").split(", "):
    ...     print(part)
    Distillation helped: accuracy 83.1 % against 78.4 % for the student alone
    +4.8 points (95 % interval +4.2 to +5.3
    3 seeds paired).
    """
    gap = verdict.difference
    decimals = decimals_for(gap.mean, gap.low, gap.high, half=gap.half, unit=unit)
    ours = with_unit(fixed(verdict.arm, decimals), unit)
    theirs = with_unit(fixed(verdict.against, decimals), unit)
    moved = with_unit(signed(gap.mean, decimals), "points" if unit == "%" else unit)
    direction = "" if verdict.higher_is_better else "lower is better; "
    if verdict.too_few:
        seeds = "1 seed" if gap.n == 1 else f"{gap.n} seeds paired"
        return _capital(
            f"too few seeds to say whether {subject} helped: {metric} {ours} against {theirs} for {against}, {moved} "
            f"({direction}{seeds}, at least {LEAST_SEEDS} are needed)."
        )
    span = f"{signed(gap.low, decimals)} to {signed(gap.high, decimals)}"
    proof = f"({direction}{gap.level * 100:.4g} % interval {span}, {gap.n} seeds paired)"
    if verdict.outcome == NONE:
        return _capital(
            f"no difference seen between {subject} and {against}: {metric} {ours} against {theirs}, {moved} {proof}."
        )
    return _capital(f"{subject} {verdict.outcome}: {metric} {ours} against {theirs} for {against}, {moved} {proof}.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
