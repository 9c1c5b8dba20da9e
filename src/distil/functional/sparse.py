"""Losses on a teacher that is known on a few classes only: its most likely ones, or a sample of them.

The student keeps all V classes; what is sparse is the target. Rows are the leading dimensions, and the ids of a row are
distinct for the top-k losses and may repeat for the sampled ones. No gradient is meant for the targets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, positive
from distil.functional.reduction import reduce, working

__all__ = ["sampled_cross_entropy", "sampled_kl", "topk_cross_entropy", "topk_kl", "topk_of"]

TAILS = ("rest", "uniform", "drop")
SCALES = ("T2", "none")


def topk_of(teacher_logits: Tensor, k: int, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the ids, sorted upwards, and the log-probabilities of the ``k`` most likely classes, both ``[..., k]``.

    Args:
        teacher_logits: ``[..., V]``.
        k: at most V.
        temperature: of the softmax over all V classes.

    >>> topk_of(torch.tensor([[0.0, 2.0, 1.0]]), 2)[0]
    tensor([[1, 2]])
    """
    positive("topk_of", "temperature", temperature)
    if not 0 < k <= teacher_logits.shape[-1]:
        raise DistilError(f"topk_of: k={k} of {teacher_logits.shape[-1]} classes; give 1 to all of them.")
    (teacher_logits,) = working(teacher_logits)
    log_p = (teacher_logits / temperature).log_softmax(-1)
    ids = log_p.topk(k, -1).indices.sort(-1).values
    return ids, log_p.gather(-1, ids)


def topk_kl(
    student_logits: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    *,
    temperature: float = 1.0,
    tail: str = "rest",
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
) -> Tensor:
    """Return the divergence of the student from a teacher known on ``k`` of V classes.

    With p the teacher on the known classes K, q = softmax(student / T) and t = 1 − Σ_K p, a row is T² times

    - "rest": Σ_K p log(p / q) + t log(t / (1 − Σ_K q)): all other classes are one, a lower bound of the full KL;
    - "uniform": the KL to the full teacher that gives every other class t / (V − k);
    - "drop": Σ_K p' log(p' / q) with p' = p / (1 − t): the tail is left out, which teaches too sharp a student.

    All three are the dense `kl` where k = V.

    Args:
        student_logits: ``[..., V]``.
        ids: int64 ``[..., k]``, distinct within a row.
        log_probs: ``[..., k]``, of the teacher's softmax over all classes **at the same temperature**.
        temperature: above 0; it divides the student's logits only, as the targets were made with it.
        tail: what the classes that are not known are taken for; see above.
        weight, reduction, scale: as in `kl`.

    Raises:
        DistilError: shapes that do not fit, an id outside the classes (on the CPU), an unknown option.

    >>> s, t = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    >>> topk_kl(s, *topk_of(t, 3))
    tensor(0.3642)
    >>> topk_kl(s, *topk_of(t, 1), tail="rest")
    tensor(0.3133)
    """
    log_q, log_p = _opened("topk_kl", student_logits, ids, log_probs, temperature, tail)
    kept, rest = _parts(log_q, ids, log_p, tail)
    log_p, log_t = _teacher(log_p, tail)
    values = _weighed(log_p, log_p - kept).sum(-1)
    if rest is not None:
        each = log_t - math.log(log_q.shape[-1] - ids.shape[-1]) if tail == "uniform" else log_t
        values = values + _weighed(log_t, each - rest)
    return reduce(_scaled("topk_kl", values, temperature, scale), weight, reduction=reduction)


def topk_cross_entropy(
    student_logits: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    *,
    temperature: float = 1.0,
    tail: str = "rest",
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
) -> Tensor:
    """Return the cross-entropy of the student under a teacher known on ``k`` of V classes.

    The gradient of `topk_kl`, without the teacher's entropy in the value. Arguments and errors are those of `topk_kl`.

    >>> topk_cross_entropy(torch.zeros(1, 4), torch.tensor([[2]]), torch.tensor([[0.0]]))
    tensor(1.3863)
    """
    log_q, log_p = _opened("topk_cross_entropy", student_logits, ids, log_probs, temperature, tail)
    kept, rest = _parts(log_q, ids, log_p, tail)
    log_p, log_t = _teacher(log_p, tail)
    values = _weighed(log_p, -kept).sum(-1)
    if rest is not None:
        values = values + _weighed(log_t, -rest)
    return reduce(_scaled("topk_cross_entropy", values, temperature, scale), weight, reduction=reduction)


def sampled_cross_entropy(
    student_logits: Tensor,
    ids: Tensor,
    weights: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
) -> Tensor:
    """Return the cross-entropy of the student under classes that were drawn from the teacher.

    −T² · Σ_i w_i log q(id_i) with q = softmax(student / T). Drawn from a proposal π with w_i = p / (n π), value and
    gradient have those of `soft_cross_entropy` as their expectation; drawn from the teacher itself, w_i = 1 / n.

    Args:
        student_logits: ``[..., V]``.
        ids: int64 ``[..., n]``; a class drawn twice stands there twice.
        weights: ``[..., n]``; they sum to 1 on average.
        temperature: above 0, that of the draws.
        weight, reduction, scale: as in `kl`.

    >>> sampled_cross_entropy(torch.zeros(1, 4), torch.tensor([[1, 1]]), torch.tensor([[0.5, 0.5]]))
    tensor(1.3863)

    Paper: Anshumann et al., *Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs*, ACL 2025, arXiv
    2503.16870; written from the idea, as its code was not at hand.
    """
    log_q, weights = _opened("sampled_cross_entropy", student_logits, ids, weights, temperature, "drop")
    picked = log_q.gather(-1, ids)
    values = torch.where(weights != 0, -picked * weights, 0.0).sum(-1)
    return reduce(_scaled("sampled_cross_entropy", values, temperature, scale), weight, reduction=reduction)


def sampled_kl(
    student_logits: Tensor,
    ids: Tensor,
    weights: Tensor,
    entropy: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
) -> Tensor:
    """Return an unbiased estimate of the divergence: `sampled_cross_entropy` less T² times the teacher's entropy.

    A single estimate can be negative. ``entropy`` is ``[...]``, at the same temperature; other arguments and errors are
    those of `sampled_cross_entropy`.

    >>> even = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]])
    >>> sampled_kl(torch.zeros(1, 2), *even, torch.tensor([2.0]).log()).item()
    0.0
    """
    log_q, weights = _opened("sampled_kl", student_logits, ids, weights, temperature, "drop")
    if entropy.shape != ids.shape[:-1]:
        raise DistilError(
            f"sampled_kl: entropy is {tuple(entropy.shape)} and the rows are {tuple(ids.shape[:-1])}; give one number "
            "per row."
        )
    picked = log_q.gather(-1, ids)
    values = torch.where(weights != 0, -picked * weights, 0.0).sum(-1) - entropy.to(log_q.dtype)
    return reduce(_scaled("sampled_kl", values, temperature, scale), weight, reduction=reduction)


def _opened(
    name: str, student: Tensor, ids: Tensor, known_values: Tensor, temperature: float, tail: str
) -> tuple[Tensor, Tensor]:
    """Return log q and the target's numbers in working precision, everything checked."""
    positive(name, "temperature", temperature)
    known(name, "tail", tail, TAILS)
    if ids.shape != known_values.shape or ids.shape[:-1] != student.shape[:-1] or ids.shape[-1] < 1:
        raise DistilError(
            f"{name}: the student's logits are {tuple(student.shape)}, the ids {tuple(ids.shape)} and their values "
            f"{tuple(known_values.shape)}; expected [..., V] and twice [..., k] with the same rows."
        )
    if ids.dtype != torch.int64:
        raise DistilError(f"{name}: the ids are {ids.dtype}; convert them with .long().")
    classes = student.shape[-1]
    if ids.device.type == "cpu" and ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= classes):
        raise DistilError(
            f"{name}: an id of {int(ids.min())} … {int(ids.max())} is outside the student's {classes} classes; student "
            "and teacher must share one vocabulary."
        )
    student, known_values = working(student, known_values)
    return (student / temperature).log_softmax(-1), known_values.to(student.dtype)


def _parts(log_q: Tensor, ids: Tensor, log_p: Tensor, tail: str) -> tuple[Tensor, Tensor | None]:
    """Return log q of the known classes, and what the tail's mass is compared with: log q of it all, or its mean."""
    kept = log_q.gather(-1, ids)
    others = log_q.shape[-1] - ids.shape[-1]
    if tail == "drop" or others == 0:
        return kept, None
    if tail == "rest":
        return kept, log_q.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return kept, (log_q.scatter(-1, ids, 0.0)).sum(-1) / others


def _teacher(log_p: Tensor, tail: str) -> tuple[Tensor, Tensor]:
    """Return the known log-probabilities as ``tail`` reads them, and the log of the tail's mass (−inf for none)."""
    total = log_p.logsumexp(-1, keepdim=True)
    if tail == "drop":
        return log_p - total, torch.full_like(total[..., 0], -torch.inf)
    mass = -torch.expm1(total[..., 0].clamp(max=0))
    return log_p, torch.where(mass > 0, torch.where(mass > 0, mass, 1.0).log(), -torch.inf)


def _weighed(log_p: Tensor, values: Tensor) -> Tensor:
    """Return p · values, where probability 0 adds 0 even if the value is infinite."""
    p = log_p.exp()
    return p * torch.where(p > 0, values, torch.zeros_like(values))


def _scaled(name: str, values: Tensor, temperature: float, scale: str) -> Tensor:
    known(name, "scale", scale, SCALES)
    return values * temperature**2 if scale == "T2" else values
