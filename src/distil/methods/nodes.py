"""What the methods on graphs share: the teacher's logits of all nodes, kept, and the edge sets of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import ModelHandle
from distil.errors import DistilError
from distil.functional.graph import edges

__all__ = ["EdgeSets", "NodeMemory", "NodeMethod"]


class NodeMemory(nn.Module):
    """The frozen teacher's logits of every node, computed once and read by node id.

    >>> memory = NodeMemory()
    >>> memory.store(torch.tensor([3, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> memory.read(torch.tensor([1]))
    tensor([[0., 1.]])
    """

    logits: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(0, 0))

    def fill(self, teacher: ModelHandle, data: Any) -> None:
        """Run the teacher over ``data`` and keep what it says."""
        self.logits = torch.zeros(0, 0)
        for batch in data:
            self.store(batch["id"], teacher(batch).logits)

    def store(self, ids: Tensor, logits: Tensor) -> None:
        """Keep the logits ``[N, C]`` of the nodes ``ids``."""
        size = int(ids.max()) + 1
        if size > len(self.logits):
            grown = logits.new_full((size, logits.shape[1]), float("nan"))
            grown[: len(self.logits)] = self.logits if len(self.logits) else 0.0
            self.logits = grown
        self.logits = self.logits.to(logits.device)
        self.logits[ids] = logits.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + "logits")
        if isinstance(stored, Tensor):  # how many nodes there are is known only once the data were read
            self.logits = self.logits.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def read(self, ids: Tensor) -> Tensor:
        """Return the teacher's logits of the nodes ``ids``."""
        if not len(self.logits):
            raise DistilError(
                "The teacher's node logits were not computed: call distiller.prepare(data) before training."
            )
        if ids.device.type == "cpu" and len(ids) and int(ids.max()) >= len(self.logits):
            raise DistilError(
                f"Node id {int(ids.max())} was not in the data given to prepare() ({len(self.logits)} nodes); prepare "
                "with the whole graph."
            )
        return self.logits[ids]


class EdgeSets:
    """The edges of a graph without self loops, or with one per node; kept while the batch brings the same tensor."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, int] | None = None
        self._kept: dict[bool, Tensor] = {}

    def __call__(self, batch: Batch, *, self_loops: bool) -> Tensor:
        if "edge_index" not in batch:
            raise DistilError(
                "This method distils over edges and the batch has no 'edge_index'; it fits graphs (task "
                "'node-classification')."
            )
        index, count = batch["edge_index"], int(batch["inputs"].shape[0])
        if self._seen is None or self._seen[0] is not index or self._seen[1] != count:
            self._seen, self._kept = (index, count), {}
        if self_loops not in self._kept:
            self._kept[self_loops] = edges(index, count, self_loops=self_loops)
        return self._kept[self_loops]


class NodeMethod(Method):
    """A method on a full-batch graph: what the teacher says of every node is computed once, before training."""

    taps = ((None, "logits"), ("logits", None))

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.edges = EdgeSets()

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make the memory of the teacher's logits."""
        self.memory = NodeMemory()

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Compute the teacher's logits of every node once."""
        self.memory.fill(teacher, data)
