"""One step of an inner problem with its graph, so that an outer loss can be differentiated through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from distil.functional._checks import positive

__all__ = ["full_precision", "unrolled_step"]


def unrolled_step(loss: Tensor, parameters: Mapping[str, Tensor], *, lr: float) -> dict[str, Tensor]:
    """Return θ' = θ − η ∇_θ L, with the graph of the gradient: what an outer loss of θ' tells whatever L depends on.

    One plain gradient step. A parameter that L does not reach stays as it is; nothing is changed in place.

    Args:
        loss: a scalar made from ``parameters`` (and from what is to be learned outside).
        parameters: by name, each requiring grad.
        lr: η > 0.

    Returns:
        The moved parameters, by name, to be given to ``student(batch, params=…)`` or ``torch.func.functional_call``.

    >>> share = torch.tensor(0.5, requires_grad=True)
    >>> weight = torch.tensor(1.0, requires_grad=True)
    >>> moved = unrolled_step(share * weight.square(), {"weight": weight}, lr=0.1)
    >>> torch.autograd.grad(moved["weight"], share)
    (tensor(-0.2000),)
    """
    positive("unrolled_step", "lr", lr)
    slopes = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)
    return {
        name: value if slope is None else value - lr * slope
        for (name, value), slope in zip(parameters.items(), slopes, strict=True)
    }


@contextmanager
def full_precision(kind: str) -> Iterator[None]:
    """Switch autocast off on devices of this kind ("cpu", "cuda", …): second derivatives want every bit.

    >>> with torch.autocast("cpu", torch.bfloat16), full_precision("cpu"):
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    with torch.autocast(kind, enabled=False):
        yield
