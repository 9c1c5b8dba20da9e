"""Scores of class predictions and the checks of their labels, shared by every task with classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.data.bundle import NO_LABEL, labels_of
from distil.data.loading import BatchSource, as_batches
from distil.errors import DistilError
from distil.functional.reduction import Term

__all__ = ["all_labelled", "check_labels", "class_loss", "class_scores", "group_scores", "labels_in", "majority_share"]


def check_labels(labels: Tensor, classes: int, ids: Tensor | None = None) -> None:
    """Refuse a batch whose labels are neither in 0..classes-1 nor -100, naming the label and the sample.

    The good case costs two reductions; it is meant for labels still on the CPU, where nothing waits for it.

    Args:
        labels: int64, any shape whose first dimension is the batch.
        classes: the number of classes C.
        ids: the batch's sample ids, for the message.
    """
    if labels.numel() == 0:
        return
    low, high = torch.aminmax(labels)
    if low >= 0 and high < classes:
        return
    wrong = (labels != NO_LABEL) & ((labels < 0) | (labels >= classes))
    if not wrong.any():
        return
    where = wrong.nonzero()[0]
    row = int(where[0])
    sample = f"sample id {int(ids[row])}" if ids is not None else f"row {row} of the batch"
    raise DistilError(
        f"the label {int(labels[tuple(where)])} of {sample} is outside 0..{classes - 1} (the model has {classes} "
        "outputs); correct the labels, use -100 for 'no label', or give the model more outputs."
    )


def class_loss(logits: Tensor, labels: Tensor, *, mask: Tensor | None = None, ids: Tensor | None = None) -> Term:
    """Return the unreduced cross-entropy, computed in float32; rows without a label or outside ``mask`` weigh 0.

    Args:
        logits: ``[B, C]`` or ``[B, C, ...]``.
        labels: ``[B]`` or ``[B, ...]``, int64.
        mask: which elements count, of the labels' shape.
        ids: for the message about a wrong label.
    """
    if logits.ndim < 2 or logits.shape[:1] + logits.shape[2:] != labels.shape:
        raise DistilError(
            f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} do not fit; expected "
            "logits [B, C, ...] and labels [B, ...]."
        )
    working = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    try:
        values = F.cross_entropy(working, labels, reduction="none", ignore_index=NO_LABEL)
    except IndexError:  # a CPU looks at every label by itself
        check_labels(labels, logits.shape[1], ids)
        raise
    if mask is None and all_labelled(labels):
        return Term(values)
    counted = labels != NO_LABEL
    if mask is not None:
        counted = counted & mask
    return Term(values, counted.to(values.dtype))


def all_labelled(labels: Tensor) -> bool:
    """Say whether every element is known to have a label; on an accelerator, where looking waits, nothing is known.

    >>> all_labelled(torch.tensor([2, 0])), all_labelled(torch.tensor([2, -100]))
    (True, False)
    """
    return labels.device.type == "cpu" and labels.numel() > 0 and int(labels.min()) > NO_LABEL


def class_scores(logits: Tensor, labels: Tensor, ids: Tensor | None = None) -> dict[str, float]:
    """Return accuracy (in %), mean negative log-likelihood, and expected calibration error (15 bins, in 0..1).

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``; rows with -100 are left out.
        ids: for the message about a wrong label.
    """
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    classes = logits.shape[1]
    check_labels(labels, classes, ids)
    kept = labels != NO_LABEL
    if not kept.any():
        raise DistilError(
            f"none of the {len(labels)} samples has a label, so nothing can be scored; give labelled data."
        )
    logits, labels = logits[kept].float(), labels[kept]
    accuracy = multiclass_accuracy(logits, labels, classes, average="micro")
    # Both scores are undefined for broken logits; saying so beats a number made of them.
    ece = torch.tensor(float("nan"))
    if logits.isfinite().all():
        ece = multiclass_calibration_error(logits.softmax(1), labels, classes, n_bins=15)
    return {
        "accuracy": 100 * float(accuracy),
        "nll": float(F.cross_entropy(logits, labels)),
        "ece": float(ece),
    }


def group_scores(logits: Tensor, labels: Tensor, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return ``balanced accuracy`` and ``NAME accuracy`` of each group of classes, all in %.

    Each is the mean over classes of the share of their samples that is answered right, whatever the classes' sizes;
    a class without a sample is left out, and a group without any has no number (NaN).

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``; rows with -100 are left out.
        groups: names and their classes.

    >>> logits, labels = torch.eye(3)[[0, 0, 0, 2]], torch.tensor([0, 0, 1, 2])
    >>> group_scores(logits, labels, {"tail": [1, 2]})
    {'balanced accuracy': 66.66666666666667, 'tail accuracy': 50.0}
    """
    kept = labels != NO_LABEL
    answers, labels = logits[kept].argmax(1), labels[kept]
    classes = logits.shape[1]
    right = labels[answers == labels].bincount(minlength=classes).double()
    found = 100 * right / labels.bincount(minlength=classes)  # NaN for a class without a sample
    named = {"balanced accuracy": range(classes), **{f"{name} accuracy": group for name, group in groups.items()}}
    return {name: float(found[list(group)].nanmean()) for name, group in named.items()}


def labels_in(data: Any) -> Tensor:
    """Return every label in a data set, ``[N]``, from its ``labels`` where it has them, else by reading it."""
    labels = getattr(data, "labels", None)
    if isinstance(labels, Tensor):
        return labels.flatten()
    dataset = getattr(data, "dataset", data)  # Batches and DataLoader hold the dataset
    if (
        hasattr(dataset, "__getitem__")
        and hasattr(dataset, "__len__")
        and not isinstance(dataset, list | tuple | Mapping)
    ):
        return labels_of(dataset).flatten()
    source: BatchSource = as_batches(data)
    found = []
    for raw in source:
        batch = raw if isinstance(raw, Mapping) else dict(zip(("inputs", "labels"), raw))
        values = torch.as_tensor(batch["labels"])
        found.append((values[batch["mask"]] if "mask" in batch else values).flatten())
    return torch.cat(found)


def majority_share(labels: Tensor) -> float:
    """Return the share of the most frequent class among the labelled elements, in %.

    >>> majority_share(torch.tensor([0, 1, 1, -100]))
    66.66666666666667
    """
    kept = labels[labels != NO_LABEL]
    if not len(kept):
        raise DistilError("no sample has a label, so there is no chance level; give labelled data.")
    return 100 * int(kept.bincount().max()) / len(kept)
