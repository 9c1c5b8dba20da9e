"""The methods that make small sets, by name; each is imported when it is first used."""

from __future__ import annotations

from distil.errors import DistilError, nearest
from distil.loops.order import Condenser

__all__ = ["CONDENSERS", "find"]

CONDENSERS: dict[str, Condenser] = {
    "random": Condenser("distil.loops.condense_random:random_set", "real samples, drawn at random from each class"),
    "rded": Condenser(
        "distil.loops.condense_rded:rded_set",
        "the crops of real images that a teacher is surest of, several in one image",
        options="distil.loops.condense_rded:RDED",
        inputs="images",
        teachers=1,
        refuses="distil.loops.condense_rded:refuse",
    ),
    "sre2l": Condenser(
        "distil.loops.condense_sre2l:sre2l_set",
        "images grown out of noise by a teacher and its batch norms",
        options="distil.loops.condense_sre2l:SRe2L",
        inputs="images",
        teachers=1,
        batchnorm=True,
        refuses="distil.loops.condense_sre2l:refuse",
    ),
    "infer": Condenser(
        "distil.systems.infer.procedure:infer_set",
        "real images and a few additive ones, shared by all classes, that multiply them",
        options="distil.systems.infer.procedure:Infer",
        inputs="images",
        teachers="many",
        refuses="distil.systems.infer.procedure:refuse",
    ),
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
