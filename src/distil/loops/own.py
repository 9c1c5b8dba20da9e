"""Distilling on the user's own things: data by path or name, models by name or factory, methods as expressions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.data import load
from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.loading import mix_seed
from distil.data.splits import SPLITS_FILE, write_splits
from distil.data.text import TEXT_TASK
from distil.data.tokens import tokenised
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError
from distil.loops.adopt import adopted, code_of_methods
from distil.loops.compare import check_seeds, compare
from distil.loops.grid import Point, plan_trials
from distil.loops.inputs import InputSize, Normalise, as_teacher, for_key, image_task, in_words
from distil.loops.lab import Arm, Lab, Outcome, Role, code_of
from distil.loops.recipe import data_report
from distil.loops.training import (
    Teacher,
    Training,
    above_chance,
    build_model,
    distil,
    example_of,
    fitting,
    teacher_report,
    train_teacher,
)
from distil.loops.tuning import tune_arms, tuning_report, tuning_seed, tuning_words
from distil.methods.expression import parse
from distil.models.load import load_model, load_weights
from distil.models.tokenizers import tokenizer_for
from distil.tasks import Task, TextTask, get_task
from distil.tasks.base import evaluating

__all__ = ["OwnRun", "checked", "read_data", "run_own", "task_of"]


@dataclass(frozen=True)
class Columns:
    """The columns of a table of texts or images; ``None`` looks for a usual name."""

    text: str | None = None
    image: str | None = None
    label: str | None = None
    split: str | None = None

    def named(self) -> dict[str, str]:
        """Those that the user named."""
        return {name: value for name in ("text", "image", "label", "split") if (value := getattr(self, name))}


@dataclass(frozen=True)
class OwnRun:
    """The settings of ``distil train`` and ``distil compare``.

    Attributes:
        data: a path or a name that ``distil.load`` reads.
        student, teacher: models by name: ``timm:…``, ``torchvision:…``, ``hf:…``, ``distil:…``, ``module:function``,
        ``file.py:function``. teacher_weights, student_weights: safetensors or state-dict files.
        pretrained: let the teacher's library load its published weights.
        train_teacher: epochs to train (or fine-tune) the teacher on the data first; 0 takes it as it is.
        teacher_lr: its learning rate then; default that of the students. A pretrained transformer wants about 5e-5.
        methods: expressions; one for ``train``. One of your own stands in them as ``file.py:Name`` or ``module:Name``.
        baseline: also train the student alone, with the same budget, to say whether the method helped.
        size, channels: how images are read. limit: samples of each part at most.
        columns: the columns of a table, where they have unusual names.
        classes: the class names in the order of the outputs, where the data's own order will not do.
        splits: a ``splits.csv`` of an earlier run, used instead of splits made here. split_seed: makes them.
        drop_leaks: leave samples of train that also stand in val or test out of train.
        max_length: tokens of a text at most. tokenizer: a folder, for models that bring none.
        taps: your paths for meanings, ``{emb: avgpool}``.
        normalise: each role's mean and std of images in [0, 1]: ``auto``, ``none``, ``imagenet`` or ``[mean, std]``.
        input_size: each role's side in pixels, to which its images are resized: ``auto``, ``none`` or a number.
        training: how students are trained.
        grid: values to try, by ``component.argument`` or ``training.setting``; chosen on validation, every arm with the
            same number of trials (see :func:`distil.loops.grid.plan_trials`).
        trials: at most so many for each arm.
        seeds: shared by all arms.
    """

    data: str = ""
    student: str = ""
    teacher: str = ""
    teacher_weights: str | None = None
    student_weights: str | None = None
    pretrained: bool = False
    train_teacher: int = 0
    teacher_lr: float | None = None
    methods: tuple[str, ...] = ("kd",)
    baseline: bool = True
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    columns: Columns = field(default_factory=Columns)
    classes: tuple[str | int, ...] = ()
    splits: str | None = None
    split_seed: int = 0
    drop_leaks: bool = False
    max_length: int = 128
    tokenizer: str | None = None
    taps: dict[str, str] = field(default_factory=dict)
    normalise: Normalise = field(default_factory=Normalise)
    input_size: InputSize = field(default_factory=InputSize)
    training: Training = field(default_factory=Training)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    trials: int | None = None
    seeds: tuple[int, ...] = (0,)


def checked(run: OwnRun, lab: Lab) -> tuple[Bundle, Teacher]:
    """Load everything, try every method on a batch, and score the teacher; what does not fit stops before training.

    Raises:
        DistilError: missing data or models, other class counts, a tap that does not exist, settings that cannot be, a
            teacher at chance, …
    """
    for name in ("data", "student", "teacher"):
        if not getattr(run, name):
            raise DistilError(f"--{name} is missing; see `distil train --help`.")
    check_seeds(run.seeds)
    if not run.methods:
        raise DistilError("--methods is missing; name at least one, e.g. kd,dkd,pld.")
    run = _adopted(run)
    for text in run.methods:
        parse(text)
    points = _points(run)
    texts = dict.fromkeys(["supervised", *run.methods, *(p.expression for tried in points.values() for p in tried)])
    for text in texts:
        parse(text)
    lab.progress.begin(f"reading {run.data}")
    bundle, taught = _read(run, lab.out)
    for note in bundle.notes:
        lab.progress.say(f"{bundle.name}: {note}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed("model", "teacher", 0))
        module = load_model(run.teacher, **fitting(taught), weights=run.teacher_weights, pretrained=run.pretrained)
    task = task_of(run, bundle, module, lab)
    learns = [parameter.requires_grad for parameter in module.parameters()]
    for role, spec, model in (("teacher", run.teacher, module), ("student", run.student, _student(run, bundle))):
        _check_call(role, spec, model, bundle, task)
    for text in texts:
        lab.progress.begin(f"trying one step of {text}")
        _try(text, run, bundle, module, lab, task)
    for parameter, on in zip(module.parameters(), learns, strict=True):
        parameter.requires_grad_(on)  # the trials froze it, and it may be trained yet
    return bundle, _teacher(run, taught, module, lab, task if taught is bundle else get_task(taught.task))


def task_of(run: OwnRun, bundle: Bundle, teacher: nn.Module, lab: Lab | None = None) -> Task:
    """Return the task of a run: how each role's inputs are prepared, how both are scored; ``lab`` hears the remarks."""
    task, remarks = image_task(
        bundle, run.normalise, run.input_size, student=run.student, teacher=run.teacher, pretrained=run.pretrained,
        module=teacher,
    )  # fmt: skip
    for remark in remarks if lab is not None else ():
        lab.progress.say(f"{bundle.name}: {remark}")  # type: ignore[union-attr]
    return task


def read_data(run: OwnRun, folder: Path) -> Bundle:
    """Return the data as the students of the run in ``folder`` see them."""
    return _read(run, folder)[0]


def _read(run: OwnRun, folder: Path) -> tuple[Bundle, Bundle]:
    """Return the data as the student and as the teacher alone see them; they differ where their tokenizers do."""
    options = {**_shape(run), **run.columns.named(), **({"classes": run.classes} if run.classes else {})}
    splits = run.splits or (str(stored) if (stored := folder / SPLITS_FILE).is_file() else None)
    options |= {"seed": run.split_seed, **({"splits": splits} if splits else {})}
    options |= {"drop_leaks": True} if run.drop_leaks else {}
    bundle = load(run.data, **options)
    if bundle.task != TEXT_TASK:
        return bundle, bundle
    texts = [bundle.train.dataset.texts[k] for k in bundle.train.positions.tolist()]
    theirs, most = tokenizer_for(run.teacher, texts, named=run.tokenizer, pretrained=run.pretrained, role="teacher")
    mine, limit = tokenizer_for(run.student, texts, named=run.tokenizer, fallback=theirs)
    lengths = [
        min(run.max_length, longest, tokenizer.model_max_length)
        for tokenizer, longest in ((mine, limit), (theirs, most))
    ]
    both = tokenised(bundle, mine, theirs, max_length=lengths[0], teacher_max_length=lengths[1])
    alone = tokenised(bundle, theirs, max_length=lengths[1])
    return (
        replace(both, task=TextTask(tokenizer=mine, max_length=lengths[0])),
        replace(alone, task=TextTask(tokenizer=theirs, max_length=lengths[1])),
    )


def _shape(run: OwnRun) -> dict[str, int]:
    """How images are read, as far as it was said."""
    if run.channels not in (None, 1, 3):
        raise DistilError(f"channels={run.channels} is impossible; expected 1 (grey) or 3 (RGB).")
    given = {key: value for key in ("size", "channels", "limit") if (value := getattr(run, key)) is not None}
    for key, value in given.items():
        if value < 1:
            raise DistilError(f"{key}={value} is impossible; expected at least 1.")
    return given


def _check_call(role: str, spec: str, model: nn.Module, bundle: Bundle, task: Task) -> None:
    """Call a model on a few samples, and say what it cannot take."""
    batch = task.unpack(example_of(bundle))
    try:
        with evaluating(model), torch.no_grad():
            task.call(model, batch, role)
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        shape = tuple(bundle.input_shape)
        fix = f"--set input_size.{role}=SIDE resizes images for it"
        if len(shape) == 3 and shape[0] == 1:
            fix = f"--set channels=3 reads grey images as RGB, {fix}"
        raise DistilError(
            f"The {role} {spec} cannot take the samples of {bundle.name}, whose shape is {shape} "
            f"({str(error).strip().partition(chr(10))[0]}){f'; {fix}' if len(shape) == 3 else ''}."
        ) from error


def _try(text: str, run: OwnRun, bundle: Bundle, teacher: nn.Module, lab: Lab, task: Task) -> None:
    """Make one step on a few samples with a student that is thrown away."""
    example, options = example_of(bundle), run.training.options()
    student = _student(run, bundle)
    try:
        distiller = Distiller(
            student, teacher, parse(text), task=task, example=example, epochs=run.training.epochs, taps=run.taps
        )
        distiller.totals([example])
        if distiller.prepared:  # else it waits for its pass over the data
            quiet = {"epochs": None, "steps": 1, "diagnose": False, "check_teacher": False}
            fit(distiller, [example], device=lab.device, **{**options, **quiet})
    except DistilError as error:
        # The settings and models alone are at fault where the bare label loss cannot run.
        raise error if text == "supervised" else DistilError(f"The method '{text}' does not fit: {error}") from None


def _student(run: OwnRun, bundle: Bundle) -> nn.Module:
    model = build_model(run.student, bundle, seed=run.seeds[0])
    return load_weights(model, run.student_weights) if run.student_weights else model


def _teacher(run: OwnRun, bundle: Bundle, module: nn.Module, lab: Lab, task: Task) -> Teacher:
    if run.train_teacher:
        lr = run.training.lr if run.teacher_lr is None else run.teacher_lr
        longer = replace(run.training, epochs=run.train_teacher, lr=lr)
        teacher = train_teacher(lab, run.teacher, bundle, longer, seed=0, start=module, task=as_teacher(task))
    else:
        lab.progress.begin(f"scoring the teacher {run.teacher}")
        module.eval()
        scores = task.evaluate(module, bundle.test, role="teacher")
        teacher = Teacher(module, scores, fingerprint(module), 0.0, name=run.teacher)
    above_chance(teacher.module, bundle, task)
    return teacher


def run_own(run: OwnRun, lab: Lab, *, command: str, title: str) -> dict[str, Any]:
    """Train the student with every method (and alone), and return the report.

    Trained students are written to ``students/ARM-seedN.safetensors`` under the lab's folder, and beside them what
    they and a later run need: ``splits.csv`` (which sample was in which part; read again by a run that is resumed) and
    for texts the student's tokenizer.
    """
    texts, run = run.methods, _adopted(run)
    code = code_of_methods(texts)
    bundle, teacher = checked(run, lab)
    task = task_of(run, bundle, teacher.module)
    write_splits(lab.out / SPLITS_FILE, bundle)
    task.keep(lab.out)
    common, setting = _common(run, bundle, teacher, task), _setting(run, bundle, task)

    def train(name: str, point: Point, trials: int = 1, shown: bool = False) -> Callable[[int], Outcome]:
        role = _role(name, points)
        return _training(run, lab, bundle, teacher, task, name, point, trials=trials, shown=shown, role=role)

    points, seed, tuned = _points(run), tuning_seed(run.seeds), {}
    common |= {"own_methods": code} if code else {}
    if run.grid:
        tuned = tune_arms(lab, points, train, seed=seed, task=task, **common)
        setting |= tuning_words(tuned, seed=seed, task=task)
        common["tuned"] = {name: [one.point.values, len(one.points)] for name, one in tuned.items()}
    chosen = {name: tuned[name].point if tuned else tried[0] for name, tried in points.items()}
    report = compare(
        {name: _arm(name, p, train(name, p, len(points[name]), shown=True), points) for name, p in chosen.items()},
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
    return report | ({"tuning": tuning_report(tuned, seed=seed, task=task)} if tuned else {})


def _adopted(run: OwnRun) -> OwnRun:
    """The run with methods of the user's own files known by name."""
    return replace(run, methods=tuple(map(adopted, run.methods)))


def _common(run: OwnRun, bundle: Bundle, teacher: Teacher, task: Task) -> dict[str, Any]:
    """What every run depends on, under which it is stored."""
    student, left_out = _student(run, bundle), ("seeds", "methods", "baseline", "grid", "trials")
    return {
        "settings": {k: v for k, v in asdict(run).items() if k not in left_out},
        "student_fingerprint": fingerprint(student),
        "student_code": code_of(student),
        "data_fingerprint": bundle.fingerprint,
        "teacher_fingerprint": teacher.fingerprint,
        **for_key(task),
    }


def _points(run: OwnRun) -> dict[str, list[Point]]:
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
            checkpoints=f"{name}-seed{seed}{_suffix(run, task, point)}",
            check_teacher=False,
            ship=lab.out / "students" / f"{name}-seed{seed}.safetensors" if shown else None,
            weights=run.student_weights,
            taps=run.taps,
            task=task,
            trials=trials,
            about={"arm": name, "role": role},
        )

    return train


def _arm(name: str, point: Point, train: Callable[[int], Outcome], arms: Iterable[str]) -> Arm:
    method, alone = point.expression, name == "alone"
    role = _role(name, arms)
    phrase = "the student alone" if alone else f"distillation with {method}"
    return Arm(role, train, label="Student alone" if alone else method, phrase=phrase, expression=method)


def _role(name: str, arms: Iterable[str]) -> Role:
    return "reference" if name == next(iter(arms)) else "method"


def _suffix(run: OwnRun, task: Task, point: Point) -> str:
    """Tell apart checkpoints that a resumed run with other settings would go on from; "" where nothing is set."""
    parts = {"taps": run.taps, "point": dict(point.values), **for_key(task)}
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
