"""The user's own teacher on the user's own data as a cache, and such a cache in the teacher's place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.cache import CachedTeacher, Meta, TeacherCache, plan_cache
from distil.data.bundle import Bundle, View
from distil.data.loading import FullBatch, mix_seed
from distil.data.views import Viewed, Views
from distil.engine.anatomy import anatomy
from distil.engine.layout import CHANNELS_LAST
from distil.errors import DistilError
from distil.loops.own_graph import check_large, in_parts
from distil.loops.own_run import OwnRun, read_both
from distil.loops.own_views import images_alone
from distil.loops.training import example_of, fitting
from distil.models.load import load_model
from distil.tasks import Task, teacher_above_chance
from distil.tasks.base import to_device

__all__ = ["Plan", "Wanted", "plan_own", "room_for", "teacher_of", "write_own"]

PREFIX = "cache:"
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Wanted:
    """How a cache is to be written.

    Attributes:
        codec: of the logits.
        features: taps to be stored beside them, by meaning (``emb``, ``stages``) or path; features_codec: how.
        precision: of the teacher. batch_size: samples in a batch.
        part: which share of the samples this process writes, and of how many.
    """

    codec: str = "dense16"
    features: tuple[str, ...] = ()
    features_codec: str = "features16"
    precision: str = "fp32"
    batch_size: int = 256
    part: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Plan:
    """What is about to be cached: the teacher, the data as it sees them, and what an answer takes."""

    teacher: nn.Module
    bundle: Bundle
    task: Task
    meta: Meta
    wanted: Wanted
    taps: dict[str, str]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the data that differ in more than their masks."""
        return PARTS[:1] if isinstance(self.bundle.train, FullBatch) else PARTS

    def mine(self, part: str) -> int:
        """The samples of a part that this process writes."""
        (k, of), data = self.wanted.part, getattr(self.bundle, part)
        return len(range(k - 1, len(data.batch["id"]) if isinstance(data, FullBatch) else len(data), of))

    @property
    def samples(self) -> int:
        """The samples of all parts that this process writes."""
        return sum(self.mine(part) for part in self.parts)

    @property
    def answers(self) -> int:
        """The teacher's answers to them: one each, and for training data in views one to each view."""
        more = self.meta.views["count"] - 1 if self.meta.views else 0
        return self.samples + self.mine("train") * more

    def facts(self) -> dict[str, Any]:
        """Return what is known before anything is written."""
        return {
            "data": self.bundle.name,
            "samples": self.samples,
            "answers": self.answers,
            "views": self.meta.views,
            "codec": {name: dict(field.codec) for name, field in self.meta.fields.items()},
            "shape": {name: list(field.shape) for name, field in self.meta.fields.items()},
            "bytes_per_sample": self.meta.bytes,
            "bytes": self.answers * self.meta.bytes,
            "teacher": self.meta.teacher,
            "precision": self.wanted.precision,
        }


def teacher_of(run: OwnRun, bundle: Bundle) -> nn.Module:
    """Return the teacher that a run names: a model, or a cache of one (``cache:FOLDER``), which must be of its data."""
    check_large(run, bundle)
    if not run.teacher.startswith(PREFIX):
        model = load_model(run.teacher, **fitting(bundle), weights=run.teacher_weights, pretrained=run.pretrained)
        return in_parts(run, model)
    for name in ("teacher_weights", "pretrained", "train_teacher"):
        if getattr(run, name):
            raise DistilError(f"{name} is for a model, and {run.teacher} holds its stored answers; leave it out.")
    cached = CachedTeacher(TeacherCache.open(Path(run.teacher.removeprefix(PREFIX)).expanduser()))
    for part in PARTS:
        data = getattr(bundle, part)
        cached.cache.check_data(cached.cache.viewed(data) if cached.cache.views and part == "train" else data)
    return cached


def plan_own(
    run: OwnRun, folder: Path, task_of: Callable[..., Task], wanted: Wanted, *, device: str | None
) -> Plan:  # fmt: skip
    """Load data and teacher, check both, and say what a cache of them takes; nothing is written.

    Raises:
        DistilError: what cannot be read or made, a teacher at chance, a codec or a tap that does not fit.
    """
    if not 1 <= wanted.part[0] <= wanted.part[1]:
        raise DistilError(f"--part {wanted.part[0]}/{wanted.part[1]} is impossible; write 1/4, 2/4, 3/4, 4/4.")
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
    if run.views.count:
        images_alone(bundle)
        bundle = replace(bundle, train=Viewed(bundle.train, run.views))
    taps = _taps(wanted.features, teacher, task, bundle, where)
    meta = plan_cache(
        teacher, bundle.train, task, codec=wanted.codec, taps=taps, features=wanted.features_codec,
        precision=wanted.precision, note=f"{run.teacher} on {bundle.name}",
    )  # fmt: skip
    seen = teacher_above_chance(task, teacher, bundle.val)
    if not seen["ok"]:
        raise DistilError(f"Nothing was cached: {seen['message']}")
    return Plan(teacher, bundle, task, meta, wanted, taps)


def _taps(
    features: Sequence[str], teacher: nn.Module, task: Task, bundle: Bundle, where: torch.device
) -> dict[str, str]:
    """Find what is to be stored, by the names it is asked for by: ``{"logits": "logits", "emb": "fc:in"}``."""
    taps = {"logits": "logits"}
    if not features:
        return taps
    batch = to_device(task.unpack(example_of(bundle)), where)
    found = anatomy(teacher, lambda model: task.call(model, batch, role="teacher"), logits=task.logits)
    for name in features:
        if name in ("logits", "augment", "head"):
            raise DistilError(f"--features {name} is no tap of its own: logits are stored by --codec; name a layer.")
        tap = found.resolve(name, role="teacher")
        for k, place in enumerate(tap.locations):
            if place.layout == CHANNELS_LAST:
                raise DistilError(
                    f"--features {name}: the teacher lays the map of {place} channels last, and a cache would store it "
                    "as it is, while methods read channels first; use the live teacher for it."
                )
            taps[(f"{name}.{k}" if name == "stages" else str(place)) if tap.many else name] = str(place)
    return taps


def write_own(plan: Plan, folder: Path, *, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Fill the cache with every part of the data, compare a few samples with the live teacher, and return the facts."""
    start, before, cache = time.perf_counter(), 0, None
    wanted, (k, of) = plan.wanted, plan.wanted.part
    for part in plan.parts:
        data = getattr(plan.bundle, part)

        def report(done: int, _total: int, offset: int = before) -> None:
            progress(offset + done, plan.samples)

        cache = TeacherCache.write(
            plan.teacher, data, plan.task, folder, codec=wanted.codec, taps=plan.taps, features=wanted.features_codec,
            precision=wanted.precision, note=plan.meta.note, batch_size=wanted.batch_size, progress=report,
            views=Views.read(plan.meta.views) if plan.meta.views else None, rank=k - 1, world=of,
        )  # fmt: skip
        before += plan.mine(part)
    assert cache is not None
    mine = plan.bundle.train
    if of > 1 and not isinstance(mine, FullBatch):  # the others may be at work yet
        mine = View(mine, torch.arange(len(mine))[k - 1 :: of])
    checked = cache.check(plan.teacher, mine, plan.task)
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
    free, needed = shutil.disk_usage(place).free, plan.answers * plan.meta.bytes
    if needed > free:
        raise DistilError(
            f"the cache will take {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB left; take a smaller codec "
            "(topk64), or name another folder."
        )
