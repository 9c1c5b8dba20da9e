"""Averages that move: of outputs, and of all weights of a network as one vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distil.errors import DistilError

__all__ = ["flat_weights", "moving_average", "named_weights"]


def moving_average(old: Tensor, new: Tensor, *, momentum: float) -> Tensor:
    """Return momentum · old + (1 − momentum) · new, without gradient.

    Args:
        old: any shape.
        new: the same shape.
        momentum: in [0, 1]; 1 keeps the old.

    >>> moving_average(torch.tensor([1.0]), torch.tensor([3.0]), momentum=0.9)
    tensor([1.2000])
    """
    if not 0 <= momentum <= 1 or old.shape != new.shape:
        raise DistilError(
            f"moving_average: momentum={momentum} must be within 0 … 1, and the new values {tuple(new.shape)} of the "
            f"shape of the old, {tuple(old.shape)}."
        )
    return torch.lerp(new.detach().to(old), old.detach(), momentum)


def flat_weights(weights: Mapping[str, Tensor]) -> Tensor:
    """Return all tensors one after the other as one vector, without gradient.

    >>> flat_weights({"a": torch.ones(2, 1), "b": torch.zeros(1)})
    tensor([1., 1., 0.])
    """
    return torch.cat([tensor.detach().flatten() for tensor in weights.values()])


def named_weights(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parts of a vector as tensors of the names and shapes of ``like``: what `flat_weights` undoes.

    >>> named_weights(torch.arange(3.0), {"a": torch.ones(2, 1), "b": torch.zeros(1)})["b"]
    tensor([2.])
    """
    total = sum(tensor.numel() for tensor in like.values())
    if flat.shape != (total,):
        raise DistilError(f"named_weights: a vector {tuple(flat.shape)} was given for {total} weights in all.")
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(like.items(), parts)}
