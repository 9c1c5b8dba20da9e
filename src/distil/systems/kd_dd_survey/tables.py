"""What the survey's experiment on small sets says beyond the arms: trials, bytes, and what is gained over random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from distil.loops.lab import Arm
from distil.loops.tuning import score_text

__all__ = ["closing", "trials_table"]

RANDOM = {"random": "classes", "random-soft": "logits of each sample", "random-step": "logits of each view"}
"""The random samples under each kind of labels, and what these are."""


def trials_table(
    arms: Mapping[str, Arm],
    tried: Mapping[str, Sequence[float]],
    varied: Mapping[str, str],
    factors: Sequence[float],
    best: Callable[[Sequence[float]], float],
) -> dict[str, Any]:
    """Return all trials as a table.

    Args:
        arms: by name.
        tried: the scores at each factor of the rate, by the name of the arm that was tried.
        varied: by arm, whose rate: of the "samples", of the "judges", or the name of the arm whose trials it takes.
        factors: what rates were multiplied by.
        best: from scores to the factor that was taken.
    """
    rows = []
    for name, arm in arms.items():
        rate = varied[name]
        scores = tried[name] if rate in ("samples", "judges") else tried[rate]
        of = f"of the {rate}" if rate in ("samples", "judges") else f"as {arms[rate].label if rate in arms else rate}"
        rows.append([arm.label, of, *(score_text(score, ".1f") for score in scores), f"{best(scores):.3g}"])
    return {
        "title": "Trials",
        "note": "Best validation score of one seed at a rate times 1, √10 and 1/√10, and the factor that was taken.",
        "head": ["arm", "rate", *(f"× {factor:.3g}" for factor in factors), "taken"],
        "rows": rows,
    }


def closing(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return accuracy beside bytes and what is gained over random samples under the same labels, on the nets that made
    the sets and on others; and what real samples cost."""
    arms = {arm["name"]: arm for arm in report["arms"]}
    unseen = [key for key in arms["random"]["diagnostics"] if key.startswith("accuracy of ")]
    rows = [
        [arm["label"], fmean(_scores(arm)), *(fmean(arm["diagnostics"][key]) for key in unseen),
         fmean(arm["diagnostics"]["total bytes"])]
        for arm in arms.values()
    ]  # fmt: skip
    tables = [
        {
            "title": "Accuracy over bytes",
            "note": "Mean test accuracy of fresh nets over seeds, and what a set takes with its labels, uncompressed.",
            "head": ["set", "accuracy", *unseen, "bytes"],
            "rows": rows,
        },
        _gains(arms, unseen),
    ]
    if {"dm", "dm-real"} <= set(arms):
        free, real = (_scores(arms[name]) for name in ("dm", "dm-real"))
        lost = [a - b for a, b in zip(free, real)]
        tables.append(
            {
                "title": "What real samples cost",
                "note": "Every sample of distribution matching's set replaced by the nearest real one of its class.",
                "head": ["free", "nearest real", "lost", "lost by seed"],
                "rows": [[fmean(free), fmean(real), fmean(lost), _listed(lost)]],
            }
        )
    return tables


def _gains(arms: Mapping[str, Any], unseen: Sequence[str]) -> dict[str, Any]:
    """Return each set's accuracy less that of random samples under the same kind of labels."""
    rows = []
    for name, arm in arms.items():
        reference = _reference(name)
        if reference not in arms or arm["role"] == "bound":
            continue
        gains = [a - b for a, b in zip(_scores(arm), _scores(arms[reference]))]
        others = [fmean(arm["diagnostics"][key]) - fmean(arms[reference]["diagnostics"][key]) for key in unseen]
        own = ["", *[""] * len(unseen), ""] if name == reference else [fmean(gains), *others, _listed(gains)]
        rows.append([arm["label"], RANDOM[reference], fmean(_scores(arm)), *own])
    return {
        "title": "Gain over random samples under the same labels",
        "note": "Points of accuracy, mean over seeds; labels are the data's classes, or the teacher's logits.",
        "head": ["set", "labels", "accuracy", "gain", *(key.replace("accuracy of", "gain on") for key in unseen),
                 "gain by seed"],
        "rows": rows,
    }  # fmt: skip


def _reference(name: str) -> str:
    """The random samples under the labels of an arm."""
    if name in ("rded", "random-step"):
        return "random-step"
    return "random-soft" if name.endswith("-soft") or name == "dc-kd" else "random"


def _scores(arm: Mapping[str, Any]) -> list[float]:
    return [float(value) for value in arm["metrics"]["accuracy"]["best"]]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)
