"""The scores of small sets, against the formulas as DD-Ranking states them, worked by hand."""

from __future__ import annotations

import math

import pytest

from distil.errors import DistilError
from distil.loops.dd_scores import ranking_score, scores_of


@pytest.mark.parametrize(
    ("improvement", "recovery", "weight"), [(0.031, 0.42, 0.5), (-0.1, 0.0, 0.5), (0.2, 0.3, 0.9), (0.2, 0.3, 0.0)]
)
def test_the_ranking_score_is_the_stated_formula(improvement: float, recovery: float, weight: float) -> None:
    alpha = weight * improvement - (1 - weight) * recovery
    expected = (math.e**alpha - 1 / math.e) / (math.e - 1 / math.e)
    assert ranking_score(improvement, recovery, weight=weight) == pytest.approx(expected, rel=1e-12)


def test_the_ranking_score_rises_with_improvement_and_falls_with_what_is_lost() -> None:
    assert ranking_score(0.1, 0.4) > ranking_score(0.0, 0.4) > ranking_score(0.0, 0.5)
    with pytest.raises(DistilError, match=r"in \[0, 1\]"):
        ranking_score(0.1, 0.4, weight=1.5)


def test_scores_are_means_and_population_deviations_of_paired_differences() -> None:
    found = scores_of(
        real_hard=[80.0, 82.0], set_hard=[50.0, 56.0], set_any=[60.0, 61.0], random_any=[55.0, 52.0], weight=0.5
    )
    assert (found.recovery, found.recovery_spread) == (28.0, 2.0)  # 30 and 26
    assert (found.improvement, found.improvement_spread) == (7.0, 2.0)  # 5 and 9
    assert found.score == pytest.approx((math.exp(0.5 * 0.07 - 0.5 * 0.28) - math.exp(-1)) / (math.e - math.exp(-1)))


def test_what_was_not_run_is_not_known() -> None:
    found = scores_of(real_hard=None, set_hard=[50.0], set_any=[60.0], random_any=[55.0])
    assert (found.recovery, found.improvement, found.score) == (None, 5.0, None)
    found = scores_of(real_hard=[80.0], set_hard=[50.0], set_any=[60.0], random_any=None)
    assert (found.recovery, found.improvement, found.score) == (30.0, None, None)
