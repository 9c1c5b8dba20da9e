"""Which sample an answer belongs to: 64 bits over what the teacher is given, the same on every device.

A sum of the inputs' bits times fixed odd numbers, modulo 2^64: one pass over the batch, no copy to the host. It sees
any change that augmentation, another normalisation, another size or another tokenizer makes; it is no protection
against somebody who builds a collision on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from distil.data.bundle import View, ids_of, indexed
from distil.data.loading import FullBatch, as_batches
from distil.data.views import Viewed
from distil.errors import DistilError

__all__ = ["contents_in", "contents_of", "ids_in", "samples_of", "teacher_inputs", "transform_of", "viewed_in"]

_CHUNK = {"cpu": 1 << 18}  # words multiplied at a time: on a CPU what its cache holds


def teacher_inputs(batch: Mapping[str, Any]) -> Any:
    """Return what the teacher reads of a batch: ``teacher_inputs`` where its ids are its own, else ``inputs``."""
    found = batch.get("teacher_inputs", batch.get("inputs"))
    if found is None:
        raise DistilError(f"the teacher cache: a batch with {sorted(map(str, batch))} has no inputs to be known by.")
    return found


def contents_of(inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Return 64 bits for each sample of a batch, int64 ``[B]`` on the CPU.

    Args:
        inputs: ``[B, ...]``, or a mapping of such. With an ``attention_mask`` only the tokens in it count, so that the
            padding of a batch changes nothing.

    >>> x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])
    >>> one, two, three = contents_of(x).tolist()
    >>> one == two, one == three
    (True, False)
    """
    if isinstance(inputs, Tensor):
        return _hashed(inputs).cpu()
    mask = inputs.get("attention_mask")
    total: Tensor | None = None
    for k, name in enumerate(sorted(inputs)):
        value = inputs[name]
        if name == "attention_mask" or not isinstance(value, Tensor):
            continue
        fits = mask is not None and value.shape == mask.shape and not value.is_floating_point()
        one = _tokens(value, mask) if fits and mask is not None else _hashed(value)
        total = one * (2 * k + 3) if total is None else total + one * (2 * k + 3)
    if total is None:
        raise DistilError(f"the teacher cache: inputs with {sorted(inputs)} hold no tensor to be known by.")
    return total.cpu()


def contents_in(batch: Mapping[str, Any]) -> Tensor:
    """Return the contents of a batch's samples; those of a graph's nodes change with any node and any edge."""
    inputs = teacher_inputs(batch)
    if "edge_index" not in batch:
        return contents_of(inputs)
    nodes = contents_of(inputs)
    graph = contents_of({"edges": batch["edge_index"].cpu().reshape(1, -1), "nodes": nodes.reshape(1, -1)})
    return _mixed(nodes + graph)


def ids_in(data: Any) -> Tensor:
    """Return the ids of a dataset's samples, or of a graph's nodes."""
    if isinstance(data, FullBatch):
        return torch.as_tensor(data.batch["id"]).long().cpu()
    return ids_of(indexed(data))


def samples_of(data: Any, positions: Tensor) -> dict[str, Any]:
    """Return the samples at ``positions`` of a dataset as a loader would give them; of a graph, the whole of it."""
    if isinstance(data, FullBatch):
        return dict(data.batch)
    some = View(indexed(data), positions)
    return next(iter(as_batches(some, len(positions) * some.per_image).iterate(0)))


def viewed_in(data: Any) -> Viewed | None:
    """Return the views through which samples are read, under subsets of them; ``None`` where there are none."""
    while data is not None and not isinstance(data, Viewed):
        data = data.dataset if isinstance(data, View) else None
    return data


def transform_of(data: Any) -> str:
    """Return a name for what changes samples as they are read, through views of views; "" where nothing is seen."""
    while data is not None:
        found = getattr(data, "transform", None) or getattr(data, "transforms", None)
        if found is not None:
            return str(getattr(found, "__name__", None) or type(found).__name__)
        data = getattr(data, "dataset", None)
    return ""


def _hashed(inputs: Tensor) -> Tensor:
    words = _words(inputs.detach().reshape(len(inputs), -1).contiguous())
    shape = sum((size + 1) * 0x9E3779B1 ** (k + 1) for k, size in enumerate(inputs.shape[1:]))
    total = torch.full((len(words),), _signed(shape + 0x51ED270B * words.shape[1]), device=words.device)
    kind = words.device.type
    step = max(1, _CHUNK.get(kind, 1 << 26) // max(1, words.shape[1]))
    factors = _factors(words.shape[1], words.device)
    for first in range(0, len(words), step):
        some = words[first : first + step].long()
        # Integers have a matrix product on CPUs alone; it is what makes one pass of this.
        total[first : first + step] += some @ factors if kind == "cpu" else (some * factors).sum(1)
    return _mixed(total)


def _tokens(ids: Tensor, mask: Tensor) -> Tensor:
    real = mask != 0
    place = (real.cumsum(1) - 1).clamp(min=0)
    factors = _factors(ids.shape[1], ids.device)[place]
    return _mixed(torch.where(real, (ids.long() + 1) * factors, 0).sum(1) + real.sum(1))


def _words(rows: Tensor) -> Tensor:
    """View rows as integers of at most 32 bits."""
    if rows.dtype in (torch.float32, torch.float64, torch.int64):
        return rows.view(torch.int32)
    if rows.dtype in (torch.float16, torch.bfloat16):
        return rows.view(torch.int16)
    return rows


@lru_cache(maxsize=32)
def _factors(count: int, device: torch.device) -> Tensor:
    return _mixed(torch.arange(1, count + 1, dtype=torch.int64) * _signed(0x9E3779B97F4A7C15)).bitwise_or(1).to(device)


def _mixed(values: Tensor) -> Tensor:
    """Spread each bit over all 64 (the finaliser of splitmix64)."""
    values = (values ^ ((values >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ ((values >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return values ^ ((values >> 31) & ((1 << 33) - 1))


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
