"""What methods on graphs share: the teacher's logits of all nodes, kept, and what follows from them and the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import ModelHandle
from distil.errors import DistilError
from distil.functional.graph import edges
from distil.methods.compared import identified

__all__ = ["NodeMemory", "NodeMethod", "Once"]

Made = TypeVar("Made")


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

    def fill(self, name: str, teacher: ModelHandle, data: Any) -> None:
        """Run the teacher over ``data`` and keep what it says; ``name`` is whose memory it is, for messages."""
        self.logits = torch.zeros(0, 0)
        for batch in data:
            self.store(identified(name, batch), teacher(batch).logits)

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


class Once:
    """Something made of tensors, and kept for as long as the same tensors come unchanged; copies start empty.

    A graph's batch brings the same tensors at every step.

    >>> once, x = Once(), torch.tensor([2.0])
    >>> once(lambda: x * 2, x) is once(lambda: x * 2, x)
    True
    """

    def __init__(self) -> None:
        self._of: tuple[tuple[Tensor, int], ...] | None = None
        self._made: Any = None

    def __call__(self, make: Callable[[], Made], *tensors: Tensor) -> Made:
        of = tuple((tensor, 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
        known = self._of is not None and len(of) == len(self._of)
        if not known or any(a is not b or m != n for (a, m), (b, n) in zip(of, self._of or ())):
            self._made, self._of = make(), of
        made: Made = self._made
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {"_of": None, "_made": None}


class NodeMethod(Method):
    """A method on a full-batch graph: what the teacher says of every node is computed once, before training."""

    taps = ((None, "logits"), ("logits", None))

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self._joined, self._targets = Once(), Once()

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make the memory of the teacher's logits."""
        self.memory = NodeMemory()

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Compute the teacher's logits of every node once."""
        self.memory.fill(self.called, teacher, data)

    @property
    def called(self) -> str:
        """The method's name in messages."""
        return type(self).__name__.lower()

    def edges(self, batch: Batch, *, self_loops: bool) -> Tensor:
        """Return the edges of a batch without self loops, or with one for each node."""
        if "edge_index" not in batch:
            raise DistilError(
                "This method distils over edges and the batch has no 'edge_index'; it fits graphs (task "
                "'node-classification')."
            )
        index, inputs = batch["edge_index"], batch["inputs"]
        return self._joined(lambda: edges(index, len(inputs), self_loops=self_loops), index, inputs)

    def targets(self, batch: Batch, make: Callable[[Tensor], Made]) -> Made:
        """Return ``make(teacher's logits of the batch)``, made once for a graph that stays."""
        ids = identified(self.called, batch)
        index = batch.get("edge_index", ids)
        return self._targets(lambda: make(self.memory.read(ids)), ids, index, self.memory.logits)
