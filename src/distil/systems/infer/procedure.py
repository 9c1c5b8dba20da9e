"""INFER as a condenser: a few additive images, shared by all classes, turn a handful of real images into many."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from distil.data.augmented import Augmentation
from distil.data.condensed import CondensedSet
from distil.data.condensed_files import as_kept
from distil.errors import DistilError, nearest
from distil.loops.condense_pixels import chunks_of, class_batches, generator_for, judges, pixel_space
from distil.loops.labelling import Labelling, relabelled
from distil.loops.order import Order, options_of
from distil.loops.synthesis import Synthesis, synthesise

__all__ = ["Infer", "infer_set", "naturals_only", "refuse", "share_of_budget"]

FINAL, BUDGETS = ("last", "published"), ("storage", "images")


@dataclass(frozen=True)
class Infer:
    """The settings of INFER; the defaults are its README's for CIFAR.

    Attributes:
        compensator: off, the whole budget is real images drawn at random, with the same labels.
        shared: one additive image for all classes of a batch; off, one for each class (the barrier it removes).
        networks: which teachers additive images are made for, by their places; all by default. All of them label.
        statistics, first, skip, jitter, steps, rate, crops: see :class:`distil.loops.synthesis.Synthesis`. They are the
            same at every size; on ImageNet its authors set ``crops``, jitter 32, statistics 0.01 and 2,000 steps.
        batch: classes that share a batch, and so an additive image; all of them by default. Where it does not divide
            them, the last batch is smaller and has its own.
        final: "last", the additive image after the last step, or "published", the one before it, as the code stores.
        budget: "storage", real and additive images together take at most the room of ``per_class`` images a class; or
            "images", there are ``per_class`` real ones and the additive ones come on top.
        labels: "static" (the mean of the teachers' logits on each image, stored once), "dynamic" (on each view, while
            a student trains) or "hard".
        temperature: of the labels.
        precision: in which the networks run, "fp32" or "bf16".
    """

    compensator: bool = True
    shared: bool = True
    networks: tuple[int, ...] | None = None
    statistics: float = 1.0
    first: float = 10.0
    skip: tuple[int, ...] = ()
    jitter: int = 4
    steps: int = 1000
    rate: float = 0.25
    crops: bool = False
    batch: int | None = None
    final: str = "last"
    budget: str = "storage"
    labels: str = "static"
    temperature: float = 30.0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name, known in (("final", FINAL), ("budget", BUDGETS)):
            if getattr(self, name) not in known:
                raise DistilError(f"{name}={getattr(self, name)!r} is unknown; {nearest(getattr(self, name), known)}")

    @property
    def synthesis(self) -> Synthesis:
        """How pixels are optimised."""
        names = ("steps", "rate", "statistics", "first", "skip", "jitter", "crops")
        return Synthesis(**{name: getattr(self, name) for name in names})

    @property
    def labelling(self) -> Labelling:
        """How the images are labelled; soft labels are interpolated under mixup."""
        shown = Augmentation(mix="none" if self.labels == "hard" else "mixup")
        return Labelling(self.labels, temperature=self.temperature, augmentation=shown)

    def places(self, order: Order) -> tuple[int, ...]:
        """Which teachers additive images are made for."""
        places = tuple(range(len(order.teachers))) if self.networks is None else self.networks
        odd = [place for place in places if not 0 <= place < len(order.teachers)]
        if odd or not places or len(set(places)) < len(places):
            raise DistilError(
                f"networks={list(places)} must name some of the {len(order.teachers)} teachers by their places, from "
                "0 on, each once; compensator=false makes no additive images."
            )
        return places

    def naturals(self, order: Order) -> int:
        """How many real images each class keeps."""
        if not self.compensator or self.budget == "images":
            return order.per_class
        copies = len(chunks_of(order.classes, self.batch)) if self.shared else order.classes
        networks = len(self.places(order))
        found = share_of_budget(order.per_class, networks=networks, classes=order.classes, copies=copies)
        if not found:
            least = -(-(order.classes + networks * copies) // order.classes)
            raise DistilError(
                f"--per-class {order.per_class} leaves no room for a real image of each class beside {networks} x "
                f"{copies} additive images shared by {order.classes} classes: ⌊{order.per_class} / (1 + "
                f"{networks * copies}/{order.classes})⌋ = 0; ask for at least {least}, or name fewer networks."
            )
        return found


def naturals_only(small: CondensedSet) -> CondensedSet:
    """Return a set's real images as they are, with their labels: what it is without its additive images."""
    if small.pairs is None:
        return small
    count = len(small.inputs)  # the first samples, one for each
    kept = {name: value[:count] for name in ("labels", "ids", "logits") if (value := getattr(small, name)) is not None}
    return replace(small, pairs=None, compensators=None, **kept)


def share_of_budget(per_class: int, *, networks: int, classes: int, copies: int = 1) -> int:
    """Return how many real images of each class a budget holds: ⌊per_class / (1 + M · copies / C)⌋, in whole numbers.

    Each real image of every class asks for M · copies additive ones, which all C classes share; so real and additive
    images together never take more room than ``per_class`` images of each class. With them, ``(M + 1)`` times as many
    images are trained on. 0 where nothing fits.

    Args:
        per_class: images asked for of each class.
        networks: M, of how many networks there are additive images.
        classes: C.
        copies: additive images for one batch of all classes: 1 if they share it.

    >>> [share_of_budget(10, networks=4, classes=c) for c in (10, 100)]
    [7, 9]

    Paper: Zhang et al., *Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator*,
    ICLR 2025, arXiv 2408.06927.
    """
    if min(networks, copies) < 0 or per_class < 0 or classes < 1:
        raise DistilError(
            f"share_of_budget: per_class={per_class}, networks={networks} and copies={copies} must not be below 0, and "
            f"classes={classes} be at least 1."
        )
    return per_class * classes // (classes + networks * copies)


def refuse(order: Order) -> None:
    """Refuse, before anything is computed, a budget without room and networks without what is compared."""
    how = options_of(order, Infer)
    assert how.labelling
    how.naturals(order)
    if how.compensator and how.statistics:
        for place in how.places(order):
            network = order.teachers[place]
            if not any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules()):
                raise DistilError(
                    f"infer compares what batch norms are given, and teacher {place + 1} ({type(network).__name__}) "
                    "has no BatchNorm2d; name one that has, or set statistics=0."
                )


def infer_set(order: Order) -> CondensedSet:
    """Return real images, additive images, and which of them make each sample.

    For each network m and each k, one image u starts at 0 and is optimised so that the network takes every x + u for
    its class, over one real image x of each class, and so that its batch norms are given what they remember:
    ``CE + r Σ_l w_l (‖σ²_l − var_l‖₂ + ‖μ_l − mean_l‖₂)``, Adam, cosine rate, cyclic shifts. Samples are all x, then
    all clip(x + u), in the order of networks, then k, then classes.

    Raises:
        DistilError: no room for a real image, networks without batch norm, a class with too few images.

    Paper: Zhang et al., ICLR 2025, arXiv 2408.06927. Differs from official code: u is the one after the last step
    (``final="published"`` is theirs), and additive images are kept as such, so that a sample is rounded once.
    """
    refuse(order)
    how, space, count = options_of(order, Infer), pixel_space(order), options_of(order, Infer).naturals(order)
    real = class_batches(order, count, generator=generator_for(order, "infer", "real"), method="infer")
    inputs, ids = order.inputs(real.flatten()), order.ids(real.flatten())
    labels, rows = list(range(order.classes)) * count, list(range(len(inputs)))
    pairs, added = [[row, -1] for row in rows], []
    if how.compensator:
        device = torch.device(order.device or "cpu")
        places, chunks = how.places(order), chunks_of(order.classes, how.batch)
        networks = judges(order, [order.teachers[m] for m in places], space, how.synthesis, precision=how.precision)
        batches = space.normalised(inputs).unflatten(0, (count, order.classes)).to(device)
        made = 0
        for m, network in zip(places, networks, strict=True):
            for k in range(count):
                for chunk in chunks:
                    around = batches[k, chunk.start : chunk.stop]
                    size = 1 if how.shared else len(chunk)
                    start = around.new_zeros(size, *around.shape[1:])
                    found = synthesise(
                        network, start, torch.tensor(chunk, device=device), how.synthesis, around=around,
                        generator=generator_for(order, "infer", m, k, chunk.start),
                    )  # fmt: skip
                    added.append(space.added(found.pixels if how.final == "last" else found.before).cpu())
                    pairs += [
                        [k * order.classes + label, made + (place if size > 1 else 0)]
                        for place, label in enumerate(chunk)
                    ]
                    made += size
                order.progress.step(len(added), len(places) * count * len(chunks))
    of = ids.tolist()
    small = CondensedSet(
        inputs,
        torch.tensor([labels[row] for row, _ in pairs]),
        order.bundle.classes,
        ids=torch.tensor([of[row] if which < 0 else -1 for row, which in pairs]),
        compensators=torch.cat(added) if added else None,
        pairs=torch.tensor(pairs) if added else None,
        made={"natural": count, "networks": len(how.places(order)) if how.compensator else 0},
    )
    return relabelled(as_kept(small, order.exact), order.teachers, how.labelling, task=order.task, device=order.device)
