"""OFA-KD as two methods: the teacher's logits for the student's own, and for exits at its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor

from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, batch_size
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.enhanced import enhanced_cross_entropy, labelled_rows
from distil.functional.reduction import Term
from distil.methods.supervised import Supervised
from distil.systems.ofa_kd.branches import GAMMA, OFAExits, check, labels_of, stages_of

__all__ = ["OFALogits", "published"]


@final
class OFALogits(Method):
    """The teacher's probabilities, those of the label strengthened, for the student's own logits.

    ``−Σ_c [(p_c + m_c)^γ − m_c] log q_c`` with p of the teacher and q of the student at a temperature, m the one-hot
    label (:func:`distil.functional.enhanced_cross_entropy`). A sample without a label counts only with
    ``enhance="off"``.

    Args:
        gamma: the exponent γ, above 0.
        enhance: "code" (as above), "target_only" (only the label's probability gets the exponent, as the paper writes)
            or "off" (soft cross-entropy: γ = 1, no label is read).
        temperature: of both sides.

    Relations:
        With γ = 1 its gradient is KD's at the same temperature over T².

    Example:
        >>> from distil.systems.ofa_kd import OFALogits
        >>> OFALogits(gamma=1.2).expression
        'ofalogits(gamma=1.2)'

    Paper: see :func:`published`.
    """

    at_equality: Mapping[str, AtEquality] = {"logits": None}

    def __init__(
        self, *, gamma: float = GAMMA, enhance: str = "code", temperature: float = 1.0, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        check(self.name, enhance, temperature, gamma)
        self.gamma, self.enhance, self.temperature = gamma, enhance, temperature
        self.labels = enhance != "off"
        if gamma == 1 or enhance == "off":
            self.at_equality = {"logits": "stationary"}

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return ``logits``, one value per sample."""
        labels = labels_of(batch) if self.labels else None
        options: dict[str, Any] = {"gamma": self.gamma, "enhance": self.enhance, "temperature": self.temperature}
        s, t = student(batch).logits, teacher(batch).logits
        values = enhanced_cross_entropy(s, t, labels, **options, reduction="none")
        return {"logits": Term(values, None if labels is None else labelled_rows(labels))}

    def counts(self, batch: Batch) -> dict[str, float | Tensor]:
        """Count the samples with a label, or all where none is read."""
        return {"logits": labelled_rows(labels_of(batch)).sum() if self.labels else float(batch_size(batch))}


def published(
    *,
    branches: str | Sequence[int] = "all",
    gamma: float | Sequence[float] | None = None,
    enhance: str = "code",
    temperature: float = 1.0,
    logit_weight: float = 1.0,
    branch_weight: float = 1.0,
    label_weight: float = 1.0,
    project: str = "logits",
    taps: Spec | Sequence[Any] = "depths",
    class_tokens: int | None = None,
) -> Sum:
    """Return the paper's whole loss: labels, the teacher's logits for the student's own, and for each exit's scores.

    Args:
        gamma: one exponent, or one for each exit and one more, last, for the student's own logits. By default 1.5, the
            release's value for ImageNet; it has 1 for CIFAR-100.
        logit_weight, branch_weight, label_weight: of the three parts; 0 leaves one out.
        branches: as in :class:`OFAExits`, or "none".
        enhance, temperature, project, taps, class_tokens: as in :class:`OFAExits`.

    >>> published(branches="none", gamma=1.0).expression
    'supervised + ofalogits(gamma=1, enhance=code, temperature=1)'

    Paper: Hao, Guo, Han, Tang, Hu, Wang, Xu, One-for-All: Bridge the Gap Between Heterogeneous Architectures in
    Knowledge Distillation, NeurIPS 2023, arXiv 2310.19444. Differs from official code: nets of fewer than four stages,
    two class tokens, tokens of any width and grids of odd sides; log-softmax in place of log of softmax.
    """
    both: dict[str, Any] = {"enhance": enhance, "temperature": temperature}
    stages = stages_of(branches)
    gamma = GAMMA if gamma is None else gamma
    check("ofa-kd", enhance, temperature, gamma)
    own, each = gamma, gamma
    if isinstance(gamma, Sequence):
        wanted = "one for each exit and one for the logits" if stages is None else f"{len(stages)} + 1"
        if not gamma or (stages is not None and len(gamma) != len(stages) + 1):
            raise DistilError(
                f"ofa-kd: gamma has {len(gamma)} numbers; give one number for all, or {wanted}: the exits' in the "
                "order of the stages, the logits' last."
            )
        *each, own = gamma
    parts = label_weight * Supervised() + logit_weight * OFALogits(gamma=own, **both)  # type: ignore[arg-type]
    if stages == ():
        return parts
    return parts + branch_weight * OFAExits(
        branches=branches, gamma=each, project=project, taps=taps, class_tokens=class_tokens, **both
    )
