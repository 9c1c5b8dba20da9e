"""MEAL V2's experiment: what an already trained student gains from averaged soft labels over more label training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from distil.errors import DistilError
from distil.loops.images import ImagePair, Pair, image_pair
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Teacher, Training, build_model, distil, teacher_arm, train_teacher
from distil.loops.tuning import tuning_seed
from distil.tasks import get_task

__all__ = ["EVIDENCE", "Setup", "experiment"]

EVIDENCE: tuple[Mapping[str, Any], ...] = ({},)
"""The settings under which the evidence is made, laid over the defaults."""


def _image_pair() -> ImagePair:
    return ImagePair(teacher="distil:mlp(hidden=256)", teacher_training=Training(epochs=15, batch_size=64, lr=1e-3))


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; seeds, data order, initial weights and each seed's checkpoint are shared by the arms.

    ``pair.teacher`` is the one that teaches alone, ``more_teachers`` join it. ``pretraining`` makes the student's
    checkpoint from labels; ``training`` is what every arm adds. An arm from scratch trains for the epochs of both.
    Every arm has the same tries of a learning rate, on a seed that is not shown.
    """

    pair: ImagePair = field(default_factory=_image_pair)
    more_teachers: tuple[str, ...] = ("distil:mlp(hidden=128)", "distil:mlp(hidden=64)")
    pretraining: Training = field(
        default_factory=lambda: Training(epochs=15, optimizer="sgd", lr=0.03, weight_decay=5e-4)
    )
    training: Training = field(default_factory=lambda: Training(epochs=15, optimizer="sgd", lr=0.03))
    learning_rates: tuple[float, ...] = (0.1, 0.03, 0.01)
    weight_decay: float = 5e-4
    reduction: int = 2
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class _Row:
    """An arm before its weight decay and learning rate."""

    label: str
    method: str
    roles: tuple[Role, ...]  # without weight decay, and with it
    start: str = "checkpoint"  # or "scratch" (the epochs of both trainings), "scratch, short" (those of the second)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: more labels, one teacher, three, with discriminator, with labels, from scratch; and decay."""
    if setup.pretraining.batch_size != setup.training.batch_size:
        raise DistilError(
            f"pretraining.batch_size={setup.pretraining.batch_size} and "
            f"training.batch_size={setup.training.batch_size}: give both the same, so that an arm from scratch makes "
            "equal updates."
        )
    pair = image_pair(setup.pair, lab)
    more = [train_teacher(lab, name, pair.rich, setup.pair.teacher_training, seed=0) for name in setup.more_teachers]
    teachers = {f"t{k}": each for k, each in enumerate((pair.teacher, *more))}
    count = len(teachers)
    mean = "meal_v2(discriminator=0)"
    rows = {
        "ce": _Row("More label training", "supervised", ("reference", "rival")),
        "one": _Row("One teacher", "meal_v2(ensemble=single, discriminator=0)", ("rival", "ablation")),
        "mean": _Row(f"Mean of {count}", mean, ("ablation", "ablation")),
        "meal": _Row(
            f"Mean of {count} + discriminator", f"meal_v2(reduction={setup.reduction})", ("method", "ablation")
        ),
        "labels": _Row(f"Mean of {count} + labels", "meal_v2(discriminator=0, labels=1)", ("ablation", "ablation")),
        "scratch": _Row(f"Mean of {count}, from scratch", mean, ("ablation", "ablation"), "scratch"),
        "scratch-short": _Row(f"Mean of {count}, from scratch, fewer updates", mean, ("bound",), "scratch, short"),
    }
    workshop = _Workshop(lab, setup, pair, {name: each.module for name, each in teachers.items()}, teachers)
    made = {
        name + suffix: workshop.tuned(name + suffix, row, role, decay)
        for name, row in rows.items()
        for role, suffix, decay in zip(row.roles, ("", "-decay"), (0.0, setup.weight_decay))
    }
    arms = {name: arm for name, (arm, _) in made.items()}
    arms["checkpoint"] = Arm("bound", teacher_arm(workshop.checkpoint, pair.bundle), label="The checkpoint itself")
    whole = setup.pretraining.epochs + setup.training.epochs
    setting = {
        **pair.setting(setup.training),
        "Budget": f"{whole} epochs of batches of {setup.training.batch_size} for every arm that is no bound, SGD with "
        f"momentum 0.9: {setup.pretraining.epochs} on labels (weight decay {setup.pretraining.weight_decay:g}), which "
        f"each seed's arms share, and {setup.training.epochs} of the arm's own; from scratch all {whole} are its own",
        "Learning rate": f"of {', '.join(f'{lr:g}' for lr in setup.learning_rates)} the best on validation for each "
        f"arm (seed {tuning_seed(setup.seeds)}): "
        + ", ".join(f"{arms[name].label} {lr:g}" for name, (_, lr) in made.items())
        + f"; the discriminator's own is 1e-4; schedule {setup.training.schedule}",
        "Teachers": "; ".join(f"{each.name}: {_shown(each)}" for each in teachers.values())
        + f"; trained on {setup.pair.teacher_train} images; alone it is the first",
        "Discriminator": f"widths shrink by {setup.reduction}; by 8, as published, 10 classes leave no channel",
    }
    title = "MEAL V2: averaged soft labels for a student that is already trained"
    return Experiment(title, pair.bundle, arms, pair.teacher, setting)


def _shown(teacher: Teacher) -> str:
    return ", ".join(f"{key} {value:.3g}" for key, value in teacher.metrics.items())


@dataclass(frozen=True)
class _Workshop:
    """What all arms share."""

    lab: Lab
    setup: Setup
    pair: Pair
    modules: Mapping[str, nn.Module]
    teachers: Mapping[str, Teacher]

    def checkpoint(self, seed: int) -> Teacher:
        """Return the student of a seed, trained on labels; stored, and the same for all arms."""
        spec = self.pair.chosen.student
        fresh = build_model(spec, self.pair.bundle, seed=seed)
        return train_teacher(
            self.lab, spec, self.pair.bundle, self.setup.pretraining, seed=seed, name="checkpoint", start=fresh
        )

    def tuned(self, name: str, row: _Row, role: Role, decay: float) -> tuple[Arm, float]:
        """Return an arm at the learning rate that was best on validation, and that rate."""

        def run(point: Mapping[str, Any]) -> Callable[[int], Outcome]:
            return self.arm(row, role, decay, point["lr"]).run

        setup, task = self.setup, get_task(self.pair.bundle.task)
        point, trials = self.lab.tune(
            name, run, {"lr": setup.learning_rates}, trials=len(setup.learning_rates), seed=tuning_seed(setup.seeds),
            metric=task.metric, pair=setup.pair, training=setup.training, pretraining=setup.pretraining, row=row,
            decay=decay, data=self.pair.bundle.fingerprint,
            teachers={key: each.fingerprint for key, each in self.teachers.items()},
        )  # fmt: skip
        return self.arm(row, role, decay, point["lr"], trials), point["lr"]

    def arm(self, row: _Row, role: Role, decay: float, lr: float, trials: int = 1) -> Arm:
        """Return an arm: the student from its checkpoint, or from scratch for as many updates in all."""
        before = self.setup.pretraining.epochs
        training = replace(self.setup.training, lr=lr, weight_decay=decay)
        if row.start == "scratch":
            training = replace(training, epochs=before + training.epochs)

        def run(seed: int) -> Outcome:
            scratch = row.start.startswith("scratch")
            start = None if scratch else self.checkpoint(seed).module
            student = self.pair.chosen.student if start is None else lambda: deepcopy(start).train()
            teachers = None if row.method == "supervised" else self.modules
            made = distil(self.lab, row.method, student, teachers, self.pair.bundle, training, seed=seed, trials=trials)
            batches = math.ceil(len(self.pair.bundle.train) / training.batch_size)
            spent = 0 if start is None else math.ceil(batches / self.setup.pretraining.accumulate) * before
            return replace(made, budget={**made.budget, "updates": made.budget["updates"] + spent})

        label = row.label + (f", weight decay {decay:g}" if decay else "")
        phrase = "more label training" if role == "reference" else label
        return Arm(role, run, label=label, phrase=phrase, expression=row.method)
