"""From a report to its drawings: which numbers go into which, and what is left out where nothing was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distil.report import figures
from distil.report.figures import SMALL, Curve, Dots
from distil.report.svg import OUTCOME, SERIES, css, series
from distil.report.text import fixed, heading, is_number, with_unit
from distil.report.verdict import HELPED, HURT, Interval
from distil.report.view import View, finite, part, summary

__all__ = [
    "MARKS",
    "Key",
    "Panel",
    "agreement",
    "calibration",
    "cost",
    "curve_panels",
    "differences",
    "legend",
    "multiples",
    "reliability",
    "results",
]
__all__ += ["term_groups"]

#: The shape of the mean in the plot of differences says the outcome as its colour does.
MARKS = {HELPED: ("D", False), HURT: ("s", False)}


@dataclass(frozen=True)
class Panel:
    """A drawing under its caption; ``note`` is a second, quieter line."""

    caption: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Key:
    """One entry of a legend: the colour, the line's dashes, the name."""

    color: str
    dash: str
    label: str


def legend(labels: Sequence[tuple[str, int]], *, dashed: bool = False) -> list[Key]:
    """Return the legend of things by their index; ``dashed`` where neighbours differ in dashes too."""
    patterns = ("", "9 4", "2.4 3", "12 3 2.4 3")
    return [Key(css(series(i)), patterns[(i if dashed else i // 8) % 4], label) for label, i in labels]


def _row(view: View, arm: Mapping[str, Any], values: object, unit: str, decimals: int) -> Dots:
    interval = summary(values)
    mean, half = view.spread(interval, decimals)
    written = with_unit(f"{mean} {half}".strip(), unit)
    missing = sum(value is None for value in finite(values))
    if missing and interval:
        written += f" ({interval.n} of {interval.n + missing} seeds)"
    number = view.index[arm["name"]]
    hollow = number >= len(SERIES)  # the colour is taken: an outline tells them apart
    return Dots(view.label(arm["name"]), series(number), finite(values), interval, written, hollow=hollow)


def results(view: View) -> Panel | None:
    """Draw the deciding metric of every arm, by seed."""
    rows = [
        _row(view, view.arms[view.index[row.name]], values, view.unit, view.decimals)
        for row in view.rows()
        if finite(values := part(view.arms[view.index[row.name]], "metrics", view.metric, view.score))
    ]
    if not rows:
        return None
    means = [value for row in rows for value in finite(row.values) if value is not None]
    teacher, marks, note = view.teacher_score, [], ""
    against = view.mean(view.arms[view.index[view.reference]], view.score) if view.reference else None
    if view.reference is not None and against is not None and len(rows) > 2:
        marks.append((against.mean, view.label(view.reference)))
    if teacher is not None and means:
        spread = max(max(means) - min(means), 1e-9)
        near = min(means) - 2.5 * spread <= teacher <= max(means) + 2.5 * spread
        marks += [(teacher, "teacher")] if near else []
        far = f"The teacher, at {with_unit(fixed(teacher, view.decimals), view.unit)}, lies outside the drawing."
        note = "" if near else far
    caption = f"{heading(view.metric)} on test, by seed"
    return Panel(caption, figures.dots("results", caption, rows, marks=marks), note)


def differences(view: View) -> Panel | None:
    """Draw the paired differences of every verdict with its interval."""
    entries = [entry for entry in view.verdicts if not view.many or entry["against"] == view.reference]
    against = {entry["against"] for entry in entries}
    order = {row.name: i for i, row in enumerate(view.rows())}
    rows = []
    for entry in sorted(entries, key=lambda e: (e["against"] != view.reference, order[e["arm"]])):
        gap = entry.get("difference") or {}
        if not is_number(gap.get("mean")):
            continue
        low, high = (gap.get(key) if is_number(gap.get(key)) else None for key in ("low", "high"))
        mean, span = view.written(entry)
        seeds = finite(gap.get("per_seed"))
        label = view.label(entry["arm"])
        if len(against) > 1:
            label += f" \u2212 {view.label(entry['against'])}"
        marker, hollow = MARKS.get(entry["outcome"], ("o", True))
        interval = Interval(gap["mean"], low, high, len(seeds))
        written = f"{mean} ({span})" if span else mean
        rows.append(Dots(label, OUTCOME[entry["outcome"]], seeds, interval, written, marker, hollow))
    if not rows:
        return None
    only = f" to {view.label(next(iter(against)))}" if len(against) == 1 else ""
    caption = f"Paired difference{only}" + (", points" if view.unit == "%" else f", {view.unit}" if view.unit else "")
    better = "right" if view.higher else "left"
    return Panel(
        caption,
        figures.dots("differences", caption, rows, zero=True),
        f"Better is to the {better} of 0; {view.level} intervals.",
    )


def _curve(label: str, index: int, seeds: Sequence[tuple[object, object]]) -> Curve | None:
    """Average curves over the epochs that every seed with any value has."""
    known: list[dict[float, float]] = []
    for x, y in seeds:
        points = {a: b for a, b in zip(finite(x), finite(y)) if a is not None and b is not None}
        if points:
            known.append(points)
    if not known:
        return None
    shared = set(known[0]).intersection(*known) or set().union(*known)
    epochs = sorted(shared)
    mean = [sum(line[x] for line in known if x in line) / sum(x in line for line in known) for x in epochs]
    return Curve(label, index, [(list(line), list(line.values())) for line in known], (epochs, mean))


def curve_panels(view: View) -> list[Panel]:
    """Draw validation scores and training loss, a line per arm."""
    axis = _axis(view)
    names = {name: None for arm in view.arms for seed in arm.get("curves") or [] for name in part(seed, "val") or {}}
    order = sorted(names, key=lambda name: name != view.metric)
    wanted: list[tuple[str, tuple[str, ...]]] = [(f"{heading(name)} on validation", ("val", name)) for name in order]
    wanted.append(("Training loss", ("train_loss",)))
    panels = []
    for i, (caption, keys) in enumerate(wanted):
        lines = []
        for arm in view.arms:
            seeds = [(part(seed, axis), part(seed, *keys)) for seed in arm.get("curves") or []]
            line = _curve(view.label(arm["name"]), view.index[arm["name"]], seeds)
            lines += [line] if line else []
        if lines:
            unit = f", {view.unit}" if keys[-1] == view.metric and view.unit else ""
            panels.append(Panel(caption + unit, figures.curves(f"curves{i}", caption, lines, axis=axis)))
    return panels


@dataclass(frozen=True)
class TermGroup:
    """The drawings of one arm's terms."""

    label: str
    expression: str
    keys: list[Key]
    panels: list[Panel]
    name: str = ""


def multiples(view: View) -> list[Panel]:
    """Draw the deciding metric's curve of every arm apart, best arm first, over what all arms cover."""
    import numpy as np

    axis, lines = _axis(view), {}
    for arm in view.arms:
        seeds = [(part(seed, axis), part(seed, "val", view.metric)) for seed in arm.get("curves") or []]
        line = _curve(view.label(arm["name"]), view.index[arm["name"]], seeds)
        if line is not None and line.mean[0]:
            lines[arm["name"]] = line
    if not lines:
        return []
    grid = np.linspace(0, max(line.mean[0][-1] for line in lines.values()), 41)
    inside = np.array([np.interp(grid, *line.mean, left=np.nan, right=np.nan) for line in lines.values()])
    known = ~np.isnan(inside).all(0)
    low, high = np.nanmin(inside[:, known], 0, initial=np.inf), np.nanmax(inside[:, known], 0, initial=-np.inf)
    every = [value for line in lines.values() for value in line.mean[1]]
    pad = 0.05 * (max(every) - min(every)) or 0.5
    shared: dict[str, Any] = {
        "reference": lines.get(view.reference or ""),
        "band": (grid[known].tolist(), low.tolist(), high.tolist()),
        "limits": (min(every) - pad, max(every) + pad),
        "axis": axis,
    }
    panels = []
    for row in view.rows():
        if row.name in lines:
            caption = f"{heading(view.metric)} on validation, {row.label}"
            drawn = figures.multiple(f"multiple{row.index}", caption, lines[row.name], **shared)
            panels.append(Panel(row.label, drawn))
    return panels


def _axis(view: View) -> str:
    """What curves count: updates where all arms tell them (epochs of one budget may be unequal), else epochs."""
    seen = [seed for arm in view.arms for seed in arm.get("curves") or [] if finite(part(seed, "epoch"))]
    return "update" if seen and all(finite(part(seed, "update")) for seed in seen) else "epoch"


def term_groups(view: View) -> tuple[list[TermGroup], list[tuple[str, str]]]:
    """Draw each arm's terms; arms with a single term, whose share is always whole, are only named."""
    groups, single = [], []
    for number, arm in enumerate(view.arms):
        seeds = [seed for seed in arm.get("terms") or [] if isinstance(seed, Mapping)]
        names = list({name: None for seed in seeds for what in ("loss", "share") for name in part(seed, what) or {}})
        label = view.label(arm["name"])
        if len(names) == 1:
            single.append((label, names[0]))
        if len(names) > 1 and (panels := _term_panels(f"terms{number}", label, seeds, names, thin=not view.many)):
            keys = legend([(name, i + 1) for i, name in enumerate(names)], dashed=True)
            groups.append(TermGroup(label, str(arm.get("expression") or ""), keys, panels, arm["name"]))
    return groups, single


def _term_panels(
    name: str, label: str, seeds: Sequence[Mapping[str, Any]], names: Sequence[str], *, thin: bool
) -> list[Panel]:
    """Draw losses, shares and cosines; ``thin`` says whether seeds get lines of their own."""
    lines = {}
    for what in ("loss", "share", "cosine"):
        found = [
            _curve(term, i + 1, [(part(seed, "epoch"), part(seed, what, term)) for seed in seeds])
            for i, term in enumerate(names)
        ]
        lines[what] = [line if thin else replace(line, seeds=()) for line in found if line]
    panels = []
    if lines["loss"]:
        drawn = figures.curves(f"{name}-loss", f"Loss of each term, {label}", lines["loss"], size=SMALL, by_dash=True)
        panels.append(Panel("Loss of each term", drawn))
    if lines["share"]:
        x = sorted(set(lines["share"][0].mean[0]).intersection(*(line.mean[0] for line in lines["share"])))
        layers = []
        for line in lines["share"]:
            at = dict(zip(*line.mean))
            layers.append((line.label, line.index, [at[epoch] for epoch in x]))
        if x:
            drawn = figures.shares(f"{name}-share", f"Share of the gradient, {label}", x, layers)
            panels.append(Panel("Share of the gradient, %", drawn))
    if lines["cosine"]:
        title = f"Cosine to the whole gradient, {label}"
        drawn = figures.curves(f"{name}-cosine", title, lines["cosine"], size=SMALL, limits=(-1.05, 1.05), by_dash=True)
        panels.append(Panel("Cosine to the whole gradient", drawn))
    return panels


def _compared(
    view: View, name: str, caption: str, unit: str, *keys: str, decimals: int, note: str = ""
) -> Panel | None:
    rows = []
    for row in view.rows():
        arm = view.arms[view.index[row.name]]
        values = part(arm, *keys)
        if any(value is not None for value in finite(values)):
            rows.append(_row(view, arm, values, unit, decimals))
    return Panel(caption, figures.dots(name, caption, rows), note) if rows else None


def agreement(view: View) -> Panel | None:
    """Draw how often each arm answers what the teacher answers."""
    caption, note = "Same answer as the teacher", "% of test samples; more is not always better."
    return _compared(view, "agreement", caption, "%", "agreement", decimals=1, note=note)


def calibration(view: View) -> Panel | None:
    """Draw the calibration error of every arm, by seed, where it was scored."""
    caption, note = "Expected calibration error", "Better is to the left."
    keys = ("metrics", "ece", view.score)
    return _compared(view, "calibration", caption, "", *keys, decimals=3, note=note)


def reliability(view: View) -> dict[str, Panel]:
    """Draw accuracy against confidence, an arm at a time, by its name."""
    panels = {}
    for i, arm in enumerate(view.arms):
        lists = [finite(part(arm, "reliability", key)) for key in ("confidence", "accuracy", "count")]
        if not lists[2]:
            lists[2] = [1.0] * len(lists[0])
        bins = [(c, a, n) for c, a, n in zip(*lists) if c is not None and a is not None and n]
        if not bins:
            continue
        error = view.spread(view.mean(arm, view.score, "ece"), 3)
        label = view.label(arm["name"])
        drawn = figures.reliability(f"reliability{i}", f"Reliability of {label}", bins, series(i))
        panels[arm["name"]] = Panel(label, drawn, f"ECE {error[0]} {error[1]}".strip())
    return panels


def cost(view: View) -> Panel | None:
    """Draw the seconds each arm took, and the parts of them that are known apart."""
    rows = []
    for i, arm in enumerate(view.arms):
        total = summary(part(arm, "cost", "seconds"))
        if total:
            names = ("teacher", "validation", "diagnosis")
            parts = {n: spent.mean for n in names if (spent := summary(part(arm, "cost", f"{n}_seconds")))}
            rows.append(figures.Spent(view.label(arm["name"]), series(i), total.mean, **parts))
    if not rows:
        return None
    caption, note = "Training time of one seed, mean", "Hatched: the teacher's forward passes."
    if any(row.validation or row.diagnosis for row in rows):
        note = "Hatched: the teacher's forward passes; paler: validation; palest: measuring shares of the gradient."
    return Panel(caption, figures.times("cost", caption, rows), note)
