"""Distilling what a search found beside other nets of the space: which nets, as arms, and the tables of a report."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from scipy.stats import kendalltau
from torch import nn

from distil.data.bundle import Bundle, collate
from distil.data.loading import mix_seed
from distil.data.select import split
from distil.loops.lab import Lab, Outcome
from distil.loops.search import Evaluation, Guarded, distinct, genome_key
from distil.loops.training import Teacher, Training, distil

__all__ = ["BEWARE", "Others", "candidates_table", "distilled", "one_batch", "others", "rank_agreement"]

BEWARE = (
    "On the 64 published nets of space S0 parameter count ranks better (Kendall tau 0.87 with the distilled accuracy) "
    "than this score does (0.5 to 0.6); among nets of like size the score hardly ranks them at all (0.0, against 0.8). "
    "Take its pick as one candidate, beside the largest net that the limits allow."
)

Others = Mapping[str, Any]
DRAWS = 200


def one_batch(bundle: Bundle, size: int, seed: int) -> dict[str, Any]:
    """Return one labelled batch of the training data, with every class in its share."""
    size = min(size, len(bundle.train))
    (part,) = split(bundle.train, [size], mix_seed("search-batch", seed))
    return collate([part[i] for i in range(len(part))])


def others(space: Guarded, *, winner: Any = None, seed: int = 0) -> Others:
    """Return the nets that a search has to beat, by name: the median, the largest and a random one within the limits.

    Sizes are parameters; where the space cannot list its members, they are those of 200 draws. The random one is drawn
    among those not taken yet, where there are any.
    """
    pool = space.everything()
    if pool is None:
        rng = random.Random(mix_seed("others", seed))
        drawn = [space.sample(rng) for _ in range(DRAWS)]
        pool = list({genome_key(genome): genome for genome in drawn}.values())
    pool = sorted(pool, key=lambda genome: (space.cost(genome)["parameters"], genome_key(genome)))
    found = {"median": pool[(len(pool) - 1) // 2], "largest": pool[-1]}
    taken = {genome_key(genome) for genome in (*found.values(), winner)}
    free = [genome for genome in pool if genome_key(genome) not in taken] or pool
    return found | {"random": random.Random(mix_seed("random pick", seed)).choice(free)}


def distilled(
    lab: Lab, genome: Any, space: Guarded, teacher: Teacher, bundle: Bundle, training: Training, method: str, *,
    seed: int, scores: Mapping[str, float] | None = None, **options: Any,
) -> Outcome:  # fmt: skip
    """Distil one net of a space, with its size (and ``scores``) among the diagnostics."""
    build: Callable[[], nn.Module] = partial(space.build, genome)
    outcome = distil(lab, method, build, teacher, bundle, training, seed=seed, **options)
    return replace(outcome, diagnostics={"parameters": space.cost(genome)["parameters"], **(scores or {})})


def candidates_table(
    history: Sequence[Evaluation], space: Guarded, parts: Callable[[Any], Any], marked: Others, *, top: int = 10
) -> dict[str, Any]:
    """Return the best candidates, and the nets of ``marked``, with their place by score and by parameters."""
    ranked = distinct(history)
    sizes = [space.cost(e.genome)["parameters"] for e in ranked]
    names: dict[str, list[str]] = {}
    for name, genome in marked.items():
        names.setdefault(genome_key(genome), []).append(name)
    rows = []
    known = {genome_key(e.genome) for e in ranked}
    for place, evaluation in enumerate(ranked, 1):
        key = genome_key(evaluation.genome)
        if place > top and key not in names:
            continue
        larger = 1 + sum(size > sizes[place - 1] for size in sizes)
        rows.append([place, larger, *_facts(evaluation.genome, space, parts, names.get(key, []))])
    for genome in marked.values():
        if genome_key(genome) not in known:
            known.add(genome_key(genome))
            rows.append([None, None, *_facts(genome, space, parts, names[genome_key(genome)])])
    head = ["place", "by size", "net", "score", "semantic", "relation", "parameters", "also"]
    agreed = rank_agreement(ranked, space)
    said = "" if agreed is None else f" Over all of them the two agree at Kendall tau {agreed:.2f}."
    note = (
        f"{len(ranked)} nets were scored in {len(history)} evaluations. Beside the place by score stands the place by "
        f"number of parameters, the rival ranking, which costs nothing.{said}"
    )
    return {"title": "Candidates, by score and by parameters", "note": note, "head": head, "rows": rows}


def rank_agreement(ranked: Sequence[Evaluation], space: Guarded) -> float | None:
    """Return Kendall's tau between score and number of parameters; None where one of them does not vary."""
    usable = [e for e in ranked if e.score is not None]
    sizes = [space.cost(e.genome)["parameters"] for e in usable]
    if len(set(sizes)) < 2 or len({e.score for e in usable}) < 2:
        return None
    return float(kendalltau([e.score for e in usable], sizes).statistic)


def _facts(genome: Any, space: Guarded, parts: Callable[[Any], Any], names: Sequence[str]) -> list[Any]:
    score = parts(genome)
    size = int(space.cost(genome)["parameters"])
    return [str(genome), score.total, score.semantic, score.relation, size, ", ".join(names)]
