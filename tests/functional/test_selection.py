"""Choosing a few of many, against plain loops in numpy, scipy and what every rule owes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from distil.errors import DistilError
from distil.functional import (
    Selected,
    by_quota,
    chosen_per_class,
    craig,
    facility_weights,
    gradient_similarity,
    herding,
    k_center,
    match_pursuit,
    ranked,
    shared_quotas,
    without_twins,
)

from .oracles import normal

CLUSTERS = torch.arange(14) % 3
RULES: dict[str, Callable[[Tensor, int], Selected]] = {
    "herding": herding,
    "herding farthest": partial(herding, rule="farthest"),
    "k-center": k_center,
    "ranked": lambda rows, budget: ranked(rows[:, 0], budget),
    "craig": lambda rows, budget: craig(gradient_similarity(rows), budget),
    "pursuit": lambda rows, budget: match_pursuit(rows.mT, rows.sum(0), budget, ridge=0.5),
    "clusters": lambda rows, budget: by_quota(rows[:, 0], CLUSTERS[: len(rows)], budget),
    "clusters by size": lambda rows, budget: by_quota(rows[:, 0], CLUSTERS[: len(rows)], budget, how="proportional"),
}
every = pytest.mark.parametrize("name", RULES)


# ---- what every rule owes


@every
@pytest.mark.parametrize("budget", [0, 1, 5, 14, 99])
def test_a_budget_is_met_by_places_that_are_all_different_and_weights_that_are_not_negative(
    name: str, budget: int
) -> None:
    found = RULES[name](normal(14, 4), budget)
    assert len(found.index) == len(found.weight) == min(budget, 14)
    assert found.index.dtype == torch.int64
    assert len(set(found.index.tolist())) == len(found.index)
    assert set(found.index.tolist()) <= set(range(14))
    assert (found.weight >= 0).all()
    assert found.weight.isfinite().all()


@every
def test_a_larger_budget_begins_with_the_choices_of_a_smaller_one(name: str) -> None:
    if name.startswith("clusters"):
        pytest.skip("its groups' shares grow, and groups are listed one after the other")
    rows = normal(14, 4)
    assert RULES[name](rows, 9).index[:4].tolist() == RULES[name](rows, 4).index.tolist()


@every
def test_ties_go_to_the_first_and_a_repeat_is_equal(name: str) -> None:
    rows = torch.ones(14, 4, dtype=torch.float64)
    first = RULES[name](rows, 6)
    assert torch.equal(first.index, RULES[name](rows, 6).index)
    expected = [0, 3, 1, 4, 2, 5] if name.startswith("clusters") else [0, 1, 2, 3, 4, 5]
    assert first.index.tolist() == expected


@every
def test_copies_in_the_pool_change_no_choice_but_for_which_copy(name: str) -> None:
    """Equal rows are at equal distances to the last bit, so the first of them is always the one that is taken."""
    rows = normal(7, 4, dtype=torch.float32)
    found = RULES[name](torch.cat([rows, rows]), 3).index.tolist()
    assert found[0] < 7


@every
def test_half_precision_is_raised(name: str) -> None:
    rows = normal(14, 4).bfloat16()
    assert RULES[name](rows, 5).index.tolist() == RULES[name](rows.double(), 5).index.tolist()


@every
def test_numbers_that_are_not_finite_are_refused_by_their_place(name: str) -> None:
    rows = normal(14, 4)
    rows[3, 0] = torch.nan
    with pytest.raises(DistilError, match=r"(not finite|NaN).* place \d+"):
        RULES[name](rows, 2)


@every
def test_a_budget_below_nothing_is_refused(name: str) -> None:
    with pytest.raises(DistilError, match="budget=-1 is below 0"):
        RULES[name](normal(14, 4), -1)


@every
@pytest.mark.parametrize("budget", [0, 1, 2, 99])
def test_classes_are_balanced_and_give_all_they_have(name: str, budget: int) -> None:
    rows, labels = normal(14, 4), torch.tensor([0] * 5 + [1] * 2 + [2] * 6 + [-100])
    at = torch.arange(14)
    found = chosen_per_class(lambda places, few: RULES[name](rows[places], few), labels, budget)
    counts = [int((labels[found.index] == c).sum()) for c in range(3)]
    assert counts == [min(budget, size) for size in (5, 2, 6)]
    assert 13 not in found.index.tolist()  # it has no label
    assert torch.isin(found.index, at).all()
    assert len(found.index.unique()) == len(found.index) == len(found.weight)


def test_a_class_that_is_said_to_exist_and_has_no_sample_is_refused() -> None:
    with pytest.raises(DistilError, match="class 1 has no sample"):
        chosen_per_class(lambda places, few: ranked(places, few), torch.tensor([0, 0, 2]), 1, classes=3)
    assert not len(chosen_per_class(lambda places, few: ranked(places, few), torch.tensor([-100]), 1).index)


# ---- each rule


@pytest.mark.parametrize("rule", ["nearest", "farthest"])
def test_herding_is_the_loop_of_the_book(rule: str) -> None:
    rows = normal(20, 5).numpy()
    pick = np.argmin if rule == "nearest" else np.argmax
    left, chosen, total = list(range(20)), [], np.zeros(5)
    for i in range(12):
        best = left[int(pick([np.linalg.norm((i + 1) * rows.mean(0) - total - rows[k]) for k in left]))]
        chosen.append(best)
        left.remove(best)
        total = total + rows[best]
    assert herding(torch.from_numpy(rows), 12, rule=rule).index.tolist() == chosen


def test_the_mean_of_a_herd_is_nearer_to_the_pools_than_that_of_most_random_choices() -> None:
    rows = normal(60, 3)
    away = (rows[herding(rows, 6).index].mean(0) - rows.mean(0)).norm()
    rng = torch.Generator().manual_seed(0)
    others = [(rows[torch.randperm(60, generator=rng)[:6]].mean(0) - rows.mean(0)).norm() for _ in range(200)]
    assert sum(bool(away < other) for other in others) > 195


def test_k_center_is_the_greedy_loop_and_within_twice_the_best_radius() -> None:
    rows = normal(11, 2)
    found = k_center(rows, 3).index.tolist()
    table = torch.cdist(rows, rows)
    assert found[0] == int((rows - rows.mean(0)).norm(dim=1).argmin())
    for count in (1, 2):
        assert found[count] == int(table[:, found[:count]].min(1).values.argmax())
    radius = table[:, found].min(1).values.max()
    best = min(float(table[:, list(s)].min(1).values.max()) for s in itertools.combinations(range(11), 3))
    assert radius <= 2 * best + 1e-12


def test_centres_that_are_given_are_neither_counted_nor_returned() -> None:
    rows = normal(9, 2)
    found = k_center(rows, 99, start=[4, 4, 1]).index.tolist()
    assert sorted(found) == [0, 2, 3, 5, 6, 7, 8]
    with pytest.raises(DistilError, match="outside the pool, 0 … 8"):
        k_center(rows, 1, start=[9])


def test_scores_are_ranked_stably_either_way_and_infinity_has_a_rank() -> None:
    scores = torch.tensor([2.0, torch.inf, 2.0, -torch.inf])
    assert ranked(scores, 9).index.tolist() == [1, 0, 2, 3]
    assert ranked(scores, 9, largest=False).index.tolist() == [3, 0, 2, 1]
    assert ranked(torch.tensor([1, 3, 2]), 1).index.tolist() == [1]


def test_craig_is_the_greedy_loop_with_weights_that_count_who_is_stood_for() -> None:
    rows = normal(13, 3)
    table = gradient_similarity(rows)
    torch.testing.assert_close(table, torch.cdist(rows, rows).max() - torch.cdist(rows, rows))
    found = craig(table, 4)
    chosen: list[int] = []
    for _ in range(4):
        gain = {j: float(table[:, [*chosen, j]].max(1).values.sum()) for j in range(13) if j not in chosen}
        chosen.append(max(gain, key=lambda j: gain[j]))
    assert found.index.tolist() == chosen
    owners = table[:, chosen].argmax(1)
    assert found.weight.tolist() == [1 + int((owners == k).sum()) for k in range(4)]
    assert found.weight.sum() == 13 + 4
    assert not len(facility_weights(table, torch.tensor([], dtype=torch.long)))


def test_a_greedy_choice_of_facilities_is_near_the_best_of_all() -> None:
    table = gradient_similarity(normal(10, 2))
    value = table[:, craig(table, 3).index].max(1).values.sum()
    best = max(float(table[:, list(s)].max(1).values.sum()) for s in itertools.combinations(range(10), 3))
    assert (1 - 1 / np.e) * best <= value <= best + 1e-9


@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_pursuit_solves_the_normal_equations_of_what_it_chose(ridge: float) -> None:
    a, b = normal(8, 12).numpy(), normal(8, seed=1).numpy()
    chosen: list[int] = []
    rest = b
    for _ in range(4):
        product = a.T @ rest
        product[chosen] = -np.inf
        chosen.append(int(product.argmax()))
        part = a[:, chosen].T
        lam = ridge if len(chosen) > 1 else 0.0
        rest = b - part.T @ np.linalg.solve(part @ part.T + lam * np.eye(len(part)), part @ b)
    found = match_pursuit(torch.from_numpy(a), torch.from_numpy(b), 4, ridge=ridge)
    assert found.index.tolist() == chosen
    part = a[:, chosen].T
    expected, _ = nnls(part @ part.T + ridge * np.eye(4), part @ b)
    np.testing.assert_allclose(found.weight, expected, rtol=1e-9)


def test_pursuit_finds_a_target_that_is_made_of_few_columns() -> None:
    a = torch.linalg.qr(normal(8, 8)).Q
    found = match_pursuit(a, a[:, [2, 6]] @ torch.tensor([3.0, 1.5]).double(), 2, ridge=0.0)
    assert found.index.tolist() == [2, 6]
    torch.testing.assert_close(found.weight, torch.tensor([3.0, 1.5]).double())


def test_one_column_weighs_one_and_columns_of_zeros_weigh_nothing() -> None:
    assert match_pursuit(normal(5, 4), normal(5), 1).weight.tolist() == [1.0]
    assert match_pursuit(torch.zeros(3, 4), torch.ones(3), 3).weight.tolist() == [0.0] * 3
    with pytest.raises(DistilError, match="linearly dependent"):
        match_pursuit(torch.ones(3, 4), torch.ones(3), 2, ridge=0.0)


@pytest.mark.parametrize("budget", [0, 1, 4, 7, 9, 50])
def test_even_shares_fill_all_groups_to_one_height(budget: int) -> None:
    groups = torch.tensor([0] * 6 + [1] + [2] * 3)
    quota = shared_quotas(groups, budget)
    sizes = torch.tensor([6, 1, 3])
    assert quota.sum() == min(budget, 10)
    assert (quota <= sizes).all()
    low = quota[quota < sizes]
    assert not len(low) or quota.max() - low.min() <= 1


def test_proportional_shares_follow_sizes_by_the_largest_remainder() -> None:
    groups = torch.tensor([0] * 6 + [1] + [2] * 3 + [-1] * 9)
    assert shared_quotas(groups, 5, how="proportional").tolist() == [3, 1, 1]  # 3.0, 0.5, 1.5: of equals the first
    assert shared_quotas(groups, 99, how="proportional").tolist() == [6, 1, 3]


def test_of_two_twins_the_first_stays_and_stands_for_the_other() -> None:
    rows = normal(12, 6)
    rows[7], rows[9], rows[11] = 2 * rows[1], rows[1] + 1e-4, 0.0
    kept, twin = without_twins(rows, threshold=0.999)
    assert kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 10, 11]
    assert twin[[7, 9]].tolist() == [1, 1]
    cosine = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    loose, owner = without_twins(rows, threshold=0.3)
    assert (cosine[loose][:, loose] - torch.eye(len(loose))).max() < 0.3
    assert all(cosine[k, owner[k]] >= 0.3 for k in range(12) if owner[k] != k)
    assert torch.equal(without_twins(rows, threshold=1.0)[0], kept.new_tensor([*range(7), 8, 9, 10, 11]))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: herding(torch.zeros(3), 1), r"rows is \(3,\) but \(N, D\)"),
        (lambda: herding(torch.zeros(3, 1), 1, rule="near"), "did you mean .*'nearest'"),
        (lambda: ranked(torch.zeros(3, 1), 1), "one score for each sample"),
        (lambda: craig(torch.zeros(3, 2), 1), "must be a square"),
        (lambda: craig(-torch.eye(3), 1), "of at least 0"),
        (lambda: match_pursuit(torch.zeros(3, 2), torch.zeros(2), 1), r"target is \(2,\) but \(3,\)"),
        (lambda: match_pursuit(torch.zeros(3, 2), torch.zeros(3), 1, ridge=-1), "ridge=-1"),
        (lambda: shared_quotas(torch.tensor([0]), 1, how="fair"), "how='fair' is unknown"),
        (lambda: without_twins(torch.ones(2, 2), threshold=1.5), "threshold=1.5 is a cosine"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()
