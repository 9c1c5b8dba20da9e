"""Dropout that a processor draws four times as fast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["thinned"]

BITS = 16


def thinned(hidden: Tensor, probability: float, training: bool) -> Tensor:
    """Return ``dropout(hidden)``: zeros with ``probability``, and the rest scaled so that the mean stays.

    On a CPU each unit is decided by 16 random bits of torch's generator (the probability is met to 2^-17, and what is
    left is scaled by the probability that was met); elsewhere, and where a graph is recorded, by torch's own dropout.

    >>> thinned(torch.ones(3), 0.5, training=False)
    tensor([1., 1., 1.])
    """
    if not training or not probability:
        return hidden
    plain = type(hidden) is not Tensor or torch.compiler.is_compiling() or torch.jit.is_tracing()
    if plain or hidden.device.type != "cpu" or hidden.dtype not in (torch.float32, torch.float64):
        return F.dropout(hidden, probability, training)
    steps = 1 << BITS
    dropped = round(probability * steps)
    if not 0 < dropped < steps:
        return F.dropout(hidden, probability, training)
    count = hidden.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = (words.view(torch.int16)[:count] >= dropped - steps // 2).view(hidden.shape)
    return hidden * kept.to(hidden.dtype).mul_(steps / (steps - dropped))
