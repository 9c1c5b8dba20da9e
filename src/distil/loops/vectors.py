"""Texts as the vectors of a frozen encoder: data that the methods for small sets take."""

from __future__ import annotations

from dataclasses import replace

import torch

from distil.data.bundle import Bundle, DictDataset, ids_of, labels_of
from distil.loops.encoded import embeddings, folders_behind
from distil.loops.lab import Lab

__all__ = ["vectors_of"]


def vectors_of(lab: Lab, encoder: str, raw: Bundle, *, max_length: int = 128) -> Bundle:
    """Return a bundle of texts with each text replaced by its embedding; ids, labels and parts stay.

    The encoder runs once; what it gave is stored where other runs find it.

    Args:
        lab: where embeddings are stored.
        encoder: a text model by name; what its last linear layer reads is the embedding.
        raw: texts, as :func:`distil.data.load` reads them.
        max_length: tokens of a text.
    """
    ids, rows = embeddings(lab, encoder, raw, max_length=max_length)
    name = "-".join([raw.fingerprint, encoder, str(max_length), *folders_behind(encoder).get("files", {}).values()])
    place = {int(k): row for row, k in enumerate(ids.tolist())}

    def part(data: object) -> DictDataset:
        wanted = ids_of(data)
        return DictDataset(rows[torch.tensor([place[k] for k in wanted.tolist()])], labels_of(data), wanted)

    return replace(
        raw, task="classification", train=part(raw.train), val=part(raw.val), test=part(raw.test), unlabelled=None,
        input_shape=(rows.shape[1],), name=f"{raw.name} as vectors", fingerprint=name,
        preprocessing=None,
    )  # fmt: skip
