"""The verdict's statistics against scipy's, its refusals, and its sentence in every case."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distil.errors import DistilError
from distil.report.verdict import HELPED, HURT, NONE, bonferroni, paired_interval, sentence, verdict

values = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))


@given(st.lists(values, min_size=2, max_size=12), st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_equals_scipy(differences: list[float], level: float) -> None:
    ours = paired_interval(differences, level)
    assert ours.mean == pytest.approx(sum(differences) / len(differences), rel=1e-9, abs=1e-9)
    error = stats.sem(differences)
    if len(set(differences)) == 1:
        assert ours.low == ours.high == ours.mean == differences[0]
        return
    low, high = stats.t.interval(level, len(differences) - 1, loc=ours.mean, scale=error)
    assert ours.low == pytest.approx(low, rel=1e-7, abs=1e-7)
    assert ours.high == pytest.approx(high, rel=1e-7, abs=1e-7)
    assert ours.half == pytest.approx((high - low) / 2, rel=1e-7, abs=1e-7)


@given(st.lists(st.tuples(values, values), min_size=3, max_size=10))
def test_outcome_equals_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    if len({round(a - b, 9) for a, b in pairs}) == 1:
        return
    p = stats.ttest_rel(ours, theirs).pvalue
    if math.isclose(p, 0.05, rel_tol=1e-6):
        return
    result = verdict(ours, theirs, higher_is_better=True)
    expected = NONE if p >= 0.05 else HELPED if sum(ours) > sum(theirs) else HURT
    assert result.outcome == expected
    flipped = verdict(ours, theirs, higher_is_better=False).outcome
    assert flipped == {NONE: NONE, HELPED: HURT, HURT: HELPED}[expected]
    assert verdict(theirs, ours, higher_is_better=True).outcome == flipped


def test_one_difference_has_no_bounds() -> None:
    one = paired_interval([1.5])
    assert (one.mean, one.low, one.high, one.n, one.half) == (1.5, None, None, 1, None)
    assert not one.excludes_zero


@pytest.mark.parametrize(
    ("differences", "level", "message"),
    [
        ([], 0.95, "at least one seed"),
        ([1.0, math.nan], 0.95, "nan for position 1"),
        ([1.0, math.inf, 0.0], 0.95, "inf for position 1"),
        ([1.0, 2.0], 95, "between 0 and 1"),
    ],
)
def test_interval_refuses(differences: list[float], level: float, message: str) -> None:
    with pytest.raises(DistilError, match=message):
        paired_interval(differences, level)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_seeds_claim_nothing(n: int) -> None:
    result = verdict([90.0, 90.0][:n], [10.0, 10.0][:n], higher_is_better=True)
    assert result.outcome == NONE
    assert result.too_few
    text = sentence(result, metric="accuracy", unit="%")
    assert text.startswith("Too few seeds to say whether distillation helped: accuracy 90.0 % against 10.0 %")
    assert "interval" not in text


def test_equal_differences() -> None:
    assert verdict([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], higher_is_better=True).outcome == HELPED
    same = verdict([2.0, 3.0, 4.0], [2.0, 3.0, 4.0], higher_is_better=True)
    assert same.outcome == NONE
    assert (same.difference.low, same.difference.high) == (0.0, 0.0)


def test_rounding_of_the_arithmetic_is_no_difference() -> None:
    exact = [0.3, 0.6, 0.7]
    noisy = [0.1 + 0.2, 0.1 + 0.5, 0.1 + 0.6]
    assert noisy != exact
    assert verdict(noisy, exact, higher_is_better=True).per_seed == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_missing_value_names_the_seed(bad: float | None) -> None:
    with pytest.raises(DistilError, match=r"other arm's value is .* for seed 12"):
        verdict([1.0, 2.0, 3.0], [1.0, bad, 3.0], higher_is_better=True, seeds=[11, 12, 13])


def test_lengths_must_agree() -> None:
    with pytest.raises(DistilError, match="3 values and the other arm 2"):
        verdict([1.0, 2.0, 3.0], [1.0, 2.0], higher_is_better=True)
    with pytest.raises(DistilError, match="1 seeds for 2 values"):
        verdict([1.0, 2.0], [1.0, 2.0], higher_is_better=True, seeds=[0])


def test_bonferroni_widens() -> None:
    assert bonferroni(0.95, 1) == pytest.approx(0.95)
    assert 1 - bonferroni(0.95, 7) == pytest.approx(0.05 / 7)
    ours, theirs = [71.0, 72.5, 73.0, 72.0], [70.6, 71.2, 71.4, 71.4]
    assert verdict(ours, theirs, higher_is_better=True).outcome == HELPED
    strict = verdict(ours, theirs, higher_is_better=True, level=bonferroni(0.95, 20))
    assert strict.outcome == NONE
    assert "99.75 % interval" in sentence(strict, metric="accuracy", unit="%")
    with pytest.raises(DistilError, match="comparisons=0"):
        bonferroni(0.95, 0)


GOOD, BASE = [83.0, 83.6, 82.7, 83.3, 82.9], [78.1, 79.0, 77.6, 78.6, 77.7]


@pytest.mark.parametrize(
    ("ours", "theirs", "higher", "metric", "unit", "expected"),
    [
        (
            *(GOOD, BASE, True, "accuracy", "%"),
            "Distillation helped: accuracy 83.1 % against 78.2 % for the student alone, +4.9 points "
            "(95 % interval +4.6 to +5.2, 5 seeds paired).",
        ),
        (
            *(BASE, GOOD, True, "accuracy", "%"),
            "Distillation hurt: accuracy 78.2 % against 83.1 % for the student alone, −4.9 points "
            "(95 % interval −5.2 to −4.6, 5 seeds paired).",
        ),
        (
            *([0.50, 0.52, 0.51], [0.60, 0.61, 0.61], False, "nll", ""),
            "Distillation helped: nll 0.510 against 0.607 for the student alone, −0.097 "
            "(lower is better; 95 % interval −0.111 to −0.082, 3 seeds paired).",
        ),
        (
            *([31.0, 33.0, 30.0], [30.0, 30.5, 29.6], False, "error", "ms"),
            "No difference seen between distillation and the student alone: error 31.3 ms against 30.0 ms, +1.3 ms "
            "(lower is better; 95 % interval −1.4 to +4.0, 3 seeds paired).",
        ),
        (
            *([70.0, 71.0, 72.0], [70.0, 71.0, 72.0], True, "accuracy", "%"),
            "No difference seen between distillation and the student alone: accuracy 71.0 % against 71.0 %, 0.0 points "
            "(95 % interval 0.0 to 0.0, 3 seeds paired).",
        ),
    ],
)
def test_sentence(ours: list[float], theirs: list[float], higher: bool, metric: str, unit: str, expected: str) -> None:
    assert sentence(verdict(ours, theirs, higher_is_better=higher), metric=metric, unit=unit) == expected


def test_a_bound_that_is_not_zero_never_reads_as_zero() -> None:
    ours = [70.31, 70.12, 70.25, 70.05, 70.32]
    text = sentence(verdict(ours, [70.0] * 5, higher_is_better=True), metric="accuracy", unit="%")
    low = text.split("interval ")[1].split(" to ")[0]
    assert text.startswith("Distillation helped")
    assert float(low) > 0


def test_subject_and_opponent_are_named() -> None:
    result = verdict(GOOD, BASE, higher_is_better=True)
    text = sentence(result, metric="accuracy", unit="%", subject="ranking with PLD", against="plain KD")
    assert text.startswith("Ranking with PLD helped: ")
    assert "for plain KD," in text
