"""Classification of the nodes of one graph: a graph network sees the edges, a plain student sees the features alone."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, final

from torch import nn

from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.tasks.base import BatchReader, Prediction, Task
from distil.tasks.scores import class_loss, class_scores, labels_in, majority_share

__all__ = ["NodeTask", "needs_edges"]


def needs_edges(module: Any) -> bool:
    """Say whether a model takes ``(inputs, edge_index)`` rather than ``inputs`` alone.

    Its attribute ``needs_edges`` decides; without one, a parameter of ``forward`` called ``edge_index``, ``edges`` or
    ``adj_t`` does.
    """
    while not hasattr(module, "needs_edges"):  # look under compile's and DDP's wrappers
        inner = getattr(module, "_orig_mod", None)
        if inner is None and type(module).__name__.endswith("DataParallel"):
            inner = module.module
        if inner is None:
            owner: Any = type(module) if isinstance(module, nn.Module) else module
            return _takes_edges(owner)
        module = inner
    return bool(module.needs_edges)


@lru_cache(maxsize=256)
def _takes_edges(owner: Hashable) -> bool:
    function: Any = getattr(owner, "forward", owner)
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return any(name in names for name in ("edge_index", "edges", "adj_t"))


@final
class NodeTask(Task):
    """One of C classes per node of a graph that is one full batch.

    A batch is ``{"inputs": [N, F], "edge_index": [2, E], "labels": [N], "mask": bool [N], "id": [N]}``. Loss and scores
    count the nodes in ``mask`` that have a label; the forward pass sees all of them.
    """

    name = "node-classification"
    metric = "accuracy"
    unit = "%"
    higher_is_better = True

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        """Run ``module`` on the features, and on the edges only if it asks for them (see :func:`needs_edges`)."""
        if isinstance(module, BatchReader):
            return module(batch)
        if not needs_edges(module):
            return module(batch["inputs"])
        if "edge_index" not in batch:
            raise DistilError(
                f"{type(module).__name__} ({role}) needs the edges, but the batch has only {sorted(batch)}; give a "
                "batch with 'edge_index' [2, E]."
            )
        return module(batch["inputs"], batch["edge_index"])

    def loss(self, output: Any, batch: Mapping[str, Any]) -> Term:
        """Return the cross-entropy of each node; weight 0 outside ``mask`` and where the label is -100."""
        return class_loss(self.logits(output), batch["labels"], mask=batch.get("mask"), ids=batch.get("id"))

    def score(self, prediction: Prediction) -> dict[str, float]:
        """Return ``accuracy`` in %, ``nll`` in nats and ``ece`` in 0..1 over the labelled nodes of the mask."""
        logits, labels, ids = prediction["logits"], prediction["labels"], prediction["id"]
        if "mask" in prediction:
            mask = prediction["mask"]
            logits, labels, ids = logits[mask], labels[mask], ids[mask]
        return class_scores(logits, labels, ids)

    def chance(self, data: Any) -> float:
        """Return the accuracy, in %, of always answering the most frequent class of the masked nodes."""
        if isinstance(data, Mapping):
            labels = data["labels"]
            return majority_share(labels[data["mask"]] if "mask" in data else labels)
        return majority_share(labels_in(data))
