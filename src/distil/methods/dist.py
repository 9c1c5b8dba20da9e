"""DIST: match correlations between and within classes instead of exact probabilities."""

from __future__ import annotations

from typing import final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method
from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.functional.relation import dist_inter, dist_intra

__all__ = ["DIST"]


@final
class DIST(Method):
    """One minus Pearson's correlation of the predictions: over classes for each sample, over the batch for each class.

    ``τ² · (β · inter + γ · intra)`` on probabilities at temperature τ. The second part is coupled: its value depends on
    who shares the batch, and a batch of one gives it no gradient. Two classes give the first part none: any two
    predictions correlate by 1 or −1.

    Args:
        beta: weight of the correlation over classes.
        gamma: weight of the correlation over the batch.
        temperature: τ > 0; the authors use β = γ = 1, τ = 1 on ImageNet and 2, 2, 4 on CIFAR-100.

    Example:
        >>> from distil.methods import DIST
        >>> DIST(beta=2, gamma=2, temperature=4).expression
        'dist(beta=2, gamma=2, temperature=4)'

    Paper: Huang, You, Wang, Qian, Xu, Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv 2205.10536.
    Differs from official code: none (the 1e-8 is added to the product of norms, as there).
    """

    at_equality = {"inter": "zero", "intra": "zero"}  # noqa: RUF012

    def __init__(
        self, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        if not temperature > 0:
            raise DistilError(f"dist(temperature={temperature}) must be above 0.")
        if beta == 0 and gamma == 0:
            raise DistilError("dist(beta=0, gamma=0) compares nothing; give one of them a weight.")
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the terms ``inter`` (one value per sample) and ``intra`` (one per class, coupled)."""
        s, t = student(batch).logits, teacher(batch).logits
        square = self.temperature**2
        inter = dist_inter(s, t, temperature=self.temperature, reduction="none")
        intra = dist_intra(s, t, temperature=self.temperature, reduction="none")
        return {"inter": Term(square * self.beta * inter), "intra": Term(square * self.gamma * intra, coupled=True)}
