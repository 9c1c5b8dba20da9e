"""The report in a terminal: the verdicts in words and a compact leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distil.report.check import clean, validate
from distil.report.text import heading
from distil.report.verdict import HELPED, HURT
from distil.report.view import View, tables

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_report"]

_MARKS = {HELPED: ("✓", "bold green"), HURT: ("✗", "bold red")}


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the verdicts and the leaderboard; text from data is never read as markup.

    Args:
        report: what `distil.report.build` returned or `distil.report.load` read.
        console: where to.
    """
    from rich.table import Table
    from rich.text import Text

    report = clean(report)
    validate(report)
    view = View(report)
    console.print(Text(report["title"], style="bold"))
    for entry in view.verdicts:
        mark, color = _MARKS.get(entry["outcome"], ("=", "bold"))
        console.print(Text.assemble((f"{mark} ", color), entry["text"]))
    if not view.verdicts:
        console.print(Text("No verdict: a verdict needs two arms with the same seeds."))
    for warning in report.get("warnings") or []:
        console.print(Text.assemble(("warning: ", "yellow"), str(warning)))
    _print_tables(report, console)
    if not view.arms:
        return
    unit = f", {view.unit}" if view.unit else ""
    heads = [
        "arm",
        "role",
        f"{heading(view.metric)}{unit} ({view.score})",
        "difference",
        "parameters",
        "p50 ms",
        "time",
    ]
    rows = []
    for row in view.rows():
        shown = row.last if view.score == "last" else row.best
        gap = f"{row.difference[0]} ({row.difference[1]})" if row.difference[1] else row.difference[0]
        rows.append([row.label, row.role, " ".join(shown).strip(), gap, row.parameters, row.p50, row.seconds])
    kept = _fitting(heads, rows, console.width)
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for i in kept:
        right = heads[i] not in ("arm", "role")
        table.add_column(Text(heads[i]), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for cells in rows:
        table.add_row(*(Text(cells[i]) for i in kept))
    console.print(table)


def _print_tables(report: Mapping[str, Any], console: Console) -> None:
    """Print the further tables of a report, each under its title and note."""
    from rich.table import Table
    from rich.text import Text

    for table in tables(report):
        console.print(Text(f"\n{table['title']}", style="bold"))
        if table["note"]:
            console.print(Text(table["note"]))
        shown = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        for name, left in zip(table["head"], table["left"], strict=True):
            shown.add_column(Text(name), justify="left" if left else "right", no_wrap=not left, overflow="fold")
        for row in table["rows"]:
            shown.add_row(*map(Text, row))
        console.print(shown)


def _fitting(heads: list[str], rows: list[list[str]], width: int) -> list[int]:
    """Leave out the least needed columns until the rest, with a readable name, fits on a narrow terminal."""
    kept = list(range(len(heads)))
    sizes = [max(len(heads[i]), *(len(cells[i]) for cells in rows)) + 2 for i in kept]
    sizes[0] = min(sizes[0], 32)
    for spare in ("p50 ms", "role", "parameters", "time"):
        if sum(sizes[i] for i in kept) <= width:
            break
        kept.remove(heads.index(spare))
    return kept
