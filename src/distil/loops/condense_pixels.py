"""What condensers of images share: the space of pixels, real images of every class, the networks that judge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distil.data.bundle import labels_of
from distil.data.loading import mix_seed
from distil.errors import DistilError
from distil.functional.crops import channel_moments
from distil.loops.condense_check import class_counts
from distil.loops.order import Order
from distil.loops.synthesis import Observed, Pixels, Synthesis, agreeing

__all__ = ["chunks_of", "class_batches", "generator_for", "judges", "pixel_space"]

MOMENTS = 5000  # images that means and deviations are taken of, at most


def generator_for(order: Order, *names: str | int) -> torch.Generator:
    """Return the CPU generator of one part of a condenser's work, by the order's seed and the part's names."""
    return torch.Generator().manual_seed(mix_seed("condense", order.seed, *names))


def pixel_space(order: Order) -> Pixels:
    """Return the space in which each channel of the training images has mean 0 and deviation 1 (of 5,000 of them)."""
    count = len(labels_of(order.bundle.train))
    positions = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MOMENTS].sort().values
    return Pixels(*channel_moments(order.inputs(positions)))


def class_batches(order: Order, count: int, *, generator: torch.Generator, method: str) -> Tensor:
    """Return the positions of ``count`` real samples of every class, drawn without replacement, int64 [count, C].

    Row k is a batch of one of each class, in their order.

    Raises:
        DistilError: a class has fewer.
    """
    few = {order.bundle.classes[k]: n for k, n in enumerate(class_counts(order)) if n < count}
    if few:
        name, found = next(iter(few.items()))
        raise DistilError(
            f"{method} takes {count} training samples of every class, and {name} has {found}"
            f"{f' ({len(few) - 1} more have too few)' if len(few) > 1 else ''}; ask for fewer per class."
        )
    return torch.stack([order.real(label, limit=count, generator=generator) for label in range(order.classes)], 1)


def chunks_of(classes: int, batch: int | None) -> list[range]:
    """Return the classes that share a batch: all of them, or ``batch`` after another, the last what is left.

    >>> chunks_of(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    if batch is not None and batch < 1:
        raise DistilError(f"batch={batch} must be at least 1, or left out for all classes at once.")
    size = batch or classes
    return [range(first, min(first + size, classes)) for first in range(0, classes, size)]


def judges(
    order: Order, networks: Sequence[nn.Module], space: Pixels, how: Synthesis, *, precision: str = "fp32"
) -> list[Observed]:
    """Return frozen copies of networks that judge images of ``space``, each in its quickest form that agrees."""
    device = torch.device(order.device or "cpu")
    positions = torch.stack([order.real(label, limit=1)[0] for label in range(min(order.classes, 32))])
    example, labels = space.normalised(order.inputs(positions)).to(device), torch.arange(len(positions), device=device)

    def call(module: nn.Module, images: Tensor) -> Tensor:
        return order.task.logits(order.task.call(module, {"inputs": images}, "teacher"))

    return [
        agreeing(
            Observed(network, call=call, pixels=space.to(device), precision=precision, device=device),
            example, labels, how, say=order.progress.say,
        )
        for network in networks
    ]  # fmt: skip
