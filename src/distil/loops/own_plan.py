"""A plan for the user's own run: the dry run of its arms, and what the whole of it will take."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from distil.engine.window import world_size
from distil.errors import DistilError
from distil.loops.adopt import adopted
from distil.loops.inputs import as_teacher
from distil.loops.lab import Lab
from distil.loops.own import Opened, fitted, points_of, student_of, try_methods
from distil.loops.own_cache import PREFIX
from distil.loops.own_run import OwnRun
from distil.plan import Arm, Plan, Rehearsal, Workload, one_line, predict
from distil.tasks import get_task

__all__ = ["foretold", "planned"]

LONG = 60.0  # seconds from which a run is worth a plan of its own


def planned(run: OwnRun, lab: Lab, *, memory: int | None = None, devices: int = 1) -> Plan:
    """Load and check everything as :func:`distil.loops.own.checked` does, run a few steps, and predict the rest.

    Nothing is written and the teacher is neither scored nor trained.

    Args:
        memory: bytes that a run may take; by default what the device has.
        devices: that share each step.

    Raises:
        DistilError: as ``checked``; a cache in the teacher's place, whose cost is what a plan is to weigh.
    """
    if run.teacher.startswith(PREFIX):
        raise DistilError(
            f"--teacher {run.teacher} holds stored answers, and a plan weighs the live teacher against them: name the "
            "model they are of."
        )
    run, made, texts = fitted(run, lab)
    try_methods(texts, run, made, lab, partial(student_of, run, made.bundle))
    return _plan(run, lab, made, memory=memory, devices=devices)


def foretold(run: OwnRun, lab: Lab) -> Callable[[Opened], None]:
    """Return what says, before a long run, how long it will be; a short one is left alone.

    The look costs three steps, and where the run is long a few seconds more.
    """

    def tell(made: Opened) -> None:
        if run.teacher.startswith(PREFIX) or world_size() > 1:  # processes that time differently would part ways
            return
        known = replace(run, methods=tuple(map(adopted, run.methods)), train_teacher=0)
        work = _workload(known, 1)
        rehearsal = _rehearsal(known, lab, made)
        steps = work.epochs * -(-len(rehearsal.steady) // work.accumulate) * sum(work.runs.values())
        if steps * rehearsal.glance(known.methods[-1]) > LONG:
            lab.progress.say(f"This run: {one_line(_plan(known, lab, made))}.")

    return tell


def _plan(run: OwnRun, lab: Lab, made: Opened, *, memory: int | None = None, devices: int = 1) -> Plan:
    arms = {name: points[0].expression for name, points in points_of(run).items()}
    seen = _rehearsal(run, lab, made).run(arms)
    training = _teacher_training(run, lab, made) if run.train_teacher else None
    return predict(seen, _workload(run, devices), teacher_training=training, memory=memory)


def _rehearsal(run: OwnRun, lab: Lab, made: Opened, **changed: Any) -> Rehearsal:
    options: dict[str, Any] = {
        "student": partial(student_of, run, made.bundle), "teacher": made.teacher, "task": made.task,
        "bundle": made.bundle, "training": run.training.options(), "taps": run.taps,
    }  # fmt: skip
    return Rehearsal(**{**options, **changed}, device=lab.device, begin=lab.progress.begin)


def _teacher_training(run: OwnRun, lab: Lab, made: Opened) -> Arm:
    """Time the teacher in the student's place."""
    task = made.task if made.taught is made.bundle else get_task(made.taught.task)
    rehearsal = _rehearsal(
        run, lab, made, student=lambda: copy.deepcopy(made.teacher).requires_grad_(True), task=as_teacher(task),
        bundle=made.taught, taps=None,
    )  # fmt: skip
    return rehearsal.arm("supervised")


def _workload(run: OwnRun, devices: int) -> Workload:
    points, t = points_of(run), run.training
    trials = {name: len(found) if run.grid else 0 for name, found in points.items()}
    return Workload(
        epochs=t.epochs, runs={name: len(run.seeds) + more for name, more in trials.items()}, accumulate=t.accumulate,
        eval_every=t.eval_every, devices=devices, teacher_epochs=run.train_teacher,
    )  # fmt: skip
