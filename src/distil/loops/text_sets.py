"""Sets of texts as students read them: each by its own tokenizer, made from the set where it has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet
from distil.data.text import TEXT_TASK
from distil.data.tokens import tokenised
from distil.models.tokenizers import tokenizer_for
from distil.tasks import TextTask

__all__ = ["Read", "Shown", "as_read", "shown"]

Read = Callable[[Tensor], Any]


def as_read(student: str, bundle: Bundle, *, named: str | None = None, max_length: int = 128) -> Bundle:
    """Return data as a student reads them: texts as the ids of its tokenizer, anything else as it is.

    Args:
        student: a model by name.
        bundle: the words of its training part are those of a tokenizer that is made for the student.
        named: a folder with a tokenizer, for a student that brings none.
        max_length: tokens of a text.
    """
    if bundle.task != TEXT_TASK:
        return bundle
    texts = bundle.train.batch(torch.arange(len(bundle.train)))["inputs"]
    words, most = tokenizer_for(student, texts, named=named)
    length = min(max_length, most, words.model_max_length)
    return replace(tokenised(bundle, words, max_length=length), task=TextTask(tokenizer=words, max_length=length))


def shown(
    small: CondensedSet, student: str, real: Bundle, *, named: str | None = None, max_length: int = 128
) -> tuple[Bundle, Read | None]:
    """Return the real data as a student of a set reads them, and how it reads the set (None: as its inputs are).

    A tokenizer that is made for the student knows the words of the set and no other: the set is all it learns from.

    Args:
        small: the set. student: a model by name. real: the data it is tested on.
        named, max_length: as for :func:`as_read`.
    """
    if small.texts is None:
        return real, None
    seen = as_read(student, small.as_bundle(real), named=named, max_length=max_length)
    return seen, lambda places: seen.train.batch(places.cpu())["inputs"]


class Shown:
    """:func:`shown` for many students of one set after the other: texts are tokenised again for another set alone.

    Args:
        real: the data they are tested on. max_length: tokens of a text.
    """

    def __init__(self, real: Bundle, *, max_length: int = 128) -> None:
        self.real, self.max_length = real, max_length
        self._of, self._known = "", dict[str, tuple[Bundle, Read | None]]()

    def __call__(self, small: CondensedSet, student: str) -> tuple[Bundle, Read | None]:
        """Return what :func:`shown` gives for this student of this set."""
        if small.texts is None:
            return self.real, None
        if self._of != small.fingerprint:
            self._of, self._known = small.fingerprint, {}
        if student not in self._known:
            self._known[student] = shown(small, student, self.real, max_length=self.max_length)
        return self._known[student]
