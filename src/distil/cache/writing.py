"""Filling a cache from a live teacher: what a sample will take, and the pass over the data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distil.cache.codec import Codec
from distil.cache.codecs import get_codec
from distil.cache.keys import contents_of, samples_of, teacher_inputs, transform_of
from distil.cache.shards import Field, Meta, write_shard
from distil.data.bundle import View, indexed
from distil.data.fingerprint import fingerprint
from distil.data.loading import as_batches
from distil.errors import DistilError, nearest
from distil.tasks import get_task
from distil.tasks.base import Task, device_of, evaluating, to_device

__all__ = ["SHARD_BYTES", "fill", "plan_cache"]

Progress = Callable[[int, int], None]
SHARD_BYTES = 64 << 20
_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def plan_cache(
    teacher: nn.Module,
    data: Any,
    task: str | Task,
    *,
    codec: str | Codec = "dense16",
    taps: Sequence[str] = ("logits",),
    features: str | Codec = "features16",
    device: torch.device | str | None = None,
    precision: str = "fp32",
    note: str = "",
) -> Meta:
    """Return what a cache would hold of each sample, from one pass on two of them; ``.bytes`` is its size on disk.

    Arguments and errors are those of :meth:`TeacherCache.write`.
    """
    if transform := transform_of(data):
        raise DistilError(
            f"the data are changed as they are read ({transform}), and such changes cannot be recorded yet: cache the "
            "data without it, or use the live teacher."
        )
    if precision not in _PRECISIONS:
        raise DistilError(f"precision={precision!r} is unknown; {nearest(precision, _PRECISIONS)}")
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise DistilError(
            f"a teacher cache needs samples with ids, and {type(data).__name__} is no map-style dataset; give one (a "
            "graph's teacher is kept in memory by its methods)."
        )
    if len(data) == 0:
        raise DistilError("a teacher cache needs at least one sample; the data are empty.")
    task = get_task(task)
    if device is not None:
        teacher.to(device)
    batch = task.unpack(samples_of(data, torch.arange(min(2, len(data)))))
    said = _said(teacher, batch, task, taps, precision)
    coders = {name: get_codec(codec if name == "logits" else features) for name in said}
    fields = {name: Field(coders[name].spec(), tuple(value.shape[1:])) for name, value in said.items()}
    for name, value in said.items():
        if value.ndim < 2 or len(value) != len(batch["id"]):
            raise DistilError(
                f"the teacher's {name} are {tuple(value.shape)} on {len(batch['id'])} samples; expected one row or "
                "more for each sample."
            )
        fields[name].coder().bytes(fields[name].width)
    temperature = getattr(coders.get("logits"), "temperature", None)
    return Meta(
        fields,
        fingerprint(teacher),
        _described(task),
        precision=precision,
        temperature="logits as given" if temperature is None else f"softmax at {temperature:g}",
        note=note,
    )


def fill(
    teacher: nn.Module,
    data: Any,
    task: str | Task,
    folder: Path,
    meta: Meta,
    positions: Tensor,
    *,
    batch_size: int = 256,
    workers: int = 0,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Run the teacher on the samples at ``positions`` and write shards; see :meth:`TeacherCache.write`."""
    task, report = get_task(task), progress or (lambda _done, _total: None)
    total, done = len(indexed(data)), len(indexed(data)) - len(positions)
    report(done, total)
    _sweep(folder)
    pending = _Pending(folder, meta, max(1, shard_bytes // meta.bytes))
    for raw in _batches(data, positions, batch_size, workers):
        batch = task.unpack(raw)
        said = _said(teacher, batch, task, list(meta.fields), meta.precision)
        pending.add(batch["id"], contents_of(teacher_inputs(batch)), said)
        done += len(batch["id"])
        report(done, total)
    pending.flush()


def _sweep(folder: Path) -> None:
    """Delete what a killed writer left; a file of the last hour may be somebody's who is at work."""
    for litter in folder.glob(".writing-*"):
        if time.time() - litter.stat().st_mtime > 3600:
            litter.unlink(missing_ok=True)


def _batches(data: Any, positions: Tensor, batch_size: int, workers: int) -> Iterator[Any]:
    if len(positions):
        size = max(1, min(batch_size, len(positions)))  # a small rest is no mistake here
        yield from as_batches(View(indexed(data), positions), size, workers=workers).iterate(0)


class _Pending:
    """Coded samples on their way to a shard."""

    def __init__(self, folder: Path, meta: Meta, rows: int) -> None:
        self.folder, self.meta, self.rows = folder, meta, rows
        self.ids: list[Tensor] = []
        self.contents: list[Tensor] = []
        self.coded: dict[str, list[Any]] = {name: [] for name in meta.fields}

    def add(self, ids: Tensor, contents: Tensor, said: Mapping[str, Tensor]) -> None:
        for name, field in self.meta.fields.items():
            value = said[name]
            if tuple(value.shape[1:]) != field.shape:
                raise DistilError(
                    f"the teacher's {name} are {tuple(value.shape[1:])} for sample {int(ids[0])} and {field.shape} for "
                    "the first; a cache needs one shape: pad or resize the inputs to one size."
                )
            keys = ids[:, None] * 1_000_003 + torch.arange(field.lead)
            coded = field.coder().encode(value.reshape(-1, field.width), keys.reshape(-1))
            self.coded[name].append(coded.reshape(len(ids), -1))
        self.ids.append(ids.cpu())
        self.contents.append(contents)
        if sum(map(len, self.ids)) >= self.rows:
            self.flush()

    def flush(self) -> None:
        if self.ids:
            rows = {name: np.concatenate(parts) for name, parts in self.coded.items()}
            ids, contents = (torch.cat(parts).numpy() for parts in (self.ids, self.contents))
            write_shard(self.folder, self.meta, ids, contents, rows)
        self.ids, self.contents = [], []
        self.coded = {name: [] for name in self.meta.fields}


def _said(
    teacher: nn.Module, batch: Mapping[str, Any], task: Task, taps: Sequence[str], precision: str
) -> dict[str, Tensor]:
    """Return the tapped tensors of one pass."""
    where, kind = device_of(teacher), _PRECISIONS[precision]
    seen: dict[str, Tensor] = {}
    paths = dict(teacher.named_modules())
    cast: AbstractContextManager[Any] = torch.autocast(where.type, kind) if kind else nullcontext()
    with ExitStack() as stack:
        for tap in taps:
            if tap == "logits":
                continue
            if tap not in paths:
                raise DistilError(f"the teacher has no module {tap!r} to store; {nearest(tap, paths)}")
            stack.callback(paths[tap].register_forward_hook(_keeping(seen, tap)).remove)
        stack.enter_context(evaluating(teacher))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(cast)
        logits = task.logits(task.call(teacher, to_device(batch, where), "teacher"))
    found = {"logits": logits, **seen}
    silent = [tap for tap in taps if tap not in found]
    if silent:
        raise DistilError(f"the teacher's module {silent[0]!r} did not run, or gives no tensor; name another.")
    return {tap: found[tap].float() for tap in taps}


def _keeping(seen: dict[str, Tensor], tap: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor):
            seen[tap] = first.flatten(1) if first.ndim > 3 else first

    return keep


def _described(task: Task) -> dict[str, Any]:
    """Return the task's name, and what it does to a teacher's inputs, as plain values."""
    told: dict[str, Any] = {"name": task.name}
    for name in ("normalise", "input_size"):
        value = getattr(task, name, {}).get("teacher")
        if value is not None:
            told[name] = [x.tolist() if isinstance(x, Tensor) else x for x in value]
    return told
