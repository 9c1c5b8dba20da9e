"""PLD as a method: the student learns one ranking, the true label first and then the teacher's order."""

from __future__ import annotations

from typing import Any, final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Sum, Traces, as_sum
from distil.functional.fast import plackett_luce
from distil.functional.reduction import Term
from distil.methods.deviation import enough_classes

__all__ = ["PLD", "published"]


@final
class PLD(Method):
    """The likelihood of the teacher-optimal ranking, each rank weighed by the teacher's own confidence.

    ``Σ_k α_k · [logsumexp_{l≥k} s_π(l) − s_π(k)]`` with the label on rank 1, the other classes by descending teacher
    logit, and ``α_k = softmax(t / τ)_π(k)``. The student is not tempered, no weight is tuned, no cross-entropy is
    added: the label's rank ties the task loss in.

    Args:
        teacher_temperature: τ > 0 of the weights; 1 on ImageNet, 4 on CIFAR-100. Higher, lower ranks weigh more.
        weights: "teacher" (PLD), "uniform" (ListMLE over C), "position" (a fixed decreasing sequence) or "first-only"
            (cross-entropy).
        label_first: put the label on rank 1; off ranks by the teacher alone (a control, not in the paper).
        standardise: standardise the "teacher"'s logits, or "both" (an ablation that hurts, and needs three classes at
            least), or None.

    Requirements: labels (a sample without one weighs 0).

    Relations:
        KD needs a weight against cross-entropy; DIST matches correlations; PLD replaces both by one list-wise loss.

    Example:
        >>> from distil.systems.pld import PLD
        >>> PLD(teacher_temperature=4).expression
        'pld(teacher_temperature=4)'

    Paper: Bassam, Zhu, Bian, PLD: A Choice-Theoretic List-Wise Knowledge Distillation, NeurIPS 2025, arXiv 2506.12542.
    Differs from official code: none in value and gradient (the loss printed in the paper's appendix, golden).
    """

    labels = True
    contains_task = True
    at_equality = {"pld": None}  # noqa: RUF012

    def __init__(
        self,
        *,
        teacher_temperature: float = 1.0,
        weights: str = "teacher",
        label_first: bool = True,
        standardise: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.options: dict[str, Any] = {
            "teacher_temperature": teacher_temperature,
            "weights": weights,
            "label_first": label_first,
            "standardise": standardise,
        }

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Refuse to standardise the student's logits of two classes."""
        if self.options["standardise"] == "both":
            enough_classes("pld(standardise=both)", student, "pld(standardise=teacher), or pld without it")

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``pld``, one value per sample."""
        labels = batch["labels"]
        values = plackett_luce(student(batch).logits, teacher(batch).logits, labels, reduction="none", **self.options)
        return {"pld": Term(values, (labels >= 0).to(values.dtype))}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count the labelled samples."""
        return {"pld": (batch["labels"] >= 0).sum()}


def published(
    *,
    teacher_temperature: float = 1.0,
    weights: str = "teacher",
    label_first: bool = True,
    standardise: str | None = None,
) -> Sum:
    """Return the paper's whole loss: PLD alone, with weight 1.

    >>> published().expression
    'pld(teacher_temperature=1, weights=teacher, label_first=true)'
    """
    return as_sum(
        PLD(teacher_temperature=teacher_temperature, weights=weights, label_first=label_first, standardise=standardise)
    )
