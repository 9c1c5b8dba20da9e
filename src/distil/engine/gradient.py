"""Which term moves the student: shares of the gradient, and parameters that no term reaches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distil.engine.distiller import Distiller

__all__ = ["gradient_shares", "unreached"]


def gradient_shares(distiller: Distiller) -> dict[str, dict[str, float]]:
    """Return each live term's share of the gradient on the student, its norm, and its cosine to the whole.

    ``share_i = |g_i| / sum_j |g_j|`` over student parameters. Call it after a forward made under ``keep_live(True)``
    and before its backward; it costs one more backward per term.
    """
    learners = [p for p in distiller.student.parameters() if p.requires_grad]
    grads: dict[str, Tensor] = {}
    for name, value in distiller.live.items():
        if not value.requires_grad:  # a term of weight zero on this batch
            found: tuple[Tensor | None, ...] = (None,) * len(learners)
        else:
            found = torch.autograd.grad(value, learners, retain_graph=True, allow_unused=True)
        grads[name] = torch.cat(
            [(g if g is not None else torch.zeros_like(p)).flatten().float() for g, p in zip(found, learners)]
        )
    whole = torch.stack(list(grads.values())).sum(0)
    norms = {name: float(g.norm()) for name, g in grads.items()}
    size, sum_of_norms = float(whole.norm()), sum(norms.values()) or 1.0
    cosines = {
        name: float(g @ whole) / (norms[name] * size) if norms[name] * size > 0 else 0.0 for name, g in grads.items()
    }
    return {"share": {name: norm / sum_of_norms for name, norm in norms.items()}, "norm": norms, "cosine": cosines}


def unreached(distiller: Distiller, batch: Any) -> list[str]:
    """Return the names of trainable parameters that no term reaches, from one backward that leaves no trace."""
    named = [(name, p) for name, p in distiller.named_parameters() if p.requires_grad]
    was_training = distiller.training
    distiller.eval()
    try:
        with torch.random.fork_rng(devices=[]), distiller.every_component():
            found = torch.autograd.grad(distiller(batch).loss, [p for _, p in named], allow_unused=True)
    finally:
        distiller.train(was_training)
    return [name for (name, _), grad in zip(named, found) if grad is None]
