"""FSP: the flow from one layer to the next, taught before the task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError, nearest
from distil.functional.maps import FSP_VARIANTS, flow_matrix, fsp
from distil.functional.reduction import Term
from distil.methods.align import as_specs, map_pairs
from distil.methods.maps import Each

__all__ = ["FSP"]


@final
class FSP(Method):
    """Match the inner products of channels between consecutive stages, summed over pairs of stages.

    ``G = 1/(H·W) F_{k+1} F_kᵀ``, the larger map pooled to the smaller; each sample's value is the mean of (G_s − G_t)²
    ("code"), its sum ("paper") or a sum of norms ("torchdistill"), see :func:`distil.functional.fsp`.

    It is published as a stage of its own before the task is learned: ``50 * during(end=30) * FSP() + during(start=30)
    * Supervised()`` trains 30 epochs on flows alone and the rest on labels alone, all within one budget, the second
    stage with fresh moments of the optimizer.

    Args:
        taps: "stages", or at least two stages; each a meaning, a path or ``(student, teacher)``.
        variant: "code" (published weight 50), "paper" or "torchdistill".

    Relations:
        AT compares each stage by itself, and needs no equal widths.

    Example:
        >>> from distil.engine.schedule import during
        >>> from distil.methods import FSP, Supervised
        >>> (50 * during(end=30) * FSP() + during(start=30) * Supervised()).expression
        '50*during(end=30)*fsp + during(start=30)*supervised'

    Paper: Yim, Joo, Bae, Kim, A Gift from Knowledge Distillation, CVPR 2017. Differs from official code: none was
    found; "code" is RepDistiller's and "torchdistill" that library's (golden), "paper" this project's reading of the
    text. They ask for equal widths; here a stage of another width gets a 1x1 convolution, which does not ship.
    """

    at_equality = {"fsp": "zero"}  # noqa: RUF012

    def __init__(
        self, *, taps: Spec | Sequence[Any] = "stages", variant: str = "code", name: str | None = None
    ) -> None:
        super().__init__(name=name)
        if variant not in FSP_VARIANTS:
            raise DistilError(f"fsp(variant='{variant}') is unknown; {nearest(variant, FSP_VARIANTS)}")
        self.taps = as_specs(taps)
        self.variant, self.pool = variant, "avg" if variant == "code" else "max"

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make a 1x1 convolution for each stage whose widths differ."""
        pairs = map_pairs("fsp", self.taps, student, teacher, least=2)
        widths = [(s.shape[1], t.shape[1]) for s, t in pairs]
        self.adapter: nn.Module = Each(nn.Identity() if s == t else nn.Conv2d(s, t, 1, bias=False) for s, t in widths)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``fsp``, one value per sample."""
        ours, theirs = zip(*map_pairs("fsp", self.taps, student(batch), teacher(batch), least=2), strict=True)
        flows = zip(self._flows(self.adapter(list(ours))), self._flows(theirs), strict=True)
        values = [fsp(s, t, variant=self.variant, reduction="none") for s, t in flows]
        return {"fsp": Term(torch.stack(values).sum(0))}

    def _flows(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [flow_matrix(first, second, pool=self.pool) for first, second in pairwise(maps)]
