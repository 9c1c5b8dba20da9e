"""The survey's data side as one call: how a small set is made, what it is made of, and how it is labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet
from distil.errors import DistilError, nearest
from distil.loops.condense import Order, condense
from distil.loops.condensers import CONDENSERS
from distil.loops.labelling import Labelling, relabelled
from distil.loops.small_sets import turned_back

__all__ = ["CARRIERS", "LABELS", "MATCHING", "small_set"]

MATCHING: Mapping[str, str] = {
    "distributions": "dm",
    "gradients": "dc",
    "distillation gradients": "dc-kd",
    "trajectories": "tm",
    "ridge": "krr",
    "codes": "latent",
}
"""What is matched, and the condenser that does it."""
CARRIERS = ("free", "real")
LABELS = ("hard", "soft")


def small_set(
    bundle: Bundle,
    per_class: int,
    *,
    matching: str = "distributions",
    distance: str | None = None,
    selection: str | None = None,
    carrier: str = "free",
    labels: str = "hard",
    teachers: Sequence[nn.Module] = (),
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> CondensedSet:
    """Make a small set of a large one, by any of the survey's ways that are built.

    Args:
        bundle: images or vectors with a label each; an encoder's vectors stand for texts.
        per_class: samples of each class.
        matching: what the set is made to share with the data, a name of :data:`MATCHING`.
        distance: of gradients: "ours", "mse" or "cos".
        selection: a condenser that picks real samples (random, herding, …), in the place of matching.
        carrier: "free" tensors, or the nearest "real" samples of their class, each at most once: for vectors of texts
            that is what can be read. What it costs is measured by training on both.
        labels: "hard", or "soft": the teachers' logits on each sample, at temperature 1.
        teachers: for soft labels, and for the gradients of distillation.
        seed: of every draw.
        options: of the condenser.

    Raises:
        DistilError: an unknown name, a distance where no gradients are matched, soft labels without a teacher, and
            whatever :func:`distil.loops.condense.condense` refuses.

    Example:
        >>> from distil.data import load
        >>> small = small_set(load("digits"), 1, carrier="real", options={"iterations": 3})
        >>> len(small), bool((small.ids >= 0).all())
        (10, True)

    Paper: Fang et al., *Knowledge Distillation and Dataset Distillation of Large Language Models*, 2025, arXiv
    2504.14772, as a checklist; formulas are those of the works it lists.
    """
    for name, value, known in (
        ("matching", matching, MATCHING), ("carrier", carrier, CARRIERS), ("labels", labels, LABELS),
    ):  # fmt: skip
        if value not in known:
            raise DistilError(f"{name}={value!r} is unknown; {nearest(value, known)}")
    if selection is not None and selection not in CONDENSERS:
        raise DistilError(f"selection={selection!r} is unknown; {nearest(selection, CONDENSERS)}")
    method = MATCHING[matching] if selection is None else selection
    asked = dict(options or {})
    if distance is not None:
        if method not in ("dc", "dc-kd"):
            raise DistilError(f"distance={distance!r} is one of gradients, and {method} matches none; leave it out.")
        asked["distance"] = distance
    asks = CONDENSERS[method].teachers != 0  # who only labels the set is not asked while it is made
    order = Order(bundle, per_class, seed, tuple(teachers) if asks else (), options=asked)
    small = condense(order, method)
    if carrier == "real":
        small = turned_back(small, bundle)
    if labels == "soft" or method == "dc-kd":
        small = relabelled(small, teachers, Labelling("static", temperature=1.0), task=order.task)
    return small
