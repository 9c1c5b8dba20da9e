"""Links of a graph as samples: edges kept apart for validation and test, and pairs that are no edge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional.gnndelete import near

__all__ = ["Links", "both_ways", "non_edges", "pairs_of", "some_of", "split_links", "within"]


def pairs_of(edge_index: Tensor) -> Tensor:
    """Return each undirected edge once, smaller node first, sorted, without self loops.

    >>> pairs_of(torch.tensor([[1, 0, 2, 2], [0, 1, 1, 2]]))
    tensor([[0, 1],
            [1, 2]])
    """
    low, high = edge_index.min(0).values, edge_index.max(0).values
    apart = low != high
    low, high = low[apart], high[apart]
    size = int(high.max()) + 1 if len(high) else 1
    codes = (low.long() * size + high).unique()  # one number for a pair sorts ten times as fast as two
    return torch.stack([codes // size, codes % size]).to(edge_index.dtype)


def both_ways(pairs: Tensor) -> Tensor:
    """Return the edges in both directions, for message passing.

    >>> both_ways(torch.tensor([[0], [1]]))
    tensor([[0, 1],
            [1, 0]])
    """
    return torch.cat([pairs, pairs.flip(0)], 1)


def non_edges(
    count: int, edges: Tensor, num_nodes: int, generator: torch.Generator, *, among: Tensor | None = None
) -> Tensor:
    """Return pairs of different nodes that no edge joins, in neither direction, (2, count), smaller node first.

    They are drawn with replacement, so a pair may come twice.

    Args:
        count: how many.
        edges: (2, E), of every edge there is (validation and test ones too); the direction does not matter.
        num_nodes: N.
        generator: of the draws, on the CPU.
        among: ``[K]``, the nodes that may be drawn; all by default.

    Raises:
        DistilError: if the graph is (almost) complete.

    >>> non_edges(3, torch.tensor([[0, 1], [1, 2]]), 3, torch.Generator().manual_seed(0))
    tensor([[0, 0, 0],
            [2, 2, 2]])
    """
    known = pairs_of(edges.cpu()) if edges.numel() else edges.cpu()
    choice = num_nodes if among is None else len(among)
    if choice < 2 and count > 0:
        raise DistilError(f"{count} pairs without an edge could not be drawn among {choice} nodes; delete fewer.")
    codes = known[0] * num_nodes + known[1]
    found: list[Tensor] = []
    missing, tries = count, 0
    while missing > 0:
        tries += 1
        if tries > 200:
            raise DistilError(
                f"{count} pairs without an edge could not be drawn among {choice} nodes and {known.shape[1]} edges; "
                "the graph is almost complete."
            )
        drawn = torch.randint(choice, (2, 2 * missing + 16), generator=generator)
        drawn = (drawn if among is None else among.cpu()[drawn]).sort(0).values
        free = (drawn[0] != drawn[1]) & ~torch.isin(drawn[0] * num_nodes + drawn[1], codes)
        chosen = drawn[:, free][:, :missing]
        found.append(chosen)
        missing -= chosen.shape[1]
    return torch.cat(found, 1) if found else torch.empty(2, 0, dtype=torch.long)


def some_of(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` of the nodes ``[K]``, or of the pairs ``[2, K]``, without replacement.

    >>> some_of(torch.tensor([4, 7, 9]), 2, torch.Generator().manual_seed(0)).shape
    torch.Size([2])
    """
    return pool[..., torch.randperm(pool.shape[-1], generator=generator)[:count]]


@dataclass(frozen=True)
class Links:
    """The edges of a graph in three parts, each undirected edge once, and as many non-edges to hold two against.

    Attributes:
        train, val, test: ``[2, P]``.
        val_negatives, test_negatives: ``[2, P]``, pairs that no edge of the whole graph joins.
    """

    train: Tensor
    val: Tensor
    test: Tensor
    val_negatives: Tensor
    test_negatives: Tensor

    @property
    def every(self) -> Tensor:
        """All edges, once each."""
        return torch.cat([self.train, self.val, self.test], 1)


def split_links(edge_index: Tensor, num_nodes: int, seed: int, *, val: float = 0.05, test: float = 0.05) -> Links:
    """Return the edges of a graph split by ``seed``: a share for validation, one for test, the rest for training.

    >>> links = split_links(both_ways(torch.tensor([[0, 0, 0, 1], [1, 2, 3, 2]])), 6, seed=0, val=0.25, test=0.25)
    >>> links.train.shape[1], links.val.shape[1], links.test.shape[1]
    (2, 1, 1)
    """
    pairs = pairs_of(edge_index)
    sizes = [max(1, int(share * pairs.shape[1])) for share in (val, test)]
    if pairs.shape[1] < sum(sizes) + 2:
        raise DistilError(
            f"{pairs.shape[1]} edges are too few to keep some for validation, some for test and to train on the rest."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(pairs.shape[1], generator=generator)
    parts = [pairs[:, order[: sizes[0]]], pairs[:, order[sizes[0] : sum(sizes)]], pairs[:, order[sum(sizes) :]]]
    negatives = [non_edges(part.shape[1], pairs, num_nodes, generator) for part in parts[:2]]
    return Links(parts[2], parts[0], parts[1], *negatives)


def within(links: Links, num_nodes: int, *, hops: int = 2) -> Tensor:
    """Return which training edges lie in the neighbourhood of the test edges: both ends within ``hops`` of one.

    >>> links = Links(*(torch.tensor(p) for p in ([[1, 4], [2, 5]], [[0], [3]], [[0], [1]], [[0], [5]], [[0], [4]])))
    >>> within(links, 6, hops=1)
    tensor([ True, False])
    """
    inside = near(both_ways(links.train), links.test.flatten(), hops=hops, num_nodes=num_nodes)
    return inside[links.train].all(0)
