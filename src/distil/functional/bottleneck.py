"""Scores of unit vectors: the L2 bottleneck, whose outputs are cosines."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.functional._checks import shaped
from distil.functional.reduction import working

__all__ = ["unit_scores"]


def unit_scores(
    features: Tensor, weight: Tensor, *, normalise_features: bool = True, normalise_weights: bool = True
) -> Tensor:
    """Return z = (V / ‖V_i‖) (u / ‖u‖), one score for each row of V; with both norms on a cosine, in [−1, 1].

    The gradient flows through both norms. A vector of length 0 scores 0. Where a norm is divided out, scaling the
    feature (or the row of V) by a positive number changes nothing.

    Args:
        features: (..., D), u.
        weight: (m, D), V.
        normalise_features: divide each feature by its length.
        normalise_weights: divide each row of the weight by its length.

    Returns:
        (..., m), in float32 at least: 1 / 65,536 of a softmax is not to be told apart in half precision.

    >>> unit_scores(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
    tensor([[0.6000, 0.8000]])

    Paper: the head of DINO (arXiv 2104.14294) and of *Random Teachers are Good Teachers* (ICML 2023, arXiv 2302.12091).
    Differs from official code: the released library of the latter ignores the normalised weight; its stand-alone script
    and the paper do not, and nor does this.
    """
    shaped("unit_scores", "the weight", weight, ("m", features.shape[-1]), "give one row of the features' width each")
    features, weight = working(features, weight)
    if normalise_features:
        features = F.normalize(features, dim=-1)
    if normalise_weights:
        weight = F.normalize(weight, dim=-1)
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(features, weight)
