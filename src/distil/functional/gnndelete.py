"""GNNDelete's operator and losses: the network stays, a matrix after each layer changes the rows near a deletion.

Cheng, Dasoulas, He, Agarwal, Zitnik, *GNNDelete: A General Strategy for Unlearning in Graph Neural Networks*,
ICLR 2023, arXiv 2302.13406. Values and gradients are those of the official code (golden).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, same_shape, shaped
from distil.functional.divergence import kl
from distil.functional.reduction import reduce, working
from distil.functional.unlearning import link_scores

__all__ = ["DELETION_START", "Deletion", "bounded_kl", "cosine_distance", "deletion_by_embedding", "deletion_by_link"]
__all__ += ["deletion_operator", "near"]

DELETION_START = 1e-3  # every entry of a new operator


class Deletion(NamedTuple):
    """The two sides of a layer's loss: ``random`` (deleted pairs look like unconnected ones), ``local`` (the rest)."""

    random: Tensor
    local: Tensor


def near(edge_index: Tensor, nodes: Tensor, *, hops: int, num_nodes: int) -> Tensor:
    """Return which nodes lie within ``hops`` edges of ``nodes``, bool (N,), those themselves included.

    >>> near(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), torch.tensor([0]), hops=1, num_nodes=4)
    tensor([ True,  True, False, False])
    """
    found = torch.zeros(num_nodes, dtype=torch.bool, device=edge_index.device)
    found[nodes] = True
    for _ in range(hops):
        reached = found.clone()
        reached[edge_index[1][found[edge_index[0]]]] = True
        reached[edge_index[0][found[edge_index[1]]]] = True
        found = reached
    return found


def deletion_operator(features: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Return the features with the rows in ``mask`` multiplied by a matrix: h W there, h bit for bit elsewhere.

    Args:
        features: (N, D).
        weight: (D, D); official code starts from 1/1000 everywhere, not from the identity.
        mask: bool (N,); an empty one changes nothing.

    Raises:
        DistilError: if the shapes do not fit.

    >>> deletion_operator(torch.ones(2, 2), torch.full((2, 2), 0.5), torch.tensor([True, False]))
    tensor([[1., 1.],
            [1., 1.]])
    """
    shaped("deletion_operator", "features", features, ("N", "D"), "give one row per node")
    width = features.shape[1]
    shaped("deletion_operator", "weight", weight, (width, width), "the matrix is square, as wide as the features")
    shaped("deletion_operator", "mask", mask, (len(features),), "give one bool per node")
    features, weight = working(features, weight)
    return features.masked_scatter(mask.unsqueeze(1), features[mask] @ weight)


def bounded_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return 1 − exp(−KL), KL the mean over rows of KL(softmax(teacher) ‖ softmax(student)); it stays below 1.

    It bounds the mean, so it has no form for single rows.

    >>> bounded_kl(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor(0.)
    """
    return -torch.expm1(-kl(student_logits, teacher_logits, scale="none"))


def cosine_distance(
    student: Tensor, teacher: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return 1 − cos(student, teacher) of each row, in 0 … 2.

    >>> ours, theirs = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> cosine_distance(ours, theirs, reduction="none")
    tensor([0., 1.])
    """
    same_shape("cosine_distance", student, teacher, "give both models the same rows")
    student, teacher = working(student, teacher)
    return reduce(1 - F.cosine_similarity(student, teacher), weight, reduction=reduction)


def deletion_by_embedding(
    student: Tensor,
    original: Tensor,
    forget: Tensor,
    negatives: Tensor,
    mask: Tensor,
    *,
    unconnected: str = "original",
    ends: str = "mean",
) -> Deletion:
    """Return a layer's loss on embeddings, the official default.

    random = MSE([z_u ; z_v], [h_a ; h_b]) of the deleted pairs (u, v) and as many unconnected ones (a, b);
    local = MSE(z, h) over the rows in ``mask``. The layer's loss is α · random + (1 − α) · local, α = 0.5.

    Args:
        student: (N, D), the layer after its operator.
        original: (N, D), of the original model on the retained edges; no gradient reaches it.
        forget: (2, F), the deleted pairs.
        negatives: (2, F), pairs without an edge, drawn once.
        mask: bool (N,), the rows within the layer's reach; official training leaves the ends of deleted pairs out.
        unconnected: whose embeddings of (a, b) are the target: the "original" model's, as in official training, or the
            "student"'s, through which the gradient flows too, as in the official ``compute_loss``.
        ends: "mean" over both ends of a pair, as in official training, or "sum", as in ``compute_loss``.

    Raises:
        DistilError: if shapes differ, an option is unknown, or there are not as many negatives as deleted pairs.

    >>> z, pairs = torch.zeros(3, 2), torch.tensor([[0], [1]])
    >>> deletion_by_embedding(z, torch.ones(3, 2), pairs, pairs, torch.ones(3, dtype=torch.bool))
    Deletion(random=tensor(1.), local=tensor(1.))
    """
    _pairs("deletion_by_embedding", student, original, forget, negatives)
    known("deletion_by_embedding", "unconnected", unconnected, ("original", "student"))
    known("deletion_by_embedding", "ends", ends, ("mean", "sum"))
    student, original = working(student, original.detach())
    target = original if unconnected == "original" else student
    random = _mse(student[forget.flatten()], target[negatives.flatten()])
    return Deletion(random * (2 if ends == "sum" else 1), _mse(student[mask], original[mask]))


def deletion_by_link(
    student: Tensor, original: Tensor, forget: Tensor, negatives: Tensor, pair_mask: Tensor
) -> Deletion:
    """Return a layer's loss on links, the official alternative; it needs (N, N) numbers.

    random = MSE(z_u · z_v, z_a · z_b) of the deleted and of the unconnected pairs, both by the student;
    local = MSE(sigmoid(z zᵀ), sigmoid(h hᵀ)) over the pairs in ``pair_mask``. Added over the layers, then halved.

    Args:
        student, original, forget, negatives: as `deletion_by_embedding`.
        pair_mask: bool (N, N): below the diagonal, both ends within reach, not deleted.

    >>> z, pairs = torch.zeros(2, 2), torch.tensor([[0], [1]])
    >>> deletion_by_link(z, z, pairs, pairs, torch.zeros(2, 2, dtype=torch.bool))
    Deletion(random=tensor(0.), local=tensor(0.))
    """
    _pairs("deletion_by_link", student, original, forget, negatives)
    shaped("deletion_by_link", "pair_mask", pair_mask, (len(student), len(student)), "give one bool for each pair")
    student, original = working(student, original.detach())
    chosen = pair_mask.nonzero().t()
    ours, theirs = (link_scores(each, chosen).sigmoid() for each in (student, original))
    random = _mse(link_scores(student, forget), link_scores(student, negatives))
    return Deletion(random, _mse(ours, theirs))


def _mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of squared differences; 0, with a gradient path, where there are none."""
    return (student - teacher).square().sum() / max(student.numel(), 1)


def _pairs(name: str, student: Tensor, original: Tensor, forget: Tensor, negatives: Tensor) -> None:
    same_shape(name, student, original, "give both models the same nodes and widths")
    if forget.shape != negatives.shape:
        raise DistilError(
            f"{name}: {tuple(forget.shape)} deleted pairs but {tuple(negatives.shape)} unconnected ones; draw one for "
            "each."
        )
