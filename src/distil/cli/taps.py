"""``distil taps``: what a model computes on the way, by name and shape."""

from __future__ import annotations

import inspect
import json
from math import prod
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distil.errors import DistilError

__all__ = ["register"]

LARGEST = 1 << 28  # numbers of a sample: 1 GiB in single precision


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("taps")(taps)


def taps(
    model: Annotated[
        str,
        typer.Argument(
            help="timm:NAME, torchvision:NAME, hf:FOLDER, distil:NAME(…), module:function, file.py:function."
        ),
    ],
    shape: Annotated[
        str, typer.Option("--input", help="Shape of one sample, e.g. 3x224x224; of a text, its tokens.")
    ] = "3x224x224",
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes to build it with.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights to load into it, as a check that they fit.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="How deep to list module paths.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List a model's taps: the meanings found by a dry run, and every module path with its shapes."""
    import torch

    from distil.engine.anatomy import MEANINGS, anatomy
    from distil.models import load_model
    from distil.models.published import sized

    sizes = shape.lower().replace(",", "x").split("x")
    whole = all(part.isascii() and part.isdecimal() and len(part) < 10 for part in sizes)
    if not whole or not 0 < prod(map(int, sizes)) <= LARGEST:
        raise DistilError(
            f"--input {shape} is no shape; write channels x height x width, e.g. 3x224x224, or one number of features."
        )
    sample = torch.zeros(2, *map(int, sizes))
    module = load_model(model, classes=classes, input_shape=tuple(map(int, sizes)), weights=weights)
    if len(sizes) == 1 and "input_ids" in inspect.signature(module.forward).parameters:
        sample = sample.long()
    try:
        found = anatomy(module, lambda m: m(sample))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # timm asserts the size of images
        made = sized(model, tuple(sample.shape[1:])) if sample.ndim == 4 else ""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DistilError(
            f"{model} cannot run on an input of shape {shape}: {reason} Give its shape with --input"
            f"{f', or take {made}, which is made for this one' if made else ''}."
        ) from None
    meanings = {name: [str(place) for place in found.meanings.get(name, ())] for name in MEANINGS if name != "logits"}
    records = [r for r in found.records.values() if r.path and r.path.count(".") < depth]
    if as_json:
        rows = [
            {"path": r.path, "kind": r.kind, "calls": r.calls, "input": r.input_shape, "output": r.output_shape}
            for r in found.records.values()
            if r.path
        ]
        typer.echo(json.dumps({"model": model, "meanings": meanings, "modules": rows}))
        return
    screen = Console()
    table = Table(title="by meaning", box=box.SIMPLE, title_justify="left")
    for heading in ("tap", "where", "what it is"):
        table.add_column(heading)
    for name, places in meanings.items():
        table.add_row(name, escape(", ".join(places)) or "[dim]not found; name a path[/]", MEANINGS[name])
    screen.print(table)
    table = Table(title=f"by path (depth {depth})", box=box.SIMPLE, title_justify="left")
    for heading in ("path", "module", "calls", "input", "output"):
        table.add_column(heading, justify="right" if heading == "calls" else "left")
    for r in records:
        table.add_row(escape(r.path), escape(r.kind), str(r.calls), _shape(r.input_shape), _shape(r.output_shape))
    screen.print(table)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "N" + "".join(f"x{size}" for size in shape[1:])
