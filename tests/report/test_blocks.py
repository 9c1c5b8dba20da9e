"""Differences of many arms over shared seeds, against a least-squares fit and scipy's t."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from distil.errors import DistilError
from distil.report.blocks import Blocks


def values(arms: int, seeds: int, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    table = 70 + rng.normal(0, 3, (arms, 1)) + rng.normal(0, 2, (1, seeds)) + rng.normal(0, 0.5, (arms, seeds))
    return {f"arm{k}": row.tolist() for k, row in enumerate(table)}


@pytest.mark.parametrize(("arms", "seeds"), [(2, 3), (5, 3), (7, 5)])
def test_the_spread_is_that_of_a_least_squares_fit(arms: int, seeds: int) -> None:
    found = values(arms, seeds)
    table = np.array(list(found.values()))
    design = np.concatenate(
        [np.kron(np.eye(arms), np.ones((seeds, 1))), np.kron(np.ones((arms, 1)), np.eye(seeds))], axis=1
    )
    _, _, rank, _ = np.linalg.lstsq(design, table.ravel(), rcond=None)
    left = table.ravel() - design @ np.linalg.lstsq(design, table.ravel(), rcond=None)[0]
    blocks = Blocks(found)
    assert blocks.freedom == table.size - rank
    assert blocks.deviation == pytest.approx(np.sqrt(left @ left / blocks.freedom))
    gap = blocks.difference("arm1", "arm0", comparisons=4)
    half = stats.t.ppf(1 - 0.05 / 8, blocks.freedom) * blocks.deviation * np.sqrt(2 / seeds)
    assert gap.mean == pytest.approx(table[1].mean() - table[0].mean())
    assert (gap.low, gap.high) == (pytest.approx(gap.mean - half), pytest.approx(gap.mean + half))


def test_of_two_arms_it_is_the_paired_interval() -> None:
    found = values(2, 6)
    paired = stats.ttest_rel(found["arm1"], found["arm0"]).confidence_interval(0.95)
    gap = Blocks(found).difference("arm1", "arm0")
    assert (gap.low, gap.high) == (pytest.approx(paired.low), pytest.approx(paired.high))


def test_verdicts_follow_the_interval_and_need_three_seeds() -> None:
    clear = Blocks({"a": [70.0, 71.0, 70.5], "b": [75.0, 76.1, 75.4], "c": [70.1, 71.1, 70.3]})
    assert [clear.verdict(name, "a", comparisons=2).outcome for name in "bc"] == ["helped", "no difference seen"]
    assert clear.verdict("a", "b", comparisons=2).outcome == "hurt"
    assert clear.verdict("b", "a", higher_is_better=False).outcome == "hurt"
    assert clear.verdict("b", "a").per_seed == pytest.approx((5.0, 5.1, 4.9))
    two = Blocks({name: row[:2] for name, row in clear.values.items()})
    assert two.verdict("b", "a").outcome == "no difference seen"


def test_one_seed_has_no_bounds() -> None:
    gap = Blocks({"a": [1.0], "b": [3.0]}).difference("b", "a")
    assert (gap.mean, gap.low, gap.high) == (2.0, None, None)


def test_joint_intervals_are_wider_and_false_claims_stay_rare() -> None:
    """Of arms that do not differ, one in twenty boards or fewer shows any difference."""
    claims = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        table = rng.normal(0, 1, (1, 3)) + rng.normal(0, 1, (12, 3))
        blocks = Blocks({f"arm{k}": row.tolist() for k, row in enumerate(table)})
        claims += any(blocks.difference(f"arm{k}", "arm0", comparisons=11).excludes_zero for k in range(1, 12))
    assert claims <= 20
    alone, joint = (blocks.difference("arm1", "arm0", comparisons=m) for m in (1, 11))
    assert alone.half is not None
    assert joint.half is not None
    assert joint.half > alone.half


def test_a_noisy_arm_does_not_borrow_the_calm_of_the_others() -> None:
    """Twenty-four calm arms and one ten times as noisy, none of which differs: the noisy one is hardly ever judged."""
    noisy, calm, found = 0, 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        table = rng.normal(0, 0.3, (25, 3))
        table[24] = rng.normal(0, 3, 3)
        blocks = Blocks({f"arm{k}": row.tolist() for k, row in enumerate(table)})
        noisy += blocks.difference("arm24", "arm0", comparisons=24).excludes_zero
        calm += any(blocks.difference(f"arm{k}", "arm0", comparisons=24).excludes_zero for k in range(1, 24))
        found += "arm24" in blocks.uneven
    assert found > 150
    assert noisy <= 10
    assert calm <= 20


def test_arms_of_equal_noise_are_seldom_called_uneven() -> None:
    rng = np.random.default_rng(0)
    seen = sum(
        bool(Blocks({f"arm{k}": row.tolist() for k, row in enumerate(rng.normal(0, 1, (12, 3)))}).uneven)
        for _ in range(200)
    )
    assert seen <= 20


@pytest.mark.parametrize("wrong", [{"a": [1.0]}, {"a": [1.0, 2.0], "b": [1.0]}, {"a": [1.0], "b": [float("nan")]}])
def test_what_cannot_be_compared_is_refused(wrong: dict[str, list[float]]) -> None:
    with pytest.raises(DistilError, match="two arms at least"):
        Blocks(wrong)
