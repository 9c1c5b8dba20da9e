"""``distil report``: read a run again and make its page anew; an index of many runs; the difference of two."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from distil.cli.session import SETTINGS
from distil.errors import DistilError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("report")(report)


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, its report.json, or a folder of several runs.")],
    against: Annotated[
        Path | None, typer.Option(help="Another run: say what differs between the two, and page it.")
    ] = None,
    adjust: Annotated[
        bool | None,
        typer.Option("--adjust/--no-adjust", help="Widen the intervals for the number of comparisons, or not."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write the page to; the run's own by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and write nothing.")] = False,
) -> None:
    """Print the verdict of a finished run and write its page again; index many runs, or compare two."""
    from distil.cli.run import show_report
    from distil.report import load, rejudge, write

    if against is not None:
        _difference(run, against, adjust=bool(adjust), out=out, as_json=as_json)
        return
    if run.is_dir() and not (run / "report.json").exists():
        if (run / SETTINGS).is_file():
            raise DistilError(f"The run in {run} has not finished: it has no report.json; go on with it (--resume).")
        if adjust is not None:
            raise DistilError(f"{run} holds no report.json, and --adjust is for one run; name the run's folder.")
        _index(run, out=out, as_json=as_json)
        return
    found = load(run)
    if adjust is not None:
        found = rejudge(found, adjust=adjust)
    if as_json:
        _print(found)
        return
    folder = out or _folder(run)
    write(found, folder)
    show_report(found, folder, as_json=False)


def _index(folder: Path, *, out: Path | None, as_json: bool) -> None:
    from distil.report import find_runs, print_index, write_index

    found = find_runs(folder)
    if as_json:
        _print(found)
        return
    page, screen = write_index(found, out or folder), Console()
    print_index(found, screen)
    screen.print(f"\nIndex: {page.resolve()}", markup=False, highlight=False, soft_wrap=True)


def _difference(run: Path, other: Path, *, adjust: bool, out: Path | None, as_json: bool) -> None:
    from distil.report import difference, load, print_difference, write_difference

    names = _names(run, other)
    made = difference(load(run), load(other), names=names, settings=(_settings(run), _settings(other)), adjust=adjust)
    if as_json:
        _print(made)
        return
    word = re.sub(r"[^\w.-]+", "-", names[1]).strip("-.") or "other"
    page, screen = write_difference(made, (out or _folder(run)) / f"against-{word}.html"), Console()
    print_difference(made, screen)
    screen.print(f"\nDifference: {page.resolve()}", markup=False, highlight=False, soft_wrap=True)


def _folder(run: Path) -> Path:
    return run if run.is_dir() else run.parent


def _names(run: Path, other: Path) -> tuple[str, str]:
    """Name two runs by as much of the ends of their paths as tells them apart."""
    ends = [_folder(path).resolve().parts for path in (run, other)]
    for length in range(1, max(map(len, ends)) + 1):
        first, second = ("/".join(parts[-length:]) for parts in ends)
        if first != second:
            return first, second
    raise DistilError(f"{run} and {other} are the same run; name another one after --against.")


def _settings(run: Path) -> dict[str, Any] | None:
    """Return the settings that a run wrote beside its report, where it did."""
    from distil.loops.settings import read_yaml

    try:
        tree = read_yaml((_folder(run) / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def _print(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False, allow_nan=False))
