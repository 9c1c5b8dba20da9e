"""A graph network that answers some nodes at a time, exactly, so that no pass needs the whole graph's messages."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from distil.data.neighbours import Neighbours
from distil.errors import DistilError

__all__ = ["Nodewise", "rounds_of"]

PROBES = 4
MOST_HOPS = 8


@final
class Nodewise(nn.Module):
    """Answers as its network does on the whole graph, from whole neighbourhoods of ``nodes`` nodes at a time.

    In evaluation and without gradient only; else the network sees what it is given. The answers are equal up to the
    order of sums, the memory is that of the largest neighbourhood of a part.

    Args:
        network: takes ``(inputs [N, F], edge_index [2, E])``, and its answer at a node depends on so many hops.
        nodes: at a time.
        hops: around a node; by default the rounds of messages in the network, and one more where the answers of a few
            nodes change with it (messages divided by the degrees of both ends).

    >>> from distil.models import GCN
    >>> ring = torch.stack([torch.arange(6), (torch.arange(6) + 1) % 6])
    >>> x, edges = torch.eye(6), torch.cat([ring, ring.flip(0)], 1)
    >>> gcn = GCN(6, 4, 2).eval()
    >>> with torch.no_grad():
    ...     torch.allclose(Nodewise(gcn, 2).eval()(x, edges), gcn(x, edges), atol=1e-6)
    True
    """

    needs_edges = True

    def __init__(self, network: nn.Module, nodes: int, *, hops: int | None = None) -> None:
        super().__init__()
        if nodes < 1 or (hops is not None and hops < 0):
            raise DistilError(f"Nodewise: nodes={nodes}, hops={hops}; at least one node at a time is expected.")
        self.network, self.nodes, self.hops = network, nodes, hops

    def forward(self, inputs: Tensor, edge_index: Tensor) -> Any:
        """Return the network's answers ``[N, C]``."""
        if self.training or torch.is_grad_enabled() or len(inputs) <= self.nodes:
            return self.network(inputs, edge_index)
        near = Neighbours(edge_index, len(inputs))
        hops = rounds_of(self.network, inputs, near) if self.hops is None else self.hops
        parts = torch.arange(len(inputs)).split(self.nodes)
        return torch.cat([_answer(self.network, inputs, near, seeds, hops) for seeds in parts])


def rounds_of(network: nn.Module, inputs: Tensor, near: Neighbours) -> int:
    """Return from how many hops around a node a network in eval answers it.

    The rounds of messages are counted on the neighbours of a few nodes; of the numbers of hops from there on, the first
    is taken with which those nodes' answers are the same as with one hop more.
    """
    from torch_geometric.nn import MessagePassing

    linked = near.degrees.nonzero().flatten()
    if not len(linked):
        return 0
    draw = torch.Generator().manual_seed(0)
    # One probe at a time: its neighbours' own neighbours must not be there for another's sake.
    probes = linked[torch.randperm(len(linked), generator=draw)[:PROBES]].split(1)

    def said(hops: int) -> Tensor:
        return torch.cat([_answer(network, inputs, near, probe, hops) for probe in probes])

    rounds: list[None] = []
    layers = [part for part in network.modules() if isinstance(part, MessagePassing)]
    hooks = [layer.register_forward_hook(lambda *_: rounds.append(None)) for layer in layers]
    try:
        said(1)
    finally:
        for hook in hooks:
            hook.remove()
    first = max(1, len(rounds) // len(probes))
    before = said(first)
    for hops in range(first, MOST_HOPS + 1):
        after = said(hops + 1)
        if torch.allclose(before, after, rtol=1e-4, atol=1e-5 * float(after.abs().max())):
            return hops
        before = after
    raise DistilError(
        f"{type(network).__name__} depends on more than {MOST_HOPS} hops around a node; it cannot answer some nodes at "
        "a time: leave out graph.nodes."
    )


def _answer(network: nn.Module, inputs: Tensor, near: Neighbours, seeds: Tensor, hops: int) -> Tensor:
    part = near.around(seeds, [-1] * hops)
    found: Tensor = network(inputs[part.nodes.to(inputs.device)], part.edge_index.to(inputs.device))
    return found[: len(seeds)]
