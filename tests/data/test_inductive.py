"""Hidden nodes: what the observed graph is, and that nothing of them reaches a teacher or a student."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distil.data import hide_nodes, load
from distil.data.graphs import GraphData, make_graph
from distil.data.inductive import Inductive, graph_of
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError
from distil.loops.nodes import NodeAnswers, without_edges
from distil.methods import Supervised
from distil.models import GCN, MLP
from distil.systems.ff_g2m import published

NODES, FEATURES, CLASSES = 40, 6, 3


def graph(seed: int = 0) -> GraphData:
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(NODES) % CLASSES
    x = torch.rand(NODES, FEATURES, generator=draw)
    x[:, -1] = 0  # where marks are planted
    masks = {name: torch.arange(NODES) % 4 == k for k, name in enumerate(("train", "val", "test"))}
    return make_graph("toy", x, torch.randint(NODES, (2, 90), generator=draw), y, masks=masks)


def test_the_observed_graph_is_the_whole_one_without_hidden_nodes() -> None:
    whole = graph()
    made = hide_nodes(whole, share=0.5, seed=3)
    hidden = set(made.whole.test.nonzero().flatten().tolist())
    assert len(hidden) == 5
    assert hidden <= set(whole.test.nonzero().flatten().tolist())
    assert made.nodes.tolist() == [n for n in range(NODES) if n not in hidden]
    joined = {(int(a), int(b)) for a, b in made.nodes[made.observed.edge_index].T}
    assert joined == {(a, b) for a, b in whole.edge_index.T.tolist() if not {a, b} & hidden}
    assert torch.equal(made.observed.x, whole.x[made.nodes])
    for part in ("train", "val"):
        assert torch.equal(made.nodes[getattr(made.observed, part)], getattr(whole, part).nonzero().flatten())
    assert int(made.observed.test.sum()) == 5
    again, other = (hide_nodes(whole, share=0.5, seed=seed) for seed in (3, 4))
    assert torch.equal(again.nodes, made.nodes)
    assert not torch.equal(other.nodes, made.nodes)


def test_the_bundle_names_nodes_by_their_number_in_the_whole_graph() -> None:
    made = hide_nodes(graph(), share=0.5)
    bundle = made.bundle()
    assert torch.equal(bundle.train.batch["id"], made.nodes)
    assert torch.equal(bundle.test.batch["inputs"][made.nodes], bundle.train.batch["inputs"])
    assert torch.equal(bundle.test.batch["mask"], made.whole.test)
    assert bundle.fingerprint != graph().bundle().fingerprint
    assert "hidden" in bundle.notes[-1]


def trained(hidden: Inductive) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """The weights of a teacher and of the student that it taught, and the student's score on hidden nodes."""
    bundle = hidden.bundle()
    torch.manual_seed(0)
    teacher, student = GCN(FEATURES, 8, CLASSES), MLP(FEATURES, 8, CLASSES)
    options: dict[str, Any] = {"epochs": 8, "lr": 0.05, "optimizer": "adam", "ties": "last"}
    example = bundle.train.batch
    first = Distiller(teacher, None, 1.0 * Supervised(), task="node-classification", example=example)
    fit(first, bundle.train, bundle.val, **options)
    teacher.eval()
    known, plain = NodeAnswers(teacher, bundle), without_edges(bundle)
    second = Distiller(student, known, published(), task="node-classification", example=example)
    result = fit(second, plain.train, plain.val, test=bundle.test, check_teacher=False, **options)
    return teacher.state_dict(), student.state_dict(), result.test["best"]


def planted(made: Inductive, where: Tensor) -> Inductive:
    """The same with a mark in the last feature of the nodes in ``where``, in both graphs."""
    x = made.whole.x.clone()
    x[where, -1] = 1e3
    return replace(made, whole=replace(made.whole, x=x), observed=replace(made.observed, x=x[made.nodes]))


def test_nothing_of_a_hidden_node_reaches_teacher_or_student() -> None:
    plain = graph()
    made = hide_nodes(plain, share=0.5)
    hidden = made.whole.test
    nodes = hidden.nonzero().flatten()
    more = torch.stack([nodes.repeat_interleave(NODES), torch.arange(NODES).repeat(len(nodes))])
    linked = replace(plain, edge_index=torch.cat([plain.edge_index, more, more.flip(0)], 1).unique(dim=1))
    relabelled = replace(plain, y=torch.where(hidden, (plain.y + 1) % CLASSES, plain.y))
    teacher, student, score = trained(made)
    for other in (planted(made, hidden), hide_nodes(linked, share=0.5), hide_nodes(relabelled, share=0.5)):
        assert torch.equal(other.nodes, made.nodes)
        seen = trained(other)
        assert all(torch.equal(teacher[name], seen[0][name]) for name in teacher)
        assert all(torch.equal(student[name], seen[1][name]) for name in student)
    assert trained(hide_nodes(relabelled, share=0.5))[2] != score  # they are what is scored
    seen = trained(planted(made, made.whole.train))  # the probe itself works
    assert not torch.equal(teacher["layers.0.lin.weight"], seen[0]["layers.0.lin.weight"])
    assert not torch.equal(student["layers.0.weight"], seen[1]["layers.0.weight"])


@pytest.mark.parametrize("share", [0.0, 1.2, -0.1])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(DistilError, match="must lie above 0"):
        hide_nodes(graph(), share=share)
    with pytest.raises(DistilError, match="hides none"):
        hide_nodes(graph(), share=0.01)


def test_a_bundle_gives_its_graph_back_and_samples_give_none() -> None:
    whole = graph()
    back = graph_of(whole.bundle())
    assert all(torch.equal(getattr(back, name), getattr(whole, name)) for name in ("x", "edge_index", "y", "val"))
    with pytest.raises(DistilError, match="'digits' is not one graph"):
        graph_of(load("digits"))
