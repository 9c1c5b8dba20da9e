"""Random Teachers as steps to take by hand: two networks, teaching without labels, and probing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.data.bundle import DictDataset
from distil.data.loading import as_batches, mix_seed
from distil.engine.distiller import Distiller
from distil.engine.fit import Result, fit
from distil.engine.method import Sum
from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.loops.probe import features_of, knn_probe, linear_probe
from distil.loops.training import Training
from distil.methods.expression import parse
from distil.models import drawn, interpolate_init
from distil.tasks.base import Task

__all__ = ["ProbeTask", "near_teacher", "probed", "teach", "without_labels"]


def near_teacher(
    make: Callable[[], nn.Module], *, alpha: float = 1e-10, kind: str = "interpolated", seed: int = 0,
    teacher: nn.Module | None = None, variance_preserving: bool = True,
) -> tuple[nn.Module, nn.Module]:  # fmt: skip
    """Return a student and a random teacher of one architecture, the student's start near the teacher.

    ``((1 − alpha) θ_T + alpha θ̃) / sqrt(alpha² + (1 − alpha)²)`` for every parameter, or ``(θ_T + alpha θ̃) / sqrt(1 +
    alpha²)`` with ``kind="neighbourhood"``; θ̃ is drawn anew.

    Args:
        make: makes the network, from torch's global generator.
        alpha: 0 is the teacher itself, 1 a fresh start. At an exact copy nothing is learnt but what rounding starts.
        kind, variance_preserving: see `distil.models.interpolate_init`.
        seed: of both draws.
        teacher: start near this network instead of a fresh one, as a second round does.

    >>> student, teacher = near_teacher(lambda: nn.Linear(3, 2), alpha=0.0)
    >>> torch.equal(student.weight, teacher.weight)
    True
    """
    theirs = drawn(make, seed=mix_seed("random-teachers", "teacher", seed)) if teacher is None else teacher
    fresh = drawn(make, seed=mix_seed("random-teachers", "fresh", seed))
    student = interpolate_init(fresh, theirs, alpha, kind=kind, variance_preserving=variance_preserving)
    return student, theirs


def teach(
    student: nn.Module, teacher: nn.Module, data: Any, training: Training, *, method: str | Sum = "random-teachers",
    val: Any = None, task: Task | str = "classification", seed: int = 0, device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:  # fmt: skip
    """Teach a student without labels; the teacher is not asked whether it knows anything, and the last epoch counts.

    Args:
        student, teacher: see :func:`near_teacher`.
        data: a dataset with inputs; labels are taken out before a method sees a batch.
        training: how long, how fast.
        method: an expression or a sum.
        val: data that ``task`` scores every ``training.eval_every`` epochs, for a curve; they choose nothing.
        task: how models are called and scored, e.g. a :class:`ProbeTask`.
        seed: of the order and of what is drawn.
    """
    sum_of_methods = parse(method) if isinstance(method, str) else method
    example = next(iter(as_batches(data, 8).iterate(0)))
    distiller = Distiller(
        student, teacher, sum_of_methods, task=task, example=example, seed=seed, epochs=training.epochs
    )
    return fit(
        distiller, data, val, **training.options(), keep="last", seed=seed, device=device, progress=progress,
        check_teacher=False,
    )  # fmt: skip


def probed(
    encoder: nn.Module | Callable[[Tensor], Tensor], train: Any, data: Any, *, k: int = 20, linear: bool = True,
    epochs: int = 10, lr: float = 1e-3, standardise: bool = True, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Return what probes of frozen features know of the labels: ``accuracy`` (k-NN) and ``linear``, both in %.

    Args:
        encoder: from inputs to features; ``nn.Flatten()`` probes the inputs themselves.
        train: labelled data that the probes learn from.
        data: labelled data that they are scored on.
        k, epochs, lr, standardise, seed: see `distil.loops.probe`; only the linear probe is trained and standardised.
        linear: whether there is a linear probe.
    """
    known, tried = features_of(encoder, train), features_of(encoder, data)
    found = {"accuracy": knn_probe(*known, *tried, k=min(k, len(known[1])))}
    if linear:
        options: dict[str, Any] = {"epochs": epochs, "lr": lr, "standardise": standardise, "seed": seed}
        found["linear"] = linear_probe(*known, *tried, **options)
    return found


def without_labels(data: Any) -> DictDataset:
    """Return the inputs of a dataset in memory, under its ids, with no label at all."""
    everything = data.batch(torch.arange(len(data)))
    return DictDataset(everything["inputs"], None, everything["id"])


@final
class ProbeTask(Task):
    """Scores an encoder by the probes of its features, in place of answers that it does not give.

    Args:
        train: labelled data that the probes learn from.
        options: of :func:`probed`.
    """

    name = "probing"
    metric = "accuracy"
    unit = "%"

    def __init__(self, train: Any, **options: Any) -> None:
        self.train, self.options = train, options

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        """Run a network on the inputs as they are."""
        return module(batch["inputs"])

    def loss(self, output: Any, batch: Mapping[str, Any]) -> Term:
        """Refuse: there is nothing to compare features with."""
        raise DistilError(
            "Probing has no loss of its own: train with a method that reads no labels, as random-teachers."
        )

    def score(self, prediction: Any) -> dict[str, float]:
        """Refuse: features are no answers."""
        raise DistilError("Probing scores an encoder, not its outputs; call evaluate(encoder, data).")

    def evaluate(self, module: Any, data: Any, **options: Any) -> dict[str, float]:
        """Return the probes' scores of an encoder on ``data``."""
        return probed(module, self.train, data, **self.options)

    def chance(self, data: Any) -> float:
        """Return 0: what probes of nothing reach is measured, not known."""
        return 0.0
