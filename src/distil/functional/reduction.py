"""Terms and the one place where they become numbers.

A *term* is an unreduced loss: values with weights that come from the batch alone. Everything that can go wrong with
means (a ragged last batch, accumulation, several devices, padding) is settled here, once: a term is the sum of
``values * weights`` over a *total* that the caller knows before the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distil.errors import DistilError

__all__ = ["Term", "reduce", "working"]


@dataclass(frozen=True)
class Term:
    """One unreduced loss.

    Args:
        values: the loss of each counted element, any shape; half precision is raised to float32 by the functions
            that make it.
        weights: how much each element counts, broadcastable to ``values``; from the batch alone (padding, a missing
            label), never from a model. ``None`` counts every element once.
        coupled: the value depends on which samples share the batch (contrastive, relational, batch statistics). It is
            averaged over micro-batches, since no split can reproduce it.
        aux: trains only the method's own parts; no student parameter needs to be in its graph.

    >>> Term(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0])).mean()
    tensor(1.)
    """

    values: Tensor
    weights: Tensor | None = None
    coupled: bool = False
    aux: bool = False

    def total(self) -> Tensor:
        """Return what the term counts by itself: the sum of its weights, or the number of its values."""
        if self.weights is None:
            return torch.tensor(float(self.values.numel()), device=self.values.device)
        return self.weights.detach().to(self.values.dtype).expand_as(self.values).sum()

    def sum(self) -> Tensor:
        """Return the sum of ``values * weights``; weight 0 adds exactly 0, even where a value is not finite."""
        if self.weights is None:
            return self.values.sum()
        weights = self.weights.detach().to(self.values.dtype).expand_as(self.values)
        return (torch.where(weights != 0, self.values, torch.zeros_like(self.values)) * weights).sum()

    def mean(self, total: float | Tensor | None = None) -> Tensor:
        """Return ``sum() / total``; 0 with a gradient path when there is nothing to count."""
        count = self.total() if total is None else torch.as_tensor(total, device=self.values.device)
        return self.sum() / count.clamp(min=torch.finfo(torch.float32).tiny).to(self.values.dtype)


def reduce(values: Tensor, weight: Tensor | None = None, *, reduction: str = "mean") -> Tensor:
    """Reduce per-element ``values`` as the functions of this package do.

    Args:
        values: unreduced losses, any shape.
        weight: broadcastable weights; ``"mean"`` divides by their sum.
        reduction: ``"none"`` (values times weights), ``"sum"`` or ``"mean"``.

    >>> reduce(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 1.0, 0.0]))
    tensor(1.5000)
    """
    term = Term(values, weight)
    if reduction == "mean":
        return term.mean()
    if reduction == "sum":
        return term.sum()
    if reduction == "none":
        return values if weight is None else values * weight.to(values.dtype)
    raise DistilError(f"reduction={reduction!r} is unknown; use 'none', 'sum' or 'mean'.")


def working(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Raise half precision to float32; float32 and float64 stay as they are.

    Every function of this package calls it first, whatever autocast says, because a logarithm of a half-precision
    probability is where silent damage starts.
    """
    return tuple(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)
