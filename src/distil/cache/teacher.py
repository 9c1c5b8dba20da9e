"""A cache in a teacher's place: it answers a batch from the store, and no model runs."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.cache.keys import contents_in
from distil.cache.store import TeacherCache
from distil.cache.writing import AUGMENT
from distil.errors import DistilError
from distil.functional.targets import SparseTargets
from distil.tasks.base import BatchReader

__all__ = ["CachedTeacher"]


@final
class CachedTeacher(BatchReader):
    """Give this to a Distiller as its teacher, and methods that read only a teacher's logits train from the cache.

    Every batch is looked up by ``id`` and its inputs are checked against those that were stored, so that augmented,
    mixed or changed inputs stop the run instead of being taught the wrong answers. Views that were stored
    (``cache.viewed(data)``) are looked up by their number, and their records compared. Taps are those that were stored
    beside the logits, by their names; a method that taps anything else, or calls a part of the teacher, needs the live
    one.

    Args:
        cache: of logits. Of a dense codec it answers with logits; of a sparse one with `SparseTargets`, which methods
            that say so (KD) learn from.

    Raises:
        DistilError: a cache without logits, a batch without ids, samples that are not stored, other inputs.
    """

    identity: Tensor

    def __init__(self, cache: TeacherCache) -> None:
        super().__init__()
        field = cache.meta.fields.get("logits")
        if field is None:
            raise DistilError(
                f"the cache {cache.folder} holds no logits, which a teacher answers with; write them too."
            )
        self.field = field
        self.cache = cache
        self._names = [name for name in cache.meta.fields if name not in ("logits", AUGMENT)]
        self.stored = nn.ModuleList(nn.Identity() for _ in self._names)  # where hooks of taps find what was stored
        # In the state dict, so that a checkpoint made with another cache is not gone on with.
        digest = hashlib.sha256(json.dumps(cache.meta.plain(), sort_keys=True).encode()).digest()
        self.register_buffer("identity", torch.frombuffer(bytearray(digest), dtype=torch.uint8).clone())

    def forward(self, batch: Mapping[str, Any]) -> Tensor | SparseTargets:
        """Return what is stored of a batch's samples, float32, where the inputs are."""
        if not isinstance(batch, Mapping) or "id" not in batch:
            raise DistilError(
                "a cached teacher knows samples by 'id', and was called without one: give the Distiller batches with "
                "ids (distil.indexed(dataset)) and a task that hands them over (classification, text-classification)."
            )
        views = batch.get("view")
        if views is not None:
            self.cache.check_records(batch["id"], views, batch["augment"])
        found = self.cache.read(batch["id"], contents=contents_in(batch), views=views)
        for name, module in zip(self._names, self.stored):
            if module._forward_hooks:  # somebody taps it
                module(self.cache.read(batch["id"], tap=name, views=views)["values"].to(self.identity.device))
        if "values" in found:
            return found["values"].to(self.identity.device)
        return self._sparse(found).to(self.identity.device)

    def _sparse(self, found: Mapping[str, Tensor]) -> SparseTargets:
        codec = self.field.codec
        heat = float(codec["temperature"])
        name = f"{codec['name']}{codec['k']}x{codec['bits']}" if "k" in codec else f"{codec['name']}{codec['draws']}"
        name += f"@{heat:g}" if heat != 1 else ""
        values = found["log_probs"] if "log_probs" in found else found["weights"]
        return SparseTargets(found["ids"], values, self.field.width, heat, name, found.get("entropy"))

    def places(self, tap: str) -> tuple[str, ...]:
        """Return where the stored features of a tap come out.

        Raises:
            DistilError: nothing was stored by that name; says what was, and how to store it.
        """
        if tap == "stages":
            found = [k for k, name in enumerate(self._names) if re.fullmatch(r"stages\.\d+", name)]
        else:
            found = [k for k, name in enumerate(self._names) if fnmatch.fnmatchcase(name, tap)]
        if not found:
            raise DistilError(
                f"the cache {self.cache.folder} stores {', '.join(['logits', *self._names])} and no tap {tap!r} of the "
                f"teacher: write it with `distil cache --features {','.join([*self._names, tap])}`, or use the live "
                "teacher."
            )
        return tuple(f"stored.{k}" for k in found)

    def extra_repr(self) -> str:
        """Say where the answers come from."""
        return f"{self.cache.folder}, teacher {self.cache.meta.teacher}, {len(self.cache)} samples"
