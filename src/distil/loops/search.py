"""Searching a space of architectures: what a space is, what its members cost, and three ways of looking.

A space is a plain object of the user's with ``sample(rng)``, ``mutate(genome, rng)`` and ``build(genome)``; it may have
``cost(genome)`` and ``all()``. A genome is anything made of numbers, texts, lists, tuples and dicts. Every evaluation
draws from a generator of its own, seeded by its number, and the population is the end of the history: so a history
alone is enough to go on from, to the very same result.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from distil.data.loading import mix_seed
from distil.errors import DistilError, nearest
from distil.models.load import summary
from distil.tasks.base import evaluating

__all__ = [
    "STRATEGIES",
    "Evaluation",
    "Guarded",
    "Limits",
    "Search",
    "Space",
    "costs_of",
    "distinct",
    "genome_key",
    "search",
]

STRATEGIES = ("evolution", "random", "exhaustive")
COSTS = ("parameters", "flops")
TRIES = 1000


class Space(Protocol):
    """What a user's space must have; ``cost(genome)`` and ``all()`` may be there as well."""

    def sample(self, rng: random.Random) -> Any:
        """Return a random genome."""

    def mutate(self, genome: Any, rng: random.Random) -> Any:
        """Return a neighbour of a genome; the genome itself may be changed, it is a copy."""

    def build(self, genome: Any) -> nn.Module:
        """Return the network of a genome, with its weights drawn anew."""


@dataclass(frozen=True)
class Limits:
    """What a candidate may cost at most; None does not limit. FLOPs are for one sample, a multiply-add being two."""

    parameters: int | None = None
    flops: int | None = None

    def __post_init__(self) -> None:
        for name in ("parameters", "flops"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DistilError(f"The limit of {name} is {value}; give at least 1, or none.")


@dataclass(frozen=True)
class Search:
    """How a space is searched.

    Attributes:
        strategy: "evolution" (regularised: a child of the best of a drawn sample joins, the oldest leaves), "random" or
            "exhaustive" (every genome of ``space.all()``).
        evaluations: how many candidates are scored; "exhaustive" scores all and refuses a space that holds more.
        population, sample: of the evolution.
    """

    strategy: str = "evolution"
    evaluations: int = 1000
    population: int = 36
    sample: int = 8

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise DistilError(f"The strategy '{self.strategy}' is unknown; {nearest(self.strategy, STRATEGIES)}")
        for name in ("evaluations", "population", "sample"):
            if getattr(self, name) < 1:
                raise DistilError(f"search.{name}={getattr(self, name)} must be a whole number of at least 1.")


@dataclass(frozen=True)
class Evaluation:
    """One scored candidate: its genome, its score (None where it was not finite), and the number of its parent."""

    genome: Any
    score: float | None
    parent: int | None = None

    @property
    def rank(self) -> float:
        """The score as it is ordered: one that is not finite comes last."""
        return -math.inf if self.score is None else self.score


class Guarded:
    """A user's space, checked when it is taken and named when it fails; costs are worked out once for each genome.

    Args:
        space: the user's object.
        limits: what a genome may cost.
        shape: of one sample's inputs, to count FLOPs on.
    """

    def __init__(self, space: Any, limits: Limits | None = None, *, shape: Sequence[int] = ()) -> None:
        missing = [name for name in ("sample", "mutate", "build") if not callable(getattr(space, name, None))]
        if missing:
            raise DistilError(
                f"The space {type(space).__name__} has no {missing[0]}(); a space needs sample(rng), "
                "mutate(genome, rng) and build(genome), and may have cost(genome) and all()."
            )
        self.space, self.limits, self.shape = space, limits or Limits(), tuple(shape)
        self._costs: dict[str, dict[str, float]] = {}

    @property
    def name(self) -> str:
        return type(self.space).__name__

    def sample(self, rng: random.Random) -> Any:
        """Return a random genome within the limits; where draws do not meet them, one of those that are listed."""
        seen: list[dict[str, float]] = []
        for _ in range(TRIES):
            genome = self._called("sample", rng)
            if self.allowed(genome):
                return genome
            seen.append(self.cost(genome))
        everything = self.everything()
        if everything is not None:
            return rng.choice(everything)
        least = {key: min(cost[key] for cost in seen) for key in self._limited()}
        raise DistilError(
            f"No architecture of {TRIES} drawn from {self.name} is within the limits "
            f"({_costs(self._limited())}); the smallest drawn has {_costs(least)}. Raise the limits."
        )

    def mutate(self, genome: Any, rng: random.Random) -> Any:
        """Return a neighbour within the limits; where none is found, a random genome."""
        for _ in range(100):
            child = self._called("mutate", copy.deepcopy(genome), rng)
            if self.allowed(child):
                return child
        return self.sample(rng)

    def build(self, genome: Any, *, seed: int | None = None) -> nn.Module:
        """Return a genome's network; with a seed, torch's global generator is left as it was."""
        if seed is None:
            made = self._called("build", copy.deepcopy(genome))
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix_seed("built", seed))
                made = self._called("build", copy.deepcopy(genome))
        if not isinstance(made, nn.Module):
            raise DistilError(
                f"{self.name}.build({genome!r}) gave a {type(made).__name__}; a torch.nn.Module is expected."
            )
        return made

    def everything(self) -> list[Any] | None:
        """Return every genome within the limits, each once, or None where the space cannot list them."""
        if not callable(getattr(self.space, "all", None)):
            return None
        listed: dict[str, Any] = {}
        for genome in self._called("all"):
            listed.setdefault(genome_key(genome, self.name), genome)
        found = [genome for genome in listed.values() if self.allowed(genome)]
        if not found:
            raise DistilError(
                f"None of the {len(listed)} architectures of {self.name} is within the limits "
                f"({_costs(self._limited())}); raise them."
            )
        return found

    def allowed(self, genome: Any) -> bool:
        """Say whether a genome is within the limits."""
        limited = self._limited()
        if not limited:
            return True
        cost = self.cost(genome)
        return all(cost[key] <= most for key, most in limited.items())

    def cost(self, genome: Any) -> dict[str, float]:
        """Return a genome's parameters, and its FLOPs where they are limited or the space says them."""
        key = genome_key(genome, self.name)
        if key not in self._costs:
            cost = self._said(genome) if callable(getattr(self.space, "cost", None)) else {}
            if not cost.keys() >= {"parameters", *self._limited()}:
                wanted = self.limits.flops is not None and "flops" not in cost
                cost = {**self._counted(genome, self.shape if wanted else None), **cost}
            self._costs[key] = {name: float(value) for name, value in cost.items()}
        return self._costs[key]

    def _counted(self, genome: Any, shape: Sequence[int] | None) -> dict[str, float]:
        made = self.build(genome)
        try:
            return costs_of(made, shape)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DistilError(
                f"The FLOPs of {self.name}.build({genome!r}) cannot be counted on inputs {list(shape or ())}: "
                f"{reason}. Build it for the data's shape, or let cost(genome) say 'flops'."
            ) from error

    def _said(self, genome: Any) -> dict[str, float]:
        said = self._called("cost", genome)
        if not isinstance(said, Mapping) or not set(said) <= set(COSTS):
            raise DistilError(
                f"{self.name}.cost({genome!r}) gave {said!r}; a mapping of 'parameters' and 'flops', or of one of "
                "them, to numbers is expected."
            )
        return dict(said)

    def _limited(self) -> dict[str, int]:
        return {key: value for key in COSTS if (value := getattr(self.limits, key)) is not None}

    def _called(self, name: str, *arguments: Any) -> Any:
        try:
            made = getattr(self.space, name)(*arguments)
            made = list(made) if name == "all" else made
        except DistilError:
            raise
        except Exception as error:
            shown = "" if not arguments or isinstance(arguments[0], random.Random) else repr(arguments[0])[:80]
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            raise DistilError(f"{self.name}.{name}({shown}) fails: {type(error).__name__}: {reason}.") from error
        if name in ("sample", "mutate"):
            genome_key(made, self.name)
        return made


def search(
    space: Guarded,
    score: Callable[[Any], float],
    how: Search,
    *,
    seed: int = 0,
    history: Sequence[Evaluation] = (),
    record: Callable[[list[Evaluation]], None] | None = None,
) -> list[Evaluation]:
    """Score candidates of a space and return the whole history, in the order of evaluation.

    A genome that comes again keeps its score: it counts as an evaluation and costs nothing. The winner is
    ``max(history, key=lambda e: e.rank)``, of equals the first.

    Args:
        space: guarded, with its limits.
        score: of a genome; higher is better.
        how: strategy and sizes.
        seed: decides every draw.
        history: evaluations already made with the same arguments, to go on from.
        record: called with the history after every evaluation.

    >>> class Line:
    ...     def sample(self, rng): return rng.randrange(100)
    ...     def mutate(self, genome, rng): return min(99, max(0, genome + rng.choice([-1, 1])))
    ...     def build(self, genome): return nn.Linear(1, genome + 1)
    >>> found = search(Guarded(Line()), lambda g: -abs(g - 42), Search(evaluations=300, population=10, sample=4))
    >>> max(found, key=lambda e: e.rank).genome
    42
    """
    done = list(history)
    everything = _listed(space, how) if how.strategy == "exhaustive" else []
    total = len(everything) if everything else how.evaluations
    known = {genome_key(e.genome, space.name): e.score for e in done}
    while len(done) < total:
        rng, parent = random.Random(mix_seed("search", seed, len(done))), None
        if everything:
            genome = everything[len(done)]
        elif how.strategy == "random" or len(done) < how.population:
            genome = space.sample(rng)
        else:
            parent = _parent(done, how, rng)
            genome = space.mutate(done[parent].genome, rng)
        key = genome_key(genome, space.name)
        if key not in known:
            value = float(score(genome))
            known[key] = value if math.isfinite(value) else None
        done.append(Evaluation(genome, known[key], parent))
        if record is not None:
            record(done)
    return done


def _parent(history: Sequence[Evaluation], how: Search, rng: random.Random) -> int:
    """The best of a sample drawn, with replacement, from the youngest; of equals the oldest."""
    first = len(history) - how.population
    drawn = sorted(rng.randrange(first, len(history)) for _ in range(how.sample))
    return max(drawn, key=lambda i: history[i].rank)


def _listed(space: Guarded, how: Search) -> list[Any]:
    found = space.everything()
    if found is None:
        raise DistilError(f"{space.name} has no all(), so it cannot be searched exhaustively; use 'random'.")
    if len(found) > how.evaluations:
        raise DistilError(
            f"{space.name} holds {len(found)} architectures within the limits and evaluations={how.evaluations}; "
            "allow as many, or use 'evolution' or 'random'."
        )
    return found


def costs_of(module: nn.Module, shape: Sequence[int] | None) -> dict[str, float]:
    """Return a module's parameters and, given the shape of a sample, the FLOPs of one forward pass on it.

    torch counts convolutions and matrix products, a multiply-add as two; everything else is free.

    >>> costs_of(nn.Linear(4, 3), (4,))
    {'parameters': 15.0, 'flops': 24.0}
    """
    cost = {"parameters": float(summary(module).parameters)}
    if shape is not None:
        from torch.utils.flop_counter import FlopCounterMode

        with evaluating(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, *shape))
        cost["flops"] = float(counter.get_total_flops())
    return cost


def genome_key(genome: Any, space: str = "the space") -> str:
    """Return a text that is equal for equal genomes.

    Raises:
        DistilError: something in it is no number, text, list, tuple or dict with text keys.

    >>> genome_key((3, {"kernel": 5}))
    '[3, {"kernel": 5}]'
    """
    _check(genome, genome, space)
    return json.dumps(genome, sort_keys=True)


def _check(part: Any, genome: Any, space: str) -> None:
    if part is None or isinstance(part, (bool, int, str)) or (isinstance(part, float) and math.isfinite(part)):
        return
    if isinstance(part, dict) and all(isinstance(key, str) for key in part):
        part = list(part.values())
    if not isinstance(part, (list, tuple)):
        raise DistilError(
            f"{space} gave a genome with a {type(part).__name__} in it ({genome!r}); use finite numbers, texts, lists, "
            "tuples and dicts with text keys."
        )
    for item in part:
        _check(item, genome, space)


def _costs(values: Mapping[str, float]) -> str:
    return " and ".join(f"{value:,.0f} {'FLOPs' if key == 'flops' else key}" for key, value in values.items())


def distinct(history: Iterable[Evaluation]) -> list[Evaluation]:
    """Return the first evaluation of every genome, best first; of equals the earlier."""
    first: dict[str, Evaluation] = {}
    for evaluation in history:
        first.setdefault(genome_key(evaluation.genome), evaluation)
    return sorted(first.values(), key=lambda e: -e.rank)
