"""Encoders that learn without labels, and what they are worth under a probe of their features, or fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from distil.data import load, split
from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.loading import as_batches
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError, nearest
from distil.loops.lab import Lab, Outcome
from distil.loops.measure import latency, size_in_bytes
from distil.loops.probe import features_of, knn_probe, linear_probe
from distil.loops.training import Teacher, Training, build_model, distil, example_of
from distil.methods.expression import parse
from distil.models.masked import load_encoder
from distil.tasks import FeatureTask

__all__ = [
    "Images",
    "Judged",
    "Pretrained",
    "encoder_of",
    "images",
    "judged",
    "pretrained",
    "probed",
    "taught_by",
    "tried",
]

SCORES = ("probe", "fine-tuned")


@dataclass(frozen=True)
class Images:
    """Which images are seen without labels, and which with.

    Attributes:
        data: a name that ``distil.load`` reads.
        size: height and width that images are brought to; by default their own.
        unlabelled: how many training images pre-training sees; their labels are never read.
        labelled: how many of them the probe and fine-tuning have labels of.
        val: validation images, stratified; they choose the epoch of fine-tuning.
        test: test images, stratified; by default all.
    """

    data: str = "fashion-mnist"
    size: int | None = None
    unlabelled: int = 3000
    labelled: int = 500
    val: int = 1000
    test: int | None = 5000


@dataclass(frozen=True)
class Judged:
    """How an encoder is judged.

    Attributes:
        score: "probe": a linear layer on frozen, standardised features; "fine-tuned": the encoder in a classifier,
            all of it trained, tested at its best validation epoch.
        classifier: what fine-tuning loads the encoder into; only its head is new.
        probe_epochs, probe_lr: of the linear probe (batches of 256).
        neighbours: of the k-NN probe, which is shown beside it.
    """

    score: str = "probe"
    classifier: str = "distil:vit(patch=7, dim=32, depth=4, heads=4, ratio=4)"
    training: Training = field(default_factory=lambda: Training(epochs=15, batch_size=64, lr=1e-3, weight_decay=0.05))
    probe_epochs: int = 50
    probe_lr: float = 1e-2
    neighbours: int = 20

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise DistilError(f"score={self.score!r} is unknown; {nearest(self.score, SCORES)}")


@dataclass(frozen=True)
class Pretrained:
    """A model that learned without labels, the encoder in it that ships, and what it cost."""

    model: nn.Module
    encoder: nn.Module
    updates: int
    batch_size: int
    history: list[dict[str, Any]]
    cost: Mapping[str, float]


def images(chosen: Images) -> tuple[Bundle, Bundle]:
    """Return the data of pre-training and those with labels; validation and test parts are the same."""
    whole = load(chosen.data, size=chosen.size)
    if chosen.labelled > chosen.unlabelled:
        raise DistilError(
            f"images.labelled={chosen.labelled} is more than images.unlabelled={chosen.unlabelled}, of which they are "
            "a part; lower the first."
        )
    (many,) = split(whole.train, [chosen.unlabelled])
    (few,) = split(many, [chosen.labelled])
    (val,) = split(whole.val, [chosen.val])
    (test,) = (whole.test,) if chosen.test is None else split(whole.test, [chosen.test])
    cut = f"{whole.fingerprint}-{chosen.unlabelled}-{chosen.val}-{chosen.test or 'all'}"
    unlabelled = replace(whole, train=many, val=val, test=test, fingerprint=cut)
    return unlabelled, replace(unlabelled, train=few, fingerprint=f"{cut}-{chosen.labelled}")


def pretrained(
    lab: Lab,
    method: str,
    model: str,
    teacher: Teacher | None,
    bundle: Bundle,
    training: Training,
    *,
    seed: int,
    name: str = "encoder",
    role: str = "student",
) -> Pretrained:
    """Train a model without labels, once: it is stored by all that it depends on. The last epoch counts.

    No validation is made, since there is nothing to choose by without labels.

    Args:
        method: an expression, such as ``dmae(weight=0)``.
        model: the student by name, drawn from ``seed``.
        teacher: what teaches it, or None.
        bundle: whose training images are seen.
        role: "teacher" draws other first weights than a student's of the same seed.
    """
    made = build_model(model, bundle, seed=seed, role=role)

    def train() -> dict[str, Any]:
        lab.progress.begin(f"{name}: {method}", training.epochs)
        distiller = Distiller(
            made,
            None if teacher is None else teacher.module,
            parse(method),
            task=FeatureTask(),
            example=example_of(bundle),
            seed=seed,
            epochs=training.epochs,
        )
        result = fit(
            distiller,
            bundle.train,
            **training.options(),
            seed=seed,
            device=lab.device,
            progress=lab.progress.step,
            check_teacher=False,
        )
        weights: dict[str, Tensor] = {key: value.cpu() for key, value in made.state_dict().items()}
        return {"weights": weights, "history": result.history, "cost": result.cost}

    stage = lab.stage(
        name,
        train,
        shared=True,
        model=model,
        method=method,
        role=role,
        teacher="" if teacher is None else teacher.fingerprint,
        data=bundle.fingerprint,
        training=training,
        seed=seed,
    )
    made.load_state_dict(stage.value["weights"])
    made.eval()
    updates = training.epochs * len(as_batches(bundle.train, training.batch_size))
    return Pretrained(made, encoder_of(made), updates, training.batch_size, stage.value["history"], stage.value["cost"])


def encoder_of(model: nn.Module) -> nn.Module:
    """Return the encoder of a masked autoencoder, or the model itself."""
    inner = getattr(model, "encoder", model)
    return inner if isinstance(inner, nn.Module) else model


def probed(encoder: nn.Module, bundle: Bundle, how: Judged, *, seed: int) -> dict[str, float]:
    """Return what probes of the frozen features say, in % of the test images."""
    train, labels = features_of(encoder, bundle.train)
    test, expected = features_of(encoder, bundle.test)
    options: dict[str, Any] = {"epochs": how.probe_epochs, "lr": how.probe_lr, "standardise": True, "seed": seed}
    nearest_to = min(how.neighbours, len(labels))
    return {
        "accuracy": linear_probe(train, labels, test, expected, **options),
        "k-NN accuracy": knn_probe(train, labels, test, expected, k=nearest_to),
    }


def tried(found: Pretrained, bundle: Bundle, how: Judged, *, seed: int) -> Outcome:
    """Return the outcome of a tuning run: what a probe says on the validation images, and no look at the test."""
    scores = probed(found.encoder, replace(bundle, test=bundle.val), how, seed=seed)
    return Outcome(
        metrics={},
        history=[*found.history, {**found.history[-1], "val": scores}],
        cost=dict(found.cost),
        budget={},
        model={},
    )


def judged(lab: Lab, found: Pretrained, bundle: Bundle, how: Judged, *, seed: int, trials: int = 1) -> Outcome:
    """Return what an encoder is worth, as an arm's outcome: its updates are those of all its training.

    Args:
        found: what was pre-trained; ``updates`` of 0 where nothing was.
        bundle: the labelled data.
        trials: tuning runs that chose the settings of pre-training.
    """
    last = found.history[-1]["terms"] if found.history else {}
    diagnostics = {f"last {name}": value for name, value in last.items()}
    parameters, size = size_in_bytes(found.encoder)
    if how.score == "probe":
        scores = probed(found.encoder, bundle, how, seed=seed)
        one = FeatureTask().unpack(next(iter(as_batches(bundle.test, 1).iterate(0))))
        return Outcome(
            metrics={"last": scores, "best": dict(scores)},
            history=found.history,
            cost=dict(found.cost),
            budget={
                "updates": found.updates,
                "batch_size": found.batch_size,
                "labels": len(bundle.train),
                "trials": trials,
            },
            model={"parameters": parameters, "bytes": size, "latency": latency(FeatureTask(), found.encoder, one)},
            diagnostics=diagnostics,
        )

    def classifier() -> nn.Module:
        made = build_model(how.classifier, bundle, seed=seed)
        return load_encoder(made, found.encoder)  # type: ignore[arg-type]

    outcome = distil(lab, "supervised", classifier, None, bundle, how.training, seed=seed, trials=trials)
    cost = {key: value + found.cost.get(key, 0.0) for key, value in outcome.cost.items()}
    budget = {**outcome.budget, "updates": outcome.budget["updates"] + found.updates, "batch_size": found.batch_size}
    return replace(outcome, cost=cost, budget=budget, diagnostics=diagnostics)


def taught_by(found: Pretrained, bundle: Bundle, how: Judged, *, name: str, seed: int = 0) -> Teacher:
    """Return a pre-trained model as a teacher, with what a probe of it says."""
    return Teacher(
        found.model,
        probed(found.encoder, bundle, how, seed=seed),
        fingerprint(found.model),
        found.cost["seconds"],
        name,
    )
