"""Labels of two numbers: of a mixed image, how unlikely a teacher finds each of its two labels.

A mixed image has the label y it started from and the label y' that was mixed in. Its two distances are
``d = −log p(y)`` and ``d' = −log p(y')``; they are all that is stored of the teacher, where a soft label needs a number
for every class. ``d ≥ 0``; an image mixed with its own class (or with nothing) has two equal distances.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import IGNORE, class_index, counted_weight, known, shaped
from distil.functional.collage import label_cross_entropy
from distil.functional.reduction import reduce, working

__all__ = [
    "DISTANCES",
    "SCE_TARGETS",
    "half_distances",
    "label_bytes",
    "label_distances",
    "mixed_cross_entropy",
    "rebuilt_labels",
    "two_distances",
]

DISTANCES = ("l1", "mse", "smooth-l1")
SCE_TARGETS = ("mix", "reconstructed")
LABEL_KINDS = ("two-numbers", "soft", "onehot")
MOST_HALF = 65504.0


def label_distances(logits: Tensor, labels: Tensor, partner_labels: Tensor) -> Tensor:
    """Return −log softmax(logits) at each of an image's two labels, [B, 2]; finite for saturated logits.

    Args:
        logits: [B, C].
        labels: [B], of what an image started from; an image without one (−100) has the distances 0.
        partner_labels: [B], of what was mixed in; −100 where nothing was, and then the first distance stands twice.

    Raises:
        DistilError: a label outside the classes.

    >>> label_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), torch.tensor([-100]))
    tensor([[0.6931, 0.6931]])

    Paper: NRR-DD, CVPR 2025, arXiv 2503.18267.
    """
    shaped("label_distances", "the logits", logits, ("B", "C"), "give the scores of whole images")
    first = label_cross_entropy(logits, labels)
    second = label_cross_entropy(logits, _partner(labels, partner_labels))
    return torch.stack([first, torch.where(labels == IGNORE, first, second)], 1)


def two_distances(
    student_logits: Tensor,
    distances: Tensor,
    labels: Tensor,
    partner_labels: Tensor,
    *,
    distance: str = "l1",
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return how far the student's two numbers are from the teacher's: ``|d_S − d_T| + |d'_S − d'_T|``.

    Zero, with gradient zero, where both agree on the two labels; the other classes are free. Adding a constant to the
    logits changes nothing.

    Args:
        student_logits: [B, C].
        distances: the teacher's, [B, 2] (:func:`label_distances`), perhaps stored in half precision.
        labels, partner_labels: as in :func:`label_distances`.
        distance: "l1", "mse" (the square) or "smooth-l1" (the square's half below 1).
        weight: [B].
        reduction: "none" gives [B].

    Raises:
        DistilError: shapes that do not fit, or an unknown distance.

    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0])
    >>> theirs = label_distances(logits, labels, torch.tensor([2]))
    >>> two_distances(logits + 5, theirs, labels, torch.tensor([2]))
    tensor(0.)

    Paper: NRR-DD, CVPR 2025, arXiv 2503.18267; which distance it takes is not said, "l1" is this project's reading.
    """
    known("two_distances", "distance", distance, DISTANCES)
    shaped("two_distances", "the teacher's distances", distances, (len(student_logits), 2), "store two for each image")
    ours = label_distances(student_logits, labels, partner_labels)
    gap = ours - distances.detach().to(ours)
    values = gap.abs() if distance == "l1" else gap.square()
    if distance == "smooth-l1":
        values = torch.where(gap.abs() < 1, values / 2, gap.abs() - 0.5)
    return reduce(values.sum(1), counted_weight(labels != IGNORE, weight), reduction=reduction)


def rebuilt_labels(distances: Tensor, labels: Tensor, partner_labels: Tensor, *, classes: int) -> Tensor:
    """Return the soft label that two distances leave: both labels as they are, the rest of the mass evenly over others.

    With y = y' one class is known. Where no other class is left, or rounding leaves more than 1, rows are scaled to 1.

    Args:
        distances: [B, 2].
        labels, partner_labels: as in :func:`label_distances`; an image without a label has no mass.
        classes: C.

    Returns:
        [B, C], rows that sum to 1, detached.

    >>> rebuilt_labels(torch.tensor([[0.6931, 1.3863]]), torch.tensor([1]), torch.tensor([2]), classes=4)
    tensor([[0.1250, 0.5000, 0.2500, 0.1250]])

    Differs from official code: there is none; this target is one of two readings of the paper's label loss.
    """
    shaped("rebuilt_labels", "the distances", distances, (len(labels), 2), "give two distances for each image")
    first, counted = class_index("rebuilt_labels", labels, labels.shape, classes)
    second, _ = class_index("rebuilt_labels", _partner(labels, partner_labels), labels.shape, classes)
    p = (-working(distances.detach())[0]).exp()
    found = torch.full((len(labels), classes), -1.0, dtype=p.dtype, device=p.device)
    found = found.scatter(1, second[:, None], p[:, 1:]).scatter(1, first[:, None], p[:, :1])
    others = found < 0
    rest = (1 - found.clamp(min=0).sum(1, keepdim=True)).clamp(min=0) / others.sum(1, keepdim=True).clamp(min=1)
    found = torch.where(others, rest, found)
    return found / found.sum(1, keepdim=True) * counted[:, None]


def mixed_cross_entropy(
    student_logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor,
    share: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy with an image's two labels: ``λ · −log p(y) + (1 − λ) · −log p(y')``.

    Args:
        student_logits: [B, C].
        labels, partner_labels: as in :func:`label_distances`.
        share: λ, [B] in [0, 1], the share of the pixels that are the image's own.
        weight: [B].
        reduction: "none" gives [B].

    >>> mixed_cross_entropy(torch.zeros(1, 4), torch.tensor([0]), torch.tensor([3]), torch.tensor([0.25]))
    tensor(1.3863)
    """
    shaped("mixed_cross_entropy", "the shares", share, (len(student_logits),), "give one share for each image")
    ours = label_distances(student_logits, labels, partner_labels)
    share = share.to(ours)
    values = share * ours[:, 0] + (1 - share) * ours[:, 1]
    return reduce(values, counted_weight(labels != IGNORE, weight), reduction=reduction)


def half_distances(distances: Tensor) -> Tensor:
    """Return distances as they are stored: half precision, those above its range at the end of it.

    >>> half_distances(torch.tensor([1e6, 0.5]))
    tensor([6.5504e+04, 5.0000e-01], dtype=torch.float16)
    """
    if bool(distances.isnan().any()):
        raise DistilError("half_distances: a distance is not a number; the teacher's logits are not finite.")
    return distances.detach().clamp(max=MOST_HALF).half()


def label_bytes(kind: str, *, images: int, epochs: int, classes: int) -> int:
    """Return the bytes that a teacher's labels take in half precision, one record for each image and epoch.

    "two-numbers" take 2 · 2, "soft" labels 2 · C; "onehot" ones follow from the classes and cost nothing.

    >>> label_bytes("soft", images=200_000, epochs=300, classes=1000) / 1e9
    120.0
    >>> label_bytes("two-numbers", images=200_000, epochs=300, classes=1000) / 1e9
    0.24
    """
    known("label_bytes", "kind", kind, LABEL_KINDS)
    if min(images, epochs, classes) < 1:
        raise DistilError(f"label_bytes: images={images}, epochs={epochs} and classes={classes} must be at least 1.")
    return {"two-numbers": 2, "soft": classes, "onehot": 0}[kind] * 2 * images * epochs


def _partner(labels: Tensor, partner_labels: Tensor) -> Tensor:
    """Return the labels that were mixed in; the first ones where nothing was."""
    shaped("label_distances", "the labels mixed in", partner_labels, labels.shape, "give one for each image")
    return torch.where(partner_labels == IGNORE, labels, partner_labels)
