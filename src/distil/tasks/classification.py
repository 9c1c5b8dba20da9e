"""Classification of samples: one label per sample (or per pixel), scored by accuracy, likelihood and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.data.bundle import NO_LABEL
from distil.errors import DistilError, nearest
from distil.functional.reduction import Term
from distil.tasks.base import BatchReader, Prediction, Task
from distil.tasks.scores import check_labels, class_loss, class_scores, group_scores, labels_in, majority_share

__all__ = ["ClassificationTask"]

Statistics = tuple[float | Sequence[float] | Tensor, float | Sequence[float] | Tensor]


@final
class ClassificationTask(Task):
    """One of C classes per sample; the model maps ``inputs`` to logits ``[B, C]``.

    Args:
        normalise: ``{"student": (mean, std), "teacher": (mean, std)}``, numbers or one per channel (dimension 1 of the
            inputs). A role that is named gets ``(inputs - mean) / std``, so that two models trained under different
            conventions can share raw batches. A role that is not named gets the inputs as they are.
        input_size: ``{"teacher": 224}`` or ``{"teacher": (height, width)}``: images ``[B, C, H, W]`` are resized for a
            role that is named (bilinear, antialiased where it shrinks), before they are normalised.
        classes: the number of classes, if it is to be checked when a batch arrives; else it is read off the logits.
        groups: classes to be scored by themselves, by name: each adds ``NAME accuracy``, and all of them ``balanced
            accuracy`` (see :func:`~distil.tasks.scores.group_scores`), which tell of tails that accuracy hides.

    >>> task = ClassificationTask()
    >>> output = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    >>> task.loss(output, {"labels": torch.tensor([1, -100])}).mean()
    tensor(0.6931)
    """

    name = "classification"
    metric = "accuracy"
    unit = "%"
    higher_is_better = True

    def __init__(
        self,
        *,
        normalise: Mapping[str, Statistics] | None = None,
        input_size: Mapping[str, int | Sequence[int]] | None = None,
        classes: int | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.classes = classes
        self.groups = {name: tuple(members) for name, members in (groups or {}).items()}
        self.normalise = {role: _statistics(role, pair) for role, pair in (normalise or {}).items()}
        self.input_size = {role: _size(role, size) for role, size in (input_size or {}).items()}
        self._placed: dict[Any, tuple[Tensor, Tensor]] = {}

    def unpack(self, raw: Any) -> dict[str, Any]:
        """Return the batch dict; with ``classes`` given, labels are checked here, before they leave the CPU."""
        batch = super().unpack(raw)
        if self.classes is not None and batch["labels"].device.type == "cpu":
            check_labels(batch["labels"], self.classes, batch.get("id"))
        return batch

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        """Run ``module`` on the inputs, resized and normalised for ``role``; a dict of them becomes keywords."""
        inputs = batch["inputs"]
        if isinstance(module, BatchReader):
            return module(batch)
        if isinstance(inputs, Mapping):
            return module(**inputs)
        return module(self._normalised(self._resized(inputs, role), role))

    def loss(self, output: Any, batch: Mapping[str, Any]) -> Term:
        """Return the cross-entropy of each sample; weight 0 where the label is -100 or ``mask`` is false.

        A sample mixed from two (``share`` and ``partner_labels``, from ``distil.data.Viewed``) costs the mean of both
        labels' cross-entropies, weighed by their shares; a partner without a label adds nothing.
        """
        logits, rest = self.logits(output), {"mask": batch.get("mask"), "ids": batch.get("id")}
        own = class_loss(logits, batch["labels"], **rest)
        if "partner_labels" not in batch:
            return own
        other, share = class_loss(logits, batch["partner_labels"], **rest), batch["share"].to(logits.device)
        share = torch.where(batch["partner_labels"] == NO_LABEL, 1.0, share).to(own.values.dtype)
        return Term(share * own.values + (1 - share) * other.values, own.weights)

    def score(self, prediction: Prediction) -> dict[str, float]:
        """Return ``accuracy`` in %, ``nll`` in nats, ``ece`` in 0..1 over the labelled samples, and groups' scores."""
        logits, labels = prediction["logits"], prediction["labels"]
        scores = class_scores(logits, labels, prediction["id"])
        if self.groups:
            self._check_groups(logits.shape[1])
            scores |= group_scores(logits, labels, self.groups)
        return scores

    def _check_groups(self, classes: int) -> None:
        for name, members in self.groups.items():
            if not members or not set(members) <= set(range(classes)):
                raise DistilError(
                    f"groups[{name!r}]={list(members)} must name some of the {classes} classes 0 … {classes - 1}."
                )

    def chance(self, data: Any) -> float:
        """Return the accuracy, in %, of always answering the most frequent class."""
        return majority_share(labels_in(data))

    def _resized(self, inputs: Tensor, role: str) -> Tensor:
        size = self.input_size.get(role)
        if size is None or inputs.shape[2:] == size:
            return inputs
        if inputs.ndim != 4:
            raise DistilError(
                f"input_size[{role!r}] resizes images [B, C, H, W] but the inputs have shape {tuple(inputs.shape)}; "
                "leave it out."
            )
        return F.interpolate(inputs, size, mode="bilinear", antialias=True)

    def _normalised(self, inputs: Tensor, role: str) -> Tensor:
        if role not in self.normalise:
            return inputs
        mean, std = self.normalise[role]
        if inputs.ndim < 2 or mean.numel() not in (1, inputs.shape[1]):
            raise DistilError(
                f"normalise[{role!r}] has {mean.numel()} channels but the inputs have shape {tuple(inputs.shape)}; "
                "give one mean and std, or one for each entry of dimension 1 (channels=3 reads grey images as RGB)."
            )
        # Kept per device: copying two small tensors to a GPU in every step would make the step wait for them.
        key = (role, inputs.device, inputs.dtype)
        if key not in self._placed:
            self._placed[key] = mean.to(inputs.device, inputs.dtype), std.to(inputs.device, inputs.dtype)
        mean, std = (value.view((1, -1) + (1,) * (inputs.ndim - 2)) for value in self._placed[key])
        return (inputs - mean) / std


def _check_role(name: str, role: str) -> None:
    if role not in ("student", "teacher"):
        raise DistilError(f"{name} has the role {role!r}; {nearest(role, ['student', 'teacher'])}")


def _size(role: str, size: int | Sequence[int]) -> tuple[int, int]:
    _check_role("input_size", role)
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise DistilError(f"input_size[{role!r}]={size} is impossible; expected at least 1.")
    return int(height), int(width)


def _statistics(role: str, pair: Statistics) -> tuple[Tensor, Tensor]:
    _check_role("normalise", role)
    mean, std = (torch.atleast_1d(torch.as_tensor(value, dtype=torch.float32)) for value in pair)
    if mean.numel() == 1:
        mean = mean.expand_as(std)
    if std.numel() == 1:
        std = std.expand_as(mean)
    if mean.shape != std.shape or not bool((std > 0).all()):
        raise DistilError(f"normalise[{role!r}]: mean {pair[0]} and std {pair[1]} must agree in length, with std > 0.")
    return mean, std
