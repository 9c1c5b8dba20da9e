"""Correlation congruence: how samples correlate, and not only each sample by itself."""

from __future__ import annotations

from typing import final

from torch import nn

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError, nearest
from distil.functional.affinity import correlation_congruence, kernel_congruence
from distil.functional.reduction import Term
from distil.methods.compared import embedding

__all__ = ["CC"]

VARIANTS = ("code", "paper")
KERNELS = ("gaussian", "bilinear")


@final
class CC(Method):
    """Match the correlations between the samples of a batch, in an embedding of both networks.

    Both embeddings go through a linear layer of ``dim`` outputs, trained with the student. "code":
    ``Σ_d δ_id δ_(i+1)d`` of ``δ = |e_s − e_t|`` over consecutive samples, so the order of the batch matters, and a
    batch of one gives 0. "paper": ``‖K_s − K_t‖_F / B²`` of kernel matrices. Coupled. Published weight 0.02 ("code").

    Args:
        variant: "code" or "paper".
        dim: width of the embeddings; 0 compares the taps as they are, which "code" can do for equal widths only.
        kernel: "gaussian" or "bilinear" ("paper").
        gamma: of the Gaussian ("paper"), above 0.
        order: of its Taylor expansion ("paper"), at least 1.
        tap: what is compared, the embedding by default; ``[N, D]``.

    Example:
        >>> from distil.methods import CC, Supervised
        >>> (Supervised() + 0.02 * CC()).expression
        'supervised + 0.02*cc'

    Paper: Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, arXiv 1904.01802.
    Differs from official code: none for "code", where the teacher's layer is trained too; "paper" follows torchdistill.
    """

    at_equality = {"cc": "zero"}  # noqa: RUF012

    def __init__(
        self, *, variant: str = "code", dim: int = 128, kernel: str = "gaussian", gamma: float = 0.4, order: int = 2,
        tap: Spec = "emb", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        for what, value, options in (("variant", variant, VARIANTS), ("kernel", kernel, KERNELS)):
            if value not in options:
                raise DistilError(f"cc({what}='{value}') is unknown; {nearest(value, options)}")
        if dim < 0 or order < 0:
            raise DistilError(f"cc(dim={dim}, order={order}) must not be below 0.")
        if variant == "paper" and kernel == "gaussian" and (not gamma > 0 or order == 0):
            raise DistilError(
                f"cc(gamma={gamma}, order={order}): gamma must be above 0 and order at least 1, or the kernel is one "
                "number for all samples, and nothing is compared."
            )
        self.variant, self.dim, self.kernel, self.gamma, self.order = variant, dim, kernel, gamma, order
        self.tap: Spec = tap if isinstance(tap, str) else (tap[0], tap[1])
        self.taps = (self.tap,)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make the two linear embeddings."""
        ours, theirs = (embedding("cc", self.tap, trace).shape[1] for trace in (student, teacher))
        if not self.dim and self.variant == "code" and ours != theirs:
            raise DistilError(
                f"cc(dim=0): the student's embedding has {ours} entries and the teacher's {theirs}; give dim=128, or "
                "variant='paper', which compares any widths."
            )
        self.student_embed, self.teacher_embed = (
            nn.Linear(width, self.dim) if self.dim else nn.Identity() for width in (ours, theirs)
        )

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``cc``, coupled: one value per pair of consecutive samples, or one for the batch."""
        ours = self.student_embed(embedding("cc", self.tap, student(batch)))
        theirs = self.teacher_embed(embedding("cc", self.tap, teacher(batch)))
        if self.variant == "code":
            values = correlation_congruence(ours, theirs, reduction="none")
        else:
            values = kernel_congruence(ours, theirs, kernel=self.kernel, gamma=self.gamma, order=self.order)
        return {"cc": Term(values, coupled=True)}
