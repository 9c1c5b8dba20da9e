"""From what a dry run saw to what the whole run will take: seconds, memory, disk, and from which epoch a cache pays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distil.plan.measure import Arm, Measured

__all__ = ["Plan", "Workload", "break_even", "predict"]

AFTER = 0.5  # seconds of measuring a finished student's latency
SMALL = 1 / 3  # of the student's parameters: a teacher under it is not worth a cache


@dataclass(frozen=True)
class Workload:
    """How much is to be trained.

    Attributes:
        epochs: of every student.
        runs: students to train, by the arm's name (seeds and trials).
        accumulate: micro-batches of a step; eval_every: epochs between validations.
        devices: processes that share each step's samples.
        teacher_epochs: to train the teacher first.
    """

    epochs: int
    runs: Mapping[str, int]
    accumulate: int = 1
    eval_every: int = 1
    devices: int = 1
    teacher_epochs: int = 0


@dataclass(frozen=True)
class Plan:
    """A prediction; seconds are of the whole work, all students together.

    Attributes:
        measured, workload: what it rests on.
        steps: optimizer steps of an epoch.
        training: seconds inside training (steps, validation, diagnosis), of every arm's students together.
        seconds: of everything after loading: teacher, training, scoring.
        cached: the same with a cache, written once; ``None`` where a cache cannot serve.
        write: seconds of writing it; gain: seconds that it saves in an epoch of all students.
        pays_from: the first epoch after which the cache was worth writing; ``None`` for never.
        disk: bytes of the cache by codec.
        shares: of a step: ``loader``, ``teacher``, ``student``; of the arm that asks the teacher most.
        memory: the most bytes of any arm; limit: what there is; fits: the largest micro-batch within it.
        words: what follows from the figures.
    """

    measured: Measured
    workload: Workload
    steps: int
    training: Mapping[str, float]
    seconds: float
    cached: float | None
    write: float | None
    gain: float
    pays_from: int | None
    disk: Mapping[str, int]
    shares: Mapping[str, float]
    memory: int
    limit: int
    fits: int | None
    words: tuple[str, ...] = field(default=())


def break_even(write: float, gain: float) -> int | None:
    """Return the first epoch after which a cache that takes ``write`` seconds and saves ``gain`` an epoch has paid.

    >>> break_even(10.0, 4.0), break_even(0.5, 4.0), break_even(1.0, 0.0)
    (3, 1, None)
    """
    return math.floor(write / gain) + 1 if gain > 0 else None


def predict(seen: Measured, work: Workload, *, teacher_training: Arm | None = None, memory: int | None = None) -> Plan:
    """Return what ``work`` will take, by the dry run ``seen``.

    Args:
        teacher_training: a step of the teacher's own training, where it is trained first.
        memory: bytes that a run may take, by default what the device has.
    """
    steps = _steps(seen, work)
    training = {name: work.runs[name] * work.epochs * _epoch(seen, work, arm, steps) for name, arm in seen.arms.items()}
    count = sum(work.runs.values())
    tested = 3 * seen.scoring["student_test"] + seen.scoring["teacher_test"] + AFTER
    before = seen.scoring["teacher_test"] + seen.scoring["teacher_val"]
    prepare = sum(work.runs[name] * arm.prepare for name, arm in seen.arms.items())
    seconds = sum(training.values()) + prepare + count * tested + before
    if teacher_training is not None:
        seconds += work.teacher_epochs * _epoch(seen, work, teacher_training, steps, role="teacher")
    gain = sum(work.runs[name] * steps * _saved(seen, work, arm) for name, arm in seen.arms.items())
    write = seen.cache.write * sum(seen.samples.values()) if seen.cache is not None else None
    served = write is not None and any(arm.teacher and not arm.refusal for arm in seen.arms.values())
    arms = [*seen.arms.values(), *([teacher_training] if teacher_training is not None else [])]
    peak = max(arm.memory.peak(seen.batch) for arm in arms)
    room = memory or seen.available
    sizes = [arm.memory.largest_batch(room) for arm in arms]
    disk = {name: size * sum(seen.samples.values()) for name, size in seen.cache.bytes.items()} if seen.cache else {}
    plan: dict[str, Any] = {
        "measured": seen, "workload": work, "steps": steps, "training": training, "seconds": seconds,
        "cached": seconds + write - work.epochs * gain if served and write is not None else None,
        "write": write, "gain": gain, "pays_from": break_even(write, gain) if served and write is not None else None,
        "disk": disk, "shares": _shares(seen, work), "memory": peak, "limit": room,
        "fits": 0 if 0 in sizes else None if None in sizes else min(size for size in sizes if size is not None),
    }  # fmt: skip
    return Plan(**plan, words=_words(Plan(**plan)))


def _steps(seen: Measured, work: Workload) -> int:
    share = -(-seen.samples["train"] // work.devices)
    batches = 1 if seen.whole else -(-share // seen.batch)
    return -(-batches // work.accumulate)


def _epoch(seen: Measured, work: Workload, arm: Arm, steps: int, role: str = "student") -> float:
    """Return the seconds of one epoch: steps, the look at the gradient's shares, and validation."""
    look = arm.diagnosis if work.devices == 1 and role == "student" else 0.0
    return steps * arm.step + look + seen.scoring[f"{role}_val"] / work.eval_every


def _saved(seen: Measured, work: Workload, arm: Arm) -> float:
    """Return the seconds of a step that a cache saves; below 0 where reading takes longer than asking."""
    if seen.cache is None or arm.refusal or not arm.teacher:
        return 0.0
    return arm.teacher - work.accumulate * seen.cache.read


def _shares(seen: Measured, work: Workload) -> dict[str, float]:
    """Return the loader's, the teacher's and the rest's share of a step."""
    arm = max(seen.arms.values(), key=lambda one: one.teacher)
    loader = min(work.accumulate * seen.loader, arm.step) / arm.step
    teacher = min(arm.teacher / arm.step, 1 - loader)
    return {"loader": loader, "teacher": teacher, "student": 1 - loader - teacher}


def _words(plan: Plan) -> tuple[str, ...]:
    """Return sentences on the cache, the bottleneck and the memory."""
    return (*_on_cache(plan), _on_bottleneck(plan), *_on_memory(plan), *_on_scale(plan))


def _on_cache(plan: Plan) -> list[str]:
    seen, work = plan.measured, plan.measured.work
    said = []
    if not any(arm.teacher for arm in seen.arms.values()):
        return ["No arm asks the teacher during its steps, so a cache saves nothing."]
    if seen.no_cache:
        said.append(f"A cache cannot serve this run: {seen.no_cache.rstrip('.')}.")
    elif plan.cached is None:
        why = next(arm.refusal for arm in seen.arms.values() if arm.refusal)
        said.append(f"A cache cannot serve this method: {why.rstrip('.')}.")
    elif plan.pays_from is None:
        said.append("A cache cannot help: reading it takes as long as asking the teacher.")
    elif plan.pays_from > plan.workload.epochs:
        said.append(
            f"A cache would pay from epoch {plan.pays_from}, after this run's {plan.workload.epochs}: it pays only if "
            "it is used again."
        )
    else:
        said.append(f"A cache pays from epoch {plan.pays_from}, while teacher and data stay as they are.")
    if work.teacher < SMALL * work.student:
        said.append(
            f"The teacher has under a third of the student's parameters: by 1 + P_t / (3 P_s) a cache gains at most "
            f"{100 * (work.by_parameters - 1):.0f} %."
        )
    return said


def _on_bottleneck(plan: Plan) -> str:
    name = max(plan.shares, key=lambda one: plan.shares[one])
    share = f"{100 * plan.shares[name]:.0f} % of a step"
    if name == "loader":
        return f"Reading data is the limit ({share}): a cache would leave that as it is; read smaller or decoded data."
    if name == "teacher":
        return f"The teacher is the limit ({share}): a cache or a cheaper precision helps most."
    return f"The student is the limit ({share}): caching the teacher can save {100 * plan.shares['teacher']:.0f} %."


def _on_memory(plan: Plan) -> list[str]:
    if plan.memory <= plan.limit:
        return []
    fits = plan.fits
    batch = plan.measured.batch
    advice = "use a smaller student or teacher" if not fits else f"use --batch-size {min(fits, batch)} and accumulate"
    return [f"Micro-batches of {batch} need {plan.memory / 1e9:.2f} GB of {plan.limit / 1e9:.2f} GB: {advice}."]


def _on_scale(plan: Plan) -> list[str]:
    sizes = {arm.scaled for arm in plan.measured.arms.values() if arm.scaled}
    batch = plan.measured.batch
    return [f"Timed at micro-batches of {min(sizes)} and scaled up, as {batch} do not fit here."] if sizes else []
