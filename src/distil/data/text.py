"""Labelled texts from tables: one file, or a folder with one for each split.

What a source holds is read as it is; what cannot be meant is refused with its line, and what is merely empty is counted
and left out. A bundle of texts holds raw strings: :func:`distil.data.tokenised` brings them to the models' tokenizers.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from distil.data.bundle import Bundle, View
from distil.data.cells import counted_rows, label_in, part_in
from distil.data.classes import number_labels, read_classes
from distil.data.records import declared_names, is_integer
from distil.data.splits import content_of, count_copies, make_splits, read_splits
from distil.data.tables import LABEL_COLUMNS, TEXT_COLUMNS, Rows, Table, find_column, read_table, tables_in
from distil.errors import DistilError

__all__ = ["TEXT_TASK", "TextDataset", "normal_form", "read_text", "with_utf8"]

TEXT_TASK = "text-classification"


class TextDataset(Dataset[dict[str, Any]]):
    """Raw texts in memory: ``inputs`` is a string, and a list of strings in a batch.

    Args:
        texts: one string for each sample.
        labels: ``[N]`` integers, -100 for "no label".
        ids: ``[N]`` unique integers; default 0..N-1.
        prompts: what stands before each text (an instruction); no model reads them but one that scores the texts.

    >>> data = TextDataset(["good", "bad"], torch.tensor([1, 0]))
    >>> data[1]["inputs"], data.batch(torch.tensor([1, 0]))["inputs"]
    ('bad', ['bad', 'good'])
    """

    in_bulk = True

    def __init__(
        self, texts: Sequence[str], labels: Tensor, ids: Tensor | None = None, prompts: Sequence[str] | None = None
    ) -> None:
        self.texts = list(texts)
        self.prompts = None if prompts is None else list(prompts)
        self.labels = labels.long()
        self.ids = torch.arange(len(self.texts)) if ids is None else ids.long()
        if not len(self.texts) == len(self.labels) == len(self.ids):
            raise DistilError(
                f"TextDataset: {len(self.texts)} texts, {len(self.labels)} labels and {len(self.ids)} ids; there must "
                "be one of each for every sample."
            )
        if self.prompts is not None and len(self.prompts) != len(self.texts):
            raise DistilError(
                f"TextDataset: {len(self.prompts)} prompts for {len(self.texts)} texts; give one for each."
            )

    @property
    def fingerprint(self) -> str:
        """A hash of texts, labels, ids and prompts."""
        whole = hashlib.sha256()
        for text in (*self.texts, *(self.prompts or ())):
            whole.update(content_of(text).encode())
        for tensor in (self.labels, self.ids):
            whole.update(tensor.numpy().tobytes())
        return whole.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, position: int) -> dict[str, Any]:
        told = {} if self.prompts is None else {"prompts": self.prompts[position]}
        return {"inputs": self.texts[position], "labels": self.labels[position], "id": int(self.ids[position]), **told}

    def batch(self, positions: Tensor) -> dict[str, Any]:
        """Return the samples at ``positions`` as one batch."""
        told = {} if self.prompts is None else {"prompts": [self.prompts[k] for k in positions.tolist()]}
        return {
            "inputs": [self.texts[k] for k in positions.tolist()],
            "labels": self.labels[positions],
            "id": self.ids[positions],
            **told,
        }


@dataclass
class _Listing(Rows):
    """The rows of a source that can be used."""

    texts: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)


def read_text(
    path: str | Path,
    *,
    text: str | None = None,
    label: str | None = None,
    split: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    classes: Sequence[int | str] | None = None,
    splits: str | Path | None = None,
    drop_leaks: bool = False,
    prompt: str | None = None,
) -> Bundle:
    """Read labelled texts.

    Args:
        path: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, or a folder of them named train, val (or
            validation, dev) and test, shards and a ``data/`` folder included. All in UTF-8.
        text, label: the columns; default those with a usual name (text, sentence, review, …; label, class, …).
        split: a column that says train, val or test; default one called ``split``, if there is one.
        seed: decides the splits made where the source has none: 70/15/15, stratified.
        limit: at most this many samples of each split, stratified.
        classes: the class names in the order of the outputs; default ``classes.txt`` or ``classes.json`` in the folder,
            the names declared in a parquet file, or the labels of train, sorted.
        splits: a file of stored splits (``splits.csv`` of an earlier run) that decides instead of the source.
        drop_leaks: leave texts of train that also stand in val or test out of train.
        prompt: the column of what stands before each text, as an instruction before its answer; a row without one is
            left out.

    Texts that are copies are counted with case, spacing and compatible characters put aside. Rows with an empty text or
    no label are left out and counted; a part whose labels are all -1 (a hidden test) counts as absent.

    Raises:
        DistilError: for what cannot be read, with file and line.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DistilError(f"there is no file or folder {str(path)!r}; correct the path.")
    listing = _Listing(declared=read_classes(path) if path.is_dir() else None)
    for file, named in tables_in(path) if path.is_dir() else [(path, None)]:
        _add(listing, read_table(file), named, text, label, split, prompt)
    return _bundle(path.name, listing, seed, limit, classes, splits, drop_leaks)


def _add(
    listing: _Listing, table: Table, named: str | None, text: str | None, label: str | None, split: str | None,
    prompt: str | None = None,
) -> None:  # fmt: skip
    """Add one file's rows."""
    texts = find_column(table, text, TEXT_COLUMNS, "text")
    labels = find_column(table, label, LABEL_COLUMNS, "label")
    told = None if prompt is None else table.columns[find_column(table, prompt, (), "prompt")]
    part = split if split is not None else "split" if "split" in table.columns else None
    parts = table.columns[find_column(table, part, (), "split")] if part is not None and named is None else []
    note = f"read as text: the texts are in the column {texts!r}, the labels in {labels!r}."
    listing.notes += [each for each in (note, *table.notes) if each not in listing.notes]
    listing.declared = listing.declared or declared_names(table.metadata, labels)
    values = [label_in(value, table, row) for row, value in enumerate(table.columns[labels])]
    if named in ("val", "test") and values and all(value == -1 for value in values):
        listing.notes.append(f"all labels of {table.path.name} are -1, so it is left out.")
        return
    for row, (words, value) in enumerate(zip(table.columns[texts], values)):
        before = "" if told is None else told[row]
        for column, cell in ((texts, words), (prompt, before)):
            if cell is not None and not isinstance(cell, str):
                raise DistilError(
                    f"{table.place(row)}: the column {column!r} holds a {type(cell).__name__}; expected a text."
                )
        if words is None or not words.strip():
            listing.empty.append(table.place(row))
        elif value is None:
            listing.bare.append(table.place(row))
        elif told is not None and (before is None or not before.strip()):
            listing.untold.append(table.place(row))
        else:
            listing.texts.append(words)
            listing.prompts += [] if told is None else [before]
            listing.labels.append(value)
            listing.splits.append(named or (part_in(parts[row], table, row) if parts else None))
            listing.places.append(table.place(row))


def _bundle(
    name: str,
    listing: _Listing,
    seed: int,
    limit: int | None,
    classes: Sequence[int | str] | None,
    splits: str | Path | None,
    drop_leaks: bool,
) -> Bundle:
    notes = [
        *listing.notes,
        *counted_rows("have an empty text", listing.empty),
        *counted_rows("have no label", listing.bare),
        *counted_rows("have no prompt", listing.untold),
    ]
    if not listing.texts:
        raise DistilError(f"{name!r} holds no text with a label. {' '.join(notes)}")
    if all(is_integer(label) for label in listing.labels):
        listing.labels = [int(label) for label in listing.labels]
    labels, names = number_labels(
        name,
        listing.labels,
        [part in (None, "train") for part in listing.splits],
        notes,
        place=listing.places.__getitem__,
        given=classes,
        declared=listing.declared,
        noun="texts",
    )
    contents = [content_of(text) for text in listing.texts]
    given = listing.splits if splits is None else read_splits(splits, contents, notes)
    parts = make_splits(name, given, labels, seed, limit, notes)
    keys = [normal_form(text) for text in listing.texts]
    parts = count_copies(keys, labels, parts, notes, drop=drop_leaks, what="copies (case and spaces aside)")
    sizes = [len(part) for part in parts]
    if 0 in sizes or len(labels[parts[0]].unique()) < 2:
        raise DistilError(
            f"{name!r} has {sum(sizes)} usable texts, which leave train, val and test with {sizes} and train with "
            f"{len(labels[parts[0]].unique())} classes; none may be empty, and train needs two. {' '.join(notes)}"
        )
    dataset = TextDataset(listing.texts, labels, prompts=listing.prompts or None)
    train, val, test = (View(dataset, part) for part in parts)
    whole = hashlib.sha256(repr((names, [part.tolist() for part in parts])).encode())
    whole.update(dataset.fingerprint.encode())
    return Bundle(
        name=name,
        task=TEXT_TASK,
        train=train,
        val=val,
        test=test,
        classes=names,
        input_shape=(),
        fingerprint=whole.hexdigest()[:16],
        notes=tuple(notes),
        contents={k: contents[k] for part in parts for k in part.tolist()},
    )


def normal_form(text: str) -> str:
    """Return a text as copies are compared: compatible characters, case and runs of spaces put aside.

    >>> normal_form("  A\\u00a0Fine   Film") == normal_form("a fine film")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def with_utf8(text: str) -> str:
    """Return a text as tokenizers take it: where it holds half of a surrogate pair, which has no UTF-8, a mark stands.

    >>> with_utf8("half \\ud800 of it") == "half \\ufffd of it", with_utf8("\\ud83d\\ude00") == "\\U0001f600"
    (True, True)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
