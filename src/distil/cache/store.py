"""A folder of shards as one store: looked up by sample, in any order, by any number of processes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distil.cache.codec import Codec
from distil.cache.keys import contents_of, samples_of, teacher_inputs, transform_of
from distil.cache.shards import SUFFIX, Longs, Meta, Shard
from distil.cache.writing import SHARD_BYTES, Progress, fill, plan_cache
from distil.data.bundle import View, ids_of, indexed
from distil.data.fingerprint import fingerprint
from distil.errors import DistilError
from distil.tasks.base import Task, device_of, evaluating, to_device

__all__ = ["Check", "TeacherCache"]


@dataclass(frozen=True)
class Check:
    """What a spot check against the live teacher saw.

    Attributes:
        samples: how many were compared.
        cosine: the lowest between stored and live numbers (of kept log-probabilities where the codec is sparse; 1 for
            samples drawn, which have no such number).
        difference: the largest error in the codec's unit.
        bound: the largest that was allowed there.
    """

    samples: int
    cosine: float
    difference: float
    bound: float


class TeacherCache:
    """The stored answers of a teacher, by sample id and content.

    Args:
        folder: as :meth:`write` or :func:`distil.cache.import_topk` left it. Files that are no whole shards are not
            looked at.

    Raises:
        DistilError: no shard there, one that is damaged, shards of different teachers or codecs, or one sample stored
            twice with different contents.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        files = sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []
        if not files:
            raise DistilError(f"there is no teacher cache in {self.folder}; write one with `distil cache --out`.")
        self.shards = [Shard(file) for file in files]
        self.meta = self.shards[0].meta
        for shard in self.shards[1:]:
            _agree(self.meta, shard.meta, self.shards[0].path, shard.path)
        self._index()

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> TeacherCache:
        """Return the cache in ``folder``."""
        return cls(folder)

    @classmethod
    def write(
        cls,
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
        """Run ``teacher`` over ``data`` in inference mode and store what it says; what is stored is not run again.

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
            DistilError: data that are changed as they are read, another teacher's cache in ``out``, samples that
                changed, a full disk, logits that are not finite, ….
        """
        meta = plan_cache(
            teacher, data, task, codec=codec, taps=taps, features=features, device=device, precision=precision,
            note=note,
        )  # fmt: skip
        folder = Path(out)
        positions = cls._missing(folder, meta, data)
        options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "shard_bytes": shard_bytes}
        fill(teacher, data, task, folder, meta, positions, progress=progress, **options)
        return cls(folder)

    @classmethod
    def _missing(cls, folder: Path, meta: Meta, data: Any) -> Tensor:
        """Return the positions of the samples that are not stored yet; what is stored must fit."""
        everything = torch.arange(len(indexed(data)))
        if not any(folder.glob(f"*{SUFFIX}")):
            return everything
        there = cls(folder)
        mine, theirs = meta.plain(), there.meta.plain()
        for name, what in (("teacher", "teacher"), ("task", "task"), ("precision", "precision"), ("fields", "codec")):
            if mine[name] != theirs[name]:
                raise DistilError(
                    f"the cache {folder} holds answers of another {what} ({theirs[name]}, and this is {mine[name]}): "
                    "name another folder, or overwrite it."
                )
        stored = there.has(ids_of(indexed(data)))
        if stored.any():
            there.check_data(View(indexed(data), everything[stored]))
        return everything[~stored]

    def _index(self) -> None:
        ids = np.concatenate([shard.ids for shard in self.shards])
        contents = np.concatenate([shard.contents for shard in self.shards])
        shard = np.concatenate([np.full(one.count, k, dtype=np.int32) for k, one in enumerate(self.shards)])
        row = np.concatenate([np.arange(one.count, dtype=np.int64) for one in self.shards])
        order = np.argsort(ids, kind="stable")
        ids, contents = ids[order], contents[order]
        twice = np.flatnonzero(ids[1:] == ids[:-1])
        differ = twice[contents[twice] != contents[twice + 1]]
        if len(differ):
            one, two = (self.shards[shard[order[differ[0] + k]]].path.name for k in (0, 1))
            raise DistilError(
                f"the cache {self.folder} holds sample {ids[differ[0]]} twice with different contents ({one}, {two}): "
                "the data changed between two writings; write it anew with overwrite."
            )
        keep = np.concatenate([[True], ids[1:] != ids[:-1]]) if len(ids) else np.zeros(0, dtype=bool)
        self._ids, self._contents = ids[keep], contents[keep]
        self._shard, self._row = shard[order][keep], row[order][keep]

    # --- reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Tensor:
        """The ids of all samples, sorted, int64 ``[N]``."""
        return torch.from_numpy(self._ids.copy())

    @property
    def bytes(self) -> int:
        """The bytes on disk."""
        return sum(shard.path.stat().st_size for shard in self.shards)

    def has(self, ids: Tensor) -> Tensor:
        """Say which of ``ids`` are stored, bool ``[B]``."""
        return torch.from_numpy(np.isin(ids.cpu().numpy(), self._ids))

    def contents(self, ids: Tensor) -> Tensor:
        """Return the 64 bits of the inputs that each stored answer belongs to, int64 ``[B]``."""
        return torch.from_numpy(self._contents[self._find(ids)])

    def read(
        self, ids: Tensor | Sequence[int], *, tap: str = "logits", contents: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the stored targets of samples, in the order of ``ids``.

        Args:
            ids: int64 ``[B]``, in any order, repeats allowed.
            tap: which of the taps that were stored.
            contents: what :func:`distil.cache.contents_of` says of the inputs at hand; given, it must be what was
                stored.

        Returns:
            What the codec decodes, ``[B, …]`` with the tap's own dimensions between: ``values`` of a dense codec,
            ``ids``, ``log_probs`` and ``tail`` of top-k, ``ids``, ``weights`` and ``entropy`` of a sample.

        Raises:
            DistilError: a sample that is not stored, other inputs than those stored, a damaged block.
        """
        field = self.meta.fields.get(tap)
        if field is None:
            raise DistilError(f"the cache {self.folder} holds {', '.join(self.meta.fields)} and no {tap!r}.")
        wanted = torch.as_tensor(ids).long().cpu()
        found = self._find(wanted)
        if contents is not None and self.meta.contents:
            wrong = np.flatnonzero(self._contents[found] != contents.cpu().numpy())
            if len(wrong):
                raise self._changed(int(wanted[wrong[0]]), len(wrong), len(wanted))
        coder = field.coder()
        rows = np.empty((len(found), field.lead, coder.bytes(field.width)), dtype=np.uint8)
        shards = self._shard[found]
        for k in np.unique(shards):
            mine = np.flatnonzero(shards == k)
            mine = mine[np.argsort(self._row[found[mine]], kind="stable")]  # read onwards through the file
            rows[mine] = self.shards[k].rows(tap, self._row[found[mine]])
        decoded = coder.decode(rows.reshape(-1, rows.shape[2]), field.width)
        lead = (len(found), *field.shape[:-1])
        return {name: value.reshape(*lead, *value.shape[1:]) for name, value in decoded.items()}

    def _find(self, ids: Tensor) -> Longs:
        wanted = ids.cpu().numpy()
        place = np.searchsorted(self._ids, wanted).clip(max=max(0, len(self._ids) - 1))
        missing = np.flatnonzero(self._ids[place] != wanted)
        if len(missing):
            raise DistilError(
                f"the cache {self.folder} has no answer for {len(missing)} of {len(wanted)} samples (id "
                f"{wanted[missing[0]]}, …): write the rest with resume, from the same data."
            )
        return place

    def _changed(self, sample: int, wrong: int, of: int) -> DistilError:
        return DistilError(
            f"the inputs of {wrong} of {of} samples (id {sample}, …) are not those that the cache {self.folder} was "
            "written from (their content differs): the data changed, or something augments, mixes or resizes them. "
            "Train on the same inputs, write the cache anew, or use the live teacher."
        )

    # --- is it the right one? ---------------------------------------------------------------------------------------

    def check(
        self,
        teacher: nn.Module,
        data: Any,
        task: Task,
        *,
        samples: int = 16,
        device: torch.device | str | None = None,
        tolerance: float | None = None,
    ) -> Check:
        """Compare a few stored answers with the live teacher, and return how near they are.

        Args:
            teacher: the teacher that the cache should be of.
            data: the dataset it should be of.
            task: how the teacher is called.
            samples: how many, evenly spaced over the stored samples of ``data``.
            device: where the teacher runs; default where it is.
            tolerance: allowed beside the codec's bound, as a share of the largest number; default 1e-4 (a teacher's
                answer depends on the batch it was in), and 0.05 where the teacher ran in half precision.

        Raises:
            DistilError: another teacher (both fingerprints are named), changed data, or answers too far apart.
        """
        live = fingerprint(teacher)
        if live != self.meta.teacher:
            raise DistilError(
                f"the cache {self.folder} is of the teacher {self.meta.teacher}, and this one is {live}: give the "
                "weights it was written with, or write it anew."
            )
        self.check_data(data, samples=samples)
        batch = task.unpack(samples_of(data, self._some(data, samples)))
        if "logits" not in self.meta.fields:
            raise DistilError(f"the cache {self.folder} holds no logits to compare; compare its taps by hand.")
        where = torch.device(device) if device is not None else device_of(teacher)
        with evaluating(teacher), torch.inference_mode():
            said = task.logits(task.call(teacher, to_device(batch, where), "teacher")).float().cpu().clone()
        field = self.meta.fields["logits"]
        coder, rows = field.coder(), said.reshape(-1, field.width)
        stored = {k: v.reshape(-1, *v.shape[len(field.shape) :]) for k, v in self.read(batch["id"]).items()}
        error = coder.error(rows, stored)
        half = self.meta.precision != "fp32"
        share = tolerance if tolerance is not None else (0.05 if half else 1e-4)
        spread = rows.double().nan_to_num(neginf=0.0).abs().amax(1)
        bound = coder.bound(rows) + share * (1 + spread)
        worst = int((error - bound).argmax())
        if not bool(error[worst] <= bound[worst]):
            raise DistilError(
                f"the cache {self.folder} and the live teacher differ by {float(error[worst]):.4g} on sample "
                f"{int(batch['id'][worst // field.lead])}, and {float(bound[worst]):.4g} is allowed: the task, the "
                "precision or the device's arithmetic is another; write the cache anew."
            )
        return Check(len(batch["id"]), _cosine(coder.dense, rows, stored), float(error.max()), float(bound.max()))

    def check_data(self, data: Any, *, samples: int = 16) -> None:
        """Refuse data that the cache is not of: samples that are missing, changed, or augmented as they are read."""
        if transform := transform_of(data):
            raise DistilError(
                f"the data are changed as they are read ({transform}), and the cache {self.folder} has no record of "
                "such changes: read them without it, or use the live teacher."
            )
        missing = ~self.has(ids_of(indexed(data)))
        if missing.any():
            raise DistilError(
                f"the cache {self.folder} lacks {int(missing.sum())} of the {len(missing)} samples (id "
                f"{int(ids_of(indexed(data))[missing][0])}, …): write the rest with resume."
            )
        if self.meta.contents:
            batch = samples_of(data, self._some(data, samples))
            ids, seen = torch.as_tensor(batch["id"]).long(), contents_of(teacher_inputs(batch))
            wrong = (self.contents(ids) != seen).nonzero()[:, 0]
            if len(wrong):
                first = wrong[0]
                raise DistilError(
                    f"sample {int(ids[first])} has the content {int(seen[first]) & (1 << 64) - 1:016x}, and the cache "
                    f"{self.folder} is of {int(self.contents(ids)[first]) & (1 << 64) - 1:016x}: the data (or how they "
                    "are read: size, channels, tokenizer) changed; write the cache anew."
                )

    def _some(self, data: Any, samples: int) -> Tensor:
        positions = self.has(ids_of(indexed(data))).nonzero()[:, 0]
        if not len(positions):
            raise DistilError(f"the cache {self.folder} holds no sample of these data; they are of other data.")
        count = max(1, min(samples, len(positions)))
        return positions[torch.arange(count) * len(positions) // count]


def _agree(one: Meta, other: Meta, first: Path, second: Path) -> None:
    mine, theirs = one.plain(), other.plain()
    for name in sorted(set(mine) - {"note"}):
        if mine[name] != theirs[name]:
            raise DistilError(
                f"the shards {first.name} and {second.name} in {first.parent} do not belong together: {name} is "
                f"{mine[name]!r} in one and {theirs[name]!r} in the other; keep each cache in a folder of its own."
            )


def _cosine(dense: bool, live: Tensor, stored: Mapping[str, Tensor]) -> float:
    if dense:
        one, two = live.double(), stored["values"].double()
    elif "log_probs" in stored:
        one, two = live.double().log_softmax(1).gather(1, stored["ids"]).exp(), stored["log_probs"].double().exp()
    else:
        return 1.0
    one, two = (x.nan_to_num(neginf=0.0) for x in (one, two))
    return float(torch.nn.functional.cosine_similarity(one, two, dim=1).min())
