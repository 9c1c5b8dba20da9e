"""The methods that make small sets, by name; each is imported when it is first used."""

from __future__ import annotations

from distil.errors import DistilError, nearest
from distil.loops.order import Condenser

__all__ = ["CONDENSERS", "find"]

CONDENSERS: dict[str, Condenser] = {
    "random": Condenser("distil.loops.condense_random:random_set", "real samples, drawn at random from each class"),
}


def find(method: str) -> Condenser:
    """Return the condenser of that name."""
    if method not in CONDENSERS:
        raise DistilError(f"--method {method!r} makes no sets; {nearest(method, CONDENSERS)}")
    return CONDENSERS[method]
