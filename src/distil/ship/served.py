"""The module that is exported: tensors in, logits out, with all that the task does to the inputs of a student."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distil.errors import DistilError
from distil.tasks import NodeTask, Task
from distil.tasks.base import device_of
from distil.tasks.nodes import needs_edges

__all__ = ["Served", "batch_of", "rows", "sample_batches", "tensors_of"]

SIZES = (1, 3, 8)


class Served(nn.Module):
    """A student behind ``task.call``, taking its tensors by position under ``names``.

    >>> from distil.tasks import get_task
    >>> Served(get_task("classification"), nn.Linear(4, 2), ("inputs",))(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, task: Task, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names
        self._task = task

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return self._task.logits(self._task.call(self.module, batch_of(dict(zip(self.names, tensors)))))


def batch_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return tensors by name as a task takes them: other names than a graph's are the entries of ``inputs``."""
    if "inputs" in tensors:
        return dict(tensors)
    return {"inputs": dict(tensors)}


def tensors_of(task: Task, module: nn.Module, example: Any) -> dict[str, Tensor]:
    """Return the tensors that ``module`` takes from an example batch, by name."""
    batch = task.unpack(example)
    inputs = batch["inputs"]
    if isinstance(inputs, Mapping):
        found = {str(name): value for name, value in inputs.items() if isinstance(value, Tensor)}
    else:
        found = {"inputs": torch.as_tensor(inputs)}
        if isinstance(task, NodeTask) and needs_edges(module):
            found["edge_index"] = batch["edge_index"]
    if not found or not all(value.ndim and len(value) for value in found.values()):
        shapes = {name: tuple(value.shape) for name, value in found.items()}
        raise DistilError(f"the example holds no samples ({shapes}); give a batch with at least one.")
    return {name: value.detach().cpu() for name, value in found.items()}


def rows(tensors: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return a batch of ``count`` samples, repeated where there are fewer; of a graph, its first nodes and their edges.

    >>> rows({"inputs": torch.arange(2.0)}, 3)["inputs"]
    tensor([0., 1., 0.])
    """
    if "edge_index" in tensors:
        edges = tensors["edge_index"]
        return {"inputs": tensors["inputs"][:count], "edge_index": edges[:, (edges < count).all(0)]}
    return {name: value[torch.arange(count) % len(value)] for name, value in tensors.items()}


def sample_batches(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the batches that an export is checked on, by a name of each: several sizes, and lengths of a text."""
    if "edge_index" in tensors:
        nodes = len(tensors["inputs"])
        return {f"{n} nodes": rows(tensors, n) for n in sorted({max(1, nodes // 2), max(1, nodes - 1), nodes})}
    batches = {f"batch of {size}": rows(tensors, size) for size in SIZES}
    if is_text(tensors):
        middle = batches["batch of 3"]
        batches["batch of 3"] = {name: value[:, : max(1, value.shape[1] // 2)] for name, value in middle.items()}
    return batches


def is_text(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether a batch holds token ids: whole numbers ``[B, L]`` by name."""
    return "inputs" not in tensors and all(v.ndim == 2 and not v.is_floating_point() for v in tensors.values())


def as_float32(module: nn.Module) -> nn.Module:
    """Return the module itself if it is float32 on the CPU, else such a copy of it."""
    floats = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    if device_of(module).type == "cpu" and all(t.dtype == torch.float32 for t in floats):
        return module
    try:
        return copy.deepcopy(module).cpu().float()
    except Exception as error:
        raise DistilError(
            f"{type(module).__name__} cannot be copied to the CPU in float32 ({type(error).__name__}); give it so."
        ) from error
