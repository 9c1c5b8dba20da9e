"""Trees of tensors and plain values as safetensors + JSON: no pickle, checksummed, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distil.errors import DistilError
from distil.files import write_folder

__all__ = ["load_tree", "save_tree"]

TENSORS, TREE = "tensors.safetensors", "tree.json"


def save_tree(tree: Any, folder: str | Path) -> Path:
    """Write ``tree`` (dicts, lists, tuples, numbers, strings, None, tensors) to ``folder``, atomically.

    An existing folder of that name is replaced; whoever reads sees the old tree or the new one, never a part.
    """

    def fill(target: Path) -> None:
        tensors: dict[str, Tensor] = {}
        packed = _pack(tree, tensors)
        save_file(tensors, target / TENSORS)
        sums = {"sha256": _digest(target / TENSORS), "tree_sha256": _text_digest(packed)}
        document = {"format": "distil-tree", "version": 1, **sums, "tree": packed}
        (target / TREE).write_text(json.dumps(document, allow_nan=False))

    return write_folder(Path(folder), fill)


def load_tree(folder: str | Path, *, device: str = "cpu") -> Any:
    """Read what :func:`save_tree` wrote; a truncated or changed file is named, never half used."""
    folder = Path(folder)
    if not (folder / TREE).is_file() or not (folder / TENSORS).is_file():
        raise DistilError(f"{folder} is no complete checkpoint: {TREE} and {TENSORS} are expected in it.")
    try:
        document = json.loads((folder / TREE).read_text())
        if document["format"] != "distil-tree" or document["version"] != 1:
            raise DistilError(f"{folder / TREE} was written by another version of distil; this one reads version 1.")
        changed = _digest(folder / TENSORS) != document["sha256"] and TENSORS
        changed = changed or (_text_digest(document["tree"]) != document["tree_sha256"] and TREE)
        if changed:
            raise DistilError(
                f"{folder / changed} is truncated or was changed (its checksum differs); delete {folder} and resume "
                "from an earlier one."
            )
        return _unpack(document["tree"], load_file(folder / TENSORS, device=device))
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError, SafetensorError) as error:
        raise DistilError(
            f"{folder} is truncated or no checkpoint of distil ({type(error).__name__}); delete it and resume from an "
            "earlier one."
        ) from None


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = f"t{len(tensors)}"
        # A copy where needed: safetensors refuses tensors that share memory (tied weights).
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"tuple" if isinstance(value, tuple) else "list": [_pack(v, tensors) for v in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DistilError(
        f"A {type(value).__name__} cannot be stored; only tensors, numbers, strings, None, lists and dicts can."
    )


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    [(kind, inner)] = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "float":
        return float(inner)
    if kind == "dict":
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in inner}
    members = [_unpack(v, tensors) for v in inner]
    return tuple(members) if kind == "tuple" else members


def _digest(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _text_digest(packed: Any) -> str:
    return hashlib.sha256(json.dumps(packed, allow_nan=False).encode()).hexdigest()
