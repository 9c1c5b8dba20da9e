"""Knowledge distillation on logits, the method every other one is compared with."""

from __future__ import annotations

from typing import final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method
from distil.errors import DistilError
from distil.functional.divergence import CONVENTIONS
from distil.functional.fast import kd
from distil.functional.reduction import Term

__all__ = ["KD"]


@final
class KD(Method):
    """Match the teacher's softened class probabilities.

    ``T² · KL(softmax(t / T) ‖ softmax(s / T))``, summed over classes and averaged over samples. No labels are read.

    Args:
        temperature: T > 0; 4 on CIFAR-100, 1-2 on ImageNet.
        convention: whose reduction: "distil" (row sums, times T²), "trl", "deit", …
            (``distil.functional.CONVENTIONS``).

    Relations:
        DKD splits the same divergence into target and other classes; DIST matches correlations instead.

    Example:
        >>> from distil.methods import KD
        >>> KD(temperature=4).expression
        'kd(temperature=4)'

    Paper: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531.
    Differs from official code: none was published; agrees with mdistiller's and torchdistill's loss (golden).
    """

    at_equality = {"kd": "zero"}  # noqa: RUF012

    def __init__(self, *, temperature: float = 4.0, convention: str = "distil", name: str | None = None) -> None:
        super().__init__(name=name)
        if not temperature > 0:
            raise DistilError(f"kd(temperature={temperature}) must be above 0.")
        if convention not in CONVENTIONS:
            raise DistilError(f"kd(convention='{convention}') is unknown; known: {', '.join(CONVENTIONS)}.")
        self.temperature = temperature
        self.convention = convention

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``kd``, one value per sample."""
        s, t = student(batch).logits, teacher(batch).logits
        dim = 1 if s.ndim == 4 else -1
        values = kd(s, t, temperature=self.temperature, convention=self.convention, reduction="none", dim=dim)
        return {"kd": Term(values.flatten(1).mean(1) if values.ndim > 1 else values)}
