"""LELP's experiment: do subclasses cut out of the embedding teach more than two logits, and what does each step add?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distil.loops.encoded import TextPair, text_pair
from distil.loops.images import ImagePair, image_pair
from distil.loops.lab import Lab, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Training

__all__ = ["EVIDENCE", "Setup", "experiment"]

CIFAR = {
    "pair": {
        "data": "cifar10", "size": 16, "train": 4000, "teacher_train": 20000, "val": 2000,
        "teacher": "distil:cnn(widths=(16, 32, 64))", "student": "distil:cnn(widths=(8, 16))",
        "teacher_training": {"epochs": 10, "lr": 3e-3, "schedule": "cosine"},
    },
    "training": {"epochs": 12, "lr": 1e-2, "schedule": "cosine"},
    "splitters": [],
    "seeds": [0, 1, 2],
}  # fmt: skip
SST2 = {
    "texts": True,
    "training": {"epochs": 10, "batch_size": 64, "lr": 3e-3, "schedule": "cosine"},
    "splitters": [],
    "seeds": [0, 1, 2],
}
EVIDENCE: tuple[Mapping[str, Any], ...] = ({}, CIFAR, SST2)
"""Parity of digits; CIFAR-10 at 16 pixels as two classes; sentiment of SST-2 from MiniLM to a bag of words."""


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; seeds, data order and shared initial weights are shared by the arms.

    Attributes:
        texts: teach the ``text`` pair instead of the image ``pair``.
        subclasses, beta: of every split.
        splitters: other ways to split than LELP's, each an arm.
    """

    pair: ImagePair = field(
        default_factory=lambda: ImagePair(
            data="digits", modulo=2, train=300, teacher_train=1258, val=269,
            teacher="distil:mlp(hidden=128, layers=3)", student="distil:mlp(hidden=12)",
            teacher_training=Training(epochs=30, batch_size=64, lr=1e-3, schedule="constant"),
        )
    )  # fmt: skip
    texts: bool = False
    text: TextPair = field(default_factory=TextPair)
    training: Training = field(default_factory=lambda: Training(epochs=60, batch_size=64, lr=3e-3, schedule="constant"))
    subclasses: int = 5
    beta: float = 0.3
    splitters: tuple[str, ...] = ("projections", "kmeans", "agglomerative", "tsne")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: labels, KD at two temperatures, FitNets, LELP, its ablations, and true subclasses as a bound."""
    pair = text_pair(setup.text, lab) if setup.texts else image_pair(setup.pair, lab)

    def split(size: int = setup.subclasses, **changed: str) -> str:
        options = {"subclasses": str(size), "beta": f"{setup.beta:g}", **changed}
        return f"lelp({', '.join(f'{key}={value}' for key, value in options.items())})"

    methods: dict[str, tuple[Role, str, str]] = {
        "alone": ("reference", "Student alone", "supervised"),
        "kd-1": ("rival", "KD, T = 1", "kd(temperature=1)"),
        "kd-4": ("rival", "KD, T = 4", "kd(temperature=4)"),
        "fitnets": ("rival", "FitNets on embeddings", "supervised + fitnets(tap=emb)"),
        "lelp": ("method", "LELP", split()),
        "no-null-space": ("ablation", "LELP, null space off", split(null_space="false")),
        "no-rotation": ("ablation", "LELP, rotation off", split(rotate="false")),
        "random": ("ablation", "random split", split(splitter="random")),
        **{name: ("ablation", f"{name} split", split(splitter=name)) for name in setup.splitters},
    }
    if not setup.texts and setup.pair.modulo:
        most = max(name.count("/") + 1 for name in pair.bundle.classes)  # a group is named by its members
        methods["fine"] = ("bound", "true subclasses", split(max(most, setup.subclasses), splitter="fine"))
    arms = {
        name: pair.arm(
            lab, role, label, text, setup.training, phrase="the student alone" if role == "reference" else label
        )
        for name, (role, label, text) in methods.items()
    }
    setting = {
        **pair.setting(setup.training),
        "Split": f"{setup.subclasses} subclasses of each class, beta {setup.beta:g}, no hard labels: chosen by the "
        "sheet's own runs on digits by parity, not tuned on other data",
    }
    return Experiment("LELP: classes split along the teacher's embedding", pair.bundle, arms, pair.teacher, setting)
