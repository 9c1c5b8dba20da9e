"""A short, stable name for the content of a model, of tensors or of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["fingerprint", "tensor_bytes"]

_CHUNK = 1 << 22  # elements hashed at a time, so that a large model is never copied whole
_PROBES = 256  # items read from a dataset that cannot name its own content


def fingerprint(content: nn.Module | Tensor | Mapping[str, Any] | Any) -> str:
    """Return 16 hex digits that name a content: equal content gives equal digits, on any device.

    A SHA-256 is taken over names, dtypes, shapes and bytes.

    - a module: its state dict (parameters and buffers), not its class nor its mode;
    - a tensor, or a mapping of tensors: those, in the order of their names;
    - a dataset: its own ``fingerprint`` where it has one, else inputs, labels and ids held in memory (a view: its
      dataset, positions and labels), else its length, its labels and up to 256 evenly spaced items as they are read.
      A random augmentation that changes items therefore changes the last kind.

    >>> flat = fingerprint(torch.zeros(2))
    >>> flat == fingerprint(torch.zeros(2)), flat == fingerprint(torch.zeros(1, 2)), len(flat)
    (True, False, 16)
    """
    digest = hashlib.sha256()
    for part in _parts(content):
        digest.update(part)
    return digest.hexdigest()[:16]


def tensor_bytes(tensor: Tensor) -> Iterable[bytes]:
    """Yield a header of dtype and shape, then the bytes of a tensor in chunks."""
    yield f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    flat = tensor.detach().reshape(-1)
    for chunk in flat.split(_CHUNK):
        # Viewing as bytes covers bfloat16 and the float8 types, which numpy does not know.
        yield chunk.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _parts(content: Any) -> Iterable[bytes]:
    if isinstance(content, nn.Module):
        yield from _named(content.state_dict())
    elif isinstance(content, Tensor):
        yield from tensor_bytes(content)
    elif isinstance(content, Mapping):
        yield from _named(content)
    elif isinstance(getattr(content, "fingerprint", None), str):
        yield content.fingerprint.encode()
    elif hasattr(content, "positions") and hasattr(content, "dataset"):
        yield from _parts(content.dataset)
        yield from _named({"positions": content.positions, "labels": content.labels})
    elif isinstance(getattr(content, "inputs", None), Tensor):
        yield from _named({name: getattr(content, name, None) for name in ("inputs", "labels", "ids")})
    elif isinstance(getattr(content, "batch", None), Mapping):
        yield from _named(content.batch)
    elif hasattr(content, "__len__") and hasattr(content, "__getitem__"):
        yield from _sampled(content)
    else:
        raise DistilError(
            f"fingerprint: {type(content).__name__} has no content that can be named; give a module, tensors or a "
            "map-style dataset."
        )


def _named(values: Mapping[str, Any]) -> Iterable[bytes]:
    for name in sorted(values, key=str):
        value = values[name]
        yield f"\x1e{name}\x1f".encode()
        if isinstance(value, Tensor):
            yield from tensor_bytes(value)
        elif isinstance(value, Mapping):
            yield from _named(value)
        else:
            yield repr(value).encode()


def _sampled(dataset: Any) -> Iterable[bytes]:
    from distil.data.bundle import as_dict

    count = len(dataset)
    yield f"{count}".encode()
    labels = getattr(dataset, "labels", None)
    if isinstance(labels, Tensor):
        yield from tensor_bytes(labels)
    for k in range(min(count, _PROBES)):
        yield from _named(as_dict(dataset[k * count // min(count, _PROBES)]))
