"""Everything a run needs to go on as if it had never stopped: saved whole, restored bit for bit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from distil.engine.distiller import Distiller
from distil.engine.ema import Ema
from distil.engine.method import own_optimizers
from distil.engine.serial import load_tree, save_tree
from distil.engine.sharding import gathered, local, placed, placed_state
from distil.errors import DistilError

__all__ = ["latest", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    folder: Path,
    distiller: Distiller,
    optimizers: Mapping[str, Optimizer],
    *,
    identity: Mapping[str, Any],
    loop: Mapping[str, Any],
    ema: Ema | None = None,
    keep: int = 2,
    write: bool = True,
) -> Path | None:
    """Write ``folder/step-N`` atomically and drop all but the ``keep`` newest.

    Sharded tensors are stored whole: all processes call this to gather them, and one does ``write``.
    The teacher is stored by fingerprint only (in ``identity``); student, adapters, memories, own optimizers,
    optimizers, counters and the loop's own state are stored whole.
    """
    ctx = distiller.ctx
    tree = {
        "identity": dict(identity),
        "model": distiller.state_dict(),
        "own": {c.name: [own.state_dict() for own in own_optimizers(c.method)] for c in distiller.method},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "context": {"step": ctx.step, "epoch": ctx.epoch, "metrics": dict(ctx.metrics), "terms": dict(ctx.terms)},
        "ema": ema.average if ema is not None else None,
        "loop": dict(loop),
    }
    tree = gathered(tree)
    if not write:
        return None
    written = save_tree(tree, folder / f"step-{ctx.step:09d}")
    # What a kill in the middle of a write left behind goes too; a run has one writer.
    for old in [*_all(folder)[:-keep], *folder.glob(".step-*")]:
        shutil.rmtree(old, ignore_errors=True)
    return written


def load_checkpoint(
    path: Path,
    distiller: Distiller,
    optimizers: Mapping[str, Optimizer],
    *,
    identity: Mapping[str, Any],
    ema: Ema | None = None,
) -> dict[str, Any]:
    """Restore what :func:`save_checkpoint` wrote and return the loop's state; nothing is touched where it does not fit.

    Args:
        path: one checkpoint.
        distiller, optimizers, ema: what is restored.
        identity: what must be equal for the checkpoint to belong to this run.
    """
    tree = load_tree(path)
    _check_identity(path, tree, identity)
    if set(optimizers) != set(tree["optimizers"]):
        raise DistilError(
            f"{path} has the optimizers {sorted(tree['optimizers'])} and this run {sorted(optimizers)}; resume with "
            "those that began the run."
        )
    try:
        distiller.load_state_dict(_as(distiller.state_dict(), tree["model"]))
    except RuntimeError as error:
        first = (*str(error).splitlines()[1:2], "")[0].strip()
        raise DistilError(
            f"{path} belongs to another student or method: {first} Resume with the command that began the run."
        ) from None
    for component in distiller.method:
        for own, state in zip(own_optimizers(component.method), tree["own"][component.name], strict=True):
            own.load_state_dict(state)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(placed_state(optimizer, tree["optimizers"][name]))
    for name, value in tree["context"].items():
        setattr(distiller.ctx, name, value)
    distiller.ctx.micro, distiller.prepared = 0, True
    if ema is not None:
        for mine, stored in zip(ema.average, tree["ema"], strict=True):
            local(mine).copy_(local(placed(stored, mine)))
    loop: dict[str, Any] = tree["loop"]
    if loop["ledger"].get("best_state"):
        loop["ledger"]["best_state"] = _as(distiller.state_dict(), loop["ledger"]["best_state"])
    return loop


def _as(mine: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return stored tensors in the shards of those that stand here."""
    return {name: placed(value, mine[name]) if name in mine else value for name, value in stored.items()}


def _check_identity(path: Path, tree: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    stored = tree.get("identity", {}) if isinstance(tree, Mapping) else {}
    for key, value in identity.items():
        if key not in stored or stored[key] != value:
            raise DistilError(
                f"{path} belongs to a run with {key} = {stored.get(key)}; this one has {value}. Resume with the "
                "settings that began it, or give another folder."
            )


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint under ``folder``, or ``None``."""
    found = _all(folder)
    return found[-1] if found else None


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{9}", p.name)) if folder.is_dir() else []
