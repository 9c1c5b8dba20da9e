"""How far images are from what a network's batch norms remember of its training data.

Paper: Yin et al., *Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion*, CVPR 2020, arXiv 1912.08795;
in this form in Yin, Xing, Shen, *Squeeze, Recover and Relabel* (SRe2L), NeurIPS 2023, arXiv 2306.13092.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distil.errors import DistilError
from distil.functional._checks import shaped
from distil.functional.reduction import working

__all__ = ["Layer", "batch_moments", "statistics_distance", "statistics_terms"]


class Layer(NamedTuple):
    """What one batch norm was given, [B, ch, …], and what it remembers: its running mean and variance, [ch] each."""

    inputs: Tensor
    mean: Tensor
    variance: Tensor


class _Moments(torch.autograd.Function):
    """Mean and biased variance in two passes forward and one backward: dx = (g_mean + 2 (x − mean) g_variance) / n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        dims = (0, *range(2, x.ndim))
        mean = x.mean(dims, keepdim=True)
        centred = x - mean
        ctx.save_for_backward(centred)
        return mean.flatten(), (centred * centred).mean(dims)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_mean: Tensor, g_variance: Tensor) -> Tensor:
        (centred,) = ctx.saved_tensors
        shape, count = (1, -1) + (1,) * (centred.ndim - 2), centred.numel() / len(g_mean)
        return torch.addcmul(g_mean.view(shape) / count, centred, (2 / count) * g_variance.view(shape))


def batch_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance of each channel over the batch and all places, [ch] each.

    Differentiable once, in closed form.

    Args:
        features: [B, ch, …], at least one value for each channel.

    >>> batch_moments(torch.tensor([[[1.0, 3.0]], [[1.0, 3.0]]]))
    (tensor([2.]), tensor([1.]))
    """
    if features.ndim < 2 or not features.numel():
        raise DistilError(
            f"batch_moments: features are {tuple(features.shape)} but [B, ch, …] with at least one value is expected."
        )
    mean, variance = _Moments.apply(*working(features))
    return mean, variance


def statistics_distance(layer: Layer) -> Tensor:
    """Return ‖running variance − variance‖₂ + ‖running mean − mean‖₂ of what one batch norm was given, a scalar.

    0 if and only if the batch has the statistics that the layer remembers. The variance is the biased one.

    >>> statistics_distance(Layer(torch.tensor([[[1.0, 3.0]]]), torch.tensor([2.0]), torch.tensor([4.0])))
    tensor(3.)
    """
    mean, variance = batch_moments(layer.inputs)
    for what, value in (("running mean", layer.mean), ("running variance", layer.variance)):
        shaped("statistics_distance", f"the {what}", value, tuple(mean.shape), "give one value for each channel")
    far = layer.variance.detach().to(variance) - variance, layer.mean.detach().to(mean) - mean
    return torch.linalg.vector_norm(far[0]) + torch.linalg.vector_norm(far[1])


def statistics_terms(layers: Sequence[Layer], *, first: float = 1.0, skip: Sequence[int] = ()) -> Tensor:
    """Return the weighted distance of each batch norm, in the order of the network; their sum is the loss.

    Args:
        layers: what each batch norm was given and remembers.
        first: weight of the layer at place 0; all others weigh 1.
        skip: places of layers that are left out; they are counted from 0 before any is left out.

    Returns:
        [L − number of places skipped].

    Raises:
        DistilError: no layer is left, or a place that does not exist.

    >>> layer = Layer(torch.tensor([[[1.0, 3.0]]]), torch.tensor([2.0]), torch.tensor([4.0]))
    >>> statistics_terms([layer, layer, layer], first=10.0, skip=(1,))
    tensor([30.,  3.])

    Paper: Zhang et al., *Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator*,
    ICLR 2025, arXiv 2408.06927, whose code weighs the first layer by 10 and skips the second of one network.
    """
    unknown = [place for place in skip if not 0 <= place < len(layers)]
    if unknown or len(set(skip)) >= len(layers):
        raise DistilError(
            f"statistics_terms: places {list(skip)} are skipped of {len(layers)} batch norms; name places from 0 to "
            f"{len(layers) - 1} and leave at least one."
        )
    return torch.stack(
        [
            (first if place == 0 else 1.0) * statistics_distance(layer)
            for place, layer in enumerate(layers)
            if place not in skip
        ]
    )
