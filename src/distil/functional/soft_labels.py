"""Soft labels as probabilities: of one teacher or the mean of several, whole or recovered from what was stored of them.

A stored label that knows a few classes says nothing of the others; how the rest is filled in is the `kind`:

- "full": every class is known;
- "hard": the most likely class, with certainty;
- "smoothing": the most likely class as it is, the rest of the mass evenly over all others;
- "marginal": the known classes as they are, the rest of the mass evenly over the unknown ones;
- "renormalised": the known classes scaled to a sum of 1, nothing for the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, same_shape
from distil.functional.divergence import SAME_CLASSES
from distil.functional.reduction import reduce, working
from distil.functional.targets import SparseTargets

__all__ = ["as_soft_labels", "draw_teacher", "mean_labels", "mean_logits", "recover_labels", "soft_label_cross_entropy"]

KINDS = ("full", "hard", "smoothing", "marginal", "renormalised")
MEANS = ("mean-prob", "mean-logit")


def recover_labels(ids: Tensor, probs: Tensor, *, classes: int, kind: str = "marginal") -> Tensor:
    """Return the probabilities of all classes [..., C] from those of a few.

    With v the known probabilities of the classes K, k = |K|: the most likely class of K gets 1 ("hard"), or its v with
    (1 − v) / (C − 1) for each other ("smoothing"); the classes of K get v and each other (1 − Σv) / (C − k)
    ("marginal"), or v / Σv and 0 ("renormalised", and both where k = C). "full" needs k = C.

    Args:
        ids: int64 [..., k], distinct within a row, in any order.
        probs: [..., k], their probabilities; a sum above 1 by rounding leaves nothing for the others.
        classes: C ≥ k.
        kind: see above.

    Raises:
        DistilError: an unknown kind, shapes that do not fit, more classes known than there are.

    >>> ids, probs = torch.tensor([[3, 0]]), torch.tensor([[0.6, 0.2]])
    >>> recover_labels(ids, probs, classes=4)
    tensor([[0.2000, 0.1000, 0.1000, 0.6000]])
    >>> recover_labels(ids, probs, classes=4, kind="renormalised")
    tensor([[0.2500, 0.0000, 0.0000, 0.7500]])

    Paper: Shen, Xing, *A Fast Knowledge Distillation Framework for Visual Recognition*, ECCV 2022, arXiv 2112.01528.
    Differs from official code: its names are ``ori`` ("full"), ``marginal_smoothing_k5`` and ``_k10`` ("marginal" of 5
    or 10 classes) and ``marginal_renorm``; there k = C divides by 0.
    """
    known("recover_labels", "kind", kind, KINDS)
    k = ids.shape[-1]
    if ids.shape != probs.shape or ids.dtype != torch.int64 or not 0 < k <= classes:
        raise DistilError(
            f"recover_labels: ids are {tuple(ids.shape)} ({ids.dtype}) and probabilities {tuple(probs.shape)}, of "
            f"{classes} classes; expected int64 [..., k] and [..., k] with k from 1 to {classes}."
        )
    if kind == "full" and k < classes:
        raise DistilError(
            f"recover_labels: kind='full' needs all {classes} classes and {k} are known; choose how to fill in the "
            f"rest: {', '.join(KINDS[1:])}."
        )
    (probs,) = working(probs.detach())
    if kind in ("hard", "smoothing"):
        probs, place = probs.max(-1, keepdim=True)
        ids = ids.gather(-1, place)
    if kind == "hard" or classes == 1:
        return _spread(ids, torch.ones_like(probs), torch.zeros_like(probs), classes)
    mass = probs.sum(-1, keepdim=True)
    if kind == "renormalised" or ids.shape[-1] == classes:
        return _spread(ids, probs / mass, torch.zeros_like(mass), classes)
    return _spread(ids, probs, (1 - mass).clamp(min=0) / (classes - ids.shape[-1]), classes)


def _spread(ids: Tensor, kept: Tensor, others: Tensor, classes: int) -> Tensor:
    return others[..., :1].expand(*ids.shape[:-1], classes).scatter(-1, ids, kept)


def as_soft_labels(teacher: Tensor | SparseTargets, *, kind: str = "full", top: int | None = None) -> Tensor:
    """Return one teacher's probabilities [..., C] as a store of its ``top`` classes would give them back.

    Args:
        teacher: logits [..., C], or what a cache knows of a few classes.
        kind: how the rest is filled in, as in `recover_labels`.
        top: how many of the most likely classes count as known; all that are, by default.

    Raises:
        DistilError: a ``top`` that is not known, targets made at a temperature other than 1 or drawn at random.

    >>> as_soft_labels(torch.tensor([[0.0, 0.0]]))
    tensor([[0.5000, 0.5000]])
    >>> as_soft_labels(torch.tensor([[2.0, 1.0, 0.0, 0.0]]), kind="renormalised", top=2)
    tensor([[0.7311, 0.2689, 0.0000, 0.0000]])
    """
    if isinstance(teacher, SparseTargets):
        if teacher.entropy is not None or teacher.temperature != 1:
            raise DistilError(
                f"soft labels cannot be recovered from {teacher.codec} targets, which were drawn at random or made at "
                "another temperature; write the cache with a top-k codec at temperature 1, e.g. --codec topk5."
            )
        ids, probs, classes = teacher.ids, teacher.values.exp(), teacher.classes
    else:
        probs = working(teacher.detach())[0].softmax(-1)
        classes = probs.shape[-1]
        if kind == "full" and top is None:
            return probs
        ids = torch.arange(classes, device=probs.device).expand(probs.shape)
    if top is not None:
        if not 0 < top <= ids.shape[-1]:
            raise DistilError(
                f"as_soft_labels: top={top} classes are wanted and {ids.shape[-1]} of {classes} are known; give 1 to "
                f"{ids.shape[-1]}, or store more."
            )
        probs, place = probs.topk(top, -1)
        ids = ids.gather(-1, place)
    return recover_labels(ids, probs, classes=classes, kind=kind)


def draw_teacher(count: int, *, shares: Sequence[float] | None = None, generator: torch.Generator | None = None) -> int:
    """Draw one of ``count`` teachers, evenly or by their ``shares`` (which sum to 1), with a CPU generator.

    >>> draw_teacher(3, shares=(0.0, 1.0, 0.0))
    1
    """
    weights = [1 / count] * count if shares is None and count else list(shares or ())
    if len(weights) != count or not count or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise DistilError(
            f"draw_teacher: shares={shares} of {count} teachers; give one share for each, none below 0, that sum to 1."
        )
    return int(torch.multinomial(torch.tensor(weights, dtype=torch.float64), 1, generator=generator))


def mean_logits(teacher_logits: Sequence[Tensor]) -> Tensor:
    """Return the mean of several teachers' logits, each [..., C]; half precision is raised to float32.

    >>> mean_logits([torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]])])
    tensor([[2., 1.]])
    """
    _alike("mean_logits", [tuple(each.shape) for each in teacher_logits])
    return torch.stack(working(*teacher_logits)).mean(0)


def mean_labels(
    teachers: Sequence[Tensor | SparseTargets], *, how: str = "mean-prob", kind: str = "full", top: int | None = None
) -> Tensor:
    """Return the soft label [..., C] that several teachers give together.

    "mean-prob" is (1/K) Σ_k softmax(z_k), of each teacher's recovered label where ``kind`` is not "full"; "mean-logit"
    is softmax((1/K) Σ_k z_k), a sharper label where the teachers agree and another one where they do not.

    Args:
        teachers: of each its logits [..., C], or what a cache knows of a few classes ("mean-prob" only).
        how: "mean-prob" or "mean-logit".
        kind, top: as in `as_soft_labels`.

    Raises:
        DistilError: no teacher, different shapes, an unknown option, the mean of logits that are not all known.

    >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> mean_labels([sure, unsure])
    tensor([[0.7499, 0.2501]])
    >>> mean_labels([sure, unsure], how="mean-logit")
    tensor([[0.9890, 0.0110]])

    Paper: Shen, Savvides, *MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks*,
    2020, arXiv 2009.08453, which averages probabilities.
    """
    known("mean_labels", "how", how, MEANS)
    _alike("mean_labels", [tuple(each.shape) for each in teachers])
    if how == "mean-logit":
        full = [each for each in teachers if isinstance(each, Tensor)]
        if len(full) < len(teachers):
            raise DistilError(
                "mean_labels: the mean of logits needs all of them, and a cache knows a few classes; use "
                "how='mean-prob', or write the cache with --codec dense16."
            )
        return as_soft_labels(mean_logits(full), kind=kind, top=top)
    labels = [as_soft_labels(each, kind=kind, top=top) for each in teachers]
    return labels[0] if len(labels) == 1 else torch.stack(labels).mean(0)


def soft_label_cross_entropy(
    student_logits: Tensor, soft_labels: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return −Σ_c p_c log softmax(s)_c: at rest, at the entropy of p, where the student's probabilities are p.

    No gradient reaches the soft labels. A class of probability 0 adds 0 even where the student rules it out.

    Args:
        student_logits: [..., C].
        soft_labels: probabilities of the same shape.
        weight: broadcastable to the rows; "mean" divides by its sum.
        reduction: "mean", "sum" or "none" (one value per row).

    >>> soft_label_cross_entropy(torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    tensor(1.3863)

    Differs from official code (MEAL V2): soft labels that require a gradient are an error there.
    """
    same_shape("soft_label_cross_entropy", student_logits, soft_labels, SAME_CLASSES)
    student, p = working(student_logits, soft_labels.detach())
    log_q = student.log_softmax(-1)
    return reduce(-(p * torch.where(p > 0, log_q, torch.zeros_like(log_q))).sum(-1), weight, reduction=reduction)


def _alike(name: str, shapes: Sequence[tuple[int, ...]]) -> None:
    if not shapes or len(set(shapes)) > 1:
        said = " and ".join(map(str, dict.fromkeys(shapes))) or "nothing"
        raise DistilError(
            f"{name}: the teachers give {said}; give at least one teacher, all of the same classes in the same order."
        )
