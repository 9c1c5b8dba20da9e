"""MIX-KD's experiment: how much to mix, temperature or deviation, and a teacher trained with mixup or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from distil.data.bundle import Bundle
from distil.engine.distiller import Distiller
from distil.functional.mixing import by_deviation
from distil.loops.images import ImagePair, Pair, image_pair
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Training, train_teacher
from distil.loops.tuning import tuning_seed
from distil.tasks import get_task
from distil.tasks.scores import class_scores

__all__ = ["EVIDENCE", "Setup", "experiment"]

EVIDENCE: tuple[Mapping[str, Any], ...] = ({},)
"""The settings under which the evidence is made, laid over the defaults."""

MIXUP_TEACHER = "mixkd(mixing=full, loss=plain, gamma=1, alpha=0)"


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; seeds, data order and initial weights are shared by the arms.

    Every arm has the same tries of a learning rate, on a seed that is not shown, since the rescaled loss needs a
    smaller step.
    """

    pair: ImagePair = field(default_factory=ImagePair)
    training: Training = field(default_factory=lambda: Training(epochs=40, batch_size=64, lr=1e-2))
    learning_rates: tuple[float, ...] = (1e-2, 3e-3, 1e-3)
    partial: float = 0.9
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: alone, and {no, full, partial mixing} x {temperature, deviation} x {plain, mixup teacher}."""
    pair = image_pair(setup.pair, lab)
    smooth = train_teacher(
        lab, setup.pair.teacher, pair.rich, setup.pair.teacher_training, seed=0, name="mixup-teacher",
        method=MIXUP_TEACHER,
    )  # fmt: skip
    seed = tuning_seed(setup.seeds)
    arms = {"alone": _tuned(lab, setup, pair, "alone", "reference", "Student alone", "supervised", seed)}
    teachers = {"": (pair, ""), "-smooth": (replace(pair, teacher=smooth), ", mixup teacher")}
    losses = (("plain", "T = 4"), ("rescaled", "σ"))
    mixings = (("off", "no mixing"), ("full", "full mixing"), ("partial", "partial mixing"))
    for (suffix, (chosen, by)), (loss, said), (mixing, share) in product(teachers.items(), losses, mixings):
        role: Role = "ablation"
        if not suffix and (mixing, loss) in (("off", "plain"), ("partial", "rescaled")):
            role = "rival" if mixing == "off" else "method"
        text = f"mixkd(mixing={mixing}, loss={loss}, partial={setup.partial:g})"
        label = f"{share}, {said}{by}"
        name = f"{mixing}-{loss}{suffix}"
        arms[name] = _tuned(lab, setup, chosen, name, role, label, text, seed)
    rates = [(one.arm, one.lr) for one in arms.values()]
    metrics = ", ".join(f"{key} {value:.3g}" for key, value in smooth.metrics.items())
    setting = {
        **pair.setting(setup.training),
        "Learning rate": f"of {', '.join(f'{lr:g}' for lr in setup.learning_rates)} the best on validation for each "
        f"arm (seed {seed}): " + ", ".join(f"{arm.label} {lr:g}" for arm, lr in rates),
        "Mixup teacher": f"the same network and images, trained on fully mixed batches: {metrics}",
        "Partial mixing": f"{setup.partial:g} of a batch drawn with replacement stay whole, as published",
    }
    shown = {name: one.arm for name, one in arms.items()}
    return Experiment(
        "MIX-KD: how much to mix, and a deviation in place of a temperature", pair.bundle, shown, pair.teacher, setting
    )


@dataclass(frozen=True)
class _Tuned:
    arm: Arm
    lr: float


def _tuned(lab: Lab, setup: Setup, pair: Pair, name: str, role: Role, label: str, method: str, seed: int) -> _Tuned:
    """Return an arm at the learning rate that was best on validation."""

    def at(point: Mapping[str, Any], trials: int = 1) -> Arm:
        training = replace(setup.training, lr=point["lr"])
        return pair.arm(
            lab, role, label, method, training, phrase="the student alone" if role == "reference" else label,
            diagnostics=_calibration(pair.bundle), trials=trials,
        )  # fmt: skip

    def run(point: Mapping[str, Any]) -> Callable[[int], Outcome]:
        return at(point).run

    task = get_task(pair.bundle.task)
    point, trials = lab.tune(
        name, run, {"lr": setup.learning_rates}, trials=len(setup.learning_rates), seed=seed, metric=task.metric,
        pair=setup.pair, training=setup.training, method=method, data=pair.bundle.fingerprint,
        teacher=pair.teacher.fingerprint,
    )  # fmt: skip
    return _Tuned(at(point, trials), point["lr"])


def _calibration(bundle: Bundle) -> Callable[[Distiller], dict[str, float]]:
    """Return the calibration error on the test images after division by each row's deviation."""

    def read(distiller: Distiller) -> dict[str, float]:
        said = distiller.task.predict(distiller.deployed(), bundle.test)
        return {"ece on z/σ": class_scores(by_deviation(said["logits"], eps=1e-7), said["labels"])["ece"]}

    return read
