"""FF-G2M's two losses with everything that a frozen teacher and fixed edges give computed once, and diagnostics.

`low_frequency` and `high_frequency` go over all directed edges at every step. A step needs less: the first is linear in
the teacher's probabilities, so each node keeps the mean of its neighbours'; the second has the same value in both
directions of an edge, so pairs of nodes suffice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.functional._checks import same_shape, shaped
from distil.functional.divergence import _expectation
from distil.functional.graph import _node_logits, edges, neighbour_contrast
from distil.functional.incidence import SparseMap, sparse_map
from distil.functional.reduction import working

__all__ = [
    "NeighbourMeans",
    "NeighbourPairs",
    "contrast_divergence",
    "mean_divergence",
    "neighbour_means",
    "neighbour_pairs",
    "output_cosine",
    "pair_distance_divergence",
]


@dataclass(frozen=True)
class NeighbourMeans:
    """What a node is taught at low frequency: over its edges, the teachers' mean probabilities and mean Σ p log p.

    ``probabilities`` (N, C), ``negentropy`` (N,), ``degree`` (N,): how many edges a node has, its loop among them.
    """

    probabilities: Tensor
    negentropy: Tensor
    degree: Tensor
    temperature: float


def neighbour_means(teacher_logits: Tensor, edge_index: Tensor, *, temperature: float = 1.0) -> NeighbourMeans:
    """Return what `mean_divergence` needs of the teacher and the edges.

    Args:
        teacher_logits: (N, C), called h.
        edge_index: (2, E), self loops included; row 0 is the student's end, row 1 the teacher's.
        temperature: above 0.

    >>> h = torch.tensor([[0.0, 0.0], [99.0, 0.0]])
    >>> neighbour_means(h, torch.tensor([[0, 0], [0, 1]])).probabilities
    tensor([[0.7500, 0.2500],
            [0.0000, 0.0000]])
    """
    teacher, _ = _node_logits("neighbour_means", teacher_logits.detach(), teacher_logits, edge_index, temperature)
    log_p = (teacher / temperature).log_softmax(1)
    sums = torch.cat([log_p.exp(), _expectation(log_p, log_p, 1)[:, None], torch.ones_like(log_p[:, :1])], 1)
    gathered = torch.zeros_like(sums).index_add_(0, edge_index[0], sums[edge_index[1]])
    degree = gathered[:, -1]
    means = gathered[:, :-1] / degree.clamp(min=1)[:, None]
    return NeighbourMeans(means[:, :-1], means[:, -1], degree, temperature)


def mean_divergence(student_logits: Tensor, targets: NeighbourMeans) -> Tensor:
    """Return for each node the mean over its edges of KL(softmax(h_j / T) ‖ softmax(z_i / T)), (N,).

    Weighted by ``targets.degree`` and divided by the number of edges this is `low_frequency`, value and gradient.

    >>> h, pairs = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0, 1], [1, 0]])
    >>> mean_divergence(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), neighbour_means(h, pairs)).mean()
    tensor(0.0336)
    """
    same_shape("mean_divergence", student_logits, targets.probabilities, "give one row per node of the targets")
    (student,) = working(student_logits)
    log_q = (student / targets.temperature).log_softmax(1)
    expected = torch.where(targets.probabilities > 0, targets.probabilities * log_q, torch.zeros_like(log_q)).sum(1)
    return targets.negentropy - expected


@dataclass(frozen=True)
class NeighbourPairs:
    """What pairs of neighbours are taught at high frequency.

    ``index`` (2, P) holds every pair of joined nodes once, ``weight`` (P,) how many directed edges it stands for,
    ``log_probabilities`` (P, C) the teacher's `neighbour_contrast`. ``difference`` makes z_i − z_j of z, where a sparse
    product is quicker than a gather, whose gradient is a scatter: on a processor.
    """

    index: Tensor
    weight: Tensor
    log_probabilities: Tensor
    difference: SparseMap | None
    temperature: float


def neighbour_pairs(teacher_logits: Tensor, edge_index: Tensor, *, temperature: float = 1.0) -> NeighbourPairs:
    """Return what `contrast_divergence` needs of the teacher and the edges.

    Args:
        teacher_logits: (N, C).
        edge_index: (2, E) without self loops; directed edges, in either or both directions.
        temperature: τ, above 0.

    >>> h = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> neighbour_pairs(h, torch.tensor([[0, 1], [1, 0]])).weight
    tensor([2.])
    """
    teacher, _ = _node_logits("neighbour_pairs", teacher_logits.detach(), teacher_logits, edge_index, temperature)
    nodes = len(teacher)
    codes, counts = (edge_index.amin(0) * nodes + edge_index.amax(0)).unique(return_counts=True)
    pairs = torch.stack([codes // nodes, codes % nodes])
    place = torch.arange(pairs.shape[1], device=pairs.device)
    ones = torch.ones(pairs.shape[1], dtype=teacher.dtype, device=pairs.device)
    corners = torch.stack([place.repeat(2), pairs.flatten()])
    size, processor = (pairs.shape[1], nodes), teacher.device.type == "cpu"
    difference = sparse_map(corners, torch.cat([ones, -ones]), size) if processor else None
    known = neighbour_contrast(teacher, pairs, temperature=temperature)
    return NeighbourPairs(pairs, counts.to(teacher.dtype), known, difference, temperature)


def contrast_divergence(student_logits: Tensor, targets: NeighbourPairs) -> Tensor:
    """Return for each pair of neighbours KL(softmax(|h_i − h_j| / τ) ‖ softmax(|z_i − z_j| / τ)), (P,).

    Weighted by ``targets.weight`` and divided by the number of directed edges this is `high_frequency`.

    >>> h, pairs = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0, 1], [1, 0]])
    >>> contrast_divergence(-h, neighbour_pairs(h, pairs))
    tensor([0.])
    """
    shaped("contrast_divergence", "student_logits", student_logits, ("N", "C"), "give one row per node")
    (student,) = working(student_logits)
    if targets.difference is not None:
        gap = targets.difference(student)
    else:
        gap = student[targets.index[0]] - student[targets.index[1]]
    log_q = (gap.abs() / targets.temperature).log_softmax(1).to(student.dtype)
    return _expectation(targets.log_probabilities, targets.log_probabilities - log_q, 1)


def output_cosine(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the cosine of student and teacher outputs for each node, (N,); its mean is how much low frequency agrees.

    1 where the outputs point the same way, in [−1, 1]; 0 for a node whose output is 0.

    >>> output_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
    tensor([1.])
    """
    shaped("output_cosine", "student_logits", student_logits, ("N", "C"), "give one row per node")
    same_shape("output_cosine", student_logits, teacher_logits, "give both models the same nodes and classes")
    student, teacher = working(student_logits, teacher_logits)
    return F.cosine_similarity(student, teacher, dim=1)


def pair_distance_divergence(student_logits: Tensor, teacher_logits: Tensor, edge_index: Tensor) -> Tensor:
    """Return how differently the two models spread distances over edges: how little high frequency agrees.

    KL(softmax(d^T) ‖ softmax(d^S)) over all edges together, d the Euclidean distance of neighbours' outputs; in nats,
    at least 0, 0 where the distances differ by one number for all edges, 0 without edges.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C).
        edge_index: (2, E); self loops are left out.

    >>> h = torch.tensor([[2.0, 0.0], [0.0, 0.0], [5.0, 1.0]])
    >>> pair_distance_divergence(h + 3, h, torch.tensor([[0, 1], [1, 2]]))
    tensor(0.)

    Paper: Wu et al., AAAI 2023, arXiv 2305.10758, where it is drawn without a formula: this one is this project's.
    """
    student, teacher = _node_logits("pair_distance_divergence", student_logits, teacher_logits, edge_index, 1.0)
    one, other = edges(edge_index, len(student), self_loops=False)
    if not len(one):
        return student.sum() * 0
    log_q, log_p = ((z[one] - z[other]).norm(dim=1).log_softmax(0) for z in (student, teacher))
    return _expectation(log_p, log_p - log_q, 0)
