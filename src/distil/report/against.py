"""The difference of two runs as a page, and the words that the page and the terminal share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distil.files import write_text
from distil.report import figures
from distil.report.difference import BETTER, WORSE
from distil.report.figures import Dots
from distil.report.panels import MARKS, Panel
from distil.report.pieces import count_of, page
from distil.report.svg import OUTCOME, style
from distil.report.text import MISSING, decimals_for, fixed, heading, is_number, signed, with_unit
from distil.report.verdict import HELPED, HURT, NONE, Interval

__all__ = ["compared", "render_difference", "summary_of", "write_difference"]

_AS = {BETTER: HELPED, WORSE: HURT, NONE: NONE}
_CLASS = {BETTER: "helped", WORSE: "hurt", NONE: "none"}


def summary_of(made: Mapping[str, Any]) -> str:
    """Say in a sentence how the arms of the first run stand to those of the second."""
    seen = [arm["outcome"] for arm in made["arms"]]
    if not seen:
        return "The two runs share no arm."
    words = {BETTER: "better", WORSE: "worse", NONE: "with no difference seen"}
    shown = ", ".join(f"{seen.count(outcome)} {text}" for outcome, text in words.items() if outcome in seen)
    return f"{count_of(len(seen), 'shared arm')} in {made['names'][0]} against {made['names'][1]}: {shown}."


def compared(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the shared arms' rows, written."""
    unit = str(made["metric"].get("unit") or "")
    gaps = [arm["difference"] for arm in made["arms"] if arm["difference"]]
    halves = [(gap["high"] - gap["low"]) / 2 for gap in gaps if is_number(gap["low"]) and gap["high"] > gap["low"]]
    means = [value for arm in made["arms"] for value in arm["means"] if not halves]
    decimals = decimals_for(*means, half=min(halves, default=None), unit=unit, most=4)
    rows = []
    for arm in made["arms"]:
        gap, span = arm["difference"] or {}, ""
        if is_number(gap.get("low")):
            span = f"{signed(gap['low'], decimals)} to {signed(gap['high'], decimals)}"
        how = {"paired": "paired", "welch": "Welch", None: MISSING}[arm["how"]]
        seeds = arm.get("seeds") or []
        count = "" if not seeds else str(seeds[0]) if arm["how"] == "paired" else f"{seeds[0]} and {seeds[1]}"
        label = arm["labels"][0] if arm["labels"][0] == arm["labels"][1] else " / ".join(arm["labels"])
        rows.append(
            {
                "label": label,
                "means": [with_unit(fixed(mean, decimals), unit) for mean in arm["means"]],
                "difference": signed(gap.get("mean"), decimals),
                "span": span,
                "outcome": arm["outcome"],
                "kind": _CLASS[arm["outcome"]],
                "how": f"{how}, {count} seeds" if count else how,
                "gap": gap,
            }
        )
    return rows


def _drawing(made: Mapping[str, Any], rows: list[dict[str, Any]]) -> Panel | None:
    dots = []
    for row in rows:
        gap, outcome = row["gap"], _AS[row["outcome"]]
        if not is_number(gap.get("mean")):
            continue
        marker, hollow = MARKS.get(outcome, ("o", True))
        interval = Interval(gap["mean"], gap["low"], gap["high"], len(gap["per_seed"]))
        written = f"{row['difference']} ({row['span']})" if row["span"] else row["difference"]
        dots.append(Dots(row["label"], OUTCOME[outcome], gap["per_seed"], interval, written, marker, hollow))
    if not dots:
        return None
    unit = made["metric"].get("unit") or ""
    what = "points" if unit == "%" else unit
    caption = f"{heading(made['metric']['name'])}, {made['names'][0]} − {made['names'][1]}" + (what and f", {what}")
    side = "right" if made["metric"]["higher_is_better"] else "left"
    with style():
        drawn = figures.dots("differences", caption, dots, zero=True)
    return Panel(caption, drawn, f"{made['names'][0]} is better to the {side} of 0.")


def render_difference(made: Mapping[str, Any]) -> str:
    """Return what `distil.report.difference` found as a self-contained HTML page (data: ``difference-json``)."""
    rows = compared(made)
    metric = made["metric"]
    meta = [count_of(len(rows), "shared arm"), count_of(len(made["differs"]), "differing fact")]
    meta.append(f"{metric['name']}, {'higher' if metric['higher_is_better'] else 'lower'} is better")
    levels = {gap["level"] for row in rows if is_number((gap := row["gap"]).get("level"))}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for fact in made["differs"]:
        groups.setdefault(fact["group"], []).append(fact)
    return page(
        "difference.html.j2",
        made,
        "difference-json",
        title=f"{made['names'][0]} against {made['names'][1]}",
        meta=meta,
        made=made,
        summary=summary_of(made),
        rows=rows,
        level=f"{100 * max(levels, default=0.95):.4g} %",
        metric_heading=heading(metric["name"]),
        groups=groups,
        drawing=_drawing(made, rows),
        kinds={HELPED: "helped", HURT: "hurt"},
    )


def write_difference(made: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page, whole or not at all; return its path."""
    return write_text(Path(path), render_difference(made))
