"""C8: how long until a tool can be used: imports and the command line, each in a fresh process, all warm in memory.

Ours and a peer's are run in turn (A, B, B, A). Seconds are the processor's, user and system, the interpreter's own
start among them: on an idle machine that is what the clock shows, and on a shared one the clock shows the neighbours.
A peer that is not installed is left out.

    python benchmarks/c8_import.py       # writes benchmarks/results/C8.json
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from side_by_side import write

PEERS = {  # what of each a training needs: some import nothing until it is asked for
    "torchdistill": "from torchdistill.core.distillation import get_distillation_box",
    "timm": "import timm",
    "lightning": "from lightning import Trainer",
    "sentence_transformers": "from sentence_transformers import SentenceTransformerTrainer",
    "trl": "from trl import SFTTrainer",
}
LIGHT, HEAVY = 0.150, 2.0  # seconds wanted, without torch and with it
WITHOUT = {
    "import distil": ["-c", "import distil"],
    "distil --help": ["-m", "distil", "--help"],
    "distil list": ["-m", "distil", "list"],
}
WITH = "import distil; from distil.methods import KD, Supervised; distil.Distiller, distil.fit"
HELP = [
    "the help drawn without rich: 0.24 s against 0.33 (not taken: it is harder to read)",
    "nearly all of the rest is typer, and what it imports of pydantic and rich; distil's own modules take under 40 ms",
]
LIST = [
    "taken: imports found by lines, not syntax trees: the states of six systems in 0.09 s instead of 0.30",
    "typer's pydantic (0.1 s) and rich's tables (0.1 s) are most of the rest",
]
TORCH = [
    "taken: FSDP and DTensor imported only where used",
    "torch alone took longer than the target on the machine that measured",
]
TRIED = {"distil --help": HELP, "distil list": LIST, "Distiller": TORCH}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    setting = {"repeats": 2 * repeats, "unit": "seconds of processor time", "what": "fresh processes, order A B B A"}
    rows: list[dict[str, Any]] = []
    bare = ["-c", "pass"]
    for what, words in WITHOUT.items():
        ours, floor = medians(words, bare, repeats)
        rows.append(row(f"{what}, beside a bare interpreter", ours, floor, LIGHT))
    ours, floor = medians(["-c", WITH], ["-c", "import torch"], repeats)
    rows.append(row("Distiller, fit, KD and torch, beside torch alone", ours, floor, HEAVY))
    for words in (words for peer, words in PEERS.items() if find_spec(peer)):
        ours, theirs = medians(["-c", WITH], ["-c", words], repeats)
        rows.append(row(f"Distiller, fit, KD and torch, beside {words}", ours, theirs, HEAVY))
        write("C8", rows, setting)


def medians(ours: list[str], peer: list[str], repeats: int) -> tuple[float, float]:
    """Return the median processor seconds of the interpreter on either side's words."""
    taken: dict[int, list[float]] = {0: [], 1: []}
    for words in (ours, peer):
        seconds(words)
    for _ in range(repeats):
        for which in (0, 1, 1, 0):
            taken[which].append(seconds((ours, peer)[which]))
    return statistics.median(taken[0]), statistics.median(taken[1])


def seconds(words: list[str]) -> float:
    """Run the interpreter on ``words``, wait for its end, and return the processor's seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"python {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(what: str, ours: float, peer: float, most: float) -> dict[str, Any]:
    """Return a line."""
    return {
        "what": what, "ours": ours, "peer": peer, "ratio": peer / ours, "target": f"< {most:g} s", "met": ours < most,
        "tried": TRIED.get(what.partition(",")[0].partition(" and")[0], []),
    }  # fmt: skip


if __name__ == "__main__":
    main()
