"""H6: what `distil plan` predicts against what `distil train` then takes: seconds of training, and the process's peak.

Every plan and every run is a process of its own, in the order plan, run, run, plan. Seconds are those that the run
reports of its two students (steps, validation, diagnosis); memory is the most the process held, as the system counts
it (``ru_maxrss``), beside the plan's prediction of it. The share above a process that has loaded everything and trained
nothing (`distil train --dry-run`) is told apart, as the libraries alone are most of a small run's memory. Images are
Fashion-MNIST where DISTIL_DATA names a folder that has it, else the digits that scikit-learn ships.

    python benchmarks/planner_error.py       # writes benchmarks/results/PLAN.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from side_by_side import write

from distil import load, load_model
from distil.data import sources
from distil.methods import Supervised

NETS = {
    "small": ("distil:cnn(widths=(32,64,64))", "distil:cnn(widths=(8,16))"),
    "large": ("distil:resnet(depth=20)", "distil:resnet(depth=8)"),
}
ORDER = "plan run run plan"
TRIED = [
    "counting the tensors that operators return fell short by a sixth on a small CNN, as convolutions take buffers of "
    "their own; the allocator's record, which sees those, is what is used",
    "the process was first read before the libraries that score were loaded, which missed 130 MB",
]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1000)
    given = parser.parse_args()
    name = "fashion-mnist" if sources.data_root() and (sources.data_root() / "FashionMNIST").is_dir() else "digits"  # type: ignore[operator]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        data = ["--data", name, *(["--set", f"limit={given.samples}"] if name == "fashion-mnist" else [])]
        weights = {size: Path(place) / f"{size}.safetensors" for size in NETS}
        for size, batch in (("small", 32), ("large", 128), ("small", 128), ("large", 32)):
            teacher, student = NETS[size]
            if not weights[size].is_file():
                taught(name, teacher, weights[size], given.samples)
            words = [*data, "--teacher", teacher, "--teacher-weights", str(weights[size]), "--student", student]
            words += ["--method", "kd", "--epochs", str(given.epochs), "--batch-size", str(batch), "--device", "cpu"]
            rows += measured(words, Path(place), f"{size} nets, batch {batch}")
            write("PLAN", rows, {"data": name, "epochs": given.epochs, "samples": given.samples, "order": ORDER})


def taught(data: str, spec: str, file: Path, samples: int) -> None:
    """Train a teacher for an epoch and store its weights; how good it is does not matter here."""
    from distil.engine import Distiller, fit

    bundle = load(data, **({"limit": samples} if data == "fashion-mnist" else {}))
    model = load_model(spec, classes=len(bundle.classes), input_shape=bundle.input_shape)
    example = {name: value[:8] for name, value in bundle.train.batch(torch.arange(8)).items()}
    fit(Distiller(model, None, Supervised(), example=example), bundle.train, epochs=2, lr=3e-3, device="cpu")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)


def measured(words: list[str], place: Path, what: str) -> list[dict[str, Any]]:
    """Return the rows of one setting."""
    plans, runs = [], []
    for which in ORDER.replace("run", "train").split():
        extra = ["--out", str(place / "run"), "--overwrite"] if which == "train" else []
        (plans if which == "plan" else runs).append(ran([which, *words, *extra, "--json"], place))
    rest = ran(["train", *words, "--dry-run", "--json"], place)[1]
    told = statistics.median(sum(out["training_seconds"].values()) for out, _ in plans)
    took = statistics.median(sum(sum(arm["cost"]["seconds"]) for arm in out["arms"]) for out, _ in runs)
    peak = statistics.median(out["memory_bytes"] for out, _ in plans)
    held = statistics.median(most for _, most in runs)
    above = statistics.median(out["memory_bytes"] - out["base_bytes"] for out, _ in plans)
    return [
        row(f"{what}: seconds of training", told, took, 20),
        row(f"{what}: peak of the process, MB", peak / 1e6, held / 1e6, 5),
        row(f"{what}: of it above a process that trained nothing, MB", above / 1e6, (held - rest) / 1e6, None),
    ]


def row(what: str, predicted: float, seen: float, most: float | None) -> dict[str, Any]:
    """Return a line: predicted against measured, with the error in %."""
    error = 100 * (predicted / seen - 1)
    target = f"error {error:+.1f} %, <= {most} % wanted" if most else f"error {error:+.1f} %, told for orientation"
    return {
        "what": what, "ours": predicted, "peer": seen, "ratio": predicted / seen, "error_percent": error,
        "target": target, "met": abs(error) <= most if most else None, "tried": TRIED if "peak" in what else [],
    }  # fmt: skip


def ran(words: list[str], place: Path) -> tuple[dict[str, Any], int]:
    """Run a command in a fresh process; return its JSON and the most bytes that the process held."""
    environment = {**os.environ, "DISTIL_CACHE": str(place / "cache")}
    with open(place / "out.json", "w+") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "distil", *words], stdout=out, stderr=subprocess.PIPE, env=environment, cwd=place
        )
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"distil {' '.join(words)} ended with {process.returncode}:\n{said}")
        out.seek(0)
        return json.load(out), usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
