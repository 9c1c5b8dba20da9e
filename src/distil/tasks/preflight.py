"""The check before any distillation: is the teacher better than chance on the data it is to teach from?

A teacher at chance is nearly always a mistake nobody notices, because everything still trains: wrong weights, another
class order, another normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any, TypedDict

from distil.data.bundle import NO_LABEL, View, indexed
from distil.data.loading import Batches, FullBatch, epoch_order
from distil.errors import DistilError
from distil.tasks.base import Task

__all__ = ["Preflight", "teacher_above_chance", "wilson_lower"]

Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution: a two-sided 95 % interval


class Preflight(TypedDict):
    """The teacher's accuracy in %, its 95 % lower bound, the chance level, the verdict and the sentence to show."""

    accuracy: float
    low: float
    chance: float
    ok: bool
    samples: int
    message: str


def wilson_lower(correct: float, count: int) -> float:
    """Return the lower end of the 95 % Wilson interval of a proportion, in 0..1.

    >>> round(wilson_lower(10, 10), 4)
    0.7225
    """
    share, z2 = correct / count, Z95**2
    centre = share + z2 / (2 * count)
    spread = Z95 * sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, (centre - spread) / (1 + z2 / count))


def teacher_above_chance(task: Task, module: Any, data: Any, slice: int = 512, **options: Any) -> Preflight:
    """Compare the teacher's accuracy on a fixed random slice of ``data`` with the chance level.

    Args:
        task: a task whose scores hold an accuracy in %. Where it labels every pixel, the interval counts images, since
            the pixels of one image say much the same.
        module: the teacher; it is called in the role "teacher", in eval mode.
        data: a dataset, source or iterable of batches; a graph is taken whole.
        slice: how many samples are looked at.
        options: passed on to ``task.predict`` (``device``, ``batch_size``).

    Returns:
        ``accuracy``, ``low``, ``chance`` (all in %), ``ok``, ``samples`` and ``message``, the sentence for the user.
    """
    if not task.has_accuracy:
        raise DistilError(f"the task {task.name!r} is judged by {task.metric!r}; this check needs accuracy.")
    prediction = task.predict(module, _part(data, slice), role="teacher", **options)
    accuracy = task.score(prediction)["accuracy"]
    counted = prediction["labels"] != NO_LABEL
    if "mask" in prediction:
        counted = counted & prediction["mask"]
    dense = counted.ndim > 1
    count = int((counted.flatten(1).any(1) if dense else counted).sum())
    low, chance = 100 * wilson_lower(accuracy * count / 100, count), task.chance_accuracy(data)
    ok = low > chance
    counted_in = f"the pixels of {count} samples" if dense else f"{count} samples"
    seen = f"the teacher is right on {accuracy:.1f} % of {counted_in} (95 % lower bound {low:.1f} %)"
    message = f"{seen}, above the chance level of {chance:.1f} %."
    if not ok:
        message = (
            f"{seen}, which is not above the chance level of {chance:.1f} %; check its weights, the order of the "
            "classes and the normalisation of its inputs, or train it first."
        )
    return Preflight(accuracy=accuracy, low=low, chance=chance, ok=ok, samples=count, message=message)


def _part(data: Any, size: int) -> Any:
    if isinstance(data, FullBatch | Mapping):
        return data
    dataset = data.dataset if isinstance(data, Batches) else data
    if isinstance(dataset, list | tuple) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        return _first(dataset, size)
    dataset = indexed(dataset)
    # Random, because folders come sorted by class; fixed, because two runs must say the same.
    return View(dataset, epoch_order(len(dataset), 0, 0, True)[:size])


def _first(batches: Any, size: int) -> list[Any]:
    taken: list[Any] = []
    seen = 0
    for batch in batches:
        taken.append(batch)
        inputs = batch["inputs"] if isinstance(batch, Mapping) and "inputs" in batch else None
        seen += (
            len(inputs)
            if inputs is not None
            else len(next(iter(batch.values() if isinstance(batch, Mapping) else batch)))
        )
        if seen >= size:
            break
    return taken
