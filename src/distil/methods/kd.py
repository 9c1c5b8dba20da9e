"""Knowledge distillation on logits, the method every other one is compared with."""

from __future__ import annotations

from typing import Any, final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.errors import DistilError
from distil.functional.divergence import CONVENTIONS
from distil.functional.fast import kd
from distil.functional.reduction import Term
from distil.functional.targets import sparse_kd

__all__ = ["KD"]


@final
class KD(Method):
    """Match the teacher's softened class probabilities.

    ``T² · KL(softmax(t / T) ‖ softmax(s / T))``, summed over classes and averaged over samples. No labels are read.
    A cached teacher that knows a few classes only serves too, at the temperature it was cached with.

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
    sparse = True

    def __init__(self, *, temperature: float = 4.0, convention: str = "distil", name: str | None = None) -> None:
        super().__init__(name=name)
        if not temperature > 0:
            raise DistilError(f"kd(temperature={temperature}) must be above 0.")
        if convention not in CONVENTIONS:
            raise DistilError(f"kd(convention='{convention}') is unknown; known: {', '.join(CONVENTIONS)}.")
        self.temperature = temperature
        self.convention = convention

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Check that the targets of a sparse cache can serve at this temperature and convention."""
        if getattr(teacher, "sparse", None) is not None:
            sparse_kd(student.logits, teacher.sparse, temperature=self.temperature, convention=self.convention)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``kd``, one value per sample."""
        s, said = student(batch).logits, teacher(batch)
        dim = 1 if s.ndim == 4 else -1
        options: dict[str, Any] = {"temperature": self.temperature, "convention": self.convention, "reduction": "none"}
        values = kd(s, said.logits, dim=dim, **options) if said.sparse is None else sparse_kd(s, said.sparse, **options)
        return {"kd": Term(values.flatten(1).mean(1) if values.ndim > 1 else values)}
