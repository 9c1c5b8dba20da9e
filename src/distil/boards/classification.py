"""The leaderboard of classification: one trained teacher, one fresh student, labels, every method that fits them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from distil.errors import DistilError, nearest
from distil.loops.board import leaderboard
from distil.loops.board_tries import Entry
from distil.loops.images import ImagePair, image_pair
from distil.loops.lab import Lab
from distil.loops.recipe import Experiment
from distil.loops.training import Training
from distil.methods.expression import parse

__all__ = ["ENTRIES", "LEFT_OUT", "PUBLISHED", "Board", "Settings", "left_out"]

# Weights are those of the ResNet pairs on CIFAR-100 (DKD, CAT-KD: 32x4 → 8x4; ND: 56 → 20). Warm-ups of 20 in 240
# epochs keep their share of the run; FSP's first stage is one epoch, where 30 of 240 are published.
ENTRIES = (
    Entry("kd", "0.1*supervised + 0.9*kd(temperature=4)", "KD"),
    Entry("dkd", "supervised + ramp(fraction=0.0833)*dkd(alpha=1, beta=8, temperature=4)", "DKD"),
    Entry("dist", "supervised + dist(beta=2, gamma=2, temperature=4)", "DIST"),
    Entry("lskd", "0.1*supervised + 9*lskd(temperature=2)", "Logit standardisation", "over KD"),
    Entry("mlld", "mlld(views=1)", "MLLD", "one view", parted="0.1*supervised + mlld(views=1, task=0)"),
    Entry("fitnets", "supervised + 100*fitnets", "FitNets"),
    Entry("at", "supervised + 1000*at", "AT"),
    Entry("nst", "supervised + 50*nst", "NST"),
    Entry(
        "fsp",
        "50*during(end=1)*fsp + during(start=1)*supervised",
        "FSP",
        "an epoch of its own first, not in the step cost",
    ),
    Entry("vid", "supervised + vid", "VID"),
    Entry(
        "reviewkd", "supervised + 5*ramp(fraction=0.0833)*reviewkd", "ReviewKD", "maps after the ReLU, published before"
    ),
    Entry("catkd", "supervised + 15*catkd", "CAT-KD"),
    Entry("simkd", "simkd", "SimKD", "ships a projector"),
    Entry("rkd", "supervised + rkd", "RKD"),
    Entry("sp", "supervised + 3000*sp", "SP"),
    Entry("cc", "supervised + 0.02*cc", "CC"),
    Entry("pkt", "supervised + 30000*pkt", "PKT"),
    Entry("crd", "supervised + 0.8*crd(negatives=4096)", "CRD", "4,096 negatives of 10,000 images"),
    Entry("pld", "pld", "PLD"),
    Entry("nd", "supervised + ramp(fraction=0.0833)*kd(temperature=4) + 2*directnorm", "KD++ (ND)"),
    Entry(
        "mix-kd",
        "mix-kd",
        "MIX-KD",
        parted="0.1*supervised + 0.9*mix-kd(gamma=0, alpha=1)",
        weighted="mix-kd(gamma=1, alpha={weight})",
    ),
    Entry("tgeo-kd", "tgeo-kd", "TGeo-KD"),
    Entry("ofa-kd", "ofa-kd(gamma=1)", "OFA-KD"),
    Entry("trg", "trg", "TRG"),
    Entry("meal-v2", "meal-v2", "MEAL V2", "one teacher, fresh student"),
)
LEFT_OUT = {
    "dmae": "no labels and a masked teacher: distil run dmae",
    "random-teachers": "its teacher is not trained: distil run random-teachers",
    "lelp": "for few classes, where the student gets other outputs: distil run lelp",
    "diswot": "chooses the student: distil run diswot",
    "meal-v2 from a checkpoint": "boards begin with a fresh student; as published it trains on a trained one: "
    "distil run meal-v2",
}
"""What of the systems for classification is not on the board, and where it is shown."""

# ResNet-32x4 → 8x4 and ResNet-56 → 20 on CIFAR-100, as the methods' papers and the common benchmark have them.
PUBLISHED = {
    "kd": (73.33, 70.66), "fitnets": (73.50, 69.21), "at": (73.44, 70.55), "sp": (72.94, 69.67), "cc": (72.97, 69.63),
    "vid": (73.09, 70.38), "rkd": (71.90, 69.61), "pkt": (73.64, 70.34), "fsp": (72.62, 69.95), "nst": (73.30, 69.60),
    "crd": (75.51, 71.16), "dkd": (76.32, 71.97), "alone": (72.50, 69.06),
}  # fmt: skip
MANY_CLASSES = ("kd", "dkd", "dist", "lskd", "catkd", "pld")
ACROSS = ("kd", "dkd", "dist", "fitnets", "rkd", "ofa-kd")
# Methods on maps and tokens, with the places where one family has what the other has.
TO_MAPS = (
    "trg-on-tokens: trg(tap=[map, tokens])",
    "at-on-tokens: supervised + 1000*at(taps=[[stages.1, stages.2], [stages.2, stages.3]])",
    "fitnets-signed: supervised + 100*fitnets(relu=false)",
)
FROM_MAPS = (
    "trg-on-tokens: trg(tap=[tokens, map])",
    "at-on-tokens: supervised + 1000*at(taps=[[stages.2, stages.1], [stages.3, stages.2]])",
)


@dataclass(frozen=True)
class Settings:
    """A board's settings.

    ``methods`` are those of the board by name; an expression of your own joins them as ``name: expression``.
    """

    pair: ImagePair = field(default_factory=ImagePair)
    training: Training = field(default_factory=Training)
    methods: tuple[str, ...] = tuple(entry.name for entry in ENTRIES)
    seeds: tuple[int, ...] = (0, 1, 2)


@final
@dataclass(frozen=True)
class Board:
    """One board, as recipes are: its settings to begin with, and what makes its experiment of them."""

    title: str
    start: Settings
    EVIDENCE: tuple[Mapping[str, Any], ...] = ({},)

    def Setup(self) -> Settings:
        """Return the settings to begin with."""
        return self.start

    def experiment(self, setup: Settings, lab: Lab) -> Experiment:
        """Return the arms: the student alone, and every method."""
        return leaderboard(
            self.title, _entries(setup.methods), image_pair(setup.pair, lab), setup.training, setup.seeds, lab,
            published=PUBLISHED, left_out=left_out(setup.methods),
        )  # fmt: skip


def left_out(methods: Sequence[str]) -> dict[str, str]:
    """Return what a board of these methods leaves out, and where it is shown; methods not chosen are one row.

    >>> list(left_out([entry.name for entry in ENTRIES])) == list(LEFT_OUT)
    True
    >>> [*left_out([entry.name for entry in ENTRIES[2:]])][-1]
    'kd, dkd'
    """
    chosen = {text.partition(":")[0].strip() for text in methods}
    others = [entry.name for entry in ENTRIES if entry.name not in chosen]
    more = {", ".join(others): "not run here; the board of every method: distil run classification"} if others else {}
    return LEFT_OUT | more


def _entries(names: tuple[str, ...]) -> list[Entry]:
    """Return the entries by name; ``name: expression`` is one of the user's."""
    known = {entry.name: entry for entry in ENTRIES}
    found = []
    for text in names:
        name, sign, expression = (part.strip() for part in text.partition(":"))
        if sign and expression and name not in (*known, "alone") and re.fullmatch(r"[\w-]+", name):
            parse(expression)
            found.append(Entry(name, expression, name))
        elif not sign and name in known:
            found.append(known[name])
        else:
            raise DistilError(
                f"methods: '{text}' is neither a method of the board nor 'name: expression' with a plain name of its "
                f"own; {nearest(name, known)}"
            )
    return found


_SHORT = Training(
    epochs=10,
    batch_size=128,
    optimizer="adamw",
    lr=1e-2,
    weight_decay=5e-4,
    warmup=0.1,
    precision="bf16",
    eval_every=2,
)
# Of 0.01, 0.003 and 0.001 the best for a vision transformer alone (32, 44 and 45 % on validation, a seed not shown);
# its small products are quicker in float32 here.
_TOKENS = replace(_SHORT, lr=1e-3, precision="fp32")
_LONG = Training(epochs=100, batch_size=64, optimizer="sgd", lr=0.05, weight_decay=5e-4, precision="bf16")
_SMALL = ImagePair(
    data="cifar10",
    size=16,
    train=10_000,
    teacher_train=40_000,
    val=2_000,
    teacher="distil:resnet(depth=14, widths=[16, 32, 64])",
    student="distil:resnet(depth=8, widths=[8, 16, 32])",
    teacher_training=_SHORT,
)
_WHOLE = ImagePair(
    data="cifar10",
    train=45_000,
    teacher_train=45_000,
    val=5_000,
    teacher="distil:resnet56",
    student="distil:resnet20",
    teacher_training=_LONG,
)

SIMILAR = Board("Leaderboard: CIFAR-10, a ResNet taught by a deeper and wider one", Settings(_SMALL, _SHORT))
# Twice as long as the others: from ten epochs to twenty the student alone still gained nearly two points.
MANY = Board(
    "Leaderboard: a hundred classes, two Fashion-MNIST items side by side",
    Settings(
        replace(_SMALL, data="fashion-pairs", size=None, teacher_train=30_000),
        replace(_SHORT, epochs=20),
        methods=MANY_CLASSES,
    ),
)
FROM_TOKENS = Board(
    "Leaderboard: CIFAR-10, a ResNet taught by a vision transformer",
    Settings(
        replace(_SMALL, teacher="distil:vit(patch=4, dim=96, depth=6, heads=4)", teacher_training=_TOKENS),
        _SHORT,
        methods=(*ACROSS, *TO_MAPS),
    ),
)
TO_TOKENS = Board(
    "Leaderboard: CIFAR-10, a vision transformer taught by a ResNet",
    Settings(
        replace(_SMALL, student="distil:vit(patch=4, dim=48, depth=4, heads=4)"),
        replace(_TOKENS, epochs=20),  # ten were too few by the board's own check of length
        methods=(*ACROSS, *FROM_MAPS),
    ),
)
RESNET = Board("Leaderboard: all of CIFAR-10, ResNet-56 → ResNet-20", Settings(_WHOLE, _LONG))
WRN = Board(
    "Leaderboard: all of CIFAR-10, WRN-40-2 → WRN-16-2",
    Settings(replace(_WHOLE, teacher="distil:wrn40_2", student="distil:wrn16_2"), _LONG),
)
