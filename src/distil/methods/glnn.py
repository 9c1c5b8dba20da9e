"""GLNN: a graph network's predictions taught to a plain MLP."""

from __future__ import annotations

from typing import final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles
from distil.functional.graph import node_kl
from distil.functional.reduction import Term
from distil.methods.compared import identified
from distil.methods.nodes import NodeMethod

__all__ = ["GLNN"]


@final
class GLNN(NodeMethod):
    """KL from the teacher's class probabilities to the student's, over all nodes, at temperature 1.

    The teacher's logits are computed once before training. The label loss is ``Supervised()``; the paper's whole loss
    is ``lam * Supervised() + (1 - lam) * GLNN()``, with lam = 0 in its main runs.

    Requirements: a graph batch whose ``id`` names the nodes; the student sees features alone.

    Relations:
        The systems' LowFrequency does the same over edges, HighFrequency adds differences between neighbours.

    Example:
        >>> from distil.methods import GLNN, Supervised
        >>> (0.1 * Supervised() + 0.9 * GLNN()).expression
        '0.1*supervised + 0.9*glnn'

    Paper: Zhang, Liu, Sun, Shah, Graph-less Neural Networks, ICLR 2022, arXiv 2110.08727.
    Differs from official code: one summed step instead of two steps per epoch over mini-batches.
    """

    at_equality = {"glnn": "zero"}  # noqa: RUF012

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``glnn``, one value per node."""
        known = self.memory.read(identified("glnn", batch))
        return {"glnn": Term(node_kl(student(batch).logits, known, reduction="none"))}
