"""A learning rate as a table: these epochs, that rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distil.errors import DistilError

__all__ = ["Regime"]


@dataclass(frozen=True)
class Regime:
    """Learning rates by epoch, rows of (first epoch, last epoch, rate); both ends belong to a row.

    For ``fit``: ``lr=regime.base`` and ``schedule=regime.schedule(epochs)``, which keeps what other groups' own rates
    are relative to it.

    Args:
        rows: neighbours in rising order, the first from epoch 0 or 1 on. Epochs are counted from there.

    Raises:
        DistilError: no row, rows with gaps or overlaps, a rate that is not above 0.

    >>> regime = Regime(((0, 99, 0.01), (100, 179, 0.001)))
    >>> regime(99), regime(100), regime.schedule(180)(0.7)
    (0.01, 0.001, 0.1)

    Differs from official code (MEAL V2), which takes one flat list: ``Regime.flat`` reads it.
    """

    rows: tuple[tuple[int, int, float], ...]

    def __post_init__(self) -> None:
        if not self.rows or self.rows[0][0] not in (0, 1):
            raise DistilError(
                f"Regime({self.rows}) must have rows (first epoch, last epoch, rate) from epoch 0 or 1 on."
            )
        for first, last, rate in self.rows:
            if last < first or not 0 < rate < math.inf:
                raise DistilError(
                    f"Regime: epochs {first} to {last} at {rate} are impossible; expected rising epochs and a finite "
                    "rate above 0."
                )
        for (_, last, _), (first, _, _) in zip(self.rows, self.rows[1:]):
            if first != last + 1:
                raise DistilError(
                    f"Regime: a row ends with epoch {last} and the next begins with {first}; make it {last + 1}."
                )

    @classmethod
    def flat(cls, values: Sequence[float]) -> Regime:
        """Return the regime of a flat list: first, last, rate, first, last, rate, …

        >>> Regime.flat([1, 9, 0.1, 10, 20, 0.01])(10)
        0.01
        """
        if len(values) % 3:
            raise DistilError(
                f"Regime.flat: {len(values)} values make no rows of three (first epoch, last epoch, rate)."
            )
        return cls(tuple((int(a), int(b), float(r)) for a, b, r in zip(values[::3], values[1::3], values[2::3])))

    @property
    def base(self) -> float:
        """The rate of the first row."""
        return self.rows[0][2]

    def __call__(self, epoch: int) -> float:
        """Return the rate of an epoch."""
        for first, last, rate in self.rows:
            if first <= epoch <= last:
                return rate
        raise DistilError(
            f"Regime: epoch {epoch} lies outside {self.rows[0][0]} to {self.rows[-1][1]}; add a row for it."
        )

    def schedule(self, epochs: int) -> Callable[[float], float]:
        """Return the rate over the base rate as a function of the share of a run of ``epochs`` that is done."""
        start, last = self.rows[0][0], self.rows[-1][1]
        if not 1 <= epochs <= last - start + 1:
            raise DistilError(f"Regime: a run of {epochs} epochs leaves the table, which has {last - start + 1}.")

        def factor(done: float) -> float:
            return self(start + min(int(done * epochs + 1e-9), epochs - 1)) / self.base

        return factor
