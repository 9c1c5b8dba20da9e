"""Segmentation: one class for every pixel, scored by the mean intersection over union."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.data.bundle import NO_LABEL
from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.tasks.base import Prediction, Task
from distil.tasks.scores import check_labels, class_loss, labels_in, majority_share

__all__ = ["SegmentationTask", "confusion", "overlap_scores"]


@final
class SegmentationTask(Task):
    """One of C classes per pixel; the model maps ``inputs`` ``[B, 3, H, W]`` to scores ``[B, C, h, w]``.

    Scores are resized to the labels (bilinear, corners not aligned) before they are compared with them. Labels are
    ``[B, H, W]``; a pixel labelled -100, or as the void class, counts neither in the loss nor in a score. Counted
    elements are pixels.

    Args:
        void: a further label that means "no label", such as 255 (or 11 in raw CamVid masks).

    >>> task = SegmentationTask(void=11)
    >>> batch = task.unpack({"inputs": torch.zeros(1, 3, 2, 2), "labels": torch.tensor([[[0, 1], [11, 11]]])})
    >>> task.loss(torch.zeros(1, 2, 1, 1), batch).mean()
    tensor(0.6931)
    """

    name = "segmentation"
    metric = "mIoU"
    higher_is_better = True
    unit = "%"

    def __init__(self, *, void: int | None = None) -> None:
        self.void = void

    @property
    def has_accuracy(self) -> bool:
        """There is a pixel accuracy beside the metric."""
        return True

    def unpack(self, raw: Any) -> dict[str, Any]:
        """Return the batch dict, void pixels labelled -100; a batch without labels gets a map of -100."""
        batch = super().unpack(raw)
        labels, inputs = batch["labels"], batch["inputs"]
        if labels.ndim == 1 and bool((labels == NO_LABEL).all()):
            labels = labels[:, None, None].expand(-1, *inputs.shape[-2:])
        if labels.ndim != 3:
            raise DistilError(
                f"segmentation: the labels are {tuple(labels.shape)} but maps [N, H, W] of class ids are expected; "
                "give one label for each pixel."
            )
        batch["labels"] = labels if self.void is None else torch.where(labels == self.void, NO_LABEL, labels)
        return batch

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        """Run ``module`` on the batch's images."""
        return module(batch["inputs"])

    def logits(self, output: Any) -> Tensor:
        """Return the score map in a model's output; torchvision's ``{"out": …}`` is known too."""
        if isinstance(output, Mapping) and "out" in output and "logits" not in output:
            output = output["out"]
        return super().logits(output)

    def loss(self, output: Any, batch: Mapping[str, Any]) -> Term:
        """Return the cross-entropy of each pixel, ``[B, H, W]``; weight 0 where it has no label."""
        labels = batch["labels"]
        return class_loss(resized(self.logits(output), labels), labels, mask=batch.get("mask"), ids=batch.get("id"))

    def score(self, prediction: Prediction) -> dict[str, float]:
        """Return ``mIoU`` and pixel ``accuracy``, both in %."""
        return overlap_scores(confusion(prediction))

    def evaluate(self, module: Any, data: Any, **options: Any) -> dict[str, float]:
        """Return the scores over a data set, held as one table of classes, whatever the size of the data."""
        table: Tensor | None = None
        options.setdefault("batch_size", 64)
        for part in self.answers(module, data, **options):
            table = _added(table, confusion(part))
        assert table is not None  # answers() refuses data without a batch
        return overlap_scores(table)

    def chance(self, data: Any) -> float:
        """Return the mIoU, in %, of always answering the most frequent class."""
        labels = labels_in(data)
        labels = labels[self._counted(labels)]
        return majority_share(labels) / max(1, len(labels.unique()))

    def chance_accuracy(self, data: Any) -> float:
        """Return the pixel accuracy, in %, of always answering the most frequent class."""
        labels = labels_in(data)
        return majority_share(labels[self._counted(labels)])

    def _counted(self, labels: Tensor) -> Tensor:
        counted = labels != NO_LABEL
        return counted if self.void is None else counted & (labels != self.void)

    def _answer(self, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Keep the class and its probability for each pixel: three or four bytes, not four for each class."""
        check_labels(batch["labels"].cpu(), logits.shape[1], batch.get("id"))
        confidence, answer = resized(logits.float(), batch["labels"]).softmax(1).max(1)
        small = torch.uint8 if logits.shape[1] <= 256 else torch.int16
        return {"answer": answer.to(small).cpu(), "confidence": confidence.half().cpu()}


def resized(scores: Tensor, labels: Tensor) -> Tensor:
    """Return a score map at the height and width of the labels."""
    if scores.ndim != 4 or scores.shape[0] != labels.shape[0]:
        raise DistilError(
            f"segmentation: the scores are {tuple(scores.shape)} and the labels {tuple(labels.shape)}; expected a "
            "score map [N, C, h, w] for labels [N, H, W]."
        )
    if scores.shape[2:] == labels.shape[1:]:
        return scores
    raised = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    return F.interpolate(raised, size=labels.shape[1:], mode="bilinear", align_corners=False)


def confusion(prediction: Prediction) -> Tensor:
    """Return how often each class (row) was answered as each class (column), over the labelled pixels.

    >>> from distil.tasks.segmentation import confusion
    >>> labels, answer = torch.tensor([[[0, 1, -100]]]), torch.tensor([[[0, 0, 1]]])
    >>> confusion({"labels": labels, "answer": answer, "id": torch.zeros(1)})
    tensor([[1, 0],
            [1, 0]])
    """
    labels, answer = prediction["labels"], prediction["answer"].long()
    counted = labels != NO_LABEL
    if "mask" in prediction:
        counted = counted & prediction["mask"]
    labels, answer = labels[counted], answer[counted]
    classes = 1 + max(int(labels.max()), int(answer.max())) if len(labels) else 1
    return torch.bincount(labels * classes + answer, minlength=classes**2).view(classes, classes)


def overlap_scores(table: Tensor) -> dict[str, float]:
    """Return mIoU and pixel accuracy, in %, from a table of classes (rows: labels).

    Intersection over union is averaged over the classes that occur among labels or answers.

    >>> {name: round(value, 2) for name, value in overlap_scores(torch.tensor([[1, 0], [1, 2]])).items()}
    {'mIoU': 58.33, 'accuracy': 75.0}
    """
    total = int(table.sum())
    if not total:
        raise DistilError("none of the pixels has a label, so nothing can be scored; give labelled data.")
    right = table.diagonal().double()
    union = table.sum(0) + table.sum(1) - table.diagonal()
    found = union > 0
    return {
        "mIoU": 100 * float((right[found] / union[found]).mean()),
        "accuracy": 100 * float(right.sum()) / total,
    }


def _added(table: Tensor | None, more: Tensor) -> Tensor:
    """Add two tables, of which one may not have seen the last classes."""
    if table is None:
        return more
    size = max(len(table), len(more))
    return sum((F.pad(each, (0, size - len(each)) * 2) for each in (table, more)), start=table.new_zeros(size, size))
