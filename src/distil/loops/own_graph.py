"""The user's own graph: read in parts where it is large, and served with and without the edges in the report."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from torch import nn

from distil.data.bundle import Bundle
from distil.data.loading import FullBatch
from distil.data.node_batches import NodeBatches
from distil.errors import DistilError
from distil.loops.lab import Lab
from distil.loops.own_run import LargeGraph, OwnRun
from distil.loops.serving import serving_table
from distil.loops.training import Teacher, build_model
from distil.models.nodewise import Nodewise
from distil.ship.student import load_state
from distil.tasks import NodeTask, Task
from distil.tasks.base import BatchReader, device_of
from distil.tasks.nodes import needs_edges

__all__ = ["check_large", "drawn", "in_parts", "serving_tables"]


def check_large(run: OwnRun, bundle: Bundle) -> None:
    """Refuse settings of a large graph that cannot be."""
    graph = run.graph
    if graph == LargeGraph():
        return
    if not isinstance(bundle.train, FullBatch):
        raise DistilError(f"graph.fanout and graph.nodes are of graphs, and {bundle.name} is none; leave them out.")
    if graph.nodes < 0 or any(number == 0 or number < -1 for number in graph.fanout):
        raise DistilError(
            f"graph.fanout={list(graph.fanout)}, graph.nodes={graph.nodes}; give for each hop how many neighbours are "
            "followed, as [10, 10] (-1: all), and at least one node at a time."
        )
    if graph.fanout and not run.train_teacher:
        raise DistilError("graph.fanout is how a teacher trained here reads the graph; add --train-teacher EPOCHS.")


def in_parts(run: OwnRun, model: nn.Module) -> nn.Module:
    """Return a teacher as it answers a graph: some nodes at a time where that was asked for."""
    return Nodewise(model, run.graph.nodes) if run.graph.nodes and needs_edges(model) else model


def drawn(run: OwnRun, bundle: Bundle) -> Bundle:
    """Return the data as a teacher is trained on them: with drawn neighbourhoods where that was asked for."""
    if not run.graph.fanout:
        return bundle
    mark = f"{bundle.fingerprint}-fanout{'x'.join(map(str, run.graph.fanout))}"
    return replace(bundle, train=NodeBatches(bundle.train.batch, run.graph.fanout), fingerprint=mark)


def serving_tables(
    lab: Lab, student: str, teacher: Teacher, bundle: Bundle, task: Task, *, arm: str, seed: int
) -> list[dict[str, Any]]:
    """Return the table of :func:`~distil.loops.serving.serving_table` for a trained student of a run, or none.

    There is none where the teacher is a cache or runs without edges, the student needs them, or a method ships another
    module than the student.
    """
    path = lab.out / "students" / f"{arm}-seed{seed}.safetensors"
    if not isinstance(task, NodeTask) or not isinstance(bundle.test, FullBatch):
        return []
    if isinstance(teacher.module, BatchReader) or not needs_edges(teacher.module) or not path.is_file():
        return []
    sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    model = build_model(student, bundle, seed=seed)
    if not sidecar["plain"] or needs_edges(model):
        return []
    load_state(model, path).to(device_of(teacher.module))
    lab.progress.begin("timing one node and all nodes")
    try:
        table = lab.stage(
            "serving", lambda: serving_table(teacher.module, model, bundle), student=sidecar["fingerprint"],
            teacher=teacher.fingerprint, data=bundle.fingerprint,
        ).value  # fmt: skip
    except DistilError as error:
        lab.progress.say(f"{bundle.name}: serving was not timed: {error}")
        return []
    return [table | {"title": f"Serving: {arm}, seed {seed}"}]
