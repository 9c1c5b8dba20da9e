"""Attention transfer: look where the teacher looks."""

from __future__ import annotations

from typing import final

import torch

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.features import attention_transfer
from distil.functional.reduction import Term

__all__ = ["AT"]


@final
class AT(Method):
    """Match normalised maps of squared activation, summed over channels, at every stage.

    ``Q = normalise(flatten(mean_c F^p))``; each sample's value is the sum over stages of the mean squared difference of
    Q ("code") or of its L2 distance ("paper"). Maps of unequal size are pooled to the smaller one; widths may differ.

    Args:
        taps: "stages", or one stage, or several; each a meaning, a path or ``(student, teacher)``.
        p: power of the activation.
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
        self, *, taps: Spec | list[Spec] = "stages", p: float = 2, variant: str = "code", name: str | None = None
    ) -> None:
        super().__init__(name=name)
        if variant not in ("code", "paper"):
            raise DistilError(f"at(variant='{variant}') is unknown; use 'code' or 'paper'.")
        self.taps = tuple(taps) if isinstance(taps, list) else (taps,)
        self.p, self.variant = p, variant

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Check that both sides give the same number of maps."""
        ours, theirs = self._maps(student), self._maps(teacher)
        if len(ours) != len(theirs):
            raise DistilError(
                f"at(taps={list(self.taps)}): the student has {len(ours)} maps and the teacher {len(theirs)}; pair "
                "them by hand, e.g. AT(taps=[('layer1', 'layer2'), …])."
            )

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``at``, one value per sample."""
        pairs = zip(self._maps(student(batch)), self._maps(teacher(batch)), strict=True)
        values = [attention_transfer(s, t, p=self.p, variant=self.variant, reduction="none") for s, t in pairs]
        return {"at": Term(torch.stack(values).sum(0))}

    def _maps(self, trace: Traces) -> list[torch.Tensor]:
        found = [trace[spec] for spec in self.taps]
        maps = [m for value in found for m in (value if isinstance(value, tuple) else (value,))]
        flat = [m for m in maps if m.ndim != 4]
        if flat:
            raise DistilError(
                f"at() compares feature maps [N, C, H, W]; a tap of the {trace.role} gives {list(flat[0].shape)}. "
                "Name convolutional stages, or use a method on logits or embeddings (kd, dkd, dist, rkd)."
            )
        return maps
