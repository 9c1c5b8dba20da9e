"""Models with weights drawn anew, for methods that look at untrained networks."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from distil.errors import DistilError, nearest

__all__ = ["INITS", "drawn", "redrawn"]

INITS = ("normal", "kaiming", "keep")
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def drawn(make: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """Return what ``make`` makes where torch's generator begins at ``seed``; the caller's is left as it was.

    >>> first, again = (drawn(lambda: nn.Linear(2, 1), seed=3) for _ in range(2))
    >>> torch.equal(first.weight, again.weight)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def redrawn(model: nn.Module, *, init: str = "normal", seed: int = 0) -> nn.Module:
    """Return a copy of a model, on the CPU and in training mode, whose weights are drawn from ``seed`` alone.

    Convolutions and linear layers get new weights and biases of 0; normalisations get scale 1, shift 0 and fresh
    statistics; any other layer that has ``reset_parameters`` is reset by it. Parameters that stand alone (a class
    token) keep their values.

    Args:
        model: any module; it is not changed.
        init: "normal" (weights from N(0, 1)), "kaiming" (He's normal, fan out) or "keep" (a plain copy).
        seed: of the draws; torch's global generator is left as it was.

    >>> layer = nn.Linear(4, 2)
    >>> copy = redrawn(layer, seed=3)
    >>> copy.bias.tolist(), bool((copy.weight == redrawn(layer, seed=3).weight).all())
    ([0.0, 0.0], True)
    """
    if init not in INITS:
        raise DistilError(f"init={init!r} is unknown; {nearest(init, INITS)}")
    copy = deepcopy(model).cpu().train()
    if init == "keep":
        return copy
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in copy.modules():
            _redraw(module, init)
    return copy


def _redraw(module: Any, init: str) -> None:
    if isinstance(module, _WEIGHTED):
        if init == "normal":
            nn.init.normal_(module.weight)
        else:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif callable(getattr(module, "reset_parameters", None)):
        module.reset_parameters()
