"""``distil train`` and ``distil compare``: the user's own teacher, student and data."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from distil.cli.session import RUNS, SETTINGS, Display, command_line, open_out, resumable
from distil.errors import DistilError

__all__ = ["register"]

Data = Annotated[
    str | None, typer.Option(help="An image folder, .parquet, .csv or graph file, or a name such as digits.")
]
Teacher = Annotated[
    str | None, typer.Option(help="timm:NAME, torchvision:NAME, distil:NAME(…), module:function or file.py:function.")
]
Student = Annotated[str | None, typer.Option(help="As --teacher.")]
Weights = Annotated[
    Path | None, typer.Option(help="The teacher's weights: .safetensors, or a torch file with a state dict.")
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Load the teacher's published weights (may download).")]
TrainTeacher = Annotated[
    int | None, typer.Option(min=0, help="Train the teacher on the data first, for so many epochs.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of every student.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples per batch.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate.")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")]
Assign = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting: training.optimizer=sgd. May be repeated.")
]
Config = Annotated[Path | None, typer.Option(help="A YAML file of settings; options and --set win over it.")]
Out = Annotated[Path | None, typer.Option(help="Where to write; runs/train or runs/compare by default.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; the best there is by default.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Load and check everything, train nothing but a teacher that has to be.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the two verbs to ``app``."""
    app.command("train")(train)
    app.command("compare")(compare)


def train(
    data: Data = None,
    teacher: Teacher = None,
    student: Student = None,
    method: Annotated[
        str | None, typer.Option(help="What to teach: pld, or 0.1*supervised + 0.9*kd(temperature=4).")
    ] = None,
    teacher_weights: Weights = None,
    pretrained: Pretrained = False,
    train_teacher: TrainTeacher = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Also train the student alone, to say whether it helped.")
    ] = True,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    precision: Precision = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and draws.")] = None,
    assign: Assign = None,
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Distil your teacher into your student on your data, and say whether it helped."""
    given = {
        "data": data,
        "teacher": teacher,
        "student": student,
        "methods": [method] if method else None,
        "teacher_weights": _text(teacher_weights),
        "pretrained": pretrained or None,
        "train_teacher": train_teacher,
        "baseline": baseline if not baseline else None,
        "seeds": [seed] if seed is not None else None,
    }
    _go(
        "train",
        given,
        {"epochs": epochs, "batch_size": batch_size, "lr": lr, "precision": precision},
        assign,
        config,
        out,
        resume,
        overwrite,
        device,
        dry_run,
        as_json,
    )


def compare(
    data: Data = None,
    teacher: Teacher = None,
    student: Student = None,
    methods: Annotated[str | None, typer.Option(help="Methods, separated by commas: kd,dkd,pld.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of paired seeds (0, 1, …).")] = None,
    teacher_weights: Weights = None,
    pretrained: Pretrained = False,
    train_teacher: TrainTeacher = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    precision: Precision = None,
    assign: Assign = None,
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compare methods on your teacher, student and data: a leaderboard with intervals over paired seeds."""
    given = {
        "data": data,
        "teacher": teacher,
        "student": student,
        "methods": split_methods(methods) if methods else None,
        "teacher_weights": _text(teacher_weights),
        "pretrained": pretrained or None,
        "train_teacher": train_teacher,
        "seeds": list(range(seeds)) if seeds else None,
    }
    _go(
        "compare",
        given,
        {"epochs": epochs, "batch_size": batch_size, "lr": lr, "precision": precision},
        assign,
        config,
        out,
        resume,
        overwrite,
        device,
        dry_run,
        as_json,
    )


def _go(
    verb: str, given: dict[str, Any], training: dict[str, Any], assign: list[str] | None, config: Path | None, out: Path
    | None, resume: bool, overwrite: bool, device: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    from distil.cli.run import show_report
    from distil.files import write_text
    from distil.loops.lab import Lab
    from distil.loops.own import OwnRun, checked, run_own
    from distil.loops.settings import from_yaml, override, to_yaml, update
    from distil.report import write

    settings = OwnRun(seeds=(0, 1, 2)) if verb == "compare" else OwnRun()
    begun = (out or RUNS / verb) / SETTINGS
    if resume and config is None and begun.is_file():
        config = begun
    if config is not None:
        settings = from_yaml(settings, config)
    settings = update(settings, {k: v for k, v in given.items() if v is not None})
    settings = update(settings, {"training": {k: v for k, v in training.items() if v is not None}})
    settings = override(settings, assign or ())
    if verb == "train" and len(settings.methods) != 1:
        raise DistilError(
            f"distil train takes one method and got {len(settings.methods)}; compare several with `distil compare "
            "--methods a,b`."
        )
    if dry_run:
        with Display(quiet=as_json) as display:
            bundle, made = checked(settings, Lab(RUNS, progress=display, device=device))
        facts = {
            "settings": asdict(settings),
            "data": bundle.name,
            "classes": list(bundle.classes),
            "notes": list(bundle.notes),
            "teacher": dict(made.metrics),
        }
        typer.echo(
            json.dumps(facts)
            if as_json
            else f"{to_yaml(settings)}Everything fits; the teacher's {_scores(made.metrics)}. No student was trained."
        )
        return
    folder = open_out(out, verb, resume=resume, overwrite=overwrite)
    title = f"{settings.student} taught by {settings.teacher} on {Path(settings.data).name or settings.data}"
    with Display(quiet=as_json) as display, resumable(folder, [verb, *(["--device", device] if device else [])]):
        write_text(folder / SETTINGS, to_yaml(settings))
        report = run_own(settings, Lab(folder, progress=display, device=device), command=command_line(), title=title)
    write(report, folder)
    show_report(report, folder, as_json=as_json)
    if not as_json:
        typer.echo(f"Trained students: {(folder / 'students').resolve()}")
        typer.echo(
            f"Use one elsewhere: distil export {shlex.quote(str(folder))} --out {shlex.quote(f'{folder}-export')}"
        )


def split_methods(text: str) -> list[str]:
    """Split at commas outside parentheses and brackets.

    >>> split_methods("kd(temperature=4), 0.5*at(taps=[a,b]) + supervised,pld")
    ['kd(temperature=4)', '0.5*at(taps=[a,b]) + supervised', 'pld']
    """
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    parts.append(current.strip())
    if not all(parts):
        raise DistilError(f"--methods '{text}' has an empty entry; write kd,dkd,pld.")
    return parts


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _scores(metrics: Any) -> str:
    return ", ".join(f"{name} is {value:.4g}" for name, value in metrics.items())
