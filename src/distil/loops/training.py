"""Training as recipes need it: models by name under a seed, one fit, and everything a report says about the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.data.bundle import NO_LABEL, Bundle
from distil.data.fingerprint import fingerprint
from distil.data.loading import as_batches, mix_seed
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.engine.host import PRECISIONS
from distil.engine.method import Method, Sum
from distil.engine.processes import is_first
from distil.engine.window import world_size
from distil.errors import DistilError, nearest
from distil.loops.inputs import for_key
from distil.loops.lab import Lab, Outcome, code_for, code_of
from distil.loops.measure import agreement, comparable, latency, reliability, size_in_bytes
from distil.methods.expression import parse
from distil.models import load_model
from distil.models.load import load_weights
from distil.ship import write_student
from distil.tasks import Task, get_task, teacher_above_chance
from distil.tasks.scores import labels_in

__all__ = [
    "Teacher",
    "Training",
    "above_chance",
    "build_model",
    "distil",
    "example_of",
    "fitting",
    "measured",
    "rebuilt_student",
    "teacher_arm",
    "teacher_report",
    "train_teacher",
]

MOST = 10**9  # of epochs, of samples in a batch, …


@dataclass(frozen=True)
class Training:
    """How long and how a model is trained; the same for every arm of a comparison."""

    epochs: int = 30
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.0
    accumulate: int = 1
    precision: str = "fp32"
    clip: float | None = None
    patience: int | None = None
    ties: str = "first"
    eval_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "eval_every"):
            if getattr(self, name) < 1:
                raise DistilError(f"{name}={getattr(self, name)} must be a whole number of at least 1.")
            if getattr(self, name) > MOST:
                raise DistilError(f"{name}={getattr(self, name)} is more than any run can use; give at most {MOST}.")
        if self.precision not in PRECISIONS:
            raise DistilError(f"precision={self.precision!r} is unknown; {nearest(self.precision, PRECISIONS)}")

    def options(self) -> dict[str, Any]:
        """Return them as ``fit`` takes them."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher and what is said of it in a report."""

    module: nn.Module
    metrics: Mapping[str, float]
    fingerprint: str
    seconds: float
    name: str = "teacher"
    extra: Mapping[str, Any] = field(default_factory=dict)


def build_model(spec: str | Callable[[], nn.Module], bundle: Bundle, *, seed: int, role: str = "student") -> nn.Module:
    """Return a model by name, or made by a function, for the data's classes and input, drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed("model", role, seed))
        return spec() if callable(spec) else load_model(spec, **fitting(bundle))


def rebuilt_student(model: nn.Module, method: Method | Sum, *, seed: int) -> nn.Module:
    """Return the student as its method teaches it: what :meth:`Method.rebuild` adds is drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed("rebuild", seed))
        return method.rebuild(model)


def fitting(bundle: Bundle) -> dict[str, Any]:
    """What the data say of the models that fit them, as ``load_model`` takes it."""
    tokenizer = getattr(get_task(bundle.task), "tokenizer", None)
    return {
        "classes": len(bundle.classes),
        "input_shape": bundle.input_shape,
        "labels": bundle.classes,
        "tokenizer": tokenizer,
    }


def train_teacher(
    lab: Lab,
    spec: str,
    bundle: Bundle,
    training: Training,
    *,
    seed: int,
    name: str = "teacher",
    method: str = "supervised",
    start: nn.Module | None = None,
    task: Task | None = None,
) -> Teacher:
    """Train a teacher on the bundle, once: it is stored by everything it depends on and shared by runs and recipes.

    ``start`` is a module to train further (fine-tuning); otherwise one is built from ``spec`` and ``seed``. ``task``
    says how it is called, by default as the bundle's task does.
    """
    task = task or get_task(bundle.task)
    model = build_model(spec, bundle, seed=seed, role="teacher") if start is None else start
    origin = fingerprint(model)  # by its weights, however they came about: recipes and runs of one's own share it

    def make() -> dict[str, torch.Tensor]:
        lab.progress.begin(f"{name}: {spec}", training.epochs)
        distiller = Distiller(model, None, parse(method), task=task, example=example_of(bundle), seed=seed)
        result = fit(
            distiller,
            bundle.train,
            bundle.val,
            **training.options(),
            device=lab.device,
            progress=lab.progress.step,
            diagnose=False,
        )
        return {key: value.cpu() for key, value in result.model.state_dict().items()}

    stage = lab.stage(
        "teacher",
        make,
        shared=True,
        code=code_for(method, model),
        spec=spec,
        data=bundle.fingerprint,
        training=training,
        seed=seed,
        method=method,
        origin=origin,
        model_code=code_of(model),
        **for_key(task),
    )
    model.load_state_dict(stage.value)
    model.eval()
    lab.progress.say(f"{name}: {'reused' if stage.reused else 'trained'} ({stage.seconds:.1f} s when it was made)")
    return Teacher(
        model, task.evaluate(model, bundle.test, role="teacher"), fingerprint(model), stage.seconds, name=spec
    )


def distil(
    lab: Lab,
    method: str | Sum,
    student: str | Callable[[], nn.Module],
    teacher: Teacher | nn.Module | Mapping[str, nn.Module] | None,
    bundle: Bundle,
    training: Training,
    *,
    seed: int,
    train: Any = None,
    task: Task | None = None,
    diagnostics: Callable[[Distiller], Mapping[str, float]] | None = None,
    watch: Callable[[Distiller, int, int], None] | None = None,
    trials: int = 1,
    taps: Mapping[str, Any] | None = None,
    check_teacher: bool = True,
    checkpoints: str | None = None,
    ship: Path | None = None,
    weights: str | None = None,
    about: Mapping[str, Any] | None = None,
    teacher_forward: str | None = None,
) -> Outcome:
    """Teach a student once and measure it: the body of nearly every arm.

    Args:
        method: an expression or a sum; it is parsed anew for every seed, so that adapters are fresh.
        student: a model by name, or a function that makes one, built from ``seed``.
        teacher: one, several by name (agreement is then not measured), or none.
        train: what is trained on, the bundle's training part by default.
        diagnostics: further numbers to read off the trained distiller.
        watch: called with the distiller, the steps done and all steps after each step; it must change nothing.
        trials: tuning runs that chose this arm's settings, counted in its budget.
        checkpoints: name of a folder under the lab's, from which a killed run goes on within an epoch.
        ship: where the trained student is written, as safetensors, with a sidecar that says what it is.
        weights: a file that the student starts from.
        about: what the sidecar says besides (``arm``, ``role``).
        teacher_forward: how the teacher's passes are made cheap (:class:`~distil.engine.TeacherForward`).
    """
    chosen = task or get_task(bundle.task)
    module = teacher.module if isinstance(teacher, Teacher) else teacher
    data = bundle.train if train is None else train
    model = build_model(student, bundle, seed=seed)
    if weights is not None:
        load_weights(model, weights)
    sum_of_methods = parse(method) if isinstance(method, str) else method
    distiller = Distiller(
        rebuilt_student(model, sum_of_methods, seed=seed),
        module,
        sum_of_methods,
        task=chosen,
        example=example_of(bundle),
        seed=seed,
        epochs=training.epochs,
        taps=taps,
    )
    out = lab.out / "checkpoints" / checkpoints if checkpoints else None

    def progress(done: int, total: int) -> None:
        lab.progress.step(done, total)
        if watch is not None:
            watch(distiller, done, total)

    result = fit(
        distiller,
        data,
        bundle.val,
        test=bundle.test,
        **training.options(),
        seed=seed,
        device=lab.device,
        progress=progress,
        trackers=lab.tracking() or (),
        check_teacher=check_teacher,
        teacher_forward=teacher_forward,
        out=out,
        resume=out is not None,
    )
    if ship is not None and is_first():
        write_student(
            ship,
            result.model,
            built=model,
            task=chosen,
            bundle=bundle,
            model=student if isinstance(student, str) else "",  # made by a function: nothing to build it from again
            test=result.test["best"],
            validation=result.best,
            method=method if isinstance(method, str) else method.expression,
            teacher=teacher.name if isinstance(teacher, Teacher) else type(teacher).__name__,
            seed=seed,
            **(about or {}),
        )
    return measured(result, distiller, chosen, bundle, training, data=data, diagnostics=diagnostics, trials=trials)


def measured(
    result: Any,
    distiller: Distiller,
    task: Task,
    bundle: Bundle,
    training: Training,
    *,
    data: Any,
    diagnostics: Any,
    trials: int,
) -> Outcome:
    """Return what a report says of a finished run."""
    said = task.predict(result.model, bundle.test)
    teachers = list(distiller.teachers.values())
    theirs = task.predict(teachers[0], bundle.test, role="teacher") if len(teachers) == 1 else None
    same = agreement(said, theirs) if theirs is not None and comparable(said, theirs) else None
    parameters, size = size_in_bytes(result.model)
    batches = as_batches(data, training.batch_size, world=world_size())
    updates = training.epochs * math.ceil(len(batches) / training.accumulate)
    labels = labels_in(data) if not isinstance(data, Mapping) else None
    return Outcome(
        metrics=result.test,
        history=result.history,
        cost=result.cost,
        budget={
            "updates": updates,
            "batch_size": training.batch_size * training.accumulate * world_size(),
            "labels": _labelled(labels, data),
            "trials": trials,
        },
        model={
            "parameters": parameters,
            "bytes": size,
            "latency": latency(task, result.model, _speed_batch(task, bundle)),
        },
        agreement=same,
        reliability=reliability(said),
        diagnostics=dict(diagnostics(distiller)) if diagnostics else {},
        teacher_forward=result.teacher_forward,
        notes=distiller.notes,
    )


def teacher_report(teacher: Teacher, task: Task, bundle: Bundle) -> dict[str, Any]:
    """Return the teacher's part of a report."""
    parameters, size = size_in_bytes(teacher.module)
    return {
        "name": teacher.name,
        "parameters": parameters,
        "bytes": size,
        "metrics": dict(teacher.metrics),
        "fingerprint": teacher.fingerprint,
        "latency": latency(task, teacher.module, _speed_batch(task, bundle), role="teacher"),
        "cost": {"seconds": teacher.seconds},
        **teacher.extra,
    }


def teacher_arm(teacher: Callable[[int], Teacher], bundle: Bundle) -> Callable[[int], Outcome]:
    """Return a run that shows, for every seed, the teacher of that seed: a bound, not a competitor."""
    task = get_task(bundle.task)

    def run(seed: int) -> Outcome:
        one = teacher(seed)
        parameters, size = size_in_bytes(one.module)
        said = task.predict(one.module, bundle.test, role="teacher")
        speed = latency(task, one.module, _speed_batch(task, bundle), role="teacher")
        return Outcome(
            metrics={"last": dict(one.metrics), "best": dict(one.metrics)},
            history=[],
            budget={},
            reliability=reliability(said),
            cost={"seconds": one.seconds, "teacher_seconds": 0.0},
            model={"parameters": parameters, "bytes": size, "latency": speed},
        )

    return run


def example_of(bundle: Bundle) -> Any:
    """A batch for the dry run: a few samples, or the whole graph."""
    return next(iter(as_batches(bundle.train, 8).iterate(0)))


def _speed_batch(task: Task, bundle: Bundle) -> dict[str, Any]:
    """What the latency is measured on: one sample, or the whole graph."""
    return task.unpack(next(iter(as_batches(bundle.test, 1).iterate(0))))


def _labelled(labels: torch.Tensor | None, data: Any) -> int:
    """How many labels an arm may read."""
    if labels is not None:
        return int((labels != NO_LABEL).sum())
    return sum(int((labels_in(part) != NO_LABEL).sum()) for part in data.values())


def above_chance(teacher: nn.Module, bundle: Bundle, task: Task | None = None) -> None:
    """Stop where the teacher is no better than chance on the validation data."""
    seen = teacher_above_chance(task or get_task(bundle.task), teacher, bundle.val)
    if not seen["ok"]:
        raise DistilError(f"The run stops before training: {seen['message']}")
