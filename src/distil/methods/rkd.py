"""Relational knowledge distillation: keep distances and angles between samples."""

from __future__ import annotations

from typing import final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.functional.relation import rkd_angle, rkd_distance
from distil.methods.align import map_or_embedding

__all__ = ["RKD"]


@final
class RKD(Method):
    """Match the distances between samples, and the angles in triples of samples, in embedding space.

    Distances are divided by their mean; both parts are smooth L1 and coupled. Widths may differ. A batch of one gives
    0.

    Args:
        distance: weight of the distance part.
        angle: weight of the angle part; it costs memory of order B² · D.
        tap: what is compared, the embedding by default; ``[N, D]``. Maps are flattened, and of tokens their patches.

    Example:
        >>> from distil.methods import RKD
        >>> RKD(distance=25, angle=0).expression
        'rkd(distance=25, angle=0)'

    Paper: Park, Kim, Lu, Cho, Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068.
    Differs from official code: none in value (golden against mdistiller); finite gradients where two samples coincide.
    """

    at_equality = {"distance": "zero", "angle": "zero"}  # noqa: RUF012

    def __init__(
        self, *, distance: float = 25.0, angle: float = 50.0, tap: Spec = "emb", name: str | None = None
    ) -> None:
        super().__init__(name=name)
        if distance == 0 and angle == 0:
            raise DistilError("rkd(distance=0, angle=0) compares nothing; give one of them a weight.")
        self.distance, self.angle = distance, angle
        self.tap: Spec = tap if isinstance(tap, str) else (tap[0], tap[1])
        self.taps = (self.tap,)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Refuse taps that give neither embeddings nor maps."""
        for trace in (student, teacher):
            map_or_embedding("rkd", self.tap, trace)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the terms ``distance`` and ``angle`` that have a weight, both coupled."""
        s, t = (map_or_embedding("rkd", self.tap, handle(batch)).flatten(1) for handle in (student, teacher))
        terms = {}
        if self.distance:
            terms["distance"] = Term(self.distance * rkd_distance(s, t, reduction="none"), coupled=True)
        if self.angle:
            terms["angle"] = Term(self.angle * rkd_angle(s, t, reduction="none"), coupled=True)
        return terms
