"""NRR-DD as a procedure: images found, refined where they show their class least, and labelled by two numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distil.data.augmented import Augmentation
from distil.data.condensed import CondensedSet
from distil.data.loading import mix_seed
from distil.errors import DistilError, nearest
from distil.functional.activation import REGIONS, SCALES, soft_mask
from distil.functional.collage import square_boxes
from distil.functional.pixels import eight_bit
from distil.functional.two_numbers import DISTANCES, SCE_TARGETS
from distil.loops.condense_pixels import generator_for, judges, pixel_space
from distil.loops.labelling import Labelling, relabelled
from distil.loops.order import Order, options_of
from distil.loops.synthesis import RATES, Pixels, Synthesis, synthesise
from distil.systems.nrr_dd.discovery import discovered, factor_of
from distil.systems.nrr_dd.look import Look
from distil.tasks.base import device_of, evaluating

__all__ = ["Options", "condensed", "labelled", "refined", "refuse"]

KINDS = {"two-numbers": "two-numbers", "soft": "replayed", "onehot": "hard"}
CHOICES: dict[str, tuple[str, ...]] = {
    "init": ("cidd", "rded", "random-real", "noise"),
    "confidence": ("low", "high"),
    "crop_score": ("mean", "share"),
    "crop_shown": ("padded", "resized"),
    "cam_scale": SCALES,
    "refine": (*REGIONS, "off"),
    "optimizer": ("adam", "sgd"),
    "schedule": RATES,
    "clamp": ("step", "end"),
    "view": ("auto", "roll", "crop"),
    "labels": tuple(KINDS),
    "distance": DISTANCES,
    "sce_target": SCE_TARGETS,
    "label_view": ("auto", "pad", "resized", "none"),
}


@dataclass(frozen=True)
class Options:
    """NRR-DD's settings. The paper's code could not be had: all but the scheme itself are this project's readings.

    Attributes:
        init: "cidd" (crops high in activation, then ranked by confidence), "rded" (of each image its most confident
            crop, the best of them), "random-real" images or "noise".
        confidence: "low" takes the crops that the teacher finds least likely, "high" the most likely ones.
        require_correct: drop crops that the teacher gives to another class.
        candidates: real images of each class that are looked at.
        crops, keep: crops drawn from each, and how many of them, the highest in activation, are ranked.
        share: least and largest area of a crop; by default 0.5 to 1 where a crop fills an image, else 0.08 to 1.
        crop_score: the "mean" activation of a crop, or the "share" of its pixels at or above ``threshold``.
        crop_shown: how the teacher sees a crop that is smaller than an image, for its confidence: "padded" with the
            mean colour, or "resized" to the image's shorter side.
        factor: crops along each side of an image; 0: 1 below 64 pixels, else 2.
        refine: which pixels move: "non-critical", "critical-only", "all-pixels", or "off".
        threshold: ε, from which activation on a pixel is critical.
        cam_scale: of activation maps, image by image: "min-max" (to [0, 1]), "max" (by the greatest value) or "none";
            ``threshold`` is in its units.
        cam_every: steps after which activations are found anew; 0: never.
        steps, optimizer, lr: of refining. Pixels move in units of each channel's deviation.
        betas: of Adam. schedule: how the rate falls, "cosine", "linear" or "constant" (not at all).
        clamp: when pixels are put back to where a pixel can lie: after each "step", or at the "end" alone.
        statistics_weight: of the batch-norm term. first: weight, in it, of the first batch norm (10 in SRe2L).
        view, jitter: how the teacher sees a batch at each step: "roll" (shifted by up to ``jitter`` pixels, round the
            edge), "crop" (a random resized crop, mirrored half of the time); "auto": rolls below 64 pixels.
        batch: images refined at a time; one after another of every class, so that each batch has all of them.
        labels: "two-numbers", "soft" (all logits) or "onehot".
        epochs: epochs of views that are labelled.
        distance, sce_target, distance_weight, temperature: what the labels ask of a student, see
            :func:`distil.systems.nrr_dd.published`.
        mix: "cutmix", "mixup" or "none", of the views. mix_beta: shares are drawn from Beta(mix_beta, mix_beta).
        label_view: what of an image a view shows: "pad" (shifted a little, black comes in), "resized" (a random crop)
            or "none" (all of it); "auto": "pad" where a crop fills an image, else "resized".
        view_batch: images in a student's batch.
    """

    init: str = "cidd"
    confidence: str = "low"
    require_correct: bool = False
    candidates: int = 300
    crops: int = 20
    keep: int = 5
    share: tuple[float, float] | None = None
    crop_score: str = "mean"
    crop_shown: str = "padded"
    factor: int = 0
    refine: str = "non-critical"
    threshold: float = 0.5
    cam_scale: str = "min-max"
    cam_every: int = 0
    steps: int = 200
    optimizer: str = "adam"
    lr: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    schedule: str = "cosine"
    clamp: str = "step"
    statistics_weight: float = 1.0
    first: float = 1.0
    view: str = "auto"
    jitter: int = 4
    batch: int = 100
    labels: str = "two-numbers"
    epochs: int = 300
    distance: str = "l1"
    sce_target: str = "mix"
    distance_weight: float = 1.0
    temperature: float = 20.0
    mix: str = "cutmix"
    mix_beta: float = 1.0
    label_view: str = "auto"
    view_batch: int = 50

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise DistilError(
                    f"nrr-dd: {name}={getattr(self, name)!r} is unknown; {nearest(str(getattr(self, name)), known)}"
                )
        for name in ("candidates", "crops", "keep", "batch", "epochs"):
            if getattr(self, name) < 1:
                raise DistilError(f"nrr-dd: {name}={getattr(self, name)} must be at least 1.")
        for name in ("factor", "cam_every", "steps", "jitter", "statistics_weight", "first", "distance_weight"):
            if not getattr(self, name) >= 0:
                raise DistilError(f"nrr-dd: {name}={getattr(self, name)} must not be below 0.")
        if not self.lr > 0:
            raise DistilError(f"nrr-dd: lr={self.lr} must be above 0.")
        if not self.mix_beta > 0:
            raise DistilError(f"nrr-dd: mix_beta={self.mix_beta} must be above 0.")
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.optimizer != "adam" and self.betas != Options.betas:
            raise DistilError(f"nrr-dd: betas={list(self.betas)} are Adam's; set optimizer=adam, or leave them out.")
        if self.share is not None:
            object.__setattr__(self, "share", tuple(self.share))
            square_boxes(1, share=self.share)  # refuses what is out of range
        self.labelling(1, 0)
        assert self.synthesis(crops=False)  # refuses what is left

    def synthesis(self, *, crops: bool) -> Synthesis:
        """Return how pixels are refined, under random crops or rolls."""
        return Synthesis(
            steps=self.steps, rate=self.lr, statistics=self.statistics_weight, first=self.first, crops=crops,
            jitter=0 if crops else self.jitter, optimizer=self.optimizer, betas=self.betas, schedule=self.schedule,
        )  # fmt: skip

    def labelling(self, factor: int, seed: int) -> Labelling:
        """Return how images made of ``factor``² crops are labelled, under views drawn from a seed."""
        usual = "pad" if factor == 1 else "resized"
        shown = Augmentation(
            crop=usual if self.label_view == "auto" else self.label_view, shuffle=factor, mix=self.mix,
            alpha=self.mix_beta, batch=self.view_batch, seed=seed,
        )  # fmt: skip
        return Labelling(
            KINDS[self.labels], temperature=self.temperature, epochs=self.epochs, augmentation=shown,
            distance=self.distance, weight=self.distance_weight, target=self.sce_target,
        )  # fmt: skip


def refuse(order: Order) -> None:
    """Refuse an order that cannot be filled, before anything is computed.

    Raises:
        DistilError: inputs that are no images, fewer crops than are stitched, a teacher without activation maps or
            batch norms.
    """
    options: Options = options_of(order, Options)
    if len(order.bundle.input_shape) != 3:
        raise DistilError(
            f"nrr-dd refines images [C, H, W], and {order.bundle.name} holds inputs {tuple(order.bundle.input_shape)}."
        )
    if len(order.teachers) != 1:
        raise DistilError(f"nrr-dd asks one teacher, and {len(order.teachers)} were given; name one.")
    factor = factor_of(order, options)
    if factor > min(order.bundle.input_shape[1:]):
        raise DistilError(f"nrr-dd: factor={factor} is more crops than an image has pixels along a side.")
    each = {"cidd": min(options.keep, options.crops), "rded": 1}.get(options.init)
    for label, name in enumerate(order.bundle.classes):
        there = min(len(order.real(label)), options.candidates)
        wanted = order.per_class if each is None else order.per_class * factor**2
        if options.init != "noise" and there * (each or 1) < wanted:
            raise DistilError(
                f"nrr-dd (init={options.init}) needs {wanted} {'crops' if each else 'images'} of {name}, and {there} "
                f"images give {there * (each or 1)}; ask for fewer a class, or raise candidates or keep."
            )
    Look(order.teachers[0], order.task, order.inputs(torch.arange(2)))


def condensed(order: Order) -> CondensedSet:
    """Make the set: find the images, refine them, label their views.

    The teacher's weights, buffers and mode stay as they are. Images lie on 256 levels before and after refining, as a
    PNG keeps them, so that labels are of the very images that are stored.

    Raises:
        DistilError: see :func:`refuse`.
    """
    refuse(order)
    options: Options = options_of(order, Options)
    example, space = order.inputs(torch.arange(2)), pixel_space(order)
    look = Look(order.teachers[0], order.task, example, scale=options.cam_scale)
    images = discovered(order, look, options, space)
    labels = torch.arange(order.classes).repeat_interleave(order.per_class)
    images = refined(images.to(look.device), labels.to(look.device), order, look, options, space)
    return labelled(CondensedSet(images.cpu(), labels, order.bundle.classes), order)


def labelled(small: CondensedSet, order: Order) -> CondensedSet:
    """Return a set labelled as an order's options say, by its teacher, under views drawn from its seed."""
    options: Options = options_of(order, Options)
    how = options.labelling(factor_of(order, options), mix_seed("views", order.seed) % 2**31)
    teacher = order.teachers[0]
    with evaluating(teacher):
        return relabelled(
            small, [teacher], how, task=order.task, device=str(device_of(teacher)), progress=order.progress.step
        )


def refined(images: Tensor, labels: Tensor, order: Order, look: Look, options: Options, space: Pixels) -> Tensor:
    """Return images whose pixels were moved to be typical of their class, by the mask of what shows it least.

    ``x ← x + M · step``, the step an optimizer's on cross-entropy plus the batch-norm term of what the teacher sees
    (:func:`distil.loops.synthesis.synthesise`), kept where pixels can lie and at the end brought to 256 levels. A pixel
    of mask 0 comes back bit for bit.

    Args:
        images: [n, C, H, W] in [0, 1], on 256 levels.
        labels: [n], class by class.
        order: whose data, seed and progress these are.
        look: the teacher.
        options: ``refine`` and what follows it; ``refine="off"`` moves nothing.
        space: in which pixels move.
    """
    if options.refine == "off" or not options.steps:
        return images
    crops = options.view == "crop" or (options.view == "auto" and min(images.shape[2:]) >= 64)
    how = options.synthesis(crops=crops)
    bounds = {"low": space.low, "high": space.high} if options.clamp == "step" else {}
    (network,) = judges(order, [look.teacher], space, how)
    generator, found = generator_for(order, "nrr-dd", "views"), images.clone()
    batches = _batches(labels, options.batch)
    for k, where in enumerate(batches):
        made = synthesise(
            network, space.normalised(images[where]), labels[where], how, **bounds,
            mask=_Mask(look, labels[where], options, space), generator=generator,
        )  # fmt: skip
        found[where] = eight_bit(space.raw(made.pixels))
        order.progress.step(k + 1, len(batches))
    return found


def _batches(labels: Tensor, size: int) -> list[Tensor]:
    """Positions of nearly equal batches: the first image of each class, then the second of each, …"""
    counts = [count for count in labels.bincount().tolist() if count]
    columns = torch.arange(len(labels), device=labels.device).split(counts)
    order = [int(column[k]) for k in range(max(counts)) for column in columns if k < len(column)]
    return list(torch.tensor(order, device=labels.device).chunk(-(-len(order) // size)))


class _Mask:
    """How far each pixel may move: found before the first step, and anew every so many steps if that is asked."""

    def __init__(self, look: Look, labels: Tensor, options: Options, space: Pixels) -> None:
        self.look, self.labels, self.options, self.space = look, labels, options, space
        self.found: Tensor | None = None

    def __call__(self, step: int, pixels: Tensor) -> Tensor:
        every = self.options.cam_every
        if self.found is None or (every and step % every == 0):
            maps = self.look.maps(self.space.raw(pixels), self.labels)
            self.found = soft_mask(maps, threshold=self.options.threshold, region=self.options.refine)
        return self.found
