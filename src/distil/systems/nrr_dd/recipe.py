"""NRR-DD's experiment: fresh students on a few images a class, by what the images are and by what labels them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from distil.data import split
from distil.data.condensed import CondensedSet
from distil.loops.condense import condense
from distil.loops.condensed import StudentTraining, set_arm, stored_set
from distil.loops.images import ImagePair, image_pair
from distil.loops.lab import Lab, Role
from distil.loops.order import Order
from distil.loops.recipe import Experiment
from distil.loops.training import Training
from distil.report.verdict import paired_interval
from distil.systems.nrr_dd.procedure import Options, labelled

__all__ = ["EVIDENCE", "Setup", "experiment"]

EVIDENCE: tuple[Mapping[str, Any], ...] = ({}, {"per_class": 50, "images": {"steps": 50, "epochs": 20}})
"""10 images a class (the defaults) and 50, with half the steps, since there are five times as many images; as many
updates, which see each image a fifth as often, so a fifth of the epochs of labels is used."""


def _pair() -> ImagePair:
    return ImagePair(
        data="cifar10",
        train=5000,
        teacher_train=5000,
        val=1000,
        teacher="distil:cnn(widths=(16, 32, 64, 64))",
        student="distil:cnn(widths=(16, 32, 64))",
        teacher_training=Training(epochs=15, batch_size=64, lr=3e-3),
    )


@dataclass(frozen=True)
class Setup:
    """The recipe's settings. A seed draws images, views and a student's first weights; the teacher is one.

    None was tuned for any arm; but updates, schedule and epochs of labels were changed after seed 0 had been seen, test
    samples too, so the seeds leave it out. ``images`` holds the method's own arm; the others change what their name
    says. ``noise`` is the rate of the arm that starts from noise, SRe2L's. ``test`` is how many test images are read at
    most.
    """

    pair: ImagePair = field(default_factory=_pair)
    per_class: int = 10
    images: Options = field(default_factory=lambda: Options(candidates=100, steps=100, epochs=100))
    noise: float = 0.25
    training: StudentTraining = field(default_factory=lambda: StudentTraining(updates=200, lr=5e-3, validate=500))
    test: int = 2500
    seeds: tuple[int, ...] = (1, 2, 3)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: labels on the same images, then images under the same labels of two numbers."""
    pair = image_pair(setup.pair, lab)
    (test,) = split(pair.bundle.test, [min(setup.test, len(pair.bundle.test))])
    bundle = replace(pair.bundle, test=test, fingerprint=f"{pair.bundle.fingerprint}-test-{len(test)}")
    off, every = {"refine": "off"}, {"init": "noise", "refine": "all-pixels", "lr": setup.noise}
    arms: dict[str, tuple[Role, str, dict[str, Any]]] = {
        "random": ("reference", "Real images, at random", {"init": "random-real", **off}),
        "nrr-dd": ("method", "NRR-DD, two numbers", {}),
        "soft": ("rival", "the same images, soft labels", {"labels": "soft"}),
        "onehot": ("rival", "the same images, one-hot labels", {"labels": "onehot"}),
        "rded": ("rival", "RDED's images", {"init": "rded", **off}),
        "sre2l": ("rival", "noise, all pixels refined (SRe2L)", every),
        "not-refined": ("ablation", "not refined", off),
        "random-refined": ("ablation", "real images at random, refined", {"init": "random-real"}),
        "critical-only": ("ablation", "critical pixels refined", {"refine": "critical-only"}),
        "correct": ("ablation", "of the crops it gets right", {"require_correct": True}),
        "confident": ("ablation", "the most confident crops", {"confidence": "high"}),
    }

    def order(seed: int, changed: Mapping[str, Any]) -> Order:
        chosen, plain = replace(setup.images, **changed), Options()
        told = {f.name: value for f in fields(Options) if (value := getattr(chosen, f.name)) != getattr(plain, f.name)}
        return Order(bundle, setup.per_class, seed, (pair.teacher.module,), lab.device, lab.progress, told)

    def made(seed: int, changed: Mapping[str, Any]) -> CondensedSet:
        """The images of an arm, stored by what they are; then its labels, which are made anew."""
        bare = order(seed, {**changed, "labels": "onehot"})
        small = stored_set(
            lab, "nrr-dd-images", lambda: condense(bare, "nrr-dd"), options=bare.options, seed=seed,
            per_class=setup.per_class, data=bundle.fingerprint, teacher=pair.teacher.fingerprint,
        )  # fmt: skip
        return labelled(small, order(seed, changed))

    def arm(role: Role, label: str, changed: Mapping[str, Any]) -> Any:
        return set_arm(
            lab, role, label, lambda seed: made(seed, changed), pair.chosen.student, bundle, setup.training,
            phrase="real images at random" if role == "reference" else label,
        )  # fmt: skip

    i, t = setup.images, setup.training
    setting = {
        "Data": f"{pair.chosen.data}: {len(bundle.train)} training images, {len(bundle.val)} to choose the best state, "
        f"{len(bundle.test)} test images",
        "Teacher": f"{pair.chosen.teacher}, trained on {pair.chosen.teacher_train} images",
        "Student": f"{pair.chosen.student}, from fresh weights",
        "Small sets": f"{setup.per_class} images a class; crops of {i.candidates} real images of each; {i.steps} steps "
        f"of refining, threshold {i.threshold:g}",
        "Labels": f"of {i.epochs} epochs of views with {i.mix}, in half precision; two numbers unless an arm says "
        "otherwise",
        "Budget": f"{t.updates} updates of batches of {i.view_batch}, {t.optimizer}, learning rate {t.lr:g} "
        f"({t.schedule}), for every arm",
        "Tuning": "one setting for each arm; updates, schedule and epochs of labels were changed once seed 0 had been "
        "seen, which the default seeds leave out",
        "SRe2L": "its arm is as it is refined here: the first batch norm weighs as the others, labels are those above",
        "Readings": "the authors' code could not be had: all settings are this project's readings of the paper",
    }
    title = f"NRR-DD: {setup.per_class} images a class of {pair.chosen.data}"
    return Experiment(
        title, bundle, {name: arm(*given) for name, given in arms.items()}, pair.teacher, setting, closing=_tables
    )


def _tables(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What labels cost and give on the same images; and the method against every other arm, seed by seed."""
    arms = {arm["name"]: arm for arm in report["arms"]}
    labels = [
        [name, f"{arms[key]['diagnostics']['labels bytes'][0]:,.0f}", _shown(_scores(arms[key]), sign="")]
        for name, key in (("soft", "soft"), ("two numbers", "nrr-dd"), ("one-hot", "onehot"))
    ]
    ours = _scores(arms["nrr-dd"])
    against = [
        [arm["label"], _shown([a - b for a, b in zip(ours, _scores(arm), strict=True)])]
        for name, arm in arms.items()
        if name != "nrr-dd"
    ]
    return [
        {
            "title": "Labels of the same images",
            "note": "Bytes of the labels in half precision, classes among them; accuracy in % with its 95 % interval.",
            "head": ["labels", "bytes", "accuracy"],
            "rows": labels,
        },
        {
            "title": "NRR-DD less the other arm",
            "note": "Points of accuracy with the 95 % interval of paired differences; not widened for their number.",
            "head": ["the other arm", "difference"],
            "rows": against,
        },
    ]


def _scores(arm: Mapping[str, Any]) -> list[float]:
    return [float(value) for value in arm["metrics"]["accuracy"]["best"]]


def _shown(values: Sequence[float], *, sign: str = "+") -> str:
    found = paired_interval(values)
    return f"{found.mean:{sign}.1f}" + ("" if found.half is None else f" ± {found.half:.1f}")
