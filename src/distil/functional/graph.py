"""Losses over the edges of a graph, for a student that will not see the edges."""

from __future__ import annotations

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import positive, same_shape, shaped
from distil.functional.divergence import _expectation, kl
from distil.functional.reduction import reduce, working

__all__ = ["edges", "high_frequency", "low_frequency", "neighbour_contrast", "node_kl"]

node_kl = kl
"""Over nodes, GLNN's distillation term is `distil.functional.kl` at temperature 1."""


def edges(edge_index: Tensor, num_nodes: int, *, self_loops: bool) -> Tensor:
    """Return the edges without self loops, in their order; with ``self_loops`` one per node follows.

    Duplicate edges stay and count twice; an undirected edge is to be given in both directions.

    Args:
        edge_index: (2, E) int64.
        num_nodes: N; every node id is below it.
        self_loops: whether each node is its own neighbour, once.

    Raises:
        DistilError: if the shape is not (2, E) or a node id is outside 0 … N − 1.

    >>> edges(torch.tensor([[0, 1, 1], [1, 0, 1]]), 2, self_loops=True)
    tensor([[0, 1, 0, 1],
            [1, 0, 0, 1]])
    """
    _check_edges("edges", edge_index, num_nodes)
    kept = edge_index[:, edge_index[0] != edge_index[1]]
    if not self_loops:
        return kept
    loops = torch.arange(num_nodes, device=edge_index.device, dtype=edge_index.dtype).expand(2, -1)
    return torch.cat([kept, loops], dim=1)


def low_frequency(
    student_logits: Tensor,
    teacher_logits: Tensor,
    edge_index: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return LFD: the student of node i learns the teacher of each neighbour j, so smoothness moves into its weights.

    KL(softmax(h_j / T) ‖ softmax(z_i / T)) for each edge (i, j), without a T² factor; a node of high degree weighs
    more. With nothing but self loops it equals `node_kl`; with no edges it is 0. Not 0 at student = teacher unless
    neighbours agree. No gradient reaches the teacher.

    Args:
        student_logits: (N, C), called z.
        teacher_logits: (N, C), called h.
        edge_index: (2, E), self loops included (`edges`); row 0 is the student's end, row 1 the teacher's.
        temperature: above 0; the authors use 1.
        weight: (E,) or broadcastable to it.
        reduction: "mean" (over edges), "sum" or "none" (one value per edge).

    Raises:
        DistilError: if the logits differ in shape, or an edge names a node that is not there.

    >>> z, h = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> low_frequency(z, h, torch.tensor([[0, 1], [1, 0]]))
    tensor(0.0336)

    Paper: Wu et al., *Extracting Low-/High-Frequency Knowledge from Graph Neural Networks and Injecting it into MLPs*,
    AAAI 2023, arXiv 2305.10758. Normalised by the number of edges, as the official code does.
    """
    student, teacher = _node_logits("low_frequency", student_logits, teacher_logits, edge_index, temperature)
    log_q = (student / temperature).log_softmax(1)[edge_index[0]]
    log_p = (teacher / temperature).log_softmax(1)[edge_index[1]]
    return reduce(_expectation(log_p, log_p - log_q, 1), weight, reduction=reduction)


def high_frequency(
    student_logits: Tensor,
    teacher_logits: Tensor,
    edge_index: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return HFD: the student differs between neighbours in the classes in which the teacher differs.

    KL between the two `neighbour_contrast` distributions of each edge, without a τ² factor; 0 with no edges. The
    gradient flows through both ends of the student's difference, never to the teacher. 0 at student = ± teacher + one
    vector for all nodes; a scalar added to single nodes changes it, since raw logits are compared.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C).
        edge_index: (2, E) without self loops (`edges`).
        temperature: τ, above 0; 1.0 to 1.5 by data set.
        weight: (E,) or broadcastable to it.
        reduction: "mean" (over edges), "sum" or "none" (one value per edge).

    Raises:
        DistilError: if the logits differ in shape, or an edge names a node that is not there.

    >>> h = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> high_frequency(-h, h, torch.tensor([[0, 1], [1, 0]]), temperature=1.5)
    tensor(0.)

    Paper: as `low_frequency`.
    """
    student, teacher = _node_logits("high_frequency", student_logits, teacher_logits, edge_index, temperature)
    log_q, log_p = (neighbour_contrast(z, edge_index, temperature=temperature) for z in (student, teacher))
    return reduce(_expectation(log_p, log_p - log_q, 1), weight, reduction=reduction)


def neighbour_contrast(logits: Tensor, edge_index: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return log-softmax(|z_i − z_j| / τ) for each edge, (E, C): in which classes two neighbours differ.

    >>> neighbour_contrast(torch.zeros(2, 2), torch.tensor([[0], [1]]))
    tensor([[-0.6931, -0.6931]])
    """
    positive("neighbour_contrast", "temperature", temperature)
    _check_edges("neighbour_contrast", edge_index, len(logits))
    (logits,) = working(logits)
    return ((logits[edge_index[0]] - logits[edge_index[1]]).abs() / temperature).log_softmax(1)


def _node_logits(
    name: str, student: Tensor, teacher: Tensor, edge_index: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    shaped(name, "student_logits", student, ("N", "C"), "give one row per node")
    same_shape(name, student, teacher, "give both models the same nodes and classes")
    positive(name, "temperature", temperature)
    _check_edges(name, edge_index, len(student))
    student, teacher = working(student, teacher.detach())
    return student, teacher


def _check_edges(name: str, edge_index: Tensor, num_nodes: int) -> None:
    """Refuse edges of the wrong shape or, on the CPU (elsewhere indexing asserts), of nodes that are not there."""
    shaped(name, "edge_index", edge_index, (2, "E"), "transpose a list of pairs")
    if edge_index.dtype.is_floating_point or edge_index.dtype == torch.bool:
        raise DistilError(f"{name}: edge_index is {edge_index.dtype}, not node ids; convert it with .long().")
    if edge_index.device.type == "cpu" and edge_index.numel():
        low, high = (int(end) for end in edge_index.aminmax())
        if low < 0 or high >= num_nodes:
            raise DistilError(
                f"{name}: an edge names node {low if low < 0 else high} but the nodes are 0 … {num_nodes - 1}; "
                "re-index the edges of a sub-graph to its own nodes."
            )
