"""Texts as vectors: each text's own embedding under its own id, parts and labels as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distil.data import load
from distil.data.bundle import ids_of, labels_of
from distil.loops import vectors
from distil.loops.condense import Order, condense
from distil.loops.lab import Lab


def test_every_text_becomes_its_own_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{'fine' if k % 2 else 'poor'} film number {k},{'good' if k % 2 else 'bad'}" for k in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    raw = load(tmp_path / "texts.csv")

    def known(lab: Lab, spec: str, data: Any, *, max_length: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.cat([ids_of(part) for part in (data.test, data.train, data.val)])  # in another order
        return ids, torch.stack([ids.float(), -ids.float()], 1)

    monkeypatch.setattr(vectors, "embeddings", known)
    made = vectors.vectors_of(Lab(tmp_path / "lab"), "distil:bow(vocab=9)", raw)
    assert (made.task, made.input_shape, made.classes) == ("classification", (2,), raw.classes)
    for ours, theirs in ((made.train, raw.train), (made.val, raw.val), (made.test, raw.test)):
        assert torch.equal(ids_of(ours), ids_of(theirs))
        assert torch.equal(labels_of(ours), labels_of(theirs))
        assert torch.equal(ours.inputs[:, 0], ids_of(theirs).float())
    small = condense(Order(made, 3), "random")
    assert small.ids is not None
    assert torch.equal(small.inputs[:, 0], small.ids.float())
    assert not small.images
