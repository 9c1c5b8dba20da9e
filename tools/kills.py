"""Kill training runs (SIGKILL) at seeded moments, let them go on, and store whether each ended bit-equal.

    python tools/kills.py            24 kills
    python tools/kills.py 60 7       60 kills, moments drawn from seed 7

Single processes and two by gloo, with a live and with a cached teacher (``tests/engine/kills.py`` says what is in a
run). Every run is killed until it has died three times, then goes on to its end and is compared with one that nobody
touched. Writes ``evidence/house/resume.json``; work in ``runs/kills`` is thrown away.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from distil.files import write_text  # noqa: E402
from engine.kills import KINDS, Trial, plain  # noqa: E402

DEATHS = 3


def main(wanted: int = 24, seed: int = 0) -> None:
    """Kill at least ``wanted`` times, the four sorts of run in turn."""
    place, draw, began = ROOT / "runs" / "kills", random.Random(seed), time.time()
    shutil.rmtree(place, ignore_errors=True)
    trials = [Trial(place / f"{kind}-{world}", kind, world) for kind in KINDS for world in (1, 2)]
    whole = []
    for trial in trials:
        trial.root.mkdir(parents=True)
        whole.append(plain(trial.whole()))
    equal: list[bool] = []
    i = 0
    while sum(len(trial.kills) for trial in trials) < wanted:
        trial, name = trials[i % len(trials)], f"cut-{i}"
        for death in range(DEATHS):
            if not trial.killed(name, draw, torn=death == 1):
                break  # it was done before the moment came
        equal.append(plain(trial.ended(name)) == whole[i % len(trials)])
        print(f"{trial.kind}, {trial.world} processes: {'bit-equal' if equal[-1] else 'DIFFERENT'}", flush=True)
        i += 1
    kills = [asdict(kill) for trial in trials for kill in trial.kills]
    document = {
        "kills": len(kills), "torn_writes": sum(kill["torn"] for kill in kills), "runs": len(equal),
        "bit_equal": sum(equal), "seed": seed, "seconds": round(time.time() - began), "torch": torch.__version__,
        "deaths": kills,
    }  # fmt: skip
    path = write_text(ROOT / "evidence" / "house" / "resume.json", json.dumps(document, indent=1) + "\n")
    shutil.rmtree(place, ignore_errors=True)
    print(f"{path.relative_to(ROOT)}: {len(kills)} kills, {sum(equal)} of {len(equal)} runs ended bit-equal")
    if not all(equal):
        raise SystemExit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
