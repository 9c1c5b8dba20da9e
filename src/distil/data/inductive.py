"""Nodes that training never sees: a graph without them, to learn from, and the whole one, to be scored on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.graphs import GraphData
from distil.data.loading import FullBatch, mix_seed
from distil.errors import DistilError

__all__ = ["Inductive", "graph_of", "hide_nodes"]


@dataclass(frozen=True)
class Inductive:
    """A graph of which some test nodes are hidden from training.

    Attributes:
        whole: the whole graph; its ``test`` mask holds the hidden nodes alone.
        observed: the graph without them and without their edges, renumbered from 0.
        nodes: ``[M]`` the numbers in ``whole`` of the observed nodes, in their order.
    """

    whole: GraphData
    observed: GraphData
    nodes: Tensor

    def bundle(self) -> Bundle:
        """Return what a run needs: it trains and validates on the observed graph and is scored on the hidden nodes.

        A node's ``id`` is its number in the whole graph in all three parts.
        """
        parts = {split: self.observed.batch(split) | {"id": self.nodes} for split in ("train", "val")}
        made = self.whole.bundle()
        return replace(
            made,
            name=self.whole.name,
            train=FullBatch(parts["train"]),
            val=FullBatch(parts["val"]),
            fingerprint=fingerprint({"whole": made.fingerprint, "nodes": self.nodes}),
        )


def graph_of(bundle: Bundle) -> GraphData:
    """Return the graph that a bundle of three full batches was made of.

    Raises:
        DistilError: the parts of the bundle are no batches of one graph.
    """
    parts = (bundle.train, bundle.val, bundle.test)
    batches: list[dict[str, Tensor]] = [part.batch for part in parts if isinstance(part, FullBatch)]
    if len(batches) < len(parts) or any(b["inputs"] is not batches[0]["inputs"] for b in batches):
        raise DistilError(f"{bundle.name!r} is not one graph under three masks; nodes can only be hidden in a graph.")
    first = batches[0]
    train, val, test = (batch["mask"] for batch in batches)
    return GraphData(
        bundle.name, first["inputs"], first["edge_index"], first["labels"], train, val, test, bundle.classes,
        bundle.notes,
    )  # fmt: skip


def hide_nodes(graph: GraphData, *, share: float = 0.2, seed: int = 0) -> Inductive:
    """Hide a share of the test nodes, drawn by ``seed``, and every edge that ends in one.

    Args:
        graph: with test nodes.
        share: of the test nodes, above 0 and at most 1; the number is rounded down, as GLNN's code does.
        seed: of the draw.

    Raises:
        DistilError: a share outside (0, 1], or one that hides no node.

    >>> from distil.data.graphs import make_graph
    >>> ring = torch.stack([torch.arange(6), (torch.arange(6) + 1) % 6])
    >>> masks = {"train": [1, 1, 0, 0, 0, 0], "val": [0, 0, 1, 0, 0, 0], "test": [0, 0, 0, 1, 1, 1]}
    >>> masks = {name: torch.tensor(mask) for name, mask in masks.items()}
    >>> graph = make_graph("ring", torch.eye(6), ring, torch.arange(6) % 2, masks=masks)
    >>> hidden = hide_nodes(graph, share=0.4)
    >>> len(hidden.observed.x), hidden.observed.edge_index.shape[1], int(hidden.whole.test.sum())
    (5, 8, 1)
    """
    if not 0 < share <= 1:
        raise DistilError(f"hide_nodes: share={share} of the test nodes must lie above 0 and be at most 1.")
    test = graph.test.nonzero().flatten()
    count = int(len(test) * share)
    if not count:
        raise DistilError(f"hide_nodes: a share of {share} of {len(test)} test nodes hides none; ask for a larger one.")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(mix_seed("hidden nodes", seed)))
    hidden = torch.zeros(len(graph.x), dtype=torch.bool)
    hidden[test[order[:count]]] = True
    nodes = (~hidden).nonzero().flatten()
    number = torch.full((len(hidden),), -1)
    number[nodes] = torch.arange(len(nodes))
    ends = number[graph.edge_index]
    kept = ends[:, (ends >= 0).all(0)]
    note = f"{count} test nodes and their {graph.edge_index.shape[1] - kept.shape[1]} directed edges are hidden."
    cut = {name: getattr(graph, name)[nodes] for name in ("x", "y", "train", "val", "test")}
    observed = replace(graph, edge_index=kept, **cut)
    return Inductive(replace(graph, test=hidden, notes=(*graph.notes, note)), observed, nodes)
