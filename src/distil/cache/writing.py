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
from distil.cache.codecs import Bytes8, get_codec
from distil.cache.keys import contents_in, ids_in, samples_of, transform_of, viewed_in
from distil.cache.shards import PLAIN, Field, Meta, write_shard
from distil.data.bundle import View, indexed
from distil.data.fingerprint import fingerprint
from distil.data.loading import FullBatch, as_batches
from distil.data.views import Views
from distil.errors import DistilError, nearest
from distil.tasks import get_task
from distil.tasks.base import Task, device_of, evaluating, to_device

__all__ = ["AUGMENT", "SHARD_BYTES", "fill", "plan_cache"]

Progress = Callable[[int, int], None]
Taps = Sequence[str] | Mapping[str, str]
SHARD_BYTES = 64 << 20
AUGMENT = "augment"
"""The field that holds the record of a view."""
_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def plan_cache(
    teacher: nn.Module,
    data: Any,
    task: str | Task,
    *,
    codec: str | Codec = "dense16",
    taps: Taps = ("logits",),
    features: str | Codec = "features16",
    device: torch.device | str | None = None,
    precision: str = "fp32",
    note: str = "",
    views: Views | None = None,
) -> Meta:
    """Return what a cache would hold of each sample, from one pass on two of them; ``.bytes`` is its size on disk.

    Arguments and errors are those of :meth:`TeacherCache.write`.
    """
    if transform := transform_of(data):
        raise DistilError(
            f"the data are changed as they are read ({transform}), and nobody records how: cache the data without it, "
            "give them views (distil.data.Viewed), or use the live teacher."
        )
    if precision not in _PRECISIONS:
        raise DistilError(f"precision={precision!r} is unknown; {nearest(precision, _PRECISIONS)}")
    if not isinstance(data, FullBatch) and not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DistilError(
            f"a teacher cache needs samples with ids, and {type(data).__name__} is no map-style dataset; give one, or "
            "a graph as FullBatch."
        )
    if len(data) == 0:
        raise DistilError("a teacher cache needs at least one sample; the data are empty.")
    task = get_task(task)
    if device is not None:
        teacher.to(device)
    batch = task.unpack(samples_of(data, torch.arange(min(2, len(data)))))
    said = _said(teacher, batch, task, _named(taps), precision)
    coders = {name: get_codec(codec if name == "logits" else features) for name in said}
    fields = {name: _field(name, coders[name], value, _named(taps)) for name, value in said.items()}
    for name, value in said.items():
        if value.ndim < 2 or len(value) != len(batch["id"]):
            raise DistilError(
                f"the teacher's {name} are {tuple(value.shape)} on {len(batch['id'])} samples; expected one row or "
                "more for each sample."
            )
        fields[name].coder().bytes(fields[name].width)
    viewed = viewed_in(data)
    views = viewed.views if viewed is not None else views
    if views is not None:
        fields[AUGMENT] = Field(Bytes8().spec(), (views.bytes,))
    temperature = getattr(coders.get("logits"), "temperature", None)
    return Meta(
        fields,
        fingerprint(teacher),
        _described(task),
        precision=precision,
        temperature="logits as given" if temperature is None else f"softmax at {temperature:g}",
        note=note,
        views=None if views is None else views.plain(),
    )


def _named(taps: Taps) -> dict[str, str]:
    return dict(taps) if isinstance(taps, Mapping) else {tap: tap for tap in taps}


def _field(name: str, coder: Codec, value: Tensor, taps: Mapping[str, str]) -> Field:
    shape, place = tuple(value.shape[1:]), taps[name] if taps[name] != name else None
    if len(shape) == 3 and name != "logits":  # a map, coded by channel: an int8 scale fits one, not all
        return Field(coder.spec(), (shape[0], shape[1] * shape[2]), form=shape, place=place)
    return Field(coder.spec(), shape, place=place)


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
    total, views = len(ids_in(data)), Views.read(meta.views) if meta.views else None
    done = total - len(positions)
    report(done, total)
    _sweep(folder)
    pending = _Pending(folder, meta, max(1, shard_bytes // meta.bytes))
    taps = {name: field.place or name for name, field in meta.fields.items() if name != AUGMENT}
    each = 1 if viewed_in(data) is None or views is None else views.count
    for raw in _batches(data, positions, batch_size, workers):
        batch = task.unpack(raw)
        said = _said(teacher, batch, task, taps, meta.precision)
        if views is not None:
            said[AUGMENT] = _records(batch, views)
        pending.add(batch["id"], batch.get("view"), contents_in(batch), said)
        done += len(batch["id"]) // each
        report(min(done, total), total)
    pending.flush()


def _sweep(folder: Path) -> None:
    """Delete what a killed writer left; a file of the last hour may be somebody's who is at work."""
    for litter in folder.glob(".writing-*"):
        if time.time() - litter.stat().st_mtime > 3600:
            litter.unlink(missing_ok=True)


def _batches(data: Any, positions: Tensor, batch_size: int, workers: int) -> Iterator[Any]:
    if not len(positions):
        return
    if isinstance(data, FullBatch):
        yield from data.iterate(0)
        return
    viewed = viewed_in(data)
    if viewed is not None:  # every view, each image decoded once; the subset's ids are looked up among all
        place = {int(one): k for k, one in enumerate(viewed.ids)}
        positions = torch.tensor([place[int(one)] for one in ids_in(data)[positions]])
        data = viewed.every()
    some = View(indexed(data), positions)
    size = max(1, min(batch_size, len(positions) * some.per_image))  # a small rest is no mistake here
    yield from as_batches(some, size, workers=workers).iterate(0)


def _records(batch: Mapping[str, Any], views: Views) -> Tensor:
    """Return the records of a batch's views; of samples as they are, one that changes nothing."""
    if AUGMENT in batch:
        found: Tensor = batch[AUGMENT]
        return found
    height, width = batch["inputs"].shape[-2:]
    same = np.frombuffer(views.untouched(height, width).tobytes(), dtype=np.uint8)
    return torch.from_numpy(np.tile(same, (len(batch["id"]), 1)))


class _Pending:
    """Coded samples on their way to a shard."""

    def __init__(self, folder: Path, meta: Meta, rows: int) -> None:
        self.folder, self.meta, self.rows = folder, meta, rows
        self._clear()

    def _clear(self) -> None:
        self.ids: list[Tensor] = []
        self.views: list[Tensor] = []
        self.contents: list[Tensor] = []
        self.coded: dict[str, list[Any]] = {name: [] for name in self.meta.fields}

    def add(self, ids: Tensor, views: Tensor | None, contents: Tensor, said: Mapping[str, Tensor]) -> None:
        for name, field in self.meta.fields.items():
            value, expected = said[name], field.form or field.shape
            if tuple(value.shape[1:]) != expected:
                raise DistilError(
                    f"the teacher's {name} are {tuple(value.shape[1:])} for sample {int(ids[0])} and {expected} for "
                    "the first; a cache needs one shape: pad or resize the inputs to one size."
                )
            keys = ids[:, None] * 1_000_003 + torch.arange(field.lead)
            coded = field.coder().encode(value.reshape(-1, field.width), keys.reshape(-1))
            self.coded[name].append(coded.reshape(len(ids), -1))
        self.ids.append(ids.cpu())
        self.views.append(torch.full_like(self.ids[-1], PLAIN) if views is None else views.cpu())
        self.contents.append(contents)
        if sum(map(len, self.ids)) >= self.rows:
            self.flush()

    def flush(self) -> None:
        if self.ids:
            rows = {name: np.concatenate(parts) for name, parts in self.coded.items()}
            ids, views, contents = (torch.cat(parts).numpy() for parts in (self.ids, self.views, self.contents))
            write_shard(self.folder, self.meta, ids, contents, rows, views=views if self.meta.views else None)
        self._clear()


def _said(
    teacher: nn.Module, batch: Mapping[str, Any], task: Task, taps: Mapping[str, str], precision: str
) -> dict[str, Tensor]:
    """Return the tapped tensors of one pass by their names."""
    where, kind = device_of(teacher), _PRECISIONS[precision]
    seen: dict[str, Tensor] = {}
    paths = dict(teacher.named_modules())
    cast: AbstractContextManager[Any] = torch.autocast(where.type, kind) if kind else nullcontext()
    with ExitStack() as stack:
        for tap, place in taps.items():
            if tap == "logits":
                continue
            path, _, side = place.partition(":")
            if path not in paths or side not in ("", "in"):
                raise DistilError(f"the teacher has no module {place!r} to store; {nearest(path, paths)}")
            stack.callback(paths[path].register_forward_hook(_keeping(seen, tap, side == "in")).remove)
        stack.enter_context(evaluating(teacher))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(cast)
        logits = task.logits(task.call(teacher, to_device(batch, where), "teacher"))
    found = {"logits": logits, **seen}
    silent = [tap for tap in taps if tap not in found]
    if silent:
        raise DistilError(f"the teacher's module {silent[0]!r} did not run, or gives no tensor; name another.")
    return {tap: found[tap].float() for tap in taps}


def _keeping(seen: dict[str, Tensor], tap: str, before: bool) -> Callable[..., None]:
    def keep(_module: nn.Module, inputs: Any, output: Any) -> None:
        found = inputs if before else output
        first = found[0] if isinstance(found, tuple) and found else found
        if isinstance(first, Tensor):
            # A copy, for a later layer may change it in place.
            seen[tap] = (first.flatten(1) if first.ndim > 4 else first).clone()

    return keep


def _described(task: Task) -> dict[str, Any]:
    """Return the task's name, and what it does to a teacher's inputs, as plain values."""
    told: dict[str, Any] = {"name": task.name}
    for name in ("normalise", "input_size"):
        value = getattr(task, name, {}).get("teacher")
        if value is not None:
            told[name] = [x.tolist() if isinstance(x, Tensor) else x for x in value]
    return told
