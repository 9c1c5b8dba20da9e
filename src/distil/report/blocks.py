"""Many arms over the same seeds: every difference with an interval that holds together with all others.

Seeds are blocks: ``value = mean + arm + seed + rest``. What is left after arms and seeds gives one spread for all
differences, so three seeds of twenty arms tell as much of the noise as forty runs can. It takes for granted that arms
are about equally noisy. An arm that is clearly noisier than the rest is judged by the pair's own differences instead,
which three seeds hardly ever decide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distil.errors import DistilError
from distil.report.verdict import HELPED, HURT, LEAST_SEEDS, NONE, Interval, Verdict, bonferroni, paired_interval

__all__ = ["Blocks"]


@dataclass(frozen=True)
class Blocks:
    """The values of arms over seeds, one list for each arm, seeds in the same order.

    >>> blocks = Blocks({"alone": [70.0, 71.0, 70.4], "kd": [74.0, 75.2, 74.3], "at": [70.1, 71.0, 70.3]})
    >>> blocks.difference("kd", "alone", comparisons=2).excludes_zero
    True
    >>> blocks.difference("at", "alone", comparisons=2).excludes_zero
    False
    """

    values: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        lengths = {len(row) for row in self.values.values()}
        finite = all(math.isfinite(value) for row in self.values.values() for value in row)
        if len(self.values) < 2 or len(lengths) != 1 or not finite:
            raise DistilError(
                f"Blocks need two arms at least, each with a finite value for every seed; got {len(self.values)} arms "
                f"with {sorted(lengths)} values."
            )

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(next(iter(self.values.values())))

    @property
    def freedom(self) -> int:
        """The degrees of freedom of what is left: (arms − 1)(seeds − 1)."""
        return (len(self.values) - 1) * (self.seeds - 1)

    @property
    def deviation(self) -> float:
        """The standard deviation of what is left after arm and seed, 0 where nothing is."""
        if not self.freedom:
            return math.nan
        return math.sqrt(math.fsum(v * v for row in self._left().values() for v in row) / self.freedom)

    def _left(self) -> dict[str, list[float]]:
        """What arms and seeds leave of every value."""
        rows = [list(row) for row in self.values.values()]
        whole = math.fsum(map(math.fsum, rows)) / (len(rows) * self.seeds)
        arms = [math.fsum(row) / self.seeds - whole for row in rows]
        seeds = [math.fsum(column) / len(rows) - whole for column in zip(*rows)]
        return {name: [v - whole - a - s for v, s in zip(row, seeds)] for name, row, a in zip(self.values, rows, arms)}

    @property
    def uneven(self) -> frozenset[str]:
        """The arms that are noisier than the others together: an F test at 5 % for all arms together."""
        left, count = self._left(), len(self.values)
        if count < 4 or self.seeds < 2:
            return frozenset()
        from scipy.special import fdtri

        squares = {name: math.fsum(v * v for v in row) for name, row in left.items()}
        whole, found = math.fsum(squares.values()), set()
        for name, own in squares.items():
            # An arm's share of what is left has n − 1 degrees of freedom, scaled by (a − 1) / a.
            mine = own * count / ((count - 1) * (self.seeds - 1))
            others = (whole - own) / ((count - 2) * (self.seeds - 1))
            limit = float(fdtri(self.seeds - 1, (count - 2) * (self.seeds - 1), 1 - 0.05 / count))
            if mine > limit * others:
                found.add(name)
        return frozenset(found)

    def difference(self, arm: str, against: str, *, comparisons: int = 1, level: float = 0.95) -> Interval:
        """Return arm minus other arm with an interval that holds together with ``comparisons`` of its kind.

        ``d ± t(1 − (1 − level) / (2 m), (a − 1)(n − 1)) · s √(2 / n)`` for ``a`` arms, ``n`` seeds, ``m`` comparisons
        (Bonferroni). Where one of the two is :attr:`uneven`, the paired t-interval of their own differences, at the
        same level. Bounds are None for a single seed.
        """
        ours, theirs = self.values[arm], self.values[against]
        mean = math.fsum(a - b for a, b in zip(ours, theirs)) / self.seeds
        if not self.freedom:
            return Interval(mean, None, None, self.seeds, level)
        from scipy.special import stdtrit

        each = bonferroni(level, comparisons)
        if {arm, against} & self.uneven:
            return paired_interval([a - b for a, b in zip(ours, theirs)], each)
        half = float(stdtrit(self.freedom, (1 + each) / 2)) * self.deviation * math.sqrt(2 / self.seeds)
        return Interval(mean, mean - half, mean + half, self.seeds, each)

    def verdict(
        self, arm: str, against: str, *, comparisons: int = 1, level: float = 0.95, higher_is_better: bool = True
    ) -> Verdict:
        """Return what :meth:`difference` says, as a verdict; "no difference seen" below three seeds."""
        gap = self.difference(arm, against, comparisons=comparisons, level=level)
        outcome = NONE
        if self.seeds >= LEAST_SEEDS and gap.excludes_zero:
            outcome = HELPED if (gap.mean > 0) == higher_is_better else HURT
        means = [math.fsum(self.values[name]) / self.seeds for name in (arm, against)]
        apart = tuple(a - b for a, b in zip(self.values[arm], self.values[against]))
        return Verdict(outcome, gap, means[0], means[1], apart, higher_is_better)
