"""TGeo-KD's experiment: does a learned ratio notice a wrong teacher, and what does it cost under a right one?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from distil.data.held import held_part
from distil.engine.distiller import Distiller
from distil.engine.reading import read
from distil.errors import DistilError
from distil.loops.images import ImagePair, Pair, image_pair
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Training, distil
from distil.loops.tuning import tuning_seed
from distil.loops.wrong import WrongTeacher, wrong_on
from distil.systems.tgeo_kd.method import TGeoKD
from distil.tasks import get_task

__all__ = ["EVIDENCE", "Setup", "experiment"]

_TABLE: dict[str, Any] = {
    "pair": {
        "data": "breast-cancer", "train": 200, "teacher_train": 398, "val": 85, "teacher": "distil:mlp(hidden=64)",
        "student": "distil:mlp(hidden=4)", "teacher_training": {"lr": 1e-2},
    },
    "training": {"batch_size": 32, "epochs": 20},
    "seeds": (0, 1, 2, 3, 4),
}  # fmt: skip
EVIDENCE: tuple[Mapping[str, Any], ...] = ({}, {"wrong": 0.0}, _TABLE, {**_TABLE, "wrong": 0.0})
"""Images and a table, each under a teacher that is wrong on 40 % of the training samples, and under the clean one."""


def _pair() -> ImagePair:
    return ImagePair(
        train=2000, val=1000, teacher_train=10000, teacher_training=Training(epochs=15, batch_size=64, lr=1e-3)
    )


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; seeds, data order, initial weights and held-out samples are shared by the arms.

    Every arm holds out the same samples, which no student learns from. Each arm has the same number of tries, scored on
    these samples, on a seed that is not shown: of its ratio, of what its ratios learn by, or else of the student's
    learning rate.

    Attributes:
        wrong: the share of the training samples on which the teacher is surely wrong; 0 leaves it as it is.
        validation: the share of them that is held out.
        rates, ratios, controller_rates: what is tried.
    """

    pair: ImagePair = field(default_factory=_pair)
    training: Training = field(default_factory=lambda: Training(epochs=15, batch_size=64, lr=1e-2))
    wrong: float = 0.4
    validation: float = 0.1
    temperature: float = 1.5
    rates: tuple[float, ...] = (1e-2, 3e-3, 1e-3)
    ratios: tuple[float, ...] = (0.2, 0.5, 0.8)
    controller_rates: tuple[float, ...] = (3e-2, 1e-2, 3e-3)
    seeds: tuple[int, ...] = (0, 1, 2)


ARMS: dict[str, tuple[Role, str, str, str]] = {
    "alone": ("reference", "Student alone", "rule=fixed, alpha=0", "lr"),
    "half": ("rival", "fixed α = 0.5", "rule=fixed, alpha=0.5", "lr"),
    "fixed": ("rival", "fixed α, tuned", "rule=fixed", "alpha"),
    "annealed": ("rival", "annealed α (ANL)", "rule=annealed", "lr"),
    "ada": ("rival", "α by margin (ADA)", "rule=ada", "lr"),
    "wls": ("rival", "α by likelihood (WLS)", "rule=wls", "lr"),
    "free": ("rival", "free α per sample (RW)", "rule=free", "controller_lr"),
    "untrained": ("ablation", "untrained controller", "trained=false", "lr"),
    "joint": ("ablation", "controller on the training loss", "unroll=false", "controller_lr"),
    "tgeo": ("method", "TGeo-KD", "rule=tgeo", "controller_lr"),
}
"""Role, label, options and what is tuned, by name."""


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: alone, fixed ratios, the four rules, and controllers that learn this, that or nothing."""
    tried = {"lr": setup.rates, "alpha": setup.ratios, "controller_lr": setup.controller_rates}
    if len({len(values) for values in tried.values()}) > 1:
        raise DistilError(
            f"rates={setup.rates}, ratios={setup.ratios} and controller_rates={setup.controller_rates} must be equally "
            "many, since every arm has the same number of tries."
        )
    pair = image_pair(setup.pair, lab)
    if setup.wrong:
        task, classes = get_task(pair.bundle.task), len(pair.bundle.classes)
        pair = replace(pair, teacher=wrong_on(pair.teacher, task, pair.bundle.train, setup.wrong, classes=classes))
    held = held_part(pair.bundle.train, setup.validation)
    trial = replace(pair, bundle=replace(pair.bundle, val=held))
    arms, chosen = {}, []
    for name, (role, label, options, key) in ARMS.items():
        arms[name], value = _tuned(lab, setup, pair, trial, name, role, label, options, key, tried[key])
        chosen.append(f"{label}: {key} {value:g}")
    b, t = pair.bundle, setup.training
    setting = {
        **pair.setting(t),
        "Data": f"{setup.pair.data}: {len(b.train)} training samples, {len(held)} of them held out under every "
        f"arm (they train the controller, and choose the settings of all arms), {len(b.val)} to choose the epoch, "
        f"{len(b.test)} test samples",
        "Teacher": f"{setup.pair.teacher}, trained on {setup.pair.teacher_train} samples, the student's among them; "
        + (f"surely wrong on {setup.wrong:.0%} of the student's" if setup.wrong else "as it is"),
        "Tuning": f"{len(setup.rates)} tries for every arm on the held-out samples (seed {tuning_seed(setup.seeds)}); "
        "chosen: " + ", ".join(chosen),
        "Temperature": f"{setup.temperature:g} for every arm",
    }
    title = "TGeo-KD: a ratio between teacher and label for each sample"
    return Experiment(title, pair.bundle, arms, pair.teacher, setting)


def _tuned(
    lab: Lab, setup: Setup, pair: Pair, trial: Pair, name: str, role: Role, label: str, options: str, key: str,
    values: tuple[float, ...],
) -> tuple[Arm, float]:  # fmt: skip
    """Return an arm at the value that was best on the held-out samples, and the value."""
    common = f"temperature={setup.temperature:g}, validation={setup.validation:g}"

    def at(point: Mapping[str, Any], on: Pair, trials: int = 1) -> Arm:
        own = "" if key == "lr" else f", {key}={point[key]:g}"
        training = replace(setup.training, lr=point["lr"]) if key == "lr" else setup.training
        method = f"tgeokd({options}{own}, {common})"

        def run(seed: int) -> Outcome:
            return distil(
                lab, method, setup.pair.student, on.teacher, on.bundle, training, seed=seed, diagnostics=_ratios(pair),
                trials=trials, check_teacher=False,  # on held-out samples a wrong teacher may well be below chance
            )  # fmt: skip

        phrase = "the student alone" if role == "reference" else label
        return Arm(role, run, label=label, phrase=phrase, expression=method)

    def run(point: Mapping[str, Any]) -> Callable[[int], Outcome]:
        return at(point, trial).run

    point, trials = lab.tune(
        name, run, {key: values}, trials=len(values), seed=tuning_seed(setup.seeds),
        metric=get_task(pair.bundle.task).metric, pair=setup.pair, training=setup.training,
        method=f"{options} {common}", data=trial.bundle.fingerprint, teacher=pair.teacher.fingerprint,
    )  # fmt: skip
    return at(point, pair, trials), point[key]


def _ratios(pair: Pair) -> Callable[[Distiller], dict[str, float]]:
    """Return the mean ratio over the training samples, and over those on which the teacher is wrong and is not."""
    teacher, train = pair.teacher.module, pair.bundle.train

    def shown(distiller: Distiller) -> dict[str, float]:
        method = next(c.method for c in distiller.method if isinstance(c.method, TGeoKD))
        found, wrong = [], []
        for s, t, batch in read(distiller, train, batch_size=min(256, len(train))):
            found.append(method.ratio(s.logits, t.logits, batch, distiller.ctx))
            if isinstance(teacher, WrongTeacher):
                wrong.append(teacher.is_wrong(batch["id"]))
        ratios = torch.cat(found)
        said = {"mean α": float(ratios.mean())}
        if wrong:
            misled = torch.cat(wrong)
            said["mean α where the teacher is wrong"] = float(ratios[misled].mean())
            said["mean α where it is not"] = float(ratios[misled.logical_not()].mean())
        return said

    return shown
