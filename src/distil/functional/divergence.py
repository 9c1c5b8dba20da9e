"""Divergences between two categorical distributions given as logits, all in log-space.

One convention: summed over classes, averaged over the counted rows, times T² (``scale="T2"``). What other libraries
call "the KD loss" differs by more than five orders of magnitude on the same logits; `CONVENTIONS` names those readings
and `kd` computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import class_index, counted_weight, known, positive, same_shape
from distil.functional.reduction import reduce, working

__all__ = [
    "CONVENTIONS",
    "Convention",
    "dkd",
    "kd",
    "kl",
    "nckd",
    "reverse_kl",
    "soft_cross_entropy",
    "standardise",
    "tckd",
]

SCALES = ("T2", "none")
SAME_CLASSES = "give both models the same classes in the same order, or slice the logits to the shared ones"


def _log_probs(
    name: str, student: Tensor, teacher: Tensor, temperature: float | Tensor, dim: int = -1
) -> tuple[Tensor, Tensor]:
    """Return log-softmax(student / T) and log-softmax(teacher / T), checked and in working precision."""
    same_shape(name, student, teacher, SAME_CLASSES)
    positive(name, "temperature", temperature)
    student, teacher = working(student, teacher)
    return (student / temperature).log_softmax(dim), (teacher / temperature).log_softmax(dim)


def _expectation(log_p: Tensor, values: Tensor, dim: int) -> Tensor:
    """Return Σ p · values, where a class of probability 0 adds 0 even if its value is infinite."""
    p = log_p.exp()
    return (p * torch.where(p > 0, values, torch.zeros_like(values))).sum(dim)


def _scaled(name: str, values: Tensor, temperature: float | Tensor, scale: str) -> Tensor:
    known(name, "scale", scale, SCALES)
    return values * temperature**2 if scale == "T2" else values


def kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
    dim: int = -1,
) -> Tensor:
    """Return the divergence of the student from the teacher: classic knowledge distillation.

    T² · Σ_c p_c (log p_c − log q_c) with p = softmax(teacher / T), q = softmax(student / T), for each row; 0 with zero
    gradient where the logits agree up to a constant. A class that both sides set to −inf adds 0.

    Args:
        student_logits: any shape with the classes on ``dim``, e.g. (B, C), (B, L, V) or (B, C, H, W).
        teacher_logits: the same shape.
        temperature: above 0, usually 1 to 20; a 0-dimensional tensor may be learned.
        weight: broadcastable to the rows (the shape without ``dim``); "mean" divides by its sum.
        reduction: "mean", "sum" or "none" (one value per row).
        scale: "T2" keeps gradients comparable across temperatures; "none" leaves the factor out.
        dim: the axis that is normalised: classes, positions, or anything else.

    Raises:
        DistilError: if the shapes differ, the temperature is not above 0, or an option is unknown.

    >>> kl(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), temperature=2.0)
    tensor(0.4898)
    >>> kl(torch.zeros(3, 4), torch.zeros(3, 4), reduction="none")
    tensor([0., 0., 0.])

    Paper: Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015, arXiv 1503.02531.
    """
    log_q, log_p = _log_probs("kl", student_logits, teacher_logits, temperature, dim)
    values = _scaled("kl", _expectation(log_p, log_p - log_q, dim), temperature, scale)
    return reduce(values, weight, reduction=reduction)


def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
    dim: int = -1,
) -> Tensor:
    """Return KL(student ‖ teacher), which seeks a mode of the teacher instead of covering all of it.

    T² · Σ_c q_c (log q_c − log p_c). Arguments, shapes and errors are those of `kl`.

    >>> reverse_kl(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(0.4621)
    """
    log_q, log_p = _log_probs("reverse_kl", student_logits, teacher_logits, temperature, dim)
    values = _scaled("reverse_kl", _expectation(log_q, log_q - log_p, dim), temperature, scale)
    return reduce(values, weight, reduction=reduction)


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    scale: str = "T2",
    dim: int = -1,
) -> Tensor:
    """Return the cross-entropy of the student under the teacher's soft labels.

    −T² · Σ_c p_c log q_c: the gradient of `kl`, but the value at equality is T² times the teacher's entropy, not 0.
    Arguments, shapes and errors are those of `kl`.

    >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[3.0, -3.0]]))
    tensor(0.6931)
    """
    log_q, log_p = _log_probs("soft_cross_entropy", student_logits, teacher_logits, temperature, dim)
    values = _scaled("soft_cross_entropy", _expectation(log_p, -log_q, dim), temperature, scale)
    return reduce(values, weight, reduction=reduction)


def standardise(logits: Tensor, *, dim: int = -1, eps: float = 1e-7) -> Tensor:
    """Return (z − mean) / (eps + unbiased standard deviation) over the classes; 0 where there is one class only.

    Given to `kl` on both sides it frees the student from matching the teacher's shift and scale. The gradient flows
    through both moments. Of two classes the result is ±0.71 whatever the logits are, and its gradient 0.

    >>> standardise(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.0000,  0.0000,  1.0000]])

    Paper: Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024, arXiv 2403.01427.
    """
    (logits,) = working(logits)
    centred = logits - logits.mean(dim, keepdim=True)
    if logits.shape[dim] < 2:
        return centred
    # vector_norm has gradient 0 on a constant row, where std has none.
    spread = torch.linalg.vector_norm(centred, dim=dim, keepdim=True) / (logits.shape[dim] - 1) ** 0.5
    return centred / (eps + spread)


def tckd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the target-class part of `dkd`: T² · KL between the two-way distributions (p_y, 1 − p_y).

    1 − p_y is a log-sum-exp over the other classes, so it stays exact when the teacher is certain. Arguments and
    errors are those of `dkd`.

    >>> tckd(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor(0.9213)
    """
    log_q, log_p = _log_probs("tckd", student_logits, teacher_logits, temperature)
    index, counted = class_index("tckd", labels, log_q.shape[:-1], log_q.shape[-1])
    values = temperature**2 * _target_part(log_q, log_p, index)
    return reduce(values, counted_weight(counted, weight), reduction=reduction)


def nckd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the non-target part of `dkd`: T² · KL between the distributions over the classes other than the label.

    Exactly 0 with two classes, where there is nothing left to compare. Arguments and errors are those of `dkd`.

    >>> nckd(torch.tensor([[5.0, 0.0, 1.0]]), torch.tensor([[-2.0, 1.0, 0.0]]), torch.tensor([0]))
    tensor(0.4621)
    """
    log_q, log_p = _log_probs("nckd", student_logits, teacher_logits, temperature)
    index, counted = class_index("nckd", labels, log_q.shape[:-1], log_q.shape[-1])
    values = temperature**2 * _other_part(log_q, log_p, index)
    return reduce(values, counted_weight(counted, weight), reduction=reduction)


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return decoupled distillation: α · `tckd` + β · `nckd`.

    Plain KD ties the second part to 1 − p_y, so a confident teacher teaches nothing about the other classes; here β
    sets it free: kl = tckd + (1 − p_y) · nckd for each row.

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        labels: (...), class indices; a row labelled −100 weighs 0.
        alpha: weight of the target-class part.
        beta: weight of the other classes, 1 to 8 by pair (0.5 on ImageNet).
        temperature: above 0; 4 on CIFAR-100, 1 on ImageNet.
        weight: broadcastable to the rows; "mean" divides by its sum over the labelled rows.
        reduction: "mean", "sum" or "none" (one value per row).

    Raises:
        DistilError: if shapes or labels do not fit.

    >>> teacher, labels = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
    >>> dkd(torch.zeros(1, 3), teacher, labels, temperature=1.0)
    tensor(1.1166)

    Paper: Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022, arXiv 2203.08679. The official code hides the
    target class by subtracting 1000 from its logit and takes the logarithm of 1 − p_y, which underflows; here both
    are computed without it, and agree wherever the official figures are finite.
    """
    log_q, log_p = _log_probs("dkd", student_logits, teacher_logits, temperature)
    index, counted = class_index("dkd", labels, log_q.shape[:-1], log_q.shape[-1])
    values = temperature**2 * (alpha * _target_part(log_q, log_p, index) + beta * _other_part(log_q, log_p, index))
    return reduce(values, counted_weight(counted, weight), reduction=reduction)


def _target_part(log_q: Tensor, log_p: Tensor, index: Tensor) -> Tensor:
    log_q, log_p = _target_or_not(log_q, index), _target_or_not(log_p, index)
    return _expectation(log_p, log_p - log_q, -1)


def _other_part(log_q: Tensor, log_p: Tensor, index: Tensor) -> Tensor:
    log_q, log_p = (_without_target(log, index).log_softmax(-1) for log in (log_q, log_p))
    return _expectation(log_p, log_p - log_q, -1)


def _without_target(log_probs: Tensor, index: Tensor) -> Tensor:
    """Return the columns of the other classes, (..., C − 1), in their order."""
    columns = torch.arange(log_probs.shape[-1] - 1, device=log_probs.device)
    return log_probs.gather(-1, columns + (columns >= index.unsqueeze(-1)).long())


def _target_or_not(log_probs: Tensor, index: Tensor) -> Tensor:
    """Return (..., 2): the log-probability of the target class, and of anything else."""
    target = log_probs.gather(-1, index.unsqueeze(-1))
    if log_probs.shape[-1] == 1:
        return torch.cat([target, torch.full_like(target, -torch.inf)], -1)
    return torch.cat([target, _without_target(log_probs, index).logsumexp(-1, keepdim=True)], -1)


@dataclass(frozen=True)
class Convention:
    """What one library means by "the KD loss".

    Args:
        compares: "kl", "soft_cross_entropy", or "mse" (squared difference of the two softmaxes).
        scale: "T2" or "none".
        elements: averaged over rows and classes, hence C times smaller, instead of over rows.
        fixed_temperature: the library knows no temperature; only 1 is accepted.
        who: where it is found.
    """

    compares: str = "kl"
    scale: str = "T2"
    elements: bool = False
    fixed_temperature: bool = False
    who: str = ""


_ROWS = Convention(who="mdistiller, timm, mmrazor, torchdistill with labels, DistillKit, sentence-transformers")
_BARE = Convention(scale="none", who="TRL (β = 0), Liger kernels, torchdistill without labels")
_ELEMENTS = Convention(elements=True, who="ModelOpt, DeiT, LD in mmdet")
_UNTEMPERED = Convention(fixed_temperature=True, who="torchtune, GLNN")

CONVENTIONS = MappingProxyType(
    {
        "distil": _ROWS,
        "mdistiller": _ROWS,
        "timm": _ROWS,
        "mmrazor": _ROWS,
        "torchdistill": _ROWS,
        "distillkit": _ROWS,
        "sentence-transformers": _ROWS,
        "trl": _BARE,
        "liger": _BARE,
        "torchdistill-unlabelled": _BARE,
        "modelopt": _ELEMENTS,
        "deit": _ELEMENTS,
        "textbrewer": Convention(compares="soft_cross_entropy", scale="none", who="TextBrewer"),
        "kd_lib": Convention(compares="mse", elements=True, who="KD_Lib"),
        "torchtune": _UNTEMPERED,
        "glnn": _UNTEMPERED,
    }
)


def kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    convention: str = "distil",
    weight: Tensor | None = None,
    reduction: str = "mean",
    dim: int = -1,
) -> Tensor:
    """Return the KD loss as a named library computes it; a weight tuned there keeps its meaning here.

    Args:
        student_logits: any shape with the classes on ``dim``.
        teacher_logits: the same shape.
        temperature: above 0; only 1 where the library knows none.
        convention: a key of `CONVENTIONS`; "distil" is `kl` itself.
        weight: broadcastable to the rows.
        reduction: "mean", "sum" or "none" (one value per row).
        dim: the axis of the classes.

    Raises:
        DistilError: if the convention is unknown, or knows no temperature and is given one.

    >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> [round(float(kd(student, teacher, temperature=2.0, convention=c)), 4) for c in ("distil", "trl", "deit")]
    [0.4898, 0.1225, 0.2449]
    """
    known("kd", "convention", convention, tuple(CONVENTIONS))
    rule = CONVENTIONS[convention]
    if rule.fixed_temperature and temperature != 1:
        raise DistilError(
            f"kd: convention={convention!r} knows no temperature but temperature={temperature} was given; "
            "leave it at 1, or choose 'distil'."
        )
    if rule.compares == "mse":
        log_q, log_p = _log_probs("kd", student_logits, teacher_logits, temperature, dim)
        values = _scaled("kd", (log_q.exp() - log_p.exp()).square().sum(dim), temperature, rule.scale)
    else:
        loss = kl if rule.compares == "kl" else soft_cross_entropy
        values = loss(
            student_logits, teacher_logits, temperature=temperature, scale=rule.scale, dim=dim, reduction="none"
        )
    if rule.elements:
        values = values / student_logits.shape[dim]
    return reduce(values, weight, reduction=reduction)
