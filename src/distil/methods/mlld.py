"""Multi-level logit distillation: predictions matched sample by sample, between samples, and between classes."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.errors import DistilError
from distil.functional.multilevel import multilevel
from distil.functional.reduction import Term
from distil.methods.compared import labelled
from distil.methods.deviation import enough_classes

__all__ = ["MLLD"]

STRONG = "strong"
"""The entry of a batch that holds the strongly augmented view of ``inputs``."""


@final
class MLLD(Method):
    """KD at five temperatures on two views of each image, plus how samples and how classes go together.

    ``task · (CE(weak) + CE(strong)) + weight · (instance + batch + class)``, the parts as `functional.multilevel` has
    them: ``T² KL`` summed over T, 3, 5, 2 and 6, ``‖G_t − G_s‖² / B`` of ``G = p pᵀ`` and ``‖M_t − M_s‖² / C`` of
    ``M = pᵀ p``. All parts but the task loss are coupled: they depend on who shares the batch.

    Args:
        temperature: T, the first of the five.
        task: weight of the cross-entropy on both views; 0 leaves the task to ``Supervised``.
        weight: weight of the three distillation parts.
        views: 2 reads the strong view from ``batch["strong"]``, which `distil.data.TwoViews` makes and ``distil train``
            makes by itself; 1 does without, and leaves the strong parts out.
        standardised: logit standardisation of the first part (LSKD, published with temperature 2 and weight 9), which
            needs three classes at least.

    Requirements: labels (a sample without one weighs 0 in the task loss); two views of each image.

    Example:
        >>> from distil.methods import MLLD
        >>> MLLD(views=1).expression
        'mlld(views=1)'

    Paper: Jin, Wang, Lin, Multi-level Logit Distillation, CVPR 2023.
    Differs from official code: none (golden); its quirks are kept and named at `functional.multilevel`.
    """

    def __init__(
        self, *, temperature: float = 4.0, task: float = 0.1, weight: float = 0.9, views: int = 2,
        standardised: bool = False, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        if not temperature > 0:
            raise DistilError(f"mlld(temperature={temperature}) must be above 0.")
        if views not in (1, 2):
            raise DistilError(f"mlld(views={views}) must be 2 (weak and strong) or 1 (weak alone).")
        if task == 0 and weight == 0:
            raise DistilError("mlld(task=0, weight=0) teaches nothing; give one of them a weight.")
        self.temperature, self.task, self.weight = temperature, task, weight
        self.views, self.standardised = views, standardised
        self.two_views = views == 2
        self.labels = task != 0
        self.at_equality = {"instance": "zero", "batch": "zero", "class": "zero", **({"task": None} if task else {})}
        self.__dict__["contains_task"] = task != 0

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Refuse to standardise the logits of two classes."""
        for trace in (student, teacher) if self.standardised else ():
            enough_classes("mlld(standardised=true)", trace, "mlld without it")

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the three coupled terms, and ``task`` where it has a weight."""
        views = [batch] if self.views == 1 else [batch, self._strong(batch)]
        traces = [student(view) for view in views]
        logits = [z for trace, view in zip(traces, views) for z in (trace.logits, teacher(view).logits)]
        parts = multilevel(*logits, temperature=self.temperature, standardised=self.standardised)
        terms = {name: Term(self.weight * values, coupled=True) for name, values in parts.items()}
        if self.task:
            losses = [student.task.loss(trace.output, batch) for trace in traces]
            values = torch.stack([loss.values for loss in losses]).sum(0)
            terms["task"] = Term(self.task * values, losses[0].weights)
        return terms

    def counts(self, batch: Batch) -> dict[str, float | Tensor]:
        """Count the samples, and for the task loss the labelled ones."""
        found: dict[str, float | Tensor] = dict(super().counts(batch))
        if self.task:
            counted = labelled("mlld", batch)
            found["task"] = (counted & batch["mask"] if "mask" in batch else counted).sum()
        return found

    def _strong(self, batch: Batch) -> Batch:
        if STRONG not in batch:
            raise DistilError(
                f"mlld reads two views of each image, and the batch has no '{STRONG}' (it has {', '.join(batch)}): "
                "wrap the training data in distil.data.TwoViews(data, strong=ImageViews().strong), or use "
                "mlld(views=1)."
            )
        strong, weak = batch[STRONG], batch["inputs"]
        if strong.shape != weak.shape:
            raise DistilError(
                f"mlld: the strong view is {tuple(strong.shape)} and the weak one {tuple(weak.shape)}, which must be "
                "equal; let both augmentations end at one size."
            )
        # Without its id: a cached teacher would answer with what it said of the weak view.
        return {**{key: value for key, value in batch.items() if key != "id"}, "inputs": strong}
