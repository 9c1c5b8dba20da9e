"""What recipes of small sets share: images or an encoder's vectors, fresh nets as judges, real items in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from distil.data import load, split
from distil.data.augmented import Augmentation
from distil.data.bundle import Bundle, ids_of, labels_of
from distil.data.condensed import CondensedSet
from distil.data.fingerprint import fingerprint
from distil.errors import DistilError
from distil.functional import nearest_rows, standardised_channels
from distil.loops.carrier import Real
from distil.loops.condensed import StudentTraining, set_arm, train_on
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.order import Order, architecture
from distil.loops.training import build_model
from distil.loops.vectors import vectors_of
from distil.tasks import get_task

__all__ = ["SmallData", "judged_arm", "small_data", "turned_back", "whole_set"]


@dataclass(frozen=True)
class SmallData:
    """Which data small sets are made of.

    Attributes:
        data: a name or path that ``distil.load`` reads.
        encoder: a text model by name, frozen: texts become its embeddings. "" where the data are images or vectors.
        max_length: tokens of a text.
        limit: at most so many of each part that is read.
        size: height and width that images are brought to.
        train, val: how many training and validation samples are kept, stratified.
    """

    data: str = "digits"
    encoder: str = ""
    max_length: int = 64
    limit: int | None = None
    size: int | None = None
    train: int | None = None
    val: int | None = None


def small_data(chosen: SmallData, lab: Lab) -> Bundle:
    """Load the data, texts as their embeddings, and cut them."""
    whole: Bundle = load(chosen.data, limit=chosen.limit, **({"size": chosen.size} if chosen.size else {}))
    if chosen.encoder:
        whole = vectors_of(lab, chosen.encoder, whole, max_length=chosen.max_length)
    parts = {"train": whole.train, "val": whole.val}
    for name, count in (("train", chosen.train), ("val", chosen.val)):
        if count is not None and count < len(parts[name]):
            parts[name] = split(parts[name], [count])[0]
    if parts["train"] is whole.train and parts["val"] is whole.val:
        return whole
    drawn = fingerprint({name: ids_of(part) for name, part in parts.items()})
    return replace(whole, **parts, fingerprint=f"{whole.fingerprint}-{drawn}")


def whole_set(bundle: Bundle) -> CondensedSet:
    """Return all training data as a set: what the full data give under the same number of updates."""
    order = Order(bundle, 1)
    positions = torch.cat([order.real(label) for label in range(order.classes)])
    return CondensedSet(order.inputs(positions), labels_of(bundle.train)[positions], bundle.classes)


def turned_back(small: CondensedSet, bundle: Bundle, *, distinct: bool = True) -> CondensedSet:
    """Return the set with every sample replaced by the nearest real training sample of its class.

    What was free becomes items that exist: sentences that can be read, where the vectors are an encoder's. Distances
    are those of standardised inputs. Stored labels and weights stay, each with its place.

    Args:
        small: the set. bundle: the data it was made of.
        distinct: no real sample is taken twice; a set of more samples of a class than there are is refused.
    """
    real = Real(Order(bundle, 1))
    positions = torch.cat(real.places)
    bank = real.read(positions)
    rows = standardised_channels(small.samples(), real.mean, real.deviation)
    found, away = nearest_rows(
        rows.flatten(1), bank.flatten(1), labels=small.labels, bank_labels=labels_of(bundle.train)[positions],
        distinct=distinct,
    )  # fmt: skip
    order = real.order
    made = {**small.made, "turned_back": {"mean distance": float(away.mean())}}
    return replace(
        small, inputs=order.inputs(positions[found]), ids=order.ids(positions[found]), compensators=None, pairs=None,
        made=made,
    )  # fmt: skip


def judged_arm(
    lab: Lab, role: Role, label: str, make: Callable[[int], CondensedSet], bundle: Bundle, training: StudentTraining, *,
    student: str, unseen: Sequence[str] = (), teachers: Sequence[nn.Module] = (),
    augmentation: Augmentation | None = None, phrase: str = "", trials: int = 1,
) -> Arm:  # fmt: skip
    """Return an arm that trains fresh nets on the set that ``make(seed)`` gives: the student, and others after it.

    The others, of architectures that had no part in making the set, are trained alike; their test accuracy is a
    diagnostic of the arm, and so are the seconds that making the set took. ``trials`` runs chose its settings.

    Raises:
        DistilError: one of ``unseen`` has the form of the student or of a teacher, which is refused before any set is
            made; or of a net that the set names as its maker, before a student is trained on it.
    """
    forms = {name: architecture(build_model(name, bundle, seed=0)) for name in (student, *unseen)}

    def refuse(seen: Collection[str]) -> None:
        wrong = next((name for name in unseen if forms[name] in seen), None)
        if wrong is not None:
            raise DistilError(f"{wrong} has the form of a net that makes the sets, so it is no unseen architecture.")

    def checked(seed: int) -> CondensedSet:
        small = make(seed)
        refuse(small.made.get("nets") or ())
        return small

    refuse({forms[student], *map(architecture, teachers)})
    arm = set_arm(
        lab, role, label, checked, student, bundle, training, teachers=teachers, augmentation=augmentation,
        phrase=phrase, trials=trials,
    )  # fmt: skip

    def run(seed: int) -> Outcome:
        outcome, task = arm.run(seed), get_task(bundle.task)
        small = make(seed)
        scores = {"seconds to make": float(small.made.get("seconds", 0.0))}
        for name in unseen:
            model = build_model(name, bundle, seed=seed, role="unseen")
            trained = train_on(
                small, model, training, task=task, teachers=teachers, val=bundle.val, seed=seed,
                augmentation=augmentation, device=lab.device,
            )  # fmt: skip
            model.load_state_dict(trained.best)
            scores[f"accuracy of {name}"] = task.evaluate(model, bundle.test)[task.metric]
        return replace(outcome, diagnostics={**outcome.diagnostics, **scores})

    return replace(arm, run=run)
