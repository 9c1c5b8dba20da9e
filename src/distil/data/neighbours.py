"""The neighbourhoods of a few nodes, cut out of a large graph: whole, or so many neighbours of each node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distil.errors import DistilError

__all__ = ["Neighbours", "Part", "compiled"]


class Part(NamedTuple):
    """Some nodes of a graph and edges between them.

    Attributes:
        nodes: ``[n]`` their numbers in the whole graph, the asked ones first, in their order.
        edge_index: ``[2, e]`` the edges that were followed, in the numbering of ``nodes``; row 1 is the node that
            listens.
    """

    nodes: Tensor
    edge_index: Tensor


def compiled() -> bool:
    """Say whether torch-geometric's compiled samplers (pyg-lib or torch-sparse) are installed."""
    try:
        from torch_geometric import typing
    except ImportError:
        return False
    return bool(typing.WITH_PYG_LIB or typing.WITH_TORCH_SPARSE)


class Neighbours:
    """A graph arranged so that the neighbours of a node are found without a look at the others.

    Args:
        edge_index: ``[2, E]`` node numbers; a message runs from row 0 to row 1, so an undirected edge stands in it
            twice.
        nodes: N.
        sampler: ``"pyg"`` (torch-geometric's compiled one), ``"own"``, or ``"auto"``: the former where it is
            installed. Whole neighbourhoods are the same with both; draws differ.

    Raises:
        DistilError: a node number outside 0 … N − 1, or ``"pyg"`` where it is not installed.

    >>> path = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
    >>> Neighbours(path, 4).around(torch.tensor([3]), [-1, -1]).nodes
    tensor([3, 2, 1])
    """

    def __init__(self, edge_index: Tensor, nodes: int, *, sampler: str = "auto") -> None:
        if edge_index.ndim != 2 or edge_index.shape[0] != 2 or edge_index.is_floating_point():
            raise DistilError(
                f"Neighbours: edge_index has shape {tuple(edge_index.shape)} and dtype {edge_index.dtype}; expected "
                "integers [2, E]."
            )
        if edge_index.numel() and (int(edge_index.min()) < 0 or int(edge_index.max()) >= nodes):
            raise DistilError(
                f"Neighbours: edges join nodes {int(edge_index.min())} to {int(edge_index.max())}, but node numbers go "
                f"from 0 to {nodes - 1}."
            )
        if sampler not in ("auto", "own", "pyg") or (sampler == "pyg" and not compiled()):
            raise DistilError(
                f"Neighbours: the sampler {sampler!r} is not to be had; 'own' always is, and 'pyg' where pyg-lib or "
                "torch-sparse is installed."
            )
        edge_index = edge_index.cpu()
        order = edge_index[1].argsort(stable=True)
        self.nodes = nodes
        self.sampler = "pyg" if sampler != "own" and compiled() else "own"
        self._sources = edge_index[0][order].contiguous()
        self.degrees = edge_index[1].bincount(minlength=nodes)
        self._starts = self.degrees.cumsum(0) - self.degrees
        self._pyg: Any = None
        self._places = torch.full((nodes,), -1)  # kept between calls: a fresh one would cost a look at every node

    def around(self, seeds: Tensor, fanout: Sequence[int], *, generator: torch.Generator | None = None) -> Part:
        """Return ``seeds`` and what is found in as many hops as ``fanout`` has numbers.

        Args:
            seeds: ``[s]`` node numbers, each once.
            fanout: for each hop, how many neighbours of a node are followed, drawn without replacement; -1 for all.
            generator: of the draws; needed unless every number is -1.

        With all neighbours followed for k hops, the output of k rounds of messages at the seeds is that on the whole
        graph, as long as a message depends on its two ends alone. Where it is divided by degrees (GCN), one hop more
        is needed, for the degrees of the outermost nodes.
        """
        if any(number < 0 for number in fanout if number != -1) or (generator is None and max(fanout, default=-1) >= 0):
            raise DistilError(
                f"Neighbours: fanout={list(fanout)}; give for each hop a number of neighbours (and a generator that "
                "draws them), or -1 for all."
            )
        if self.sampler == "pyg" and len(seeds):
            return self._by_pyg(seeds, fanout, generator)
        places, found, edges, frontier = self._places, [seeds], [], seeds
        places[seeds] = torch.arange(len(seeds))
        try:
            for number in fanout:
                sources, targets = self._hop(frontier, number, generator)
                frontier = sources[places[sources] < 0].unique()
                count = sum(map(len, found))
                places[frontier] = torch.arange(count, count + len(frontier))
                found.append(frontier)
                edges.append(torch.stack([places[sources], places[targets]]))
        finally:
            for part in found:
                places[part] = -1
        return Part(torch.cat(found), torch.cat(edges, 1) if edges else seeds.new_zeros(2, 0))

    def _hop(self, frontier: Tensor, number: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return the ends of the edges that lead to ``frontier``, at most ``number`` for each of its nodes."""
        counts = self.degrees[frontier]
        targets = frontier.repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(targets)) - first.repeat_interleave(counts)
        places = self._starts[frontier].repeat_interleave(counts) + rank
        if number >= 0 and generator is not None and len(targets):
            keys = torch.rand(len(targets), generator=generator, dtype=torch.float64)
            owner = torch.arange(len(frontier)).repeat_interleave(counts)
            order = (keys + owner).argsort()  # the owner's edges stay together, in a random order
            kept = order[rank < number].sort().values
            places, targets = places[kept], targets[kept]
        return self._sources[places], targets

    def _by_pyg(self, seeds: Tensor, fanout: Sequence[int], generator: torch.Generator | None) -> Part:
        from torch_geometric.data import Data
        from torch_geometric.sampler import NeighborSampler, NodeSamplerInput

        if self._pyg is None:
            targets = torch.arange(self.nodes).repeat_interleave(self.degrees)
            whole = Data(edge_index=torch.stack([self._sources, targets]), num_nodes=self.nodes)
            self._pyg = NeighborSampler(whole, num_neighbors=list(fanout))
        self._pyg.num_neighbors = list(fanout)
        with torch.random.fork_rng(devices=[]):  # it draws from torch's global generator
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            found = self._pyg.sample_from_nodes(NodeSamplerInput(input_id=None, node=seeds))
        return Part(found.node, torch.stack([found.row, found.col]))
