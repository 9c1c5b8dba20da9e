"""Everything a run needs to go on as if it had never stopped: saved whole, restored bit for bit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from distil.engine.distiller import Distiller
from distil.engine.ema import Ema
from distil.engine.method import own_optimizers
from distil.engine.serial import load_tree, save_tree
from distil.errors import DistilError

__all__ = ["latest", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    folder: Path,
    distiller: Distiller,
    optimizers: Mapping[str, Optimizer],
    *,
    loop: Mapping[str, Any],
    ema: Ema | None = None,
    keep: int = 2,
) -> Path:
    """Write ``folder/step-N`` atomically and drop all but the ``keep`` newest.

    The teacher is stored by fingerprint only (in ``loop``); student, adapters, memories, own optimizers, optimizers,
    counters and the loop's own state are stored whole.
    """
    ctx = distiller.ctx
    tree = {
        "model": distiller.state_dict(),
        "own": {c.name: [own.state_dict() for own in own_optimizers(c.method)] for c in distiller.method},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "context": {"step": ctx.step, "epoch": ctx.epoch, "metrics": dict(ctx.metrics), "terms": dict(ctx.terms)},
        "ema": ema.average if ema is not None else None,
        "loop": dict(loop),
    }
    written = save_tree(tree, folder / f"step-{ctx.step:09d}")
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return written


def load_checkpoint(
    path: Path, distiller: Distiller, optimizers: Mapping[str, Optimizer], *, ema: Ema | None = None
) -> dict[str, Any]:
    """Restore what :func:`save_checkpoint` wrote and return the loop's state."""
    tree = load_tree(path)
    try:
        distiller.load_state_dict(tree["model"])
    except RuntimeError as error:
        first = str(error).splitlines()[1:2]
        raise DistilError(
            f"{path} belongs to another student or method:{' '.join(first).strip()} Resume with the command that began the run."
        ) from None
    for component in distiller.method:
        for own, state in zip(own_optimizers(component.method), tree["own"].get(component.name, []), strict=True):
            own.load_state_dict(state)
    for name, optimizer in optimizers.items():
        if name not in tree["optimizers"]:
            raise DistilError(f"{path} has no optimizer '{name}'; resume with the optimizers that began the run.")
        optimizer.load_state_dict(tree["optimizers"][name])
    ctx = distiller.ctx
    ctx.step, ctx.epoch = tree["context"]["step"], tree["context"]["epoch"]
    ctx.metrics, ctx.terms = tree["context"]["metrics"], tree["context"]["terms"]
    distiller.prepared = True
    if ema is not None and tree["ema"] is not None:
        for mine, stored in zip(ema.average, tree["ema"], strict=True):
            mine.copy_(stored)
    loop: dict[str, Any] = tree["loop"]
    return loop


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint under ``folder``, or ``None``."""
    found = _all(folder)
    return found[-1] if found else None


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{9}", p.name)) if folder.is_dir() else []
