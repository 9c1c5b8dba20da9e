"""The scores by which small sets are ranked: what of the real data they hold, and what they add to a random choice.

Accuracies are shares in [0, 1] where they enter the ranking score, as DD-Ranking has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from distil.errors import DistilError

__all__ = ["Scores", "hard_label_recovery", "improvement_over_random", "ranking_score", "scores_of"]


def hard_label_recovery(real: float, ours: float) -> float:
    """Return HLR: the accuracy of training on all real data less that of training on the set, both with hard labels.

    Smaller is better; 0 says that the set does what the real data do.

    >>> hard_label_recovery(0.8, 0.5) == 0.8 - 0.5
    True
    """
    return real - ours


def improvement_over_random(ours: float, random: float) -> float:
    """Return IOR: the accuracy of the set less that of as many random samples under the same labels and views.

    >>> improvement_over_random(0.6, 0.5) == 0.6 - 0.5
    True
    """
    return ours - random


def ranking_score(improvement: float, recovery: float, *, weight: float = 0.5) -> float:
    """Return the ranking score (e^α − e^−1) / (e − e^−1) with α = w · IOR − (1 − w) · HLR.

    Args:
        improvement, recovery: IOR and HLR, of accuracies in [0, 1].
        weight: w, in [0, 1].

    Returns:
        0 for α = −1, 1 for α = 1.

    >>> round(ranking_score(0.0, 0.0), 4), ranking_score(1.0, -1.0), ranking_score(-1.0, 1.0)
    (0.2689, 1.0, 0.0)

    Paper: Li et al., *DD-Ranking: Rethinking the Evaluation of Dataset Distillation*, 2025, arXiv 2505.13300.
    """
    if not 0 <= weight <= 1:
        raise DistilError(f"ranking_score: weight={weight} must lie in [0, 1].")
    alpha = weight * improvement - (1 - weight) * recovery
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))


@dataclass(frozen=True)
class Scores:
    """Mean and standard deviation (over the runs, divided by their number) of both scores in points; and the mean of
    the runs' ranking scores.
    """

    recovery: float | None
    recovery_spread: float | None
    improvement: float | None
    improvement_spread: float | None
    score: float | None


def scores_of(
    *,
    real_hard: Sequence[float] | None,
    set_hard: Sequence[float],
    set_any: Sequence[float],
    random_any: Sequence[float] | None,
    weight: float = 0.5,
) -> Scores:
    """Return the scores of a set from accuracies in %, run by run, as DD-Ranking's package does.

    Args:
        real_hard: of training on all real data with hard labels; ``None`` where that was not run.
        set_hard: on the set with hard labels.
        set_any: on the set with its own labels and views.
        random_any: on random samples with the same; ``None`` where they could not be labelled so.
        weight: of :func:`ranking_score`.

    Differs from official code: ddranking 0.2.0 has accuracies in % in the exponent too, so that its ranking score can
    leave [0, 1]; here they are shares there, as its paper has them.

    >>> scores_of(real_hard=[80.0], set_hard=[50.0], set_any=[60.0], random_any=[55.0]).improvement
    5.0
    """
    lost = None if real_hard is None else [hard_label_recovery(a, b) for a, b in zip(real_hard, set_hard, strict=True)]
    won = (
        None
        if random_any is None
        else [improvement_over_random(a, b) for a, b in zip(set_any, random_any, strict=True)]
    )
    score = None
    if lost is not None and won is not None:
        score = fmean(ranking_score(a / 100, b / 100, weight=weight) for a, b in zip(won, lost, strict=True))
    return Scores(
        recovery=None if lost is None else fmean(lost),
        recovery_spread=None if lost is None else pstdev(lost),
        improvement=None if won is None else fmean(won),
        improvement_spread=None if won is None else pstdev(won),
        score=score,
    )
