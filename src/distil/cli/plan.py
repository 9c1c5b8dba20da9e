"""``distil plan``: what a run will take, before it is run."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from distil.cli.options import (
    AsJson,
    Assign,
    BatchSize,
    Config,
    Data,
    Device,
    Epochs,
    Precision,
    Pretrained,
    Student,
    Teacher,
    TrainTeacher,
    Weights,
)
from distil.cli.session import RUNS, Display
from distil.cli.train import settings_of, split_methods

__all__ = ["register"]

NAMES = {"time": "time", "cache": "with a cache", "memory": "memory", "arithmetic": "arithmetic"}


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("plan")(plan)


def plan(
    data: Data = None,
    teacher: Teacher = None,
    student: Student = None,
    method: Annotated[
        str | None, typer.Option("--method", "--methods", help="Methods, separated by commas: kd,dkd,pld.")
    ] = None,
    teacher_weights: Weights = None,
    pretrained: Pretrained = False,
    train_teacher: TrainTeacher = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    precision: Precision = None,
    memory: Annotated[
        str | None, typer.Option(help="What a run may take, e.g. 16GB; what the device has by default.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, max=4096, help="Devices that share each step.")] = 1,
    assign: Assign = None,
    config: Config = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run will take (time, memory, disk) and whether a teacher cache would pay, from a few real steps."""
    from distil.loops.lab import Lab
    from distil.loops.own_plan import planned
    from distil.loops.own_run import OwnRun
    from distil.plan import parse_bytes, plain

    limit = parse_bytes(memory) if memory is not None else None
    given = {
        "data": data,
        "teacher": teacher,
        "student": student,
        "methods": split_methods(method) if method else None,
        "teacher_weights": None if teacher_weights is None else str(teacher_weights),
        "pretrained": pretrained or None,
        "train_teacher": train_teacher,
    }
    training = {"epochs": epochs, "batch_size": batch_size, "precision": precision}
    settings = settings_of(OwnRun(), given, training, assign, config)
    with Display(quiet=as_json) as display:
        found = planned(settings, Lab(RUNS, progress=display, device=device), memory=limit, devices=devices)
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps({**plain(found), "settings": asdict(settings)}))
        return
    _show(found)


def _show(found: Any) -> None:
    """Print the plan, for 80 columns and more."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from distil.plan import figures, one_line

    screen = Console(emoji=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (("", "left"), ("", "right"), ("", "left"), ("how", "left")):
        table.add_column(heading, justify=justify, no_wrap=heading == "")  # type: ignore[arg-type]
    for name, rows in figures(found).items():
        if rows:
            table.add_row(f"[bold]{NAMES[name]}[/]")
        for one in rows:
            table.add_row(f"  {escape(one.what)}", _value(one), one.said, f"[dim]{escape(one.how)}[/]")
    screen.print(table)
    for sentence in found.words:
        screen.print(escape(sentence), highlight=False, soft_wrap=True)
    screen.print(f"In all: {escape(one_line(found))}.", highlight=False, soft_wrap=True)


def _value(one: Any) -> str:
    from distil.plan.show import amount, duration

    if one.value is None:
        return "-"
    if one.unit == "s":
        return duration(one.value)
    if one.unit == "B":
        return amount(one.value)
    if one.unit == "x":
        return f"{one.value:.2f} x"
    return amount(one.value)[:-1].strip() + f" {one.unit}".rstrip() if one.unit else f"{one.value:,.0f}"
