"""The optimizer step as a window of micro-batches: what its terms count, what they came to, and when it is over."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distil.engine.method import Batch, Component, Sum
from distil.errors import DistilError
from distil.functional.reduction import Term

__all__ = [
    "Count",
    "Counted",
    "Totals",
    "Window",
    "counts_of",
    "mean_of_ranks",
    "rank",
    "reduced",
    "summed",
    "world_size",
]

Count = float | Tensor
TINY = torch.finfo(torch.float32).tiny
DISTRIBUTED = dist.is_available()  # a property of the build


@dataclass(frozen=True)
class Totals:
    """What each term counts over a window of micro-batches and all ranks, and the batches that made it."""

    counts: Mapping[str, Count]
    world: int
    raws: Sequence[Any] = field(repr=False)
    batches: Sequence[Batch] = field(repr=False)

    @property
    def micro(self) -> int:
        """The number of micro-batches of the window on this rank."""
        return len(self.raws)

    def batch(self, raw: Any, position: int) -> Batch:
        """Return the ready batch made of ``raw``; of the next in order where ``raw`` is ``None``."""
        if raw is None and position < self.micro:
            return self.batches[position]
        for known, ready in zip(self.raws, self.batches, strict=True):
            if raw is known and raw is not None:
                return ready
        raise DistilError(
            f"This batch is not one of the {self.micro} that totals() was given; pass the very same objects, or call "
            "distiller(totals=totals) once for each, in order."
        )


def counts_of(component: Component, batch: Batch) -> dict[str, Count]:
    """Return what every term of ``component`` counts on ``batch``, by its full name."""
    return {component.term(key): _number(count) for key, count in component.method.counts(batch).items()}


def _number(count: Count) -> Count:
    """Return a count that already is on the host as a number, which is cheaper to divide by."""
    return count.item() if isinstance(count, Tensor) and count.device.type == "cpu" else count


def summed(method: Sum, batches: Sequence[Batch], device: torch.device) -> dict[str, Count]:
    """Add the counts of all terms over micro-batches and over ranks."""
    totals: dict[str, Count] = {}
    for batch in batches:
        for component in method:
            for name, count in counts_of(component, batch).items():
                totals[name] = totals[name] + count if name in totals else count
    if world_size() > 1 and totals:
        names = sorted(totals)
        packed = torch.stack([torch.as_tensor(totals[name], dtype=torch.float32, device=device) for name in names])
        dist.all_reduce(packed)
        totals = dict(zip(names, packed.unbind()))
    return totals


def reduced(term: Term, count: Count | None, share: int) -> Tensor:
    """Return a term's part of the step's value: its sum over the total; where coupled, its share of a mean."""
    if term.coupled or count is None:
        value = term.mean()
        return value / share if share != 1 else value
    if term.weights is None and count and count == term.values.numel():
        return term.values.mean()
    return term.sum() / (count.clamp(min=TINY) if isinstance(count, Tensor) else max(count, TINY))


class Window:
    """What has happened since the last optimizer step."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.joint = False  # totals were given: sums are over the step, not per micro-batch
        self._counts: dict[str, float] = {}
        self._told = False

    def add(self, values: Mapping[str, Tensor], *, joint: bool) -> None:
        """Add one micro-batch's terms."""
        self.joint = joint
        sums = self.sums
        for name, value in values.items():
            sums[name] = sums[name] + value if name in sums else value

    def close(self, calls: int) -> dict[str, Tensor]:
        """Return each term's value over the whole step and all ranks, and begin anew."""
        terms, self.sums = self.sums, {}
        if not self.joint and calls > 1:
            terms = {name: value / calls for name, value in terms.items()}
        if world_size() > 1 and terms:
            names = sorted(terms)
            packed = torch.stack([terms[name] for name in names])
            dist.all_reduce(packed)
            terms = dict(zip(names, (packed if self.joint else packed / world_size()).unbind()))
        return terms

    def compare(self, counts: Mapping[str, Count], micro: int) -> None:
        """Say once where micro-batches without totals count unequal numbers: their mean is then not the step's."""
        if self._told:
            return
        host = {name: count for name, count in counts.items() if not isinstance(count, Tensor)}
        if micro == 0:
            self._counts = host
        elif any(abs(count - self._counts.get(name, count)) > 1e-6 for name, count in host.items()):
            self._told = True
            warnings.warn(
                "Micro-batches of one step count unequal numbers of elements, and no totals were given: each is "
                "averaged by itself. Pass totals=distiller.totals(window) for the exact loss.",
                stacklevel=5,
            )


class Counted:
    """What every term has counted in the open epoch, so that a component which never finds anything is noticed."""

    def __init__(self) -> None:
        self._sums: dict[str, Count] = {}

    def add(self, counts: Mapping[str, Count], active: Mapping[str, Any]) -> None:
        """Add a step's counts, of the terms that took part in it."""
        sums = self._sums
        for name, count in counts.items():
            if name in active:
                sums[name] = sums[name] + count if name in sums else count

    def close(self, components: Iterable[Component]) -> None:
        """Refuse a component whose terms counted nothing in the whole epoch; begin a new one."""
        sums, self._sums = self._sums, {}
        for component in components:
            own = [sums[name] for key in component.method.at_equality if (name := component.term(key)) in sums]
            if own and not any(float(count) > 0 for count in own):
                raise DistilError(
                    f"'{component.name}' found nothing to learn from in a whole epoch: its terms count 0 elements. "
                    "Give it what it reads (labels where it needs them, a mask that leaves something), or take it out."
                )


def mean_of_ranks(rows: Tensor) -> Tensor:
    """Return the mean of the rows of all ranks, ``[D]`` from ``[N, D]``; ranks may hold unequal numbers of them.

    >>> mean_of_ranks(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
    tensor([2., 1.])
    """
    if world_size() < 2:
        return rows.mean(0)
    packed = torch.cat([rows.sum(0), rows.new_tensor([float(len(rows))])])
    dist.all_reduce(packed)
    return packed[:-1] / packed[-1]


def world_size() -> int:
    """Return the number of processes of this run."""
    return dist.get_world_size() if DISTRIBUTED and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number."""
    return dist.get_rank() if DISTRIBUTED and dist.is_initialized() else 0
