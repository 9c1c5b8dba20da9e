"""A drawing of a table of numbers: the larger a cell's number, the stronger its colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distil.report.svg import INK, MUTED, SERIES, canvas, finish, write
from distil.report.text import decimals_for, fixed, is_number

__all__ = ["drawn", "heat"]

_CELL = 34


def drawn(tables: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return further tables, those that ask for it with a drawing for the page; call inside ``svg.style()``."""
    found = []
    for i, table in enumerate(tables):
        if table["values"] is not None:
            svg = heat(f"heat-{i}", table["title"], table)
            table = table | {"figure": {"caption": table["title"], "note": "", "svg": svg}}
        found.append(table)
    return found


def heat(name: str, title: str, table: Mapping[str, Any]) -> str:
    """Draw the numbers of a table as a field of coloured cells, each with its number in it.

    Args:
        name: unique on the page.
        title: the accessible name.
        table: ``head`` and ``values``, rows whose first cell names them; a cell that is no number stays empty.
    """
    rows: Sequence[Sequence[Any]] = table["values"]
    known = [value for row in rows for value in row[1:] if is_number(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    columns = len(table["head"]) - 1
    figure, axes = canvas(_CELL * len(rows) + 40, left=44, bottom=26)
    axes.set(xlim=(0, columns), ylim=(len(rows), 0))
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([k + 0.5 for k in range(columns)], [str(each) for each in table["head"][1:]])
    axes.set_yticks([k + 0.5 for k in range(len(rows))], [str(row[0]) for row in rows], color=MUTED)
    decimals = decimals_for(half=(high - low) / 20 or None)
    for i, row in enumerate(rows):
        for k, value in enumerate(row[1:]):
            if is_number(value):
                strength = (value - low) / (high - low) if high > low else 0.5
                across, alpha = [k + 0.02, k + 0.98], 0.08 + 0.62 * strength
                axes.fill_between(across, i + 0.03, i + 0.97, color=SERIES[0], alpha=alpha, linewidth=0)
                write(axes, k + 0.5, i + 0.5, fixed(value, decimals), ha="center", va="center", fontsize=9, color=INK)
    words = f"from {fixed(low, decimals)} to {fixed(high, decimals)}; the table below holds every number"
    return finish(figure, name, title, f"{title}: {words}.")
