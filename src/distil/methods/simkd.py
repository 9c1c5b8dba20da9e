"""SimKD: the student learns the teacher's last map, and ships with the teacher's classifier."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.features import mse, pool_match
from distil.functional.reduction import Term
from distil.methods.align import map_pairs
from distil.methods.maps import check_pooled
from distil.models.graft import grafted

__all__ = ["Projector", "SimKD"]


@final
class Projector(nn.Module):
    """Three convolutions (1x1, 3x3, 1x1), each with BatchNorm and ReLU, from the student's last map to the teacher's.

    A student's map that is larger than the teacher's is average-pooled to its size first.

    Args:
        student_shape: ``(N, C_s, H_s, W_s)``; the batch size is not read.
        teacher_shape: ``(N, C_t, H_t, W_t)``.
        factor: the hidden width is C_t divided by it.

    >>> import torch
    >>> Projector((1, 4, 8, 8), (1, 6, 4, 4))(torch.zeros(2, 4, 8, 8)).shape
    torch.Size([2, 6, 4, 4])
    """

    def __init__(self, student_shape: Sequence[int], teacher_shape: Sequence[int], *, factor: int = 2) -> None:
        super().__init__()
        below, width = student_shape[1], teacher_shape[1]
        if not 1 <= factor <= width:
            raise DistilError(f"simkd(factor={factor}) must lie in 1 … {width}, the teacher's width.")
        hidden = width // factor
        smaller = [min(s, t) for s, t in zip(student_shape[2:], teacher_shape[2:], strict=True)]
        self.size = (smaller[0], smaller[1])
        self.pools = self.size != tuple(student_shape[2:])
        self.transfer = nn.Sequential(
            nn.Conv2d(below, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(),
            nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        """Return the map in the teacher's width."""
        if not isinstance(features, Tensor):
            raise DistilError(
                f"simkd: the student's last map comes inside a {type(features).__name__}, where no projector fits "
                "behind it; name the module that reads it, e.g. taps={'map': 'pooler:in'}."
            )
        projected: Tensor = self.transfer(F.adaptive_avg_pool2d(features, self.size) if self.pools else features)
        return projected


@final
class SimKD(Method):
    """Match the teacher's last map by a projection of the student's; ship both with the teacher's own classifier.

    The mean squared error to the teacher's map is the whole loss: labels and logits take no part, and the student's
    own head is left behind. ``deployed()`` is the student's body, the projector and the teacher's head, all of which
    its parameters count. Maps of unequal size are pooled to the smaller one.

    Args:
        factor: the projector's hidden width is the teacher's divided by it: 2, 4 or 8 in the paper.
        tap: the last map of both; the classifiers must read its average over positions.

    Requirements: a live teacher whose last linear layer reads the average of its last map, and a student likewise.

    Relations:
        FitNets gives the same hint and keeps the student's own classifier.

    Example:
        >>> from distil.methods import SimKD
        >>> SimKD(factor=4).expression
        'simkd(factor=4)'

    Paper: Chen, Mei, Zhang, Wang, Wang, Feng, Chen, Knowledge Distillation with the Reused Teacher Classifier, CVPR
    2022, arXiv 2203.14001. Differs from official code: none in value (golden). What ships needs no teacher's pass to
    know the size of its map.
    """

    at_equality = {"simkd": "zero"}  # noqa: RUF012

    def __init__(self, *, factor: int = 2, tap: Spec = "map", name: str | None = None) -> None:
        super().__init__(name=name)
        if factor < 1:
            raise DistilError(f"simkd(factor={factor}) divides the teacher's width; it must be at least 1.")
        self.factor = factor
        self.tap: Spec = tap if isinstance(tap, str) else (tap[0], tap[1])
        self.taps = (self.tap, "emb", "head", "logits")

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Check that both classifiers read the average of the map, and make the projector."""
        ((ours, theirs),) = map_pairs("simkd", [self.tap], student, teacher, tokens=False)
        for trace in (student, teacher):
            check_pooled("simkd", trace, self.tap, trace["emb"], "what the classifier reads")
        self.projector: nn.Module = Projector(ours.shape, theirs.shape, factor=self.factor)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``simkd``, one value per sample."""
        ours, theirs = pool_match(self.projector(student(batch)[self.tap]), teacher(batch)[self.tap])
        # In training the projector's BatchNorm makes each value depend on the batch.
        return {"simkd": Term(mse(ours, theirs, reduction="none"), coupled=self.training)}

    def deployed(self, student: Handles, teacher: Handles) -> nn.Module:
        """Return the student's body, the projector and the teacher's head; parameters are shared, not copied."""
        place, module = student.place(self.tap), student.part(self.tap)
        order = (module, self.projector) if place.side == "out" else (self.projector, module)
        head, weight = teacher.part("head"), next(student.module.parameters())
        if next(head.parameters()).device != weight.device:
            head = copy.deepcopy(head).to(weight.device)
        return grafted(student.module, {place.path: nn.Sequential(*order), student.place("head").path: head})
