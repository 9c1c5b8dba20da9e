"""VID: raise a bound on how much the student's maps say about the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.features import pool_match
from distil.functional.maps import initial_log_scale, vid
from distil.functional.reduction import Term
from distil.methods.align import as_specs, map_pairs
from distil.methods.maps import Each

__all__ = ["VID", "Regressor"]


@final
class Regressor(nn.Module):
    """Three 1x1 convolutions without bias, ReLU between them: the mean of the Gaussian around a student's map.

    >>> Regressor(4, 6)(torch.zeros(2, 4, 3, 3)).shape
    torch.Size([2, 6, 3, 3])
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean, in the teacher's width."""
        mean: Tensor = self.regressor(features)
        return mean


@final
class VID(Method):
    """Explain the teacher's maps by a Gaussian around a regression of the student's, with a learned variance.

    ``½ [(μ(F_s) − F_t)² / v + log v]`` averaged over channels and positions, ``v = log(1 + e^ρ) + eps`` for each
    channel of the teacher; summed over taps (published weight 1). Maps of unequal size are pooled to the smaller one.
    ``log_scale`` holds ρ of all taps; it is a parameter of the method and trains with the regressors. Neither ships.

    Args:
        taps: "stages", or one stage, or several; each a meaning, a path or ``(student, teacher)``.
        variance: where v starts.
        eps: the least variance.

    Relations:
        FitNets compares one stage with a fixed variance, which is a mean squared error.

    Example:
        >>> from distil.methods import VID, Supervised
        >>> (Supervised() + VID(taps="stages.1")).expression
        "supervised + vid(taps='stages.1')"

    Paper: Ahn, Hu, Damianou, Lawrence, Dai, Variational Information Distillation for Knowledge Transfer, CVPR 2019,
    arXiv 1904.05835. Differs from official code: none in value (golden against RepDistiller); mdistiller keeps ρ where
    no optimizer finds it.
    """

    # A smaller variance is better still where the maps are equal, and the regressor starts anywhere.
    at_equality = {"vid": None}  # noqa: RUF012

    def __init__(
        self,
        *,
        taps: Spec | Sequence[Any] = "stages",
        variance: float = 5.0,
        eps: float = 1e-5,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if not 0 <= eps < variance:
            raise DistilError(f"vid(variance={variance}, eps={eps}): variance must be above eps, and eps not below 0.")
        self.start, self.eps = initial_log_scale(variance, eps=eps), eps
        self.taps = as_specs(taps)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make a regressor and a variance for each pair of maps."""
        pairs = map_pairs("vid", self.taps, student, teacher)
        self.regressor: nn.Module = Each(Regressor(s.shape[1], t.shape[1]) for s, t in pairs)
        self.widths = [t.shape[1] for _, t in pairs]
        self.log_scale = nn.Parameter(torch.full((sum(self.widths),), self.start))

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``vid``, one value per sample."""
        found = map_pairs("vid", self.taps, student(batch), teacher(batch))
        ours, theirs = zip(*(pool_match(s, t) for s, t in found), strict=True)
        scales = self.log_scale.split(self.widths)
        means = self.regressor(list(ours))
        values = [
            vid(mean, t, scale, eps=self.eps, reduction="none")
            for mean, t, scale in zip(means, theirs, scales, strict=True)
        ]
        return {"vid": Term(torch.stack(values).sum(0))}
