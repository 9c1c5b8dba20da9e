"""Decoupled knowledge distillation: the target class and the others weighed apart."""

from __future__ import annotations

from typing import final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method
from distil.errors import DistilError
from distil.functional.fast import decoupled
from distil.functional.reduction import Term

__all__ = ["DKD"]


@final
class DKD(Method):
    """KD with the knowledge about non-target classes set free from the teacher's confidence.

    ``T² · (α · KL(b_t ‖ b_s) + β · KL(p̂_t ‖ p̂_s))`` with ``b`` the probabilities of target / not target and ``p̂``
    those of the other classes among themselves. With two classes the second part is 0.

    Args:
        alpha: weight of the target part.
        beta: weight of the other classes (1-8 by pair on CIFAR-100, 0.5 on ImageNet).
        temperature: T > 0.

    Requirements: labels (a sample without one weighs 0).

    Example:
        >>> from distil.methods import DKD, Supervised
        >>> from distil import ramp
        >>> (Supervised() + ramp(epochs=20) * DKD()).expression
        'supervised + ramp(epochs=20)*dkd'

    Paper: Zhao, Cui, Song, Qiu, Liang, Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679.
    Differs from official code: log-space throughout instead of subtracting 1000 from the target's logit, so a certain
    teacher gives a finite loss; equal in the normal range (golden).
    """

    labels = True
    at_equality = {"tckd": "zero", "nckd": "zero"}  # noqa: RUF012

    def __init__(
        self, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        if not temperature > 0:
            raise DistilError(f"dkd(temperature={temperature}) must be above 0.")
        if alpha == 0 and beta == 0:
            raise DistilError("dkd(alpha=0, beta=0) compares nothing; give one of them a weight.")
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the terms ``tckd`` and ``nckd``, each with its weight."""
        s, t, labels = student(batch).logits, teacher(batch).logits, batch["labels"]
        weights = (labels >= 0).to(s.dtype)
        first, second = decoupled(s, t, labels, temperature=self.temperature)
        return {"tckd": Term(self.alpha * first, weights), "nckd": Term(self.beta * second, weights)}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count the labelled samples."""
        labelled = (batch["labels"] >= 0).sum()
        return {"tckd": labelled, "nckd": labelled}
