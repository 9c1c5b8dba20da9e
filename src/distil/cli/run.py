"""``distil run``: the demo, or a system's experiment, arms side by side with paired seeds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from distil.cli.options import AsJson, Device
from distil.cli.session import RUNS, SETTINGS, Display, Tracker, command_line, open_out, resumable
from distil.cli.together import speaks
from distil.errors import nearest

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("run")(run)


def run(
    slug: Annotated[
        str | None,
        typer.Argument(help="A system's short name (pld), or a leaderboard (classification); without one, the demo."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=1000, help="Number of paired seeds (0, 1, …).")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The first of the seeds; the recipe's own by default.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16, for the students of every arm.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: training.epochs=20. May be repeated.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings, laid over the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; runs/NAME by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    device: Device = None,
    tracker: Tracker = None,
    adjust: Annotated[
        bool, typer.Option("--adjust", help="Widen the intervals so that all verdicts hold together (Bonferroni).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the settings; train nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the demo, a system's experiment on real data, or a leaderboard, and say whether distillation helped."""
    from distil.boards import BOARDS
    from distil.loops.lab import Lab
    from distil.loops.recipe import prepare_setup, run_recipe
    from distil.loops.settings import to_yaml

    recipe = _recipe(slug)
    name = "demo" if slug is None else slug
    begun = (out or RUNS / name) / SETTINGS
    if resume and config is None and begun.is_file():
        config = begun
    setup = prepare_setup(recipe, config=config, assignments=assign or (), seeds=seeds, seed=seed, precision=precision)
    if dry_run:
        typer.echo(json.dumps(asdict(setup)) if as_json else to_yaml(setup).rstrip())
        return
    folder = open_out(out, name, resume=resume, overwrite=overwrite, device=device)
    words = ["run", *([slug] if slug else []), *(["--device", device] if device else [])]
    words += [*(["--adjust"] if adjust else []), *(word for name in tracker or () for word in ("--tracker", name))]
    with Display(quiet=as_json) as display, resumable(folder, words):
        lab = Lab(folder, progress=display, device=device, trackers=tracker or ())
        report = run_recipe(
            recipe, setup, folder, lab, command=command_line(), system=None if slug in BOARDS else slug, adjust=adjust
        )
    show_report(report, folder, as_json=as_json)


def _recipe(name: str | None) -> Any:
    """Return what a name runs: nothing for the demo, a board's, or a system's."""
    from distil import catalog, demo
    from distil.boards import BOARDS, board
    from distil.loops.recipe import load_recipe

    if name is None:
        return demo
    if name in BOARDS:
        return board(name)
    try:
        return load_recipe(name)
    except catalog.UnknownName:
        hint = nearest(name, [*catalog.systems(), *BOARDS])
        raise catalog.UnknownName(f"There is no system '{name}'; {hint}") from None


def show_report(report: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    """Print the verdict and where the page is; of many processes, the first does."""
    if not speaks():
        return
    from distil.report import print_report

    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False, allow_nan=False))
        return
    screen = Console()
    print_report(report, screen)
    screen.print(f"\nReport: {(folder / 'report.html').resolve()}", markup=False, highlight=False, soft_wrap=True)
