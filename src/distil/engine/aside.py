"""Passes made on the side: with other parameters, or without moving a model's buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from distil.tasks.base import Task

__all__ = ["TaskCall", "kept_buffers"]


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Put buffers back as they were: a pass made on the side must not move the statistics of the step's own pass."""
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


class TaskCall(nn.Module):
    """The task's call as a module, so that a functional pass covers whatever the task does with the model."""

    def __init__(self, module: nn.Module, task: Task, role: str) -> None:
        super().__init__()
        self.module = module
        self._task, self._role = task, role

    def forward(self, batch: Mapping[str, Any]) -> Any:
        return self._task.call(self.module, batch, role=self._role)
