"""RDED: the crops of real images that a network is surest of, several in one image; nothing is optimised.

Paper: Sun et al., *On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm*,
CVPR 2024, arXiv 2312.03526.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distil.data.augmented import Augmentation
from distil.data.condensed import CondensedSet
from distil.data.condensed_files import as_kept
from distil.errors import DistilError
from distil.functional.collage import best_crops, label_cross_entropy, padded, square_boxes, stitched
from distil.functional.crops import cropped
from distil.loops.condense_check import class_counts
from distil.loops.condense_pixels import generator_for, pixel_space
from distil.loops.labelling import Labelling, relabelled, teachers_logits
from distil.loops.order import Order, options_of
from distil.loops.synthesis import Pixels

__all__ = ["RDED", "rded_set"]

SMALL = 64  # pixels from which an image is made of several crops
AT_ONCE = 512


@dataclass(frozen=True)
class RDED:
    """The settings of RDED.

    Attributes:
        candidates: real images of each class that are looked at, at most (they give one crop each).
        crops: random crops of each.
        share: least and largest area of a crop.
        factor: crops along each side of an image; by default 1 below 64 pixels, else 2.
        labels: "dynamic" (the network is asked on each view), "replayed" (its answers on ``epochs`` epochs of views are
            stored), "static" or "hard".
        temperature: of the labels.
        epochs: how many "replayed" labels are stored for.
        batch: samples in a student's batch; by default 10 for one per class, 50 up to 10 and 100 beyond, twice as many
            from 100 classes.
    """

    candidates: int = 300
    crops: int = 5
    share: tuple[float, float] = (0.08, 1.0)
    factor: int | None = None
    labels: str = "dynamic"
    temperature: float = 20.0
    epochs: int = 50
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.crops < 1 or self.candidates < 1 or (self.factor is not None and self.factor < 1):
            raise DistilError(
                f"crops={self.crops}, candidates={self.candidates} and factor={self.factor} must be at least 1."
            )

    def cells(self, order: Order) -> int:
        """How many crops lie along each side of an image."""
        return self.factor or (1 if min(order.bundle.input_shape[1:]) < SMALL else 2)

    def labelling(self, order: Order) -> Labelling:
        """How the images are labelled and shown: cells change places, resized crops, CutMix."""
        cells, usual = self.cells(order), 10 if order.per_class == 1 else 50 if order.per_class <= 10 else 100
        batch = self.batch or usual * (2 if order.classes >= 100 else 1)
        shown = Augmentation(
            crop="resized", share=(1 / cells, 1.0), shuffle=cells, mix="cutmix", alpha=1.0, batch=batch
        )
        if self.labels == "static":  # stored for whole images, so these are what is mixed
            shown = Augmentation(batch=batch)
        if self.labels == "hard":
            shown = Augmentation(mix="none", batch=batch)
        return Labelling(self.labels, temperature=self.temperature, epochs=self.epochs, augmentation=shown)


def refuse(order: Order) -> None:
    """Refuse, before anything is computed, a class with fewer images than crops are needed."""
    how = options_of(order, RDED)
    assert how.labelling(order)
    wanted = order.per_class * how.cells(order) ** 2
    if how.candidates < wanted:
        raise DistilError(
            f"rded needs {wanted} crops of each class, one from each image, and candidates={how.candidates}; raise it."
        )
    few = {order.bundle.classes[k]: count for k, count in enumerate(class_counts(order)) if count < wanted}
    if few:
        name, count = next(iter(few.items()))
        raise DistilError(
            f"rded needs {wanted} images of each class ({order.per_class} x {how.cells(order)}² crops, one from each), "
            f"and {name} has {count}; ask for fewer per class{', or set factor=1' if how.cells(order) > 1 else ''}."
        )
    if min(order.bundle.input_shape[1:]) < how.cells(order):
        raise DistilError(f"factor={how.factor} cells do not fit images of {order.bundle.input_shape[1:]} pixels.")


def rded_set(order: Order) -> CondensedSet:
    """Return ``per_class`` images of each class, put together from the crops the network classifies best."""
    refuse(order)
    how, space = options_of(order, RDED), pixel_space(order)
    images = []
    for label in range(order.classes):
        chosen = _crops_of(order, how, space, label)
        images.append(stitched(chosen, _size(order), factor=how.cells(order)))
        order.progress.step(label + 1, order.classes)
    labels = torch.arange(order.classes).repeat_interleave(order.per_class)
    small = CondensedSet(torch.cat(images).clamp(0, 1), labels, order.bundle.classes)
    return relabelled(
        as_kept(small, order.exact), order.teachers, how.labelling(order), task=order.task, device=order.device
    )


def _size(order: Order) -> tuple[int, int]:
    height, width = order.bundle.input_shape[1:]
    return height, width


def _crops_of(order: Order, how: RDED, space: Pixels, label: int) -> Tensor:
    """Return the crops of one class that the network is surest of, in [0, 1], surest first."""
    generator, size = generator_for(order, "rded", label), _size(order)
    positions = order.real(label, limit=how.candidates, generator=generator)
    boxes = square_boxes(len(positions) * how.crops, share=how.share, generator=generator)
    whole = order.inputs(positions).repeat_interleave(how.crops, 0)
    crops = cropped(whole, boxes, side=min(size) // how.cells(order))
    device = torch.device(order.device or "cpu")
    asked = [teacher.eval().to(device) for teacher in order.teachers[:1]]
    scores = []
    for part in crops.split(AT_ONCE):
        shown = space.raw(padded(space.normalised(part), size))  # what surrounds a crop is the mean colour
        logits = teachers_logits(asked, shown.to(device), task=order.task).cpu()
        scores.append(label_cross_entropy(logits, torch.full((len(part),), label)))
    chosen = best_crops(torch.cat(scores).view(len(positions), how.crops), order.per_class * how.cells(order) ** 2)
    return crops.unflatten(0, (len(positions), how.crops))[chosen.image, chosen.crop]
