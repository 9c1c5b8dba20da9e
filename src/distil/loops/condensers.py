"""The methods that make small sets, by name; each is imported when it is first used."""

from __future__ import annotations

from distil.errors import DistilError, nearest
from distil.loops.order import Condenser

__all__ = ["CONDENSERS", "find"]

CONDENSERS: dict[str, Condenser] = {
    "random": Condenser("distil.loops.condense_random:random_set", "real samples, drawn at random from each class"),
    "nrr-dd": Condenser(
        "distil.systems.nrr_dd.procedure:condensed",
        "real crops, refined where they show their class least; labels of two numbers (NRR-DD)",
        options="distil.systems.nrr_dd.procedure:Options",
        inputs="images",
        teachers=1,
        batchnorm=True,
        cam=True,
        whole=True,
        refuses="distil.systems.nrr_dd.procedure:refuse",
    ),
}


def find(method: str) -> Condenser:
    """Return the condenser of that name."""
    if method not in CONDENSERS:
        raise DistilError(f"--method {method!r} makes no sets; {nearest(method, CONDENSERS)}")
    return CONDENSERS[method]
