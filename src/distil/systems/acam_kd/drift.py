"""What the masks do during a run: how far they move, and how alike they stay."""

from __future__ import annotations

from statistics import mean
from typing import Any

import torch
from torch import Tensor

from distil.engine.distiller import Distiller
from distil.engine.reading import read
from distil.errors import DistilError
from distil.functional.masking import dice, mask_movement
from distil.systems.acam_kd.method import ACAMKD

__all__ = ["Drift"]


class Drift:
    """Watches the masks of fixed samples: how far they move from the first epoch to the last, and what becomes of them.

    Give :meth:`watch` as the callback of a run and the object itself as its diagnostics.

    Args:
        data: the samples whose masks are looked at; not augmented.
        updates: optimizer steps of one epoch.
    """

    def __init__(self, data: Any, updates: int) -> None:
        self.data, self.updates = data, updates
        self.first: dict[tuple[int, str], Tensor] = {}
        self.last: dict[tuple[int, str], Tensor] = {}

    def watch(self, distiller: Distiller, done: int, total: int) -> None:
        """Keep the masks after the first epoch and after the last."""
        if done == self.updates:
            self.first = self._masks(distiller)
        if done == total:
            self.last = self._masks(distiller)

    def __call__(self, distiller: Distiller) -> dict[str, float]:
        """Return mean |ΔM|, the last masks' mean pairwise Dice, and their mean size by kind; means over levels."""
        if not self.first or not self.last:
            raise DistilError("Drift: the masks were not watched; pass drift.watch to the run that trains.")
        figures = {
            "mask movement": mean(float(mask_movement(self.first[key], masks)) for key, masks in self.last.items()),
            "pairwise Dice": mean(float(dice(masks)) for masks in self.last.values()),
        }
        for kind in sorted({kind for _, kind in self.last}):
            sizes = [float(masks.mean()) for (_, own), masks in self.last.items() if own == kind]
            figures[f"mean {kind} mask"] = mean(sizes)
        return figures

    def _masks(self, distiller: Distiller) -> dict[tuple[int, str], Tensor]:
        method = next(c.method for c in distiller.method if isinstance(c.method, ACAMKD))
        found: dict[tuple[int, str], list[Tensor]] = {}
        for student, teacher, _ in read(distiller, self.data, batch_size=min(64, len(self.data))):
            for k, (_, _, _, masks) in enumerate(method.levels_of(student, teacher)):
                for kind, mask in masks.items():
                    found.setdefault((k, kind), []).append(mask.float().cpu())
        return {key: torch.cat(parts) for key, parts in found.items()}
