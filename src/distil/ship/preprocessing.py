"""How a student's inputs are made, as plain data: said by its task or read off its shape, and always checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from distil.data.encoding import RowEncoder
from distil.errors import DistilError, nearest
from distil.tasks import NodeTask, Task
from distil.tasks.nodes import needs_edges

__all__ = ["KINDS", "checked_preprocessing", "preprocessing_of"]

KINDS = ("image", "features", "table", "text", "tensors")


def preprocessing_of(task: Task, module: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """Return how inputs are made for a student: the task's own word, else images by their shape, else features."""
    own = task.preprocessing()
    if own is not None:
        return dict(own)
    if len(shape) != 3 or shape[0] not in (1, 3) or task.name == NodeTask.name:
        return {"kind": "features", "shape": list(shape), "edges": task.name == NodeTask.name and needs_edges(module)}
    made = {"kind": "image", "size": list(shape[1:]), "channels": int(shape[0]), "range": [0, 1]}
    normalise = getattr(task, "normalise", {}).get("student")
    if normalise is not None:
        made |= {name: value.tolist() for name, value in zip(("mean", "std"), normalise)}
    inner = getattr(task, "input_size", {}).get("student")
    return made if inner is None else made | {"input_size": list(inner)}


def checked_preprocessing(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return preprocessing whose parts are what its kind needs, refusing anything else.

    >>> checked_preprocessing({"kind": "image", "size": [8, 8], "channels": 2})
    Traceback (most recent call last):
    distil.errors.DistilError: preprocessing: 'channels' is 2; 1 or 3 is expected.
    """
    if not isinstance(found, Mapping) or found.get("kind") not in KINDS:
        seen = found.get("kind") if isinstance(found, Mapping) else found
        raise DistilError(f"preprocessing: 'kind' is {seen!r}; {nearest(str(seen), KINDS)}")
    made = dict(found)

    def need(key: str, good: bool, wanted: str) -> None:
        if not good:
            raise DistilError(f"preprocessing: {key!r} is {made.get(key)!r}; {wanted} is expected.")

    if made["kind"] == "image":
        size = made.get("size")
        made["size"] = size = [size, size] if isinstance(size, int) else list(size) if size is not None else size
        need("size", isinstance(size, list) and len(size) == 2 and all(map(_length, size)), "[height, width]")
        need("channels", made.get("channels") in (1, 3), "1 or 3")
        for key in ("mean", "std"):
            values = made.get(key, [])
            need(key, isinstance(values, list) and all(isinstance(v, int | float) for v in values), "a list of numbers")
        inner = made.get("input_size", [1, 1])
        need("input_size", isinstance(inner, list) and len(inner) == 2 and all(map(_length, inner)), "[height, width]")
    elif made["kind"] == "features":
        shape = made.get("shape")
        need("shape", isinstance(shape, list | tuple) and bool(shape) and all(map(_length, shape)), "a list of sizes")
        made["shape"], made["edges"] = list(made["shape"]), bool(made.get("edges"))
        names = made.get("columns", [])
        fits = isinstance(names, list) and all(isinstance(name, str) for name in names)
        need("columns", fits and len(names) in (0, made["shape"][0]), "a name for each feature")
        need("row_sums", isinstance(made.get("row_sums", False), bool), "true or false")
    elif made["kind"] == "table":
        need("shape", made.get("shape") == [RowEncoder.from_plain(made).width], "as many numbers as its columns make")
    elif made["kind"] == "text":
        need("tokenizer", isinstance(made.get("tokenizer"), str | Path), "a folder")
        need("max_length", _length(made.get("max_length")), "a whole number")
        made["tokenizer"] = str(made["tokenizer"])
    return made


def _length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 20
