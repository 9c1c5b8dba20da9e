"""Probabilistic knowledge transfer: keep who is whose neighbour."""

from __future__ import annotations

from typing import final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.functional.affinity import pkt
from distil.functional.reduction import Term
from distil.methods.compared import embedding

__all__ = ["PKT"]


@final
class PKT(Method):
    """Match, for every sample of a batch, the probability that each other one is its neighbour in embedding space.

    ``(1/B²) Σ_ij P^t log(P^t / P^s)`` with ``P`` the cosines, moved to 0…1 and normalised by row. Widths may differ.
    Coupled: the value depends on who shares the batch; a batch of one gives 0. Published weight 30000.

    Args:
        tap: what is compared, the embedding by default; ``[N, D]``.

    Relations:
        SP compares the inner products themselves, RKD distances and angles.

    Example:
        >>> from distil.methods import PKT, Supervised
        >>> (Supervised() + 30000 * PKT()).expression
        'supervised + 30000*pkt'

    Paper: Passalis, Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018, arXiv
    1803.10837. Differs from official code: none in value (golden against mdistiller); an all-zero embedding gets no
    gradient.
    """

    at_equality = {"pkt": "zero"}  # noqa: RUF012

    def __init__(self, *, tap: Spec = "emb", name: str | None = None) -> None:
        super().__init__(name=name)
        self.tap: Spec = tap if isinstance(tap, str) else (tap[0], tap[1])
        self.taps = (self.tap,)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Refuse taps that give no embedding."""
        for trace in (student, teacher):
            embedding("pkt", self.tap, trace)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``pkt``, one value per sample, coupled."""
        ours, theirs = (embedding("pkt", self.tap, handle(batch)) for handle in (student, teacher))
        return {"pkt": Term(pkt(ours, theirs, reduction="none"), coupled=True)}
