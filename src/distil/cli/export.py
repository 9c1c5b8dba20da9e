"""``distil export``: a trained student of a run as a folder that needs no distil."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from distil.cli.session import Display
from distil.errors import DistilError, nearest

__all__ = ["register"]

FORMATS = {"all": ("safetensors", "onnx"), "safetensors": ("safetensors",), "onnx": ("onnx",)}


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("export")(export)


def export(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, a step of distil unlearn, or a model.safetensors with its sidecar.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    arm: Annotated[
        str | None, typer.Option(help="Which arm; by default the method that is best on validation.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Which seed; by default the best on validation.")] = None,
    formats: Annotated[str, typer.Option("--format", help="all, safetensors or onnx.")] = "all",
    opset: Annotated[int | None, typer.Option(min=1, help="The ONNX operator set; by default torch's choice.")] = None,
    example: Annotated[
        Path | None, typer.Option(help="A file of inputs to check it on, instead of the run's test data.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the export in --out.")] = False,
    device: Annotated[str, typer.Option(help="Where the trained model is timed; the check runs on the CPU.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print export.json.")] = False,
) -> None:
    """Write a trained student as safetensors and ONNX, with labels, card and script, checked beside the trained one."""
    if formats not in FORMATS:
        raise DistilError(f"--format {formats} is unknown; {nearest(formats, FORMATS)}")
    from distil.loops.shipped import export_run, located
    from distil.ship.export import check_out

    check_out(out, overwrite=overwrite)
    with Display(quiet=as_json) as display:
        display.begin(f"exporting {run}")
        student, result = export_run(
            run,
            out,
            arm=arm,
            seed=seed,
            formats=FORMATS[formats],
            opset=opset,
            example=example,
            overwrite=overwrite,
            device=device,
        )
    if as_json:
        typer.echo(json.dumps(result.manifest, ensure_ascii=False, allow_nan=False))
        return
    _show(student, result, chosen=located(run)[1] is None and (arm is None or seed is None))


def _show(student: Any, result: Any, *, chosen: bool) -> None:
    from distil.report.text import fixed, size

    screen = Console()

    def say(text: str) -> None:
        screen.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"{student.arm}, seed {student.seed} ({student.model}){', chosen on validation data' if chosen else ''}")
    for name, length in result.files.items():
        say(f"  {name:<20} {size(length):>9}")
    if result.checked:
        worst = max(each["relative"] for each in result.checked.values())
        say(
            f"Checked on {result.manifest['checked_on']} ({', '.join(result.checked)}): the answers of model.onnx "
            f"differ by at most {worst:.1e} of the largest (1e-04 is allowed)."
        )
    for batch, engines in result.latency.items():
        parts = [f"{name} {fixed(t['p50_ms'], 3)} ms (p95 {fixed(t['p95_ms'], 3)})" for name, t in engines.items()]
        say(f"{batch}: {', '.join(parts)}")
    say(f"Exported: {result.folder}\nUse it: distil predict {result.folder} FILES…")
