"""Where NRR-DD's images start: crops of real images that show the object, and that the teacher is least sure of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional.activation import crop_activation
from distil.functional.collage import best_crops, label_cross_entropy, padded, square_boxes, stitched
from distil.functional.crops import cropped, noise_like
from distil.functional.pixels import eight_bit
from distil.loops.condense_pixels import generator_for
from distil.loops.order import Order
from distil.loops.synthesis import Pixels
from distil.systems.nrr_dd.look import Look

if TYPE_CHECKING:
    from distil.systems.nrr_dd.procedure import Options

__all__ = ["discovered", "factor_of"]

ASIDE = (0.08, 1.0)  # RDED's shares of a crop
AT_LEAST_HALF = (0.5, 1.0)  # of a crop that fills an image by itself


def factor_of(order: Order, options: Options) -> int:
    """Return how many crops lie along each side of an image: as said, else 1 below 64 pixels and 2 from there."""
    return options.factor or (2 if min(order.bundle.input_shape[1:]) >= 64 else 1)


def discovered(order: Order, look: Look, options: Options, space: Pixels) -> Tensor:
    """Return the images that refining starts from, [classes · per_class, C, H, W] in [0, 1], class by class.

    Raises:
        DistilError: a class gives fewer crops than are stitched.
    """
    if options.init == "noise":
        blank = torch.zeros(order.classes * order.per_class, *order.bundle.input_shape)
        return eight_bit(space.raw(noise_like(blank, generator=generator_for(order, "nrr-dd", "noise"))))
    found = []
    for label in range(order.classes):
        generator = generator_for(order, "nrr-dd", label)
        if options.init == "random-real":
            found.append(order.inputs(order.real(label, limit=order.per_class, generator=generator)))
        else:
            order.progress.step(label + 1, order.classes)
            found.append(_collages(order, look, options, space, label, generator))
    return eight_bit(torch.cat(found))


def _collages(
    order: Order, look: Look, options: Options, space: Pixels, label: int, generator: torch.Generator
) -> Tensor:
    """One class's images: crops that were chosen by the teacher, side by side."""
    factor, size = factor_of(order, options), (order.bundle.input_shape[1], order.bundle.input_shape[2])
    side, wanted = min(size) // factor, order.per_class * factor**2
    images = order.inputs(order.real(label, limit=options.candidates, generator=generator)).to(look.device)
    boxes = _drawn(len(images), options, factor, generator).to(look.device)
    labels = torch.tensor([label], device=look.device)
    if options.init == "cidd":
        maps = look.maps(images, labels.expand(len(images)))
        shown = crop_activation(maps, boxes, side=side, score=options.crop_score, threshold=options.threshold)
        kept = shown.argsort(dim=1, descending=True, stable=True)[:, : options.keep]
        boxes = boxes.gather(1, kept.unsqueeze(2).expand(-1, -1, 4))
    each = boxes.shape[1]
    crops = cropped(images.repeat_interleave(each, 0), boxes.flatten(0, 1), side=side)
    if options.crop_shown == "resized":
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=look.device).expand(len(crops), 4)
        logits = look.logits(cropped(crops, whole, side=min(size)))
    else:  # what surrounds a crop is the mean colour, as in RDED, which pads normalised images with zeros
        logits = look.logits(space.raw(padded(space.normalised(crops), size)))
    unlikely = label_cross_entropy(logits, labels.expand(len(logits)))
    if options.init == "rded":
        if len(images) < wanted:
            raise _too_few(order, label, wanted, len(images), "images that give one crop each")
        chosen = best_crops(unlikely.view(len(images), each), wanted)
        return stitched(crops.view(len(images), each, *crops.shape[1:])[chosen.image, chosen.crop], size, factor=factor)
    ranked = unlikely.argsort(dim=0, descending=options.confidence == "low", stable=True)
    if options.require_correct:
        ranked = ranked[logits.argmax(1)[ranked] == label]
    if len(ranked) < wanted:
        among = "crops that the teacher gives to their class" if options.require_correct else "crops"
        raise _too_few(order, label, wanted, len(ranked), among)
    return stitched(crops[ranked[:wanted]], size, factor=factor)


def _drawn(count: int, options: Options, factor: int, generator: torch.Generator) -> Tensor:
    share = options.share or (AT_LEAST_HALF if factor == 1 else ASIDE)
    return square_boxes(count * options.crops, share=share, generator=generator).view(count, options.crops, 4)


def _too_few(order: Order, label: int, wanted: int, seen: int, what: str) -> DistilError:
    return DistilError(
        f"nrr-dd stitches {wanted} crops into {order.per_class} images of {order.bundle.classes[label]}, and there are "
        f"{seen} {what}; ask for fewer a class, raise candidates or keep, or set require_correct=false."
    )
