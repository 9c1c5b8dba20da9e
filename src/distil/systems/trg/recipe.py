"""TRG's experiment: relations of tokens on a long tail, against KD and relations of whole images, and part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from distil.loops.images import ImagePair, Pair, image_pair
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Training
from distil.loops.tuning import tuning_seed
from distil.systems.trg.likeness import likeness
from distil.tasks import get_task

__all__ = ["EVIDENCE", "Setup", "experiment"]

CIFAR: Mapping[str, Any] = {
    "pair": {
        "data": "cifar10",
        "size": 16,
        "imbalance": 10.0,
        "order": (),
        "teacher": "distil:cnn(widths=(24, 48, 64))",
    },
}
EVIDENCE: tuple[Mapping[str, Any], ...] = ({}, CIFAR)
"""Fashion-MNIST at 14 px with an imbalance of 50, and CIFAR-10 at 16 px with one of 10."""


def _pair() -> ImagePair:
    """Fashion-MNIST from ankle boot to T-shirt: by their number the tail would be the three easiest classes."""
    return ImagePair(
        size=14,
        train=2400,
        val=1000,
        teacher_train=6000,
        imbalance=50.0,
        order=tuple(range(9, -1, -1)),
        teacher="distil:cnn(widths=(16, 32, 64))",
        student="distil:cnn(widths=(8, 16, 24))",
        teacher_training=Training(epochs=8, batch_size=32, lr=1e-2),
    )


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; seeds, data order and initial weights are shared by the arms.

    Every arm has the same tries of a learning rate, on a seed that is not shown.

    Attributes:
        inner, local, contrast: weights of the parts of TRG.
        samples, neighbours: of TRG's graphs, and of those by which all arms are looked at.
    """

    pair: ImagePair = field(default_factory=_pair)
    training: Training = field(default_factory=lambda: Training(epochs=8, batch_size=32, lr=1e-2))
    learning_rates: tuple[float, ...] = (1e-2, 3e-3)
    inner: float = 100.0
    local: float = 0.25
    contrast: float = 0.2
    samples: int = 4
    neighbours: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: alone, KD, RKD, one token an image, TRG, and TRG without each of its parts."""
    pair = image_pair(setup.pair, lab)
    base = "supervised + kd(temperature=4)"
    arms: dict[str, tuple[Role, str, str]] = {
        "alone": ("reference", "Student alone", "supervised"),
        "kd": ("rival", "KD", base),
        "rkd": ("rival", "KD + RKD", f"{base} + rkd"),
        "image": ("rival", "KD + one token an image", f"{base} + {_graph(setup, 'inner', grid=1)}"),
        "trg": ("method", "TRG", f"{base} + {_graph(setup)}"),
        "no-inner": ("ablation", "TRG without inner", f"{base} + {_graph(setup, 'inner')}"),
        "no-local": ("ablation", "TRG without local", f"{base} + {_graph(setup, 'local')}"),
        "no-global": ("ablation", "TRG without global", f"{base} + {_graph(setup, 'contrast')}"),
        "no-kd": ("ablation", "TRG without KD", f"supervised + {_graph(setup)}"),
        "sigma": ("ablation", "TRG, gradient through sigma", f"{base} + {_graph(setup, sigma='median')}"),
    }
    seed = tuning_seed(setup.seeds)
    tuned = {name: _tuned(lab, setup, pair, name, *arm, seed=seed) for name, arm in arms.items()}
    tried = ", ".join(f"{lr:g}" for lr in setup.learning_rates)
    setting = {
        **pair.setting(setup.training),
        "Learning rate": f"of {tried} the best on validation for each arm (seed {seed}): "
        + ", ".join(f"{one.arm.label} {one.lr:g}" for one in tuned.values()),
        "Weights": f"inner {setup.inner:g}, local {setup.local:g} (summed over nodes), global {setup.contrast:g}: each "
        "0.1 to 1 times the cross-entropy at the first step of a seed that is not shown; RKD 25 and 50 as published",
        "Graph": f"{setup.samples} tokens an image, {setup.neighbours} neighbours; temperature 0.5 to 0.1 by epochs",
        "Overlap and context": "of validation images: Jaccard index of the nearest tokens of student and teacher, and "
        "mean squared gap of each image's token attention",
    }
    shown = {name: one.arm for name, one in tuned.items()}
    return Experiment("TRG: relations of tokens on a long tail", pair.bundle, shown, pair.teacher, setting)


def _graph(setup: Setup, without: str = "", **options: Any) -> str:
    """Return the bare method as text, with one part left out."""
    given = {"inner": setup.inner, "local": setup.local, "contrast": setup.contrast}
    given |= {"samples": setup.samples, "neighbours": setup.neighbours, **options}
    if without:
        given[without] = 0.0
    written = (f"{key}={value if isinstance(value, str) else format(value, 'g')}" for key, value in given.items())
    return f"tokengraph({', '.join(written)})"


@dataclass(frozen=True)
class _Tuned:
    arm: Arm
    lr: float


def _tuned(lab: Lab, setup: Setup, pair: Pair, name: str, role: Role, label: str, method: str, *, seed: int) -> _Tuned:
    """Return an arm at the learning rate that was best on validation."""
    look = partial(likeness, data=pair.bundle.val, samples=setup.samples, neighbours=setup.neighbours)

    def at(point: Mapping[str, Any], trials: int = 1) -> Arm:
        training = replace(setup.training, lr=point["lr"])
        return pair.arm(
            lab, role, label, method, training, phrase="the student alone" if role == "reference" else label,
            diagnostics=look, trials=trials,
        )  # fmt: skip

    def run(point: Mapping[str, Any]) -> Callable[[int], Outcome]:
        return at(point).run

    point, trials = lab.tune(
        name, run, {"lr": setup.learning_rates}, trials=len(setup.learning_rates), seed=seed,
        metric=get_task(pair.bundle.task).metric, pair=setup.pair, training=setup.training, method=method,
        data=pair.bundle.fingerprint, teacher=pair.teacher.fingerprint,
    )  # fmt: skip
    return _Tuned(at(point, trials), point["lr"])
