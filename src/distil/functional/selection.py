"""Choosing a few of many: which rows stand for the rest, and how much each counts.

Every rule takes the whole pool as rows and a budget, and gives places in the order they were chosen, each once, with
weights of at least 0. A budget of 0 chooses none, one of the pool's size or more chooses all. Of equals the first in
the pool wins, and distances are measured in float64, so that a choice does not depend on the machine's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import IGNORE, known, shaped

__all__ = [
    "Selected",
    "by_quota",
    "chosen_per_class",
    "herding",
    "k_center",
    "ranked",
    "shared_quotas",
    "without_twins",
]

RULES = ("nearest", "farthest")
QUOTAS = ("even", "proportional")


@dataclass(frozen=True, eq=False)
class Selected:
    """What was chosen: ``index`` [m] int64, places in the pool in the order of choice; ``weight`` [m] ≥ 0, float64."""

    index: Tensor
    weight: Tensor


def herding(rows: Tensor, budget: int, *, rule: str = "nearest") -> Selected:
    """Choose rows whose mean follows the pool's mean at every length.

    The i-th choice is the row nearest to ``i · mean − Σ chosen`` among those left, so that the mean of the first i is
    as near to the pool's as one more row can bring it.

    Args:
        rows: (N, D), N ≥ 1 where the budget is above 0.
        budget: how many, at least 0.
        rule: "nearest"; "farthest" takes the row farthest away at each step, as a common implementation does.

    Raises:
        DistilError: rows that are no table or not finite, a budget below 0, an unknown rule.

    >>> herding(torch.tensor([[0.0], [1.0], [5.0], [2.0]]), 2).index
    tensor([3, 1])

    Paper: Welling, *Herding dynamical weights to learn*, ICML 2009; as a choice of samples: Rebuffi et al., *iCaRL*,
    CVPR 2017, arXiv 1611.07725. Differs from official code: DeepCore's herding with its default metric takes the
    farthest row ("farthest"); with the negated metric it is this one.
    """
    known("herding", "rule", rule, RULES)
    pool, budget = _pool("herding", rows), _budget("herding", budget, rows)
    left = torch.ones(len(pool), dtype=torch.bool, device=pool.device)
    total, sign = torch.zeros_like(pool[:1]), 1 if rule == "nearest" else -1
    index: list[int] = []
    mean = pool.mean(0, keepdim=True) if len(pool) else total
    for i in range(budget):
        away = sign * (pool - ((i + 1) * mean - total)).square().sum(1)
        index.append(_first_best(-away, left))
        left[index[-1]] = False
        total = total + pool[index[-1]]
    return _plain(index, pool)


def k_center(rows: Tensor, budget: int, *, start: Sequence[int] | None = None) -> Selected:
    """Choose rows so that the farthest row of the pool is near to one of them: greedily, within twice the optimum.

    Repeatedly takes the row with the largest distance to its nearest centre.

    Args:
        rows: (N, D).
        budget: how many new centres.
        start: places that are centres already; they are neither counted nor returned. By default there are none, and
            the first centre is the row nearest to the mean.

    Raises:
        DistilError: rows that are no table or not finite, a budget below 0, a start outside the pool.

    >>> k_center(torch.tensor([[0.0], [1.0], [5.0], [2.0]]), 2, start=[0]).index
    tensor([2, 3])

    Paper: Sener, Savarese, *Active Learning for Convolutional Neural Networks: A Core-Set Approach*, ICLR 2018, arXiv
    1708.00489. Differs from official code: DeepCore draws the first centre by chance unless it is told.
    """
    pool = _pool("k_center", rows)
    given = list(dict.fromkeys(start or ()))
    if any(not 0 <= place < len(pool) for place in given):
        raise DistilError(f"k_center: start={given} has places outside the pool, 0 … {len(pool) - 1}.")
    budget = min(_budget("k_center", budget, rows), len(pool) - len(given))
    left = torch.ones(len(pool), dtype=torch.bool, device=pool.device)
    nearest = torch.full((len(pool),), torch.inf, dtype=pool.dtype, device=pool.device)
    index: list[int] = []

    def add(place: int) -> None:
        nonlocal nearest
        left[place] = False
        nearest = torch.minimum(nearest, (pool - pool[place]).square().sum(1))

    for place in given:
        add(place)
    for _ in range(budget):
        far = nearest if given or index else -(pool - pool.mean(0)).square().sum(1)
        index.append(_first_best(far, left))
        add(index[-1])
    return _plain(index, pool)


def ranked(scores: Tensor, budget: int, *, largest: bool = True) -> Selected:
    """Choose by a score of each sample: the largest (or smallest) first, of equals the first.

    Args:
        scores: (N,), of any meaning; infinite ones are in order, NaN is refused.
        budget: how many.
        largest: False takes the smallest.

    Raises:
        DistilError: a NaN, which no order places; scores that are no vector; a budget below 0.

    >>> ranked(torch.tensor([1.0, 3.0, 3.0, 0.0]), 3).index
    tensor([1, 2, 0])
    """
    shaped("ranked", "scores", scores, ("N",), "give one score for each sample")
    wrong = scores.isnan().nonzero().flatten()
    if len(wrong):
        raise DistilError(
            f"ranked: {len(wrong)} of {len(scores)} scores are NaN, the first at place {int(wrong[0])}; a NaN has no "
            "rank: look at the model that gave it, or leave those samples out."
        )
    order = torch.sort(scores, descending=largest, stable=True).indices
    return _plain(order[: _budget("ranked", budget, scores)].tolist(), scores)


def shared_quotas(groups: Tensor, budget: int, *, how: str = "even") -> Tensor:
    """Return how many samples each group may give, (G,), so that they sum to the budget (or to N, if that is less).

    "even" fills all groups to one height, as far as each has samples; "proportional" follows their sizes (largest
    remainders first). What is left over goes to the first groups.

    Args:
        groups: (N,) int64 from 0, the group of each sample; −1 is in none.
        budget: in all.
        how: "even" or "proportional".

    >>> shared_quotas(torch.tensor([0, 0, 0, 0, 1, 2, 2]), 5), shared_quotas(torch.tensor([0, 0, 0, 1]), 2,
    ...     how="proportional")
    (tensor([2, 1, 2]), tensor([2, 0]))
    """
    known("shared_quotas", "how", how, QUOTAS)
    sizes = torch.bincount(groups[groups >= 0])
    budget = _budget("shared_quotas", budget, groups[groups >= 0])
    quota = torch.zeros_like(sizes)
    if not budget:
        return quota
    if how == "proportional":
        exact = sizes * budget / sizes.sum()
        quota = exact.floor().long()
        quota[ranked(exact - quota, budget - int(quota.sum())).index] += 1
        return quota
    while int(quota.sum()) < budget:
        open_groups = (quota < sizes).nonzero().flatten()
        rest = budget - int(quota.sum())
        quota[open_groups[:rest]] += 1
    return quota


def by_quota(scores: Tensor, groups: Tensor, budget: int, *, how: str = "even", largest: bool = True) -> Selected:
    """Choose from every group its share, the best by score first: diversity by clusters.

    Args:
        scores: (N,), e.g. the negative distance to the group's centre.
        groups: (N,) int64 from 0.
        budget: in all; see :func:`shared_quotas`.
        how: "even" or "proportional".
        largest: False takes the smallest scores.

    >>> by_quota(torch.tensor([0.1, 0.9, 0.5, 0.2]), torch.tensor([0, 0, 0, 1]), 2).index
    tensor([1, 3])
    """
    shaped("by_quota", "groups", groups, tuple(scores.shape), "give one group for each score")
    found: list[int] = []
    for group, share in enumerate(shared_quotas(groups, budget, how=how).tolist()):
        members = (groups == group).nonzero().flatten()
        found += members[ranked(scores[members], share, largest=largest).index].tolist()
    return _plain(found, scores)


def chosen_per_class(
    choose: Callable[[Tensor, int], Selected], labels: Tensor, budget: int, *, classes: int | None = None
) -> Selected:
    """Apply a rule within each class: ``budget`` of every class, or all of one that has fewer.

    Args:
        choose: from the places (n,) of a class's samples in the pool and a budget to what is chosen *of those places*.
        labels: (N,); a sample labelled −100 is in no class.
        budget: of each class.
        classes: how many classes there are; by default those that occur.

    Raises:
        DistilError: a class without samples, where ``classes`` says that it exists.

    >>> x, y = torch.tensor([[0.0], [4.0], [1.0], [6.0]]), torch.tensor([0, 1, 0, 1])
    >>> chosen_per_class(lambda at, few: herding(x[at], few), y, 1).index
    tensor([0, 1])
    """
    found, weights = [], []
    for label in range(classes) if classes is not None else labels[labels != IGNORE].unique().tolist():
        members = (labels == label).nonzero().flatten()
        if not len(members) and budget:
            raise DistilError(
                f"chosen_per_class: class {label} has no sample to choose from; give data that hold every class."
            )
        chosen = choose(members, min(budget, len(members)))
        found.append(members[chosen.index])
        weights.append(chosen.weight)
    if not found:
        return _plain([], labels)
    return Selected(torch.cat(found), torch.cat(weights))


def without_twins(rows: Tensor, *, threshold: float = 0.95) -> tuple[Tensor, Tensor]:
    """Return which rows stay when near-duplicates go, and of each row the one that stays for it.

    From the first row on, a row goes if its cosine with one that stays reaches the threshold; so no two that stay are
    that close, and each that goes is close to one that stays. A row of zeros is like no other.

    Args:
        rows: (N, D).
        threshold: of the cosine, above −1 and at most 1.

    Returns:
        kept (m,), sorted places, and twin (N,): the place that stands for each row, its own where it stays.

    >>> without_twins(torch.tensor([[1.0, 0.0], [2.0, 0.001], [0.0, 1.0]]))
    (tensor([0, 2]), tensor([0, 0, 2]))
    """
    if not -1 < threshold <= 1:
        raise DistilError(f"without_twins: threshold={threshold} is a cosine; it must be above -1 and at most 1.")
    pool = _pool("without_twins", rows)
    unit = pool / pool.norm(dim=1, keepdim=True).clamp(min=torch.finfo(pool.dtype).tiny)
    twin = torch.arange(len(pool), device=pool.device)
    slack = 1e-12  # a row and itself, scaled, are at 1 but for rounding
    for place in range(len(pool)):
        if int(twin[place]) != place:
            continue
        near = unit[place + 1 :] @ unit[place] >= threshold - slack
        later = twin[place + 1 :]
        later[near & (later == torch.arange(place + 1, len(pool), device=pool.device))] = place
    return (twin == torch.arange(len(pool), device=pool.device)).nonzero().flatten(), twin


def _pool(name: str, rows: Tensor) -> Tensor:
    """Rows as float64, refused where they are no table or not finite."""
    shaped(name, "rows", rows, ("N", "D"), "give one row for each sample, e.g. x.flatten(1)")
    wrong = (~rows.detach().isfinite().all(1)).nonzero().flatten()
    if len(wrong):
        raise DistilError(
            f"{name}: {len(wrong)} of {len(rows)} rows are not finite, the first at place {int(wrong[0])}; look at the "
            "data or the model that gave it, or leave those samples out."
        )
    return rows.detach().double()


def _budget(name: str, budget: int, pool: Tensor) -> int:
    if budget < 0:
        raise DistilError(f"{name}: budget={budget} is below 0; give how many samples are wanted.")
    return min(budget, len(pool))


def _first_best(values: Tensor, allowed: Tensor) -> int:
    """The first place of the largest allowed value."""
    open_values = values.masked_fill(~allowed, -torch.inf)
    return int(((open_values == open_values.max()) & allowed).nonzero()[0])


def _plain(index: list[int], like: Tensor) -> Selected:
    places = torch.tensor(index, dtype=torch.long, device=like.device)
    return Selected(places, torch.ones(len(index), dtype=torch.float64, device=like.device))
