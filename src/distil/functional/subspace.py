"""Subspaces of an embedding: principal directions, what a linear layer does not see, rotations, and classes split along
them.

LELP's subclasses are built from these: for each class S directions, the coordinates of an embedding along them, and the
softmax over those coordinates that divides the class's probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import class_index, known, positive, shaped
from distil.functional.divergence import soft_cross_entropy
from distil.functional.reduction import working

__all__ = [
    "Subspaces",
    "class_subspaces",
    "fixed_signs",
    "linear_rows",
    "null_space",
    "principal_directions",
    "random_rotation",
    "subclass_coordinates",
    "subclass_cross_entropy",
    "subclass_log_probs",
]

DIRECTIONS = ("pca", "random")
_CONSTANT = 1e-6  # a coordinate that moves less than this share of the widest one does not move


def null_space(weight: Tensor) -> Tensor:
    """Return an orthonormal basis of the directions that a linear layer does not see.

    B with W B = 0 and Bᵀ B = I, so that P = B Bᵀ is the projector onto the null space of W. Dependent rows of W count
    once.

    Args:
        weight: (C, D), the layer's weight.

    Returns:
        (D, D − rank), in the weight's precision; signs and order of its columns mean nothing.

    >>> null_space(torch.tensor([[2.0, 0.0, 0.0], [4.0, 0.0, 0.0]])).abs().sum(1)
    tensor([0., 1., 1.])
    """
    shaped("null_space", "weight", weight, ("C", "D"), "give the weight of a linear layer")
    (weight,) = working(weight)
    _, values, rows = torch.linalg.svd(weight.double(), full_matrices=True)
    limit = max(weight.shape) * torch.finfo(weight.dtype).eps * values.amax() if len(values) else 0.0
    return rows[int((values > limit).sum()) :].T.to(weight.dtype)


def linear_rows(features: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight of the linear layer that made ``outputs`` of ``features``, and how much it leaves unsaid.

    Least squares with a bias; of the weights that fit, the smallest, which has no part outside the span of the features
    (singular values below 1e-4 of the largest are noise).

    Args:
        features: (N, D). outputs: (N, C).

    Returns:
        the weight (C, D), and the share of the outputs' variance that is not linear in the features, 0 … 1.

    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [0.0, 0.0]])
    >>> weight, unsaid = linear_rows(x, x @ torch.tensor([[1.0], [-2.0]]) + 5)
    >>> weight.round(decimals=3), float(unsaid) < 1e-6
    (tensor([[ 1., -2.]]), True)
    """
    shaped("linear_rows", "features", features, ("N", "D"), "give one row per sample")
    shaped("linear_rows", "outputs", outputs, (len(features), "C"), "give the outputs of the same samples")
    features, outputs = working(features, outputs)
    x, y = (rows.double() - rows.double().mean(0) for rows in (features, outputs))
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    inverse = torch.where(values > 1e-4 * values.amax(), 1 / values.clamp(min=1e-300), 0.0)
    found = right.T @ (inverse[:, None] * (left.T @ y))
    total = y.square().sum()
    unsaid = (y - x @ found).square().sum() / total.clamp(min=torch.finfo(torch.float64).tiny)
    return found.T.to(features.dtype), unsaid.to(features.dtype)


def principal_directions(features: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean, the first principal directions and the variances along them.

    Signs are fixed, the largest entry of each direction being positive, so that runs agree whatever made the
    decomposition. Else it is scikit-learn's PCA.

    Args:
        features: (N, D).
        count: how many directions are wanted; there are min(count, N, D).

    Returns:
        mean (D,), directions (D, k) with orthonormal columns, variances (k,), which divide by N − 1 (by 1 for N = 1).

    >>> x = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    >>> principal_directions(x, 1)[1:]
    (tensor([[1.],
            [0.]]), tensor([1.]))
    """
    shaped("principal_directions", "features", features, ("N", "D"), "give one row per sample")
    if not len(features) or count < 1:
        raise DistilError(
            f"principal_directions: {count} directions of {len(features)} samples are impossible; give at least one of "
            "both."
        )
    (features,) = working(features)
    rows = features.double()
    mean = rows.mean(0)
    centred, kept = rows - mean, min(count, *rows.shape)
    if rows.shape[0] > rows.shape[1]:  # D x D is smaller
        values, columns = torch.linalg.eigh(centred.T @ centred)
        values, columns = values.flip(0).clamp(min=0), columns.flip(1)
    else:
        _, lengths, across = torch.linalg.svd(centred, full_matrices=False)
        values, columns = lengths.square(), across.T
    columns = fixed_signs(columns[:, :kept])
    variances = values[:kept] / max(1, len(rows) - 1)
    return mean.to(features.dtype), columns.to(features.dtype), variances.to(features.dtype)


def fixed_signs(columns: Tensor) -> Tensor:
    """Return columns (D, k) with the largest entry of each positive."""
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    return columns * torch.where(largest < 0, -1.0, 1.0)


def random_rotation(
    size: int, columns: int | None = None, *, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Return orthonormal columns (size, columns) drawn without preference for any direction (Haar measure).

    With as many columns as rows it is a rotation, or one with a mirror.

    >>> q = random_rotation(3, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(q.T @ q, torch.eye(3), atol=1e-6)
    True
    """
    wide = size if columns is None else columns
    if not 1 <= wide <= size:
        raise DistilError(f"random_rotation: {wide} orthonormal columns of length {size} are impossible.")
    q, r = torch.linalg.qr(torch.randn(size, wide, generator=generator, dtype=torch.float64))
    # Without this the decomposition's own choice of signs would prefer some directions.
    return (q * torch.where(r.diagonal() < 0, -1.0, 1.0)).to(dtype or torch.get_default_dtype())


@dataclass(frozen=True)
class Subspaces:
    """S directions of every class.

    Attributes:
        means: (C, D), of the class's embeddings.
        directions: (C, D, S), orthonormal in each class.
        scale: (C, S), what a coordinate is multiplied by; 0 where it does not move over the class.
        present: (C, S), False where a class has fewer samples than S and so no such subclass.
    """

    means: Tensor
    directions: Tensor
    scale: Tensor
    present: Tensor


def class_subspaces(
    features: Tensor,
    labels: Tensor,
    classes: int,
    subclasses: int,
    *,
    unseen: Tensor | None = None,
    rotate: bool = True,
    standardize: bool = True,
    directions: str = "pca",
    generator: torch.Generator | None = None,
) -> Subspaces:
    """Return S directions for every class, fitted on embeddings of its own samples.

    With B the basis of the directions that may be used (all, where ``unseen`` is None) and U the principal directions
    of the class's Bᵀ h, the directions are V = B U Q: orthonormal, and within B. Q is a random rotation, one for each
    class, so that every direction has the same variance in expectation.

    Args:
        features: (N, D), of the training split alone.
        labels: (N,); −100 is left out.
        classes, subclasses: C and S.
        unseen: (D, K), as :func:`null_space` gives it.
        rotate: draw Q; else principal directions in the order of their variance.
        standardize: scale each coordinate by its standard deviation over the class (over N, not N − 1).
        directions: "pca", or "random" orthonormal directions instead.
        generator: draws Q.

    A class of fewer samples than S has as many subclasses as samples; the others are not present.

    Raises:
        DistilError: a class without samples, an embedding too narrow for S directions, a label outside the classes.

    >>> x = torch.tensor([[0.0, 1.0], [4.0, 1.0], [1.0, 5.0], [1.0, 9.0]])
    >>> made = class_subspaces(x, torch.tensor([0, 0, 1, 1]), 2, 1, rotate=False)
    >>> made.directions[:, :, 0], made.scale[:, 0]
    (tensor([[1., 0.],
            [0., 1.]]), tensor([0.5000, 0.5000]))
    """
    name = "class_subspaces"
    known(name, "directions", directions, DIRECTIONS)
    shaped(name, "features", features, ("N", "D"), "give one row per sample")
    (features,) = working(features)
    index, counted = class_index(name, labels, features.shape[:1], classes)
    rows, width = features.double(), features.shape[1]
    basis = torch.eye(width, dtype=rows.dtype) if unseen is None else unseen.double().to(rows.device)
    if subclasses < 1 or basis.shape[1] < subclasses:
        held = "" if unseen is None else f", of which {basis.shape[1]} are left once the classifier's are taken out"
        fix = "" if unseen is None else ", or null_space=False"
        raise DistilError(
            f"{name}: {subclasses} subclasses need as many dimensions, and the embedding has {width}{held}; give fewer "
            f"subclasses{fix}."
        )
    missing = [str(c) for c in range(classes) if not bool((counted & (index == c)).any())]
    if missing:
        raise DistilError(
            f"{name}: no sample of class {', '.join(missing[:8])} was seen, so it cannot be split; train on data that "
            "hold every class, or drop the class."
        )
    means, ways = rows.new_zeros(classes, width), rows.new_zeros(classes, width, subclasses)
    scale, present = rows.new_zeros(classes, subclasses), torch.zeros(classes, subclasses, dtype=torch.bool)
    for c in range(classes):
        mine = rows[counted & (index == c)]
        means[c] = mine.mean(0)
        way = _ways(mine, basis, subclasses, directions=directions, rotate=rotate, generator=generator)
        kept = way.shape[1]
        coordinates = (mine - means[c]) @ way
        spread = coordinates.square().mean(0).sqrt()
        moves = spread > _CONSTANT * (mine - means[c]).square().sum(1).mean().sqrt()
        ways[c, :, :kept], present[c, :kept] = way, True
        scale[c, :kept] = torch.where(moves, 1 / spread.clamp(min=1e-300) if standardize else 1.0, 0.0)
    kind = features.dtype
    return Subspaces(means.to(kind), ways.to(kind), scale.to(kind), present.to(features.device))


def _ways(
    rows: Tensor, basis: Tensor, most: int, *, directions: str, rotate: bool, generator: torch.Generator | None
) -> Tensor:
    """Return orthonormal directions (D, k) within ``basis`` for one class, k = ``most`` where it has the samples."""
    kept = min(most, len(rows))
    if directions == "random":
        return basis @ random_rotation(basis.shape[1], kept, generator=generator, dtype=rows.dtype).to(rows.device)
    # Signs are fixed in the full space: within the basis they would depend on its own columns.
    found = fixed_signs(basis @ principal_directions(rows @ basis, kept)[1].to(rows.dtype))
    return found @ random_rotation(kept, generator=generator, dtype=rows.dtype).to(rows.device) if rotate else found


def subclass_coordinates(features: Tensor, means: Tensor, directions: Tensor, scale: Tensor) -> Tensor:
    """Return the coordinates of every embedding along the directions of every class.

    z_cs = scale_cs · v_csᵀ (h − μ_c), in float32 or wider whatever autocast says.

    Args:
        features: (B, D). means: (C, D). directions: (C, D, S). scale: (C, S).

    Returns:
        (B, C, S).

    >>> one = torch.ones(1, 1)
    >>> subclass_coordinates(torch.tensor([[3.0]]), one, one[None], 2 * one)
    tensor([[[4.]]])
    """
    name = "subclass_coordinates"
    shaped(name, "features", features, ("B", means.shape[-1]), "take the embedding that the directions were fitted on")
    shaped(name, "directions", directions, (*means.shape, "S"), "give S directions for each class")
    features, means, directions, scale = working(features, means, directions, scale)
    with torch.autocast(features.device.type, enabled=False):
        centred = features[:, None] - means
        return (centred[:, :, None] @ directions).squeeze(2) * scale


def subclass_log_probs(
    teacher_logits: Tensor,
    split: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    present: Tensor | None = None,
) -> Tensor:
    """Return log p_cs = log p_c + log softmax_s(z_cs / β), p the teacher's softmax at a temperature.

    Σ_s p_cs = p_c exactly. β → ∞ splits evenly, β → 0 gives all to the largest coordinate.

    Args:
        teacher_logits: (B, C).
        split: z (B, C, S), of :func:`subclass_coordinates` or ``hard_split``; −inf takes a subclass out.
        temperature: of the class probabilities, above 0.
        beta: above 0, ``inf`` allowed.
        present: (C, S), False where a class has no such subclass.

    >>> split = torch.tensor([[[0.0, 0.0], [9.0, 0.0]]])
    >>> subclass_log_probs(torch.zeros(1, 2), split, beta=0.5).exp()
    tensor([[[2.5000e-01, 2.5000e-01],
             [5.0000e-01, 7.6150e-09]]])

    Paper: *Linear Projections of Teacher Embeddings for Few-Class Distillation*, 2024, arXiv 2409.20449. No code was
    published; β on standardised coordinates is this project's reading.
    """
    name = "subclass_log_probs"
    positive(name, "temperature", temperature)
    positive(name, "beta", beta)
    shaped(name, "split", split, (*teacher_logits.shape, "S"), "give S coordinates for each class scored")
    logits, split = working(teacher_logits, split)
    if present is not None:
        split = split.masked_fill(~present, -torch.inf)
    # −inf over an infinite β is no number.
    divided = torch.where(split == -torch.inf, split, split / beta)
    return (logits / temperature).log_softmax(-1)[..., None] + divided.log_softmax(-1)


def subclass_cross_entropy(
    student_logits: Tensor,
    teacher_log_probs: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return −Σ_cs p_cs log q_cs with q the student's softmax over all C · S outputs.

    Equal to the divergence but for a constant; no factor T².

    Args:
        student_logits: (B, C · S) or (B, C, S), class by class.
        teacher_log_probs: (B, C, S), of :func:`subclass_log_probs`.
        temperature: of the student, above 0.
        weight: (B,); "mean" divides by its sum.
        reduction: "mean", "sum" or "none" (one value per row).

    >>> p = torch.tensor([[[0.5, 0.5], [0.0, 0.0]]])
    >>> subclass_cross_entropy(torch.zeros(1, 4), p.log())
    tensor(1.3863)
    """
    name = "subclass_cross_entropy"
    positive(name, "temperature", temperature)
    shaped(name, "teacher_log_probs", teacher_log_probs, ("B", "C", "S"), "give log-probabilities of subclasses")
    known_rows = teacher_log_probs.flatten(1)
    if student_logits.numel() != known_rows.numel() or len(student_logits) != len(known_rows):
        raise DistilError(
            f"{name}: the student gives {tuple(student_logits.shape)} and the targets are "
            f"{tuple(teacher_log_probs.shape)}; a student of classes times subclasses outputs is expected: "
            "models.with_subclasses(model, S)."
        )
    student, teacher = working(student_logits, known_rows)
    return soft_cross_entropy(
        student.flatten(1) / temperature, teacher, weight=weight, reduction=reduction, scale="none"
    )
