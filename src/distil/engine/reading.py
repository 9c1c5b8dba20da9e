"""Reading a trained distiller: the traces of student and teacher over a data set, for figures a recipe wants shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from distil.data.loading import as_batches
from distil.engine.distiller import Distiller
from distil.engine.method import Batch, Traces
from distil.tasks.base import evaluating, to_device

__all__ = ["read"]


def read(distiller: Distiller, data: Any, *, batch_size: int = 256) -> Iterator[tuple[Traces, Traces, Batch]]:
    """Yield ``(student trace, teacher trace, batch)`` over ``data``, in eval mode and without gradient."""
    device = next(distiller.student.parameters()).device
    student, teacher = distiller.cast.handles()
    with evaluating(distiller), torch.no_grad():
        for raw in as_batches(data, batch_size):
            batch = to_device(distiller.task.unpack(raw), device)
            yield student(batch), teacher(batch), batch
            distiller.cast.forget()
