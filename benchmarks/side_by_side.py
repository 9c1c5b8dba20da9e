"""Ways of doing one thing, timed in turn (A, B, B, A), and results as JSON with what they were made on."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).resolve().parent / "results"

Side = Callable[[], Any]
"""One timed piece of work. A float that it returns is its own count of seconds, for work with a set-up in it."""


def medians(ours: Side, peer: Side, *, repeats: int) -> tuple[float, float]:
    """Return the median seconds of both, warm, in the order A B B A."""
    taken = rounds({"ours": ours, "peer": peer}, repeats=repeats)
    return statistics.median(taken["ours"]), statistics.median(taken["peer"])


def now() -> float:
    """Return seconds that only differences of mean something.

    On one CPU thread those of the processor for this process, so that what else the machine does does not count; with
    more threads, or where there is an accelerator, those of the wall.
    """
    return time.process_time() if on_processor() else time.perf_counter()


def on_processor() -> bool:
    """Say which clock :func:`now` reads."""
    return torch.get_num_threads() == 1 and not torch.cuda.is_available()


def rounds(
    sides: Mapping[str, Side], *, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of every side, warm, in the order A B C C B A: times of one place were taken together."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(repeats):
        for name in (*sides, *reversed(sides)):
            start = clock()
            own = sides[name]()
            taken[name].append(own if isinstance(own, float) else clock() - start)
    return taken


def compared(
    what: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    peer_name: str,
    unit: str,
    target: str,
    met: float | bool,
    scale: float = 1.0,
    tried: Sequence[str] = (),
) -> dict[str, Any]:
    """Return one row: medians with their quartiles' distance, and how many times quicker ours is than the peer.

    Args:
        what: the work.
        ours, peer: seconds, taken in turn.
        peer_name: who the peer is.
        unit: of ``ours`` and ``peer`` in the row, which are seconds times ``scale``.
        target: what was promised, in words.
        met: the smallest ratio that meets it, or whether it was met.
        scale: from seconds to ``unit``.
        tried: what was measured for a row that was lost.
    """
    ratio = statistics.median(b / a for a, b in zip(ours, peer, strict=True))
    return {
        "what": what,
        "unit": unit,
        "ours": statistics.median(ours) * scale,
        "iqr_ours": iqr(ours) * scale,
        "peer": statistics.median(peer) * scale,
        "iqr_peer": iqr(peer) * scale,
        "peer_name": peer_name,
        "ratio": ratio,
        "target": target,
        "met": met if isinstance(met, bool) else ratio >= met,
        "tried": list(tried),
    }


def gap(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Return the median of the paired differences, in seconds: what ours takes more."""
    return statistics.median(a - b for a, b in zip(ours, peer, strict=True))


def clock_name() -> str:
    """Name the clock of :func:`now`."""
    return "processor, this process" if on_processor() else "wall"


def iqr(values: Sequence[float]) -> float:
    """Return the distance of the quartiles; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MB.

    From Linux's own count of this program: ``ru_maxrss`` of a fresh child would begin with its parent's memory.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def device_peak_mb(side: Side) -> float:
    """Run one side and return what it allocated on the CUDA device at most beyond what was there, in MB."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    side()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / (1 << 20)


def memory_rows(
    what: str, ours: Side, peers: Mapping[str, Side], *, target: str, least: float
) -> Iterator[dict[str, Any]]:
    """The rows of device memory beside each peer; none without CUDA."""
    if not torch.cuda.is_available():
        return
    mine = device_peak_mb(ours)
    for name, side in peers.items():
        other = device_peak_mb(side)
        yield {
            "what": f"{what}: peak memory", "unit": "MB", "ours": mine, "peer": other, "peer_name": name,
            "ratio": other / mine, "target": target, "met": other / mine >= least, "tried": [],
        }  # fmt: skip


def waited(side: Side) -> Side:
    """A side that ends when the CUDA device has done its work."""

    def run() -> Any:
        found = side()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return found

    return run


def fresh_peak(script: str, *arguments: str) -> float:
    """Run a script in a process of its own and return the number on its last line: its peak, by :func:`peak_mb`."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each package, "not installed" where it is not.

    >>> versions("no-such-package")
    {'no-such-package': 'not installed'}
    """
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def options(description: str | None, *, repeats: int, devices: bool = False) -> argparse.ArgumentParser:
    """Return the parser that scripts share; ``devices`` for those that want an accelerator."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the JSON")
    parser.add_argument("--tiny", action="store_true", help="sizes that show that the script runs, and nothing else")
    if devices:
        parser.add_argument("--device", default="cuda")
    return parser


def needs(*modules: str) -> None:
    """End the script with a sentence where a module that it stands beside is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise SystemExit(f"This row needs {', '.join(missing)}, not installed here; install it to measure the row.")


def device_of(given: argparse.Namespace) -> torch.device:
    """Return the device of a script that wants CUDA; without it the script ends with a sentence."""
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("This row is measured on a CUDA device, and torch sees none; --device cpu --tiny tries it.")
    if device.type != "cuda" and not given.tiny:
        raise SystemExit(f"The sizes of this row are for CUDA; on {device.type} add --tiny.")
    return device


def write(
    name: str,
    rows: Iterable[Mapping[str, Any]],
    setting: Mapping[str, Any],
    *,
    out: Path = RESULTS,
    packages: Sequence[str] = (),
    clock: str = "",
) -> None:
    """Write ``out/NAME.json`` and print it; ``clock`` says whose seconds they are."""
    rows = list(rows)
    machine = {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        **({"clock": clock} if clock else {}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        **versions(*packages),
    }
    if torch.cuda.is_available():
        machine["device"] = torch.cuda.get_device_name()
    content = {"row": name, "setting": dict(setting), "machine": machine, "rows": rows}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        peer = "" if row["peer"] is None else f"  peer {row['peer']:.4g}  ratio {row['ratio']:.3g}"
        if "peak_mb" in row:
            peer += f"  peak {row['peak_mb']['ours']:.3g} / {row['peak_mb']['peer']:.3g} MB"
        print(f"{row['what']}: {row['ours']:.4g}{peer}  ({row['target']}: {row['met']})")
        for idea in row.get("tried", ()):
            print(f"    tried: {idea}")
