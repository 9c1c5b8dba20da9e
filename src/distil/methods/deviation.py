"""How many classes logits must score before dividing them by their own deviation leaves anything to learn."""

from __future__ import annotations

from distil.engine.method import Traces
from distil.errors import DistilError

__all__ = ["enough_classes"]

LEAST = 3


def enough_classes(name: str, trace: Traces, fix: str) -> None:
    """Refuse logits of one or two classes, which come out the same whatever they were: two as ±0.71, without gradient.

    Args:
        name: the method, for the error.
        trace: of one model.
        fix: what to use in its place.
    """
    logits = trace.logits
    count = int(logits.shape[1 if logits.ndim == 4 else -1])
    if count < LEAST:
        raise DistilError(
            f"{name} divides logits by their own deviation over the classes, of which the {trace.role} scores {count}: "
            f"below {LEAST} classes the same numbers come out whatever the logits are, so nothing would be learnt. Use "
            f"{fix}."
        )
