"""Which subclass a sample belongs to: by cluster, by chance, by finer labels; and that membership as a split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import IGNORE, shaped
from distil.functional.prototypes import class_means
from distil.functional.reduction import working

__all__ = [
    "filled_labels",
    "hard_split",
    "members_by_chance",
    "members_by_clusters",
    "members_by_labels",
    "nearest_mean",
]


def filled_labels(labels: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return labels in which a sample without one (−100) has the teacher's class.

    Args:
        labels: (N,). teacher_logits: (N, C).

    >>> filled_labels(torch.tensor([0, -100]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    tensor([0, 1])
    """
    shaped("filled_labels", "teacher_logits", teacher_logits, (*labels.shape, "C"), "give one row per label")
    return torch.where(labels == IGNORE, teacher_logits.argmax(1), labels)


def nearest_mean(features: Tensor, means: Tensor) -> Tensor:
    """Return the row of ``means`` (S, D) that is nearest to each row of ``features`` (B, D), as (B,).

    >>> nearest_mean(torch.tensor([[0.2], [9.0]]), torch.tensor([[0.0], [8.0]]))
    tensor([0, 1])
    """
    features, means = working(features, means)
    return torch.cdist(features, means.to(features.dtype)).argmin(1)


def members_by_clusters(
    features: Tensor, labels: Tensor, classes: int, subclasses: int, cluster: Callable[[Tensor, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return each sample's cluster in its own class, and in the other classes the cluster with the nearest mean.

    Args:
        features: (N, D). labels: (N,), every class present.
        classes, subclasses: C and S; a class of fewer samples than S has a cluster for each.
        cluster: from the (n, D) features of a class and a number k to a cluster 0 … k − 1 for each of its samples.

    Returns:
        members (N, C) int64, and which subclasses there are (C, S).

    Raises:
        DistilError: a class without samples, or one that gave fewer clusters than asked for.

    >>> x = torch.tensor([[0.0], [1.0], [9.0]])
    >>> members_by_clusters(x, torch.tensor([0, 0, 1]), 2, 2, lambda rows, k: torch.arange(k))
    (tensor([[0, 0],
            [1, 0],
            [1, 0]]), tensor([[ True,  True],
            [ True, False]]))
    """
    shaped("members_by_clusters", "features", features, (len(labels), "D"), "give one row per label")
    columns, present = [], torch.zeros(classes, subclasses, dtype=torch.bool)
    for c in range(classes):
        mine = labels == c
        count = min(subclasses, int(mine.sum()))
        if not count:
            raise DistilError(
                f"members_by_clusters: no sample of class {c} was seen, so it has no clusters; train on data that hold "
                "every class, or drop the class."
            )
        found = cluster(features[mine], count).long()
        several = len(found.unique())
        if several < count:
            raise DistilError(
                f"members_by_clusters: {count} clusters of class {c} were asked for, and {several} came back, since "
                f"too few of the features of its {int(mine.sum())} samples differ; see whether the teacher's embedding "
                "is constant (dead units, a wrong tap), or ask for fewer subclasses."
            )
        column = nearest_mean(features, class_means(features[mine], found, count))
        column[mine] = found
        columns.append(column)
        present[c, :count] = True
    return torch.stack(columns, 1), present


def members_by_chance(
    samples: int, classes: int, subclasses: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return a subclass drawn evenly for each sample within each class, (N, C).

    >>> members_by_chance(4, 2, 1).tolist()
    [[0, 0], [0, 0], [0, 0], [0, 0]]
    """
    return torch.randint(subclasses, (samples, classes), generator=generator)


def members_by_labels(fine: Tensor, labels: Tensor, classes: int, subclasses: int) -> tuple[Tensor, Tensor]:
    """Return the subclass of each sample in its own class by a finer label, −1 in the other classes.

    Args:
        fine, labels: (N,); −100 in ``fine`` gives −1.
        classes, subclasses: C and S.

    Returns:
        members (N, C) int64, and which subclasses there are (C, S): as many of a class as it has fine labels.

    >>> members_by_labels(torch.tensor([4, 7, 2]), torch.tensor([0, 1, 0]), 2, 2)
    (tensor([[ 1, -1],
            [-1,  0],
            [ 0, -1]]), tensor([[ True,  True],
            [ True, False]]))
    """
    shaped("members_by_labels", "fine", fine, tuple(labels.shape), "give one finer label per sample")
    members = torch.full((len(fine), classes), -1)
    present = torch.zeros(classes, subclasses, dtype=torch.bool)
    for c in range(classes):
        mine = (labels == c) & (fine != IGNORE)
        kinds = fine[mine].unique()
        if not 1 <= len(kinds) <= subclasses:
            raise DistilError(
                f"members_by_labels: class {c} has {len(kinds)} finer labels, and 1 to {subclasses} are expected; give "
                "as many subclasses as the class with the most of them has."
            )
        members[mine, c] = torch.searchsorted(kinds, fine[mine])
        present[c, : len(kinds)] = True
    return members, present


def hard_split(members: Tensor, subclasses: int) -> Tensor:
    """Return split logits that put a class's whole probability on one subclass: 0 there and −inf elsewhere.

    Args:
        members: (B, C), the subclass of each sample within each class; −1 knows none and gives zeros.
        subclasses: S.

    Returns:
        (B, C, S) float32, for ``subclass_log_probs``.

    >>> hard_split(torch.tensor([[1], [-1]]), 2).tolist()
    [[[-inf, 0.0]], [[0.0, 0.0]]]
    """
    chosen = torch.arange(subclasses, device=members.device) == members[..., None]
    return torch.zeros(chosen.shape, device=members.device).masked_fill(~chosen & (members[..., None] >= 0), -torch.inf)
