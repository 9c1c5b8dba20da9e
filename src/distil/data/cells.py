"""What a cell of a table means: a class, a part of the data; and rows that were left out, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distil.data.records import split_name
from distil.data.tables import Table
from distil.errors import DistilError

__all__ = ["counted_rows", "label_in", "part_in"]

_SHOWN = 5


def part_in(cell: Any, table: Table, row: int) -> str | None:
    """Return the part that a cell names, ``None`` where it is empty."""
    if cell is None or not str(cell).strip():
        return None
    found = split_name(str(cell).strip())
    if found is None:
        raise DistilError(f"{table.place(row)}: the split {str(cell)!r} is none of train, val and test.")
    return found


def label_in(value: Any, table: Table, row: int) -> int | str | None:
    """Return the class that a cell names, a whole number or a text; ``None`` where it is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():  # pandas turns integers with gaps into fractions
        return int(value)
    if not isinstance(value, (int, str)):
        raise DistilError(
            f"{table.place(row)}: the label {str(value)[:40]!r} is a {type(value).__name__}; expected a class, as a "
            "text or a whole number."
        )
    return value if isinstance(value, int) else value.strip() or None


def counted_rows(what: str, places: Sequence[str]) -> list[str]:
    """Return a note on rows that were left out; nothing where there are none.

    >>> counted_rows("have no label", ["t.csv, line 3"])
    ['1 rows have no label and were left out: t.csv, line 3.']
    """
    if not places:
        return []
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return [f"{len(places)} rows {what} and were left out: {'; '.join(places[:_SHOWN])}{more}."]
