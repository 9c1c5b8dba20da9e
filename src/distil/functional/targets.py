"""What a teacher says of a few classes, as one thing: what a sparse cache answers and a method may learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional.divergence import CONVENTIONS
from distil.functional.reduction import reduce
from distil.functional.sparse import sampled_cross_entropy, sampled_kl, topk_cross_entropy, topk_kl

__all__ = ["SparseTargets", "sparse_kd"]


@dataclass(frozen=True)
class SparseTargets:
    """The most likely classes of a teacher, or a sample of its classes, for every row.

    Args:
        ids: int64 ``[..., k]``.
        values: ``[..., k]``: log-probabilities of the most likely classes, or weights of the drawn ones.
        classes: how many classes there are.
        temperature: of the softmax that the targets were made with; a loss must use the same.
        codec: what they are called in messages, e.g. ``topk16``.
        entropy: ``[...]``, of the whole distribution, for drawn classes; without it the classes are the most likely.

    >>> SparseTargets(torch.tensor([[2, 0]]), torch.tensor([[-0.1, -3.0]]), 5).shape
    (1, 5)
    """

    ids: Tensor
    values: Tensor
    classes: int
    temperature: float = 1.0
    codec: str = "topk"
    entropy: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that all logits would have."""
        return (*self.ids.shape[:-1], self.classes)

    @property
    def logits(self) -> Tensor:
        """A stand-in for all logits, to score the teacher by; no method learns from it.

        T times the log of the known probabilities, so the most likely class is right for top-k. The other classes share
        what mass is left, and at least half of one part in k, evenly.
        """
        known = self.values.exp() if self.entropy is None else self.values
        p = torch.zeros(self.shape, dtype=known.dtype, device=known.device).scatter_add_(-1, self.ids, known)
        rest = (1 - p.sum(-1, keepdim=True)).clamp(min=0.0)
        if self.entropy is not None:
            rest = rest.clamp(min=0.5 / known.shape[-1])
        absent = p == 0
        even = rest / absent.sum(-1, keepdim=True).clamp(min=1)
        return self.temperature * torch.where(absent, even, p).clamp(min=torch.finfo(p.dtype).tiny).log()

    def to(self, device: torch.device | str) -> SparseTargets:
        """Return the same targets on ``device``."""
        entropy = None if self.entropy is None else self.entropy.to(device)
        return replace(self, ids=self.ids.to(device), values=self.values.to(device), entropy=entropy)


def sparse_kd(
    student_logits: Tensor,
    targets: SparseTargets,
    *,
    temperature: float = 1.0,
    convention: str = "distil",
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return :func:`distil.functional.kd` against a teacher that is known on a few classes.

    Of top-k targets all other classes count as one (``tail="rest"``): a lower bound of the full loss, at rest where the
    student equals the teacher. Drawn targets give an estimate whose expectation is the full loss, in value and
    gradient; a single one may be negative.

    Args:
        student_logits: ``[..., V]``, all classes.
        targets: of the same rows and classes.
        temperature: that of the targets.
        convention: a key of `CONVENTIONS` whose loss is a divergence or a cross-entropy.
        weight, reduction: as in `kd`.

    Raises:
        DistilError: another temperature, other classes, or a convention that needs all logits.

    >>> half = torch.tensor([[0.5, 0.5]])
    >>> targets = SparseTargets(torch.tensor([[0, 1]]), half, 2, entropy=torch.tensor([2.0]).log())
    >>> sparse_kd(torch.zeros(1, 2), targets).item()
    0.0
    """
    rule = CONVENTIONS.get(convention)
    if rule is None or rule.compares == "mse":
        raise DistilError(
            f"kd: convention={convention!r} cannot be read from {targets.codec} targets; use 'distil' (or any other "
            "that is a divergence or a cross-entropy), or write the cache with --codec dense16."
        )
    if rule.fixed_temperature and temperature != 1:
        raise DistilError(
            f"kd: convention={convention!r} knows no temperature but was given {temperature:g}; leave it at 1."
        )
    if temperature != targets.temperature:
        raise DistilError(
            f"kd(temperature={temperature:g}): the teacher's {targets.codec} targets were made at temperature "
            f"{targets.temperature:g}, and a few classes cannot be brought to another; use "
            f"kd(temperature={targets.temperature:g}), or write the cache with --codec "
            f"{targets.codec.partition('@')[0]}@{temperature:g}."
        )
    if student_logits.shape[-1] != targets.classes:
        raise DistilError(
            f"kd: the student scores {student_logits.shape[-1]} classes and the teacher's targets are of "
            f"{targets.classes}; both must score the same classes in the same order."
        )
    divergence = rule.compares == "kl"
    options: dict[str, Any] = {"temperature": temperature, "scale": rule.scale, "reduction": "none"}
    known = (student_logits, targets.ids, targets.values)
    if targets.entropy is None:
        values = (topk_kl if divergence else topk_cross_entropy)(*known, **options)
    elif divergence:
        values = sampled_kl(*known, targets.entropy, **options)
    else:
        values = sampled_cross_entropy(*known, **options)
    return reduce(values / targets.classes if rule.elements else values, weight, reduction=reduction)
