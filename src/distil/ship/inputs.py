"""Files as batches for an exported model: pictures, rows, lines of text, graphs; what is broken is named."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distil.data.encoding import RowEncoder
from distil.data.graph_files import packed, read_nodes
from distil.data.images import read_picture
from distil.data.records import EXTENSIONS
from distil.data.tables import SUFFIXES, read_table
from distil.errors import DistilError

__all__ = ["ASIDE", "Batch", "Skipped", "batches", "encoder"]

ASIDE = ("id", "label", "labels", "class", "target", "split")
_TEXTS = ("text", "sentence", "review", "content", "question")
_SUFFIXES = {
    "image": EXTENSIONS,
    "features": frozenset({".npz", ".csv", ".parquet", ".pt", ".safetensors"}),
    "table": frozenset(SUFFIXES),
    "text": frozenset({".txt", ".csv", ".parquet"}),
    "tensors": frozenset({".npz"}),
}


@dataclass(frozen=True)
class Batch:
    """Inputs by name, and what each sample is called."""

    names: list[str]
    arrays: dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read, and why."""

    name: str
    reason: str


def batches(
    files: Iterable[str | Path], preprocessing: Mapping[str, Any], *, inputs: Sequence[str] = ("inputs",),
    tokenizer: Path | None = None, batch_size: int = 32,
) -> Iterator[Batch | Skipped]:  # fmt: skip
    """Read files, and folders of them, as batches that the model takes.

    Args:
        files: what to read; a folder stands for all files of the right kind below it.
        preprocessing: checked; its kind decides what a file may be.
        inputs: the names of the model's inputs.
        tokenizer: the folder of a text's tokenizer.
        batch_size: samples at a time; a graph is one batch.
    """
    kind = preprocessing["kind"]
    found = _listed(files, _SUFFIXES[kind])
    if kind == "image":
        yield from _pictures(found, preprocessing, batch_size)
        return
    encode = encoder(tokenizer, preprocessing, inputs) if kind == "text" and tokenizer is not None else None
    for item in found:
        if isinstance(item, Skipped):
            yield item
            continue
        try:
            yield from _cut(_read(item, preprocessing, inputs), encode, batch_size)
        except DistilError as error:
            yield Skipped(str(item), str(error))


def _listed(files: Iterable[str | Path], suffixes: frozenset[str]) -> Iterator[Path | Skipped]:
    for given in files:
        path = Path(given)
        if path.is_dir():
            inner = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            # Of a graph in two tables a model of features reads the nodes.
            edges = {p.with_name("edges.csv") for p in inner if p.name == "nodes.csv"}
            yield from (p for p in inner if not p.name.startswith(".") and p not in edges)
            if not inner:
                yield Skipped(str(path), f"the folder holds no file with {', '.join(sorted(suffixes))}.")
        elif not path.exists():
            yield Skipped(str(path), "there is no such file.")
        elif path.suffix.lower() not in suffixes:
            yield Skipped(str(path), f"it is no {', '.join(sorted(suffixes))}.")
        else:
            yield path


def _pictures(
    found: Iterable[Path | Skipped], preprocessing: Mapping[str, Any], batch_size: int
) -> Iterator[Batch | Skipped]:
    height, width = preprocessing["size"]
    shape = (preprocessing["channels"], height, width)

    def read(item: Path | Skipped) -> tuple[Path, np.ndarray[Any, Any]] | Skipped:
        if isinstance(item, Skipped):
            return item
        try:
            return item, read_picture(item, shape)
        except DistilError as error:
            return Skipped(str(item), str(error))

    items = list(found)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(items), batch_size):
            good = []
            for each in pool.map(read, items[start : start + batch_size]):
                if isinstance(each, Skipped):
                    yield each
                else:
                    good.append(each)
            if good:
                pixels = np.stack([pixels for _, pixels in good]).astype(np.float32) / np.float32(255)
                yield Batch([str(path) for path, _ in good], {"inputs": pixels})


def _cut(
    read: tuple[list[str], dict[str, Any]], encode: Callable[[Sequence[str]], dict[str, Any]] | None, size: int
) -> Iterator[Batch]:
    names, arrays = read
    if not names:
        raise DistilError("it holds no samples.")
    size = len(names) if "edge_index" in arrays else size
    for start in range(0, len(names), size):
        part = {k: v if k == "edge_index" else v[start : start + size] for k, v in arrays.items()}
        yield Batch(names[start : start + size], encode(part["texts"]) if encode else part)


def _read(path: Path, preprocessing: Mapping[str, Any], inputs: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the names of a file's samples and their arrays (or texts)."""
    kind, suffix = preprocessing["kind"], path.suffix.lower()
    if kind == "text":
        texts = _texts(path)
        return [f"{path}:{k}" for k in range(1, len(texts) + 1)], {"texts": texts}
    if kind == "table":
        table = read_table(path)
        rows = RowEncoder.from_plain(preprocessing).encode(table.columns, place=table.place)
        return [f"{path}:{k}" for k in range(1, len(rows) + 1)], {"inputs": rows}
    if kind == "tensors":
        held = _npz(path)
        if not set(inputs) <= set(held):
            raise DistilError(f"it holds {sorted(held)}; {', '.join(inputs)} are expected.")
        return [f"{path}:{k}" for k in range(1, len(held[inputs[0]]) + 1)], {name: held[name] for name in inputs}
    arrays: dict[str, Any] = {}
    if suffix in (".pt", ".safetensors") or (suffix == ".npz" and (preprocessing.get("edges") or packed(path))):
        x, edges = read_nodes(path)
        if edges is not None and preprocessing.get("edges"):
            arrays["edge_index"] = edges.numpy()
        found = x.numpy()
    elif suffix == ".npz":
        held = _npz(path)
        key = next((name for name in ("x", "inputs") if name in held), next(iter(held)) if len(held) == 1 else None)
        if key is None:
            raise DistilError(f"it holds {sorted(held)}; the features are expected under 'x'.")
        found = held[key]
    elif preprocessing.get("columns"):
        return _named_rows(path, preprocessing)
    else:
        found = _csv(path) if suffix == ".csv" else _parquet(path)
    if preprocessing.get("edges") and not arrays:
        raise DistilError(
            "this model needs the edges of a graph; give a .pt, .npz or .safetensors with x and edge_index [2, E]."
        )
    rows = _summed(_shaped(found, preprocessing["shape"]), preprocessing)
    return [f"{path}:{k}" for k in range(1, len(rows) + 1)], {"inputs": rows, **arrays}


def _named_rows(path: Path, preprocessing: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the rows of a table of nodes, the features found by their names and the rows called by their ids."""
    table = read_table(path)
    lacking = [name for name in preprocessing["columns"] if name not in table.columns]
    if lacking:
        raise DistilError(f"its columns are {list(table.columns)[:6]}; {lacking[0]!r} is expected among them.")
    cells = zip(*(table.columns[name] for name in preprocessing["columns"]), strict=True)
    rows = []
    for k, row in enumerate(cells):
        if not all(_number(cell) for cell in row):
            raise DistilError(f"its {table.unit} {table.lines[k]} is not {len(row)} numbers.")
        rows.append([float(cell) for cell in row])
    ids = next(
        (column for name, column in table.columns.items() if name.strip().lower() == "id"), range(1, 1 + len(rows))
    )
    found = _shaped(
        np.array(rows, dtype=np.float64).reshape(len(rows), len(preprocessing["columns"])), preprocessing["shape"]
    )
    return [f"{path}:{one}" for one in ids], {"inputs": _summed(found, preprocessing)}


def _summed(rows: np.ndarray[Any, Any], preprocessing: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Divide each row by its sum where the training rows were; one that sums to 0 stays as it is."""
    if not preprocessing.get("row_sums"):
        return rows
    total = rows.sum(1, keepdims=True)
    return rows / np.where(total == 0, np.float32(1), total)


def _shaped(table: np.ndarray[Any, Any], shape: Sequence[int]) -> np.ndarray[Any, Any]:
    if table.dtype.kind not in "fiub" or table.ndim < 2 or int(np.prod(table.shape[1:])) != int(np.prod(shape)):
        raise DistilError(
            f"it holds {table.dtype} of shape {list(table.shape)}; rows of {int(np.prod(shape))} numbers are expected."
        )
    rows = np.ascontiguousarray(table, dtype=np.float32).reshape(-1, *shape)
    broken = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), int(np.prod(shape)))).all(1))
    if len(broken):
        raise DistilError(f"{len(broken)} of its rows hold NaN or infinity (first: row {int(broken[0]) + 1}).")
    return rows


def _npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except Exception as error:
        raise DistilError(f"it is no readable npz of plain arrays ({str(error).splitlines()[0][:120]}).") from None


def _rows_of_csv(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DistilError(f"it is no readable csv ({error}).") from None
    if not rows:
        raise DistilError("it is empty.")
    return rows


def _csv(path: Path) -> np.ndarray[Any, Any]:
    first, *rows = _rows_of_csv(path)
    header = not all(map(_number, first))
    if not header:
        first, rows = [str(k) for k in range(len(first))], [first, *rows]
    kept = [k for k, name in enumerate(first) if name.strip().lower() not in ASIDE]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(first) or not all(_number(row[k]) for k in kept):
            raise DistilError(f"its row {number} is not {len(kept)} numbers.")
    return np.array([[float(row[k]) for k in kept] for row in rows], dtype=np.float64).reshape(len(rows), len(kept))


def _number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _table(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DistilError("pyarrow is not installed; install it with pip install 'distil[tables]'.") from None
    try:
        return parquet.read_table(path)
    except Exception as error:
        raise DistilError(f"it is no readable parquet file ({str(error).splitlines()[0][:120]}).") from None


def _parquet(path: Path) -> np.ndarray[Any, Any]:
    table = _table(path)
    names = [name for name in table.column_names if name.lower() not in ASIDE]
    columns = [table.column(name).to_pylist() for name in names]
    try:
        if len(columns) == 1:
            made = np.array(columns[0], dtype=np.float64)
            return made if made.ndim > 1 else made[:, None]
        return np.array(columns, dtype=np.float64).T
    except (ValueError, TypeError):
        raise DistilError(f"its columns {names[:6]} are not all numbers.") from None


def _texts(path: Path) -> list[str]:
    if path.suffix.lower() == ".txt":
        try:
            return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DistilError(f"it is no readable text ({error}).") from None
    if path.suffix.lower() == ".csv":
        first, *rows = _rows_of_csv(path)
        column = _text_column(first)
        return [row[column] for row in rows if len(row) > column]
    table = _table(path)
    return [str(each) for each in table.column(_text_column(table.column_names)).to_pylist()]


def _text_column(names: Sequence[str]) -> int:
    lower = [name.strip().lower() for name in names]
    found = next((lower.index(name) for name in _TEXTS if name in lower), None)
    if found is None:
        raise DistilError(f"its columns are {list(names)[:6]}; one called 'text' is expected.")
    return found


def encoder(
    folder: Path, preprocessing: Mapping[str, Any], inputs: Sequence[str]
) -> Callable[[Sequence[str]], dict[str, np.ndarray[Any, Any]]]:
    """Return a function from texts to token ids, padded to the longest, by the tokenizer in ``folder``."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise DistilError("tokenizers is not installed; install it with pip install tokenizers.") from None
    file = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise DistilError(f"{file} is no readable tokenizer ({str(error).splitlines()[0][:120]}).") from None
    tokenizer.enable_truncation(preprocessing["max_length"])
    if tokenizer.padding is None:
        names = ("[PAD]", "<pad>", "<|endoftext|>")
        name = next((each for each in names if tokenizer.token_to_id(each) is not None), names[0])
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id(name) or 0, pad_token=name)
    else:
        tokenizer.enable_padding(**{**tokenizer.padding, "length": None})

    def encode(texts: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        found = tokenizer.encode_batch(list(texts))
        parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        unknown = [name for name in inputs if name not in parts]
        if unknown:
            raise DistilError(f"the model takes {unknown[0]!r}, which no tokenizer gives.")
        return {name: np.array([getattr(e, parts[name]) for e in found], dtype=np.int64) for name in inputs}

    return encode
