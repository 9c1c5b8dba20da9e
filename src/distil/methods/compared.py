"""What methods read from taps and batches, refused in a sentence where it does not fit."""

from __future__ import annotations

from torch import Tensor

from distil.engine.method import Batch, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError

__all__ = ["embedding", "identified", "labelled"]


def embedding(name: str, spec: Spec, trace: Traces) -> Tensor:
    """Return the embedding ``[N, D]`` at a tap; a pooled map ``[N, D, 1, 1]`` counts as one."""
    found: Tensor = trace[spec]
    if found.ndim > 2 and found.shape[2:].numel() == 1:
        found = found.flatten(1)
    if found.ndim != 2:
        raise DistilError(
            f"{name} compares embeddings [N, D]; tap '{spec}' of the {trace.role} gives {list(found.shape)}. Name the "
            f"input of the classifier, {name}(tap='emb'), or another place where each sample is one row."
        )
    return found


def labelled(name: str, batch: Batch) -> Tensor:
    """Return which samples of a batch carry a label, ``[N]``."""
    if not isinstance(batch.get("labels"), Tensor):
        raise DistilError(
            f"{name} reads labels, and the batch has none (it has {', '.join(batch)}); give labelled data."
        )
    kept: Tensor = batch["labels"] >= 0
    return kept


def identified(name: str, batch: Batch) -> Tensor:
    """Return the ids of a batch's samples, ``[N]``."""
    ids = batch.get("id")
    if not isinstance(ids, Tensor):
        raise DistilError(
            f"{name} remembers every sample by its id, and the batch has none: wrap the dataset in "
            "distil.data.indexed(dataset) before it is batched, or yield batches with 'id'."
        )
    return ids
