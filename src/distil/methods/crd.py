"""CRD: find your own sample among remembered ones of other classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError, nearest
from distil.functional.contrastive import bank_logits, noise_contrast
from distil.functional.reduction import Term
from distil.methods.bank import PENDING, ContrastBank
from distil.methods.compared import embedding, identified, labelled
from distil.methods.draws import mixed

__all__ = ["CRD"]

MODES = ("exact", "relax")


@final
class CRD(Method):
    """Contrast each sample's embedding with what is remembered of it and of samples of other classes.

    Both networks' embeddings go through a linear layer of ``dim`` outputs, trained with the student, and are scaled to
    length 1. The student's looks for its own row among ``negatives`` others in the teacher's memory bank, the teacher's
    in the student's, by noise-contrastive estimation (``functional.crd``). The rows of the samples seen move after each
    step; the two constants Z come from the first training batch and stay. Banks and constants are in the checkpoint.
    Published weight 0.8.

    Args:
        dim: width of the embeddings.
        negatives: K for each sample; none comes twice where there are enough, else each about equally often.
        temperature: above 0.
        momentum: how much of a row stays when its sample is seen.
        mode: "exact" (the positive is the sample itself) or "relax" (any sample of its class).
        tap: what is compared, the embedding by default; ``[N, D]``.

    Requirements: labels and sample ids (``distil.data.indexed``); ``prepare``. A sample without a label weighs 0.

    Example:
        >>> from distil.methods import CRD, KD, Supervised
        >>> (Supervised() + KD(temperature=4) + 0.8 * CRD(negatives=4096)).expression
        'supervised + kd(temperature=4) + 0.8*crd(negatives=4096)'

    Paper: Tian, Krishnan, Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699.
    Differs from official code: equal in value (golden), in log-space; rows move after the optimizer's step rather than
    within the forward pass, so that micro-batches and ranks see one bank; what is drawn depends on sample and step
    alone (others at equal steps from a random one, ``methods/draws.py``), and waits for no device. A loss that is only
    measured draws the same every time, and takes Z from the banks while there is none.
    """

    labels = True
    at_equality = {"crd": None}  # noqa: RUF012
    salt: Tensor

    def __init__(
        self, *, dim: int = 128, negatives: int = 16384, temperature: float = 0.07, momentum: float = 0.5,
        mode: str = "exact", tap: Spec = "emb", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        if mode not in MODES:
            raise DistilError(f"crd(mode='{mode}') is unknown; {nearest(mode, MODES)}")
        if dim < 1 or negatives < 1:
            raise DistilError(f"crd(dim={dim}, negatives={negatives}) must be at least 1.")
        if not temperature > 0 or not 0 <= momentum <= 1:
            raise DistilError(f"crd(temperature={temperature}, momentum={momentum}) must be above 0, and within 0 … 1.")
        self.dim, self.negatives, self.temperature, self.momentum, self.mode = (
            dim,
            negatives,
            temperature,
            momentum,
            mode,
        )
        self.tap: Spec = tap if isinstance(tap, str) else (tap[0], tap[1])
        self.taps = (self.tap,)
        self._pending: list[PENDING] = []

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make the two embeddings, and room for the banks."""
        ours, theirs = (embedding("crd", self.tap, trace).shape[1] for trace in (student, teacher))
        self.student_embed, self.teacher_embed = nn.Linear(ours, self.dim), nn.Linear(theirs, self.dim)
        self.bank = ContrastBank(self.dim)
        self.register_buffer("salt", torch.randint(2**62, ()))

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Read which samples there are, and begin with random rows for them."""
        ids, labels = [], []
        for batch in data:
            labelled("crd", batch)
            ids.append(identified("crd", batch))
            labels.append(batch["labels"])
        self.bank.fill(torch.cat(ids), torch.cat(labels), self.student_embed.weight.dtype)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``crd``, one value per sample."""
        ours = self.student_embed(embedding("crd", self.tap, student(batch)))
        theirs = self.teacher_embed(embedding("crd", self.tap, teacher(batch)))
        kept = labelled("crd", batch)
        ids = identified("crd", batch)
        ids = torch.where(kept, ids, self.bank.ids[0])  # any sample's, for one that weighs nothing
        rows = self.bank.find(ids)
        index = self.bank.draw(rows, self.negatives, keys=self._keys(ids, ctx), relaxed=self.mode == "relax")
        sides = ((ours, self.bank.teacher), (theirs, self.bank.student))
        logits = [bank_logits(emb, bank, index, temperature=self.temperature) for emb, bank in sides]
        log_z = self.bank.constants(logits, index, temperature=self.temperature, keep=ctx.training)
        values = [
            noise_contrast(scores, len(self.bank.ids), log_z=z, reduction="none") for scores, z in zip(logits, log_z)
        ]
        if ctx.training:
            self._pending = self._pending if ctx.micro else []  # a skipped step leaves its own behind
            self._pending.append((rows, kept.long(), ours.detach(), theirs.detach()))
        return {"crd": Term(torch.stack(values).sum(0), kept.to(ours.dtype))}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the labelled samples."""
        return {"crd": labelled("crd", batch).sum()}

    def after_step(self, ctx: Context) -> None:
        """Move the rows of the samples that the step has seen."""
        if self._pending:
            self.bank.remember(self._pending, self.momentum)
            self._pending = []

    def after_epoch(self, metrics: Mapping[str, float], ctx: Context) -> None:
        """Refuse samples that were not in the data given to ``prepare``, where no device was waited for."""
        self.bank.check()

    def _keys(self, ids: Tensor, ctx: Context) -> Tensor:
        """What is drawn for each sample depends on: its id, the step (none where a loss is measured), and the run."""
        return mixed(self.salt, ids, ctx.step if ctx.training else -1)
