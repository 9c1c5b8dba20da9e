"""Making a small set out of a large one: an order, the check that a method can fill it, and the set."""

from __future__ import annotations

from dataclasses import replace

from distil.data.condensed import CondensedSet
from distil.data.condensed_files import as_kept
from distil.data.fingerprint import fingerprint
from distil.loops.carrier import default_net
from distil.loops.condense_check import check_order
from distil.loops.condensers import find
from distil.loops.labelling import Labelling, relabelled
from distil.loops.nearest_texts import nearest_texts
from distil.loops.order import Condenser, Order, architecture, imported, options_of
from distil.loops.training import build_model

__all__ = ["Condenser", "Order", "condense", "described", "free_order", "nets_behind", "options_of"]


def condense(order: Order, method: str, labelling: Labelling | None = None) -> CondensedSet:
    """Return the small set that ``method`` makes; what cannot work is refused before anything is computed.

    Args:
        order: the data, the budget and the teachers.
        method: a name of :data:`distil.loops.condensers.CONDENSERS`.
        labelling: how the set is labelled in place of the method's own way.

    Raises:
        DistilError: an unknown method or option, a budget below the method's least, too few samples of a class,
            teachers that are missing, lack what the method reads, or are no better than chance.
    """
    condenser = find(method)
    check_order(order, method, condenser, labelling)
    if order.nearest:
        return nearest_texts(condense(free_order(order, method), method), order, labelling)
    order.progress.begin(f"condensing {order.bundle.name} by {method}")
    small = described(imported(condenser.run)(order), order, method)
    if labelling is not None:
        order.progress.begin(f"labelling the set: {labelling.kind}")
        small = relabelled(
            as_kept(small, order.exact), order.teachers, labelling, task=order.task, device=order.device,
            progress=order.progress.step,
        )  # fmt: skip
    return order.kept(small)


def free_order(order: Order, method: str) -> Order:
    """Return the order of the vectors that texts are then taken for; who only labels the texts is not asked."""
    return replace(order, texts=None, nearest=False, teachers=order.teachers if find(method).teachers != 0 else ())


def described(small: CondensedSet, order: Order, method: str) -> CondensedSet:
    """Return the set with how it was made: method, options, seed, budget, and fingerprints of data and teachers."""
    source = order.words or order.bundle
    made = {
        "method": method,
        "options": dict(order.options),
        "seed": order.seed,
        "per_class": order.per_class,
        "data": source.fingerprint,
        "data_name": source.name,
        "teachers": [fingerprint(teacher) for teacher in order.teachers],
        "nets": sorted({*nets_behind(order, method), *(small.made.get("nets") or ())}),
    }
    return replace(small, made={**made, **small.made, "nets": made["nets"]})


def nets_behind(order: Order, method: str) -> set[str]:
    """Return the forms of the nets with which ``method`` fills an order: of the teachers, and of what it draws.

    A method draws the net that its option ``net`` names, or the usual one where that is "".
    """
    place = find(method).options
    spec = getattr(options_of(order, imported(place)), "net", None) if place else None
    drawn = [] if spec is None else [build_model(spec or default_net(order.bundle), order.bundle, seed=0)]
    return set(map(architecture, [*order.teachers, *drawn]))
