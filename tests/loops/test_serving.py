"""The serving table: who is asked what, and that the network's answers on neighbourhoods are its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.data.graphs import GraphData, make_graph
from distil.data.neighbours import Neighbours
from distil.errors import DistilError
from distil.loops.serving import reach_of, serving_table
from distil.models import GAT, GCN, MLP, SAGE
from distil.report.check import _validate_table
from distil.tasks import get_task

N = 80


@pytest.fixture
def graph() -> GraphData:
    torch.manual_seed(0)
    ring = torch.stack([torch.arange(N), (torch.arange(N) + 1) % N])
    return make_graph("ring", torch.randn(N, 5), ring, torch.arange(N) % 3)


class Asked(nn.Module):
    """Runs a model and keeps how many nodes each question was about."""

    def __init__(self, model: nn.Module, *, edges: bool) -> None:
        super().__init__()
        self.model, self.needs_edges = model, edges
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor, *edges: Tensor) -> Tensor:
        assert not self.training
        self.sizes.append(len(inputs))
        answer: Tensor = self.model(inputs, *edges)
        return answer


@pytest.mark.parametrize(("net", "layers", "hops"), [(GCN, 2, 3), (GAT, 2, 2), (SAGE, 3, 3)])
def test_the_reach_is_that_of_the_layers(graph: GraphData, net: type, layers: int, hops: int) -> None:
    near = Neighbours(graph.edge_index, N)
    assert reach_of(net(5, 8, 3, layers=layers), graph, torch.arange(9), neighbours=near) == hops


def test_the_table_holds_both_models_scores_and_what_one_question_reads(graph: GraphData) -> None:
    gnn, mlp = Asked(SAGE(5, 8, 3), edges=True), Asked(MLP(5, 8, 3), edges=False)
    table = serving_table(gnn, mlp, graph.bundle(), nodes=4, rounds=3)
    _validate_table(table, "table")
    task, test = get_task("node-classification"), graph.bundle().test
    assert [row[1] for row in table["rows"]] == [
        pytest.approx(task.evaluate(model, test)["accuracy"], abs=0.01) for model in (mlp, gnn)
    ]
    assert [row[-1] for row in table["rows"]] == ["1 node", "5 nodes, 6 edges in 2 hops"]
    assert all(ms > 0 for row in table["rows"] for ms in row[2:5])
    # 4 nodes in 3 rounds and 2 to warm up; 5 whole passes, 2 to warm up, and two for the score.
    assert (mlp.sizes.count(1), mlp.sizes.count(N)) == (14, 9)
    assert gnn.sizes.count(5) >= 14
    assert gnn.model.training  # as it was
    assert "over 12 questions about 4 of them" in table["note"]


def test_a_network_that_looks_at_the_whole_graph_is_named(graph: GraphData) -> None:
    class Centred(nn.Module):
        def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
            return inputs - inputs.mean(0)

    with pytest.raises(DistilError, match="Centred answers otherwise on 8 hops around a node than on the whole graph"):
        serving_table(Centred(), MLP(5, 8, 5), graph)


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ((MLP(5, 8, 3), MLP(5, 8, 3)), "gnn is MLP, which runs without edges; give a graph network"),
        ((GCN(5, 8, 3), GCN(5, 8, 3)), "mlp is GCN, which needs edges; give a model of features alone"),
    ],
)
def test_models_in_each_others_place_are_refused(graph: GraphData, models: Any, sentence: str) -> None:
    with pytest.raises(DistilError, match=sentence):
        serving_table(*models, graph)
