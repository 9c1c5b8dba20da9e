"""The real texts nearest to the vectors that a method makes, and the accuracy that taking them costs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from distil.data.bundle import ids_of
from distil.data.condensed import CondensedSet
from distil.data.fingerprint import fingerprint
from distil.loops.compare import run_arms
from distil.loops.condensed import set_arm
from distil.loops.judging import Judging, students_for
from distil.loops.lab import Arm, Lab, Role
from distil.loops.labelling import Labelling, relabelled
from distil.loops.order import Order
from distil.loops.small_sets import turned_back
from distil.report.text import over_seeds

__all__ = ["cost_of_nearest", "nearest_texts", "told_of_nearest"]


def nearest_texts(free: CondensedSet, order: Order, labelling: Labelling | None = None) -> CondensedSet:
    """Return a set of texts: for each vector the nearest real one of its class, no text twice.

    Learned labels stay, each with its place; a teacher's are asked anew, of the texts that are taken.

    Args:
        free: the vectors that a method made for the order.
        order: whose texts these are, and the vectors of them.
        labelling: how the set is labelled, where that is not left to the method.
    """
    assert order.texts is not None
    small = turned_back(free, order.bundle)
    how = _labelling(free, labelling)
    if how is not None:
        small = relabelled(
            small, order.teachers, how, task=order.task, device=order.device, progress=order.progress.step
        )
    made = {**small.made, "data": order.texts.fingerprint, "data_name": order.texts.name}
    return order.kept(replace(small, made=made))


def told_of_nearest(small: CondensedSet) -> dict[str, str]:
    """Return what a report's setting says of texts that stand for vectors; nothing of other sets."""
    found = small.made.get("turned_back")
    if found is None or small.texts is None:
        return {}
    return {
        "Texts": "of each vector the nearest real text of its class, each taken once; mean distance "
        f"{found['mean distance']:.3g} of standardised vectors"
    }


def cost_of_nearest(
    free: CondensedSet,
    near: CondensedSet,
    order: Order,
    lab: Lab,
    judging: Judging,
    labelling: Labelling | None = None,
    **inputs: Any,
) -> dict[str, Any]:
    """Return the table of what the nearest texts cost: the same students on the vectors made and on the texts' own.

    Students of texts could not read a vector that no text has, so both sides are judged as vectors.

    Args:
        free, near: the set before and after. order: as for :func:`nearest_texts`.
        lab: where runs are stored.
        judging: seeds and training; students are the usual ones of vectors.
        labelling: as for :func:`nearest_texts`; the vectors are labelled alike.
        inputs: what the runs depend on besides.
    """
    assert near.ids is not None
    how = _labelling(free, labelling)
    if how is not None:
        free = relabelled(free, order.teachers, how, task=order.task, device=order.device)
    place = {int(one): k for k, one in enumerate(ids_of(order.bundle.train).tolist())}
    rows = order.inputs(torch.tensor([place[int(one)] for one in near.ids.tolist()]))
    sides = {"free": free, "nearest": replace(near, inputs=rows, texts=None, prompts=None)}
    students, _ = students_for(replace(judging, students=()), free, order.bundle)
    arms: dict[str, Arm] = {}
    for k, spec in enumerate(students):
        for side, small in sides.items():
            role: Role = "ablation" if arms else "reference"
            label = f"{'Vectors as made' if side == 'free' else 'Vectors of the nearest texts'}, {spec}"
            arms[f"vectors-{side}-{k}"] = set_arm(
                lab, role, label, partial(_same, small), spec, order.bundle, judging.training,
                teachers=order.teachers,
            )  # fmt: skip
    outcomes = run_arms(
        arms, judging.seeds, lab, sets=[small.fingerprint for small in sides.values()], students=list(students),
        judging=judging.training, data=order.bundle.fingerprint, teachers=[fingerprint(t) for t in order.teachers],
        **inputs,
    )  # fmt: skip
    body: list[list[Any]] = []
    for k, spec in enumerate(students):
        for which in ("last", "best"):
            made, taken = (
                [each.metrics[which]["accuracy"] for each in outcomes[f"vectors-{side}-{k}"]] for side in sides
            )
            body.append(
                [spec, which, over_seeds(made), over_seeds(taken), over_seeds([a - b for a, b in zip(made, taken)])]
            )
    note = (
        "Students of the encoder's vectors, on those that were made and on those of the texts taken for them, under "
        "the same labels. Accuracy in %, mean ± sample deviation over seeds; the cost is in points, seed by seed "
        "(below 0: the texts taught more)."
    )
    head = ["Student", "State", "vectors as made", "nearest texts", "cost"]
    return {"title": "What the nearest real texts cost", "note": note, "head": head, "rows": body}


def _same(small: CondensedSet, seed: int) -> CondensedSet:
    return small


def _labelling(free: CondensedSet, labelling: Labelling | None) -> Labelling | None:
    """How a teacher labels the set: as asked, or as dc-kd does; None where labels are the method's own or classes."""
    taught = free.made.get("method") == "dc-kd" and free.kind == "static"
    return labelling or (Labelling("static", temperature=1.0) if taught else None)
