"""Attention transfer: look where the teacher looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.features import attention_transfer
from distil.functional.reduction import Term
from distil.methods.align import as_specs, map_pairs

__all__ = ["AT"]


@final
class AT(Method):
    """Match normalised maps of squared activation, summed over channels, at every stage.

    ``Q = normalise(flatten(mean_c F^p))``; each sample's value is the sum over stages of the mean squared difference of
    Q ("code") or of its L2 distance ("paper"). Maps of unequal size are pooled to the smaller one; widths may differ.

    Args:
        taps: "stages", or one stage, or several; each a meaning, a path or ``(student, teacher)``.
        p: power of the activation, above 0; whole for "code", which keeps signs.
        variant: "code" (published weight 1000) or "paper".

    Example:
        >>> from distil.methods import AT
        >>> AT(taps=["layer1", "layer2"]).taps
        ('layer1', 'layer2')

    Paper: Zagoruyko, Komodakis, Paying More Attention to Attention, ICLR 2017, arXiv 1612.03928.
    Differs from official code: none for "code"; "paper" follows the text, as torchdistill's mode of that name does.
    """

    at_equality = {"at": "zero"}  # noqa: RUF012

    def __init__(
        self, *, taps: Spec | Sequence[Any] = "stages", p: float = 2, variant: str = "code", name: str | None = None
    ) -> None:
        super().__init__(name=name)
        if variant not in ("code", "paper"):
            raise DistilError(f"at(variant='{variant}') is unknown; use 'code' or 'paper'.")
        if not p > 0 or (variant == "code" and p % 1):
            raise DistilError(f"at(p={p}, variant={variant}) must be above 0, and a whole number for 'code'.")
        self.taps = as_specs(taps)
        self.p, self.variant = p, variant

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Check that both sides give maps, and as many."""
        map_pairs("at", self.taps, student, teacher)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``at``, one value per sample."""
        pairs = map_pairs("at", self.taps, student(batch), teacher(batch))
        values = [attention_transfer(s, t, p=self.p, variant=self.variant, reduction="none") for s, t in pairs]
        return {"at": Term(torch.stack(values).sum(0))}
