"""A plan as figures that say whether they were measured or predicted, and how; as JSON and in one line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from distil.plan.predict import Plan

__all__ = ["Figure", "amount", "duration", "figures", "one_line", "plain"]


@dataclass(frozen=True)
class Figure:
    """One number: its unit, whether it was ``measured``, ``counted`` or ``predicted``, and on what assumption."""

    what: str
    value: float | None
    unit: str
    said: str
    how: str


def figures(plan: Plan) -> dict[str, list[Figure]]:
    """Return all figures by section, in the order in which a person reads them."""
    return {"time": _time(plan), "cache": _cache(plan), "memory": _memory(plan), "arithmetic": _arithmetic(plan)}


def plain(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain values, everything that was measured among them."""
    seen = asdict(plan.measured)
    seen["work"] |= {"by_parameters": plan.measured.work.by_parameters, "by_flops": plan.measured.work.by_flops}
    return {
        "kind": "plan",
        "version": 1,
        "seconds": plan.seconds,
        "seconds_cached": plan.cached,
        "training_seconds": dict(plan.training),
        "steps_per_epoch": plan.steps,
        "break_even_epoch": plan.pays_from,
        "memory_bytes": plan.memory,
        "base_bytes": max(arm.memory.base for arm in plan.measured.arms.values()),
        "memory_limit": plan.limit,
        "largest_batch": plan.fits,
        "disk_bytes": dict(plan.disk),
        "shares": dict(plan.shares),
        "words": list(plan.words),
        "figures": {name: [asdict(one) for one in rows] for name, rows in figures(plan).items()},
        "workload": asdict(plan.workload),
        "measured": seen,
    }


def one_line(plan: Plan) -> str:
    """Return what is said before a long run."""
    told = f"about {duration(plan.seconds)}, {amount(plan.memory)} of memory at most (predicted)"
    if plan.cached is None or plan.pays_from is None:
        return f"{told}; a cache would not help"
    if plan.pays_from > plan.workload.epochs:
        return f"{told}; a cache would pay only from epoch {plan.pays_from}"
    return f"{told}; a cache would pay from epoch {plan.pays_from} and leave {duration(plan.cached)}"


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    >>> duration(0.0021), duration(42.4), duration(725), duration(9000), duration(400_000)
    ('2.1 ms', '42 s', '12 min', '2.5 h', '4.6 days')
    """
    if seconds < 1:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.1 else f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    for limit, unit, size in ((5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86_400:.2g} days"


def amount(size: float) -> str:
    """Return bytes as people say them.

    >>> amount(512), amount(2.04e5), amount(1.31e9)
    ('512 B', '204 kB', '1.31 GB')
    """
    for limit, unit, power in ((1e3, "B", 1.0), (1e6, "kB", 1e3), (1e9, "MB", 1e6), (1e12, "GB", 1e9)):
        if size < limit:
            return f"{size / power:.3g} {unit}"
    return f"{size / 1e12:.3g} TB"


def _time(plan: Plan) -> list[Figure]:
    seen, work = plan.measured, plan.workload
    count = sum(work.runs.values())
    rows = [
        Figure(f"step, {name}", arm.step, "s", "predicted" if arm.scaled else "measured", f"median of {arm.steps}")
        for name, arm in seen.arms.items()
    ]
    share = {name: f"{100 * value:.0f} %" for name, value in plan.shares.items()}
    rows += [
        Figure("of it, reading", work.accumulate * seen.loader, "s", "measured", share["loader"]),
        Figure(
            "of it, teacher", max(arm.teacher for arm in seen.arms.values()), "s", "measured",
            f"{share['teacher']}; its pass alone {duration(seen.teacher)}",
        ),
        Figure("whole run", plan.seconds, "s", "predicted", f"{count} x {work.epochs} epochs x {plan.steps} steps"),
    ]  # fmt: skip
    return rows


def _cache(plan: Plan) -> list[Figure]:
    if plan.cached is None or plan.measured.cache is None:
        return []
    cache, work = plan.measured.cache, plan.workload
    rows = [
        Figure("whole run, cached", plan.cached, "s", "predicted", "written once, then read"),
        Figure("writing", plan.write, "s", "predicted", f"from {cache.samples} samples written"),
        Figure("reading a batch", work.accumulate * cache.read, "s", "measured", "files warm in memory"),
        Figure("pays from epoch", plan.pays_from, "", "predicted", f"saves {duration(max(0.0, plan.gain))} an epoch"),
    ]
    rows += [Figure(f"disk, {name}", size, "B", "predicted", _codec(name)) for name, size in plan.disk.items()]
    return rows


def _codec(name: str) -> str:
    return {"dense16": "for every method", "dense32": "exact"}.get(name, "for kd alone")


def _memory(plan: Plan) -> list[Figure]:
    arm = max(plan.measured.arms.values(), key=lambda one: one.memory.peak(plan.measured.batch))
    seen, gpu = arm.memory, plan.measured.device.startswith("cuda")
    base = "weights on the device" if gpu else "process before training"
    rows = [
        Figure("peak", plan.memory, "B", "predicted", "one device" if gpu else "the whole process"),
        Figure(base, seen.base, "B", "measured", "counted" if gpu else "libraries, data, weights"),
        Figure("steps above it", seen.step, "B", "measured" if not arm.scaled else "predicted", seen.source),
        Figure("of it, for backward", seen.kept, "B", "measured", f"saved tensors at batch {seen.batch}"),
        Figure("gradients", seen.gradients, "B", "counted", "of what is trained"),
        Figure("optimizer", seen.optimizer, "B", "counted", "its state after two steps"),
        Figure("scoring", seen.scoring, "B", "measured", "batches of 256, without gradients"),
        Figure("student", seen.student, "B", "counted", "parameters and buffers"),
        Figure("teacher", seen.teacher, "B", "counted", "parameters and buffers"),
    ]
    if plan.fits is not None:
        rows.append(Figure("largest micro-batch", plan.fits, "", "predicted", f"within {amount(plan.limit)}; linear"))
    return rows


def _arithmetic(plan: Plan) -> list[Figure]:
    work, each = plan.measured.work, plan.measured.work.samples
    arm = max(plan.measured.arms.values(), key=lambda one: one.teacher)
    timed = arm.step / (arm.step - arm.teacher) if arm.teacher < arm.step else None
    return [
        Figure("student, parameters", work.student, "", "counted", "P_s"),
        Figure("teacher, parameters", work.teacher, "", "counted", "P_t"),
        Figure("student, forward", work.forward / each, "FLOP", "counted", "a sample; matrices, convolutions"),
        Figure("student, backward", work.backward / each, "FLOP", "counted", "a sample"),
        Figure("teacher, forward", work.teacher_forward / each, "FLOP", "counted", "a sample"),
        Figure("cache gains at most", work.by_parameters, "x", "predicted", "1 + P_t / (3 P_s)"),
        Figure("by operations", work.by_flops, "x", "predicted", "1 + F_t / F_s, both passes"),
        Figure("by the clock", timed, "x", "measured", "step / (step - teacher)"),
    ]
