"""SRe2L: images grown out of noise, each to be taken for its class and all of them for training data.

Paper: Yin, Xing, Shen, *Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective*,
NeurIPS 2023, arXiv 2306.13092.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distil.data.augmented import Augmentation
from distil.data.condensed import CondensedSet
from distil.data.condensed_files import as_kept
from distil.loops.condense_pixels import chunks_of, generator_for, judges, pixel_space
from distil.loops.labelling import Labelling, relabelled
from distil.loops.order import Order, options_of
from distil.loops.synthesis import Synthesis, synthesise

__all__ = ["SRe2L", "sre2l_set"]


@dataclass(frozen=True)
class SRe2L:
    """The settings of SRe2L.

    Attributes:
        steps, rate, statistics, first, jitter, crops, smooth, size: see :class:`distil.loops.synthesis.Synthesis`; the
            released runs leave ``smooth`` and ``size`` at 0. They are the same at every size; on ImageNet those runs
            set ``crops``, jitter 32 and 4,000 steps.
        batch: classes in a batch, one image of each; all of them by default (the published runs take 100).
        labels: "replayed" (a label stored for each view of ``epochs`` epochs, under CutMix), or "static", "dynamic" or
            "hard".
        temperature: of the labels.
        epochs: how many "replayed" labels are stored for.
        precision: in which the network runs.
    """

    steps: int = 1000
    rate: float = 0.25
    statistics: float = 0.01
    first: float = 10.0
    jitter: int = 4
    crops: bool = False
    smooth: float = 0.0
    size: float = 0.0
    batch: int | None = None
    labels: str = "replayed"
    temperature: float = 20.0
    epochs: int = 50
    precision: str = "fp32"

    @property
    def synthesis(self) -> Synthesis:
        """How pixels are optimised."""
        names = ("steps", "rate", "statistics", "first", "jitter", "crops", "smooth", "size")
        return Synthesis(**{name: getattr(self, name) for name in names})

    @property
    def labelling(self) -> Labelling:
        """How the images are labelled: views are resized crops under CutMix where labels are made for each."""
        if self.labels in ("replayed", "dynamic"):
            shown = Augmentation(crop="resized", mix="cutmix", alpha=1.0)
        else:
            shown = Augmentation(mix="none" if self.labels == "hard" else "mixup")
        return Labelling(self.labels, temperature=self.temperature, epochs=self.epochs, augmentation=shown)


def refuse(order: Order) -> None:
    """Refuse settings that cannot be, before anything is computed."""
    how = options_of(order, SRe2L)
    chunks_of(order.classes, how.batch)
    assert how.synthesis
    assert how.labelling


def sre2l_set(order: Order) -> CondensedSet:
    """Return ``per_class`` images of each class, grown from N(0, 1) in the space of normalised pixels.

    Each batch has one image of each class, so that its statistics are those of a mixture; after each step pixels are
    put back to where a pixel can lie.
    """
    how, space = options_of(order, SRe2L), pixel_space(order)
    (network,) = judges(order, order.teachers[:1], space, how.synthesis, precision=how.precision)
    device = torch.device(order.device or "cpu")
    chunks, made = chunks_of(order.classes, how.batch), []
    low, high = space.low.to(device), space.high.to(device)
    for k in range(order.per_class):
        for classes in chunks:
            generator = generator_for(order, "sre2l", k, classes.start)
            noise = torch.randn((len(classes), *order.bundle.input_shape), generator=generator).to(device)
            labels = torch.tensor(classes, device=device)
            found = synthesise(network, noise, labels, how.synthesis, low=low, high=high, generator=generator)
            made.append(found.pixels.cpu())
        order.progress.step(k + 1, order.per_class)
    labels = torch.arange(order.classes).repeat(order.per_class)
    images = space.raw(torch.cat(made)).clamp(0, 1)
    order_by_class = labels.argsort(stable=True)
    small = CondensedSet(images[order_by_class], labels[order_by_class], order.bundle.classes)
    return relabelled(as_kept(small, order.exact), order.teachers, how.labelling, task=order.task, device=order.device)
