"""A graph network answering some nodes at a time: as on the whole graph, and on no more than their neighbourhoods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distil.data.neighbours import Neighbours
from distil.errors import DistilError
from distil.models import GAT, GCN, SAGE
from distil.models.nodewise import Nodewise, rounds_of

N = 90


def ring() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    pairs = torch.stack([torch.arange(N - 1), (torch.arange(N - 1) + 1) % (N - 1)])  # the last node is alone
    return torch.randn(N, 6), torch.cat([pairs, pairs.flip(0)], 1)


@pytest.mark.parametrize(("net", "layers", "hops"), [(GCN, 1, 2), (GCN, 2, 3), (GAT, 2, 2), (SAGE, 3, 3)])
def test_it_answers_as_the_network_on_the_whole_graph(net: type, layers: int, hops: int) -> None:
    x, edges = ring()
    network = net(6, 8, 3, layers=layers, dropout=0.5).eval()
    made = Nodewise(network, 7).eval()
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    with torch.no_grad():
        assert rounds_of(network, x, Neighbours(edges, N)) == hops
        whole, parts = network(x, edges), made(x, edges)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert max(size for size in sizes if size != N) <= 7 + 2 * hops + 2 * hops + 2
    assert made.needs_edges


def test_in_training_and_with_gradient_the_network_sees_what_is_given() -> None:
    x, edges = ring()
    network = SAGE(6, 8, 3)
    made = Nodewise(network, 7)
    made.train()(x, edges).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    torch.testing.assert_close(made.eval()(x, edges), network.eval()(x, edges), rtol=0, atol=0)


def test_a_network_that_looks_at_everything_is_refused() -> None:
    class Centred(nn.Module):
        def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
            return inputs - inputs.mean(0)

    with pytest.raises(DistilError, match="Centred depends on more than 8 hops"), torch.no_grad():
        Nodewise(Centred(), 7).eval()(*ring())
    with pytest.raises(DistilError, match="nodes=0"):
        Nodewise(Centred(), 0)


def test_a_graph_without_edges_is_answered_node_by_node() -> None:
    x, _ = ring()
    network = GCN(6, 8, 3).eval()
    none = torch.zeros(2, 0, dtype=torch.long)
    with torch.no_grad():
        torch.testing.assert_close(Nodewise(network, 7).eval()(x, none), network(x, none))
