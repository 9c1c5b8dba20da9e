"""PLD's experiment: Fashion-MNIST, a student too narrow for the task, one ranking loss beside usual mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distil.loops.images import SMALL_CIFAR, ImagePair, image_pair
from distil.loops.lab import Lab, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Training

__all__ = ["EVIDENCE", "Setup", "experiment"]

EVIDENCE: tuple[Mapping[str, Any], ...] = ({}, SMALL_CIFAR)
"""The settings under which the evidence is made, laid over the defaults: Fashion-MNIST, then CIFAR-10."""


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; seeds, data order and initial weights are shared by the arms."""

    pair: ImagePair = field(default_factory=ImagePair)
    training: Training = field(default_factory=lambda: Training(epochs=40, batch_size=64, lr=1e-2))
    temperature: float = 4.0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: alone, KD, DIST, PLD at two temperatures, uniform weights, the teacher's order."""
    pair = image_pair(setup.pair, lab)
    hot = setup.temperature
    methods: dict[str, tuple[Role, str, str]] = {
        "kd": ("rival", "KD", "0.1*supervised + 0.9*kd(temperature=4)"),
        "dist": ("rival", "DIST", "supervised + dist(beta=2, gamma=2, temperature=4)"),
        "pld": ("method", "PLD, τ = 1", "pld(teacher_temperature=1)"),
        "pld-hot": ("ablation", f"PLD, τ = {hot:g}", f"pld(teacher_temperature={hot:g})"),
        "uniform": ("ablation", "uniform weights (ListMLE)", "pld(weights=uniform)"),
        "teacher-order": (
            "ablation",
            f"label not first, τ = {hot:g}",
            f"pld(teacher_temperature={hot:g}, label_first=false)",
        ),
    }
    arms = {
        "alone": pair.arm(lab, "reference", "Student alone", "supervised", setup.training, phrase="the student alone")
    }
    arms |= {name: pair.arm(lab, role, label, text, setup.training) for name, (role, label, text) in methods.items()}
    return Experiment(
        "PLD: one ranking loss in place of labels and distillation",
        pair.bundle,
        arms,
        pair.teacher,
        pair.setting(setup.training),
    )
