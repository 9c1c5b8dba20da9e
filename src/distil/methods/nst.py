"""Neuron selectivity transfer: channels that respond to the same places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.functional.reduction import Term
from distil.functional.selectivity import nst
from distil.methods.align import as_specs, map_pairs

__all__ = ["NST"]


@final
class NST(Method):
    """Match the distribution of channels' activation patterns at every stage, whatever their order and number.

    The squared maximum mean discrepancy under ``k(a, b) = (aᵀb)²`` between the length-1 patterns of the two nets'
    channels, summed over stages. Maps of unequal size are pooled to the smaller one. Published weight 50.

    Args:
        taps: "stages", or one stage, or several; each a meaning, a path or ``(student, teacher)``.

    Relations:
        AT merges the channels of a map before it compares; NST compares them one by one.

    Example:
        >>> from distil.methods import NST
        >>> NST(taps=["layer1", ("layer2", "layer3")]).taps
        ('layer1', ('layer2', 'layer3'))

    Paper: Huang, Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017, arXiv 1707.01219.
    Differs from official code: equal to mdistiller's (golden), which leaves the stem out as "stages" does.
    """

    at_equality = {"nst": "zero"}  # noqa: RUF012

    def __init__(self, *, taps: Spec | Sequence[Any] = "stages", name: str | None = None) -> None:
        super().__init__(name=name)
        self.taps = as_specs(taps)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Check that both sides give maps, and as many."""
        map_pairs("nst", self.taps, student, teacher)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``nst``, one value per sample."""
        pairs = map_pairs("nst", self.taps, student(batch), teacher(batch))
        return {"nst": Term(torch.stack([nst(s, t, reduction="none") for s, t in pairs]).sum(0))}
