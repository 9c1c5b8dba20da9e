"""The user's own teacher on the user's own data as a cache, and such a cache in the teacher's place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.cache import CachedTeacher, Meta, TeacherCache, plan_cache
from distil.data.bundle import Bundle
from distil.data.loading import mix_seed
from distil.errors import DistilError
from distil.loops.own_run import OwnRun, read_both
from distil.loops.training import fitting
from distil.models.load import load_model
from distil.tasks import Task, teacher_above_chance

__all__ = ["Plan", "plan_own", "room_for", "teacher_of", "write_own"]

PREFIX = "cache:"
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Plan:
    """What is about to be cached: the teacher, the data as it sees them, and what a sample takes."""

    teacher: nn.Module
    bundle: Bundle
    task: Task
    meta: Meta
    codec: str
    precision: str
    batch_size: int

    @property
    def samples(self) -> int:
        """The samples of all parts."""
        return sum(len(getattr(self.bundle, part)) for part in PARTS)

    def facts(self) -> dict[str, Any]:
        """Return what is known before anything is written."""
        return {
            "data": self.bundle.name,
            "samples": self.samples,
            "codec": {name: dict(field.codec) for name, field in self.meta.fields.items()},
            "shape": {name: list(field.shape) for name, field in self.meta.fields.items()},
            "bytes_per_sample": self.meta.bytes,
            "bytes": self.samples * self.meta.bytes,
            "teacher": self.meta.teacher,
            "precision": self.precision,
        }


def teacher_of(run: OwnRun, bundle: Bundle) -> nn.Module:
    """Return the teacher that a run names: a model, or a cache of one (``cache:FOLDER``), which must be of its data."""
    if not run.teacher.startswith(PREFIX):
        return load_model(run.teacher, **fitting(bundle), weights=run.teacher_weights, pretrained=run.pretrained)
    for name in ("teacher_weights", "pretrained", "train_teacher"):
        if getattr(run, name):
            raise DistilError(f"{name} is for a model, and {run.teacher} holds its stored answers; leave it out.")
    cached = CachedTeacher(TeacherCache.open(Path(run.teacher.removeprefix(PREFIX)).expanduser()))
    for part in PARTS:
        cached.cache.check_data(getattr(bundle, part))
    return cached


def plan_own(
    run: OwnRun, folder: Path, task_of: Callable[..., Task], *, codec: str, precision: str, batch_size: int,
    device: str | None,
) -> Plan:  # fmt: skip
    """Load data and teacher, check both, and say what a cache of them takes; nothing is written.

    Raises:
        DistilError: what cannot be read or made, a teacher at chance, a graph, a codec that does not fit.
    """
    for name in ("data", "teacher"):
        if not getattr(run, name):
            raise DistilError(f"--{name} is missing; see `distil cache --help`.")
    if run.teacher.startswith(PREFIX):
        raise DistilError(f"--teacher {run.teacher} is a cache already; name the model to be cached.")
    _, bundle = read_both(run, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed("model", "teacher", 0))
        teacher = teacher_of(run, bundle)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    teacher.to(where).eval()
    task = task_of(run, bundle, teacher)
    meta = plan_cache(
        teacher, bundle.train, task, codec=codec, precision=precision, note=f"{run.teacher} on {bundle.name}"
    )
    seen = teacher_above_chance(task, teacher, bundle.val)
    if not seen["ok"]:
        raise DistilError(f"Nothing was cached: {seen['message']}")
    return Plan(teacher, bundle, task, meta, codec, precision, batch_size)


def write_own(plan: Plan, folder: Path, *, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Fill the cache with every part of the data, compare a few samples with the live teacher, and return the facts."""
    start, before, cache = time.perf_counter(), 0, None
    for part in PARTS:
        data = getattr(plan.bundle, part)

        def report(done: int, _total: int, offset: int = before) -> None:
            progress(offset + done, plan.samples)

        cache = TeacherCache.write(
            plan.teacher, data, plan.task, folder, codec=plan.codec, precision=plan.precision, note=plan.meta.note,
            batch_size=plan.batch_size, progress=report,
        )  # fmt: skip
        before += len(data)
    assert cache is not None
    checked = cache.check(plan.teacher, plan.bundle.train, plan.task)
    return {
        **plan.facts(),
        "stored": len(cache),
        "bytes": cache.bytes,
        "out": str(folder),
        "check": asdict(checked),
        "seconds": time.perf_counter() - start,
    }


def room_for(plan: Plan, folder: Path) -> None:
    """Refuse a cache that the disk has no room for."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free, needed = shutil.disk_usage(place).free, plan.samples * plan.meta.bytes
    if needed > free:
        raise DistilError(
            f"the cache will take {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB left; take a smaller codec "
            "(topk64), or name another folder."
        )
