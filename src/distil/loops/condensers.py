"""The methods that make small sets, by name; each is imported when it is first used."""

from __future__ import annotations

from distil.errors import DistilError, nearest
from distil.loops.order import Condenser

__all__ = ["CONDENSERS", "find"]

CONDENSERS: dict[str, Condenser] = {
    "random": Condenser("distil.loops.condense_random:random_set", "real samples, drawn at random from each class"),
    "dm": Condenser(
        "distil.loops.condense_matching:dm",
        "samples whose mean features are the real ones in nets drawn at random",
        "distil.loops.matching:Distributions",
    ),
    "dc": Condenser(
        "distil.loops.condense_matching:dc",
        "samples that give the gradients of the real data",
        "distil.loops.matching:Gradients",
    ),
    "dc-kd": Condenser(
        "distil.loops.condense_matching:dc_kd",
        "samples that give the gradients of distillation by a teacher, which labels them",
        "distil.loops.matching:Gradients",
        teachers=1,
    ),
    "tm": Condenser(
        "distil.loops.condense_matching:tm",
        "samples on which nets learn in few steps what experts learned in epochs",
        "distil.loops.condense_matching:Ways",
    ),
    "krr": Condenser(
        "distil.loops.condense_matching:krr",
        "samples whose ridge regression, in closed form, answers for the real data",
        "distil.loops.ridge_sets:Ridge",
    ),
    "latent": Condenser(
        "distil.loops.condense_matching:latent",
        "samples made of codes that are matched and held near those of real data",
        "distil.loops.condense_matching:Latents",
    ),
}


def find(method: str) -> Condenser:
    """Return the condenser of that name."""
    if method not in CONDENSERS:
        raise DistilError(f"--method {method!r} makes no sets; {nearest(method, CONDENSERS)}")
    return CONDENSERS[method]
