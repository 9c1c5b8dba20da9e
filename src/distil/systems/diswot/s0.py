"""The published accuracies of space S0: 64 CIFAR ResNets on CIFAR-100, trained alone and distilled."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Accuracy", "s0_accuracies"]


@dataclass(frozen=True)
class Accuracy:
    """Test accuracies in % of one net, trained alone and distilled from the paper's teacher."""

    vanilla: float
    distilled: float


def s0_accuracies() -> dict[tuple[int, int, int], Accuracy]:
    """Return what the authors measured for every net of S0, by the blocks of its three stages.

    The table comes from the authors' repository, lilujunai/DisWOT-CVPR2023 at dffe4e6118a2, Apache License 2.0; it is
    the data file ``s0_accuracies.csv`` beside this module.

    >>> table = s0_accuracies()
    >>> len(table), max(table, key=lambda net: table[net].distilled), table[7, 7, 7].vanilla
    (64, (5, 5, 7), 72.56)
    """
    text = Path(__file__).with_name("s0_accuracies.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        (int(row["stage1"]), int(row["stage2"]), int(row["stage3"])): Accuracy(
            float(row["vanilla"]), float(row["distilled"])
        )
        for row in rows
    }
