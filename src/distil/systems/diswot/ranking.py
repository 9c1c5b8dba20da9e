"""How well a score ranks the 64 published nets of space S0, beside the ranking that costs nothing: their size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from scipy.stats import kendalltau, spearmanr

from distil.data import load
from distil.errors import DistilError
from distil.loops.lab import Lab
from distil.loops.search import Guarded
from distil.loops.spaces import S0
from distil.models.resnet import CifarResNet
from distil.systems.diswot.nets import one_batch
from distil.systems.diswot.procedure import Scorer, Scoring, scored
from distil.systems.diswot.s0 import s0_accuracies

__all__ = ["Ranking", "ranking_table"]

PARTS = {"total": "sum", "semantic": "semantic score", "relation": "relation score"}


@dataclass(frozen=True)
class Ranking:
    """Which nets are ranked, and on what.

    Attributes:
        data: images; their labels serve as the first of the ``classes``.
        batch: images in the one batch.
        depths: blocks of a stage that are tried; (1, 3, 5, 7) are all 64 nets.
        teacher: its depth.
        inits: how weights are drawn.
    """

    data: str = "cifar10"
    batch: int = 64
    depths: tuple[int, ...] = (1, 3, 5, 7)
    teacher: int = 110
    classes: int = 100
    inits: tuple[str, ...] = ("normal", "kaiming")

    def __post_init__(self) -> None:
        if len(self.depths) < 2 or not set(self.depths) <= {1, 3, 5, 7}:
            raise DistilError(f"depths={list(self.depths)}: give at least two of the published 1, 3, 5 and 7.")


def ranking_table(how: Ranking, seeds: Sequence[int], lab: Lab) -> dict[str, Any]:
    """Score every net for every way of drawing weights and every seed, and return the table of rank correlations."""
    batch = lab.stage("s0-batch", partial(_batch, how), data=how.data, size=how.batch).value
    space = S0(classes=how.classes, channels=batch["inputs"].shape[1], depths=how.depths)
    published, nets = s0_accuracies(), space.all()
    truth = [published[net[0], net[1], net[2]].distilled for net in nets]
    guarded = Guarded(space)
    sizes = [guarded.cost(net)["parameters"] for net in nets]
    rows = [["number of parameters", "", *_agreement([sizes], truth, sizes), ""]]
    for init in how.inits:
        seen = []
        for i, seed in enumerate(seeds):
            lab.progress.begin(f"{len(nets)} nets of S0, {init} weights, seed {i + 1}/{len(seeds)}", len(nets))
            stage = lab.stage(
                f"s0-{init}-{seed}",
                partial(_scores, how, guarded, nets, batch, init, seed, lab),
                ranking=how,
                init=init,
                seed=seed,
                batch=batch["inputs"],
            )
            seen.append(stage.value)
        for part, name in PARTS.items():
            values = [scores[part] for scores in seen]
            taus = ", ".join(f"{float(kendalltau(each, truth).statistic):.2f}" for each in values)
            rows.append([name, init, *_agreement(values, truth, sizes), taus])
    note = (
        f"{len(nets)} CIFAR ResNets with {', '.join(map(str, how.depths))} blocks a stage against the authors' "
        "published CIFAR-100 accuracies after distillation (no net was trained here); one batch of "
        f"{how.batch} images of {how.data}, teacher ResNet-{how.teacher} untrained, {how.classes} outputs, seeds "
        f"{', '.join(map(str, seeds))}. At like size: the mean tau within quarters of neighbouring parameter counts."
    )
    head = ["ranking by", "weights", "Kendall tau", "Spearman rho", "tau at like size", "tau by seed"]
    return {"title": "Rank correlation on space S0", "note": note, "head": head, "rows": rows}


def _batch(how: Ranking) -> dict[str, Any]:
    made = one_batch(load(how.data), how.batch, 0)
    return {key: made[key] for key in ("inputs", "labels")}


def _scores(
    how: Ranking, space: Guarded, nets: Sequence[Any], batch: Mapping[str, Any], init: str, seed: int, lab: Lab
) -> dict[str, list[float]]:
    channels = batch["inputs"].shape[1]
    teacher = CifarResNet(how.teacher, classes=how.classes, channels=channels)
    scorer = Scorer(teacher, batch, Scoring(init=init), seed=seed)
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for i, net in enumerate(nets, 1):
        score = scored(scorer, space, net)
        for part, values in found.items():
            values.append(getattr(score, part))
        lab.progress.step(i, len(nets))
    return found


def _agreement(values: Sequence[Sequence[float]], truth: Sequence[float], sizes: Sequence[float]) -> list[float | None]:
    """Return Kendall's tau, Spearman's rho and tau within quarters of like size, each the mean over seeds."""
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    quarter = len(order) // 4
    groups = [order[k * quarter : (k + 1) * quarter] for k in range(4)] if quarter >= 2 else []
    within = [
        float(kendalltau([each[i] for i in group], [truth[i] for i in group]).statistic)
        for each in values
        for group in groups
    ]
    return [
        statistics.fmean(float(kendalltau(each, truth).statistic) for each in values),
        statistics.fmean(float(spearmanr(each, truth).statistic) for each in values),
        statistics.fmean(within) if within else None,
    ]
