"""How faithful, calibrated, robust and cheap a student is, side by side: the columns by which distillation is judged.

Accuracy, calibration, size and speed are measured for every arm as it is. What needs the teachers or other data is
read off the trained student here, kept with the arm's diagnostics, and laid out in one table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from torch import nn

from distil.data.bundle import Bundle, DictDataset, ids_of, labels_of
from distil.data.loading import mix_seed
from distil.engine.distiller import Distiller
from distil.errors import DistilError, nearest
from distil.functional.weighting import combined_labels, several_teachers, teacher_weights
from distil.loops.order import inputs_of
from distil.tasks import Task, get_task

__all__ = ["SHIFTS", "fidelity", "quality_table", "shifted"]

SHIFTS = ("noise", "dim")
AGREE, DIVERGE, AWAY = "agreement with teachers, %", "KL from teachers", "accuracy, shifted"


def shifted(bundle: Bundle, kind: str = "noise", *, strength: float = 0.2, seed: int = 0) -> DictDataset:
    """Return a bundle's test part as it would look elsewhere: out of the domain that was trained on.

    Args:
        bundle: images in [0, 1], or vectors.
        kind: "noise" adds normal noise, of ``strength`` for images and of ``strength`` times the standard deviation of
            all values for vectors; "dim" multiplies by 1 − ``strength``.
        strength: at least 0; 0 changes nothing.
        seed: of the noise.
    """
    if kind not in SHIFTS:
        raise DistilError(f"shift={kind!r} is unknown; {nearest(kind, SHIFTS)}")
    if not strength >= 0 or (kind == "dim" and strength > 1):
        raise DistilError(f"strength={strength} must be at least 0, and at most 1 for 'dim'.")
    test = bundle.test
    inputs = inputs_of(test, torch.arange(len(test)))
    if kind == "dim":
        made = inputs * (1 - strength)
    else:
        rng = torch.Generator().manual_seed(mix_seed("shifted", seed))
        images = len(bundle.input_shape) == 3
        made = inputs + strength * (1.0 if images else inputs.std()) * torch.randn(inputs.shape, generator=rng)
        made = made.clamp(0, 1) if images else made
    return DictDataset(made, labels_of(test), ids_of(test))


def fidelity(
    bundle: Bundle, teachers: Sequence[nn.Module], away: Any = None
) -> Callable[[Distiller], dict[str, float]]:
    """Return what reads a trained distiller's student on the test part: as the ``diagnostics`` of an arm.

    Args:
        bundle: whose test part is looked at.
        teachers: asked in eval mode; agreement and KL are with the mean of their probabilities, whether or not they
            taught this student.
        away: test data out of the domain, e.g. :func:`shifted`; without it there is no such column.
    """
    task: Task = get_task(bundle.task)
    said = [task.predict(teacher, bundle.test, role="teacher")["logits"] for teacher in teachers]

    def read(distiller: Distiller) -> dict[str, float]:
        student = distiller.deployed()
        ours = task.predict(student, bundle.test)["logits"]
        found = {}
        if said:
            weights = teacher_weights(said)
            gap = several_teachers(ours, said, weights)
            label = combined_labels(said, weights)
            found = {AGREE: 100 * float((ours.argmax(1) == label.argmax(1)).float().mean()), DIVERGE: float(gap)}
        if away is not None:
            found[AWAY] = task.evaluate(student, away)[task.metric]
        return found

    return read


def quality_table(report: Mapping[str, Any], *, shift: str = "shifted") -> dict[str, Any]:
    """Return the table: quality, fidelity, calibration, robustness, speed and size of every arm, means over seeds.

    "drop" is how many points of the metric are lost on the shifted test data, of the same state of the student, which
    is the last one; where an arm has no such figure the cell is empty.

    Args:
        report: as ``compare`` made it; the ``closing`` of an experiment gets it.
        shift: what was done to the test data, in words, for the note.
    """
    metric = report["metric"]["name"]
    keys = {"agreement, %": AGREE, "KL": DIVERGE}
    rows = []
    for arm in report["arms"]:
        seen = arm.get("diagnostics") or {}
        score = arm["metrics"][metric]
        lost = [a - b for a, b in zip(score["last"], seen[AWAY])] if AWAY in seen else []
        speed = (arm.get("latency") or {}).get("p50_ms")
        rows.append(
            [
                arm["label"],
                _mean(score["best"]),
                _spread(score["best"]),
                *(_mean(seen.get(key, [])) for key in keys.values()),
                _mean((arm["metrics"].get("ece") or {}).get("best", [])),
                _mean(lost),
                speed,
                arm.get("parameters"),
                arm.get("bytes"),
            ]
        )
    return {
        "title": "Quality, fidelity, calibration, robustness, speed and size",
        "note": f"Means over {len(report['seeds'])} seeds; ± is their standard deviation. Agreement and KL: with the "
        f"mean of the teachers' probabilities, on test samples. Drop: points lost on test samples that are {shift}.",
        "head": ["arm", metric, "±", *keys, "ECE", "drop", "p50 ms", "parameters", "bytes"],
        "rows": rows,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None
