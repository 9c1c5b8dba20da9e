"""Rows of numbers and categories as vectors: what is learned from the training rows, and the same again for others.

A number becomes (x − mean) / deviation of the training rows. A category becomes one 0 or 1 for each value that the
training rows have; a value that they have not is all zeros. What is missing is refused, or filled: a number with the
training mean, a category with all zeros.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distil.errors import DistilError, nearest

__all__ = ["BLANKS", "MISSING", "Column", "RowEncoder", "is_missing"]

MISSING = ("refuse", "fill")
BLANKS = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What a cell holds, in small letters, that holds nothing."""
_MOST = 1000  # values of one category

Array = np.ndarray[Any, Any]
Place = Callable[[int], str]


@dataclass(frozen=True)
class Column:
    """One column: a number with the training mean and deviation, or a category with the training values."""

    name: str
    mean: float = 0.0
    std: float = 1.0
    values: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        """How many numbers it becomes."""
        return 1 if self.values is None else len(self.values)


@dataclass(frozen=True)
class RowEncoder:
    """Turns the columns of a table into rows of float32, ``[N, width]``.

    Made by :meth:`fit` from training rows, or by :meth:`from_plain` from what :meth:`plain` gave.

    >>> table = {"age": ["20", "40", "60"], "town": ["Rome", "Oslo", "Bonn"]}
    >>> encoder = RowEncoder.fit(table, [0, 1])
    >>> [column.name for column in encoder.columns], encoder.width
    (['age', 'town'], 3)
    >>> encoder.encode(table).tolist()
    [[-1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [3.0, 0.0, 0.0]]
    """

    columns: tuple[Column, ...]
    missing: str = "refuse"

    @property
    def width(self) -> int:
        """How many numbers a row becomes."""
        return sum(column.width for column in self.columns)

    @classmethod
    def fit(
        cls, table: Mapping[str, Sequence[Any]], training: Sequence[int], *, categories: Collection[str] = (),
        missing: str = "refuse", place: Place = lambda row: f"row {row}",
    ) -> RowEncoder:  # fmt: skip
        """Learn from the rows ``training``.

        Args:
            table: cells by column, as they stand in the file.
            training: positions of the training rows.
            categories: columns that are categories though they hold numbers.
            missing: "refuse" or "fill".
            place: names a row in a message.

        Raises:
            DistilError: a column that is neither one nor the other (it names the cell), that is text rather than a
                category, or that holds nothing; missing cells under "refuse".
        """
        if missing not in MISSING:
            raise DistilError(f"columns.missing={missing!r} is unknown; {nearest(missing, MISSING)}")
        for name in categories:
            if name not in table:
                raise DistilError(f"columns.categories names {name!r}, which is no column; {nearest(name, table)}")
        made = []
        for name, cells in table.items():
            if name not in categories and _holds_numbers(name, cells, place):
                made.append(_fitted(name, _numbers(name, cells, missing, place)[list(training)]))
            else:
                made.append(_category(name, cells, training, missing, place, asked=name in categories))
        if not made:
            raise DistilError("the table has no column but the label to learn from.")
        return cls(tuple(made), missing)

    def encode(self, table: Mapping[str, Sequence[Any]], *, place: Place = lambda row: f"row {row}") -> Array:
        """Return the rows of a table that has these columns, whatever others it has.

        Raises:
            DistilError: a column that is not there, a cell that is no number, missing cells under "refuse".
        """
        parts = []
        for column in self.columns:
            if column.name not in table:
                raise DistilError(f"the column {column.name!r} is not there; {nearest(column.name, table)}")
            cells = table[column.name]
            if column.values is None:
                values = (_numbers(column.name, cells, self.missing, place) - column.mean) / column.std
                parts.append(np.nan_to_num(values, nan=0.0)[:, None])
                continue
            number = {value: k for k, value in enumerate(column.values)}
            known = [
                -1 if text is None else number.get(text, -1) for text in _texts(column.name, cells, self.missing, place)
            ]
            parts.append((np.array(known)[:, None] == np.arange(column.width)).astype(np.float64))
        with np.errstate(over="ignore"):  # named below
            rows: Array = np.concatenate(parts, axis=1).astype(np.float32)
        if not np.isfinite(rows).all():
            row, place_in = map(int, np.argwhere(~np.isfinite(rows))[0])
            raise DistilError(f"{place(row)}: a number is too large for single precision (entry {place_in}).")
        return rows

    def unknown(self, table: Mapping[str, Sequence[Any]]) -> dict[str, int]:
        """Return how many cells of each category hold a value that the training rows have not."""
        found = {}
        for column in self.columns:
            if column.values is not None:
                cells = [_text(cell) for cell in table[column.name] if not is_missing(cell)]
                found[column.name] = sum(cell not in column.values for cell in cells)
        return {name: count for name, count in found.items() if count}

    def plain(self) -> dict[str, Any]:
        """Return it as plain JSON, as it ships with a student."""
        columns = [
            {"name": c.name, "mean": c.mean, "std": c.std}
            if c.values is None
            else {"name": c.name, "values": [*c.values]}
            for c in self.columns
        ]
        return {"columns": columns, "missing": self.missing}

    @classmethod
    def from_plain(cls, found: Mapping[str, Any]) -> RowEncoder:
        """Return what :meth:`plain` gave, checked.

        Raises:
            DistilError: anything that :meth:`plain` would not have written.
        """
        columns = found.get("columns")
        good = (
            isinstance(columns, list)
            and bool(columns)
            and found.get("missing") in MISSING
            and all(map(_sound, columns))
        )
        if not good:
            raise DistilError("the columns of a table are not described as they should be; export the model again.")
        assert isinstance(columns, list)
        return cls(
            tuple(
                Column(c["name"], values=tuple(c["values"]))
                if "values" in c
                else Column(c["name"], float(c["mean"]), float(c["std"]))
                for c in columns
            ),
            str(found["missing"]),
        )


def is_missing(cell: Any) -> bool:
    """Say whether a cell holds nothing: empty, NA, N/A, NaN, null, None or ``?`` (in any case), or no value at all.

    >>> is_missing(" NA "), is_missing(None), is_missing("0")
    (True, True, False)
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return isinstance(cell, str) and cell.strip().lower() in BLANKS


def _sound(column: Any) -> bool:
    if not isinstance(column, dict) or not isinstance(column.get("name"), str):
        return False
    if "values" in column:
        values = column["values"]
        return isinstance(values, list) and all(isinstance(v, str) for v in values) and len(values) == len(set(values))
    mean, std = column.get("mean"), column.get("std")
    return all(isinstance(n, (int, float)) and math.isfinite(n) for n in (mean, std)) and float(std or 0) > 0


def _number(cell: Any) -> float | None:
    """The finite number in a cell, ``None`` where there is none."""
    if isinstance(cell, bool):
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _text(cell: Any) -> str:
    return cell.strip() if isinstance(cell, str) else str(cell)


def _holds_numbers(name: str, cells: Sequence[Any], place: Place) -> bool:
    """Whether all cells that hold anything are numbers; most but not all of them is a mistake somewhere."""
    full = [row for row, cell in enumerate(cells) if not is_missing(cell)]
    if not full:
        raise DistilError(f"the column {name!r} holds nothing; leave it out with --set columns.ignore=['{name}'].")
    others = [row for row in full if _number(cells[row]) is None]
    if others and len(others) * 2 < len(full):
        raise DistilError(
            f"{place(others[0])}: the column {name!r} holds {_text(cells[others[0]])[:40]!r}, and numbers elsewhere; "
            f"correct the cell (an empty one is missing), or name the column: --set columns.categories=['{name}']."
        )
    return not others


def _refuse_missing(name: str, rows: Sequence[int], missing: str, place: Place) -> None:
    if rows and missing == "refuse":
        raise DistilError(
            f"{place(rows[0])}: the column {name!r} holds nothing there ({len(rows)} such cells in all); fill them, or "
            "take the training mean (no category) for them: --set columns.missing=fill."
        )


def _numbers(name: str, cells: Sequence[Any], missing: str, place: Place) -> Array:
    """The numbers of a column; NaN where one is missing."""
    _refuse_missing(name, [row for row, cell in enumerate(cells) if is_missing(cell)], missing, place)
    values = [math.nan if is_missing(cell) else _number(cell) for cell in cells]
    wrong = next((row for row, value in enumerate(values) if value is None), None)
    if wrong is not None:
        raise DistilError(
            f"{place(wrong)}: the column {name!r} holds {_text(cells[wrong])[:40]!r}; a number is expected."
        )
    return np.array(values, dtype=np.float64)


def _texts(name: str, cells: Sequence[Any], missing: str, place: Place) -> list[str | None]:
    _refuse_missing(name, [row for row, cell in enumerate(cells) if is_missing(cell)], missing, place)
    return [None if is_missing(cell) else _text(cell) for cell in cells]


def _fitted(name: str, values: Array) -> Column:
    held = values[~np.isnan(values)]
    if not len(held):
        raise DistilError(f"the column {name!r} holds nothing in the training rows; --set columns.ignore=['{name}'].")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(held.mean()), float(held.std())
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise DistilError(f"the column {name!r} holds numbers too large to average; rescale it.")
    # Rounding alone gives a constant a deviation of about 1e-16 of its size.
    return Column(name, mean, std if std > 1e-12 * abs(mean) else 1.0)


def _category(
    name: str, cells: Sequence[Any], training: Sequence[int], missing: str, place: Place, *, asked: bool
) -> Column:
    texts = _texts(name, cells, missing, place)
    seen = Counter(text for row in training if (text := texts[row]) is not None)
    if not seen:
        raise DistilError(f"the column {name!r} holds nothing in the training rows; --set columns.ignore=['{name}'].")
    if len(seen) > _MOST or (not asked and len(seen) > 20 and 2 * len(seen) > sum(seen.values())):
        raise DistilError(
            f"the column {name!r} holds {len(seen)} different values in {sum(seen.values())} training rows: a name or "
            f"a text rather than a category. Leave it out with --set columns.ignore=['{name}']; texts and "
            f"images are read with --set columns.text={name} and columns.image={name}."
        )
    return Column(name, values=tuple(sorted(seen)))
