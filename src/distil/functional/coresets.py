"""Choosing samples whose weighted gradients stand for the gradients of all: facility location, and matching pursuit.

The rules of :mod:`distil.functional.selection` hold: budgets, ties, float64, no numbers that are not finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import shaped
from distil.functional.selection import Selected, _budget, _first_best, _pool

__all__ = ["craig", "facility_weights", "gradient_similarity", "match_pursuit"]

ROWS = 512  # rows of a table of distances that are made at once


def gradient_similarity(rows: Tensor) -> Tensor:
    """Return how alike rows are as facility location wants it, (N, N): the largest distance minus each distance.

    Args:
        rows: (N, D), gradients or features.

    >>> gradient_similarity(torch.tensor([[0.0], [1.0], [3.0]]))[0].tolist()
    [3.0, 2.0, 0.0]
    """
    pool = _pool("gradient_similarity", rows)
    if not len(pool):
        return pool.new_zeros(0, 0)
    # Differences, not products: equal rows are then at distance 0 exactly.
    away = torch.cat([torch.cdist(p, pool, compute_mode="donot_use_mm_for_euclid_dist") for p in pool.split(ROWS)])
    return away.max() - away


def craig(similarity: Tensor, budget: int) -> Selected:
    """Choose the samples that together are most like all others, and weigh each by how many it stands for.

    Greedy facility location: each choice raises ``Σ_i max_j∈S s_ij`` most. Its weights are :func:`facility_weights`.

    Args:
        similarity: (N, N) of at least 0, e.g. :func:`gradient_similarity`.
        budget: how many.

    Raises:
        DistilError: no square of finite numbers of at least 0, a budget below 0.

    >>> craig(gradient_similarity(torch.tensor([[0.0], [0.1], [5.0], [0.2]])), 2)
    Selected(index=tensor([1, 2]), weight=tensor([4., 2.], dtype=torch.float64))

    Paper: Mirzasoleiman, Bilmes, Leskovec, *Coresets for Data-efficient Training of Machine Learning Models*, ICML
    2020, arXiv 1906.01827.
    """
    table = _similarity("craig", similarity)
    budget = _budget("craig", budget, table)
    left = torch.ones(len(table), dtype=torch.bool, device=table.device)
    best = torch.zeros(len(table), dtype=table.dtype, device=table.device)
    index: list[int] = []
    for _ in range(budget):
        gains = torch.cat([(part - best).clamp(min=0).sum(1) for part in table.mT.split(ROWS)])
        index.append(_first_best(gains, left))
        left[index[-1]] = False
        best = torch.maximum(best, table[:, index[-1]])
    places = torch.tensor(index, dtype=torch.long, device=table.device)
    return Selected(places, facility_weights(table, places))


def facility_weights(similarity: Tensor, index: Tensor) -> Tensor:
    """Return 1 + how many samples of the pool each chosen one is most like, (m,) float64, itself among them.

    Of equally like ones the first in ``index`` takes the sample. The weights sum to N + m.

    Args:
        similarity: (N, N).
        index: (m,), the chosen places.

    >>> facility_weights(torch.eye(3), torch.tensor([1]))
    tensor([4.], dtype=torch.float64)

    Differs from official code: none; the extra 1 is DeepCore's, where CRAIG's paper counts the samples alone.
    """
    table = _similarity("facility_weights", similarity)
    weight = torch.ones(len(index), dtype=torch.float64, device=table.device)
    if not len(index):
        return weight
    owner = torch.stack([_first_max(column) for column in table[index].mT.split(1)])
    return weight + torch.bincount(owner, minlength=len(index))


def match_pursuit(columns: Tensor, target: Tensor, budget: int, *, ridge: float = 1.0) -> Selected:
    """Choose columns and weights of at least 0 whose sum is near a target: GradMatch by orthogonal matching pursuit.

    Each choice has the largest product with what is left of the target; what is left is measured after a ridge
    regression on all chosen so far (the first alone is fitted without ridge). At the end the weights solve the normal
    equations ``(A_S A_Sᵀ + λ I) x = A_S b`` by non-negative least squares; a single choice weighs 1.

    Args:
        columns: A (d, N), each column one sample's gradient.
        target: b (d,), what their weighted sum is to be near.
        budget: how many columns.
        ridge: λ ≥ 0; 0 needs columns that are linearly independent.

    Returns:
        the places and their weights, some of which may be 0.

    Raises:
        DistilError: shapes that do not fit, numbers that are not finite, a ridge below 0, dependent columns without it.

    >>> found = match_pursuit(torch.eye(3, dtype=torch.float64), torch.tensor([3.0, 0.0, 1.0]).double(), 2, ridge=0.0)
    >>> found.index, [round(weight, 6) for weight in found.weight.tolist()]
    (tensor([0, 2]), [3.0, 1.0])

    Paper: Killamsetty et al., *GRAD-MATCH: Gradient Matching based Data Subset Selection*, ICML 2021, arXiv 2103.00123.
    """
    pool = _pool("match_pursuit", columns.mT)
    shaped("match_pursuit", "target", target, (pool.shape[1],), "give one number for each row of the columns")
    goal, budget = target.detach().to(pool), _budget("match_pursuit", budget, pool)
    if not ridge >= 0 or not bool(goal.isfinite().all()):
        raise DistilError(f"match_pursuit: ridge={ridge} must be at least 0, and the target finite.")
    left = torch.ones(len(pool), dtype=torch.bool, device=pool.device)
    index: list[int] = []
    rest = goal
    for _ in range(budget):
        index.append(_first_best(pool @ rest, left))
        left[index[-1]] = False
        rest = goal - _fit(pool[index], goal, ridge if len(index) > 1 else 0.0) @ pool[index]
    places = torch.tensor(index, dtype=torch.long, device=pool.device)
    if len(index) < 2:
        return Selected(places, torch.ones(len(index), dtype=torch.float64, device=pool.device))
    from scipy.optimize import nnls

    gram, aim = _normal(pool[index], goal, ridge)
    solved, _ = nnls(gram.cpu().numpy(), aim.cpu().numpy())
    return Selected(places, torch.as_tensor(solved, dtype=torch.float64, device=pool.device))


def _normal(rows: Tensor, goal: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    return rows @ rows.mT + ridge * torch.eye(len(rows), dtype=rows.dtype, device=rows.device), rows @ goal


def _fit(rows: Tensor, goal: Tensor, ridge: float) -> Tensor:
    gram, aim = _normal(rows, goal, ridge)
    if len(rows) == 1:  # a column of zeros has nothing to give
        return aim / gram[0].clamp(min=torch.finfo(gram.dtype).tiny)
    found, failed = torch.linalg.solve_ex(gram, aim)
    if failed:
        raise DistilError(
            f"match_pursuit: the {len(rows)} columns chosen so far are linearly dependent, which ridge={ridge:g} does "
            "not solve; give a ridge above 0."
        )
    return found


def _similarity(name: str, similarity: Tensor) -> Tensor:
    table = _pool(name, similarity)
    if table.shape[0] != table.shape[1] or bool((table < 0).any()):
        raise DistilError(
            f"{name}: the similarity is {tuple(table.shape)} and must be a square of numbers of at least 0; "
            "gradient_similarity(rows) makes one."
        )
    return table


def _first_max(column: Tensor) -> Tensor:
    row = column.flatten()
    return (row == row.max()).nonzero()[0, 0]
