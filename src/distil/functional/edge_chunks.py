"""Losses over the edges of a graph, a chunk at a time: as much memory as a chunk takes, whatever the graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distil.errors import DistilError

__all__ = ["in_edge_chunks"]

EdgeLoss = Callable[..., Tensor]


def in_edge_chunks(
    loss: EdgeLoss,
    student_logits: Tensor,
    teacher_logits: Tensor,
    edge_index: Tensor,
    *,
    chunk: int,
    **options: float,
) -> Tensor:
    """Return one value for each edge of a loss over edges, with as much memory as ``chunk`` edges take.

    ``low_frequency`` and ``high_frequency`` make a few tensors (E, C); here they are made for ``chunk`` edges at a time
    and let go, and made again on the way back. Values are those of ``loss(…, reduction="none")`` and gradients the sum
    over chunks, equal to the whole up to the order of that sum; what stays is one number for each edge.

    Args:
        loss: of (student_logits, teacher_logits, edge_index, reduction=…), a value for each edge that depends on the
            edge's two ends alone.
        student_logits: (N, C).
        teacher_logits: (N, C).
        edge_index: (2, E).
        chunk: edges at a time, at least 1.
        options: further arguments of ``loss``, as ``temperature``.

    Returns:
        (E,) values; reduce them as those of ``reduction="none"``.

    Raises:
        DistilError: for a chunk below 1, and what ``loss`` refuses.

    >>> from distil.functional.graph import low_frequency
    >>> z, h = torch.zeros(3, 2, requires_grad=True), torch.eye(3, 2)
    >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> whole = low_frequency(z, h, path, reduction="none")
    >>> torch.equal(in_edge_chunks(low_frequency, z, h, path, chunk=3), whole)
    True
    """
    if chunk < 1:
        raise DistilError(f"in_edge_chunks: chunk={chunk} edges at a time is impossible; give at least 1.")

    def part(student: Tensor, edges: Tensor) -> Tensor:
        return loss(student, teacher_logits, edges, reduction="none", **options)

    if edge_index.shape[1] <= chunk:
        return part(student_logits, edge_index)
    parts = edge_index.split(chunk, dim=1)
    if not (torch.is_grad_enabled() and student_logits.requires_grad):
        return torch.cat([part(student_logits, edges) for edges in parts])
    # Nothing is drawn in here, so the generators need not be kept for the second pass.
    return torch.cat([_again(part, student_logits, edges) for edges in parts])


def _again(part: Callable[[Tensor, Tensor], Tensor], student_logits: Tensor, edges: Tensor) -> Tensor:
    found: Tensor = checkpoint(part, student_logits, edges, use_reentrant=False, preserve_rng_state=False)
    return found
