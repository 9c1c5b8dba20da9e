"""CWD: for every channel, look where the teacher's channel looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import nn

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError, nearest
from distil.functional.dense import DIVERGENCES, NORMS, cwd
from distil.functional.reduction import Term
from distil.methods.align import Align, as_specs, map_pairs

__all__ = ["CWD"]


@final
class CWD(Method):
    """Match what each channel of a map finds where, as a distribution over positions; summed over taps.

    ``τ² KL(softmax_hw(t / τ) ‖ softmax_hw(s / τ))``, averaged over channels. Published weight 3 on score maps with
    τ = 4, and 50 on feature maps.

    Args:
        taps: one tap or several; each a meaning, a path or ``(student, teacher)``. Score maps ("logits") by default.
        temperature: τ > 0.
        norm: "channel", "spatial" (over classes at each position) or "channel_mean".
        divergence: "kl" or "mse" ("channel_mean" needs "mse").

    Relations:
        MSE compares the same maps value by value; KD at each position is ``norm="spatial"``.

    Example:
        >>> from distil.methods import CWD, Supervised
        >>> (Supervised() + 3 * CWD(temperature=4)).expression
        'supervised + 3*cwd(temperature=4)'

    Paper: Shu, Liu, Gao, Yan, Shen, Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021, arXiv
    2011.13256. Differs from official code: log-space; maps of unequal width or size are aligned by a 1x1 convolution
    and resizing (there BatchNorm and ReLU may follow the convolution).
    """

    at_equality = {"cwd": "zero"}  # noqa: RUF012

    def __init__(
        self, *, taps: Spec | Sequence[Any] = "logits", temperature: float = 4.0, norm: str = "channel",
        divergence: str = "kl", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        for what, value, options in (("norm", norm, NORMS), ("divergence", divergence, DIVERGENCES)):
            if value not in options:
                raise DistilError(f"cwd({what}='{value}') is unknown; {nearest(value, options)}")
        if not temperature > 0:
            raise DistilError(f"cwd(temperature={temperature}) must be above 0.")
        self.taps = as_specs(taps)
        self.options: dict[str, Any] = {"temperature": temperature, "norm": norm, "divergence": divergence}

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make an alignment for each pair of maps."""
        pairs = map_pairs("cwd", self.taps, student, teacher)
        self.align = nn.ModuleList(Align(s.shape[1], t.shape[1]) for s, t in pairs)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``cwd``, one value per sample."""
        pairs = map_pairs("cwd", self.taps, student(batch), teacher(batch))
        values = [
            cwd(align(s, t), t, **self.options, reduction="none").flatten(1).mean(1)
            for align, (s, t) in zip(self.align, pairs, strict=True)
        ]
        return {"cwd": Term(torch.stack(values).sum(0))}
