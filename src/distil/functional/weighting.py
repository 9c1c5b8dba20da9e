"""How much a teacher is trusted: for each sample by its certainty, and for each of several teachers.

Weights come from teachers alone (and labels), so no gradient reaches them. A teacher that failed on a sample (a logit
that is not finite) weighs nothing there and the others share its part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import class_index, known, positive, same_shape, shaped
from distil.functional.divergence import SAME_CLASSES
from distil.functional.reduction import reduce, working
from distil.functional.soft_labels import soft_label_cross_entropy

__all__ = [
    "CERTAINTIES",
    "TARGETS",
    "TEACHER_WEIGHTS",
    "answered",
    "certainty",
    "combined_labels",
    "gate_state",
    "mean_one",
    "mixture_nll",
    "several_teachers",
    "smoothed_labels",
    "stacked_answers",
    "teacher_weights",
]

CERTAINTIES = ("none", "entropy", "max-prob", "variance")
TEACHER_WEIGHTS = ("uniform", "confidence", "entropy")
TARGETS = ("probabilities", "logits", "losses")


def _stacked(name: str, teacher_logits: Tensor | Sequence[Tensor]) -> Tensor:
    """Teachers as one tensor (K, N, C) without gradient, in working precision."""
    if not isinstance(teacher_logits, Tensor):
        shapes = {tuple(each.shape) for each in teacher_logits}
        if len(shapes) != 1:
            said = " and ".join(map(str, sorted(shapes))) or "nothing"
            raise DistilError(
                f"{name}: the teachers give {said}; give at least one, all of the same classes in the same order."
            )
        teacher_logits = torch.stack(working(*teacher_logits))
    shaped(name, "teacher_logits", teacher_logits, ("K", "N", "C"), "stack the teachers on the first axis")
    return working(teacher_logits.detach())[0]


def answered(teacher_logits: Tensor | Sequence[Tensor]) -> Tensor:
    """Return which teacher answered which sample, (K, N) of bool: where all its scores are finite.

    >>> answered(torch.tensor([[[0.0, 1.0], [torch.nan, 1.0]]]))
    tensor([[ True, False]])
    """
    return _stacked("answered", teacher_logits).isfinite().all(2)


def stacked_answers(answers: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Return teachers' logits on one axis, (K, N, C), not a number for one that gave none.

    Args:
        answers: of each teacher (N, C), or None where its call failed.
        like: (N, C), whose shape and precision the others' places have.

    >>> stacked_answers([None, torch.ones(1, 2)], torch.zeros(1, 2))
    tensor([[[nan, nan]],
    <BLANKLINE>
            [[1., 1.]]])
    """
    (shape,) = working(like.detach())
    empty = torch.full_like(shape, torch.nan)
    return _stacked("stacked_answers", [empty if each is None else each.to(shape) for each in answers])


def mean_one(weights: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return weights divided by their mean over the counted samples, without gradient; all 1 where all are 0.

    Args:
        weights: (N,), at least 0.
        counted: (N,) of bool, by default all; the others get 0.

    >>> mean_one(torch.tensor([1.0, 3.0, 8.0]), torch.tensor([True, True, False]))
    tensor([0.5000, 1.5000, 0.0000])
    """
    (w,) = working(weights.detach())
    keep = torch.ones_like(w, dtype=torch.bool) if counted is None else counted
    w = torch.where(keep, w, torch.zeros_like(w))
    total = w.sum()
    scaled = w * (keep.sum() / total.clamp(min=torch.finfo(w.dtype).tiny))
    return torch.where(total > 0, scaled, keep.to(w.dtype))


def certainty(
    teacher_logits: Tensor | Sequence[Tensor], *, kind: str = "entropy", weights: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    """Return how sure the teachers are of each sample, (N,) from 0 to 1, without gradient.

    With p = Σ_k w_k p_k their label: "entropy" is 1 − H(p) / log C, "max-prob" is max_c p_c, "variance" is
    1 − Σ_k w_k ‖p_k − p‖² / (1 − 1/K), so 1 where K teachers agree and 0 where each is sure of a class of its own;
    "none" is 1. One class, or one teacher under "variance", leaves nothing to be unsure of: 1.

    Args:
        teacher_logits: (K, N, C), or one tensor (N, C) for each teacher.
        kind: one of `CERTAINTIES`.
        weights: (K, N), summing to 1 over the teachers that answered; by default even, see :func:`teacher_weights`.
        temperature: above 0.

    >>> certainty(torch.tensor([[[0.0, 0.0], [99.0, 0.0]]]))
    tensor([0., 1.])
    >>> certainty(torch.tensor([[[99.0, 0.0]], [[0.0, 99.0]]]), kind="variance")
    tensor([0.])

    A teacher that failed on a sample has no say; where all failed the certainty is 0. The forms of "entropy" and
    "max-prob" are common ones; that of "variance" is this project's reading of weighing by an ensemble's variance.
    """
    known("certainty", "kind", kind, CERTAINTIES)
    positive("certainty", "temperature", temperature)
    t = _stacked("certainty", teacher_logits)
    w = teacher_weights(t) if weights is None else weights.detach().to(t.dtype)
    shaped("certainty", "weights", w, tuple(t.shape[:2]), "give one weight for each teacher and sample")
    each = (torch.where(w[..., None] > 0, t, torch.zeros_like(t)) / temperature).softmax(2)
    p = (w[..., None] * each).sum(0)
    if kind == "none":
        sure = torch.ones_like(p[:, 0])
    elif kind == "max-prob":
        sure = p.amax(1)
    elif kind == "entropy":
        sure = 1 - torch.special.entr(p).sum(1) / math.log(max(p.shape[1], 2))  # of one class it is 0
    else:
        sure = 1 - (w * (each - p).square().sum(2)).sum(0) / (1 - 1 / max(len(t), 2))
    return torch.where(w.sum(0) > 0, sure.clamp(0, 1), torch.zeros_like(sure))


def smoothed_labels(labels: Tensor, smoothing: float) -> Tensor:
    """Return (1 − ε) p + ε / C: soft labels drawn towards the uniform prior.

    Args:
        labels: probabilities (..., C).
        smoothing: ε from 0 to 1.

    >>> smoothed_labels(torch.tensor([1.0, 0.0]), 0.2)
    tensor([0.9000, 0.1000])
    """
    if not 0 <= smoothing <= 1:
        raise DistilError(f"smoothed_labels: smoothing={smoothing} must lie in 0 … 1.")
    (p,) = working(labels)
    return (1 - smoothing) * p + smoothing / p.shape[-1]


def teacher_weights(
    teacher_logits: Tensor | Sequence[Tensor],
    *,
    kind: str = "uniform",
    labels: Tensor | None = None,
    prior: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Return how much each teacher counts for each sample, (K, N), summing to 1 over the teachers, without gradient.

    "uniform" is 1/K (or the prior); "confidence" is in proportion to exp(−CE(p_k, y)), the probability that teacher k
    gives the label; "entropy" is in proportion to exp(−H(p_k)), which needs no label.

    Args:
        teacher_logits: (K, N, C), or one tensor (N, C) for each teacher.
        kind: one of `TEACHER_WEIGHTS`.
        labels: (N,), of "confidence"; a sample labelled −100 is weighed by the prior alone.
        prior: (K,) or (K, N) of at least 0, by which the weights are multiplied: fixed shares, or a gate's.

    Returns:
        (K, N). A teacher that failed on a sample has 0 and the others share; where all failed all have 0.

    >>> teacher_weights(torch.tensor([[[0.0, 9.0]], [[0.0, 0.0]]]), kind="confidence", labels=torch.tensor([1])).T
    tensor([[0.6666, 0.3334]])
    """
    known("teacher_weights", "kind", kind, TEACHER_WEIGHTS)
    t = _stacked("teacher_weights", teacher_logits)
    got = t.isfinite().all(2)
    log_p = torch.where(got[..., None], t, torch.zeros_like(t)).log_softmax(2)
    if kind == "uniform":
        score = torch.zeros_like(log_p[..., 0])
    elif kind == "entropy":
        score = (log_p.exp() * log_p).sum(2)
    else:
        if labels is None:
            raise DistilError("teacher_weights: kind='confidence' weighs by the label's probability; give labels.")
        index, counted = class_index("teacher_weights", labels, t.shape[1:2], t.shape[2])
        own = log_p.gather(2, index.expand(len(t), -1)[..., None])[..., 0]
        score = torch.where(counted, own, torch.zeros_like(own))
    score = score + _log_prior(prior, t)
    score = score.masked_fill(~got, -torch.inf)
    # Where the prior forgets all teachers that got, they count evenly.
    lost = (score == -torch.inf).all(0) & got.any(0)
    score = torch.where(lost & got, torch.zeros_like(score), score)
    none = ~got.any(0)
    return torch.where(none, torch.zeros_like(score), score.masked_fill(none, 0.0).softmax(0))


def _log_prior(prior: Sequence[float] | Tensor | None, t: Tensor) -> Tensor | float:
    if prior is None:
        return 0.0
    w = torch.as_tensor(prior, dtype=t.dtype, device=t.device).detach()
    w = w[:, None] if w.ndim == 1 else w
    if w.shape not in ((len(t), 1), tuple(t.shape[:2])) or bool((w < 0).any()) or not bool((w.sum(0) > 0).all()):
        raise DistilError(
            f"teacher_weights: the prior {tuple(w.shape)} is for {len(t)} teachers; give one number of at least 0 for "
            "each, not all 0."
        )
    return w.log()


def combined_labels(
    teacher_logits: Tensor | Sequence[Tensor], weights: Tensor, *, target: str = "probabilities",
    temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    """Return one soft label (N, C) of several teachers: Σ_k w_k softmax(t_k / T), or softmax(Σ_k w_k t_k / T).

    Args:
        teacher_logits: (K, N, C), or one tensor (N, C) for each teacher.
        weights: (K, N), summing to 1 over the teachers; a teacher of weight 0 is not read. Where all are 0 the label
            is uniform.
        target: "probabilities" or "logits".
        temperature: above 0.

    >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> combined_labels([sure, unsure], torch.tensor([[0.75], [0.25]]))
    tensor([[0.8749, 0.1251]])

    With even weights these are :func:`distil.functional.mean_labels`.
    """
    known("combined_labels", "target", target, TARGETS[:2])
    positive("combined_labels", "temperature", temperature)
    t = _stacked("combined_labels", teacher_logits)
    shaped("combined_labels", "weights", weights, tuple(t.shape[:2]), "give one weight for each teacher and sample")
    w = weights.detach().to(t.dtype)[..., None]
    t = torch.where(w > 0, t, torch.zeros_like(t)) / temperature
    if target == "logits":
        return (w * t).sum(0).softmax(-1)
    label = (w * t.softmax(-1)).sum(0)
    return torch.where(w.sum(0) > 0, label, torch.full_like(label, 1 / label.shape[-1]))


def several_teachers(
    student_logits: Tensor, teacher_logits: Tensor | Sequence[Tensor], teacher_weight: Tensor, *,
    target: str = "probabilities", temperature: float = 1.0, smoothing: float = 0.0, weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Return the divergence of a student from several teachers, T² · KL(label ‖ softmax(s / T)).

    "probabilities" and "logits": the label is that of :func:`combined_labels`. "losses": Σ_k w_k KL(p_k ‖ q), whose
    gradient is that of "probabilities" under the same weights; its value is larger by what the teachers disagree.

    Args:
        student_logits: (N, C).
        teacher_logits: (K, N, C), or one tensor (N, C) for each teacher; no gradient reaches them.
        teacher_weight: (K, N), e.g. :func:`teacher_weights`; a sample in which all are 0 costs 0.
        target: one of `TARGETS`.
        temperature: T above 0.
        smoothing: ε of :func:`smoothed_labels`, laid on each label.
        weight: (N,), e.g. :func:`mean_one` of a :func:`certainty`; "mean" divides by its sum.
        reduction: "mean", "sum" or "none" (one value per sample).

    >>> s, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0]]])
    >>> several_teachers(s, t, torch.ones(1, 1), temperature=2.0)
    tensor(0.4898)

    One teacher is plain KD, :func:`distil.functional.kl`.
    """
    known("several_teachers", "target", target, TARGETS)
    positive("several_teachers", "temperature", temperature)
    t = _stacked("several_teachers", teacher_logits)
    same_shape("several_teachers", student_logits, t[0], SAME_CLASSES)
    shaped("several_teachers", "teacher_weight", teacher_weight, tuple(t.shape[:2]), "give one weight for each teacher")
    (s,) = working(student_logits)
    w = teacher_weight.detach().to(t.dtype)
    if target == "losses":
        alone = (w[k : k + 1] > 0 for k in range(len(t)))
        labels = [combined_labels(t[k : k + 1], one, temperature=temperature) for k, one in enumerate(alone)]
        values = (w * torch.stack([_divergence(s, label, temperature, smoothing) for label in labels])).sum(0)
    else:
        label = combined_labels(t, w, target=target, temperature=temperature)
        values = _divergence(s, label, temperature, smoothing)
    return reduce(torch.where(w.sum(0) > 0, values, torch.zeros_like(values)), weight, reduction=reduction)


def _divergence(student: Tensor, label: Tensor, temperature: float, smoothing: float) -> Tensor:
    label = smoothed_labels(label, smoothing)
    crossed = soft_label_cross_entropy(student / temperature, label, reduction="none")
    return temperature**2 * (crossed - torch.special.entr(label).sum(-1))


def gate_state(teacher_logits: Tensor | Sequence[Tensor]) -> Tensor:
    """Return what a gate reads of several teachers, (N, K · C): their probabilities, uniform where one failed.

    >>> gate_state(torch.tensor([[[0.0, 0.0]], [[999.0, 0.0]]]))
    tensor([[0.5000, 0.5000, 1.0000, 0.0000]])
    """
    t = _stacked("gate_state", teacher_logits)
    got = t.isfinite().all(2, keepdim=True)
    return torch.where(got, t, torch.zeros_like(t)).softmax(2).transpose(0, 1).flatten(1)


def mixture_nll(
    teacher_logits: Tensor | Sequence[Tensor], gate_logits: Tensor, labels: Tensor, *, reduction: str = "mean"
) -> Tensor:
    """Return −log Σ_k g_k p_k(y) with g the softmax of a gate's scores: what a gate learns to make small.

    Gradient flows into the gate alone. Samples labelled −100, and those of which no teacher knows anything, weigh 0.

    Args:
        teacher_logits: (K, N, C), or one tensor (N, C) for each teacher.
        gate_logits: (N, K).
        labels: (N,).

    >>> t = torch.tensor([[[0.0, 99.0]], [[0.0, 0.0]]])
    >>> mixture_nll(t, torch.zeros(1, 2), torch.tensor([1]))
    tensor(0.2877)
    """
    t = _stacked("mixture_nll", teacher_logits)
    shaped(
        "mixture_nll", "gate_logits", gate_logits, (t.shape[1], len(t)), "give one score for each sample and teacher"
    )
    index, counted = class_index("mixture_nll", labels, t.shape[1:2], t.shape[2])
    got = t.isfinite().all(2)
    log_p = torch.where(got[..., None], t, torch.zeros_like(t)).log_softmax(2)
    own = log_p.gather(2, index.expand(len(t), -1)[..., None])[..., 0]
    (g,) = working(gate_logits)
    known_to_some = got.any(0)
    scores = g.mT.masked_fill(~got & known_to_some, -torch.inf).log_softmax(0)
    values = -(scores + own).logsumexp(0)
    return reduce(values, (counted & known_to_some).to(values.dtype), reduction=reduction)
