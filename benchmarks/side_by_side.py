"""Two ways of doing one thing, timed in turn (A, B, B, A), and results as JSON with what they were made on."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).resolve().parent / "results"


def medians(ours: Callable[[], Any], peer: Callable[[], Any], *, repeats: int) -> tuple[float, float]:
    """Return the median seconds of both, warm, in the order A B B A."""
    taken: dict[int, list[float]] = {0: [], 1: []}
    sides = (ours, peer)
    for side in sides:
        side()
    for _ in range(repeats):
        for which in (0, 1, 1, 0):
            start = time.perf_counter()
            sides[which]()
            taken[which].append(time.perf_counter() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])


def write(
    name: str, rows: Sequence[Mapping[str, Any]], setting: Mapping[str, Any], *, peers: Sequence[str] = ()
) -> None:
    """Write ``results/NAME.json`` and print it; ``peers`` are packages whose versions are told too, where installed."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions |= {peer: version(peer) for peer in peers if find_spec(peer)}
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), **versions}
    content = {"row": name, "setting": dict(setting), "machine": machine, "rows": list(rows)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        peer = "" if row["peer"] is None else f"  peer {row['peer']:.4g}  ratio {row['ratio']:.3g}"
        if "peak_mb" in row:
            peer += f"  peak {row['peak_mb']['ours']:.3g} / {row['peak_mb']['peer']:.3g} MB"
        print(f"{row['what']}: {row['ours']:.4g}{peer}  ({row['target']}: {row['met']})")
