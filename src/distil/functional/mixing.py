"""Mixed samples and their labels, and losses on logits brought to unit deviation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional._checks import known, same_shape
from distil.functional.divergence import SAME_CLASSES, kl
from distil.functional.reduction import Term, reduce, working

__all__ = [
    "Mix",
    "by_deviation",
    "draw_mix",
    "mixed",
    "mixed_labels",
    "rescaled_cross_entropy",
    "rescaled_kl",
    "soft_label_term",
]

DRAWS = ("published", "exact")


class Mix(NamedTuple):
    """Which two samples make each sample of a mixed batch, [B] each, and the share of the first, [B]."""

    first: Tensor
    second: Tensor
    share: Tensor

    @classmethod
    def whole(cls, size: int) -> Mix:
        """Return the mix that leaves every sample as it is."""
        return cls(torch.arange(size), torch.arange(size), torch.ones(size))


def draw_mix(
    size: int, *, a: float = 1.0, unmixed: float = 0.0, draw: str = "published", shared: bool = False,
    generator: torch.Generator | None = None,
) -> Mix:  # fmt: skip
    """Draw the pairs and shares of a mixed batch: mixup, all of it (``unmixed=0``) or part of it.

    Two independent permutations r1, r2 of the batch, and λ_i ~ Beta(a, a): sample i is λ_i · x_{r1(i)} + (1 − λ_i) ·
    x_{r2(i)}. Then λ_i = 1 for ⌊B · unmixed⌋ draws of i.

    Args:
        size: B ≥ 1.
        a: above 0; towards 0 the shares go to 0 or 1, 1 is uniform.
        unmixed: in [0, 1], the number of draws of samples that stay whole, as a share of B.
        draw: "published" draws them with replacement, so that fewer stay whole (for 0.9 about 59 %); "exact" without.
        shared: one λ for the whole batch instead of one for each sample.
        generator: a CPU generator.

    Raises:
        DistilError: a value outside its range.

    >>> mix = draw_mix(4, unmixed=1.0, draw="exact", generator=torch.Generator().manual_seed(0))
    >>> mix.share
    tensor([1., 1., 1., 1.])

    Paper: Choi, Jeon, Shukla, Turaga, *Understanding the Role of Mixup in Knowledge Distillation: An Empirical Study*,
    WACV 2023, arXiv 2211.03946. The usual mixup (Zhang et al., arXiv 1710.09412) keeps one side in place and shares λ.
    """
    known("draw_mix", "draw", draw, DRAWS)
    if size < 1 or not a > 0 or not 0 <= unmixed <= 1:
        raise DistilError(
            f"draw_mix: size={size}, a={a}, unmixed={unmixed} must be at least 1, above 0, and between 0 and 1."
        )
    first, second = torch.randperm(size, generator=generator), torch.randperm(size, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))  # torch draws no Beta from a generator of one's own
    share = torch.from_numpy(np.random.default_rng(seed).beta(a, a, 1 if shared else size)).float().expand(size).clone()
    count = int(size * unmixed)
    exact = draw == "exact"
    whole = torch.randperm(size, generator=generator)[:count] if exact else (
        torch.randint(size, (count,), generator=generator)
    )  # fmt: skip
    share[whole] = 1.0
    return Mix(first, second, share)


def mixed(values: Tensor, mix: Mix) -> Tensor:
    """Return λ_i · v_{r1(i)} + (1 − λ_i) · v_{r2(i)} for values [B, …] of any further shape.

    >>> mixed(torch.tensor([[0.0], [4.0]]), Mix(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.5, 0.75])))
    tensor([[2.],
            [3.]])
    """
    if len(values) != len(mix.share):
        raise DistilError(
            f"mixed: {len(values)} samples are mixed by {len(mix.share)} shares; draw a mix of that size."
        )
    share = mix.share.to(values.device, values.dtype).view(-1, *(1,) * (values.ndim - 1))
    first, second = (index.to(values.device) for index in (mix.first, mix.second))
    return share * values[first] + (1 - share) * values[second]


def mixed_labels(labels: Tensor, mix: Mix, *, classes: int) -> Tensor:
    """Return the soft labels [B, classes] of a mixed batch; a label of −100 puts no mass anywhere.

    >>> mix = Mix(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.75, 0.75]))
    >>> mixed_labels(torch.tensor([0, -100]), mix, classes=2)
    tensor([[0.7500, 0.0000],
            [0.2500, 0.0000]])
    """
    if labels.ndim != 1 or labels.is_floating_point() or int(labels.max()) >= classes:
        raise DistilError(f"mixed_labels: labels must be class ids [B] below {classes}; got {tuple(labels.shape)}.")
    hot = F.one_hot(labels.clamp(min=0), classes) * (labels >= 0).unsqueeze(1)
    return mixed(hot.to(mix.share.dtype), mix)


def by_deviation(logits: Tensor, *, eps: float = 0.0, dim: int = -1) -> Tensor:
    """Return logits over their own (unbiased) standard deviation along ``dim``, plus ``eps``.

    Gradient flows through the deviation. The mean stays: no softmax sees it. Constant logits stay constant where
    ``eps`` is above 0. Of two classes the result lies √2 apart whatever the logits are, so only their order is left and
    no softmax of it has a gradient.

    >>> by_deviation(torch.tensor([0.0, 2.0]))
    tensor([0.0000, 1.4142])
    """
    if logits.shape[dim] < 2:
        raise DistilError(
            f"by_deviation: one class has no deviation; got logits {tuple(logits.shape)}, at least two are needed."
        )
    (logits,) = working(logits)
    return logits / (logits.std(dim, keepdim=True) + eps)


def rescaled_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, weight: Tensor | None = None, reduction: str = "mean",
    eps: float = 0.0,
) -> Tensor:  # fmt: skip
    """Return KL(softmax(t / σ_t) ‖ softmax(s / σ_s)): each row's deviation in place of a temperature; no factor T².

    0 wherever s = c · t + d with any c > 0: what is asked of the student is the teacher's order and relative gaps. Of
    two classes there are none, and the gradient is 0 (see :func:`by_deviation`).

    Args:
        student_logits: [..., C].
        teacher_logits: the same shape.
        weight: broadcastable to the rows.
        reduction: "mean", "sum" or "none".
        eps: added to both deviations; above 0, constant logits are no division by 0.

    >>> s = torch.tensor([[1.0, 2.0, 4.0]])
    >>> rescaled_kl(3 * s + 1, s) < 1e-6
    tensor(True)

    Paper: Choi et al., WACV 2023, arXiv 2211.03946. Differs from official code: ``eps`` (0 there).
    """
    same_shape("rescaled_kl", student_logits, teacher_logits, SAME_CLASSES)
    s, t = by_deviation(student_logits, eps=eps), by_deviation(teacher_logits, eps=eps)
    return kl(s, t, temperature=1.0, weight=weight, reduction=reduction)


def rescaled_cross_entropy(
    student_logits: Tensor, soft_labels: Tensor, *, weight: Tensor | None = None, reduction: str = "mean",
    eps: float = 0.0,
) -> Tensor:  # fmt: skip
    """Return −Σ_c ỹ_c · log softmax(s / σ_s)_c; bounded below, since logits of unit deviation are.

    Of two classes it has no gradient (see :func:`by_deviation`).

    Args:
        student_logits: [..., C].
        soft_labels: the same shape; rows that sum to 1, or to the share that has a label.
        weight, reduction, eps: as in :func:`rescaled_kl`.

    >>> rescaled_cross_entropy(torch.tensor([[0.0, 8.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(0.2176)
    """
    same_shape("rescaled_cross_entropy", student_logits, soft_labels, "give one share for every class")
    scaled, soft = by_deviation(student_logits, eps=eps), working(soft_labels)[0]
    return reduce(-(soft * scaled.log_softmax(-1)).sum(-1), weight, reduction=reduction)


def soft_label_term(
    student_logits: Tensor, soft_labels: Tensor, *, factor: float = 1.0, eps: float | None = None
) -> Term:
    """Return ``factor`` times the cross-entropy of each row with its soft label; a row weighs what mass it has.

    A sample mixed with an unlabelled one has less than 1: its labelled share counts, as much as it is.

    Args:
        student_logits: [B, C].
        soft_labels: [B, C], rows that sum to at most 1.
        factor: of the values.
        eps: of :func:`rescaled_cross_entropy`; ``None`` takes the logits as they are.

    >>> soft_label_term(torch.zeros(2, 4), torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, 0.0]])).mean()
    tensor(1.3863)
    """
    s, soft = working(student_logits, soft_labels)
    mass = soft.sum(-1)
    share = soft / mass.clamp(min=torch.finfo(soft.dtype).tiny).unsqueeze(-1)
    if eps is None:
        values = -(share * s.log_softmax(-1)).sum(-1)
    else:
        values = rescaled_cross_entropy(s, share, reduction="none", eps=eps)
    return Term(factor * values, mass)
