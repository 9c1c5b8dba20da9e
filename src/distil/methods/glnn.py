"""GLNN: a graph network's predictions taught to a plain MLP."""

from __future__ import annotations

from typing import final

from torch import Tensor

from distil.engine.context import Context
from distil.engine.method import Batch, Handles
from distil.functional.graph import node_kl
from distil.functional.reduction import Term
from distil.methods.compared import identified
from distil.methods.nodes import NodeMethod

__all__ = ["GLNN"]

TAUGHT = "taught"


@final
class GLNN(NodeMethod):
    """KL from the teacher's class probabilities to the student's, over all nodes, at temperature 1.

    The teacher's logits are computed once before training. The label loss is ``Supervised()``; the paper's whole loss
    is ``lam * Supervised() + (1 - lam) * GLNN()``, with lam = 0 in its main runs.

    One summed step over the whole graph by default. Trained on :class:`distil.data.LabelsThenTeacher`, each epoch goes
    over the labels first and over the teacher's answers next, in batches, as the official code does. A batch says by
    ``taught`` (bool ``[N]``) which of its nodes the teacher teaches, and the teacher is then one that answers without
    edges (stored answers, :class:`distil.loops.nodes.NodeAnswers`); without it, all nodes are taught.

    Requirements: a graph batch whose ``id`` names the nodes; the student sees features alone.

    Relations:
        The systems' LowFrequency does the same over edges, HighFrequency adds differences between neighbours.

    Example:
        >>> from distil.methods import GLNN, Supervised
        >>> (0.1 * Supervised() + 0.9 * GLNN()).expression
        '0.1*supervised + 0.9*glnn'

    Paper: Zhang, Liu, Sun, Shah, Graph-less Neural Networks, ICLR 2022, arXiv 2110.08727.
    Differs from official code: by default one summed step instead of steps on labels, then on the teacher.
    """

    at_equality = {"glnn": "zero"}  # noqa: RUF012

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``glnn``, one value per node."""
        ids = identified("glnn", batch)
        known = teacher(batch).logits if TAUGHT in batch else self.memory.read(ids)
        values = node_kl(student(batch).logits, known, reduction="none")
        return {"glnn": Term(values, batch.get(TAUGHT))}

    def counts(self, batch: Batch) -> dict[str, float | Tensor]:
        """Count the nodes; those that the batch's ``taught`` names, where it does."""
        taught = batch.get(TAUGHT)
        return {"glnn": float(len(identified("glnn", batch))) if taught is None else taught.sum()}
