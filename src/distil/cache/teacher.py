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
from distil.tasks.base import BatchReader

__all__ = ["CachedTeacher"]


@final
class CachedTeacher(BatchReader):
    """Give this to a Distiller as its teacher, and methods that read only a teacher's logits train from the cache.

    Every batch is looked up by ``id`` and its inputs are checked against those that were stored, so that augmented,
    mixed or changed inputs stop the run instead of being taught the wrong answers. It has no layers: a method that taps
    the teacher's features, or calls a part of it, needs the live one.

    Args:
        cache: of a dense codec (``dense16``, ``dense32``).

    Raises:
        DistilError: a sparse codec, a batch without ids, samples that are not stored, other inputs.
    """

    identity: Tensor

    def __init__(self, cache: TeacherCache) -> None:
        super().__init__()
        field = cache.meta.fields.get("logits")
        if field is None or not field.coder().dense:
            kind = "no logits" if field is None else f"{field.codec['name']} targets"
            raise DistilError(
                f"the cache {cache.folder} holds {kind}, and a method reads all logits of a teacher: write it with "
                "codec='dense16', or use the losses of distil.functional.sparse on cache.read(ids)."
            )
        self.cache = cache
        # In the state dict, so that a checkpoint made with another cache is not gone on with.
        digest = hashlib.sha256(json.dumps(cache.meta.plain(), sort_keys=True).encode()).digest()
        self.register_buffer("identity", torch.frombuffer(bytearray(digest), dtype=torch.uint8).clone())

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the stored logits of a batch's samples, float32, where the inputs are."""
        if not isinstance(batch, Mapping) or "id" not in batch:
            raise DistilError(
                "a cached teacher knows samples by 'id', and was called without one: give the Distiller batches with "
                "ids (distil.indexed(dataset)) and a task that hands them over (classification, text-classification)."
            )
        inputs = teacher_inputs(batch)
        values = self.cache.read(batch["id"], contents=contents_of(inputs))["values"]
        return values.to(self.identity.device)

    def extra_repr(self) -> str:
        """Say where the answers come from."""
        return f"{self.cache.folder}, teacher {self.cache.meta.teacher}, {len(self.cache)} samples"
