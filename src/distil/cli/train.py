"""``distil train`` and ``distil compare``: the user's own teacher, student and data."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from distil.cli.options import (
    AsJson,
    Assign,
    BatchSize,
    Config,
    Data,
    Device,
    DryRun,
    Epochs,
    Grid,
    Lr,
    Out,
    Overwrite,
    Precision,
    Pretrained,
    Resume,
    Student,
    Teacher,
    TeacherForward,
    Teachers,
    TeachersWeights,
    TrainTeacher,
    Weights,
)
from distil.cli.session import RUNS, SETTINGS, Display, Tracker, command_line, open_out, resumable
from distil.cli.together import launched, speaks
from distil.errors import DistilError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the two verbs to ``app``."""
    app.command("train")(train)
    app.command("compare")(compare)


def train(
    data: Data = None,
    teacher: Teachers = None,
    student: Student = None,
    method: Annotated[
        str | None, typer.Option(help="What to teach: pld, or 0.1*supervised + 0.9*kd(temperature=4).")
    ] = None,
    teacher_weights: TeachersWeights = None,
    pretrained: Pretrained = False,
    train_teacher: TrainTeacher = None,
    teacher_forward: TeacherForward = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Also train the student alone, to say whether it helped.")
    ] = True,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    precision: Precision = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and draws.")] = None,
    grid: Grid = None,
    assign: Assign = None,
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = None,
    tracker: Tracker = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Distil your teacher into your student on your data, and say whether it helped."""
    given = {
        "data": data,
        **_teachers(teacher or [], [str(file) for file in teacher_weights or ()]),
        "student": student,
        "methods": [method] if method else None,
        "pretrained": pretrained or None,
        "train_teacher": train_teacher,
        "teacher_forward": teacher_forward,
        "baseline": baseline if not baseline else None,
        "seeds": [seed] if seed is not None else None,
        "grid": _grid(grid),
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
        tracker or [],
        dry_run,
        as_json,
    )


def compare(
    data: Data = None,
    teacher: Teacher = None,
    student: Student = None,
    methods: Annotated[str | None, typer.Option(help="Methods, separated by commas: kd,dkd,pld.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=1000, help="Number of paired seeds; 3 by default.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The first of the seeds; 0 by default.")] = None,
    teacher_weights: Weights = None,
    pretrained: Pretrained = False,
    train_teacher: TrainTeacher = None,
    teacher_forward: TeacherForward = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    precision: Precision = None,
    grid: Grid = None,
    assign: Assign = None,
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = None,
    tracker: Tracker = None,
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
        "teacher_forward": teacher_forward,
        "seeds": list(range(seed or 0, (seed or 0) + (seeds or 3))) if seeds or seed is not None else None,
        "grid": _grid(grid),
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
        tracker or [],
        dry_run,
        as_json,
    )


def _go(
    verb: str, given: dict[str, Any], training: dict[str, Any], assign: list[str] | None, config: Path | None, out: Path
    | None, resume: bool, overwrite: bool, device: str | None, trackers: list[str], dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    from distil.cli.run import show_report
    from distil.files import write_text
    from distil.loops.inputs import described, in_words
    from distil.loops.lab import Lab
    from distil.loops.own import OwnRun, checked, run_own, task_of
    from distil.loops.own_plan import foretold
    from distil.loops.own_small import as_sets_are, run_small
    from distil.loops.settings import to_yaml
    from distil.report import write

    begun = (out or RUNS / verb) / SETTINGS
    if resume and config is None and begun.is_file():
        config = begun
    plain = OwnRun(seeds=(0, 1, 2)) if verb == "compare" else OwnRun()
    # What data and methods are does not hang on teachers, whose number a method and a set read differently.
    asked = {name: value for name, value in given.items() if not name.startswith("teacher")}
    small = _as_labelled(verb, settings_of(plain, asked, training, assign, config), given, training)
    if small is not None:  # laid over what a set's students are trained by, so that a 0 that was typed stays 0
        settings = small = replace(settings_of(as_sets_are(plain), given, training, assign, config), methods=small)
    else:
        settings = settings_of(plain, _last(given), training, assign, config)
    if verb == "train" and len(settings.methods) != 1:
        raise DistilError(
            f"distil train takes one method and got {len(settings.methods)}; compare several with `distil compare "
            "--methods a,b`."
        )
    if dry_run and small is not None:
        _check_small(settings, device, as_json)
        return
    if dry_run:
        with Display(quiet=as_json) as display:
            bundle, made = checked(settings, Lab(RUNS, progress=display, device=device))
        task = task_of(settings, bundle, made.module)
        told = f"Inputs: {in_words(task)}.\n" if described(task) else ""
        facts = {
            "settings": asdict(settings),
            "data": bundle.name,
            "classes": list(bundle.classes),
            "notes": list(bundle.notes),
            "teacher": dict(made.metrics),
            "inputs": described(task),
        }
        typer.echo(
            json.dumps(facts)
            if as_json
            else f"{to_yaml(settings)}{told}Everything fits; the teacher's {_scores(made.metrics)}. No student was "
            "trained."
        )
        return
    folder = open_out(out, verb, resume=resume, overwrite=overwrite, device=device)
    title = f"{settings.student} taught by {settings.teacher} on {Path(settings.data).name or settings.data}"
    words = [verb, *(["--device", device] if device else []), *(w for name in trackers for w in ("--tracker", name))]
    with Display(quiet=as_json) as display, resumable(folder, words):
        lab = Lab(folder, progress=display, device=device, trackers=trackers)
        if speaks():
            write_text(folder / SETTINGS, to_yaml(settings))
        if small is not None:
            title = f"{settings.student} on the condensed set {Path(settings.data).name}"
            report = run_small(settings, lab, command=command_line(), title=title)
        else:
            ready = None if as_json or resume or launched() else foretold(settings, lab)
            report = run_own(settings, lab, command=command_line(), title=title, ready=ready)
    if speaks():
        write(report, folder)
    show_report(report, folder, as_json=as_json)
    if not as_json:
        typer.echo(f"Trained students: {(folder / 'students').resolve()}")
        typer.echo(
            f"Use one elsewhere: distil export {shlex.quote(str(folder))} --out {shlex.quote(f'{folder}-export')}"
        )


def _as_labelled(
    verb: str, settings: Any, given: dict[str, Any], training: dict[str, Any]
) -> tuple[str, ...] | None:  # fmt: skip
    """Return the method of a run that is taught by a condensed set's own labels; nothing for any other."""
    from distil.data.foreign_sets import find_condensed
    from distil.loops.own_small import AS_LABELLED, taught_by_labels

    named = given.get("methods") is not None
    if taught_by_labels(settings) or (verb == "train" and not named and find_condensed(settings.data) is not None):
        for option in ("epochs", "batch_size"):
            if training[option] is not None:
                raise DistilError(
                    f"--{option.replace('_', '-')} is not for a condensed set, whose students make --set updates=1000 "
                    "steps of the batches that it names; leave it out."
                )
        return (AS_LABELLED,)
    return None


def _check_small(settings: Any, device: str | None, as_json: bool) -> None:
    from distil.loops.lab import Lab
    from distil.loops.own_small import opened_set
    from distil.loops.settings import to_yaml

    with Display(quiet=as_json) as display:
        made = opened_set(settings, Lab(RUNS, progress=display, device=device))
    small, real = made.small, made.real
    facts = {"settings": asdict(settings), "data": real.name, "classes": list(real.classes), "samples": len(small)}
    said = (
        f"{to_yaml(settings)}Everything fits: {len(small)} samples with {small.kind} labels, tested on {real.name}. No "
        "student was trained."
    )
    typer.echo(json.dumps(facts) if as_json else said)


def settings_of(
    settings: Any, given: dict[str, Any], training: dict[str, Any], assign: list[str] | None, config: Path | None
) -> Any:
    """Return the settings with a file of them, then options, then ``--set`` laid over them."""
    from distil.loops.settings import from_yaml, override, update

    if config is not None:
        settings = from_yaml(settings, config)
    settings = update(settings, {k: v for k, v in given.items() if v is not None})
    settings = update(settings, {"training": {k: v for k, v in training.items() if v is not None}})
    return override(settings, assign or ())


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


def _grid(texts: list[str] | None) -> dict[str, list[Any]] | None:
    from distil.loops.grid import parse_grid

    return parse_grid(texts) if texts else None


def _teachers(names: list[str], weights: list[str]) -> dict[str, Any]:
    """Return the settings of one teacher, or of several; either takes the place of what a file of settings names."""
    if len(names) > 1 or (names and len(weights) > 1):
        return {"teacher": "", "teacher_weights": "", "teachers": names, "teachers_weights": weights}
    if not names and len(weights) > 1:
        return {"teachers_weights": weights}
    several: dict[str, Any] = {"teacher": names[0], "teachers": [], "teachers_weights": []} if names else {}
    return several | {"teacher_weights": weights[0] if weights else None}


def _last(given: dict[str, Any]) -> dict[str, Any]:
    """Return options with the last of several teachers, and of several files of weights, as a method takes one."""
    names, weights = given.get("teachers"), given.get("teachers_weights")
    if not names and not weights:
        return given
    if names and len(names) > 1 and speaks():
        typer.echo(f"{len(names)} --teacher were given, and a method takes one: the last, {names[-1]}.", err=True)
    return {**given, **_teachers((names or [])[-1:], (weights or [])[-1:])}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _scores(metrics: Any) -> str:
    return ", ".join(f"{name} is {value:.4g}" for name, value in metrics.items())
