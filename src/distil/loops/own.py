"""Distilling on the user's own things: data by path or name, models by name or factory, methods as expressions."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.loading import FullBatch, mix_seed
from distil.data.splits import SPLITS_FILE, write_splits
from distil.engine.anatomy import MEANINGS
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.engine.frozen import TeacherForward
from distil.engine.processes import is_first, wait
from distil.errors import DistilError, nearest
from distil.loops.adopt import adopted, code_of_methods
from distil.loops.compare import check_seeds, compare
from distil.loops.grid import Point, plan_trials
from distil.loops.inputs import as_teacher, for_key, image_task, in_words
from distil.loops.lab import Arm, Lab, Outcome, Role, code_of
from distil.loops.own_cache import teacher_of
from distil.loops.own_check import check_call, first_line
from distil.loops.own_graph import drawn, serving_tables
from distil.loops.own_run import OwnRun, read_both, read_data
from distil.loops.own_views import in_views, seen_by
from distil.loops.recipe import data_report
from distil.loops.training import (
    Teacher,
    build_model,
    distil,
    example_of,
    rebuilt_student,
    teacher_report,
    train_teacher,
)
from distil.loops.tuning import tune_arms, tuning_report, tuning_seed, tuning_words
from distil.loops.unlabelled import check_labels_read, check_teacher
from distil.methods.expression import parse
from distil.models.load import load_weights
from distil.tasks import Task, get_task

__all__ = [
    "Opened",
    "OwnRun",
    "checked",
    "fitted",
    "opened",
    "points_of",
    "read_data",
    "run_own",
    "student_of",
    "task_of",
    "tried",
    "try_methods",
]


@dataclass(frozen=True)
class Opened:
    """The data as the student and as the teacher alone see them, the teacher as loaded, and how both are called."""

    bundle: Bundle
    taught: Bundle
    teacher: nn.Module
    task: Task


def checked(run: OwnRun, lab: Lab) -> tuple[Bundle, Teacher]:
    """Load everything, try every method on a batch, and score the teacher; what does not fit stops before training.

    Raises:
        DistilError: missing data or models, other class counts, a tap that does not exist, settings that cannot be, a
            teacher at chance, …
    """
    run, made, texts = fitted(run, lab)
    return made.bundle, tried(run, made, lab, lambda: student_of(run, made.bundle), texts)


def fitted(run: OwnRun, lab: Lab) -> tuple[OwnRun, Opened, tuple[str, ...]]:
    """Check the settings, load everything and call both models once; return also all expressions to be trained."""
    if run.teachers:
        raise DistilError(
            f"{len(run.teachers)} teachers were named, and a method takes one; several answer together for a condensed "
            "set's dynamic labels alone."
        )
    if run.teachers_weights:
        raise DistilError(
            f"{len(run.teachers_weights)} --teacher-weights for one --teacher; name the file of its weights alone."
        )
    for name in ("data", "student", "teacher"):
        if not getattr(run, name):
            raise DistilError(f"--{name} is missing; see `distil train --help`.")
    check_seeds(run.seeds)
    if not run.methods:
        raise DistilError("--methods is missing; name at least one, e.g. kd,dkd,pld.")
    twice = next((text for k, text in enumerate(run.methods) if text in run.methods[:k]), None)
    if twice is not None:
        raise DistilError(f"--methods names '{twice}' twice; give every method once.")
    TeacherForward.of(run.teacher_forward)
    run = _adopted(run)
    for text in run.methods:
        check_labels_read(text)
    points = points_of(run)
    texts = dict.fromkeys(["supervised", *run.methods, *(p.expression for tried in points.values() for p in tried)])
    for text in texts:
        parse(text)
    made = opened(run, lab)
    for role, spec, model in (
        ("teacher", run.teacher, made.teacher),
        ("student", run.student, student_of(run, made.bundle)),
    ):
        for remark in check_call(role, spec, model, made.bundle, made.task):
            lab.progress.say(f"{made.bundle.name}: {remark}")
    _check_taps(run, student_of(run, made.bundle), made.teacher)
    return run, made, tuple(texts)


def opened(run: OwnRun, lab: Lab) -> Opened:
    """Read the data and make the teacher, its weights from the file where there is one."""
    lab.progress.begin(f"reading {run.data}")
    bundle, taught = read_both(run, lab.out)
    for note in bundle.notes:
        lab.progress.say(f"{bundle.name}: {note}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed("model", "teacher", 0))
        module = teacher_of(run, taught)
    plain, (bundle, taught) = bundle, in_views(run, bundle, taught, module)
    if bundle is not plain:
        lab.progress.say(f"{bundle.name}: {bundle.notes[-1]}")
    return Opened(bundle, taught, module, task_of(run, bundle, module, lab))


def tried(run: OwnRun, made: Opened, lab: Lab, student: Callable[[], nn.Module], texts: Iterable[str] = ()) -> Teacher:
    """Try methods (``texts``, or those of the run) on a batch with a student that is thrown away; then score the
    teacher, and train it before where that is wanted.
    """
    module = made.teacher
    try_methods(tuple(texts) or ("supervised", *run.methods), run, made, lab, student)
    task = made.task if made.taught.task is made.bundle.task else get_task(made.taught.task)
    return _teacher(run, made.taught, module, lab, task)


def try_methods(texts: Iterable[str], run: OwnRun, made: Opened, lab: Lab, student: Callable[[], nn.Module]) -> None:
    """Make one step of every method on a few samples; the teacher is left as it was."""
    learns = [parameter.requires_grad for parameter in made.teacher.parameters()]
    for text in texts:
        lab.progress.begin(f"trying one step of {text}")
        _try(text, run, made, lab, student())
    for parameter, on in zip(made.teacher.parameters(), learns, strict=True):
        parameter.requires_grad_(on)  # the trials froze it, and it may be trained yet


def task_of(run: OwnRun, bundle: Bundle, teacher: nn.Module, lab: Lab | None = None) -> Task:
    """Return the task of a run: how each role's inputs are prepared, how both are scored; ``lab`` hears the remarks."""
    task, remarks = image_task(
        bundle, run.normalise, run.input_size, student=run.student, teacher=run.teacher, pretrained=run.pretrained,
        module=teacher,
    )  # fmt: skip
    for remark in remarks if lab is not None else ():
        lab.progress.say(f"{bundle.name}: {remark}")  # type: ignore[union-attr]
    return task


def _try(text: str, run: OwnRun, made: Opened, lab: Lab, student: nn.Module) -> None:
    """Make one step on a few samples."""
    example, options = example_of(made.bundle), run.training.options()
    try:
        method = parse(text)
        distiller = Distiller(
            rebuilt_student(student, method, seed=run.seeds[0]), made.teacher, method, task=made.task, example=example,
            epochs=run.training.epochs, taps=run.taps,
        )  # fmt: skip
        distiller.totals([example])
        if isinstance(made.bundle.train, FullBatch):  # the example is all there is to go over
            distiller.prepare([example])
        if distiller.prepared:  # else it waits for its pass over the data
            quiet = {"epochs": None, "steps": 1, "diagnose": False, "check_teacher": False}
            fit(distiller, [example], device=lab.device, **{**options, **quiet})
    except DistilError as error:
        # The settings and models alone are at fault where the bare label loss cannot run.
        raise error if text == "supervised" else DistilError(f"The method '{text}' does not fit: {error}") from None
    except (Exception, SystemExit) as error:  # in code of the user's, or on what a method never expected
        raise DistilError(
            f"The method '{text}' fails on its first step ({first_line(error)}); check its arguments, and the models."
        ) from error


def _check_taps(run: OwnRun, student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a path for a tap that neither model has, whether the methods ask for it or not."""
    known = [path for model in (student, teacher) for path, _ in model.named_modules() if path]
    for meaning, path in run.taps.items():
        base = path.partition(":")[0]
        if base not in MEANINGS and not fnmatch.filter(known, base):
            raise DistilError(
                f"taps.{meaning}={path!r} is no module of the student or the teacher; {nearest(base, known)}"
            )


def student_of(run: OwnRun, bundle: Bundle) -> nn.Module:
    """Return a fresh student of the run's first seed."""
    model = build_model(run.student, bundle, seed=run.seeds[0])
    return load_weights(model, run.student_weights) if run.student_weights else model


def _teacher(run: OwnRun, bundle: Bundle, module: nn.Module, lab: Lab, task: Task) -> Teacher:
    if run.train_teacher:
        lr = run.training.lr if run.teacher_lr is None else run.teacher_lr
        longer = replace(run.training, epochs=run.train_teacher, lr=lr)
        data = drawn(run, bundle)
        teacher = train_teacher(lab, run.teacher, data, longer, seed=0, start=module, task=as_teacher(task))
    else:
        lab.progress.begin(f"scoring the teacher {run.teacher}")
        module.eval()
        scores = task.evaluate(module, bundle.test, role="teacher")
        teacher = Teacher(module, scores, fingerprint(module), 0.0, name=run.teacher)
    check_teacher(run.methods, teacher.module, bundle, task)
    return teacher


def run_own(
    run: OwnRun, lab: Lab, *, command: str, title: str, ready: Callable[[Opened], None] | None = None
) -> dict[str, Any]:
    """Train the student with every method (and alone), and return the report.

    Trained students are written to ``students/ARM-seedN.safetensors`` under the lab's folder, and beside them what
    they and a later run need: ``splits.csv`` (which sample was in which part; read again by a run that is resumed) and
    for texts the student's tokenizer. ``ready`` is told what was loaded, when all is checked and nothing trained.
    """
    texts, run = run.methods, _adopted(run)
    code = code_of_methods(texts)
    bundle, teacher = checked(run, lab)
    task = task_of(run, bundle, teacher.module)
    if ready is not None:
        ready(Opened(bundle, bundle, teacher.module, task))
    wait()  # everybody has read the data by what the folder said of its parts
    if is_first():
        write_splits(lab.out / SPLITS_FILE, bundle)
        task.keep(lab.out)
    common, setting = _common(run, bundle, teacher, task), _setting(run, bundle, task)

    def train(name: str, point: Point, trials: int = 1, shown: bool = False) -> Callable[[int], Outcome]:
        role = _role(name)
        return _training(run, lab, bundle, teacher, task, name, point, trials=trials, shown=shown, role=role)

    points, seed, tuned = points_of(run), tuning_seed(run.seeds), {}
    common |= {"own_methods": code} if code else {}
    if run.grid:
        tuned = tune_arms(lab, points, train, seed=seed, task=task, **common)
        setting |= tuning_words(tuned, seed=seed, task=task)
        common["tuned"] = {name: [one.point.values, len(one.points)] for name, one in tuned.items()}
    chosen = {name: tuned[name].point if tuned else tried[0] for name, tried in points.items()}
    arms = {name: _arm(name, p, train(name, p, len(points[name]), shown=True)) for name, p in chosen.items()}
    report = compare(
        arms,
        run.seeds,
        lab,
        title=title,
        task=task,
        command=command,
        setting=setting,
        data=data_report(bundle),
        teacher=teacher_report(teacher, task, bundle),
        adjust=len(run.methods) > 1,
        **common,
    )
    first = next(name for name in arms if name != "alone" or len(arms) == 1)
    tables = serving_tables(lab, run.student, teacher, bundle, task, arm=first, seed=run.seeds[0])
    report |= {"tables": tables} if tables else {}
    return report | ({"tuning": tuning_report(tuned, seed=seed, task=task)} if tuned else {})


def _adopted(run: OwnRun) -> OwnRun:
    """The run with methods of the user's own files known by name."""
    return replace(run, methods=tuple(map(adopted, run.methods)))


def _common(run: OwnRun, bundle: Bundle, teacher: Teacher, task: Task) -> dict[str, Any]:
    """What every run depends on, under which it is stored."""
    student, left_out = student_of(run, bundle), ("seeds", "methods", "baseline", "grid", "trials")
    return {
        "settings": {k: v for k, v in asdict(run).items() if k not in left_out},
        "student_fingerprint": fingerprint(student),
        "student_code": code_of(student),
        "data_fingerprint": bundle.fingerprint,
        "teacher_fingerprint": teacher.fingerprint,
        **for_key(task),
    }


def points_of(run: OwnRun) -> dict[str, list[Point]]:
    """The trials of every arm by its name, the reference first; one for each where nothing is tuned."""
    if run.trials is not None and run.trials < 1:
        raise DistilError(f"trials={run.trials} is impossible; expected at least 1.")
    texts = dict(zip(_names(run.methods), run.methods, strict=True))
    if run.baseline or len(run.methods) > 1:
        texts = {"alone": "supervised", **texts}
    return plan_trials(run.grid, texts, run.training, limit=run.trials)


def _training(
    run: OwnRun, lab: Lab, bundle: Bundle, teacher: Teacher, task: Task, name: str, point: Point, *, trials: int,
    shown: bool, role: Role,
) -> Callable[[int], Outcome]:  # fmt: skip
    """One student of an arm at a point of its grid; its weights are written where it is one of those shown."""

    def train(seed: int) -> Outcome:
        return distil(
            lab,
            point.expression,
            run.student,
            teacher,
            bundle,
            point.training,
            seed=seed,
            train=seen_by(point.expression, bundle),
            checkpoints=f"{name}-seed{seed}{_suffix(run, task, point)}",
            check_teacher=False,
            ship=lab.out / "students" / f"{name}-seed{seed}.safetensors" if shown else None,
            weights=run.student_weights,
            taps=run.taps,
            teacher_forward=run.teacher_forward,
            task=task,
            trials=trials,
            about={"arm": name, "role": role},
        )

    return train


def _arm(name: str, point: Point, train: Callable[[int], Outcome]) -> Arm:
    method, alone = point.expression, name == "alone"
    role = _role(name)
    phrase = "the student alone" if alone else f"distillation with {method}"
    return Arm(role, train, label="Student alone" if alone else method, phrase=phrase, expression=method)


def _role(name: str) -> Role:
    return "reference" if name == "alone" else "method"


def _suffix(run: OwnRun, task: Task, point: Point) -> str:
    """Tell apart checkpoints that a resumed run with other settings would go on from; "" where nothing is set."""
    parts = {"taps": run.taps, "point": dict(point.values), **for_key(task)}
    forward = TeacherForward.of(run.teacher_forward)
    parts |= {} if forward.exact else {"teacher_forward": str(forward)}
    text = json.dumps(parts, sort_keys=True)
    return f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if any(parts.values()) else ""


def _names(methods: Sequence[str]) -> list[str]:
    """Short names for arms, unique and fit for a file name."""
    names: list[str] = []
    for text in methods:
        base = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80] or "method"
        name, i = base, 2
        while name in names or name == "alone":
            name, i = f"{base}-{i}", i + 1
        names.append(name)
    return names


def _setting(run: OwnRun, bundle: Bundle, task: Task) -> dict[str, str]:
    t = run.training
    return {
        "Data": f"{bundle.name}: {get_task(bundle.task).name}, {len(bundle.classes)} classes",
        "Teacher": run.teacher
        + (f", weights {Path(run.teacher_weights).name}" if run.teacher_weights else "")
        + (f", trained {run.train_teacher} epochs on these data first" if run.train_teacher else ""),
        "Student": run.student,
        **({"Inputs": in_words(task)} if for_key(task) else {}),
        "Budget": f"{t.epochs} epochs of batches of {t.batch_size}, {t.optimizer}, learning rate {t.lr:g} "
        f"({t.schedule}), for every arm" + (" but for what was tuned" if run.grid else ""),
        "Choice": "the epoch is chosen on validation data and scored on test data",
    }
