"""What serving costs: an MLP without edges beside a graph network that fetches the neighbours of a node."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.bundle import NO_LABEL, Bundle
from distil.data.graphs import GraphData
from distil.data.neighbours import Neighbours
from distil.errors import DistilError
from distil.tasks import NodeTask
from distil.tasks.base import device_of, evaluating, to_device
from distil.tasks.nodes import needs_edges

__all__ = ["reach_of", "serving_table"]

NAMES = ("MLP without edges", "graph network with neighbour fetching")
MOST_HOPS = 8
PROBES = 12
CLOSE = 1e-4  # of the largest logit: what another order of a sum may change

Batch = Mapping[str, Any]


def serving_table(
    gnn: nn.Module,
    mlp: nn.Module,
    graph: Bundle | GraphData | Batch,
    *,
    nodes: int = 100,
    rounds: int = 2,
    seconds: float = 20.0,
) -> dict[str, Any]:
    """Return a table for a report: accuracy and latency of a graph network and of the MLP taught by it.

    One node: the MLP reads its row of features and answers; the graph network first fetches the node's neighbourhood,
    as many hops as its answer depends on (:func:`reach_of`), then answers on that part. Both are asked in turn, node by
    node, so that a busy machine slows both. All nodes: one pass over the whole graph each, again in turn.

    Args:
        gnn: takes ``(inputs, edge_index)``.
        mlp: takes ``inputs`` alone.
        graph: with a test part; a batch is scored under its ``mask``.
        nodes: test nodes asked one at a time, drawn with a fixed seed.
        rounds: how often each is asked; all nodes at once at least five times.
        seconds: after about so long no further node is asked, ten at least.

    Raises:
        DistilError: models that do not do what these words say.

    >>> from distil.data.graphs import make_graph
    >>> from distil.models import GCN, MLP
    >>> path = make_graph("path", torch.rand(30, 4), torch.stack([torch.arange(29), torch.arange(1, 30)]),
    ...                   torch.arange(30) % 2)
    >>> table = serving_table(GCN(4, 8, 2), MLP(4, 8, 2), path, nodes=3)
    >>> [row[0] for row in table["rows"]]
    ['MLP without edges', 'graph network with neighbour fetching']
    """
    for model, name, wanted in ((gnn, "gnn", True), (mlp, "mlp", False)):
        if needs_edges(model) is not wanted:
            raise DistilError(
                f"serving_table: {name} is {type(model).__name__}, which {'runs without' if wanted else 'needs'} "
                f"edges; give {'a graph network' if wanted else 'a model of features alone'}."
            )
    batch, task = _batch(graph), NodeTask()
    known = (batch["mask"] & (batch["labels"] != NO_LABEL)).nonzero().flatten()
    asked = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[: max(1, nodes)]]
    neighbours = Neighbours(batch["edge_index"], len(batch["inputs"]))
    hops = reach_of(gnn, batch, asked, neighbours=neighbours)
    accuracy = [task.evaluate(model, [dict(batch)])["accuracy"] for model in (mlp, gnn)]
    place = device_of(gnn)
    whole = to_device({key: batch[key] for key in ("inputs", "edge_index")}, place)

    def alone(node: Tensor) -> Tensor:
        return task.logits(task.call(mlp, {"inputs": batch["inputs"][node].to(place)}))

    def fetched(node: Tensor) -> Tensor:
        return _fetched(gnn, batch, neighbours, node, hops)

    one_by_one = [[partial(ask, node) for ask in (alone, fetched)] for node in asked.split(1)] * max(1, rounds)
    at_once = [[partial(task.call, model, whole) for model in (mlp, gnn)]] * max(5, rounds)
    with evaluating(gnn), evaluating(mlp), torch.inference_mode():
        ones = _in_turn(one_by_one, place, seconds=seconds, least=10)
        alls = _in_turn(at_once, place, seconds=seconds, least=5)
    parts = [neighbours.around(node, [-1] * hops) for node in asked[:PROBES].split(1)]
    met, edges = (statistics.fmean(sizes) for sizes in zip(*((len(p.nodes), p.edge_index.shape[1]) for p in parts)))
    reads = ("1 node", f"{met:,.0f} nodes, {edges:,.0f} edges in {hops} hops")
    times = [(statistics.median(one), _late(one), statistics.median(every)) for one, every in zip(ones, alls)]
    rows = [
        [name, round(score, 2), *(float(f"{ms:.3g}") for ms in three), what]
        for name, score, three, what in zip(NAMES, accuracy, times, reads, strict=True)
    ]
    single, every = times[1][0] / times[0][0], times[1][2] / times[0][2]
    return {
        "title": "Serving",
        "head": ["model", "accuracy, %", "one node, ms", "95 % within, ms", "all nodes, ms", "read for one node"],
        "rows": rows,
        "note": f"Accuracy on {len(known):,} test nodes. One node: medians over {len(ones[0])} questions about "
        f"{len(asked)} of them, fetching included; all {len(batch['inputs']):,} nodes: one pass. The graph network "
        f"takes {single:.3g} times as long for one node and {every:.3g} times for all ({place.type}, "
        f"{torch.get_num_threads()} threads, both timed in turn). From {hops} hops it answers as from the whole graph "
        "(tried). Features and edges lie in memory here; a store elsewhere adds its own time to every hop.",
    }


def reach_of(gnn: nn.Module, graph: Bundle | GraphData | Batch, nodes: Tensor, *, neighbours: Neighbours) -> int:
    """Return from how many hops around a node its logits are those on the whole graph, found by trying.

    As many as there are rounds of messages, and one more where messages are divided by the degrees of both ends (GCN).

    Args:
        gnn: takes ``(inputs, edge_index)``.
        graph: what it runs on.
        nodes: some node numbers; a dozen of them are tried, each alone.
        neighbours: the graph's.

    Raises:
        DistilError: its answers depend on more than eight hops, as where it looks at the whole graph.
    """
    batch, task = _batch(graph), NodeTask()
    with evaluating(gnn), torch.inference_mode():
        whole = task.logits(task.call(gnn, to_device(dict(batch), device_of(gnn))))
        bound = CLOSE * float(whole.abs().max())
        for hops in range(MOST_HOPS + 1):
            parts = (
                (_fetched(gnn, batch, neighbours, node, hops) - whole[node]).abs().max()
                for node in nodes[:PROBES].split(1)
            )
            if all(float(part) <= bound for part in parts):
                return hops
    raise DistilError(
        f"{type(gnn).__name__} answers otherwise on {MOST_HOPS} hops around a node than on the whole graph; it cannot "
        "be served by fetching neighbours."
    )


def _batch(graph: Bundle | GraphData | Batch) -> Batch:
    if isinstance(graph, Bundle):
        return graph.test.batch
    return graph.batch("test") if isinstance(graph, GraphData) else graph


def _fetched(gnn: nn.Module, batch: Batch, neighbours: Neighbours, node: Tensor, hops: int) -> Tensor:
    """Return the logits of ``node`` from its neighbourhood alone."""
    part, task = neighbours.around(node, [-1] * hops), NodeTask()
    small = to_device({"inputs": batch["inputs"][part.nodes], "edge_index": part.edge_index}, device_of(gnn))
    return task.logits(task.call(gnn, small))[: len(node)]


def _in_turn(
    groups: Sequence[Sequence[Callable[[], object]]], place: torch.device, *, seconds: float, least: int
) -> list[list[float]]:
    """Time the calls of every group in turn, in ms: a list for each place in a group."""
    for call in (*groups[0], *groups[0]):  # warm
        call()
    times: list[list[float]] = [[] for _ in groups[0]]
    began = time.perf_counter()
    for k, group in enumerate(groups):
        if k >= least and time.perf_counter() - began > seconds:
            break
        for call, found in zip(group, times, strict=True):
            start = time.perf_counter()
            call()
            if place.type == "cuda":
                torch.cuda.synchronize()
            found.append(1000 * (time.perf_counter() - start))
    return times


def _late(times: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]
