"""Classification of samples: one label per sample (or per pixel), scored by accuracy, likelihood and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from distil.errors import DistilError, nearest
from distil.functional.reduction import Term
from distil.tasks.base import Prediction, Task
from distil.tasks.scores import check_labels, class_loss, class_scores, labels_in, majority_share

__all__ = ["ClassificationTask"]

Statistics = tuple[float | Sequence[float], float | Sequence[float]]


@final
class ClassificationTask(Task):
    """One of C classes per sample; the model maps ``inputs`` to logits ``[B, C]``.

    Args:
        normalise: ``{"student": (mean, std), "teacher": (mean, std)}``, numbers or one per channel (dimension 1 of the
            inputs). A role that is named gets ``(inputs - mean) / std``, so that two models trained under different
            conventions can share raw batches. A role that is not named gets the inputs as they are.
        classes: the number of classes, if it is to be checked when a batch arrives; else it is read off the logits.

    >>> task = ClassificationTask()
    >>> output = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    >>> task.loss(output, {"labels": torch.tensor([1, -100])}).mean()
    tensor(0.6931)
    """

    name = "classification"
    metric = "accuracy"
    unit = "%"
    higher_is_better = True

    def __init__(self, *, normalise: Mapping[str, Statistics] | None = None, classes: int | None = None) -> None:
        self.classes = classes
        self.normalise = {role: _statistics(role, pair) for role, pair in (normalise or {}).items()}
        self._placed: dict[Any, tuple[Tensor, Tensor]] = {}

    def unpack(self, raw: Any) -> dict[str, Any]:
        """Return the batch dict; with ``classes`` given, labels are checked here, before they leave the CPU."""
        batch = super().unpack(raw)
        if self.classes is not None and batch["labels"].device.type == "cpu":
            check_labels(batch["labels"], self.classes, batch.get("id"))
        return batch

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        """Run ``module`` on the batch's inputs, normalised for ``role``; a dict of inputs becomes keyword arguments."""
        inputs = batch["inputs"]
        if isinstance(inputs, Mapping):
            return module(**inputs)
        return module(self._normalised(inputs, role))

    def loss(self, output: Any, batch: Mapping[str, Any]) -> Term:
        """Return the cross-entropy of each sample; weight 0 where the label is -100 or ``mask`` is false."""
        return class_loss(self.logits(output), batch["labels"], mask=batch.get("mask"), ids=batch.get("id"))

    def score(self, prediction: Prediction) -> dict[str, float]:
        """Return ``accuracy`` in %, ``nll`` in nats and ``ece`` in 0..1 over the labelled samples."""
        return class_scores(prediction["logits"], prediction["labels"], prediction["id"])

    def chance(self, data: Any) -> float:
        """Return the accuracy, in %, of always answering the most frequent class."""
        return majority_share(labels_in(data))

    def _normalised(self, inputs: Tensor, role: str) -> Tensor:
        if role not in self.normalise:
            return inputs
        mean, std = self.normalise[role]
        if inputs.ndim < 2 or mean.numel() not in (1, inputs.shape[1]):
            raise DistilError(
                f"normalise[{role!r}] has {mean.numel()} channels but the inputs have shape {tuple(inputs.shape)}; "
                "give one mean and std, or one for each entry of dimension 1."
            )
        # Kept per device: copying two small tensors to a GPU in every step would make the step wait for them.
        key = (role, inputs.device, inputs.dtype)
        if key not in self._placed:
            self._placed[key] = mean.to(inputs.device, inputs.dtype), std.to(inputs.device, inputs.dtype)
        mean, std = (value.view((1, -1) + (1,) * (inputs.ndim - 2)) for value in self._placed[key])
        return (inputs - mean) / std


def _statistics(role: str, pair: Statistics) -> tuple[Tensor, Tensor]:
    if role not in ("student", "teacher"):
        raise DistilError(f"normalise has the role {role!r}; {nearest(role, ['student', 'teacher'])}")
    mean, std = (torch.atleast_1d(torch.as_tensor(value, dtype=torch.float32)) for value in pair)
    if mean.numel() == 1:
        mean = mean.expand_as(std)
    if std.numel() == 1:
        std = std.expand_as(mean)
    if mean.shape != std.shape or not bool((std > 0).all()):
        raise DistilError(f"normalise[{role!r}]: mean {pair[0]} and std {pair[1]} must agree in length, with std > 0.")
    return mean, std
