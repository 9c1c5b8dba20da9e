"""Links as samples, and requests against what is left of a graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distil.data.deletions import Request, Standing, node_numbers, read_requests
from distil.data.graphs import make_graph
from distil.data.links import both_ways, non_edges, pairs_of, split_links, within
from distil.errors import DistilError
from distil.loops.links import LinkTask, link_bundle

EDGES = torch.randint(0, 50, (2, 200), generator=torch.Generator().manual_seed(1))


def standing(**options: bool) -> Standing:
    x, y = torch.ones(6, 2), torch.tensor([0, 0, 1, 1, 0, 1])
    edges = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
    masks = {
        name: torch.tensor(kept).bool() for name, kept in (("train", [1, 1, 1, 1, 0, 0]), ("val", [0, 0, 0, 0, 1, 0]))
    }
    bundle = make_graph("toy", x, edges, y, masks={**masks, "test": torch.tensor([0, 0, 0, 0, 0, 1]).bool()}).bundle()
    return Standing.of(bundle, **options)


def ask(kind: str, *values: object) -> Request:
    return Request(kind, values, "here")


def test_every_edge_is_in_one_part_and_the_negatives_in_none() -> None:
    links = split_links(both_ways(EDGES), 50, seed=0)
    whole = {tuple(pair) for pair in pairs_of(EDGES).t().tolist()}
    parts = [{tuple(pair) for pair in part.t().tolist()} for part in (links.train, links.val, links.test)]
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)
    assert len(parts[1]) == len(parts[2]) == int(0.05 * len(whole))
    negatives = torch.cat([links.val_negatives, links.test_negatives], 1)
    assert negatives.shape[1] == len(parts[1]) + len(parts[2])
    assert not {tuple(pair) for pair in negatives.t().tolist()} & whole
    again, other = split_links(EDGES, 50, seed=0), split_links(EDGES, 50, seed=1)
    assert torch.equal(links.test, again.test)
    assert torch.equal(links.test_negatives, again.test_negatives)
    assert not torch.equal(links.test, other.test)


def test_pairs_without_an_edge_are_drawn_among_the_nodes_that_may_be() -> None:
    few = torch.tensor([0, 3, 4, 11, 20, 49])
    drawn = non_edges(200, EDGES, 50, torch.Generator().manual_seed(0), among=few)
    assert set(drawn.flatten().tolist()) <= set(few.tolist())
    assert not {tuple(pair) for pair in drawn.t().tolist()} & {tuple(pair) for pair in pairs_of(EDGES).t().tolist()}
    assert (drawn[0] < drawn[1]).all()
    whole, every = (
        non_edges(200, EDGES, 50, torch.Generator().manual_seed(0), among=among) for among in (None, torch.arange(50))
    )
    assert torch.equal(whole, every)


@pytest.mark.parametrize("hops", [1, 2])
def test_the_neighbourhood_of_the_test_edges_is_torch_geometrics(hops: int) -> None:
    from torch_geometric.utils import k_hop_subgraph

    sparse = torch.randint(0, 120, (2, 110), generator=torch.Generator().manual_seed(5))
    links = split_links(sparse, 120, seed=0)
    directed = both_ways(links.train)
    mask = k_hop_subgraph(links.test.flatten().unique(), hops, directed, num_nodes=120)[3]
    found = within(links, 120, hops=hops)
    assert torch.equal(found, mask[: links.train.shape[1]])
    assert 0 < int(found.sum()) < len(found)


def test_what_cannot_be_drawn_or_split_is_said() -> None:
    complete = torch.combinations(torch.arange(5)).t()
    with pytest.raises(DistilError, match="the graph is almost complete"):
        non_edges(2, complete, 5, torch.Generator())
    assert non_edges(0, complete, 5, torch.Generator()).shape == (2, 0)
    with pytest.raises(DistilError, match="could not be drawn among 1 nodes"):
        non_edges(2, complete, 9, torch.Generator(), among=torch.tensor([7]))
    with pytest.raises(DistilError, match="3 edges are too few"):
        split_links(torch.tensor([[0, 1, 2], [1, 2, 3]]), 4, seed=0)


def test_links_as_a_task_have_a_loss_by_hand_and_an_auc() -> None:
    x, y = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 2
    bundle, links = link_bundle(make_graph("toy", x, EDGES, y).bundle(), seed=0)
    task = LinkTask()
    batch = task.prepare(dict(bundle.train.batch), torch.Generator().manual_seed(0))
    pairs = torch.cat([links.train, batch["negatives"]], 1)
    scores = (x[pairs[0]] * x[pairs[1]]).sum(1)
    truth = (torch.arange(len(scores)) < links.train.shape[1]).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, truth)
    torch.testing.assert_close(task.loss(x, batch).mean(), expected)
    with pytest.raises(DistilError, match="has no negatives"):
        task.loss(x, bundle.train.batch)
    ours = task.evaluate(lambda inputs: inputs, bundle.test)
    held = [(x[p[0]] * x[p[1]]).sum(1) for p in (links.test, links.test_negatives)]
    wins = (held[0][:, None] > held[1]).float() + 0.5 * (held[0][:, None] == held[1]).float()
    assert ours == {"auc": pytest.approx(100 * float(wins.mean()))}
    assert task.chance(None) == 50.0


def test_what_is_removed_is_gone_for_the_next_request() -> None:
    before = standing()
    removal = before.removal(ask("nodes", 1))
    assert removal.pairs.tolist() == [[0, 1], [1, 2]]
    after = before.after(removal)
    assert after.pairs.tolist() == [[2, 3, 4], [3, 4, 5]]
    assert after.train.tolist() == [True, False, True, True, False, False]
    for request, says in (
        (ask("nodes", 1), "the node 1 is already deleted"),
        (ask("edges", (2, 1)), "the edge 1-2 is already deleted"),
        (ask("edges", (5, 0)), "the edge 0-5 is not in the graph 'toy'"),
        (ask("edges", (2, 3), (3, 4), (4, 5)), "the edges 2-3, 3-4, 4-5, all the edges that are left"),
        (ask("nodes", 0), "leaves the class '0' without a training node"),
        (ask("class", "1"), "the class 1, all the edges that are left"),
    ):
        with pytest.raises(DistilError, match=says):
            after.removal(request)
    with pytest.raises(DistilError, match="training nodes of fewer than two classes"):
        before.removal(ask("class", "1"))
    free = standing(keeps_classes=False)
    assert free.removal(ask("class", "1")).nodes.tolist() == [2, 3, 5]


def test_ids_of_tables_are_read_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text("id,label,f\nanna,a,1\nben,b,2\n")
    (tmp_path / "edges.csv").write_text("from,to\nanna,ben\n")
    assert node_numbers(tmp_path) == {"anna": 0, "ben": 1}
    assert node_numbers(tmp_path / "graph.npz") == {}
    named = replace(standing(), numbers={name: k for k, name in enumerate("abcdef")})
    for request, says in (
        (ask("nodes", "b", "b"), "the node b is named twice"),
        (ask("edges", ("a", "f")), "the edge a-f is not in the graph"),
        (ask("nodes", "z"), "there is no node 'z'"),
        (ask("nodes", "a", "b"), "its last are a, b"),
    ):
        with pytest.raises(DistilError, match=says):
            named.removal(request)
    (request,) = read_requests(tmp_path / "edges.csv")
    assert request.values == (("anna", "ben"),)
    (tmp_path / "many.json").write_text('[{"nodes": ["anna"]}, {"class": 1}]')
    assert [(each.kind, each.values) for each in read_requests(tmp_path / "many.json")] == [
        ("nodes", ("anna",)),
        ("class", (1,)),
    ]
    assert read_requests(tmp_path / "many.json")[0].plain() == {"nodes": ["anna"]}


def test_pairs_of_large_graphs_are_right_in_any_integer_type() -> None:
    edges = torch.tensor([[99_999, 5, 99_998], [5, 99_999, 7]])
    expected = torch.tensor([[5, 7], [99_999, 99_998]])
    for kind in (torch.int64, torch.int32):
        assert torch.equal(pairs_of(edges.to(kind)), expected.to(kind))
    assert pairs_of(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0)
