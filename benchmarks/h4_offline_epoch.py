"""H4: an epoch with the teacher's logits from a cache against the same epoch with the teacher running.

ResNet-152 to ResNet-18 and to ResNet-50 of timm at 224 pixels with random weights, bf16, data in memory.
The bound of any cache is 1 + P_t / (3 P_s) with P the cost of a forward pass; it is written beside what was seen.

    python benchmarks/h4_offline_epoch.py                        # one CUDA device; writes benchmarks/results/H4.json
    python benchmarks/h4_offline_epoch.py --device cpu --tiny    # shows that it runs
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from h2_throughput import made
from kd_sides import by_fit, side, synchronise
from side_by_side import clock_name, compared, device_of, needs, now, options, rounds, write
from torch import nn

from distil.cache import CachedTeacher, TeacherCache
from distil.data import Batches, DictDataset

TEACHER, STUDENTS = "resnet152", ("resnet18", "resnet50")
TINY = "resnet10t"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    given = options(__doc__, repeats=3, devices=True).parse_args(arguments)
    needs("timm")
    device = device_of(given)
    size, count, pixels = (2, 6, 32) if given.tiny else (128, 2560, 224)
    torch.manual_seed(0)
    data = DictDataset(torch.randn(count, 3, pixels, pixels), torch.randint(1000, (count,)))
    teacher = made(TINY if given.tiny else TEACHER, pixels).to(device).eval()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        began = now()
        cache = TeacherCache.write(
            teacher, data, "classification", Path(place) / "cache", batch_size=size, precision="bf16"
        )
        writing = now() - began
        for name in (TINY,) if given.tiny else STUDENTS:
            student = made(name, pixels).to(device)
            bound = 1 + passed(teacher, data, size, device) / (3 * passed(student, data, size, device))
            stored = CachedTeacher(cache).to(device)
            rows += measured(name, student, (teacher, stored), data, size, given.repeats, bound, writing)
    setting = {"batch": size, "images": count, "pixels": pixels, "precision": "bf16", "codec": "dense16"}
    write("H4", rows, setting, out=given.out, packages=("timm",), clock=clock_name())


def measured(
    name: str,
    student: nn.Module,
    teachers: tuple[nn.Module, nn.Module],
    data: DictDataset,
    size: int,
    repeats: int,
    bound: float,
    writing: float,
) -> Iterator[dict[str, Any]]:
    """The row of one student."""
    sides = {
        which: side(by_fit, (student, teacher), data, batch_size=size, precision="bf16")
        for which, teacher in zip(("live", "stored"), teachers)
    }
    taken = rounds(sides, repeats=repeats)
    row = compared(
        f"epoch of {name}, teacher stored", taken["stored"], taken["live"], peer_name="the teacher running", unit="s",
        target=">= 80 % of the bound 1 + P_t / (3 P_s)", met=0.8 * bound,
    )  # fmt: skip
    saved = row["peer"] - row["ours"]
    yield row | {"bound": bound, "writing_s": writing, "pays_after_epochs": writing / saved if saved > 0 else None}


def passed(model: nn.Module, data: DictDataset, size: int, device: torch.device) -> float:
    """Return the seconds of a forward pass without gradient on one batch, the best of three."""
    inputs = next(iter(Batches(data, size, seed=0, shuffle=False)))["inputs"].to(device)
    best = float("inf")
    for _ in range(3):
        synchronise(device)
        began = now()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            model(inputs)
        synchronise(device)
        best = min(best, now() - began)
    return best


if __name__ == "__main__":
    main()
