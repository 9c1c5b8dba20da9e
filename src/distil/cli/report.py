"""``distil report``: read a run again and make its page anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("report")(report)


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its report.json.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the page; beside the JSON by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and write nothing.")] = False,
) -> None:
    """Print the verdict of a finished run and write its page again."""
    from distil.cli.run import show_report
    from distil.report import load, write

    found = load(run)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, allow_nan=False))
        return
    folder = out or (run if run.is_dir() else run.parent)
    write(found, folder)
    show_report(found, folder, as_json=False)
