"""Labelled rows of numbers and categories from tables: one file, or a folder with one for each split.

The encoding (means, deviations, categories) is learned from the training rows alone and goes with the bundle, so that
it can ship with the student.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distil.data.bundle import Bundle, DictDataset, View
from distil.data.cells import counted_rows, label_in, part_in
from distil.data.classes import number_labels, read_classes
from distil.data.encoding import RowEncoder, is_missing
from distil.data.records import declared_names, is_integer
from distil.data.splits import content_of, count_copies, make_splits, read_splits
from distil.data.tables import LABEL_COLUMNS, Rows, Table, find_column, read_table, tables_in
from distil.errors import DistilError, nearest

__all__ = ["read_columns", "rows_bundle"]

_IDS = ("id", "index", "unnamed: 0", "")
_MANY = 100  # classes, above which a label of numbers is more likely a quantity


@dataclass
class _Listing(Rows):
    """The rows of a source that can be used."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    bare: list[str] = field(default_factory=list)


def read_columns(
    path: str | Path,
    *,
    label: str | None = None,
    split: str | None = None,
    categories: Sequence[str] = (),
    ignore: Sequence[str] = (),
    missing: str = "refuse",
    seed: int = 0,
    limit: int | None = None,
    classes: Sequence[int | str] | None = None,
    splits: str | Path | None = None,
    drop_leaks: bool = False,
) -> Bundle:
    """Read labelled rows of numbers and categories.

    A column whose cells are all numbers is standardised by mean and deviation of the training rows; any other becomes
    one 0 or 1 for each value that the training rows have, and a value that they have not is all zeros.

    Args:
        path: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, or a folder of them named train, val and test.
        label: the column of classes; default one with a usual name (label, class, target, …).
        split: a column that says train, val or test; default one called ``split``, if there is one.
        categories: columns that are categories though they hold numbers.
        ignore: columns that are left out; one called ``id`` or ``index``, or without a name, is left out anyway.
        missing: "refuse" names the first empty cell; "fill" takes the training mean for a number and no category.
        seed, limit, classes, splits, drop_leaks: as in :func:`distil.data.read_text`.

    Raises:
        DistilError: for what cannot be read or meant, with file and line.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DistilError(f"there is no file or folder {str(path)!r}; correct the path.")
    listing = _Listing(declared=read_classes(path) if path.is_dir() else None)
    for file, named in tables_in(path) if path.is_dir() else [(path, None)]:
        _add(listing, read_table(file), named, label, split, ignore)
    _check_labels(path.name, listing)
    return rows_bundle(
        path.name, listing.columns, listing.labels, listing.splits, places=listing.places, declared=listing.declared,
        notes=[*listing.notes, *counted_rows("have no label", listing.bare)], categories=categories, missing=missing,
        seed=seed, limit=limit, classes=classes, splits=splits, drop_leaks=drop_leaks,
    )  # fmt: skip


def _add(
    listing: _Listing, table: Table, named: str | None, label: str | None, split: str | None, ignore: Sequence[str]
) -> None:
    """Add one file's rows."""
    try:
        labels = find_column(table, label, LABEL_COLUMNS, "label")
    except DistilError as error:
        raise DistilError(
            f"{error} It is read as numbers and categories, since no column has a usual name of texts or holds images: "
            "--set columns.text=NAME or columns.image=NAME says otherwise."
        ) from None
    part = split if split is not None else "split" if "split" in table.columns else None
    parts = table.columns[find_column(table, part, (), "split")] if part is not None and named is None else []
    for name in ignore:
        if name not in table.columns:
            raise DistilError(f"columns.ignore names {name!r}, which is no column; {nearest(name, table.columns)}")
    aside = [name for name in table.columns if name.strip().lower() in _IDS and name != labels]
    aside = list(dict.fromkeys([*ignore, *aside]))
    kept = [n for n in table.columns if n not in (labels, part or "split", *aside)]
    if not kept:
        raise DistilError(
            f"{str(table.path)!r} has no column but the label {labels!r}, so there is nothing to learn from."
        )
    note = f"read as rows of {len(kept)} columns, the labels in {labels!r}"
    note += f"; left out: {', '.join(map(repr, aside))}." if aside else "."
    listing.notes += [each for each in (note, *table.notes) if each not in listing.notes]
    listing.declared = listing.declared or declared_names(table.metadata, labels)
    if listing.columns and sorted(listing.columns) != sorted(kept):
        odd = sorted(set(listing.columns) ^ set(kept))
        raise DistilError(f"{str(table.path)!r}: the column {odd[0]!r} is in one of the files only; give all the same.")
    columns = {name: listing.columns.setdefault(name, []) for name in kept}
    for row, cell in enumerate(table.columns[labels]):
        value = None if is_missing(cell) else label_in(cell, table, row)
        if value is None:
            listing.bare.append(table.place(row))
            continue
        for name, cells in columns.items():
            cells.append(table.columns[name][row])
        listing.labels.append(value)
        listing.splits.append(named or (part_in(parts[row], table, row) if parts else None))
        listing.places.append(table.place(row))


def _check_labels(name: str, listing: _Listing) -> None:
    """Refuse no rows, and a label that is a quantity."""
    if not listing.labels:
        raise DistilError(f"{name!r} holds no row with a label. {' '.join(listing.notes)}")
    distinct = set(map(str, listing.labels))
    if all(map(is_integer, distinct)):
        listing.labels = [int(label) for label in listing.labels]
    elif len(distinct) > 2 and all(map(_is_number, distinct)):
        shown = ", ".join(sorted(distinct)[:3])
        raise DistilError(f"the label of {name!r} holds numbers ({shown}, …): a quantity; distil tells classes apart.")
    if len(distinct) > _MANY and 4 * len(distinct) > len(listing.labels):
        raise DistilError(
            f"the label of {name!r} has {len(distinct)} different values in {len(listing.labels)} rows: a name or a "
            "quantity, and distil tells classes apart; name another column with --set columns.label=NAME."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def rows_bundle(
    name: str,
    columns: Mapping[str, Sequence[Any]],
    labels: Sequence[int | str],
    given: Sequence[str | None],
    *,
    places: Sequence[str],
    notes: list[str],
    declared: Sequence[str] | None = None,
    categories: Sequence[str] = (),
    missing: str = "refuse",
    seed: int = 0,
    limit: int | None = None,
    classes: Sequence[int | str] | None = None,
    splits: str | Path | None = None,
    drop_leaks: bool = False,
) -> Bundle:
    """Return rows as a bundle: classes numbered, parts made, the encoding learned from the training part.

    Args:
        columns: cells by column, one for each label.
        given: the part of each row, ``None`` where the source says none.
        places: what each row is called in a message.
        notes: what a reader must know; more is added.
        declared: class names that came with the data.
    """
    numbers, names = number_labels(
        name, labels, [part in (None, "train") for part in given], notes, place=places.__getitem__, given=classes,
        declared=declared, noun="rows",
    )  # fmt: skip
    texts = ["\x1f".join(str(cells[row]) for cells in columns.values()) for row in range(len(labels))]
    contents = [content_of(text) for text in texts]
    given = given if splits is None else read_splits(splits, contents, notes)
    parts = make_splits(name, given, numbers, seed, limit, notes)
    parts = count_copies(texts, numbers, parts, notes, drop=drop_leaks, what="copies")
    sizes = [len(part) for part in parts]
    if 0 in sizes or len(numbers[parts[0]].unique()) < 2:
        raise DistilError(
            f"{name!r} has {sum(sizes)} usable rows, which leave train, val and test with {sizes} and train with "
            f"{len(numbers[parts[0]].unique())} classes; none may be empty, and train needs two. {' '.join(notes)}"
        )
    encoder = RowEncoder.fit(
        columns, parts[0].tolist(), categories=categories, missing=missing, place=places.__getitem__
    )
    inputs = torch.from_numpy(encoder.encode(columns, place=places.__getitem__))
    strange = encoder.unknown({key: [cells[k] for k in _outside(parts)] for key, cells in columns.items()})
    if strange:
        shown = ", ".join(f"{column!r} {count}" for column, count in strange.items())
        notes.append(f"values that train has not, in val and test (read as no category): {shown}.")
    dataset = DictDataset(inputs, numbers)
    train, val, test = (View(dataset, part) for part in parts)
    plain = {"kind": "table", "shape": [encoder.width], **encoder.plain()}
    whole = hashlib.sha256(repr((names, [part.tolist() for part in parts], contents, plain)).encode())
    whole.update(numbers.numpy().tobytes())
    return Bundle(
        name=name, task="classification", train=train, val=val, test=test, classes=names,
        input_shape=(encoder.width,), fingerprint=whole.hexdigest()[:16], notes=tuple(notes),
        contents={k: contents[k] for part in parts for k in part.tolist()}, preprocessing=plain,
    )  # fmt: skip


def _outside(parts: Sequence[Tensor]) -> list[int]:
    return [k for part in parts[1:] for k in part.tolist()]
