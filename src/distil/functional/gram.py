"""Row-normalised Gram matrices of samples, channels and class maps, and how far two networks' matrices are apart.

The distances of DisWOT (Dong, Li, Wei, *DisWOT: Student Architecture Search for Distillation WithOut Training*, CVPR
2023, arXiv 2303.15678), both for scoring untrained networks and as losses. Each is 0 where the matrices are equal and
positive elsewhere; a score is its negative. Matrices are computed in float32 (float64 stays), whatever autocast says.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional._checks import class_index, known, same_shape
from distil.functional.reduction import reduce, working

__all__ = ["channel_gram", "class_maps", "fc_gradient", "gradient_gram", "row_gram", "sample_gram"]

EPS = 1e-12
NORMALISERS = ("rows", "cells")


def row_gram(rows: Tensor, *, eps: float = EPS) -> Tensor:
    """Return the inner products of all rows, each row of the result brought to length 1.

    Args:
        rows: (…, R, D).
        eps: the least length divided by, so that a row of zeros gives zeros.

    Returns:
        (…, R, R).

    >>> row_gram(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    (rows,) = working(rows)
    with torch.autocast(rows.device.type, enabled=False):
        return F.normalize(rows @ rows.mT, dim=-1, eps=eps)


def sample_gram(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    eps: float = EPS,
) -> Tensor:
    """Return DisWOT's relation distance, which is Similarity-Preserving distillation: which samples are alike.

    ``Σ (𝒜_t − 𝒜_s)² / B²`` with ``𝒜`` the row-normalised Gram matrix of the flattened maps; the unreduced values are
    the rows' sums over B. It does not change where features are scaled or turned; a batch of one gives 0.

    Args:
        student_map: (B, …), anything that is flattened to a row for each sample.
        teacher_map: (B, …), its other sizes may differ.
        weight: (B,).
        reduction: "none" gives (B,).
        eps: see :func:`row_gram`.

    Raises:
        DistilError: if the batches differ.

    >>> maps = torch.eye(3).reshape(3, 3, 1, 1)
    >>> sample_gram(5 * maps, maps[:, [2, 0, 1]])
    tensor(0.)

    Papers: DisWOT; Tung, Mori, *Similarity-Preserving Knowledge Distillation*, ICCV 2019, arXiv 1907.09682.
    """
    _same_samples("sample_gram", student_map, teacher_map)
    ours, theirs = row_gram(student_map.flatten(1), eps=eps), row_gram(teacher_map.flatten(1), eps=eps)
    return reduce((ours - theirs).square().mean(1), weight, reduction=reduction)


def channel_gram(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    normaliser: str = "rows",
    eps: float = EPS,
) -> Tensor:
    """Return how far the correlations of channels are apart (ICKD without its embedding), sample by sample.

    ``Σ (𝒢_t − 𝒢_s)² / C`` per sample, averaged over the batch, with ``𝒢`` the row-normalised Gram matrix of the
    channels over positions. On :func:`class_maps` it is DisWOT's semantic distance in the paper's form.

    Args:
        student_map: (B, C, …) with positions behind the channels.
        teacher_map: (B, C, …); the positions may differ in number.
        weight: (B,).
        reduction: "none" gives (B,).
        normaliser: "rows" divides a sample's sum by C, "cells" by C².
        eps: see :func:`row_gram`.

    Raises:
        DistilError: if batches or channels differ.

    >>> maps = torch.eye(2).reshape(1, 2, 2)
    >>> channel_gram(maps, torch.ones(1, 2, 5))
    tensor(0.5858)

    Papers: DisWOT; Liu et al., *Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation*,
    ICCV 2021, arXiv 2202.03680.
    """
    known("channel_gram", "normaliser", normaliser, NORMALISERS)
    if student_map.shape[:2] != teacher_map.shape[:2] or min(student_map.ndim, teacher_map.ndim) < 3:
        raise DistilError(
            f"channel_gram: the student's maps are {tuple(student_map.shape)} and the teacher's "
            f"{tuple(teacher_map.shape)}, which must agree in samples and channels and have positions behind them; "
            "compare class_maps where widths differ."
        )
    ours, theirs = row_gram(student_map.flatten(2), eps=eps), row_gram(teacher_map.flatten(2), eps=eps)
    values = (ours - theirs).square().mean(2)
    return reduce(values.sum(1) if normaliser == "rows" else values.mean(1), weight, reduction=reduction)


def class_maps(features: Tensor, weight: Tensor) -> Tensor:
    """Return class activation maps: where each class finds its evidence.

    ``G_n = Σ_c w_nc · A_c``, for every sample and position.

    Args:
        features: (B, C, …), the last map before pooling.
        weight: (N, C), the classifier's weight.

    Returns:
        (B, N, …).

    Raises:
        DistilError: if the classifier does not read that many channels.

    >>> class_maps(torch.ones(1, 2, 3, 3), torch.tensor([[1.0, 0.0], [1.0, 1.0]])).mean((2, 3))
    tensor([[1., 2.]])

    Paper: Zhou et al., *Learning Deep Features for Discriminative Localization*, CVPR 2016, arXiv 1512.04150.
    """
    if features.ndim < 3 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise DistilError(
            f"class_maps: the map is {tuple(features.shape)} and the classifier's weight {tuple(weight.shape)}, but "
            "(B, C, …) and (N, C) are expected; name the map that the classifier pools, e.g. taps={'map': 'layer4'}."
        )
    features, weight = working(features, weight)
    with torch.autocast(features.device.type, enabled=False):
        return (weight @ features.flatten(2)).reshape(len(features), len(weight), *features.shape[2:])


def fc_gradient(logits: Tensor, emb: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean cross-entropy with respect to the last layer's weight, without a backward pass.

    ``(softmax(z) − onehot(y))ᵀ · e / B`` for ``z = W e (+ b)``; samples labelled -100 do not count.

    Args:
        logits: (B, N).
        emb: (B, C), what the last linear layer reads.
        labels: (B,).

    Returns:
        (N, C).

    >>> fc_gradient(torch.zeros(1, 2), torch.ones(1, 3), torch.tensor([0]))
    tensor([[-0.5000, -0.5000, -0.5000],
            [ 0.5000,  0.5000,  0.5000]])
    """
    if logits.ndim != 2 or emb.ndim != 2 or len(logits) != len(emb):
        raise DistilError(
            f"fc_gradient: the logits are {tuple(logits.shape)} and the embedding {tuple(emb.shape)}, but (B, N) and "
            "(B, C) are expected; the classifier must be the last layer and read one row for each sample."
        )
    logits, emb = working(logits, emb)
    safe, counted = class_index("fc_gradient", labels, logits.shape[:1], logits.shape[1])
    slope = (logits.softmax(1) - F.one_hot(safe, logits.shape[1])) * counted[:, None]
    with torch.autocast(logits.device.type, enabled=False):
        return slope.mT @ emb / counted.sum().clamp(min=1)


def gradient_gram(
    student_grad: Tensor,
    teacher_grad: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    eps: float = EPS,
) -> Tensor:
    """Return DisWOT's semantic distance in the form of its code, from the classifiers' gradients.

    Per class ``E_n = g_n g_nᵀ`` with rows of length 1; the value is ``‖E_n^s − E_n^t‖² / C``, whose mean over classes
    is ``Σ_n ‖·‖² / (N·C)``. As ``E_n = r_n g_nᵀ`` with ``r_ni = g_ni / max(|g_ni| ‖g_n‖, eps)``, the distance needs
    inner products alone: memory N·C where the matrices would take N·C². Neither the sign of ``g_n`` nor its length
    matters (until products of its entries come near ``eps``).

    Args:
        student_grad: (N, C), see :func:`fc_gradient`.
        teacher_grad: the same shape.
        weight: (N,), how much each class counts.
        reduction: "none" gives (N,).
        eps: the least length of a row divided by.

    Raises:
        DistilError: if the shapes differ.

    >>> rows = torch.tensor([[3.0, 4.0]])
    >>> gradient_gram(rows, -2 * rows), gradient_gram(rows, torch.tensor([[4.0, -3.0]]))
    (tensor(0.), tensor(2.0000))
    """
    same_shape(
        "gradient_gram",
        student_grad,
        teacher_grad,
        "use semantic='cam' (class_maps and channel_gram), which compares classifiers of any width",
    )
    ours, theirs = working(student_grad, teacher_grad)
    r_ours, r_theirs = _row_scales(ours, eps), _row_scales(theirs, eps)
    lengths = (r_ours * r_ours).sum(1) * (ours * ours).sum(1) + (r_theirs * r_theirs).sum(1) * (theirs * theirs).sum(1)
    values = lengths - 2 * (r_ours * r_theirs).sum(1) * (ours * theirs).sum(1)
    # Rounding may leave a little less than nothing where the two are nearly equal.
    return reduce(values.clamp(min=0) / ours.shape[1], weight, reduction=reduction)


def _row_scales(rows: Tensor, eps: float) -> Tensor:
    """What each row of ``g gᵀ`` is a multiple of ``g`` by, once the row has length 1."""
    return rows / (rows.abs() * rows.norm(dim=1, keepdim=True)).clamp(min=eps)


def _same_samples(name: str, student: Tensor, teacher: Tensor) -> None:
    if len(student) != len(teacher) or min(student.ndim, teacher.ndim) < 2:
        raise DistilError(
            f"{name}: the student's maps are {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}, but both "
            "need the same samples in the first axis and something behind it; run both on one batch."
        )
