"""Plain imitation of maps: the baseline of every method that weighs or masks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import nn

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.functional.features import mse
from distil.functional.reduction import Term
from distil.methods.align import Align, as_specs, map_pairs

__all__ = ["MSE"]


@final
class MSE(Method):
    """Mean squared difference of maps, summed over taps; a 1x1 convolution where widths differ, resized where sizes do.

    Args:
        taps: one tap or several; each a meaning, a path or ``(student, teacher)``. Score maps ("logits") by default.

    Relations:
        FitNets puts convolution, BatchNorm and ReLU on the student, so it cannot meet score maps below 0.

    Example:
        >>> from distil.methods import MSE
        >>> MSE(taps=["logits", "up2"]).taps
        ('logits', 'up2')

    Paper: the plain row of tables of dense distillation, after Romero et al., FitNets, ICLR 2015, arXiv 1412.6550.
    """

    at_equality = {"mse": "zero"}  # noqa: RUF012

    def __init__(self, *, taps: Spec | Sequence[Any] = "logits", name: str | None = None) -> None:
        super().__init__(name=name)
        self.taps = as_specs(taps)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make an alignment for each pair of maps."""
        pairs = map_pairs("mse", self.taps, student, teacher)
        self.align = nn.ModuleList(Align(s.shape[1], t.shape[1]) for s, t in pairs)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``mse``, one value per sample."""
        pairs = map_pairs("mse", self.taps, student(batch), teacher(batch))
        values = [mse(align(s, t), t, reduction="none") for align, (s, t) in zip(self.align, pairs, strict=True)]
        return {"mse": Term(torch.stack(values).sum(0))}
