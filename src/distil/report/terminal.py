"""The report in a terminal: the verdicts in words and a compact leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distil.report.against import compared, summary_of
from distil.report.check import clean, validate
from distil.report.difference import BETTER, WORSE
from distil.report.passes import passes
from distil.report.pieces import date_of
from distil.report.text import MISSING, heading
from distil.report.verdict import HELPED, HURT
from distil.report.view import View, further

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_difference", "print_index", "print_report"]

_WORDS = 24  # characters of a column of words beside numbers
_GOOD, _BAD = ("✓", "bold green"), ("✗", "bold red")
_MARKS: dict[str, tuple[str, str]] = {HELPED: _GOOD, HURT: _BAD, BETTER: _GOOD, WORSE: _BAD}


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the verdicts and the leaderboard; text from data is never read as markup.

    Args:
        report: what `distil.report.build` returned or `distil.report.load` read.
        console: where to.
    """
    from rich.text import Text

    report = clean(report)
    validate(report)
    view = View(report)
    console.print(Text(report["title"], style="bold"))
    for entry in view.verdicts:
        mark, color = _MARKS.get(entry["outcome"], ("=", "bold"))
        console.print(Text.assemble((f"{mark} ", color), entry["text"]))
    if view.family:
        console.print(Text(view.family, style="dim"))
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
    _table(console, heads, rows, spare=("p50 ms", "role", "parameters", "time"), left=("arm", "role"))
    for label, words in passes(view):
        console.print(Text.assemble((f"Teacher's passes, {label}: ", "dim"), words))


def print_index(index: Mapping[str, Any], console: Console) -> None:
    """Print the runs that `find_runs` found, newest first, and what was left out."""
    from rich.text import Text

    heads = ["run", "verdict", "best arm", "metric", "arms", "seeds", "date", "title", "command"]
    rows = []
    for run in index["runs"]:
        mark, best = _MARKS.get(run["outcome"], ("=", ""))[0], run["best"] or {}
        verdict = f"{mark} {run['outcome']}" if run["outcome"] else "no verdict"
        verdict = "= too few seeds" if run["verdict"].startswith("Too few seeds") else verdict
        shown = [run["folder"], verdict, best.get("arm", MISSING), best.get("written", MISSING)]
        date = date_of(run["created"]).partition(",")[0]
        rows.append([*shown, str(run["arms"]), str(run["seeds"]), date, run["title"], run["command"]])
    spare = ("command", "title", "best arm", "seeds", "arms", "date")
    _table(console, heads, rows, spare=spare, left=("run", "verdict", "best arm", "date", "title", "command"))
    for each in index["skipped"]:
        console.print(Text.assemble(("left out: ", "yellow"), f"{each['folder']}: {each['why']}"))


def print_difference(made: Mapping[str, Any], console: Console) -> None:
    """Print what `distil.report.difference` found."""
    from rich.text import Text

    names = [str(name) for name in made["names"]]
    console.print(Text(f"{names[0]} against {names[1]}", style="bold"))
    console.print(Text(summary_of(made)))
    for note in made["notes"]:
        console.print(Text.assemble(("note: ", "yellow"), note))
    if made["family"]:
        console.print(Text(made["family"], style="dim"))
    rows = []
    for row in compared(made):
        mark = _MARKS.get(row["outcome"], ("=", ""))[0]
        gap = f"{row['difference']} ({row['span']})" if row["span"] else row["difference"]
        rows.append([row["label"], *row["means"], f"{mark} {gap}", row["how"]])
    if rows:
        _table(console, ["arm", *names, "difference", "how"], rows, spare=("how",), left=("arm",))
    for verdict in made["verdicts"]:
        if verdict["changed"]:
            old, new = (outcome or "not judged" for outcome in verdict["outcomes"])
            words = f"{verdict['labels'][0]} against {verdict['labels'][1]}: {old} in {names[0]}, {new} in {names[1]}"
            console.print(Text.assemble(("changed: ", "yellow"), words))
    for fact in made["differs"]:
        values = " | ".join(MISSING if value is None else value for value in fact["values"])
        console.print(Text.assemble((f"{fact['group']}: ", "dim"), f"{fact['what']}: {values}"))
    if made["same"]:
        console.print(Text(f"The same in both: {', '.join(made['same'])}.", style="dim"))


def _table(
    console: Console, heads: list[str], rows: list[list[str]], *, spare: tuple[str, ...], left: tuple[str, ...]
) -> None:
    """Print a table without what does not fit: ``spare`` columns go first to last."""
    from rich.table import Table
    from rich.text import Text

    kept = _fitting(heads, rows, console.width, spare)
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for i in kept:
        right = heads[i] not in left
        table.add_column(Text(heads[i]), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for cells in rows:
        table.add_row(*(Text(cells[i]) for i in kept))
    console.print(table)


def _print_tables(report: Mapping[str, Any], console: Console) -> None:
    """Print the further tables of a report, each under its title and note."""
    from rich.table import Table
    from rich.text import Text

    for table in further(report):
        console.print(Text(f"\n{table['title']}", style="bold"))
        if table["note"]:
            console.print(Text(table["note"]))
        for columns in _blocks(table, console.width):
            shown = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
            for i in columns:
                left = table["left"][i]
                head = Text(table["head"][i])
                shown.add_column(head, justify="left" if left else "right", no_wrap=not left, overflow="fold")
            for row in table["rows"]:
                shown.add_row(*(Text(row[i]) for i in columns))
            console.print(shown)


def _blocks(table: Mapping[str, Any], width: int) -> list[list[int]]:
    """Return the columns of each block in which a table is printed: one, where its numbers leave its words room.

    Else so many columns at a time as fit beside the leading columns of words, which every block repeats.
    """
    from rich.cells import cell_len

    full, least = [], []
    for i, (head, left) in enumerate(zip(table["head"], table["left"], strict=True)):
        cells = [head, *(row[i] for row in table["rows"])]
        longest = max(cell_len(word) for cell in cells for word in cell.split() or [""])
        natural = 2 + max(map(cell_len, cells))
        full.append(min(natural, _WORDS) if left else natural)
        least.append(min(2 + longest, _WORDS) if left else natural)
    if sum(least) <= width:
        return [list(range(len(least)))]
    words = table["left"].index(False) if False in table["left"] else 1
    lead = sum(full[:words]) if 5 * sum(full[:words]) <= 3 * width else sum(least[:words])
    blocks: list[list[int]] = [[]]
    for i in range(words, len(full)):
        if blocks[-1] and lead + sum(full[k] for k in (*blocks[-1], i)) > width:
            blocks.append([])
        blocks[-1].append(i)
    return [[*range(words), *block] for block in blocks]


def _fitting(heads: list[str], rows: list[list[str]], width: int, spare: tuple[str, ...]) -> list[int]:
    """Leave out the least needed columns until the rest, with a readable name, fits on a narrow terminal."""
    kept = list(range(len(heads)))
    sizes = [max(len(heads[i]), *(len(cells[i]) for cells in rows)) + 2 for i in kept]
    sizes[0] = min(sizes[0], 32)
    for name in spare:
        if sum(sizes[i] for i in kept) <= width:
            break
        kept.remove(heads.index(name))
    return kept
