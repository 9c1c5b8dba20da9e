"""What may be done to the features of nodes before a plain network reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import same_shape, shaped
from distil.functional.graph import edges
from distil.functional.reduction import working

__all__ = ["noisy_features", "propagated_features"]


def propagated_features(features: Tensor, edge_index: Tensor, *, hops: int) -> Tensor:
    """Return (D^-1/2 (A + I) D^-1/2)^hops X: features averaged with their neighbourhood, one hop after another.

    Args:
        features: (N, F).
        edge_index: (2, E) in both directions; self loops are dropped and added once.
        hops: k of at least 0; 0 gives the features.

    >>> propagated_features(torch.tensor([[2.0], [0.0]]), torch.tensor([[0, 1], [1, 0]]), hops=1).round(decimals=3)
    tensor([[1.],
            [1.]])

    Paper: Zhang et al., *Graph-less Neural Networks*, ICLR 2022, arXiv 2110.08727 (as its code propagates).
    """
    shaped("propagated_features", "features", features, ("N", "F"), "give one row per node")
    if hops < 0:
        raise DistilError(f"propagated_features: hops={hops} must be a whole number of at least 0.")
    (found,) = working(features)
    joined = edges(edge_index, len(found), self_loops=True)
    scale = joined[1].bincount(minlength=len(found)).to(found.dtype).rsqrt()
    for _ in range(hops):
        spread = found * scale[:, None]
        found = torch.zeros_like(found).index_add_(0, joined[1], spread[joined[0]]) * scale[:, None]
    return found


def noisy_features(features: Tensor, noise: Tensor, *, amount: float) -> Tensor:
    """Return (1 − a) X + a N: how far a student leans on its features is seen by drowning them.

    Args:
        features: any shape.
        noise: the same shape, drawn from N(0, 1).
        amount: a in [0, 1].

    >>> noisy_features(torch.tensor([2.0]), torch.tensor([4.0]), amount=0.5)
    tensor([3.])

    Paper: as `propagated_features`.
    """
    same_shape("noisy_features", features, noise, "draw one number for every feature")
    if not 0 <= amount <= 1:
        raise DistilError(f"noisy_features: amount={amount} is the share of the noise; it must lie in [0, 1].")
    return (1 - amount) * features + amount * noise
