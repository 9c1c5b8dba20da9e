"""A graph in two tables: one of nodes (id, label, features), one of edges (pairs of ids)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distil.data.bundle import NO_LABEL
from distil.data.classes import checked_names
from distil.data.records import SPLITS, split_name
from distil.data.tables import LABEL_COLUMNS, Table, find_column, read_table
from distil.errors import DistilError, nearest

__all__ = ["read_graph_tables", "tables_of"]

_IDS = ("id", "node", "node_id", "nodeid")
_ENDS = (("source", "target"), ("src", "dst"), ("from", "to"))
NODES, EDGES = "nodes.csv", "edges.csv"


def tables_of(path: str | Path) -> tuple[Path, Path] | None:
    """Return the tables of nodes and edges that a path means, ``None`` where it means none.

    A folder with ``edges.csv`` (and ``nodes.csv``, whose absence is a mistake), or two files joined by a plus sign:
    ``papers.csv+citations.csv``.
    """
    text, folder = str(path), Path(path).expanduser()
    if (folder / EDGES).exists() or (folder / NODES).exists():
        for name in (NODES, EDGES):
            if not (folder / name).exists():
                raise DistilError(f"the folder {text!r} has no {name}; a graph needs nodes.csv and edges.csv.")
        return folder / NODES, folder / EDGES
    nodes, plus, edges = text.partition("+")
    if not plus or folder.exists():
        return None
    both = Path(nodes).expanduser(), Path(edges).expanduser()
    if not any(each.exists() for each in both):
        return None
    for each, what in zip(both, ("nodes", "edges")):
        if not each.is_file():
            raise DistilError(f"there is no table of {what} {str(each)!r}; correct the path, or name both files.")
    return both


def read_graph_tables(
    nodes: Path,
    edges: Path,
    *,
    label: str | None = None,
    split: str | None = None,
    ignore: Sequence[str] = (),
    classes: Sequence[str | int] = (),
) -> dict[str, Any]:
    """Read the tables of a graph; ids may be any text.

    Args:
        nodes: a column ``id``, one of labels (empty or -100 where there is none), perhaps one called ``split``; every
            other column is a feature and holds numbers.
        edges: two columns of ids, ``source`` and ``target`` or the first two.
        label, split: the columns where they have other names.
        ignore: columns of nodes that are no features.
        classes: the class names in the order of a model's outputs; default in alphabetical (or numerical) order.

    Returns:
        ``x`` and the names of its ``columns``, ``edge_index``, ``y``, ``classes``, masks where a column says the split.
    """
    table = read_table(nodes)
    ids = next((name for name in table.columns if name.strip().lower() in _IDS), None)
    labelled = label is not None or any(name.strip().lower() in LABEL_COLUMNS for name in table.columns)
    if ids is None or not labelled or not table.lines:
        raise DistilError(f"{str(nodes)!r} needs a header with id and label, and a row for every node.")
    label = find_column(table, label, LABEL_COLUMNS, "label")
    split = (
        find_column(table, split, (), "split") if split is not None else ("split" if "split" in table.columns else None)
    )
    for name in ignore:
        find_column(table, name, (), "ignore")
    number = _numbered(table, ids)
    y, names = _labels(table, label, classes)
    columns = [name for name in table.columns if name not in {ids, label, split, *ignore}]
    values: dict[str, Any] = {
        "x": _features(table, columns),
        "columns": tuple(columns),
        "edge_index": _pairs(read_table(edges), number, nodes),
        "y": y,
        "classes": names,
    }
    if split is not None:
        parts = [split_name(str(cell or "")) for cell in table.columns[split]]
        values |= {f"{part}_mask": torch.tensor([one == part for one in parts]) for part in SPLITS}
    return values


def _numbered(table: Table, ids: str) -> dict[str, int]:
    names = [str(cell).strip() for cell in table.columns[ids]]
    number = {name: k for k, name in enumerate(names)}
    if len(number) < len(names):
        twice = next(k for k, name in enumerate(names) if number[name] != k)
        raise DistilError(f"{str(table.path)!r} names the node {names[twice]!r} twice; give every node its own id.")
    return number


def _features(table: Table, names: Sequence[str]) -> torch.Tensor:
    if not names:
        raise DistilError(f"{str(table.path)!r} has no column of features; a student without edges needs some.")
    columns = []
    for name in names:
        cells = table.columns[name]
        try:
            columns.append(np.array([float(cell) for cell in cells], dtype=np.float32))
        except (TypeError, ValueError):
            row = next(k for k, cell in enumerate(cells) if not _number(cell))
            raise DistilError(
                f"{table.place(row)}: the column {name!r} holds {str(cells[row])[:40]!r}, a feature that is no number; "
                f"correct it, or leave the column out with --set columns.ignore=[{name}]."
            ) from None
    return torch.from_numpy(np.stack(columns, axis=1))


def _number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _labels(table: Table, column: str, classes: Sequence[str | int]) -> tuple[torch.Tensor, tuple[str, ...]]:
    cells = ["" if cell is None else str(cell).strip() for cell in table.columns[column]]
    cells = ["" if cell == str(NO_LABEL) else cell for cell in cells]
    found = sorted({cell for cell in cells if cell})
    if all(cell.isdecimal() for cell in found):
        found = sorted(found, key=int)
    names = checked_names(classes, "the setting 'classes'") if classes else tuple(found)
    place = {name: k for k, name in enumerate(names)} | {"": NO_LABEL}
    wrong = next((k for k, cell in enumerate(cells) if cell not in place), None)
    if wrong is not None:
        raise DistilError(
            f"{table.place(wrong)} has the label {cells[wrong]!r}, which the setting 'classes' does not name; "
            f"{nearest(cells[wrong], names)}"
        )
    return torch.tensor([place[cell] for cell in cells]), names


def _pairs(table: Table, number: dict[str, int], nodes: Path) -> torch.Tensor:
    lower = {name.strip().lower(): name for name in reversed(list(table.columns))}
    ends = next(([lower[a], lower[b]] for a, b in _ENDS if a in lower and b in lower), list(table.columns)[:2])
    if len(ends) < 2:
        raise DistilError(f"{str(table.path)!r} has one column; two are needed, the ids of both nodes.")
    if all(name.strip() in number for name in ends):
        raise DistilError(f"{str(table.path)!r} begins with an edge; its first line must name the columns.")
    rows = []
    for name in ends:
        cells = [str(cell).strip() for cell in table.columns[name]]
        try:
            rows.append([number[cell] for cell in cells])
        except KeyError:
            row = next(k for k, cell in enumerate(cells) if cell not in number)
            raise DistilError(
                f"{table.place(row)} names an unknown node {cells[row]!r}; {nodes.name} has no such id."
            ) from None
    return torch.tensor(rows, dtype=torch.long).reshape(2, -1)
