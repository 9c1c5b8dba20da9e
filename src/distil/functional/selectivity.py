"""What the neurons of a map respond to: the distributions of channels' activation patterns (NST)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.functional.features import pool_match
from distil.functional.reduction import reduce

__all__ = ["nst"]


def nst(student_map: Tensor, teacher_map: Tensor, *, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Return neuron selectivity transfer: how far the channels' patterns are apart, as two sets without order.

    Each channel is scaled to length 1 over positions; with k(a, b) = (aᵀb)², the squared maximum mean discrepancy
    ⟨k(s, s)⟩ + ⟨k(t, t)⟩ − 2⟨k(s, t)⟩ over all pairs of channels of one image. Widths may differ, sizes meet by
    `pool_match`. Unchanged by a positive scale, and by the order, of channels; an all-zero channel adds 0.

    Args:
        student_map: (B, C_s, H_s, W_s).
        teacher_map: (B, C_t, H_t, W_t).
        weight: (B,).
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if a map has no (B, C, H, W) shape, or the batches differ.

    >>> ours, theirs = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.tensor([[[[2.0, 0.0]]]])
    >>> nst(ours, ours.flip(1)), nst(ours, theirs)
    (tensor(0.), tensor(0.5000))

    Paper: Huang, Wang, *Like What You Like: Knowledge Distill via Neuron Selectivity Transfer*, 2017, arXiv 1707.01219.
    """
    student, teacher = (F.normalize(m.flatten(2), dim=2) for m in pool_match(student_map, teacher_map))
    values = _similarity(student, student) + _similarity(teacher, teacher) - 2 * _similarity(student, teacher)
    return reduce(values, weight, reduction=reduction)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of (aᵀb)² over all pairs of channels, for each image."""
    with torch.autocast(a.device.type, enabled=False):
        return (a @ b.mT).square().mean((1, 2))
