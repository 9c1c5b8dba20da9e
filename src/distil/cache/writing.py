"""Filling a cache: from a live teacher, or from another tool's top-k log-probabilities."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distil.cache.codec import Codec
from distil.cache.codecs import TopK, get_codec
from distil.cache.keys import contents_of, teacher_inputs
from distil.cache.shards import SUFFIX, Field, Meta, write_shard
from distil.cache.store import TeacherCache, samples_of, transform_of
from distil.data.bundle import View, ids_of, indexed
from distil.data.fingerprint import fingerprint
from distil.data.loading import as_batches
from distil.errors import DistilError, nearest
from distil.tasks import get_task
from distil.tasks.base import Task, device_of, evaluating, to_device

__all__ = ["import_topk", "plan_cache", "write_cache"]

Progress = Callable[[int, int], None]
SHARD_BYTES = 64 << 20
_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def write_cache(
    teacher: nn.Module,
    data: Any,
    task: str | Task,
    out: str | os.PathLike[str],
    *,
    codec: str | Codec = "dense16",
    taps: Sequence[str] = ("logits",),
    features: str | Codec = "features16",
    batch_size: int = 256,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    workers: int = 0,
    shard_bytes: int = SHARD_BYTES,
    note: str = "",
    progress: Progress | None = None,
) -> TeacherCache:
    """Run ``teacher`` over ``data`` in inference mode and store what it says; samples that are there are not run again.

    Args:
        teacher: the model; its modes are given back, and its state is not touched.
        data: a map-style dataset; its samples have ids (their positions, if nothing else).
        task: how the teacher is called, by name or itself.
        out: a folder. What it holds already must be of the same teacher, task, codec and precision.
        codec: of the logits, by name (``dense16``, ``topk64``, ``sampled50``, …) or itself.
        taps: ``"logits"``, or paths of modules whose first output tensor is stored by ``features``.
        features: the codec of all other taps.
        batch_size, workers: how data are read.
        device: where the teacher is moved to and stays; default where it is.
        precision: ``"fp32"`` or ``"bf16"`` (autocast).
        shard_bytes: about the size of a shard, which is also what is held in memory.
        note: a word for the header.
        progress: called with the samples done and their number.

    Raises:
        DistilError: data that are changed as they are read, another teacher's cache in ``out``, samples that changed, a
            full disk, logits that are not finite, ….
    """
    made = plan_cache(
        teacher, data, task, codec=codec, taps=taps, features=features, device=device, precision=precision, note=note
    )
    made_task, folder = get_task(task), Path(out)
    positions = _missing(folder, made, data)
    total, done = len(indexed(data)), len(indexed(data)) - len(positions)
    report = progress or (lambda _done, _total: None)
    report(done, total)
    pending = _Pending(folder, made, max(1, shard_bytes // made.bytes))
    for raw in _batches(data, positions, batch_size, workers):
        batch = made_task.unpack(raw)
        said = _said(teacher, batch, made_task, list(made.fields), precision)
        pending.add(batch["id"], contents_of(teacher_inputs(batch)), said)
        done += len(batch["id"])
        report(done, total)
    pending.flush()
    return TeacherCache(folder)


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

    Arguments and errors are those of :func:`write_cache`.
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


def import_topk(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    classes: int,
    teacher: str,
    bits: int = 8,
    temperature: float = 1.0,
    columns: tuple[str, str, str] = ("id", "token_ids", "log_probs"),
) -> TeacherCache:
    """Store another tool's top-k log-probabilities as a cache.

    Args:
        path: a ``.parquet`` file with the columns, each row's ids and log-probabilities lists of one length k; or a
            ``.safetensors`` file with tensors of those names, ``[N]``, ``[N, k]`` and ``[N, k]``.
        out: the folder to write.
        classes: how many classes (the vocabulary) there are.
        teacher: a name for who said it; it stands in the header where a fingerprint would.
        bits: of each value, 2 to 8.
        temperature: of the softmax that the log-probabilities came from.
        columns: their names: sample id, class ids, log-probabilities.

    The inputs are not known, so contents are not checked when such a cache is read.

    Raises:
        DistilError: a file that cannot be read, missing columns, ragged rows, probabilities that sum to more than 1, …
    """
    ids, classes_of, log_probs = _table(Path(path), columns)
    if classes_of.ndim != 2 or classes_of.shape != log_probs.shape or len(ids) != len(classes_of):
        raise DistilError(
            f"{path}: '{columns[0]}' is {tuple(ids.shape)}, '{columns[1]}' {tuple(classes_of.shape)} and "
            f"'{columns[2]}' {tuple(log_probs.shape)}; expected [N], [N, k] and [N, k]."
        )
    order = classes_of.argsort(1)
    classes_of, log_probs = classes_of.gather(1, order), log_probs.gather(1, order).float()
    sums = log_probs.double().logsumexp(1)
    if not bool(torch.isfinite(sums).all()) or float(sums.max()) > 0.01:
        row = int((~torch.isfinite(sums) | (sums > 0.01)).nonzero()[0])
        raise DistilError(f"{path}: row {row} holds no log-probabilities (they sum to {float(sums[row].exp()):.4g}).")
    if bool((classes_of[:, 1:] == classes_of[:, :-1]).any()):
        raise DistilError(f"{path}: a row of '{columns[1]}' names a class twice; each may stand there once.")
    codec = TopK(classes_of.shape[1], bits, temperature)
    meta = Meta(
        {"logits": Field(codec.spec(), (classes,))},
        teacher,
        {"name": "imported"},
        precision="unknown",
        temperature=f"softmax at {temperature:g}",
        contents=False,
        note=f"imported from {Path(path).name}",
    )
    rows = max(1, SHARD_BYTES // meta.bytes)
    for first in range(0, len(ids), rows):
        part = slice(first, first + rows)
        coded = codec.encode_kept(classes_of[part], log_probs[part], classes)
        none = np.zeros(len(coded), dtype=np.int64)
        write_shard(Path(out), meta, ids[part].numpy(), none, {"logits": coded})
    return TeacherCache(out)


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


def _missing(folder: Path, meta: Meta, data: Any) -> Tensor:
    """Return the positions of the samples that are not stored yet; what is stored must fit."""
    everything = torch.arange(len(indexed(data)))
    if not any(folder.glob(f"*{SUFFIX}")):
        return everything
    there = TeacherCache(folder)
    mine, theirs = meta.plain(), there.meta.plain()
    for name, what in (("teacher", "teacher"), ("task", "task"), ("precision", "precision"), ("fields", "codec")):
        if mine[name] != theirs[name]:
            raise DistilError(
                f"the cache {folder} holds answers of another {what} ({theirs[name]}, and this is {mine[name]}): name "
                "another folder, or overwrite it."
            )
    stored = there.has(ids_of(indexed(data)))
    if stored.any():
        there.check_data(View(indexed(data), everything[stored]))
    return everything[~stored]


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


def _table(path: Path, columns: tuple[str, str, str]) -> Iterator[Tensor]:
    """Yield the three columns of a parquet or safetensors file as tensors."""
    if not path.exists():
        raise DistilError(f"there is no file {str(path)!r}; correct the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            table: Mapping[str, Any] = load_file(path)
            found = {name: table[name] for name in columns if name in table}
        elif path.suffix == ".parquet":
            import pyarrow.parquet as pq

            names = pq.read_schema(path).names
            read = pq.read_table(path, columns=[name for name in columns if name in names])
            found = {name: torch.from_numpy(_column(read[name], name)) for name in read.column_names}
        else:
            raise DistilError(f"{str(path)!r} is no .parquet or .safetensors; give one of them.")
    except DistilError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DistilError(f"{str(path)!r} cannot be read ({first}); write it again.") from error
    for name in columns:
        if name not in found:
            raise DistilError(f"{str(path)!r} has no '{name}'; name its columns with columns=(id, classes, values).")
    return (found[name] if i == 2 else found[name].long() for i, name in enumerate(columns))


def _column(column: Any, name: str) -> np.ndarray[Any, Any]:
    values = column.to_pylist()
    if values and isinstance(values[0], list):
        if len({len(value) for value in values}) != 1:
            raise DistilError(f"the rows of '{name}' differ in length; a cache keeps one k for all.")
        return np.array(values)
    return np.array(values)
