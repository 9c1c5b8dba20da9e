"""What a task is: how a model is called on a batch, what its labels cost, and how it is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from distil.data.bundle import NO_LABEL, as_dict, integer_labels
from distil.data.loading import as_batches
from distil.errors import DistilError
from distil.functional.reduction import Term

__all__ = ["BatchReader", "Prediction", "Task", "evaluating", "to_device"]


class Prediction(TypedDict):
    """What a model said about a data set, on the CPU: ``logits`` float32 ``[N, C]``, ``labels`` and ``id`` int64.

    ``mask`` is there where only some rows are to be scored (nodes of a graph). A dense task gives no logits, which
    would not fit into memory, but the ``answer`` and its ``confidence``, both of the labels' shape.
    """

    logits: NotRequired[Tensor]
    answer: NotRequired[Tensor]
    confidence: NotRequired[Tensor]
    labels: Tensor
    id: Tensor
    mask: NotRequired[Tensor]


class BatchReader(nn.Module):
    """A stand-in for a model that needs the whole batch (its ids): a task calls it with the batch, not the inputs."""

    def places(self, tap: str) -> tuple[str, ...]:
        """Return the paths of the modules that give a tap by this name; by default there is none to give."""
        raise DistilError(f"{type(self).__name__} has no layers, so it has no tap {tap!r}; use the live model.")


class Task(ABC):
    """How to call a model on a batch, the loss of its labels, and its scores.

    Attributes:
        name: the task's name, as written in a configuration.
        metric: the score that decides which model is better.
        higher_is_better: the direction of ``metric``.
        unit: of ``metric``, as reports show it.
    """

    name: str
    metric: str
    higher_is_better: bool = True
    unit: str = ""

    @property
    def has_accuracy(self) -> bool:
        """Whether ``score`` gives an ``accuracy`` in %, so that a teacher can be held against ``chance_accuracy``."""
        return self.metric == "accuracy"

    def unpack(self, raw: Any) -> dict[str, Any]:
        """Return a batch dict with ``inputs`` and int64 ``labels`` (-100 where absent), from whatever a loader yields.

        Args:
            raw: a dict under the usual names (Hugging Face's among them), an ``(x, y)`` pair or list, or inputs alone.
        """
        batch = as_dict(raw)
        if batch.get("labels") is None:
            batch["labels"] = torch.full((_batch_size(batch["inputs"]),), NO_LABEL)
        batch["labels"] = integer_labels(torch.as_tensor(batch["labels"]))
        if "id" in batch:
            batch["id"] = torch.as_tensor(batch["id"]).long()
        return batch

    def prepare(self, batch: dict[str, Any], rng: torch.Generator) -> dict[str, Any]:
        """Return the batch after batch-level preparation; by default as it is."""
        return batch

    @abstractmethod
    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        """Run ``module`` on a batch as ``role`` ("student" or "teacher") and return its own output."""

    def logits(self, output: Any) -> Tensor:
        """Return the logits in a model's output: a tensor, ``.logits``, ``["logits"]``, or the first of a tuple."""
        found = output
        if isinstance(output, Mapping):
            found = output.get("logits")
        elif hasattr(output, "logits"):
            found = output.logits
        elif isinstance(output, tuple | list) and output:
            found = output[0]
        if not isinstance(found, Tensor):
            keys = f" with the keys {sorted(map(str, output))}" if isinstance(output, Mapping) else ""
            raise DistilError(
                f"the model's output is {type(output).__name__}{keys} and holds no logits; return a tensor, a tuple "
                "with the logits first, or something with .logits or ['logits']."
            )
        return found

    @abstractmethod
    def loss(self, output: Any, batch: Mapping[str, Any]) -> Term:
        """Return the unreduced loss of the labels; an element without a label (-100) weighs 0."""

    def predict(
        self,
        module: Any,
        data: Any,
        *,
        role: str = "student",
        batch_size: int = 256,
        device: torch.device | str | None = None,
    ) -> Prediction:
        """Run a model over a data set in eval mode, without gradients; every module's mode is restored afterwards.

        Args:
            module: the model, or any callable that ``call`` can run.
            data: a dataset, a source of batches, or an iterable of them.
            role: whose preparation of the inputs is used.
            batch_size: for datasets.
            device: where the model is; default the device of its first parameter.
        """
        parts: dict[str, list[Tensor]] = {}
        for part in self.answers(module, data, role=role, batch_size=batch_size, device=device):
            for name, tensor in part.items():
                parts.setdefault(name, []).append(tensor)  # type: ignore[arg-type]
        # Tensors made under inference_mode cannot take part in autograd later; a copy can.
        joined = {name: torch.cat(tensors).clone() for name, tensors in parts.items()}
        return Prediction(**joined)  # type: ignore[typeddict-item]

    def answers(
        self,
        module: Any,
        data: Any,
        *,
        role: str = "student",
        batch_size: int = 256,
        device: torch.device | str | None = None,
    ) -> Iterator[Prediction]:
        """Yield the prediction of one batch after another; what :meth:`predict` joins, under the same arguments."""
        if hasattr(data, "__len__"):  # a small set is no mistake here, so it must not be warned about
            batch_size = max(1, min(batch_size, len(data)))
        where = torch.device(device) if device is not None else device_of(module)
        seen = 0
        for raw in as_batches(data, batch_size):
            batch = self.unpack(raw)
            # Entered anew for every batch: a generator must not leave its caller in another mode.
            with evaluating(module), torch.inference_mode():
                given = self._answer(self.logits(self.call(module, to_device(batch, where), role)), batch)
            count = len(batch["labels"])
            part = {**given, "labels": batch["labels"].cpu()}
            part["id"] = batch["id"].cpu() if "id" in batch else torch.arange(seen, seen + count)
            if "mask" in batch:
                part["mask"] = batch["mask"].cpu()
            seen += count
            yield Prediction(**part)  # type: ignore[typeddict-item]
        if not seen:
            raise DistilError(f"{self.name}: there is nothing to predict; the data hold no batch.")

    def _answer(self, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return what a prediction keeps of a batch's logits."""
        return {"logits": logits.float().cpu()}

    @abstractmethod
    def score(self, prediction: Prediction) -> dict[str, float]:
        """Return the scores of a prediction, ``metric`` among them."""

    def evaluate(self, module: Any, data: Any, **options: Any) -> dict[str, float]:
        """Return ``score(predict(module, data, **options))``."""
        return self.score(self.predict(module, data, **options))

    @abstractmethod
    def chance(self, data: Any) -> float:
        """Return what ``metric`` would be without looking at the inputs, in the same unit."""

    def preprocessing(self) -> dict[str, Any] | None:
        """Return how a shipped student's inputs are made from raw data, as plain JSON; by default nothing is said."""
        return None

    def keep(self, folder: Path) -> Path | None:
        """Save what :meth:`preprocessing` names into a run's folder and return where; by default there is nothing."""
        return None

    def chance_accuracy(self, data: Any) -> float:
        """Return the accuracy, in %, without looking at the inputs; ``chance`` where the metric is accuracy."""
        return self.chance(data)


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Put a model into eval mode and give every one of its modules its own mode back."""
    modes = [(part, part.training) for part in module.modules()] if isinstance(module, nn.Module) else []
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def device_of(module: Any) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU for anything else."""
    if isinstance(module, nn.Module):
        for tensors in (module.parameters(), module.buffers()):
            for tensor in tensors:
                return tensor.device
    return torch.device("cpu")


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with every tensor on ``device``, through nested dicts and lists."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, (dict, Mapping)):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def _batch_size(inputs: Any) -> int:
    if isinstance(inputs, Mapping):
        inputs = next(iter(inputs.values()))
    return len(inputs)
