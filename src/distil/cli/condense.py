"""``distil condense``: a small set that stands for the user's large one."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from distil.cli.options import AsJson, Config, Data, Device, Overwrite, Pretrained, Resume, TrainTeacher
from distil.cli.session import RUNS, SETTINGS, Display, command_line, open_out, out_folder, resumable

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("condense")(condense)


def condense(
    data: Data = None,
    method: Annotated[str | None, typer.Option(help="random, or another method that makes small sets.")] = None,
    per_class: Annotated[int | None, typer.Option(min=1, help="Samples for each class; 10 by default.")] = None,
    teacher: Annotated[
        list[str] | None, typer.Option(help="A net trained on the data, by name. May be repeated.")
    ] = None,
    teacher_weights: Annotated[
        list[str] | None, typer.Option(help="A teacher's weights, in the order of --teacher. May be repeated.")
    ] = None,
    pretrained: Pretrained = False,
    train_teacher: TrainTeacher = None,
    labels: Annotated[
        str | None, typer.Option(help="hard, static, dynamic, replayed or two-numbers; by default the method's own.")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Judge the set: fresh students on it, on random samples, on all data.")
    ] = False,
    existing: Annotated[
        str | None,
        typer.Option(
            help="Judge a set that is there: distil's, class folders of images, a .pt. With --labels it is kept anew."
        ),
    ] = None,
    student: Annotated[
        list[str] | None, typer.Option(help="A net that judges, by name; two of other forms by default. Repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=1000, help="Seeds of the judging; 3 by default.")] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="Updates of every student; 1000 by default.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the method's own draws.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the method, or any setting: size=32. Repeatable.")
    ] = None,
    config: Config = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; runs/condense by default.")] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load and check everything; train at most the teachers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a small set of images, texts or vectors that stands for your data, and judge what students learn from it."""
    given: dict[str, Any] = {
        "data": data,
        "method": method,
        "per_class": per_class,
        "teachers": teacher,
        "teacher_weights": teacher_weights,
        "pretrained": pretrained or None,
        "train_teacher": train_teacher,
        "labels": labels,
        "evaluate": evaluate or None,
        "existing": existing,
        "seed": seed,
    }
    judging = {"students": student, "seeds": list(range(seeds)) if seeds else None}
    given["judging"] = {name: value for name, value in judging.items() if value} | (
        {"training": {"updates": updates, "checks": min(updates, 5)}} if updates else {}
    )
    given = {name: value for name, value in given.items() if value is not None and value not in ([], {})}
    _go(given, assign or [], config, out, resume, overwrite, device, dry_run, as_json)


def _go(
    given: dict[str, Any], assign: list[str], config: Path | None, out: Path | None, resume: bool, overwrite: bool,
    device: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    from distil.cli.run import show_report
    from distil.files import write_text
    from distil.loops.condense_existing import apart
    from distil.loops.lab import Lab
    from distil.loops.own_condense import SET, CondenseRun, run_condense
    from distil.loops.settings import from_yaml, override, to_yaml, update
    from distil.report import write
    from distil.report.text import size

    settings = CondenseRun()
    begun = (out or RUNS / "condense") / SETTINGS
    if resume and config is None and begun.is_file():
        config = begun
    if config is not None:
        settings = from_yaml(settings, config)
    known = {each.name for each in fields(CondenseRun)}
    # What is no setting of the run is the method's own, so that `--set steps=200` needs no prefix.
    named = [
        text if text.partition("=")[0].partition(".")[0].strip() in known else f"options.{text}" for text in assign
    ]
    settings = override(update(settings, given), named)
    apart(settings, out_folder(out, "condense", resume=resume))
    if dry_run:
        _check(settings, device, as_json)
        return
    folder = open_out(out, "condense", resume=resume, overwrite=overwrite)
    with Display(quiet=as_json) as display, resumable(folder, ["condense", *(["--device", device] if device else [])]):
        write_text(folder / SETTINGS, to_yaml(settings))
        small, report = run_condense(settings, Lab(folder, progress=display, device=device), command=command_line())
    write(report, folder)
    if as_json or report["arms"]:
        show_report(report, folder, as_json=as_json)
    else:
        typer.echo(f"Report: {(folder / 'report.html').resolve()}")
    if not as_json and settings.writes:
        held = small.storage(exact=settings.exact)
        held = {"texts": held.pop("images"), **held} if small.texts is not None else held
        parts = ", ".join(f"{name} {size(held[name])}" for name in held if name not in ("other", "total"))
        typer.echo(f"The set: {(folder / SET).resolve()} ({len(small)} samples; {parts})")
        typer.echo(f"Train on it: distil train --data {shlex.quote(str(folder))} --student NAME")


def _check(settings: Any, device: str | None, as_json: bool) -> None:
    import torch

    from distil.loops.lab import Lab
    from distil.loops.own_condense import prepared
    from distil.loops.settings import to_yaml
    from distil.report.text import size

    with Display(quiet=as_json) as display:
        made = prepared(settings, Lab(RUNS, progress=display, device=device))
    bundle, order, small = made.bundle, made.order, made.existing
    facts: dict[str, Any] = {
        "settings": asdict(settings),
        "data": bundle.name,
        "classes": list(bundle.classes),
        "inputs": list(bundle.input_shape),
    }
    if small is not None:
        kind, noun = settings.labels or small.kind, "texts" if order.nearest else small.noun
        facts["set"] = {"samples": len(small), "labels": kind}
        kept = "kept as a set of its own and " if settings.writes else ""
        said = (
            f"{to_yaml(settings)}Everything fits: {len(small)} {noun} with {kind} labels, to be {kept}judged on "
            f"{bundle.name}. No student was trained."
        )
        typer.echo(json.dumps(facts) if as_json else said)
        return
    count = order.per_class * order.classes
    values = 1
    for side in bundle.input_shape:
        values *= side
    each = values if len(bundle.input_shape) == 3 else 4 * values
    if order.words is not None:
        texts, _ = order.said(order.ids(torch.arange(len(bundle.train))))
        each = round(sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) / len(texts))
    facts["budget"] = {"samples": count, "bytes": count * each}
    about = "about " if order.words is not None else ""
    said = (
        f"{to_yaml(settings)}Everything fits: at most {count} samples of {len(bundle.classes)} classes, "
        f"{about}{size(count * each)} without labels. Nothing was condensed."
    )
    typer.echo(json.dumps(facts) if as_json else said)
