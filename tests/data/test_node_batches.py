"""Batches of nodes with their neighbourhoods: the same gradient as the whole graph, the same draws for a seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distil.data import Batches
from distil.data.neighbours import compiled
from distil.data.node_batches import NodeBatches
from distil.errors import DistilError
from distil.models import GAT, GCN, SAGE
from distil.tasks import get_task

N = 50


def graph() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    pairs = torch.randint(N - 2, (2, 2 * N), generator=draw)
    pairs = pairs[:, pairs[0] != pairs[1]]
    labels = torch.arange(N) % 3
    labels[4] = -100
    return {
        "inputs": torch.randn(N, 6, generator=draw),
        "edge_index": torch.cat([pairs, pairs.flip(0)], 1).unique(dim=1),
        "labels": labels,
        "mask": torch.arange(N) % 2 == 0,
        "id": torch.arange(N) + 100,
    }


def gradient(model: Any, batches: Any) -> list[Tensor]:
    """Of the mean cross-entropy over the nodes that count, summed over batches."""
    task, count = get_task("node-classification"), 24
    model.zero_grad()
    for batch in batches:
        term = task.loss(task.call(model, batch), batch)
        assert term.weights is not None
        ((term.values * term.weights).sum() / count).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(("net", "hops"), [(GCN, 3), (GAT, 2), (SAGE, 2)])
def test_whole_neighbourhoods_give_the_gradient_of_the_whole_graph(net: type, hops: int) -> None:
    torch.manual_seed(0)
    model = net(6, 8, 3, layers=2).eval()
    data = NodeBatches(graph(), [-1] * hops, sampler="own")
    assert len(data) == 24  # the even ones but the one without a label
    expected = gradient(model, [graph()])
    found = gradient(model, Batches(data, 5, seed=0, shuffle=True).iterate(0))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_batch_counts_its_own_nodes_and_names_all_by_their_ids() -> None:
    whole = graph()
    data = NodeBatches(whole, [2, 1])
    seen = []
    for batch in Batches(data, 7, seed=1, shuffle=True).iterate(0):
        places = batch["id"] - 100
        assert torch.equal(batch["inputs"], whole["inputs"][places])
        assert torch.equal(batch["labels"], whole["labels"][places])
        ends = places[batch["edge_index"]].t().tolist()
        assert {tuple(pair) for pair in ends} <= {tuple(pair) for pair in whole["edge_index"].t().tolist()}
        seen += batch["id"][batch["mask"]].tolist()
    assert sorted(seen) == [100 + k for k in range(0, N, 2) if k != 4]
    assert sorted(data.ids.tolist()) == sorted(seen)
    assert torch.equal(data.labels, whole["labels"][data.nodes])


def test_draws_follow_the_seed_and_the_nodes_of_a_batch() -> None:
    def read(seed: int, epoch: int, start: int = 0) -> list[list[int]]:
        batches = Batches(NodeBatches(graph(), [1], seed=seed), 8, seed=0, shuffle=True)
        return [batch["id"].tolist() for batch in batches.iterate(epoch, start)]

    assert read(0, 0) == read(0, 0)
    assert read(0, 0, start=1) == read(0, 0)[1:]  # a resumed epoch reads the same
    assert read(0, 0) != read(0, 1)
    assert read(0, 0) != read(1, 0)


def test_what_cannot_be_read_is_refused() -> None:
    for fanout in ([], [0], [5, -2]):
        with pytest.raises(DistilError, match="give for each hop how many neighbours"):
            NodeBatches(graph(), fanout)
    with pytest.raises(DistilError, match="no node in the graph's mask has a label"):
        NodeBatches(graph() | {"mask": torch.zeros(N, dtype=torch.bool)}, [1])


def test_the_compiled_sampler_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = pytest.importorskip("torch_geometric.sampler")
    if compiled():
        pytest.skip("the real one is tested")
    own = NodeBatches(graph(), [-1, -1]).batch(torch.arange(3))
    asked = []

    class Stand:
        """In the place of the compiled sampler, which answers with local rows and columns."""

        def __init__(self, data: Any, num_neighbors: list[int]) -> None:
            self.data, self.num_neighbors = data, num_neighbors

        def sample_from_nodes(self, inputs: Any) -> Any:
            asked.append(self.num_neighbors)
            met, frontier, kept = inputs.node, inputs.node, torch.zeros(self.data.num_edges, dtype=torch.bool)
            for _ in self.num_neighbors:
                kept |= torch.isin(self.data.edge_index[1], frontier)
                sources = self.data.edge_index[0][kept].unique()
                frontier = sources[~torch.isin(sources, met)]
                met = torch.cat([met, frontier])
            place = torch.full((self.data.num_nodes,), -1)
            place[met] = torch.arange(len(met))
            row, col = place[self.data.edge_index[:, kept]]
            return sampler.SamplerOutput(node=met, row=row, col=col, edge=None, batch=None)

    monkeypatch.setattr("distil.data.neighbours.compiled", lambda: True)
    monkeypatch.setattr(sampler, "NeighborSampler", Stand)
    theirs = NodeBatches(graph(), [-1, -1]).batch(torch.arange(3))
    assert asked == [[-1, -1]]
    assert theirs["id"][:3].tolist() == own["id"][:3].tolist()
    assert sorted(theirs["id"].tolist()) == sorted(own["id"].tolist())
    pairs = [sorted(map(tuple, batch["id"][batch["edge_index"]].t().tolist())) for batch in (own, theirs)]
    assert pairs[0] == pairs[1]
