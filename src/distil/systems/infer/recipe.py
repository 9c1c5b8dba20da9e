"""INFER's experiment: what additive images, shared by all classes, add to a few real ones of small CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from distil.data import split
from distil.data.augmented import Augmentation
from distil.data.condensed import CondensedSet
from distil.loops.condense import condense
from distil.loops.condensed import StudentTraining, set_arm, stored_set
from distil.loops.images import ImagePair, Pair, image_pair
from distil.loops.lab import Arm, Lab, Role
from distil.loops.labelling import Labelling, relabelled
from distil.loops.order import Order
from distil.loops.recipe import Experiment
from distil.loops.training import Training, train_teacher
from distil.systems.infer.procedure import Infer, naturals_only

__all__ = ["EVIDENCE", "Setup", "experiment"]

EVIDENCE: tuple[Mapping[str, Any], ...] = (
    {},
    {"per_class": 50, "training": {"updates": 1200}, "synthesis": {"steps": 100}},
)
"""10 images a class (the defaults) and 50, with fewer steps, since there are five times as many additive images."""


def _pair() -> ImagePair:
    return ImagePair(
        data="cifar10",
        size=16,
        train=10000,
        teacher_train=10000,
        val=2000,
        teacher="distil:cnn(widths=(32, 64, 128))",
        student="distil:cnn(widths=(16, 32, 64))",
        teacher_training=Training(epochs=8, batch_size=64, lr=2e-3),
    )


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; a seed's arms share initial weights, and all arms views and labels but where they say so.

    ``pair.teacher`` and ``more_teachers`` are the networks: additive images are made for each, all label; SRe2L and
    RDED are made by the first. ``synthesis`` is how INFER optimises, ``sre2l_statistics`` SRe2L's own weight of the
    batch-norm term; ``views`` is how students are shown every set but RDED's, which has its own. ``test`` is how many
    test images are read at most.
    """

    pair: ImagePair = field(default_factory=_pair)
    more_teachers: tuple[str, ...] = ("distil:resnet(depth=8)",)
    per_class: int = 10
    training: StudentTraining = field(default_factory=lambda: StudentTraining(updates=800))
    synthesis: Infer = field(default_factory=lambda: Infer(steps=150, jitter=2))
    sre2l_statistics: float = 0.01
    views: Augmentation = field(default_factory=lambda: Augmentation(pad=2))
    test: int = 5000
    seeds: tuple[int, ...] = (0, 1, 2)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: random sets with both kinds of labels, SRe2L, RDED, INFER and what it is made of."""
    pair = image_pair(setup.pair, lab)
    (test,) = split(pair.bundle.test, [min(setup.test, len(pair.bundle.test))])
    bundle = replace(pair.bundle, test=test, fingerprint=f"{pair.bundle.fingerprint}-test-{len(test)}")
    more = [
        train_teacher(lab, spec, pair.rich, setup.pair.teacher_training, seed=0, name=f"teacher {k + 2}")
        for k, spec in enumerate(setup.more_teachers)
    ]
    shop = _Shop(lab, setup, replace(pair, bundle=bundle), (pair.teacher.module, *(each.module for each in more)))
    said = "; ".join(f"{each.name}: {each.metrics['accuracy']:.1f} %" for each in (pair.teacher, *more))
    networks = len(more) + 1
    count, alone = (replace(setup.synthesis, shared=shared).naturals(shop.order(0)) for shared in (True, False))
    setting = {
        "Data": f"{setup.pair.data} at {setup.pair.size} px: small sets are made from {len(bundle.train)} training "
        f"images, {len(bundle.val)} choose the best state ({setup.training.validate} of them each time), {len(test)} "
        "test images",
        "Budget": f"{setup.per_class} images a class, and {setup.training.updates} updates of {setup.views.batch} "
        f"samples by {setup.training.optimizer} at {setup.training.lr:g} for every arm",
        "INFER": f"{count} real images a class and {count * networks} additive ones for all classes, which give "
        f"{count * (networks + 1)} a class; {setup.synthesis.steps} steps at {setup.synthesis.rate:g}",
        "An image for each class": f"leaves room for {alone} real images a class in the same budget, so it differs "
        "from INFER in that number too",
        "Networks": f"{said}; trained on {setup.pair.teacher_train} images",
        "SRe2L": f"steps, rate and shifts of INFER; its own weight of statistics, {setup.sre2l_statistics:g} against "
        f"{setup.synthesis.statistics:g}",
        "Tuning": "none: one setting for each arm, as published but for steps and shifts; seed 0 was seen before, "
        "and nothing was changed after it",
        "Student": setup.pair.student,
        "Labels": "soft ones are the mean of the networks' logits, of each image as it is (static) or of each view "
        "(per step), at temperature 30; RDED has its own views and temperature 20",
    }
    title = f"INFER: {setup.per_class} images a class"
    return Experiment(title, bundle, shop.arms(), None, setting)


@dataclass(frozen=True)
class _Shop:
    """What all arms share."""

    lab: Lab
    setup: Setup
    pair: Pair
    networks: tuple[Any, ...]

    def arms(self) -> dict[str, Arm]:
        made = replace(self.setup.synthesis, labels="hard")  # labelled below, as each arm asks
        shared, alone = asdict(made), asdict(replace(made, shared=False))
        steps = {"steps": made.steps, "rate": made.rate, "jitter": made.jitter, "labels": "hard"}
        sre2l = {**steps, "statistics": self.setup.sre2l_statistics}
        arms: dict[str, tuple[Role, str, Callable[[int], CondensedSet]]] = {
            "hard": ("reference", "Random, hard labels", self.labelled("random", "hard")),
            "soft": ("rival", "Random, static labels", self.labelled("random", "static")),
            "sre2l": ("rival", "SRe2L, static labels", self.labelled("sre2l", "static", **sre2l)),
            "rded": ("rival", "RDED, labels per step", self.made("rded", batch=self.setup.views.batch)),
            "infer": ("method", "INFER, static labels", self.labelled("infer", "static", **shared)),
            "dynamic": ("method", "INFER, labels per step", self.labelled("infer", "dynamic", **shared)),
            "real": ("ablation", "Its real images alone", self.naturals(**shared)),
            "per-class": ("ablation", "An additive image for each class", self.labelled("infer", "static", **alone)),
        }
        return {
            name: set_arm(
                self.lab, role, label, make, self.pair.chosen.student, self.pair.bundle, self.setup.training,
                teachers=self.networks,
            )
            for name, (role, label, make) in arms.items()
        }  # fmt: skip

    def order(self, seed: int, **options: Any) -> Order:
        networks = self.networks
        return Order(
            self.pair.bundle, self.setup.per_class, seed, networks, self.lab.device, self.lab.progress, options
        )

    def made(self, method: str, **options: Any) -> Callable[[int], CondensedSet]:
        """Return a maker of sets that stores each by the seed and by what it depends on."""

        def make(seed: int) -> CondensedSet:
            order = self.order(seed, **options)
            if method in ("sre2l", "rded"):  # of one network; where labels are asked later, all of them answer
                order = replace(order, teachers=self.networks[:1])
            if method == "random":
                order = replace(order, teachers=())
            return stored_set(
                self.lab, f"set-{method}", lambda: condense(order, method), method=method, seed=seed, options=options,
                per_class=order.per_class, data=self.pair.bundle.fingerprint, networks=list(order.teachers),
            )  # fmt: skip

        return make

    def labelled(self, method: str, kind: str, **options: Any) -> Callable[[int], CondensedSet]:
        """Return a maker of sets whose labels are made anew, by all networks, and whose views are those of all."""
        temperature = self.setup.synthesis.temperature
        labelling = Labelling(kind, temperature=temperature, augmentation=self.setup.views)
        make, task = self.made(method, **options), self.order(0).task
        return lambda seed: relabelled(make(seed), self.networks, labelling, task=task, device=self.lab.device)

    def naturals(self, **options: Any) -> Callable[[int], CondensedSet]:
        """Return a maker of INFER's sets without their additive images, under the same labels."""
        make = self.labelled("infer", "static", **options)
        return lambda seed: naturals_only(make(seed))
