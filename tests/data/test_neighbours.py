"""Neighbourhoods: whole ones against a search by hand, drawn ones by their counts, networks on both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distil.data.neighbours import Neighbours, compiled
from distil.errors import DistilError
from distil.models import GAT, GCN, SAGE

N = 60
SAMPLERS = ["own", pytest.param("pyg", marks=pytest.mark.skipif(not compiled(), reason="no compiled sampler"))]


def graph(seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    pairs = torch.randint(N - 3, (2, 2 * N), generator=draw)  # the last three have no edge
    pairs = pairs[:, pairs[0] != pairs[1]]
    return torch.cat([pairs, pairs.flip(0)], 1).unique(dim=1)


def by_hand(edges: Tensor, seeds: list[int], hops: int) -> tuple[set[int], set[tuple[int, int]]]:
    """Nodes met and edges followed, by a search in plain Python."""
    met, followed, frontier = set(seeds), set(), set(seeds)
    for _ in range(hops):
        new = {(a, b) for a, b in edges.t().tolist() if b in frontier}
        frontier = {a for a, _ in new} - met
        met, followed = met | frontier, followed | new
    return met, followed


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("hops", [0, 1, 2, 3])
def test_a_whole_neighbourhood_is_that_of_a_search_by_hand(sampler: str, hops: int) -> None:
    edges = graph()
    near = Neighbours(edges, N, sampler=sampler)
    for seeds in ([5], [7, 3, 40], [N - 1], list(range(N))):
        part = near.around(torch.tensor(seeds), [-1] * hops)
        met, followed = by_hand(edges, seeds, hops)
        assert part.nodes[: len(seeds)].tolist() == seeds
        assert sorted(part.nodes.tolist()) == sorted(met)
        assert len(part.nodes) == len(met)
        pairs = part.nodes[part.edge_index].t().tolist()
        assert sorted(map(tuple, pairs)) == sorted(followed)


def test_edges_of_one_direction_are_followed_against_their_arrow() -> None:
    near = Neighbours(torch.tensor([[0, 1], [1, 2]]), 3, sampler="own")
    assert near.around(torch.tensor([0]), [-1, -1]).nodes.tolist() == [0]
    assert near.around(torch.tensor([2]), [-1, -1]).nodes.tolist() == [2, 1, 0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_drawn_neighbours_are_so_many_of_the_nodes_own_each_once(sampler: str) -> None:
    edges = graph()
    near = Neighbours(edges, N, sampler=sampler)
    degree, own = edges[1].bincount(minlength=N), {tuple(pair) for pair in edges.t().tolist()}
    seeds = torch.arange(N)
    part = near.around(seeds, [2], generator=torch.Generator().manual_seed(1))
    pairs = [tuple(pair) for pair in part.nodes[part.edge_index].t().tolist()]
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) <= own
    drawn = torch.tensor([b for _, b in pairs]).bincount(minlength=N)
    assert torch.equal(drawn, degree.clamp(max=2))
    again = near.around(seeds, [2], generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.edge_index, part.edge_index)
    other = near.around(seeds, [2], generator=torch.Generator().manual_seed(2))
    assert not torch.equal(other.nodes[other.edge_index], part.nodes[part.edge_index])


def test_every_neighbour_is_drawn_equally_often() -> None:
    star = torch.stack([torch.arange(1, 6), torch.zeros(5, dtype=torch.long)])
    near, draw = Neighbours(star, 6, sampler="own"), torch.Generator().manual_seed(0)
    count = torch.zeros(6)
    for _ in range(2000):
        count[near.around(torch.tensor([0]), [2], generator=draw).nodes[1:]] += 1
    assert int(count.sum()) == 4000
    # 800 expected of each with deviation 22: five deviations.
    assert bool(((count[1:] - 800).abs() < 110).all())


@pytest.mark.parametrize(("net", "more"), [(GCN, 1), (GAT, 0), (SAGE, 0)])
def test_a_network_on_whole_neighbourhoods_answers_as_on_the_graph(net: type, more: int) -> None:
    torch.manual_seed(0)
    edges, x = graph(), torch.randn(N, 6)
    model = net(6, 8, 3, layers=2).eval()
    whole, near = model(x, edges), Neighbours(edges, N, sampler="own")
    for seeds in torch.randperm(N).split(7):
        part = near.around(seeds, [-1] * (2 + more))
        torch.testing.assert_close(model(x[part.nodes], part.edge_index)[: len(seeds)], whole[seeds])


def test_what_cannot_be_meant_is_refused() -> None:
    near = Neighbours(graph(), N)
    with pytest.raises(DistilError, match=r"fanout=\[2\]; give"):
        near.around(torch.tensor([0]), [2])
    with pytest.raises(DistilError, match=r"fanout=\[-2\]"):
        near.around(torch.tensor([0]), [-2], generator=torch.Generator())
    with pytest.raises(DistilError, match=r"edges join nodes 0 to 60, but node numbers go from 0 to 59"):
        Neighbours(torch.tensor([[0], [60]]), N)
    with pytest.raises(DistilError, match=r"edge_index has shape \(3, 1\)"):
        Neighbours(torch.zeros(3, 1, dtype=torch.long), N)
    if not compiled():
        with pytest.raises(DistilError, match="the sampler 'pyg' is not to be had"):
            Neighbours(graph(), N, sampler="pyg")
