"""What a method is told about where training stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distil.data.loading import mix_seed

__all__ = ["Context"]


@dataclass
class Context:
    """Where training stands; one object for the whole run, the same for every method of a sum.

    Attributes:
        step: optimizer steps done so far.
        steps: optimizer steps of the whole run, ``None`` where the length is unknown.
        epoch: epochs done so far (0 in the first).
        epochs: epochs of the whole run, ``None`` where unknown.
        training: ``False`` while a loss is only measured; nothing may move then.
        metrics: the last validation metrics.
        terms: each term's detached value over the whole last step, all micro-batches and ranks.
        micro: index of the micro-batch within the step.
    """

    step: int = 0
    steps: int | None = None
    epoch: int = 0
    epochs: int | None = None
    training: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict)
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    micro: int = 0
    _rng: torch.Generator = field(default_factory=torch.Generator, repr=False, compare=False)
    _due: tuple[int | str | Callable[[], int], ...] | None = field(default=("start",), repr=False, compare=False)

    @property
    def rng(self) -> torch.Generator:
        """A CPU generator reseeded from (hook, seed, rank, step, micro-step) before every hook.

        A resumed run therefore draws what the uninterrupted one drew, and what one hook draws moves no other.
        """
        if self._due is not None:  # seeding costs more than most steps' bookkeeping, so it waits for a reader
            self._rng.manual_seed(mix_seed(*(part() if callable(part) else part for part in self._due)))
            self._due = None
        return self._rng

    def reseed(self, hook: str, seed: int, rank: Callable[[], int]) -> None:
        """Point ``rng`` at this (hook, seed, rank, step, micro-step); ``rank`` is asked where something is drawn."""
        self._due = (hook, seed, rank, self.step, self.micro)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rng": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _rng=torch.Generator(), _due=self._due or ("start",))
