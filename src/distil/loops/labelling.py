"""How a small set is labelled by teachers, and what its labels ask of a student."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.data.augmented import Augmentation, AugmentedBatch, augmented
from distil.data.condensed import LABEL_KINDS, CondensedSet
from distil.data.fingerprint import fingerprint
from distil.errors import DistilError, nearest
from distil.functional.divergence import kl
from distil.functional.two_numbers import (
    half_distances,
    label_distances,
    mixed_cross_entropy,
    rebuilt_labels,
    two_distances,
)
from distil.tasks import ClassificationTask, Task

__all__ = [
    "Labelling",
    "Target",
    "augmentation_of",
    "labellers_fit",
    "relabelled",
    "target_of",
    "teachers_logits",
]

RECORDED = ("replayed", "two-numbers")
"""Kinds of labels that were stored for known views, which a student must be shown again."""

COMBINED = ("logits", "probabilities")

Target = Callable[[Tensor, AugmentedBatch, int], Tensor]
"""From a student's logits ``[B, C]``, what it was shown and the epoch, to a loss for each sample ``[B]``."""


@dataclass(frozen=True)
class Labelling:
    """How teachers label a set.

    Attributes:
        kind: "hard", "static" (the teachers' logits on each sample as it is), "dynamic" (asked while a student trains),
            "replayed" (their logits on every view of ``epochs`` epochs) or "two-numbers" (two distances on every view).
        temperature: of the divergence from soft labels; there is no factor T².
        epochs: how many are recorded; a longer training begins them again.
        combine: several teachers, by the mean of their "logits" or of their "probabilities".
        augmentation: how samples are shown, to teachers that label views and to students.
        distance, weight, target: of two-number labels: "l1", "mse" or "smooth-l1"; the weight of that distance beside
            the cross-entropy; and whether that is with both labels by their shares ("mix") or with the label that the
            two numbers leave ("reconstructed").
    """

    kind: str = "static"
    temperature: float = 30.0
    epochs: int = 50
    combine: str = "logits"
    augmentation: Augmentation = field(default_factory=Augmentation)
    distance: str = "l1"
    weight: float = 1.0
    target: str = "mix"

    def __post_init__(self) -> None:
        for name, known in (("kind", LABEL_KINDS), ("combine", COMBINED), ("target", ("mix", "reconstructed"))):
            if getattr(self, name) not in known:
                raise DistilError(
                    f"labelling.{name}={getattr(self, name)!r} is unknown; {nearest(str(getattr(self, name)), known)}"
                )
        if not self.temperature > 0 or self.epochs < 1:
            raise DistilError(
                f"labelling.temperature={self.temperature} must be above 0, and labelling.epochs={self.epochs} at "
                "least 1."
            )


def augmentation_of(small: CondensedSet, *, seed: int | None = None) -> Augmentation:
    """Return how students are shown a set: as its record says, else shifted and mirrored (mixed up for soft labels).

    ``seed`` takes the place of the record's where labels do not depend on the views.
    """
    record = small.record.get("augmentation")
    found = Augmentation.of(record) if record else Augmentation(mix="none" if small.kind == "hard" else "mixup")
    if not small.images:
        found = found.for_vectors()
    if small.texts is not None:
        found = replace(found, mix="none")  # half of a text is no text
    if seed is None or small.kind in RECORDED:
        return found
    return Augmentation(**{**asdict(found), "seed": seed})


@torch.no_grad()
def teachers_logits(
    teachers: Sequence[nn.Module], inputs: Tensor, *, task: Task | None = None, combine: str = "logits"
) -> Tensor:
    """Return what several teachers say of a batch as one row of logits each, ``[B, C]``.

    Args:
        teachers: in eval mode.
        inputs: as the set stores them.
        task: how they are called, in the role "teacher".
        combine: the mean of their "logits", or the logarithm of the mean of their "probabilities".

    >>> teachers_logits([nn.Identity(), nn.Identity()], torch.tensor([[1.0, 3.0]]))
    tensor([[1., 3.]])
    """
    task = task or ClassificationTask()
    said = torch.stack([task.logits(task.call(t, {"inputs": inputs}, "teacher")).float() for t in teachers])
    if combine == "probabilities":
        return F.log_softmax(said, 2).logsumexp(0) - torch.tensor(float(len(said))).log().to(said)
    return said.mean(0)


def relabelled(
    small: CondensedSet,
    teachers: Sequence[nn.Module],
    labelling: Labelling,
    *,
    task: Task | None = None,
    device: str | None = None,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> CondensedSet:
    """Return a set labelled another way; its samples stay.

    Args:
        small: the set.
        teachers: asked as often as the kind of labels needs: never (hard), once for each sample (static), once for
            each view of each epoch (replayed, two-numbers), or while students train (dynamic).
        labelling: the kind and its settings.
        task: how teachers are called.
        device: where they are asked.
        batch_size: of static labels.
        progress: called with the passes done and all of them.

    Raises:
        DistilError: soft labels without a teacher.

    >>> small = CondensedSet(torch.zeros(2, 3), torch.tensor([0, 1]), ("a", "b"))
    >>> soft = relabelled(small, [nn.Linear(3, 2)], Labelling("static", temperature=4.0))
    >>> soft.kind, soft.logits.shape
    ('static', torch.Size([2, 2]))
    """
    kind, how = labelling.kind, labelling
    if kind != "hard" and not teachers:
        raise DistilError(f"{kind} labels come from a teacher; name one with --teacher, or take hard labels.")
    asked = [teacher.eval().to(device or "cpu") for teacher in teachers]
    shown = how.augmentation if small.images else how.augmentation.for_vectors()
    record: dict[str, Any] = {"augmentation": asdict(shown)}
    if kind != "hard":
        record |= {"temperature": how.temperature, "combine": how.combine}
        record |= {"labelled_by": [fingerprint(teacher) for teacher in teachers]}
    if kind == "two-numbers":
        record |= {"distance": how.distance, "weight": how.weight, "target": how.target}
    other = {name: value for name, value in small.replay.items() if name not in ("logits", "distances")}
    if kind in ("hard", "dynamic"):
        return small.with_labels(kind, logits=None, replay=other, record=record)
    if kind == "static":
        parts = list(torch.arange(len(small)).split(batch_size))
        rows = []
        for k, part in enumerate(parts):
            rows.append(teachers_logits(asked, small.samples(part).to(device or "cpu"), task=task, combine=how.combine))
            if progress is not None:
                progress(k + 1, len(parts))
        return small.with_labels(kind, logits=torch.cat(rows).cpu(), replay=other, record=record)
    stored = []
    here = small.to(device) if device else small
    labels = small.labels
    for epoch in range(how.epochs):
        rows = []
        for batch in augmented(here, shown, epoch):
            said = teachers_logits(asked, batch.inputs, task=task, combine=how.combine).cpu()
            two = label_distances(said, labels[batch.positions], labels[batch.partners]) if kind != "replayed" else None
            rows.append(said.half() if two is None else half_distances(two))
        stored.append(torch.cat(rows))
        if progress is not None:
            progress(epoch + 1, how.epochs)
    record["epochs"] = how.epochs
    name = "logits" if kind == "replayed" else "distances"
    return small.with_labels(kind, logits=None, replay={**other, name: torch.stack(stored)}, record=record)


def labellers_fit(small: CondensedSet, teachers: Sequence[nn.Module], names: Sequence[str] = ()) -> list[str]:
    """Return what must be said where teachers are not those that a set's record names as its own.

    Args:
        small: the set; hard labels have no teachers, and a set of others may not say who they were.
        teachers: those at hand, in any order; only dynamic labels cannot do without.
        names: how the user calls them.

    Raises:
        DistilError: more or fewer of them than labelled it, who together would answer otherwise; none for dynamic
            labels.
    """
    if small.kind == "dynamic" and not teachers:
        raise DistilError(
            "the set has dynamic labels, the teachers' while a student trains; name each of them with --teacher."
        )
    known = [] if small.kind == "hard" else list(small.record.get("labelled_by") or ())
    if not known or not teachers:
        return []
    if len(known) != len(teachers):
        raise DistilError(
            f"the set has {small.kind} labels of {len(known)} teacher{'s' * (len(known) > 1)} together, and "
            f"{len(teachers)} {'were' if len(teachers) > 1 else 'was'} named; give --teacher (and --teacher-weights) "
            "once for each."
        )
    left, strange = Counter(known), []
    for k, found in enumerate(map(fingerprint, teachers)):
        if not left[found]:
            strange.append(names[k] if k < len(names) else f"teacher {k + 1}")
        left[found] -= left[found] > 0
    if not strange:
        return []
    return [
        f"The set was not labelled by {', '.join(strange)} (its record has other weights, or another normalisation), "
        "so their labels are not those that it was judged with."
    ]


def target_of(small: CondensedSet, *, task: Task | None = None, teachers: Sequence[nn.Module] = ()) -> Target:
    """Return the loss that a set's labels ask of a student, for each sample of a batch.

    - hard: the cross-entropy with the labels, mixed by their shares.
    - static: the divergence from the stored logits at temperature T, logits mixed by their shares (INFER).
    - dynamic: the same from the teachers' logits on the very view.
    - replayed: the same from the logits stored for this view.
    - two-numbers: the cross-entropy plus the distance from the two stored numbers (NRR-DD).

    Divergences are sums over classes without T²; where the set weighs samples, so is each loss (weights have mean 1).

    Args:
        small: the set, on the device of the student.
        task: how teachers are called.
        teachers: of dynamic labels.
    """
    losses = {"hard": _hard, "static": _static, "dynamic": _dynamic, "replayed": _replayed, "two-numbers": _two_numbers}
    if small.kind == "dynamic" and not teachers:
        raise DistilError("dynamic labels are the teachers' while a student trains, and none is there; name them.")
    raw = losses[small.kind](small, task, teachers)
    if small.weights is None:
        return raw
    weights = small.weights / small.weights.mean()

    def weighed(logits: Tensor, batch: AugmentedBatch, epoch: int) -> Tensor:
        own, other = (weights[where.to(weights.device)] for where in (batch.positions, batch.partners))
        return raw(logits, batch, epoch) * (batch.share * own + (1 - batch.share) * other)

    return weighed


def _hard(small: CondensedSet, task: Task | None, teachers: Sequence[nn.Module]) -> Target:
    def loss(logits: Tensor, batch: AugmentedBatch, epoch: int) -> Tensor:
        own, other = _labels(small, batch)
        shares = torch.full((len(own),), batch.share, device=logits.device)
        return mixed_cross_entropy(logits, own, other, shares, reduction="none")

    return loss


def _static(small: CondensedSet, task: Task | None, teachers: Sequence[nn.Module]) -> Target:
    assert small.logits is not None
    stored, temperature = small.logits.float(), _temperature(small)

    def loss(logits: Tensor, batch: AugmentedBatch, epoch: int) -> Tensor:
        own, other = (stored[where.to(stored.device)] for where in (batch.positions, batch.partners))
        return _divergence(logits, batch.share * own + (1 - batch.share) * other, temperature)

    return loss


def _dynamic(small: CondensedSet, task: Task | None, teachers: Sequence[nn.Module]) -> Target:
    combine = str(small.record.get("combine", "logits"))

    def loss(logits: Tensor, batch: AugmentedBatch, epoch: int) -> Tensor:
        said = teachers_logits(teachers, batch.inputs, task=task, combine=combine)
        return _divergence(logits, said, _temperature(small))

    return loss


def _replayed(small: CondensedSet, task: Task | None, teachers: Sequence[nn.Module]) -> Target:
    stored = small.replay["logits"]

    def loss(logits: Tensor, batch: AugmentedBatch, epoch: int) -> Tensor:
        return _divergence(logits, stored[epoch][batch.rows].float(), _temperature(small))

    return loss


def _two_numbers(small: CondensedSet, task: Task | None, teachers: Sequence[nn.Module]) -> Target:
    stored, record = small.replay["distances"], small.record
    distance, weight = str(record.get("distance", "l1")), float(record.get("weight", 1.0))

    def loss(logits: Tensor, batch: AugmentedBatch, epoch: int) -> Tensor:
        own, other = _labels(small, batch)
        theirs = stored[epoch][batch.rows].float()
        if record.get("target", "mix") == "reconstructed":
            left = rebuilt_labels(theirs, own, other, classes=logits.shape[1])
            values = -(left * F.log_softmax(logits.float(), 1)).sum(1)
        else:
            shares = torch.full((len(own),), batch.share, device=logits.device)
            values = mixed_cross_entropy(logits, own, other, shares, reduction="none")
        return values + weight * two_distances(logits, theirs, own, other, distance=distance, reduction="none")

    return loss


def _labels(small: CondensedSet, batch: AugmentedBatch) -> tuple[Tensor, Tensor]:
    device = small.labels.device
    return small.labels[batch.positions.to(device)], small.labels[batch.partners.to(device)]


def _divergence(logits: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    return kl(logits, theirs.to(logits.device), temperature=temperature, scale="none", reduction="none")


def _temperature(small: CondensedSet) -> float:
    return float(small.record.get("temperature", 1.0))
