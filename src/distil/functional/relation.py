"""Relations instead of values: distances and angles within a batch, and correlations of predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, positive, same_shape, shaped
from distil.functional.reduction import reduce, working

__all__ = [
    "dist",
    "dist_inter",
    "dist_intra",
    "pairwise_distances",
    "pearson",
    "rkd",
    "rkd_angle",
    "rkd_distance",
]

PEARSON_VARIANTS = ("authors", "torchdistill")


def pairwise_distances(embeddings: Tensor, *, eps: float = 1e-12) -> Tensor:
    """Return the (B, B) Euclidean distances of the rows: diagonal 0, all others at least √eps.

    Computed from differences, not from ‖a‖² + ‖b‖² − 2a·b, which loses close pairs in float32. Coincident rows have
    gradient 0.

    >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[0., 5.],
            [5., 0.]])
    """
    shaped("pairwise_distances", "embeddings", embeddings, ("B", "D"), "flatten each sample to one row")
    (embeddings,) = working(embeddings)
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=eps**0.5)
    return distances * ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)


def _normalised_distances(embeddings: Tensor) -> Tensor:
    """Return the distances over their mean off the diagonal; all 0 for a batch of one."""
    distances = pairwise_distances(embeddings)
    pairs = max(len(embeddings) * (len(embeddings) - 1), 1)
    return distances / (distances.sum() / pairs).clamp(min=torch.finfo(distances.dtype).tiny)


def _angles(embeddings: Tensor) -> Tensor:
    """Return (B, B, B): the cosine of the angle at row i between rows j and k; 0 where two of them coincide."""
    (embeddings,) = working(embeddings)
    difference = embeddings.unsqueeze(0) - embeddings.unsqueeze(1)
    apart = difference.ne(0).any(-1, keepdim=True)
    # The inner where keeps the slope of 1/0 out of the graph of coincident rows.
    length = torch.linalg.vector_norm(torch.where(apart, difference, torch.ones_like(difference)), dim=-1, keepdim=True)
    unit = torch.where(apart, difference / length, torch.zeros_like(difference))
    with torch.autocast(embeddings.device.type, enabled=False):
        return unit @ unit.transpose(1, 2)


def _same_batch(name: str, student: Tensor, teacher: Tensor) -> None:
    fix = "give one row per sample for the same samples; the widths may differ"
    shaped(name, "the student's embedding", student, ("B", "D"), fix)
    shaped(name, "the teacher's embedding", teacher, (student.shape[0], "D"), fix)


def rkd_distance(
    student_emb: Tensor, teacher_emb: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return how the student's distances between samples differ from the teacher's, each over its own mean.

    smooth-L1(d_s / mean d_s, d_t / mean d_t) over all B² pairs. Unchanged by rotation, shift and global scale of either
    side; 0 for a batch of one.

    Args:
        student_emb: (B, D_s).
        teacher_emb: (B, D_t).
        weight: broadcastable to (B, B).
        reduction: "mean", "sum" or "none" ((B, B) values).

    Raises:
        DistilError: if the two do not hold the same number of rows.

    >>> line = torch.tensor([[0.0], [1.0], [3.0]])
    >>> rkd_distance(line, 7 * line + 2), rkd_distance(line, line.square())
    (tensor(0.), tensor(0.0247))

    Paper: Park et al., *Relational Knowledge Distillation*, CVPR 2019, arXiv 1904.05068.
    """
    _same_batch("rkd_distance", student_emb, teacher_emb)
    values = F.smooth_l1_loss(_normalised_distances(student_emb), _normalised_distances(teacher_emb), reduction="none")
    return reduce(values, weight, reduction=reduction)


def rkd_angle(
    student_emb: Tensor, teacher_emb: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return how the angles of all triples of samples differ between student and teacher.

    smooth-L1 of the cosines over all B³ triples; memory grows with B²·D + B³. Unchanged by rotation, shift and global
    scale; 0 for a batch of one or two.

    Args:
        student_emb: (B, D_s).
        teacher_emb: (B, D_t).
        weight: broadcastable to (B, B, B).
        reduction: "mean", "sum" or "none" ((B, B, B) values: vertex, first arm, second arm).

    Raises:
        DistilError: if the two do not hold the same number of rows.

    >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> rkd_angle(corner, 4 * corner), rkd_angle(corner, corner * torch.tensor([1.0, 2.0]))
    (tensor(0.), tensor(0.0038))

    Paper: Park et al., *Relational Knowledge Distillation*, CVPR 2019, arXiv 1904.05068. Where two samples coincide the
    peers' gradient is of the order 10¹²; here such a pair has none. Values agree.
    """
    _same_batch("rkd_angle", student_emb, teacher_emb)
    values = F.smooth_l1_loss(_angles(student_emb), _angles(teacher_emb), reduction="none")
    return reduce(values, weight, reduction=reduction)


def rkd(student_emb: Tensor, teacher_emb: Tensor, *, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Return ``distance`` · `rkd_distance` + ``angle`` · `rkd_angle`, by default in the published proportion.

    >>> rkd(torch.eye(3), 2 * torch.eye(3))
    tensor(0.)
    """
    loss = distance * rkd_distance(student_emb, teacher_emb)
    return loss if angle == 0 else loss + angle * rkd_angle(student_emb, teacher_emb)


def pearson(
    x: Tensor,
    y: Tensor,
    *,
    dim: int = -1,
    weight: Tensor | None = None,
    eps: float = 1e-8,
    variant: str = "authors",
) -> Tensor:
    """Return the correlation of ``x`` and ``y`` along ``dim``; 0, without a gradient, where one of them is constant.

    "authors" adds ``eps`` to the product of the two lengths, "torchdistill" raises each length to at least ``eps``;
    they differ only where a vector is nearly constant.

    Args:
        x: any shape.
        y: the same shape.
        dim: the axis over which to correlate.
        weight: broadcastable to ``x``: how much each element counts.
        eps: guard against a length of 0.
        variant: "authors" or "torchdistill".

    >>> pearson(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 6.0]]))
    tensor([1.0000])
    """
    known("pearson", "variant", variant, PEARSON_VARIANTS)
    same_shape("pearson", x, y, "correlate tensors of one shape")
    x, y = _centred(x, dim, weight), _centred(y, dim, weight)
    lengths = [torch.linalg.vector_norm(z, dim=dim) for z in (x, y)]
    if variant == "torchdistill":
        return (x * y).sum(dim) / (lengths[0].clamp(min=eps) * lengths[1].clamp(min=eps))
    return (x * y).sum(dim) / (lengths[0] * lengths[1] + eps)


def _centred(x: Tensor, dim: int, weight: Tensor | None) -> Tensor:
    (x,) = working(x)
    if weight is None:
        return x - x.mean(dim, keepdim=True)
    share = weight.to(x.dtype).expand_as(x)
    total = share.sum(dim, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return (x - (share * x).sum(dim, keepdim=True) / total) * share.sqrt()


def dist_inter(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    variant: str = "authors",
) -> Tensor:
    """Return 1 − correlation of the two predictions over the classes, one value per sample.

    Arguments and errors are those of `dist`.

    >>> dist_inter(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]]))
    tensor(1.8671)
    """
    student, teacher = _predictions("dist_inter", student_logits, teacher_logits, temperature)
    return reduce(1 - pearson(student, teacher, dim=1, variant=variant), weight, reduction=reduction)


def dist_intra(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    variant: str = "authors",
) -> Tensor:
    """Return 1 − correlation of the two predictions over the batch, one value per class; constant 1 for one sample.

    ``weight`` is that of the samples inside the correlation. Arguments and errors are those of `dist`.

    >>> dist_intra(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [0.0, 3.0]]), reduction="none")
    tensor([0., 0.])
    """
    student, teacher = _predictions("dist_intra", student_logits, teacher_logits, temperature)
    share = None if weight is None else weight.reshape(-1, 1)
    return reduce(1 - pearson(student, teacher, dim=0, weight=share, variant=variant), reduction=reduction)


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    weight: Tensor | None = None,
    variant: str = "authors",
) -> Tensor:
    """Return DIST: match the order the teacher sees among classes and among samples, not its exact probabilities.

    τ² (β · mean `dist_inter` + γ · mean `dist_intra`) on softmax(z / τ). The second part couples the batch; its
    unreduced values are those of the two functions.

    Args:
        student_logits: (B, C).
        teacher_logits: the same shape.
        temperature: τ, above 0; 1 on ImageNet, 4 on CIFAR-100.
        beta: weight over the classes (1; 2 on CIFAR-100).
        gamma: weight over the batch (1; 2 on CIFAR-100).
        weight: (B,), how much each sample counts in both parts.
        variant: how `pearson` guards against constants.

    Raises:
        DistilError: if the logits are not two (B, C) tensors of one shape.

    >>> round(float(dist(torch.eye(3), 2 * torch.eye(3))), 6)
    0.0

    Paper: Huang et al., *Knowledge Distillation from A Stronger Teacher*, NeurIPS 2022, arXiv 2205.10536.
    """
    inter, intra = (
        correlation(student_logits, teacher_logits, temperature=temperature, weight=weight, variant=variant)
        for correlation in (dist_inter, dist_intra)
    )
    return temperature**2 * (beta * inter + gamma * intra)


def _predictions(name: str, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    same_shape(name, student, teacher, "give both models the same classes in the same order")
    positive(name, "temperature", temperature)
    if student.ndim != 2:
        raise DistilError(
            f"{name}: the logits are {tuple(student.shape)} but (B, C) is expected; flatten them to rows."
        )
    student, teacher = working(student, teacher)
    return (student / temperature).softmax(1), (teacher / temperature).softmax(1)
