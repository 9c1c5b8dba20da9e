"""ReviewKD: every stage of the student, reviewed with the deeper ones, meets the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.maps import hierarchical_context
from distil.functional.reduction import Term
from distil.methods.align import as_specs, map_pairs

__all__ = ["Fusion", "Review", "ReviewKD"]

WIDEST = 512  # of the maps handed from level to level


@final
class Fusion(nn.Module):
    """One level: the student's map to ``mid`` channels, weighed position by position against what came from deeper.

    Args:
        channels: of the student's map.
        mid: of what is handed on.
        out: of the teacher's map.
        size: height and width of the teacher's map.
        deepest: nothing comes from deeper.
    """

    def __init__(self, channels: int, mid: int, out: int, size: tuple[int, int], *, deepest: bool) -> None:
        super().__init__()
        self.size = size
        self.conv1 = nn.Sequential(nn.Conv2d(channels, mid, 1, bias=False), nn.BatchNorm2d(mid))
        self.conv2 = nn.Sequential(nn.Conv2d(mid, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.att_conv = None if deepest else nn.Sequential(nn.Conv2d(2 * mid, 2, 1), nn.Sigmoid())

    def forward(self, features: Tensor, deeper: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the map in the teacher's shape, and what the next level reviews."""
        mixed: Tensor = self.conv1(features)
        if self.att_conv is not None and deeper is not None:
            deeper = F.interpolate(deeper, mixed.shape[2:], mode="nearest")
            own, below = self.att_conv(torch.cat([mixed, deeper], 1)).split(1, 1)
            mixed = mixed * own + deeper * below
        if tuple(mixed.shape[2:]) != self.size:
            mixed = F.interpolate(mixed, self.size, mode="nearest")
        return self.conv2(mixed), mixed


@final
class Review(nn.Module):
    """All levels, from the deepest to the shallowest; a list of maps goes in and a list comes out, shallow first.

    Args:
        student_shapes: ``(N, C, H, W)`` of each map, shallow first; the batch size is not read.
        teacher_shapes: of the maps they meet.

    >>> shapes = [(1, 4, 8, 8), (1, 6, 4, 4)]
    >>> [tuple(m.shape) for m in Review(shapes, shapes)([torch.zeros(2, *shape[1:]) for shape in shapes])]
    [(2, 4, 8, 8), (2, 6, 4, 4)]
    """

    def __init__(self, student_shapes: Sequence[Sequence[int]], teacher_shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        mid = min(WIDEST, student_shapes[-1][1])
        levels = list(zip(student_shapes, teacher_shapes, strict=True))[::-1]
        self.abfs = nn.ModuleList(
            Fusion(ours[1], mid, theirs[1], (theirs[2], theirs[3]), deepest=k == 0)
            for k, (ours, theirs) in enumerate(levels)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return each map in the teacher's shape."""
        found: list[Tensor] = []
        passed: Tensor | None = None
        for level, features in zip(self.abfs, reversed(maps), strict=True):
            reviewed, passed = level(features, passed)
            found.insert(0, reviewed)
        return found


@final
class ReviewKD(Method):
    """Fuse each stage of the student with the deeper ones, and compare with the teacher's stage at several scales.

    From the embedding backwards: a 1x1 convolution and BatchNorm, weighed against the deeper level's map by two
    attention maps, a 3x3 convolution and BatchNorm to the teacher's width; each meets the teacher's by
    :func:`distil.functional.hierarchical_context`; summed over levels. Published weight 5 (0.6 to 8 by pair), warmed
    up over 20 epochs: ``5 * ramp(epochs=20) * ReviewKD()``. What fuses does not ship.

    Args:
        taps: "stages", or one stage, or several, shallow first; each a meaning, a path or ``(student, teacher)``.
        pooled: the embedding, which is the deepest level; ``None`` leaves it out.

    Relations:
        FitNets compares one stage with one stage, AT where maps look; neither mixes stages.

    Example:
        >>> from distil import ramp
        >>> from distil.methods import ReviewKD, Supervised
        >>> (Supervised() + 5 * ramp(epochs=20) * ReviewKD()).expression
        'supervised + 5*ramp(epochs=20)*reviewkd'

    Paper: Chen, Liu, Zhao, Jia, Distilling Knowledge via Knowledge Review, CVPR 2021, arXiv 2104.09044. Differs from
    official code: none in value (golden against mdistiller). There the teacher's maps are taken before their last ReLU;
    "stages" end after it, so name such maps by path where a net has them.
    """

    at_equality = {"reviewkd": "zero"}  # noqa: RUF012

    def __init__(
        self, *, taps: Spec | Sequence[Any] = "stages", pooled: Spec | None = "emb", name: str | None = None
    ) -> None:
        super().__init__(name=name)
        self.stages, self.pooled = as_specs(taps), pooled
        self.taps = (*self.stages, *(() if pooled is None else as_specs([pooled])))

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make the levels from the shapes of the dry run."""
        ours, theirs = zip(*self._pairs(student, teacher), strict=True)
        self.review: nn.Module = Review([m.shape for m in ours], [m.shape for m in theirs])

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``reviewkd``, one value per sample."""
        ours, theirs = zip(*self._pairs(student(batch), teacher(batch)), strict=True)
        levels = zip(self.review(list(ours)), theirs, strict=True)
        values = [hierarchical_context(s, t, reduction="none") for s, t in levels]
        # In training the BatchNorm of the fusion makes each value depend on the batch.
        return {"reviewkd": Term(torch.stack(values).sum(0), coupled=self.training)}

    def _pairs(self, student: Traces, teacher: Traces) -> list[tuple[Tensor, Tensor]]:
        """The maps of both sides, shallow first, the embedding as a last map of one position."""
        pairs = map_pairs("reviewkd", self.stages, student, teacher)
        if self.pooled is not None:
            ours, theirs = (self._position(trace) for trace in (student, teacher))
            pairs.append((ours, theirs))
        return pairs

    def _position(self, trace: Traces) -> Tensor:
        found: Tensor = trace[self.pooled]
        if found.ndim != 2:
            raise DistilError(
                f"reviewkd(pooled={self.pooled!r}) reads an embedding [N, D], and the {trace.role} gives "
                f"{list(found.shape)}; name another tap, or leave it out with pooled=None."
            )
        return found[:, :, None, None]
