"""Using an exported folder: label and probability for each sample, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distil.errors import DistilError
from distil.ship.folder import Exported
from distil.ship.inputs import Skipped, batches

__all__ = ["Answer", "predict"]


@dataclass(frozen=True)
class Answer:
    """What a model says of one sample: its labels, most likely first, with their probabilities."""

    name: str
    labels: list[str]
    probabilities: list[float]


def predict(
    exported: Exported, files: Iterable[str | Path], *, top: int = 1, batch_size: int = 32
) -> Iterator[Answer | Skipped]:
    """Yield an :class:`Answer` for every sample, and a ``Skipped`` for every file that cannot be read.

    Args:
        exported: what :func:`distil.ship.open_export` gave.
        files: pictures, tables, texts or folders of them, as its ``preprocessing`` wants.
        top: how many labels of each sample.
        batch_size: samples at a time.
    """
    place = exported.preprocessing.get("tokenizer")
    tokenizer = exported.folder / place if place else None
    options = {"inputs": exported.inputs, "tokenizer": tokenizer, "batch_size": batch_size}
    for batch in batches(files, exported.preprocessing, **options):  # type: ignore[arg-type]
        if isinstance(batch, Skipped):
            yield batch
            continue
        logits = exported.run(batch.arrays).astype(np.float64)
        if not np.isfinite(logits).all():
            raise DistilError(
                f"{exported.folder}: the model answers {batch.names[0]} with numbers that are not finite."
            )
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        for name, share in zip(batch.names, shares):
            order = np.argsort(-share, kind="stable")[:top]
            yield Answer(name, [exported.labels[k] for k in order], [float(share[k]) for k in order])
