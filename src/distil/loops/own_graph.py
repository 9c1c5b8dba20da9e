"""What a report of the user's own graph says besides: serving with and without the edges."""

from __future__ import annotations

import json
from typing import Any

from distil.data.bundle import Bundle
from distil.data.loading import FullBatch
from distil.errors import DistilError
from distil.loops.lab import Lab
from distil.loops.serving import serving_table
from distil.loops.training import Teacher, build_model
from distil.ship.student import load_state
from distil.tasks import NodeTask, Task
from distil.tasks.base import BatchReader, device_of
from distil.tasks.nodes import needs_edges

__all__ = ["serving_tables"]


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
