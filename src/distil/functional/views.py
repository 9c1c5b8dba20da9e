"""Comparisons of several views (crops) of each sample: which view is held against which, and by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, positive, shaped
from distil.functional.divergence import kl, soft_cross_entropy
from distil.functional.features import mse
from distil.functional.reduction import reduce, working

__all__ = ["VIEW_LOSSES", "VIEW_PAIRS", "entropy", "paired_views", "view_pairs"]

VIEW_LOSSES = ("ce", "kl", "mse", "entropy")
COMPARISONS: Mapping[str, Callable[..., Tensor]] = {"ce": soft_cross_entropy, "kl": kl, "mse": mse}
VIEW_PAIRS = ("all", "same", "opposite")


def entropy(logits: Tensor, *, temperature: float = 1.0, dim: int = -1) -> Tensor:
    """Return −Σ_c p_c log p_c of p = softmax(logits / T), in nats: 0 where sure, log C where uniform.

    Args:
        logits: any shape with the classes on ``dim``.
        temperature: above 0.
        dim: the axis of the classes, which the result has not.

    >>> entropy(torch.zeros(2, 4))
    tensor([1.3863, 1.3863])
    """
    positive("entropy", "temperature", temperature)
    log_p = (working(logits)[0] / temperature).log_softmax(dim)
    p = log_p.exp()
    return -(p * torch.where(p > 0, log_p, torch.zeros_like(log_p))).sum(dim)


def view_pairs(
    student_views: Sequence[int], teacher_views: Sequence[int], *, pairing: str = "opposite"
) -> list[tuple[int, int]]:
    """Return the places (student, teacher) of views that are compared.

    Args:
        student_views: which view of a sample each of the student's is.
        teacher_views: which view each of the teacher's is.
        pairing: "all", "same" (of one view) or "opposite" (of two views, as DINO compares crops).

    Raises:
        DistilError: if no pair is left.

    >>> view_pairs([0, 1, 2], [0, 1])
    [(0, 1), (1, 0), (2, 0), (2, 1)]
    """
    known("view_pairs", "pairing", pairing, VIEW_PAIRS)
    found = [
        (i, j)
        for i, ours in enumerate(student_views)
        for j, theirs in enumerate(teacher_views)
        if pairing == "all" or (ours == theirs) == (pairing == "same")
    ]
    if not found:
        raise DistilError(
            f"view_pairs: pairing={pairing!r} leaves no pair of the student's views {list(student_views)} and the "
            f"teacher's {list(teacher_views)}; 'all' takes every pair, 'opposite' needs two views."
        )
    return found


def paired_views(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    loss: str = "ce",
    pairing: str = "all",
    student_views: Sequence[int] | None = None,
    teacher_views: Sequence[int] | None = None,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    centre: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compare a student's views with a teacher's: for each sample the mean over the pairs of views.

    With p = softmax((t − centre) / T_t) and q = softmax(s / T_s): "ce" is −Σ_c p_c log q_c; "kl" is Σ_c p_c log(p_c /
    q_c); "mse" is the mean over c of the squared difference of the two scaled logits; "entropy" is −Σ_c q_c log q_c, in
    which the teacher has no part: the mean over all of the student's views, whatever the pairs. No factor T² anywhere.
    "ce" − "kl" is the teacher's entropy.

    Args:
        student_logits: (S, B, C), one entry of the first axis for each view.
        teacher_logits: (T, B, C); the caller detaches it.
        loss: one of `VIEW_LOSSES`.
        pairing: see `view_pairs`.
        student_views, teacher_views: which view each entry is, by default 0, 1, 2, … on both sides.
        student_temperature, teacher_temperature: above 0; a lower one for the teacher sharpens it.
        centre: (C,), taken from the teacher's logits.
        weight: (B,).
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if shapes do not fit, an option is unknown, or no pair is left.

    >>> paired_views(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]), loss="kl")
    tensor(0.4621)

    Paper: Sarnthein, Bachmann, Anagnostidis, Hofmann, *Random Teachers are Good Teachers*, ICML 2023, arXiv 2302.12091;
    with centre, temperatures and "opposite" pairs it is DINO's (arXiv 2104.14294).
    """
    known("paired_views", "loss", loss, VIEW_LOSSES)
    fix = "stack the views on the first axis, logits[None] for a single one"
    shaped("paired_views", "the student's logits", student_logits, ("S", "B", "C"), fix)
    shaped("paired_views", "the teacher's logits", teacher_logits, ("T", *student_logits.shape[1:]), fix)
    for what, value in (("student_temperature", student_temperature), ("teacher_temperature", teacher_temperature)):
        positive("paired_views", what, value)
    student, teacher = working(student_logits, teacher_logits)
    if centre is not None:
        shaped("paired_views", "the centre", centre, (student.shape[-1],), "give one number for each output")
        teacher = teacher - centre.to(teacher)
    student, teacher = student / student_temperature, teacher / teacher_temperature
    pairs = view_pairs(
        range(len(student)) if student_views is None else student_views,
        range(len(teacher)) if teacher_views is None else teacher_views,
        pairing=pairing,
    )
    if loss == "entropy":
        values = [entropy(view) for view in student]
    else:
        compare = COMPARISONS[loss]
        values = [compare(student[i], teacher[j], reduction="none") for i, j in pairs]
    return reduce(values[0] if len(values) == 1 else torch.stack(values).mean(0), weight, reduction=reduction)
