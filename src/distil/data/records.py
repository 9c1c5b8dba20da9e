"""Where labelled images are: listings of image folders, parquet files and csv tables, before anything is decoded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distil.data.classes import read_classes
from distil.errors import DistilError

__all__ = [
    "SPLITS",
    "Listing",
    "Record",
    "declared_names",
    "image_column",
    "image_label",
    "is_integer",
    "list_folder",
    "list_parquet",
    "split_name",
]

SPLITS = ("train", "val", "test")
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
IMAGE_COLUMNS = ("image", "img", "images", "path", "file", "filename", "file_name", "filepath")
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "fine_label")


@dataclass(frozen=True)
class Record:
    """One image: its encoded bytes or its file, its label as found, its split if it has one, and its name."""

    name: str
    source: Path | bytes
    label: int | str
    split: str | None = None


@dataclass
class Listing:
    """The images of a source, the class names it declares (for integer labels), and what was noticed on the way."""

    records: list[Record] = field(default_factory=list)
    classes: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)


def split_name(name: str) -> str | None:
    """Return "train", "val" or "test" for a folder, file or cell that means it, else ``None``.

    >>> split_name("Validation"), split_name("photos")
    ('val', None)
    """
    return next((split for split, names in _SPLIT_NAMES.items() if name.lower() in names), None)


def list_folder(root: Path) -> Listing:
    """List ``root/CLASS/*`` or ``root/SPLIT/CLASS/*``, sub-folders of a class included; or the parquet files in it.

    Classes are sorted as strings, as torchvision's ``ImageFolder`` does, so that a teacher trained there fits.
    """
    tables = sorted(root.glob("*.parquet"))
    if tables:
        return _list_tables(root, tables)
    folders = [child for child in sorted(root.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    listing, others = Listing(), 0
    splits = {folder: split_name(folder.name) for folder in folders}
    if folders and all(splits.values()):
        classes = [(split, child) for folder, split in splits.items() for child in sorted(folder.iterdir())]
    else:
        classes = [(None, folder) for folder in folders]
    for split, folder in classes:
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        for file in sorted(folder.rglob("*")):
            if file.name.startswith(".") or not file.is_file():
                continue
            if file.suffix.lower() in EXTENSIONS:
                listing.records.append(Record(str(file.relative_to(root)), file, folder.name, split))
            else:
                others += 1
    if not listing.records:
        raise DistilError(
            f"the folder {str(root)!r} holds no images in class sub-folders ({len(folders)} sub-folders, {others} "
            "other files in them); expected FOLDER/CLASS/IMAGE or FOLDER/SPLIT/CLASS/IMAGE, with .png, .jpg, …."
        )
    if others:
        listing.notes.append(f"{others} files that are no images were ignored.")
    listing.classes = read_classes(root)
    return listing


def _list_tables(root: Path, tables: Sequence[Path]) -> Listing:
    listing = Listing()
    for table in tables:
        split = next((found for found in map(split_name, [table.stem, *table.stem.split("-")]) if found), None)
        if split is None and len(tables) > 1:
            raise DistilError(
                f"{str(table)!r} names no split; call the files train.parquet, val.parquet and test.parquet, or give "
                "one file."
            )
        part = list_parquet(table, split=split)
        listing.records += part.records
        listing.notes += part.notes
        listing.classes = listing.classes or part.classes
    listing.classes = listing.classes or read_classes(root)
    return listing


def list_parquet(
    path: Path, *, image: str | None = None, label: str | None = None, split: str | None = None
) -> Listing:
    """List the rows of a parquet file.

    Args:
        path: the file. Images are ``{bytes, path}`` structs (the ``datasets`` library's layout), encoded bytes, or
            paths relative to the file.
        image, label: the columns; default those with a usual name.
        split: the split of all rows; else a column called ``split`` gives it, if there is one.
    """
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DistilError(
            f"{str(path)!r} is no readable parquet file ({str(error).splitlines()[0]}); is it complete?"
        ) from error
    image = image_column(path, table.column_names, image, IMAGE_COLUMNS, "image")
    label = image_column(path, table.column_names, label, LABEL_COLUMNS, "label")
    listing = Listing(classes=declared_names(table.schema.metadata, label))
    splits: Iterable[Any] = [None] * table.num_rows
    if split is None and "split" in table.column_names:
        splits = table.column("split").to_pylist()
    images, labels = table.column(image).to_pylist(), table.column(label).to_pylist()
    for row, (picture, value, named) in enumerate(zip(images, labels, splits)):
        name = f"{path.name}, row {row}"
        where = split if named is None else split_name(str(named))
        listing.records.append(Record(name, _source(picture, path.parent), image_label(value, name), where))
    return listing


def image_column(path: Path, columns: Sequence[str], named: str | None, usual: Sequence[str], what: str) -> str:
    if named is not None and named in columns:
        return named
    found = next((name for name in usual if name in columns), None) if named is None else None
    if found is None:
        more = f" and {len(columns) - 12} more" if len(columns) > 12 else ""
        shown = f"{[name[:40] for name in columns[:12]]}{more}"
        wanted = repr(named) if named is not None else f"of {', '.join(usual[:4])}"
        raise DistilError(
            f"{str(path)!r} has the columns {shown} but no {what} column {wanted}; name it, or rename it in the file."
        )
    return found


def declared_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """Return the class names that the ``datasets`` library stores beside a table."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError):
        return None


def _source(picture: Any, folder: Path) -> Path | bytes:
    if isinstance(picture, dict):
        picture = picture.get("bytes") or picture.get("path")
    if isinstance(picture, bytes):
        return picture
    return folder / str(picture) if picture else b""


def image_label(value: Any, name: str) -> int | str:
    if value is None:
        raise DistilError(f"{name} has no label; give every image one, or leave the row out.")
    return value if isinstance(value, int) else str(value)


def is_integer(value: Any) -> bool:
    return str(value).removeprefix("-").isdecimal()
