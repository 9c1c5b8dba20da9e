"""A graph that is too large for one batch, read by some of its nodes at a time with drawn or whole neighbourhoods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from distil.data.bundle import NO_LABEL
from distil.data.loading import mix_seed
from distil.data.neighbours import Neighbours
from distil.errors import DistilError

__all__ = ["NodeBatches"]


class NodeBatches(Dataset[dict[str, Any]]):
    """The nodes of a graph that count, to be read in batches: each batch is those nodes with their neighbourhood.

    A batch is a small graph, ``{"inputs", "edge_index", "labels", "mask", "id"}``: the nodes asked for stand first and
    alone are in ``mask``, the others are there for what they tell them. ``id`` are the numbers in the whole graph.
    Give it to :class:`distil.data.Batches` (or as ``train`` to ``fit``), which shuffles it.

    What is drawn depends on the seed and on the nodes of a batch alone, so a run that is resumed reads the same, and
    another order draws anew.

    Args:
        graph: a full batch with ``inputs``, ``edge_index``, ``labels``, ``id`` and perhaps a ``mask``; only nodes in it
            that have a label are read.
        fanout: for each hop, how many neighbours of a node are followed; -1 for all.
        seed: of the draws.
        sampler: see :class:`distil.data.neighbours.Neighbours`.

    >>> ring = torch.stack([torch.arange(6), (torch.arange(6) + 1) % 6])
    >>> graph = {"inputs": torch.eye(6), "edge_index": torch.cat([ring, ring.flip(0)], 1),
    ...          "labels": torch.arange(6) % 2, "id": torch.arange(6)}
    >>> batch = NodeBatches(graph, [-1]).batch(torch.tensor([0]))
    >>> batch["id"].tolist(), batch["mask"].tolist()
    ([0, 1, 5], [True, False, False])
    """

    in_bulk = True

    def __init__(
        self, graph: Mapping[str, Tensor], fanout: Sequence[int], *, seed: int = 0, sampler: str = "auto"
    ) -> None:
        if not fanout or any(number == 0 or number < -1 for number in fanout):
            raise DistilError(
                f"NodeBatches: fanout={list(fanout)}; give for each hop how many neighbours of a node are followed, as "
                "[10, 10], or -1 for all."
            )
        self.graph, self.fanout, self.seed = dict(graph), list(fanout), seed
        nodes = len(graph["inputs"])
        self.neighbours = Neighbours(graph["edge_index"], nodes, sampler=sampler)
        counted = graph["labels"] != NO_LABEL
        counted &= graph.get("mask", counted)
        self.nodes = counted.nonzero().flatten()
        if not len(self.nodes):
            raise DistilError("NodeBatches: no node in the graph's mask has a label; there is nothing to read.")
        self.ids, self.labels = graph["id"][self.nodes], graph["labels"][self.nodes]

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.batch(torch.tensor([position]))

    def batch(self, positions: Tensor) -> dict[str, Tensor]:
        """Return the nodes at ``positions`` with their neighbourhood as one small graph."""
        seeds = self.nodes[positions]
        draw = torch.Generator().manual_seed(mix_seed("neighbours", self.seed, str(seeds.tolist())))
        part = self.neighbours.around(seeds, self.fanout, generator=draw)
        return {
            "inputs": self.graph["inputs"][part.nodes],
            "edge_index": part.edge_index,
            "labels": self.graph["labels"][part.nodes],
            "mask": torch.arange(len(part.nodes)) < len(seeds),
            "id": self.graph["id"][part.nodes],
        }
