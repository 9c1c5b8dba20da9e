"""DMAE's experiment: an encoder that learned without labels, alone or from a teacher, under a probe or fine-tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distil.data.bundle import Bundle
from distil.loops.encoders import Images, Judged, Pretrained, encoder_of, images, judged, pretrained, taught_by, tried
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Teacher, Training, build_model
from distil.loops.tuning import tuning_seed

__all__ = ["EVIDENCE", "Setup", "experiment"]

EVIDENCE: tuple[Mapping[str, Any], ...] = ({}, {"judged": {"score": "fine-tuned"}})
"""The settings under which the evidence is made, laid over the defaults: one run for each way to judge an encoder."""


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; seeds, order of the images and initial weights are shared by the arms.

    Attributes:
        images: what is seen without labels and with.
        teacher, student: masked autoencoders by name.
        pairs: aligned blocks; (2, 2) is ¾ of four blocks on both sides.
        weights: further values of α that are shown beside the paper's 1.
        more_hidden: the larger mask ratio of one arm.
        training: of every student's pre-training. ``teacher_training``: of the teacher's, on the same images.
        learning_rates: of every arm's pre-training the one whose probe is best on validation images is taken, by one
            run each under a seed that is not shown.
        judged: how encoders are judged.
    """

    images: Images = field(default_factory=Images)
    teacher: str = "distil:mae(patch=7, dim=64, depth=4, heads=4, decoder_dim=32, decoder_depth=1, decoder_heads=4)"
    student: str = "distil:mae(patch=7, dim=32, depth=4, heads=4, decoder_dim=32, decoder_depth=1, decoder_heads=4)"
    pairs: tuple[tuple[int, int], ...] = ((2, 2),)
    weights: tuple[float, ...] = (5.0, 20.0)
    mask_ratio: float = 0.75
    more_hidden: float = 0.9
    teacher_training: Training = field(
        default_factory=lambda: Training(epochs=40, batch_size=128, lr=1e-3, weight_decay=0.05, warmup=0.1)
    )
    training: Training = field(
        default_factory=lambda: Training(epochs=10, batch_size=128, lr=1e-3, weight_decay=0.05, warmup=0.1)
    )
    learning_rates: tuple[float, ...] = (3e-3, 1e-3)
    judged: Judged = field(default_factory=Judged)
    seeds: tuple[int, ...] = (0, 1, 2, 3)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: autoencoder alone, FitNets, DMAE, at larger α, without pixels, with more hidden, untrained."""
    unlabelled, labelled = images(setup.images)
    alone = f"dmae(weight=0, mask_ratio={setup.mask_ratio:g})"
    longer, name = setup.teacher_training, "masked-teacher"
    first = pretrained(lab, alone, setup.teacher, None, unlabelled, longer, seed=0, name=name, role="teacher")
    teacher = taught_by(first, labelled, setup.judged, name=setup.teacher)
    arms: dict[str, Arm] = {}
    rates: dict[str, float] = {}

    def add(name: str, role: Role, label: str, method: str, by: Teacher | None = teacher, *, phrase: str = "") -> None:
        def at(training: Training) -> Callable[[int], Pretrained]:
            return lambda seed: pretrained(lab, method, setup.student, by, unlabelled, training, seed=seed)

        lr, trials = _rate(setup, lab, name, at, labelled, method, teacher.fingerprint)
        chosen = at(replace(setup.training, lr=lr))

        def run(seed: int) -> Outcome:
            return judged(lab, chosen(seed), labelled, setup.judged, seed=seed, trials=trials)

        arms[name] = Arm(role, run, label=label, phrase=phrase or label, expression=method)
        rates[label] = lr

    add("mae", "reference", "Autoencoder alone", alone, None, phrase="the autoencoder alone")
    add("fitnets", "rival", "FitNets on whole images", "fitnets(tap=encoder)")
    add("dmae", "method", "DMAE", _dmae(setup))
    for weight in setup.weights:
        add(f"alpha-{weight:g}", "ablation", f"DMAE, α = {weight:g}", _dmae(setup, weight=weight))
    add("distil", "ablation", "Distillation alone", _dmae(setup, reconstruction=False))
    add("hidden", "ablation", f"DMAE, mask ratio {setup.more_hidden:g}", _dmae(setup, mask_ratio=setup.more_hidden))
    scratch = setup.judged.score == "fine-tuned"
    arms["untrained"] = Arm(
        "bound",
        lambda seed: _untrained(setup, lab, unlabelled, labelled, seed),
        label="Supervised from scratch" if scratch else "Untrained encoder",
        phrase="the same labels from scratch" if scratch else "the untrained encoder",
    )
    title = "DMAE: what a masked autoencoder's encoder is worth, taught by a larger one or alone"
    shown = replace(labelled, train=unlabelled.train)
    return Experiment(title, shown, arms, teacher, _setting(setup, labelled, rates))


def _dmae(setup: Setup, **changed: Any) -> str:
    """Write DMAE with the setup's blocks and mask as an expression."""
    pairs = ", ".join(f"({s}, {t})" for s, t in setup.pairs)
    given = {"mask_ratio": setup.mask_ratio, "weight": 1.0, **changed}
    rest = ", ".join(f"{k}={str(v).lower() if isinstance(v, (bool, str)) else f'{v:g}'}" for k, v in given.items())
    return f"dmae(pairs=[{pairs}], {rest})"


def _rate(
    setup: Setup, lab: Lab, name: str, at: Callable[[Training], Callable[[int], Pretrained]], labelled: Bundle,
    method: str, teacher: str,
) -> tuple[float, int]:  # fmt: skip
    """Return the learning rate of pre-training whose probe is best on validation images, and how many were tried."""

    def run(point: Mapping[str, Any]) -> Callable[[int], Outcome]:
        made = at(replace(setup.training, lr=point["lr"]))
        return lambda seed: tried(made(seed), labelled, setup.judged, seed=seed)

    point, trials = lab.tune(
        name, run, {"lr": setup.learning_rates}, trials=len(setup.learning_rates), seed=tuning_seed(setup.seeds),
        metric="accuracy", images=setup.images, training=setup.training, student=setup.student,
        judged=replace(setup.judged, score="probe"), data=labelled.fingerprint, method=method, teacher=teacher,
    )  # fmt: skip
    return point["lr"], trials


def _untrained(setup: Setup, lab: Lab, unlabelled: Bundle, labelled: Bundle, seed: int) -> Outcome:
    """Judge the encoder that every arm of this seed starts from."""
    model = build_model(setup.student, unlabelled, seed=seed)
    nothing = {"seconds": 0.0, "teacher_seconds": 0.0}
    found = Pretrained(model, encoder_of(model), 0, setup.training.batch_size, [], nothing)
    return judged(lab, found, labelled, setup.judged, seed=seed)


def _setting(setup: Setup, labelled: Bundle, rates: Mapping[str, float]) -> dict[str, str]:
    """Return what a reader must know."""
    chosen, how, training = setup.images, setup.judged, setup.training
    by = (
        f"a linear layer on the frozen mean of the patch tokens, standardised, {how.probe_epochs} epochs; no epoch is "
        "chosen anywhere"
        if how.score == "probe"
        else f"fine-tuning in {how.classifier} (class token, no mixup, no layer decay), {how.training.epochs} epochs, "
        f"tested at the epoch that was best on {len(labelled.val)} validation images"
    )
    return {
        "Data": f"{chosen.data}{f' at {chosen.size} px' if chosen.size else ''}: {chosen.unlabelled} images without "
        f"labels for pre-training, {len(labelled.train)} of them labelled to judge, {len(labelled.test)} test images",
        "Judged by": by,
        "Teacher": f"{setup.teacher}, an autoencoder trained for {setup.teacher_training.epochs} epochs on the same "
        "images, without labels",
        "Student": setup.student,
        "Budget": f"{training.epochs} epochs of batches of {training.batch_size}, {training.optimizer}, "
        f"{training.schedule} schedule with {training.warmup:.0%} warm-up, weight decay {training.weight_decay:g}, for "
        "every arm; the last epoch counts; no augmentation",
        "Learning rate": f"of {', '.join(f'{lr:g}' for lr in setup.learning_rates)} the one whose probe was best on "
        f"validation images (seed {tuning_seed(setup.seeds)}): "
        + ", ".join(f"{label} {lr:g}" for label, lr in rates.items()),
        "Blocks": ", ".join(f"student {s} to teacher {t}" for s, t in setup.pairs) + ", counted from 0",
    }
