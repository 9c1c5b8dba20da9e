"""Encoders without a classifier: called on images, scored by whom their features have for neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.data.bundle import NO_LABEL
from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.tasks.base import BatchReader, Prediction, Task
from distil.tasks.scores import labels_in, majority_share

__all__ = ["FeatureTask", "neighbour_answers"]

CHUNK = 1024  # rows whose distances are held at once


@final
class FeatureTask(Task):
    """Features of inputs; the model maps ``inputs`` to ``[B, …]``, which is flattened, and there is no loss of labels.

    A model is scored by the vote of each sample's ``k`` nearest others in the same data (L2), in % of the labelled
    samples; fewer where there are fewer. Labels are read for that alone: training needs none.

    Args:
        k: neighbours.

    >>> task = FeatureTask(k=1)
    >>> features, labels = torch.tensor([[0.0], [1.0], [8.0], [9.0]]), torch.tensor([0, 0, 1, 0])
    >>> task.score({"logits": features, "labels": labels, "id": torch.arange(4)})
    {'neighbours': 50.0}
    """

    name = "features"
    metric = "neighbours"
    unit = "%"
    higher_is_better = True

    def __init__(self, *, k: int = 20) -> None:
        if k < 1:
            raise DistilError(f"features: k={k} neighbours must be at least 1.")
        self.k = k

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        """Run ``module`` on the inputs; a dict of them (images and which patches are seen) becomes keywords.

        ``restore``, which asks a masked autoencoder for pixels, is the student's alone: no teacher's decoder runs.
        """
        inputs = batch["inputs"]
        if isinstance(module, BatchReader) or not isinstance(inputs, Mapping):
            return module(batch if isinstance(module, BatchReader) else inputs)
        return module(**{key: value for key, value in inputs.items() if key != "restore" or role == "student"})

    def loss(self, output: Any, batch: Mapping[str, Any]) -> Term:
        """Refuse: an encoder gives no classes."""
        raise DistilError(
            "The task 'features' has no loss of labels, since an encoder gives no classes; take Supervised() out of "
            "the method, or train a classifier with task='classification'."
        )

    def score(self, prediction: Prediction) -> dict[str, float]:
        """Return ``neighbours``: how often the vote of a sample's nearest others is its own label, in %."""
        rows = prediction["labels"] != NO_LABEL
        features, labels = prediction["logits"][rows].flatten(1), prediction["labels"][rows]
        if len(labels) < 2:
            raise DistilError(
                f"features: {len(labels)} labelled samples have no neighbours to be judged by; score on more."
            )
        answers = neighbour_answers(features, features, labels, k=min(self.k, len(labels) - 1), apart=True)
        return {"neighbours": 100 * float((answers == labels).double().mean())}

    def chance(self, data: Any) -> float:
        """Return the share, in %, of the most frequent class."""
        return majority_share(labels_in(data))


def neighbour_answers(features: Tensor, bank: Tensor, labels: Tensor, *, k: int, apart: bool = False) -> Tensor:
    """Return the class that most of the ``k`` nearest rows of ``bank`` have (L2); of equally many the lowest.

    Args:
        features: ``[M, D]``.
        bank, labels: ``[N, D]`` and ``[N]``, classes from 0.
        k: from 1 to N, or to N − 1 with ``apart``.
        apart: ``features`` is ``bank``, and no row is its own neighbour.
    """
    classes, answers, begun = int(labels.max()) + 1, [], 0
    for part in features.split(CHUNK):
        gaps = torch.cdist(part, bank)
        if apart:
            rows = torch.arange(len(part))
            gaps[rows, begun + rows] = torch.inf
        nearest = gaps.topk(k, dim=1, largest=False).indices
        answers.append(F.one_hot(labels[nearest], classes).sum(1).argmax(1))
        begun += len(part)
    return torch.cat(answers)
