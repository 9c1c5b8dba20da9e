"""``distil search``: the student of a space that will distil best, found without training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from distil.cli.options import AsJson, Config, Device, Epochs, Lr, Pretrained, TrainTeacher, Weights
from distil.cli.session import RUNS, SETTINGS, Display, command_line, open_out, resumable

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("search")(search)


def search(
    data: Annotated[
        str | None, typer.Option(help="An image folder, .parquet or .csv, or a name such as digits.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="timm:NAME, distil:NAME(…), module:function or file.py:function.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="s0, tiny-cnn, module:object or file.py:object.")] = None,
    max_params: Annotated[int | None, typer.Option(min=1, help="At most so many parameters.")] = None,
    max_flops: Annotated[
        int | None, typer.Option(min=1, help="At most so many FLOPs for one sample; a multiply-add is two.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="evolution, random or exhaustive.")] = None,
    evaluations: Annotated[int | None, typer.Option(min=1, help="How many candidates are scored.")] = None,
    distil: Annotated[
        bool,
        typer.Option("--distil/--no-distil", help="Distil the winner beside the median, largest and a random net."),
    ] = True,
    method: Annotated[
        str | None, typer.Option(help="What to teach: diswot, or diswot(gram_losses=true), kd, …")
    ] = None,
    teacher_weights: Weights = None,
    pretrained: Pretrained = False,
    train_teacher: TrainTeacher = None,
    epochs: Epochs = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per batch of the distillation.")] = None,
    lr: Lr = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search and of its weights.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of paired seeds of the distillation.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting: scoring.semantic=cam. May be repeated.")
    ] = None,
    config: Config = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; runs/search by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    device: Device = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Load and check everything, score one candidate; train at most the teacher."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find the student of a space that will distil best, untrained, then distil it beside others of the space."""
    given: dict[str, Any] = {
        "data": data,
        "teacher": teacher,
        "space": space,
        "method": method,
        "teacher_weights": None if teacher_weights is None else str(teacher_weights),
        "pretrained": pretrained or None,
        "train_teacher": train_teacher,
        "distil": None if distil else False,
        "seed": seed,
        "seeds": list(range(seeds)) if seeds else None,
    }
    groups = {
        "limits": {"parameters": max_params, "flops": max_flops},
        "search": {"strategy": strategy, "evaluations": evaluations},
        "training": {"epochs": epochs, "batch_size": batch_size, "lr": lr},
    }
    _go(given | groups, assign, config, out, resume, overwrite, device, dry_run, as_json)


def _go(
    given: dict[str, Any], assign: list[str] | None, config: Path | None, out: Path | None, resume: bool,
    overwrite: bool, device: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    from distil.cli.run import show_report
    from distil.files import write_text
    from distil.loops.lab import Lab
    from distil.loops.settings import from_yaml, override, to_yaml, update
    from distil.report import write
    from distil.systems.diswot.own import SearchRun, run_search

    settings = SearchRun()
    begun = (out or RUNS / "search") / SETTINGS
    if resume and config is None and begun.is_file():
        config = begun
    if config is not None:
        settings = from_yaml(settings, config)
    settings = override(update(settings, _said(given)), assign or ())
    if dry_run:
        _check(settings, device, as_json)
        return
    folder = open_out(out, "search", resume=resume, overwrite=overwrite)
    with Display(quiet=as_json) as display, resumable(folder, ["search", *(["--device", device] if device else [])]):
        write_text(folder / SETTINGS, to_yaml(settings))
        report = run_search(settings, Lab(folder, progress=display, device=device), command=command_line())
    write(report, folder)
    show_report(report, folder, as_json=as_json)
    if not as_json and settings.distil:
        typer.echo(f"Trained students: {(folder / 'students').resolve()}")


def _check(settings: Any, device: str | None, as_json: bool) -> None:
    from distil.loops.lab import Lab
    from distil.loops.settings import to_yaml
    from distil.systems.diswot.own import prepared, teaching

    with Display(quiet=as_json) as display:
        lab = Lab(RUNS, progress=display, device=device)
        made = prepared(settings, lab)
        teacher = teaching(settings, made, lab)
    facts: dict[str, Any] = {
        "settings": asdict(settings),
        "data": made.bundle.name,
        "classes": list(made.bundle.classes),
    }
    facts["teacher"] = dict(teacher.metrics) if teacher is not None else None
    said = f"{to_yaml(settings)}Everything fits. One candidate was scored; nothing was searched, no student trained."
    typer.echo(json.dumps(facts) if as_json else said)


def _said(tree: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not typed."""
    kept = {key: _said(value) if isinstance(value, dict) else value for key, value in tree.items()}
    return {key: value for key, value in kept.items() if value is not None and value != {}}
