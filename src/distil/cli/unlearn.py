"""``distil unlearn``: make a trained graph network forget edges, nodes or a class, with a record and an audit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from distil.cli.options import AsJson, Config, Device
from distil.cli.session import RUNS, SETTINGS, Display, command_line, open_out, resumable

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("unlearn")(unlearn)


def unlearn(
    model: Annotated[
        Path | None, typer.Option(help="The trained graph network: .safetensors, or a torch file with a state dict.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The graph it was trained on: .pt, .npz, a folder with nodes.csv and edges.csv.")
    ] = None,
    request: Annotated[
        list[Path] | None,
        typer.Option(help="What to delete: JSON or csv of edges, nodes or a class. May be repeated, in order."),
    ] = None,
    train_original: Annotated[
        bool, typer.Option("--train-original", help="Train the model first, by --net, --task and training.*.")
    ] = False,
    method: Annotated[str | None, typer.Option(help="d2dgn, retrain, gradient-ascent or gnndelete.")] = None,
    net: Annotated[
        str | None, typer.Option(help="distil:gcn(hidden=64), file.py:function, … where no sidecar says it.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="nodes (classes) or links, where no sidecar says it.")] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Also train a new model on what is left, to compare with.")
    ] = False,
    attack: Annotated[
        bool, typer.Option("--attack/--no-attack", help="Train a shadow model and attack membership with it.")
    ] = True,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all draws.")] = None,
    split_seed: Annotated[int | None, typer.Option(min=0, help="Seed of the held-out links, and of masks.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting: d2dgn.alpha=0.7, d2dgn.destroyer=negatives. May be repeated."),
    ] = None,
    config: Config = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; runs/unlearn by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    device: Device = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Load and check everything; train nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a trained graph network forget edges, nodes or a class, and say what an audit finds."""
    given: dict[str, Any] = {
        "model": None if model is None else str(model),
        "data": data,
        "requests": [str(path) for path in request] if request else None,
        "train_original": train_original or None,
        "method": method,
        "net": net,
        "task": task,
        "retrain": retrain or None,
        "attack": None if attack else False,
        "seed": seed,
        "split_seed": split_seed,
    }
    _go(given, assign, config, out, resume, overwrite, device, dry_run, as_json)


def _go(
    given: dict[str, Any], assign: list[str] | None, config: Path | None, out: Path | None, resume: bool,
    overwrite: bool, device: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    from distil.cli.run import show_report
    from distil.files import write_text
    from distil.loops.lab import Lab
    from distil.loops.settings import from_yaml, override, to_yaml, update
    from distil.report import write
    from distil.systems.d2dgn.asked import UnlearnRun
    from distil.systems.d2dgn.own import run_unlearn

    settings = UnlearnRun()
    begun = (out or RUNS / "unlearn") / SETTINGS
    if resume and config is None and begun.is_file():
        config = begun
    if config is not None:
        settings = from_yaml(settings, config)
    settings = override(update(settings, {k: v for k, v in given.items() if v is not None}), assign or ())
    if dry_run:
        _check(settings, device, as_json)
        return
    folder = open_out(out, "unlearn", resume=resume, overwrite=overwrite)
    words = ["unlearn", *(["--device", device] if device else [])]
    name = settings.net if settings.train_original else Path(settings.model).name
    title = f"{name} {'unlearns from' if settings.requests else 'trained on'} {Path(settings.data).name}"
    with Display(quiet=as_json) as display, resumable(folder, words):
        write_text(folder / SETTINGS, to_yaml(settings))
        lab = Lab(folder, progress=display, device=device)
        report = run_unlearn(settings, lab, command=command_line(), title=title)
    write(report, folder)
    show_report(report, folder, as_json=as_json)
    if not as_json and settings.train_original:
        typer.echo(f"The model before: {(folder / 'original' / 'model.safetensors').resolve()}")
    if not as_json and settings.requests:
        last = max(folder.glob("step-*"), key=lambda path: int(path.name.partition("-")[2]))
        typer.echo(f"The model that forgot: {(last / 'model.safetensors').resolve()}")
        typer.echo(f"Its record: {(last / 'audit.json').resolve()}")


def _check(settings: Any, device: str | None, as_json: bool) -> None:
    from distil.loops.lab import Lab
    from distil.loops.settings import to_yaml
    from distil.systems.d2dgn.asked import prepared, scene_of

    with Display(quiet=as_json) as display:
        made = prepared(settings, Lab(RUNS, progress=display, device=device))
    deletes = [{"nodes": len(each.nodes), "edges": each.pairs.shape[1]} for each in made.removals]
    for place, each in enumerate(deletes if made.links is not None else ()):
        each["held_out"] = each["edges"] - scene_of(made, place).gone.shape[1]
    facts = {"settings": asdict(settings), "data": made.bundle.name, "net": made.loaded.net, "deletes": deletes}
    said = []
    for k, each in enumerate(deletes, 1):
        held = f"; {each['held_out']} of the edges are held out and were never learned" if each.get("held_out") else ""
        said.append(f"Request {k}: {each['nodes']} nodes and {each['edges']} edges go{held}.")
    words = "\n".join([to_yaml(settings).rstrip(), *said, "Everything fits. Nothing was deleted, no model trained."])
    typer.echo(json.dumps(facts) if as_json else words)
