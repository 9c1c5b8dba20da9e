"""Rows of tables as they stand in the file (csv, tsv, JSON lines, parquet), every mistake named with its line."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distil.data.records import EXTENSIONS, split_name
from distil.errors import DistilError, nearest

__all__ = ["SUFFIXES", "Rows", "Table", "find_column", "holds_columns", "holds_text", "read_table", "tables_in"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
TEXT_COLUMNS = (
    *("text", "sentence", "review", "content", "document", "body", "comment", "message", "tweet", "question", "query"),
    *("utterance", "headline", "description", "title", "sms"),
)
LABEL_COLUMNS = (
    *(
        "label",
        "labels",
        "class",
        "target",
        "category",
        "fine_label",
        "sentiment",
        "intent",
        "topic",
        "polarity",
        "tag",
    ),
)
_IMAGE_COLUMNS = ("image", "img", "images", "path", "file", "filename", "file_name", "filepath")
_PROBES = 50  # cells looked at to tell paths of images from text
_LONGEST = 1 << 30  # characters of one csv cell; the csv module's own limit is 128 KiB


@dataclass
class Rows:
    """What is kept of every row that can be used: its label, its part, where it stands; and what was noticed."""

    labels: list[int | str] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    declared: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)


@dataclass
class Table:
    """The columns of one file, the line (or row) that each entry began on, and what was noticed."""

    path: Path
    columns: dict[str, list[Any]]
    lines: list[int]
    unit: str = "line"
    metadata: dict[bytes, bytes] | None = None
    notes: list[str] = field(default_factory=list)

    def place(self, row: int) -> str:
        """Name an entry for a message."""
        return f"{self.path.name}, {self.unit} {self.lines[row]}"


class _Broken(Exception):
    """A csv text that does not follow its own quoting or header."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line, self.why = line, why


def tables_in(folder: Path) -> list[tuple[Path, str | None]]:
    """Return the tables of a folder (or of ``data/`` in it) with the split that each one's name says.

    Shards such as ``train-00000-of-00002.parquet`` belong together.

    Raises:
        DistilError: tables of two formats for one split, or several tables of which one names no split.
    """
    for place in (folder, folder / "data"):
        files = [file for file in sorted(place.glob("*")) if file.is_file() and file.suffix.lower() in SUFFIXES]
        if files:
            break
    found = [(file, _split_of(file)) for file in files]
    unnamed = [file for file, split in found if split is None]
    if unnamed and len(found) > 1:
        raise DistilError(
            f"{str(unnamed[0])!r} names no split; call the files train, val and test (as {unnamed[0].suffix}), or give "
            "one file."
        )
    for split in {split for _, split in found}:
        kinds = sorted({file.suffix.lower() for file, own in found if own == split})
        if len(kinds) > 1:
            raise DistilError(f"{str(folder)!r} holds {split} as {' and as '.join(kinds)}; keep one of them.")
    return found


def _split_of(file: Path) -> str | None:
    return next((split for split in map(split_name, [file.stem, *file.stem.split("-")]) if split), None)


def holds_columns(path: Path, *, image: str | None = None) -> bool:
    """Say whether a file or folder that is not read as text holds rows of numbers and categories, not of images."""
    if image is not None:
        return False
    if path.is_dir():
        tables = tables_in(path)
        return bool(tables) and holds_columns(tables[0][0])
    kind = path.suffix.lower()
    if kind == ".parquet":
        return not _parquet_holds_images(path)
    return kind in SUFFIXES and not _holds_images(read_table(path))


def holds_text(path: Path, *, text: str | None = None, image: str | None = None) -> bool:
    """Say whether a file or folder is read as text rather than as images.

    Columns named by the user decide. Else a column that holds images (encoded, or paths that end as image files do)
    makes it images, and a column with a usual name of texts makes it text.
    """
    if text is not None or image is not None:
        return text is not None
    if path.is_dir():
        tables = tables_in(path)
        return bool(tables) and holds_text(tables[0][0])
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet_holds_text(path)
    if kind not in SUFFIXES:
        return False
    try:
        table = read_table(path)
    except DistilError:
        return True  # the reader of texts says what is wrong, with the line
    return not _holds_images(table) and _usual(table.columns, TEXT_COLUMNS) is not None


def _holds_images(table: Table) -> bool:
    """Whether a column has a usual name of images, and paths of images in it (or nothing)."""
    for name in [name for name in table.columns if name.strip().lower() in _IMAGE_COLUMNS]:
        cells = [cell for cell in table.columns[name][:_PROBES] if cell]
        if all(isinstance(cell, str) and Path(cell.strip()).suffix.lower() in EXTENSIONS for cell in cells):
            return True
    return False


def _parquet_holds_images(path: Path) -> bool:
    """Whether a column is of a kind that images are stored as, or has a usual name of them."""
    from pyarrow import types

    return any(
        types.is_nested(each.type) or types.is_binary(each.type) or each.name.lower() in _IMAGE_COLUMNS
        for each in _parquet(path).schema_arrow
    )


def _parquet_holds_text(path: Path) -> bool:
    from pyarrow import types

    schema = _parquet(path).schema_arrow
    strings = [
        each.name
        for each in schema
        if types.is_string(each.type) or types.is_large_string(each.type) or types.is_dictionary(each.type)
    ]
    if any(each.name.lower() in _IMAGE_COLUMNS and each.name not in strings for each in schema):
        return False
    return _usual(strings, TEXT_COLUMNS) is not None


def _usual(columns: Sequence[str] | dict[str, list[Any]], usual: Sequence[str]) -> str | None:
    lower = {name.strip().lower(): name for name in reversed(list(columns))}
    return next((lower[name] for name in usual if name in lower), None)


def find_column(table: Table, named: str | None, usual: Sequence[str], what: str) -> str:
    """Return the column that the user named, or the first with a usual name."""
    if named is not None:
        if named in table.columns:
            return named
        raise DistilError(f"{str(table.path)!r} has no {what} column {named!r}; {nearest(named, table.columns)}")
    found = _usual(table.columns, usual)
    if found is None:
        shown = ", ".join(repr(name[:40]) for name in list(table.columns)[:12])
        raise DistilError(
            f"{str(table.path)!r} has the columns {shown} but no {what} column called {', '.join(usual[:4])}, …; name "
            f"it with --set columns.{what}=NAME (the first line of a .csv or .tsv must name the columns)."
        )
    return found


def read_table(path: Path) -> Table:
    """Read a table whole.

    Raises:
        DistilError: with the file and line: text that is not UTF-8, a row that does not fit the header, a JSON line
            that is none, a file that is no parquet.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _read_parquet(path)
    text = _decoded(path)
    if kind in (".jsonl", ".ndjson"):
        return _read_json_lines(path, text)
    if kind in (".csv", ".tsv"):
        return _read_csv(path, text, "\t" if kind == ".tsv" else ",")
    raise DistilError(f"{str(path)!r} is no table; expected one of {', '.join(SUFFIXES)}.")


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DistilError(f"{str(path)!r} cannot be read ({error.strerror or error}).") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DistilError(f"{str(path)!r} is written in UTF-16, not in UTF-8; save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DistilError(
            f"{str(path)!r}, line {line}: the byte 0x{data[error.start]:02x} is no UTF-8 (an older encoding, such as "
            "Latin-1 or Windows-1252?); save the file as UTF-8."
        ) from None


def _read_csv(path: Path, text: str, delimiter: str) -> Table:
    notes = []
    header = text.partition("\n")[0]
    if delimiter == "," and "," not in header and ";" in header:
        delimiter = ";"
        notes.append(f"{path.name} is separated by semicolons.")
    try:
        columns, lines = _columns(text, delimiter, csv.QUOTE_MINIMAL)
    except _Broken as broken:
        # Many .tsv files are written without quoting, and quotes in them are part of the text.
        try:
            if delimiter != "\t":
                raise broken
            columns, lines = _columns(text, delimiter, csv.QUOTE_NONE)
            notes.append(f"{path.name}: quotes are read as part of the text.")
        except _Broken as error:
            raise DistilError(f"{str(path)!r}, line {error.line}: {error.why}.") from None
    return Table(path, columns, lines, notes=notes)


def _columns(text: str, delimiter: str, quoting: Any) -> tuple[dict[str, list[Any]], list[int]]:
    rows = _rows(text, delimiter, quoting)
    _, header = next(rows, (1, []))
    if not header:
        raise _Broken(1, "the first line must name the columns, and it is empty")
    if len(set(header)) < len(header):
        twice = next(name for name, count in Counter(header).items() if count > 1)
        raise _Broken(1, f"two columns are called {twice!r}; rename one")
    columns: dict[str, list[Any]] = {name: [] for name in header}
    lines = []
    for line, row in rows:
        if len(row) != len(header):
            hint = "; a text with a comma in it must stand in quotes" if len(row) > len(header) else ""
            raise _Broken(line, f"it has {len(row)} fields and the header {len(header)}{hint}")
        lines.append(line)
        for name, cell in zip(header, row):
            columns[name].append(cell)
    return columns, lines


def _rows(text: str, delimiter: str, quoting: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield every row that is not blank with the line it begins on."""
    before = csv.field_size_limit(_LONGEST)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
        line = 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise _Broken(line, f"{error}; a quote inside a quoted text must be doubled") from None
            if row is None:
                return
            if row:
                yield line, row
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(before)


def _read_json_lines(path: Path, text: str) -> Table:
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number too long, and lists too deep, are refused as well
            why = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DistilError(
                f"{str(path)!r}, line {number}: it is no JSON ({why}); correct or delete the line."
            ) from None
        if not isinstance(row, dict):
            raise DistilError(
                f"{str(path)!r}, line {number}: it holds a {type(row).__name__}; expected an object such as "
                '{"text": "…", "label": "…"}.'
            )
        rows.append(row)
        lines.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(path, {name: [row.get(name) for row in rows] for name in names}, lines)


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DistilError("pyarrow is not installed; install it with pip install 'distil[tables]'.") from error
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DistilError(
            f"{str(path)!r} is no readable parquet file ({str(error).splitlines()[0]}); is it complete?"
        ) from error


def _read_parquet(path: Path) -> Table:
    from pyarrow import types

    file = _parquet(path)
    plain = [each.name for each in file.schema_arrow if not (types.is_nested(each.type) or types.is_binary(each.type))]
    try:
        table = file.read(columns=plain)
    except (OSError, ValueError) as error:
        raise DistilError(f"{str(path)!r} cannot be read ({str(error).splitlines()[0]}); is it complete?") from error
    columns = {name: table.column(name).to_pylist() for name in plain}
    return Table(path, columns, list(range(table.num_rows)), "row", file.schema_arrow.metadata)
