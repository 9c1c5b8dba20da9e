"""The tokens of a whole batch as a graph of nearest neighbours, and two networks' graphs compared.

A node is one token; node i of the student and node i of the teacher are the same place of the same image. Memory grows
with N², four bytes for each pair in float32: a matrix of 2,048 nodes takes 16 MiB, of `MOST_NODES` 1 GiB.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, positive, shaped
from distil.functional.affinity import unit_rows
from distil.functional.divergence import kl, reverse_kl
from distil.functional.reduction import reduce, working

__all__ = [
    "MOST_NODES",
    "graph_weights",
    "local_relation",
    "nearest_tokens",
    "neighbour_overlap",
    "token_contrast",
]

MOST_NODES = 1 << 14
"""The most nodes of a graph; its matrices of N² numbers then take 1 GiB each in float32."""

MASKS = ("own", "shared")
DIRECTIONS = ("student", "teacher")
SIGMAS = ("median", "detached")
EPS = 1e-12


def nearest_tokens(nodes: Tensor, neighbours: int) -> Tensor:
    """Return each node's nearest others by Euclidean distance, itself left out; no gradient passes.

    Distances come from differences, not from ‖a‖² + ‖b‖² − 2a·b, which loses close pairs in float32. Of equally near
    nodes any may be taken.

    Args:
        nodes: (N, D).
        neighbours: k, at least 1; more than N − 1 means all others.

    Returns:
        (N, min(k, N − 1)) indices, the nearest first.

    >>> nearest_tokens(torch.tensor([[0.0], [1.0], [5.0]]), 1)
    tensor([[1],
            [0],
            [1]])
    """
    _check_nodes("nearest_tokens", nodes)
    if neighbours < 1:
        raise DistilError(f"nearest_tokens: neighbours={neighbours} must be at least 1.")
    (nodes,) = working(nodes.detach())
    distances = torch.cdist(nodes, nodes, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return distances.topk(min(neighbours, len(nodes) - 1), largest=False).indices


def graph_weights(nodes: Tensor, nearest: Tensor, *, sigma: float | str = "detached") -> Tensor:
    """Return the weights of a graph: A_ij = exp(−‖x_i − x_j‖² / 2σ) where j is among i's ``nearest``, else 0.

    Args:
        nodes: (N, D).
        nearest: (N, k), of `nearest_tokens` of these nodes or of another network's; a row without itself.
        sigma: σ, above 0; "detached": the median squared distance of neighbours that differ, so that a scale of the
            nodes changes nothing, without gradient; "median": the same figure with its gradient, nearly all of which
            falls on the two nodes that are that far apart.

    Returns:
        (N, N), in (0, 1] at neighbours unless exp underflows, 0 elsewhere and on the diagonal.

    >>> graph_weights(torch.tensor([[0.0], [1.0]]), torch.tensor([[1], [0]]), sigma=0.5)
    tensor([[0.0000, 0.3679],
            [0.3679, 0.0000]])
    """
    _check_nodes("graph_weights", nodes)
    shaped("graph_weights", "nearest", nearest, (nodes.shape[0], "k"), "give one row of neighbours for each node")
    (nodes,) = working(nodes)
    squared = (nodes[nearest] - nodes[:, None]).square().sum(-1)
    weights = (-squared / (2 * _width(squared, sigma))).exp()
    return nodes.new_zeros(len(nodes), len(nodes)).scatter(1, nearest, weights)


def _width(squared: Tensor, sigma: float | str) -> Tensor | float:
    """Return σ; coincident neighbours say nothing of scale, and where all coincide any σ serves."""
    if not isinstance(sigma, str):
        positive("graph_weights", "sigma", sigma)
        return sigma
    known("graph_weights", "sigma", sigma, SIGMAS)
    source = squared.detach() if sigma == "detached" else squared
    found = source.masked_fill(source <= torch.finfo(source.dtype).tiny, torch.nan).nanmedian()
    return torch.where(found.isnan(), torch.ones_like(found), found)


def local_relation(
    student_nodes: Tensor,
    teacher_nodes: Tensor,
    *,
    neighbours: int = 8,
    mask: str = "own",
    sigma: float | str = "detached",
    direction: str = "student",
    sharpness: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return how differently two networks see who is near whom: the divergence of their graphs' row softmaxes.

    KL(softmax_j(κ A^s_ij) ‖ softmax_j(κ A^t_ij)) over all N entries of a row, zeros included, A from `graph_weights`.
    Widths may differ. Unchanged by rotations and shifts of either space and by one order of the nodes on both sides; 0
    for one node.

    Args:
        student_nodes: (N, D_s).
        teacher_nodes: (N, D_t), the same places.
        neighbours: k of the graph; more than N − 1 means all others.
        mask: "own" (each network's own neighbours) or "shared" (the teacher's for both).
        sigma: see `graph_weights`; each network has its own.
        direction: which distribution stands first: "student" (as printed) or "teacher".
        sharpness: κ, an inverse temperature that the paper does not have; with 1 the rows are nearly uniform.
        weight: (N,).
        reduction: "mean", "sum" (as printed) or "none" (one value per node).

    Raises:
        DistilError: if the two do not hold the same number of nodes, or more than `MOST_NODES`.

    >>> line = torch.tensor([[0.0], [1.0], [3.0]])
    >>> local_relation(line, 7 * line + 2, neighbours=1), local_relation(line, line.flip(0), neighbours=1)
    (tensor(0.), tensor(0.0619))

    Paper: Zhang, Liu, He, *Knowledge Distillation via Token-level Relationship Graph*, 2023, arXiv 2306.12442.
    """
    known("local_relation", "mask", mask, MASKS)
    known("local_relation", "direction", direction, DIRECTIONS)
    positive("local_relation", "sharpness", sharpness)
    _same_nodes("local_relation", student_nodes, teacher_nodes)
    theirs = nearest_tokens(teacher_nodes, neighbours)
    ours = theirs if mask == "shared" else nearest_tokens(student_nodes, neighbours)
    student = sharpness * graph_weights(student_nodes, ours, sigma=sigma)
    teacher = sharpness * graph_weights(teacher_nodes, theirs, sigma=sigma)
    divergence = reverse_kl if direction == "student" else kl
    return divergence(student, teacher, weight=weight, reduction=reduction)


def token_contrast(
    student_emb: Tensor,
    teacher_emb: Tensor,
    *,
    temperature: float = 0.1,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return InfoNCE across networks: each student token finds its own place among all the teacher's tokens.

    −log(exp(cos(s_i, t_i) / τ) / Σ_j exp(cos(s_i, t_j) / τ)), at least 0, and log N where all tokens are alike. A token
    that is all zero is alike to nobody and gets no gradient.

    Args:
        student_emb: (N, D), projected to the common width.
        teacher_emb: (N, D), the same places.
        temperature: τ, above 0; a lower one looks at the hardest others.
        weight: (N,).
        reduction: "mean", "sum" or "none" (one value per node).

    Raises:
        DistilError: if the shapes differ, or there are more nodes than `MOST_NODES`.

    >>> token_contrast(torch.eye(2), torch.eye(2)), token_contrast(torch.ones(2, 1), torch.ones(2, 1))
    (tensor(4.5418e-05), tensor(0.6931))

    Paper: Zhang, Liu, He, *Knowledge Distillation via Token-level Relationship Graph*, 2023, arXiv 2306.12442.
    """
    positive("token_contrast", "temperature", temperature)
    _same_nodes("token_contrast", student_emb, teacher_emb)
    if student_emb.shape != teacher_emb.shape:
        raise DistilError(
            f"token_contrast: the student gives {tuple(student_emb.shape)} and the teacher "
            f"{tuple(teacher_emb.shape)}, which must be equal; project both to one width."
        )
    student, teacher = (unit_rows(rows, eps=EPS) for rows in working(student_emb, teacher_emb))
    with torch.autocast(student.device.type, enabled=False):
        logits = student @ teacher.mT / temperature
    own = torch.arange(len(logits), device=logits.device)
    return reduce(F.cross_entropy(logits, own, reduction="none"), weight, reduction=reduction)


def neighbour_overlap(student_nodes: Tensor, teacher_nodes: Tensor, *, neighbours: int = 8) -> Tensor:
    """Return, for each node, the Jaccard index of the student's and the teacher's nearest others; no gradient passes.

    |S ∩ T| / |S ∪ T|, from 0 to 1; 1 for a node that is alone.

    Args:
        student_nodes: (N, D_s).
        teacher_nodes: (N, D_t), the same places.
        neighbours: k of the sets.

    Returns:
        (N,).

    >>> neighbour_overlap(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[3.0], [1.0], [0.0]]), neighbours=1)
    tensor([1., 0., 1.])
    """
    _same_nodes("neighbour_overlap", student_nodes, teacher_nodes)
    ours, theirs = (nearest_tokens(nodes, neighbours) for nodes in (student_nodes, teacher_nodes))
    shared = (ours[:, :, None] == theirs[:, None]).any(2).sum(1)
    either = 2 * ours.shape[1] - shared
    return torch.where(either > 0, shared / either.clamp(min=1), torch.ones_like(shared, dtype=torch.float32))


def _check_nodes(name: str, nodes: Tensor) -> None:
    shaped(name, "the nodes", nodes, ("N", "D"), "gather tokens with gather_tokens")
    if not 1 <= len(nodes) <= MOST_NODES:
        raise DistilError(
            f"{name}: the graph has {len(nodes)} nodes, and 1 to {MOST_NODES} fit, since its matrices hold a number "
            "for each pair; draw fewer tokens of each image (samples=), or make batches smaller."
        )


def _same_nodes(name: str, student: Tensor, teacher: Tensor) -> None:
    _check_nodes(name, student)
    shaped(name, "the teacher's nodes", teacher, (student.shape[0], "D"), "give the same places, one row each")
