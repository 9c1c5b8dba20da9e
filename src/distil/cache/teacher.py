"""A cache in a teacher's place: it answers a batch from the store, and no model runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from distil.cache.keys import contents_of, teacher_inputs
from distil.cache.store import TeacherCache
from distil.errors import DistilError
from distil.functional.targets import SparseTargets
from distil.tasks.base import BatchReader

__all__ = ["CachedTeacher"]


@final
class CachedTeacher(BatchReader):
    """Give this to a Distiller as its teacher, and methods that read only a teacher's logits train from the cache.

    Every batch is looked up by ``id`` and its inputs are checked against those that were stored, so that augmented,
    mixed or changed inputs stop the run instead of being taught the wrong answers. It has no layers: a method that taps
    the teacher's features, or calls a part of it, needs the live one.

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
        inputs = teacher_inputs(batch)
        found = self.cache.read(batch["id"], contents=contents_of(inputs))
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

    def extra_repr(self) -> str:
        """Say where the answers come from."""
        return f"{self.cache.folder}, teacher {self.cache.meta.teacher}, {len(self.cache)} samples"
