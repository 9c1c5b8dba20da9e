"""The task's own loss: what a student learns from labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor

from distil.data.bundle import NO_LABEL
from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, is_streams
from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.tasks import all_labelled

__all__ = ["Supervised"]


@final
class Supervised(Method):
    """The task loss on the student's output: cross-entropy for classification.

    The mean over labelled elements; an element labelled -100, or outside the batch's ``mask``, weighs 0.

    Args:
        stream: the stream whose labels count, where there are several.

    Example:
        >>> from distil.methods import KD, Supervised
        >>> (0.9 * KD(temperature=4) + 0.1 * Supervised()).expression
        '0.9*kd(temperature=4) + 0.1*supervised'
    """

    taps = (("logits", None),)
    at_equality: Mapping[str, None] = {"supervised": None}

    def __init__(self, *, stream: str | None = None, name: str | None = None) -> None:
        super().__init__(name=name)
        self.stream = stream
        self.labels = True if stream is None else (stream,)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``supervised``."""
        part = self._part(batch)
        return {"supervised": student.task.loss(student(part).output, part)}

    def counts(self, batch: Batch) -> dict[str, float | Tensor]:
        """Count the elements that carry a label."""
        part = self._part(batch)
        if "labels" not in part:
            raise DistilError(
                "Supervised() needs labels and the batch has none; give labelled data, or drop it from the method."
            )
        labels, mask = part["labels"], part.get("mask")
        if mask is None and all_labelled(labels):
            return {"supervised": float(labels.numel())}
        counted = labels != NO_LABEL
        return {"supervised": (counted if mask is None else counted & mask).sum()}

    def _part(self, batch: Batch) -> Batch:
        if self.stream is None:
            if is_streams(batch):
                raise DistilError(
                    f"The batch has the streams {', '.join(batch)}; say whose labels count: "
                    f"Supervised(stream='{next(iter(batch))}')."
                )
            return batch
        if self.stream not in batch:
            raise DistilError(
                f"Supervised(stream='{self.stream}') names no stream of the batch; it has {', '.join(map(str, batch))}."
            )
        part: Batch = batch[self.stream]
        return part
