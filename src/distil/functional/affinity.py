"""Which samples of a batch are alike: probabilities of being neighbours (PKT) and correlations of instances (CC).

Whose rows may differ in width is said by each function. Similarity-preserving distillation is `sample_gram`; distances
and angles are in `relation`. An all-zero row is alike to nobody and gets no gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, same_shape, shaped
from distil.functional.reduction import reduce, working

__all__ = ["correlation_congruence", "correlation_kernel", "kernel_congruence", "pkt", "unit_rows"]

KERNELS = ("gaussian", "bilinear")


def unit_rows(rows: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Return each row over (its length + ``eps``); an all-zero row stays zero and gets no gradient.

    Args:
        rows: (B, D).
        eps: added to the length, so that rows come out a little shorter than 1.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    (rows,) = working(rows)
    # The slope of x / (|x| + eps) at 0 is 1 / eps: a dead sample would outweigh all others.
    rows = torch.where(rows.ne(0).any(1, keepdim=True), rows, torch.zeros_like(rows))
    return rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + eps)


def pkt(
    student_emb: Tensor,
    teacher_emb: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    eps: float = 1e-7,
) -> Tensor:
    """Return probabilistic knowledge transfer: the divergence of who is whose neighbour.

    P_ij = (cos_ij + 1) / Σ_j (cos_ij + 1), the sample itself included; (1/B²) Σ_ij P^t log((P^t + ε) / (P^s + ε)).
    Unchanged by a positive scale of any sample and by the order of the batch; 0 for a batch of one.

    Args:
        student_emb: (B, D_s).
        teacher_emb: (B, D_t).
        weight: (B,), how much each sample's neighbourhood counts.
        reduction: "mean", "sum" or "none" (one value per sample, the mean over its B neighbours).
        eps: keeps the logarithm finite.

    Raises:
        DistilError: if the two do not hold the same number of rows.

    >>> rows = torch.eye(3)
    >>> pkt(2 * rows, rows), pkt(torch.ones(3, 2), rows)
    (tensor(0.), tensor(0.0196))

    Paper: Passalis, Tefas, *Learning Deep Representations with Probabilistic Knowledge Transfer*, ECCV 2018, arXiv
    1803.10837. Differs from the peers' code: none in value; an all-zero row has no gradient.
    """
    _rows("pkt", student_emb, teacher_emb)
    ours, theirs = _neighbours(student_emb, eps), _neighbours(teacher_emb, eps)
    values = (theirs * ((theirs + eps) / (ours + eps)).log()).mean(1)
    return reduce(values, weight, reduction=reduction)


def _neighbours(emb: Tensor, eps: float) -> Tensor:
    likeness = (_gram(unit_rows(emb, eps=eps)) + 1) / 2
    return likeness / likeness.sum(1, keepdim=True)


def correlation_congruence(
    student_emb: Tensor, teacher_emb: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return correlation congruence as its authors' code has it: neighbours in the batch should not err alike.

    δ = |s − t|; Σ_d δ_id · δ_(i+1)d for each pair of consecutive samples, averaged over the B − 1 pairs. It depends on
    the order of the batch; 0 for a batch of one. The formula of the text is `kernel_congruence`.

    Args:
        student_emb: (B, D).
        teacher_emb: the same shape; embed both to one width first.
        weight: (B − 1,), one for each pair.
        reduction: "mean", "sum" or "none" (one value per pair).

    Raises:
        DistilError: if the shapes differ or are not (B, D).

    >>> correlation_congruence(torch.tensor([[1.0], [3.0], [0.0]]), torch.zeros(3, 1), reduction="none")
    tensor([3., 0.])

    Paper: Peng et al., *Correlation Congruence for Knowledge Distillation*, ICCV 2019, arXiv 1904.01802.
    """
    same_shape("correlation_congruence", student_emb, teacher_emb, "embed both to one width")
    _rows("correlation_congruence", student_emb, teacher_emb)
    student, teacher = working(student_emb, teacher_emb)
    gap = (student - teacher).abs()
    return reduce((gap[:-1] * gap[1:]).sum(1), weight, reduction=reduction)


def correlation_kernel(emb: Tensor, *, kernel: str = "gaussian", gamma: float = 0.4, order: int = 2) -> Tensor:
    """Return how the samples of a batch correlate under a kernel.

    "bilinear": e eᵀ. "gaussian": e^(−2γ) Σ_(p ≤ order) (2γ)^p / p! · (e eᵀ)^p, the Taylor expansion of the Gaussian
    kernel, which equals exp(−γ ‖e_i − e_j‖²) in the limit for rows of length 1.

    Args:
        emb: (B, D).
        kernel: "gaussian" or "bilinear".
        gamma: γ of the Gaussian; 0.4 in the paper.
        order: of the expansion; 2 in the paper.

    Returns:
        (B, B).

    >>> correlation_kernel(torch.eye(2), kernel="bilinear")
    tensor([[1., 0.],
            [0., 1.]])
    >>> correlation_kernel(torch.eye(2), order=9)  # exp(0) and exp(-0.4 * 2)
    tensor([[1.0000, 0.4493],
            [0.4493, 1.0000]])
    """
    known("correlation_kernel", "kernel", kernel, KERNELS)
    shaped("correlation_kernel", "the embedding", emb, ("B", "D"), "flatten each sample to one row")
    if order < 0:
        raise DistilError(f"correlation_kernel: order={order} must not be below 0; the paper uses 2.")
    products = _gram(*working(emb))
    if kernel == "bilinear":
        return products
    terms = [(2 * gamma) ** p / math.factorial(p) * products**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(0)


def kernel_congruence(
    student_emb: Tensor, teacher_emb: Tensor, *, kernel: str = "gaussian", gamma: float = 0.4, order: int = 2
) -> Tensor:
    """Return correlation congruence as the text has it: the distance of the two kernels, ‖K_s − K_t‖_F / B².

    A norm, not a square, so it has no unreduced form but its two `correlation_kernel`. Unchanged by the order of the
    batch.

    Args:
        student_emb: (B, D_s).
        teacher_emb: (B, D_t); the widths may differ.
        kernel: "gaussian" or "bilinear".
        gamma: see `correlation_kernel`.
        order: see `correlation_kernel`.

    Raises:
        DistilError: if the two do not hold the same number of rows.

    >>> kernel_congruence(torch.eye(2), torch.ones(2, 1), kernel="bilinear")
    tensor(0.3536)

    Paper: Peng et al., *Correlation Congruence for Knowledge Distillation*, ICCV 2019, arXiv 1904.01802; the scale 1/B²
    is torchdistill's.
    """
    _rows("kernel_congruence", student_emb, teacher_emb)
    ours, theirs = (correlation_kernel(e, kernel=kernel, gamma=gamma, order=order) for e in (student_emb, teacher_emb))
    return torch.linalg.vector_norm(ours - theirs) / len(ours) ** 2


def _gram(rows: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ rows.mT


def _rows(name: str, student: Tensor, teacher: Tensor) -> None:
    fix = "give one row per sample, the same samples on both sides"
    shaped(name, "the student's embedding", student, ("B", "D"), fix)
    shaped(name, "the teacher's embedding", teacher, (student.shape[0], "D"), fix)
