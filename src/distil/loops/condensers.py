"""The methods that make small sets, by name; each is imported when it is first used."""

from __future__ import annotations

from distil.errors import DistilError, nearest
from distil.loops.order import Condenser

__all__ = ["CONDENSERS", "find"]

SELECT = "distil.loops.condense_select"
TEXTS = "distil.loops.condense_texts"

CONDENSERS: dict[str, Condenser] = {
    "random": Condenser(
        "distil.loops.condense_random:random_set",
        "real samples, drawn at random from each class",
        chooses=True,
        words=True,
    ),
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
        refuses="distil.loops.condense_matching:refuse_tm",
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
    "herding": Condenser(
        f"{SELECT}:herding",
        "real samples whose mean follows their class's",
        f"{SELECT}:Choosing",
        chooses=True,
        teachers="any",
    ),
    "k-center": Condenser(
        f"{SELECT}:k_center",
        "real samples that leave none of their class far away",
        f"{SELECT}:Choosing",
        chooses=True,
        teachers="any",
    ),
    "clusters": Condenser(
        f"{SELECT}:clusters",
        "real samples from every k-means cluster of their class",
        f"{SELECT}:Clustering",
        chooses=True,
        teachers="any",
    ),
    "uncertainty": Condenser(
        f"{SELECT}:uncertainty",
        "the real samples that teachers are least sure of",
        f"{SELECT}:Scoring",
        chooses=True,
        teachers="many",
    ),
    "el2n": Condenser(
        f"{SELECT}:el2n",
        "the real samples that teachers are farthest from knowing",
        f"{SELECT}:Scoring",
        chooses=True,
        teachers="many",
    ),
    "grand": Condenser(
        f"{SELECT}:grand",
        "the real samples with the longest last-layer gradient",
        f"{SELECT}:Scoring",
        chooses=True,
        teachers="many",
    ),
    "forgetting": Condenser(
        f"{SELECT}:forgetting",
        "the real samples that a fresh net forgets most often",
        f"{SELECT}:Forgetting",
        chooses=True,
    ),
    "craig": Condenser(
        f"{SELECT}:craig",
        "real samples that stand for the gradients of all, weighed",
        f"{SELECT}:Matching",
        chooses=True,
        teachers=1,
    ),
    "gradmatch": Condenser(
        f"{SELECT}:gradmatch",
        "real samples whose weighed gradients sum to the mean one",
        f"{SELECT}:Matching",
        chooses=True,
        teachers=1,
    ),
    "duplicates": Condenser(
        f"{SELECT}:duplicates",
        "real samples without near-duplicates, each weighed by its copies",
        f"{SELECT}:Twins",
        chooses=True,
        words=True,
        teachers="any",
    ),
    "perplexity": Condenser(
        f"{TEXTS}:perplexity",
        "texts by how well a language model foretells them",
        f"{TEXTS}:Reading",
        inputs="texts",
        chooses=True,
        words=True,
        refuses=f"{TEXTS}:refuse_perplexity",
    ),
    "ifd": Condenser(
        f"{TEXTS}:ifd",
        "answers that their instruction helps to foretell least",
        f"{TEXTS}:Following",
        inputs="texts",
        chooses=True,
        words=True,
        refuses=f"{TEXTS}:refuse_ifd",
    ),
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
