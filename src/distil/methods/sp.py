"""Similarity-preserving distillation: samples alike for the teacher are alike for the student."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.functional.gram import sample_gram
from distil.functional.reduction import Term
from distil.methods.align import map_or_embedding

__all__ = ["SP"]


@final
class SP(Method):
    """Match which samples of a batch are alike, by the inner products of their flattened maps.

    ``‖G_t − G_s‖² / B²`` with ``G`` the row-normalised Gram matrix of the batch. Widths and sizes may differ. Coupled:
    the value depends on who shares the batch; a batch of one gives 0. Published weight 3000.

    Args:
        tap: the last feature map by default; also an embedding ("emb"), the choice for transformers, or tokens
            (their patches alone).

    Relations:
        RKD compares distances and angles, PKT probabilities of being neighbours, CC the errors of neighbours.

    Example:
        >>> from distil.methods import SP, Supervised
        >>> (Supervised() + 3000 * SP(tap="emb")).expression
        'supervised + 3000*sp(tap=emb)'

    Paper: Tung, Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, arXiv 1907.09682.
    Differs from official code: none was published; equal to mdistiller's (golden). A map that is all zero gets no
    gradient.
    """

    at_equality = {"sp": "zero"}  # noqa: RUF012

    def __init__(self, *, tap: Spec = "map", name: str | None = None) -> None:
        super().__init__(name=name)
        self.tap: Spec = tap if isinstance(tap, str) else (tap[0], tap[1])
        self.taps = (self.tap,)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Refuse taps that give neither maps nor embeddings."""
        for trace in (student, teacher):
            _rows(self.tap, trace)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``sp``, one value per sample, coupled."""
        ours, theirs = (_rows(self.tap, handle(batch)) for handle in (student, teacher))
        return {"sp": Term(sample_gram(ours, theirs, reduction="none"), coupled=True)}


def _rows(spec: Spec, trace: Traces) -> Tensor:
    rows = map_or_embedding("sp", spec, trace).flatten(1)
    # Normalising the products of a dead map would multiply its gradient by 1e12.
    return torch.where(rows.ne(0).any(1, keepdim=True), rows, rows.detach())
