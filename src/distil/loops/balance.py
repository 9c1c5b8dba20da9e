"""The weight at which a method pulls as hard as the labels do, measured at the first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.bundle import Bundle
from distil.data.loading import Batches, mix_seed
from distil.engine.context import Context
from distil.engine.distiller import Distiller
from distil.engine.host import seed_draws
from distil.engine.method import Component, Sum
from distil.engine.schedule import Schedule, as_schedule
from distil.errors import DistilError
from distil.loops.training import Training, build_model, example_of, rebuilt_student
from distil.methods.expression import parse
from distil.tasks import get_task

__all__ = ["Balance", "balanced", "peak"]

TASK = "supervised"
NOTHING = 1e-6  # of the labels' gradient: what rounding leaves of one that is 0


@dataclass(frozen=True)
class Balance:
    """A sum in which labels and method pull equally, and what was measured.

    Attributes:
        expression: the sum: labels at weight 1 where the published one has them, the rest times ``factor``.
        factor: what the published weights are multiplied by.
        share: the rest's share of the gradient in the published sum, at the peak of its schedules.
    """

    expression: str
    factor: float
    share: float


def peak(coefficient: Schedule, *, steps: int, epochs: int) -> float:
    """Return the value of a coefficient that is largest in size over a run.

    >>> from distil.engine.schedule import ramp
    >>> peak(0.5 * ramp(fraction=0.1), steps=100, epochs=10)
    0.5
    """
    if coefficient.constant is not None:
        return float(coefficient.constant)
    places = (Context(step=s, steps=steps, epoch=s * epochs // steps, epochs=epochs) for s in range(steps))
    return max((float(coefficient(place)) for place in places), key=abs)


def balanced(
    expression: str, student: str, teacher: nn.Module, bundle: Bundle, training: Training, *, seed: int
) -> Balance:
    """Scale a published sum so that what is not the task loss has a gradient as large as cross-entropy's.

    Both gradients are taken on the student's parameters, in training mode, on the first batch of the run with this
    seed, schedules at their peak, in float32: ``factor = |g_labels| / |g_rest|``. Where a method holds the task loss
    itself, all of it is the rest.

    Args:
        expression: the published sum.
        student: the student by name, fresh from ``seed``.
        teacher, bundle, training: as the run has them.
        seed: of weights and of the first batch.

    Raises:
        DistilError: the method does not fit these models (its own sentence), or its gradient is 0 or not finite.
    """
    steps = training.epochs * -(-len(bundle.train) // (training.batch_size * training.accumulate))
    task: list[Component] = []
    rest: list[Component] = []
    peaks: list[tuple[Component, float]] = []
    for component in parse(expression):
        top = peak(component.coefficient, steps=steps, epochs=training.epochs)
        labels = component.name == TASK
        if top == 0:
            raise DistilError(
                f"In '{expression}' the coefficient {component.coefficient} of '{component.name}' is 0 through all of "
                f"{training.epochs} epochs; train longer, or shorten its schedule."
            )
        (task if labels else rest).append(_scaled(component, 1 / top if labels else 1.0))
        peaks.append((component, top))
    if not rest:
        raise DistilError(f"'{expression}' has no part beside the labels to be weighed.")
    flat = Sum([Component(as_schedule(top), c.method) for c, top in peaks if c.name != TASK])
    size, whole = (
        float(_gradient(made, student, teacher if made is flat else None, bundle, training, seed, steps).norm())
        for made in (flat, parse(TASK))
    )
    if not NOTHING * whole < size < float("inf"):
        raise DistilError(
            f"The gradient of '{flat.expression}' at the first step is {size:g} where the labels' is {whole:g}; it has "
            "no balance."
        )
    labelled = sum(abs(top) for c, top in peaks if c.name == TASK) * whole
    factor = float(f"{whole / size:.4g}")
    again = [c for c in parse(expression) if c.name != TASK]  # fresh methods: those above have made their adapters
    made = Sum([*task, *(_scaled(c, factor) for c in again)])
    return Balance(made.expression, factor, size / (size + labelled))


def _scaled(component: Component, factor: float) -> Component:
    (scaled,) = Sum([component]) * factor
    return scaled


def _gradient(
    method: Sum, student: str, teacher: nn.Module | None, bundle: Bundle, training: Training, seed: int, steps: int
) -> Tensor:
    """The gradient of a sum on the student's parameters at the first step of a run."""
    model = rebuilt_student(build_model(student, bundle, seed=seed), method, seed=seed)
    distiller = Distiller(
        model, teacher, method, task=get_task(bundle.task), example=example_of(bundle), seed=seed, steps=steps,
        epochs=training.epochs,
    )  # fmt: skip
    distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.0))
    distiller.prepare(Batches(bundle.train, training.batch_size, seed=seed, shuffle=True))
    distiller.train()
    batch: Any = next(iter(Batches(bundle.train, training.batch_size, seed=seed, shuffle=True).iterate(0)))
    learners = [p for p in model.parameters() if p.requires_grad]
    with torch.random.fork_rng(devices=[]):  # dropout and other draws are those of the run's first step
        seed_draws(mix_seed("step", seed, 0, 0, 0))
        found = torch.autograd.grad(distiller(batch).loss, learners, materialize_grads=True, allow_unused=True)
    return torch.cat([g.flatten().float() for g in found])
