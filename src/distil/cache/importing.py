"""Another tool's top-k log-probabilities as a cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distil.cache.codecs import TopK
from distil.cache.shards import Field, Meta, write_shard
from distil.cache.store import TeacherCache
from distil.cache.writing import SHARD_BYTES
from distil.errors import DistilError

__all__ = ["import_topk"]


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
