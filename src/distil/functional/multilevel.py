"""Predictions compared at three levels: sample by sample, between samples of a batch, and between classes (MLLD)."""

from __future__ import annotations

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional.divergence import kl, standardise
from distil.functional.reduction import reduce, working
from distil.functional.relation import _predictions

__all__ = ["batch_relation", "class_relation", "multilevel", "unsure_share"]

TEMPERATURES = (3.0, 5.0, 2.0, 6.0)
"""Beside the one that is chosen, in the published order."""
OWN_STRONG = 3
"""Of all five temperatures, the first three of the "strong" part read the strong view; the rest read the weak one."""


def batch_relation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return how differently the samples of a batch relate by their predictions: ‖p_t p_tᵀ − p_s p_sᵀ‖² / B.

    Args:
        student_logits: (B, C).
        teacher_logits: the same shape.
        temperature: above 0.
        weight: (B,).
        reduction: "mean", "sum" or "none" (one value per sample, the sum over its row).

    Raises:
        DistilError: if the logits are not two (B, C) tensors of one shape.

    >>> batch_relation(torch.zeros(2, 2), torch.tensor([[9.0, -9.0], [-9.0, 9.0]]))
    tensor(0.5000)

    Paper: Jin, Wang, Lin, *Multi-level Logit Distillation*, CVPR 2023.
    """
    ours, theirs = _predictions("batch_relation", student_logits, teacher_logits, temperature)
    return reduce(_gap(ours, theirs), weight, reduction=reduction)


def class_relation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return how differently classes go together over a batch: ‖p_tᵀ p_t − p_sᵀ p_s‖² / C.

    Arguments and errors are those of `batch_relation`, but values and weights are one per class.

    >>> class_relation(torch.zeros(2, 2), torch.tensor([[9.0, -9.0], [-9.0, 9.0]]))
    tensor(0.5000)

    Paper: Jin, Wang, Lin, *Multi-level Logit Distillation*, CVPR 2023.
    """
    ours, theirs = _predictions("class_relation", student_logits, teacher_logits, temperature)
    return reduce(_gap(ours.mT, theirs.mT), weight, reduction=reduction)


def unsure_share(teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return which share of samples, and of classes, the teacher is no surer of than of the median one.

    A sample's confidence is its largest probability, a class's the sum of its probabilities over the batch.

    >>> unsure_share(torch.tensor([[9.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    (tensor(0.6667), tensor(0.5000))
    """
    (logits,) = working(teacher_logits.detach())
    probabilities = logits.softmax(1)
    shares = [(c <= c.quantile(0.5)).to(c.dtype).mean() for c in (probabilities.amax(1), probabilities.sum(0))]
    return shares[0], shares[1]


def multilevel(
    student_weak: Tensor,
    teacher_weak: Tensor,
    student_strong: Tensor | None = None,
    teacher_strong: Tensor | None = None,
    *,
    temperature: float = 4.0,
    standardised: bool = False,
) -> dict[str, Tensor]:
    """Return multi-level logit distillation, unreduced: ``{"instance": (B,), "batch": (B,), "class": (C,)}``.

    Summed over the temperatures {T, 3, 5, 2, 6}: `kl`, `batch_relation` and `class_relation` of the weak views, times
    `unsure_share`; for the strong views `kl` alone. As published, the strong part reads the weak views at T = 2 and 6.
    The loss is the sum of the three means.

    Args:
        student_weak: (B, C), logits of the weakly augmented images.
        teacher_weak: the same shape.
        student_strong: the same shape, of the strongly augmented ones; without them the strong part is left out.
        teacher_strong: the same shape.
        temperature: the first of the five.
        standardised: standardise the logits of `kl` (logit standardisation); the relations keep theirs. Of two classes
            `kl` then has no gradient.

    Raises:
        DistilError: if the shapes differ, or only one side has a strong view.

    >>> weak = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> {name: tuple(values.shape) for name, values in multilevel(weak, 2 * weak, weak, 2 * weak).items()}
    {'instance': (2,), 'batch': (2,), 'class': (2,)}

    Paper: Jin, Wang, Lin, *Multi-level Logit Distillation*, CVPR 2023. This is the published code: its masks are meant
    to pick unsure samples and classes, but multiply means, so that only their share (about one half) is left; it also
    computes relations of the strong views and drops them.
    """
    if (student_strong is None) != (teacher_strong is None):
        raise DistilError("multilevel: only one side has a strong view; give both, or neither.")
    temperatures = (temperature, *TEMPERATURES)
    samples, classes = unsure_share(teacher_weak)
    weak = student_weak, teacher_weak
    found = {
        "instance": samples * _instances([weak] * len(temperatures), temperatures, standardised),
        "batch": samples * _summed([batch_relation(*weak, temperature=t, reduction="none") for t in temperatures]),
        "class": classes * _summed([class_relation(*weak, temperature=t, reduction="none") for t in temperatures]),
    }
    if student_strong is not None and teacher_strong is not None:
        own = [(student_strong, teacher_strong)] * OWN_STRONG
        views = [*own, *[weak] * (len(temperatures) - OWN_STRONG)]
        found["instance"] = found["instance"] + _instances(views, temperatures, standardised)
    return found


def _instances(views: list[tuple[Tensor, Tensor]], temperatures: tuple[float, ...], standardised: bool) -> Tensor:
    if standardised:
        views = [(standardise(s), standardise(t)) for s, t in views]
    return _summed([kl(s, t, temperature=T, reduction="none") for (s, t), T in zip(views, temperatures, strict=True)])


def _summed(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0)


def _gap(ours: Tensor, theirs: Tensor) -> Tensor:
    with torch.autocast(ours.device.type, enabled=False):
        return (theirs @ theirs.mT - ours @ ours.mT).square().sum(1)
