"""A folder of shards as one store: looked up by sample, in any order, by any number of processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distil.cache.checking import Check, complete, same_data, same_records, same_teacher
from distil.cache.codec import Codec
from distil.cache.keys import ids_in, viewed_in
from distil.cache.shards import SUFFIX, Longs, Meta, Shard
from distil.cache.writing import AUGMENT, SHARD_BYTES, Progress, Taps, fill, plan_cache
from distil.data.bundle import View, indexed
from distil.data.loading import FullBatch
from distil.data.views import Viewed, Views
from distil.errors import DistilError
from distil.tasks.base import Task

__all__ = ["TeacherCache"]


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
        taps: Taps = ("logits",),
        features: str | Codec = "features16",
        batch_size: int = 256,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        workers: int = 0,
        shard_bytes: int = SHARD_BYTES,
        note: str = "",
        views: Views | None = None,
        rank: int = 0,
        world: int = 1,
        progress: Progress | None = None,
    ) -> TeacherCache:
        """Run ``teacher`` over ``data`` in inference mode and store what it says; what is stored is not run again.

        Args:
            teacher: the model; its modes are given back, and its state is not touched.
            data: a map-style dataset; its samples have ids (their positions, if nothing else). Of a
                :class:`distil.data.Viewed` every view is stored, with its record. Or a graph, as a ``FullBatch``.
            task: how the teacher is called, by name or itself.
            out: a folder. What it holds already must be of the same teacher, task, codec and precision.
            codec: of the logits, by name (``dense16``, ``topk64``, ``sampled50``, …) or itself.
            taps: ``"logits"``, or paths of modules whose first output tensor (``path:in``: input) is stored by
                ``features``; a mapping gives them other names, ``{"logits": "logits", "emb": "fc:in"}``.
            features: the codec of all other taps.
            batch_size, workers: how data are read.
            device: where the teacher is moved to and stays; default where it is.
            precision: ``"fp32"`` or ``"bf16"`` (autocast).
            shard_bytes: about the size of a shard, which is also what is held in memory.
            note: a word for the header.
            views: of the cache, where ``data`` are to be stored beside views of other samples, as they are.
            rank, world: write every ``world``-th sample from ``rank`` on. So many processes may fill one folder at
                once, each with shards of its own; nothing is merged, for a shard is in the cache once it has its name.
            progress: called with the samples done and their number.

        Raises:
            DistilError: data that are changed as they are read, another teacher's cache in ``out``, samples that
                changed, a full disk, logits that are not finite, ….
        """
        meta = plan_cache(
            teacher, data, task, codec=codec, taps=taps, features=features, device=device, precision=precision,
            note=note, views=views,
        )  # fmt: skip
        if not 0 <= rank < world:
            raise DistilError(f"rank={rank}, world={world} is impossible; expected 0 <= rank < world.")
        folder = Path(out)
        positions = cls._missing(folder, meta, data, rank, world)
        options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "shard_bytes": shard_bytes}
        fill(teacher, data, task, folder, meta, positions, progress=progress, **options)
        return cls(folder)

    @classmethod
    def _missing(cls, folder: Path, meta: Meta, data: Any, rank: int, world: int) -> Tensor:
        """Return the positions of this rank's samples that are not stored yet; what is stored must fit."""
        ids = ids_in(data)
        everything = torch.arange(len(ids))
        if not any(folder.glob(f"*{SUFFIX}")):
            return everything[rank::world]
        there = cls(folder)
        mine, theirs = meta.plain(), there.meta.plain()
        names = {"teacher": "teacher", "task": "task", "precision": "precision", "views": "views", "fields": "codec"}
        for name, what in names.items():
            if mine.get(name) != theirs.get(name):
                raise DistilError(
                    f"the cache {folder} holds answers of another {what} ({theirs.get(name)}, and this is "
                    f"{mine.get(name)}): name another folder, or overwrite it."
                )
        stored = there.has(ids, views=viewed_in(data) is not None)
        if stored.any():
            there.check_data(data if isinstance(data, FullBatch) else View(indexed(data), everything[stored]))
        return everything[rank::world][~stored[rank::world]]

    def _index(self) -> None:
        ids = np.concatenate([shard.ids for shard in self.shards])
        contents = np.concatenate([shard.contents for shard in self.shards])
        shard = np.concatenate([np.full(one.count, k, dtype=np.int32) for k, one in enumerate(self.shards)])
        row = np.concatenate([np.arange(one.count, dtype=np.int64) for one in self.shards])
        # One line for each id: the sample as it is, then its views.
        self.views = Views.read(self.meta.views) if self.meta.views else None
        self._columns = 1 if self.views is None else 1 + self.views.count
        self._ids = np.unique(ids)
        column = np.concatenate([one.views for one in self.shards]) + 1
        key = np.searchsorted(self._ids, ids) * self._columns + column
        order = np.argsort(key, kind="stable")
        key, contents = key[order], contents[order]
        twice = np.flatnonzero(key[1:] == key[:-1])
        differ = twice[contents[twice] != contents[twice + 1]]
        if len(differ):
            one, two = (self.shards[shard[order[differ[0] + k]]].path.name for k in (0, 1))
            raise DistilError(
                f"the cache {self.folder} holds sample {ids[order[differ[0]]]} twice with different contents ({one}, "
                f"{two}): the data changed between two writings; write it anew with overwrite."
            )
        size = len(self._ids) * self._columns
        self._contents, self._row = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        self._shard = np.full(size, -1, dtype=np.int32)
        self._contents[key], self._shard[key], self._row[key] = contents, shard[order], row[order]

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

    def has(self, ids: Tensor, *, views: bool = False) -> Tensor:
        """Say which of ``ids`` are stored as they are, or with ``views`` in every view; bool ``[B]``."""
        wanted = ids.cpu().numpy()
        place, known = self._lines(wanted)
        line = self._shard.reshape(-1, self._columns)[place] >= 0
        return torch.from_numpy(known & (line[:, 1:].all(1) & (self._columns > 1) if views else line[:, 0]))

    def contents(self, ids: Tensor, views: Tensor | None = None) -> Tensor:
        """Return the 64 bits of the inputs that each stored answer belongs to, int64 ``[B]``."""
        return torch.from_numpy(self._contents[self._find(ids, views)])

    def viewed(self, data: Any, *, per_image: int = 1) -> Viewed:
        """Return ``data`` in the very views that were stored, replayed from their records.

        Args:
            data: the dataset that the cache was written from, as it is.
            per_image: see :class:`distil.data.Viewed`.

        Raises:
            DistilError: a cache without views, or samples whose views are not all stored.
        """
        if self.views is None:
            raise DistilError(f"the cache {self.folder} holds no views; write it from distil.data.Viewed, or --views.")
        inner, count = indexed(data), self.views.count
        complete(self, ids_in(inner), views=True)
        ids = ids_in(inner).repeat_interleave(count)
        records = self.read(ids, tap=AUGMENT, views=torch.arange(count).repeat(len(inner)))["values"].numpy()
        return Viewed(inner, self.views, per_image=per_image, records=records.reshape(len(inner), count, -1))

    def read(
        self,
        ids: Tensor | Sequence[int],
        *,
        tap: str = "logits",
        contents: Tensor | None = None,
        views: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the stored targets of samples, in the order of ``ids``.

        Args:
            ids: int64 ``[B]``, in any order, repeats allowed.
            tap: which of the taps that were stored.
            contents: what :func:`distil.cache.contents_of` says of the inputs at hand; given, it must be what was
                stored.
            views: int64 ``[B]``, which view of each sample; -1, or ``None``: the sample as it is.

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
        found = self._find(wanted, views)
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
        if field.form is not None and "values" in decoded:
            return {"values": decoded["values"].reshape(len(found), *field.form)}
        lead = (len(found), *field.shape[:-1])
        return {name: value.reshape(*lead, *value.shape[1:]) for name, value in decoded.items()}

    def _lines(self, wanted: Longs) -> tuple[Longs, Any]:
        place = np.searchsorted(self._ids, wanted).clip(max=max(0, len(self._ids) - 1))
        return place, self._ids[place] == wanted

    def _find(self, ids: Tensor, views: Tensor | None = None) -> Longs:
        wanted = ids.cpu().numpy()
        place, known = self._lines(wanted)
        if views is None:
            place = place * self._columns
        else:
            column = views.cpu().numpy() + 1
            if len(column) and not 0 <= column.min() <= column.max() < self._columns:
                raise DistilError(
                    f"the cache {self.folder} holds {self._columns - 1} views of each sample, and view "
                    f"{int(column.max()) - 1} was asked for; train on cache.viewed(data), or write it with views."
                )
            place = place * self._columns + column
        known = known & (self._shard[place] >= 0)
        if not known.all():
            missing = np.flatnonzero(~known)
            which = "" if self.views is None else " as it is" if views is None else f" in view {int(views[missing[0]])}"
            fix = "" if self.views is None or views is not None else "; it holds views: train on cache.viewed(data)"
            raise DistilError(
                f"the cache {self.folder} has no answer for {len(missing)} of {len(wanted)} samples (id "
                f"{wanted[missing[0]]}{which}, …): write the rest with resume, from the same data{fix}."
            )
        return place

    def _changed(self, sample: int, wrong: int, of: int) -> DistilError:
        return DistilError(
            f"the inputs of {wrong} of {of} samples (id {sample}, …) are not those that the cache {self.folder} was "
            "written from (their content differs): the data changed, or something augments, mixes or resizes them. "
            "Train on the same inputs, write the cache anew, or use the live teacher."
        )

    # --- is it the right one? ---------------------------------------------------------------------------------------

    def check(self, teacher: nn.Module, data: Any, task: Task, **options: Any) -> Check:
        """Compare answers with the live teacher; options as of :func:`distil.cache.checking.same_teacher`."""
        return same_teacher(self, teacher, data, task, **options)

    def check_data(self, data: Any, *, samples: int = 16) -> None:
        """Refuse data that the cache is not of: missing, changed, augmented as they are read, in other views."""
        same_data(self, data, samples=samples)

    def check_records(self, ids: Tensor, views: Tensor, records: Tensor) -> None:
        """Refuse views that are not made as those that were stored; ``records`` as batches carry them (``augment``)."""
        same_records(self, ids, views, records)


def _agree(one: Meta, other: Meta, first: Path, second: Path) -> None:
    mine, theirs = one.plain(), other.plain()
    for name in sorted(set(mine) - {"note"}):
        if mine[name] != theirs[name]:
            raise DistilError(
                f"the shards {first.name} and {second.name} in {first.parent} do not belong together: {name} is "
                f"{mine[name]!r} in one and {theirs[name]!r} in the other; keep each cache in a folder of its own."
            )
