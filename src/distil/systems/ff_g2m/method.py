"""FF-G2M as two methods: what neighbours share, and in what they differ."""

from __future__ import annotations

from typing import final

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Sum
from distil.errors import DistilError
from distil.functional.edge_chunks import in_edge_chunks
from distil.functional.frequency import contrast_divergence, mean_divergence, neighbour_means, neighbour_pairs
from distil.functional.graph import high_frequency
from distil.functional.reduction import Term
from distil.methods.nodes import NodeMethod
from distil.methods.supervised import Supervised

__all__ = ["HighFrequency", "LowFrequency", "published"]


@final
class LowFrequency(NodeMethod):
    """Pull the student of a node towards the teacher's predictions of its neighbours and of itself.

    Mean over directed edges, self loops included, of ``KL(softmax(h_j / T) ‖ softmax(z_i / T))``; ``h`` the teacher's
    logits, computed once. With self loops alone it is GLNN. Nodes of high degree weigh more; a duplicate edge counts
    twice.

    Args:
        temperature: T > 0; the official code fixes 1.

    Requirements: a graph batch with ``edge_index`` and ``id``; the student sees features alone.

    Example:
        >>> from distil.systems.ff_g2m import LowFrequency
        >>> LowFrequency().expression
        'lowfrequency'

    Paper: Wu, Lin, Huang, Fan, Li, Extracting Low-/High-Frequency Knowledge from Graph Neural Networks and Injecting it
    into MLPs, AAAI 2023, arXiv 2305.10758.
    Differs from official code: none (mean over the directed edge list, as there; golden).
    """

    at_equality = {"lfd": None}  # noqa: RUF012

    def __init__(self, *, temperature: float = 1.0, name: str | None = None) -> None:
        super().__init__(name=name)
        if not temperature > 0:
            raise DistilError(f"{self.called}(temperature={temperature}) must be above 0.")
        self.temperature = temperature

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``lfd``: the mean over each node's edges, weighing as many edges as it has."""
        pairs = self.edges(batch, self_loops=True)
        means = self.targets(batch, lambda known: neighbour_means(known, pairs, temperature=self.temperature))
        return {"lfd": Term(mean_divergence(student(batch).logits, means), means.degree)}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count the directed edges and the self loops."""
        return {"lfd": float(self.edges(batch, self_loops=True).shape[1])}


@final
class HighFrequency(NodeMethod):
    """Match in what neighbours differ: the softmax over classes of the absolute difference of their logits.

    Mean over directed edges without self loops of ``KL(softmax(|h_i − h_j| / τ) ‖ softmax(|z_i − z_j| / τ))``, no τ².
    A graph without edges gives exactly 0.

    Args:
        temperature: τ > 0; 0.7 to 1.5 in the official settings.
        chunk: directed edges at a time, for a graph whose edges times classes do not fit in memory: the same loss, up
            to the order of its sums, at twice the time. By default all at once, and the teacher's side is kept.

    Requirements: as LowFrequency.

    Example:
        >>> from distil.systems.ff_g2m import HighFrequency
        >>> HighFrequency(temperature=1.5).expression
        'highfrequency(temperature=1.5)'

    Paper: as LowFrequency.
    Differs from official code: none (golden).
    """

    at_equality = {"hfd": "zero"}  # noqa: RUF012

    def __init__(self, *, temperature: float = 1.5, chunk: int | None = None, name: str | None = None) -> None:
        super().__init__(name=name)
        if not temperature > 0:
            raise DistilError(f"{self.called}(temperature={temperature}) must be above 0.")
        if chunk is not None and chunk < 1:
            raise DistilError(f"{self.called}(chunk={chunk}) edges at a time is impossible; give at least 1.")
        self.temperature, self.chunk = temperature, chunk

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``hfd``, one value per pair of neighbours, weighing as many directed edges as join them.

        In chunks it is one value per directed edge.
        """
        pairs = self.edges(batch, self_loops=False)
        if self.chunk is not None:
            known, logits = self.targets(batch, lambda known: known), student(batch).logits
            how = {"temperature": self.temperature}
            return {"hfd": Term(in_edge_chunks(high_frequency, logits, known, pairs, chunk=self.chunk, **how))}
        kept = self.targets(batch, lambda known: neighbour_pairs(known, pairs, temperature=self.temperature))
        return {"hfd": Term(contrast_divergence(student(batch).logits, kept), kept.weight)}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count the directed edges."""
        return {"hfd": float(self.edges(batch, self_loops=False).shape[1])}


def published(
    *, lam: float = 0.4, tau: float = 1.5, low: bool = True, high: bool = True, chunk: int | None = None
) -> Sum:
    """Return the paper's whole loss: ``lam · CE + (1 − lam) · (LFD + HFD)``; ``low`` and ``high`` switch the parts.

    Defaults are those of Cora with a GCN teacher; ``chunk`` is that of :class:`HighFrequency`. With both parts off it
    is the label loss alone, not scaled by ``lam``, as the official ablation does.

    >>> published().expression
    '0.4*supervised + 0.6*lowfrequency + 0.6*highfrequency(temperature=1.5)'
    """
    if not 0 <= lam <= 1:
        raise DistilError(f"ff-g2m(lam={lam}) is the share of the label loss; it must lie in [0, 1].")
    if not low and not high:
        return 1.0 * Supervised()
    whole = lam * Supervised()
    if low:
        whole = whole + (1 - lam) * LowFrequency()
    return whole + (1 - lam) * HighFrequency(temperature=tau, chunk=chunk) if high else whole
