"""Texts as token ids: tokenised once for each role, padded when a batch is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distil.data.bundle import Bundle, View
from distil.data.text import TextDataset, with_utf8
from distil.errors import DistilError

__all__ = ["Encoded", "TokenDataset", "tokenised", "tokenizer_name"]

_CHUNK = 2000  # texts tokenised at a time


@dataclass(frozen=True)
class Encoded:
    """The token ids of many texts in one row: text k is ``ids[ends[k] : ends[k + 1]]``.

    ``pad`` fills a batch up to its longest text, on the left where ``left``.
    """

    ids: Tensor
    ends: Tensor
    pad: int
    left: bool = False

    def batch(self, positions: Tensor) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, int64 ``[B, T]``, T the longest of these texts.

        >>> Encoded(torch.tensor([5, 6, 7]), torch.tensor([0, 1, 3]), pad=0).batch(torch.tensor([0, 1]))["input_ids"]
        tensor([[5, 0],
                [6, 7]])
        """
        first = self.ends[positions]
        lengths = self.ends[positions + 1] - first
        longest = max(1, int(lengths.max()))
        place = torch.arange(longest).expand(len(positions), -1)
        if self.left:
            place = place - (longest - lengths)[:, None]
        real = (place >= 0) & (place < lengths[:, None])
        found = self.ids[(first[:, None] + place).clamp(0, max(0, len(self.ids) - 1))].long()
        return {"input_ids": found.where(real, self.pad), "attention_mask": real.long()}


class TokenDataset(Dataset[dict[str, Any]]):
    """Texts as ids: ``inputs`` for the student, ``teacher_inputs`` where the teacher's tokenizer differs."""

    in_bulk = True

    def __init__(self, texts: TextDataset, student: Encoded, teacher: Encoded | None, fingerprint: str) -> None:
        self.texts, self.student, self.teacher, self.fingerprint = texts, student, teacher, fingerprint
        self.labels, self.ids = texts.labels, texts.ids

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, position: int) -> dict[str, Any]:
        one = self.batch(torch.tensor([position]))
        inputs: dict[str, Any] = {
            role: {key: value[0] for key, value in one[role].items()}
            for role in ("inputs", "teacher_inputs")
            if role in one
        }
        return {**inputs, "labels": self.labels[position], "id": int(self.ids[position])}

    def batch(self, positions: Tensor) -> dict[str, Any]:
        """Return the samples at ``positions``, padded to the longest of them."""
        batch: dict[str, Any] = {"inputs": self.student.batch(positions)}
        if self.teacher is not None:
            batch["teacher_inputs"] = self.teacher.batch(positions)
        return {**batch, "labels": self.labels[positions], "id": self.ids[positions]}


def tokenised(
    bundle: Bundle, student: Any, teacher: Any = None, *, max_length: int = 128, teacher_max_length: int | None = None
) -> Bundle:
    """Return a bundle of texts as token ids.

    Args:
        bundle: of raw texts, as :func:`distil.load` reads them.
        student, teacher: tokenizers of transformers; the teacher's default is the student's. Where both give the same
            ids, a batch holds them once.
        max_length: tokens of a text, special ones included; longer texts are cut, and counted in the notes.
        teacher_max_length: the same for the teacher; default ``max_length``.

    The fingerprint changes with the tokenizers, so that nothing trained on other ids is taken for this.
    """
    texts = bundle.train.dataset
    if not isinstance(texts, TextDataset):
        raise DistilError(f"tokenised: {bundle.name!r} holds no raw texts; give a bundle of texts as it was loaded.")
    notes = list(bundle.notes)
    names = [tokenizer_name(student, max_length)]
    own = _encode(texts.texts, student, max_length, "student", notes)
    other = None
    if teacher is not None:
        names.append(tokenizer_name(teacher, teacher_max_length or max_length))
        if names[1] != names[0]:
            other = _encode(texts.texts, teacher, teacher_max_length or max_length, "teacher", notes)
            notes.append("student and teacher have different tokenizers: each reads its own ids of the same texts.")
    name = hashlib.sha256("\x1f".join([bundle.fingerprint, *dict.fromkeys(names)]).encode()).hexdigest()[:16]
    dataset = TokenDataset(texts, own, other, name)
    train, val, test = (View(dataset, part.positions) for part in (bundle.train, bundle.val, bundle.test))
    return replace(
        bundle, train=train, val=val, test=test, input_shape=(max_length,), fingerprint=name, notes=tuple(notes)
    )


def tokenizer_name(tokenizer: Any, max_length: int) -> str:
    """Name what a tokenizer does with a text: equal names give equal ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    for state in ("truncation", "padding"):  # what the last call left there
        content.pop(state, None)
    sides = [tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token_id, max_length]
    return hashlib.sha256(json.dumps([content, sides], sort_keys=True).encode()).hexdigest()[:16]


def _encode(texts: Sequence[str], tokenizer: Any, max_length: int, role: str, notes: list[str]) -> Encoded:
    if tokenizer.pad_token_id is None:
        raise DistilError(
            f"the {role}'s tokenizer ({type(tokenizer).__name__}) has no padding token, so texts of unequal length "
            "make no batch; set tokenizer.pad_token and save it again."
        )
    rows: list[Any] = []
    for start in range(0, len(texts), _CHUNK):
        found = tokenizer(
            [with_utf8(text) for text in texts[start : start + _CHUNK]],
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        rows += [np.asarray(row, np.int32) for row in found["input_ids"]]
    lengths = np.asarray([len(row) for row in rows])
    full = int((lengths >= max_length).sum())
    if full:
        notes.append(f"{full} texts fill all {max_length} tokens of the {role}; what lies beyond is cut (max_length).")
    ids = torch.from_numpy(np.concatenate([*rows, np.asarray([tokenizer.pad_token_id], np.int32)]))
    ends = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    return Encoded(ids, ends, int(tokenizer.pad_token_id), tokenizer.padding_side == "left")
