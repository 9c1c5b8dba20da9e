"""ND's experiment: does aiming at class means add to KD, and do direction and length move as they should?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from distil.data.loading import as_batches
from distil.engine.distiller import Distiller
from distil.loops.images import ImagePair, Pair, image_pair
from distil.loops.lab import Lab, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Training
from distil.systems.nd.method import DirectNorm, direction_and_length

__all__ = ["EVIDENCE", "Setup", "experiment"]

EVIDENCE: tuple[Mapping[str, Any], ...] = ({}, {"pair": {"student": "distil:mlp(hidden=(16, 256))"}})
"""A student with a narrow embedding, which needs the projector; and one whose embedding is as wide as the teacher's."""


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; seeds, data order and initial weights are shared by the arms."""

    pair: ImagePair = field(default_factory=ImagePair)
    training: Training = field(default_factory=lambda: Training(epochs=40, batch_size=64, lr=1e-2))
    nd_weight: float = 2.0
    warmup: float = 5.0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: alone, KD with the same warm-up, KD++ , its two halves, and ND without KD."""
    pair = image_pair(setup.pair, lab)
    base = f"supervised + ramp(epochs={setup.warmup:g})*kd(temperature=4)"
    weight = f"{setup.nd_weight:g}"
    methods: dict[str, tuple[Role, str, str]] = {
        "kd": ("rival", "KD", base),
        "kd++": ("method", "KD + ND (KD++)", f"{base} + {weight}*directnorm"),
        "cosine": ("ablation", "KD + direction only", f"{base} + {weight}*directnorm(part=cosine)"),
        "norm": ("ablation", "KD + length only", f"{base} + {weight}*directnorm(part=norm)"),
        "nd": ("ablation", "ND without KD", f"supervised + {weight}*directnorm"),
    }
    arms = {
        "alone": pair.arm(
            lab, "reference", "Student alone", "supervised", setup.training, phrase="the student alone",
            diagnostics=partial(_direction_and_length, pair=pair),
        )
    }  # fmt: skip
    for name, (role, label, text) in methods.items():
        shown = partial(_direction_and_length, pair=pair)
        arms[name] = pair.arm(lab, role, label, text, setup.training, diagnostics=shown)
    setting = {
        **pair.setting(setup.training),
        "ND": f"weight {weight}, class means of the clean training images; KD warms up over {setup.warmup:g} epochs",
    }
    return Experiment(
        "ND: the teacher's class means as a direction and a length", pair.bundle, arms, pair.teacher, setting
    )


def _direction_and_length(distiller: Distiller, *, pair: Pair) -> dict[str, float]:
    """Return how embeddings lie to their class means, for arms without the term too where widths are equal."""
    val = pair.bundle.val
    if any(isinstance(c.method, DirectNorm) for c in distiller.method):
        return direction_and_length(distiller, val)
    term = DirectNorm()
    few = next(iter(as_batches(val, 64)))
    beside = Distiller(distiller.deployed(), pair.teacher.module, term, example=few)
    if not isinstance(term.projector, nn.Identity):  # one that nobody trained says nothing
        return {}
    beside.prepare(as_batches(pair.bundle.train, 256))
    return direction_and_length(beside.eval(), val)
