"""C3: reading a teacher's stored logits for a training batch: packed shards against one file for each sample.

The file-per-sample side imitates the layout of tools that keep a dict of tensors for each sample (torchdistill's is a
pickle; here it is numpy's own format without pickle, which is quicker to read). None of their code runs. Both sides
hold the same logits, are warm in the page cache and give a float32 batch in the order that was asked for.

    python benchmarks/c3_cache_read.py       # writes benchmarks/results/C3.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import c3_training
import numpy as np
import torch
from side_by_side import medians, write

from distil.cache import Dense16, Field, Meta, TeacherCache, write_shard

COUNT, BATCH = 20_000, 256


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats, rows = parser.parse_args().repeats, []
    for classes in (10, 100, 1000):
        with tempfile.TemporaryDirectory() as place:
            rows += measure(Path(place), classes, repeats)
    rows += c3_training.rows(repeats)
    training = {"samples": c3_training.COUNT, "batch": c3_training.BATCH, "side": c3_training.SIDE}
    write("C3", rows, {"samples": COUNT, "batch": BATCH, "repeats": repeats, "training": training})


def measure(place: Path, classes: int, repeats: int) -> list[dict[str, object]]:
    """Return the lines of one number of classes."""
    logits = torch.randn(COUNT, classes, generator=torch.Generator().manual_seed(0)) * 3
    ids, codec = np.arange(COUNT), Dense16()
    meta = Meta({"logits": Field(codec.spec(), (classes,))}, "benchmark", {"name": "classification"})
    for first in range(0, COUNT, 8192):
        part = slice(first, first + 8192)
        rows = {"logits": codec.encode(logits[part])}
        write_shard(place / "packed", meta, ids[part], np.zeros(len(ids[part]), dtype=np.int64), rows)
    (place / "files").mkdir()
    for k in range(COUNT):
        np.savez(place / "files" / f"{k}.npz", logits=logits[k].numpy())
    cache = TeacherCache.open(place / "packed")
    chosen = torch.randint(COUNT, (BATCH,), generator=torch.Generator().manual_seed(1))

    def packed() -> torch.Tensor:
        return cache.read(chosen)["values"]

    def files() -> torch.Tensor:
        found = []
        for k in chosen.tolist():
            with np.load(place / "files" / f"{k}.npz", allow_pickle=False) as one:
                found.append(torch.from_numpy(one["logits"]))
        return torch.stack(found)

    assert (packed() - files()).abs().max() < 0.02
    ours, peer = (seconds / BATCH * 1e6 for seconds in medians(packed, files, repeats=repeats))
    size = sum(file.stat().st_size for file in (place / "files").iterdir()) / COUNT
    disk = sum(file.stat().st_blocks * 512 for file in (place / "files").iterdir()) / COUNT
    mine = cache.bytes / COUNT
    lines = [
        ("read, us a sample, random batches", ours, peer, ">= 100 times quicker", 100),
        ("bytes a sample", mine, size, ">= 2 times smaller", 2),
        ("bytes a sample on disk", mine, disk, ">= 10 times smaller", 10),
    ]
    return [
        {
            "what": f"{classes} classes: {what}",
            "ours": a,
            "peer": b,
            "ratio": b / a,
            "target": target,
            "met": b / a >= least,
        }
        for what, a, b, target, least in lines
    ]


if __name__ == "__main__":
    main()
