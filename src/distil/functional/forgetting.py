"""How much a model still knows of what it was to forget: AUCs of scores, and how far its posteriors have moved."""

from __future__ import annotations

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import same_shape
from distil.functional.reduction import reduce, working

__all__ = ["forget_auc", "link_posteriors", "posterior_distance", "roc_auc", "win_rates"]


def win_rates(positive_scores: Tensor, negative_scores: Tensor) -> Tensor:
    """Return, for each positive, the share of negatives that score below it, a tie counting one half, (P,) float64.

    Their mean is the area under the ROC curve.

    Raises:
        DistilError: if one side is empty, or a score is not a number.

    >>> win_rates(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]))
    tensor([1.0000, 0.7500], dtype=torch.float64)
    """
    positive, negative = positive_scores.detach().double(), negative_scores.detach().double().sort().values
    if not len(positive) or not len(negative):
        raise DistilError(
            f"win_rates: {len(positive)} positives and {len(negative)} negatives; an AUC compares some of each."
        )
    if not (positive.isfinite().all() and negative.isfinite().all()):
        raise DistilError("win_rates: a score is NaN or infinite; the model diverged, so lower its learning rate.")
    below, upto = (torch.searchsorted(negative, positive, right=right) for right in (False, True))
    return (below + upto).double() / (2 * len(negative))


def roc_auc(positive_scores: Tensor, negative_scores: Tensor) -> float:
    """Return the area under the ROC curve in 0 … 1: how often a positive scores above a negative.

    >>> roc_auc(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]))
    0.875
    """
    return float(win_rates(positive_scores, negative_scores).mean())


def forget_auc(
    retained_scores: Tensor, forget_scores: Tensor, *, generator: torch.Generator, draws: int = 500
) -> float:
    """Return the AUC of retained (1) against deleted (0) elements, mean over samples of retained ones, in 0 … 1.

    Each of ``draws`` samples has as many retained elements as are deleted, without replacement. 0.5: they cannot be
    told apart. A model trained without them is near that too; well above it, the deleted ones stand out.

    Args:
        retained_scores: (R,).
        forget_scores: (F,).
        generator: of the samples.
        draws: as GNNDelete's evaluation has it, 500.

    >>> scores = torch.tensor([3.0, 2.0])
    >>> forget_auc(scores, torch.tensor([1.0, 2.5]), generator=torch.Generator().manual_seed(0))
    0.75
    """
    rates = win_rates(retained_scores, forget_scores).cpu()
    count = min(len(forget_scores), len(rates))
    # The AUC of a sample is the mean of its members' win rates, so no sample is sorted anew.
    means = [rates[torch.randperm(len(rates), generator=generator)[:count]].mean() for _ in range(draws)]
    return float(torch.stack(means).mean())


def link_posteriors(scores: Tensor) -> Tensor:
    """Return [1 − π, π] with π = sigmoid(score), (P, 2): what an attacker sees of a pair.

    >>> link_posteriors(torch.tensor([0.0]))
    tensor([[0.5000, 0.5000]])
    """
    (scores,) = working(scores)
    return torch.stack([(-scores).sigmoid(), scores.sigmoid()], 1)


def posterior_distance(
    student: Tensor, teacher: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return the Euclidean distance of two models' posteriors of each element, in 0 … √2.

    Between the models before and after a deletion it is what an attacker who kept the old one looks at; between an
    unlearned and a retrained model it says how near the first came.

    Args:
        student, teacher: (N, C) probabilities.
        weight: (N,).
        reduction: "mean", "sum" or "none".

    >>> posterior_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(1.4142)
    """
    same_shape("posterior_distance", student, teacher, "ask both models about the same elements")
    student, teacher = working(student, teacher)
    return reduce((student - teacher).norm(dim=-1), weight, reduction=reduction)
