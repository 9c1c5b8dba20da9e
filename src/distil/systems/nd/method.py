"""ND as a method: one term on embeddings, added to any base method."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.distiller import Distiller
from distil.engine.method import Batch, Handles, Method, Sum, Traces
from distil.engine.reading import read
from distil.engine.schedule import ramp
from distil.errors import DistilError, nearest
from distil.functional.prototypes import ClassMeans, directional_norm
from distil.functional.prototypes import direction_and_length as direction_and_length_values
from distil.functional.reduction import Term
from distil.methods.dist import DIST
from distil.methods.dkd import DKD
from distil.methods.kd import KD
from distil.methods.supervised import Supervised

__all__ = ["DirectNorm", "direction_and_length", "published"]


@final
class DirectNorm(Method):
    """Push the student's embedding along the teacher's class mean and make it at least as long as the teacher's.

    ``1 − ⟨f_s, e_y⟩ / max(‖f_s‖, ‖f_t‖)`` with ``e_y`` the unit class mean of the teacher's embeddings, found in one
    pass over the training data. Where widths differ a projector (BatchNorm, dropout 0.5, linear) serves this term alone
    and does not ship.

    Args:
        part: "both", "cosine" (direction only) or "norm" (length only, this project's reading of the ablation).
        step: by how much the "norm" part asks the student to grow.
        dropout: of the projector.
        decimals: round the embeddings and means to so many decimals, as the official file does (4); None keeps them.
        tap: the embedding, the input of the last linear layer by default.

    Requirements: labels; ``prepare`` with data in which every class occurs.

    Example:
        >>> from distil.systems.nd import DirectNorm
        >>> DirectNorm(part="cosine").expression
        'directnorm(part=cosine)'

    Paper: Wang et al., Improving Knowledge Distillation via Regularizing Feature Norm and Direction, ECCV 2024,
    arXiv 2305.17007.
    Differs from official code: class means come from the data given to ``prepare`` (clean unless the data augment),
    where the code averages augmented images; vectorised.
    """

    labels = True
    at_equality = {"nd": None}  # noqa: RUF012
    means: Tensor

    def __init__(
        self,
        *,
        part: str = "both",
        step: float = 1.0,
        dropout: float = 0.5,
        decimals: int | None = None,
        tap: str = "emb",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if part not in ("both", "cosine", "norm"):
            raise DistilError(f"directnorm(part='{part}') is unknown; {nearest(part, ('both', 'cosine', 'norm'))}")
        self.part, self.step, self.dropout, self.decimals, self.tap = part, step, dropout, decimals, tap
        self.taps = (tap, "logits")

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make room for the class means, and the projector where widths differ."""
        ours, theirs = student[self.tap].shape[1], teacher[self.tap].shape[1]
        self.register_buffer("means", teacher[self.tap].new_zeros(teacher.logits.shape[1], theirs))
        self.projector: nn.Module = nn.Identity()
        if ours != theirs:
            last = nn.Linear(ours, theirs)
            nn.init.zeros_(last.bias)
            self.projector = nn.Sequential(nn.BatchNorm1d(ours), nn.Dropout(self.dropout), last)

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Average the teacher's embeddings of each class; one that never occurs, or whose mean is zero, is named."""
        means = ClassMeans(len(self.means), decimals=self.decimals)
        for batch in data:
            means.update(teacher(batch)[self.tap], batch["labels"])
        found = means.compute()
        self._check_direction(found)
        self.means.copy_(found)

    def _check_direction(self, means: Tensor) -> None:
        """Refuse class means without a direction, where one is needed; every class was present, or had no mean."""
        lost = (means == 0).all(1).nonzero().flatten().tolist()
        if not lost or self.part == "norm":
            return
        every = len(lost) == len(means)
        which = "every class" if every else f"class {', '.join(map(str, lost[:8]))}" + (", …" if len(lost) > 8 else "")
        raise DistilError(
            f"directnorm: the mean of the teacher's embedding (tap '{self.tap}') is zero for {which}, of which the "
            "data hold samples, so it has no direction: most likely the layer is dead there (a ReLU that never fires). "
            "Name another layer with tap=, or use another teacher."
        )

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``nd``, one value per sample."""
        labels = batch["labels"]
        ours = self.projector(student(batch)[self.tap])
        values = directional_norm(
            ours, teacher(batch)[self.tap], self.means, labels, part=self.part, step=self.step, reduction="none"
        )
        # The projector's BatchNorm makes each value depend on the batch while training.
        coupled = self.training and not isinstance(self.projector, nn.Identity)
        return {"nd": Term(values, (labels >= 0).to(values.dtype), coupled=coupled)}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count the labelled samples."""
        return {"nd": (batch["labels"] >= 0).sum()}


def direction_and_length(distiller: Distiller, data: Any) -> dict[str, float]:
    """Return the mean cosine of embeddings with their class mean, and their mean length over the teacher's.

    Reads the ``DirectNorm`` of a distiller on ``data``; embeddings are projected as the term projects them.
    """
    method = next(c.method for c in distiller.method if isinstance(c.method, DirectNorm))
    found = [
        direction_and_length_values(method.projector(s[method.tap]), t[method.tap], method.means, batch["labels"])
        for s, t, batch in read(distiller, data)
    ]
    cosine, ratio = (torch.cat(parts).mean() for parts in zip(*found, strict=True))
    return {"cosine with class mean": float(cosine), "length over teacher's": float(ratio)}


_BASES = {"kd": KD, "dkd": DKD, "dist": DIST}


def published(
    *,
    base: str = "kd",
    cls_weight: float = 1.0,
    kd_weight: float = 1.0,
    nd_weight: float = 2.0,
    temperature: float = 4.0,
    warmup: float = 20,
    part: str = "both",
) -> Sum:
    """Return the paper's whole loss on a base method: KD++, DKD++ or DIST++.

    ``cls_weight · CE + kd_weight · min(1, epoch / warmup) · base + nd_weight · ND``; only the base warms up. Defaults
    are those of ResNet-56 → ResNet-20 on CIFAR-100.

    >>> published().expression
    'supervised + ramp(epochs=20)*kd(temperature=4) + 2*directnorm(part=both)'
    """
    if base not in _BASES:
        raise DistilError(f"nd(base='{base}') is unknown; {nearest(base, _BASES)}")
    taught = _BASES[base](temperature=temperature)
    warmed = ramp(epochs=warmup) * taught if warmup else 1.0 * taught
    return cls_weight * Supervised() + kd_weight * warmed + nd_weight * DirectNorm(part=part)
