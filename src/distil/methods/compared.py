"""What methods read from taps and batches, refused in a sentence where it does not fit."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from distil.engine.method import Batch, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError

__all__ = ["embedding", "labelled", "map_pairs"]


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


def map_pairs(name: str, specs: Iterable[Spec], student: Traces, teacher: Traces) -> list[tuple[Tensor, Tensor]]:
    """Return the student's and the teacher's feature maps at ``specs``, pair by pair; "stages" gives several."""
    sides = []
    for trace in (student, teacher):
        found = [trace[spec] for spec in specs]
        maps = [m for value in found for m in (value if isinstance(value, tuple) else (value,))]
        flat = [m for m in maps if m.ndim != 4]
        if flat:
            raise DistilError(
                f"{name} compares feature maps [N, C, H, W]; a tap of the {trace.role} gives {list(flat[0].shape)}. "
                "Name convolutional stages, or use a method that fits tokens and vectors: kd, dkd, dist on logits; "
                "rkd, sp(tap='emb'), pkt, cc, crd on embeddings."
            )
        sides.append(maps)
    ours, theirs = sides
    if len(ours) != len(theirs):
        raise DistilError(
            f"{name}(taps={list(specs)}): the student has {len(ours)} maps and the teacher {len(theirs)}; pair them by "
            f"hand, e.g. {name.upper()}(taps=[('layer1', 'layer2'), …])."
        )
    return list(zip(ours, theirs))


def labelled(name: str, batch: Batch) -> Tensor:
    """Return which samples of a batch carry a label, ``[N]``."""
    if not isinstance(batch.get("labels"), Tensor):
        raise DistilError(
            f"{name} reads labels, and the batch has none (it has {', '.join(batch)}); give labelled data."
        )
    kept: Tensor = batch["labels"] >= 0
    return kept
