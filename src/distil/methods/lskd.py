"""Logit standardisation: a method on logits that sees them without their shift and scale."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.errors import DistilError, nearest
from distil.functional.divergence import standardise
from distil.functional.reduction import Term
from distil.methods.deviation import enough_classes
from distil.methods.dkd import DKD
from distil.methods.kd import KD
from distil.methods.mlld import MLLD

__all__ = ["LSKD"]


@final
class LSKD(Method):
    """KD, DKD or MLLD on logits ``(z − mean) / (std + 1e-7)`` over the classes, of both networks.

    The student need not match how large the teacher's logits are, only how they compare. It holds no task loss:
    published weight 9 beside 0.1 of that. Over MLLD the published sum has cross-entropy on the strong view too, which
    ``Supervised`` does not read: ``mlld(temperature=2, weight=9, standardised=true)`` is that sum as a whole.

    Args:
        over: "kd", "dkd" or "mlld" (its three distillation parts, each of weight 1).
        temperature: of the base method.
        alpha: weight of the target class ("dkd").
        beta: weight of the other classes ("dkd").
        views: 2, or 1 without strong views ("mlld").

    Requirements: those of the base method, and three classes at least: of two, standardised logits are ±0.71 whatever
    they were, so they are refused.

    Example:
        >>> from distil.methods import LSKD, Supervised
        >>> (0.1 * Supervised() + 9 * LSKD()).expression
        '0.1*supervised + 9*lskd'

    Paper: Sun, Ren, Li, Wang, Cao, Logit Standardization in Knowledge Distillation, CVPR 2024, arXiv 2403.01427.
    Differs from official code: none; as there, the relations of MLLD read the logits as they are.
    """

    def __init__(
        self, *, over: str = "kd", temperature: float = 2.0, alpha: float = 1.0, beta: float = 8.0, views: int = 2,
        name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        if not temperature > 0:
            raise DistilError(f"lskd(temperature={temperature}) must be above 0.")
        self.over, self.temperature = over, temperature
        self.base: KD | DKD | MLLD
        if over == "kd":
            self.base = KD(temperature=temperature)
        elif over == "dkd":
            self.base = DKD(temperature=temperature, alpha=alpha, beta=beta)
        elif over == "mlld":
            self.base = MLLD(temperature=temperature, task=0, weight=1, views=views, standardised=True)
        else:
            raise DistilError(f"lskd(over='{over}') is unknown; {nearest(over, ('kd', 'dkd', 'mlld'))}")
        self.labels, self.at_equality = self.base.labels, self.base.at_equality
        self.two_views = over == "mlld" and views == 2

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Ask for all logits, which a sparse cache cannot give: their mean and spread are over every class."""
        for trace in (student, teacher):
            enough_classes("lskd", trace, f"{self.over} as it is: {self.over}(temperature={self.temperature:g})")
        self.base.setup(student, teacher)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the terms of the base method."""
        if not isinstance(self.base, MLLD):
            student, teacher = _Standardised(student), _Standardised(teacher)
        return self.base(student, teacher, batch, ctx)

    def counts(self, batch: Batch) -> Any:
        """Count what the base method counts."""
        return self.base.counts(batch)


class _Standardised:
    """A model handle whose logits come standardised."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __call__(self, batch: Batch) -> SimpleNamespace:
        logits = self._handle(batch).logits
        return SimpleNamespace(logits=standardise(logits, dim=1 if logits.ndim == 4 else -1), sparse=None)
