"""From a report to its drawings: which numbers go into which, and what is left out where nothing was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distil.report import figures
from distil.report.figures import SMALL, Curve, Dots
from distil.report.svg import OUTCOME, SERIES, css, series
from distil.report.text import fixed, heading, is_number, with_unit
from distil.report.verdict import HELPED, HURT, Interval
from distil.report.view import View, finite, part, summary

__all__ = [
    "Key",
    "Panel",
    "agreement",
    "calibration",
    "cost",
    "curve_panels",
    "differences",
    "legend",
    "reliability",
    "results",
]
__all__ += ["term_groups"]

#: The shape of the mean in the plot of differences says the outcome as its colour does.
_MARKS = {HELPED: ("D", False), HURT: ("s", False)}


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
    if teacher is not None and means:
        spread = max(max(means) - min(means), 1e-9)
        near = min(means) - 2.5 * spread <= teacher <= max(means) + 2.5 * spread
        marks = [(teacher, "teacher")] if near else []
        far = f"The teacher, at {with_unit(fixed(teacher, view.decimals), view.unit)}, lies outside the drawing."
        note = "" if near else far
    caption = f"{heading(view.metric)} on test, by seed"
    return Panel(caption, figures.dots("results", caption, rows, marks=marks), note)


def differences(view: View) -> Panel | None:
    """Draw the paired differences of every verdict with its interval."""
    against = {entry["against"] for entry in view.verdicts}
    rows = []
    for entry in view.verdicts:
        gap = entry.get("difference") or {}
        if not is_number(gap.get("mean")):
            continue
        low, high = (gap.get(key) if is_number(gap.get(key)) else None for key in ("low", "high"))
        mean, span = view.written(entry)
        seeds = finite(gap.get("per_seed"))
        label = view.label(entry["arm"])
        if len(against) > 1:
            label += f" \u2212 {view.label(entry['against'])}"
        marker, hollow = _MARKS.get(entry["outcome"], ("o", True))
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
    """Draw validation scores and training loss, a line per arm: over updates where all arms tell them, else epochs.

    Arms of one budget may cut it into unequal epochs; updates are what they share.
    """
    seen = [seed for arm in view.arms for seed in arm.get("curves") or [] if finite(part(seed, "epoch"))]
    axis = "update" if seen and all(finite(part(seed, "update")) for seed in seen) else "epoch"
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


def term_groups(view: View) -> tuple[list[TermGroup], list[tuple[str, str]]]:
    """Draw each arm's terms; arms with a single term, whose share is always whole, are only named."""
    groups, single = [], []
    for number, arm in enumerate(view.arms):
        seeds = [seed for seed in arm.get("terms") or [] if isinstance(seed, Mapping)]
        names = list({name: None for seed in seeds for what in ("loss", "share") for name in part(seed, what) or {}})
        label = view.label(arm["name"])
        if len(names) == 1:
            single.append((label, names[0]))
        if len(names) > 1 and (panels := _term_panels(f"terms{number}", label, seeds, names)):
            keys = legend([(name, i + 1) for i, name in enumerate(names)], dashed=True)
            groups.append(TermGroup(label, str(arm.get("expression") or ""), keys, panels))
    return groups, single


def _term_panels(name: str, label: str, seeds: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Panel]:
    lines = {}
    for what in ("loss", "share", "cosine"):
        found = [
            _curve(term, i + 1, [(part(seed, "epoch"), part(seed, what, term)) for seed in seeds])
            for i, term in enumerate(names)
        ]
        lines[what] = [line for line in found if line]
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


def reliability(view: View) -> list[Panel]:
    """Draw accuracy against confidence, an arm at a time."""
    panels = []
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
        panels.append(Panel(label, drawn, f"ECE {error[0]} {error[1]}".strip()))
    return panels


def cost(view: View) -> Panel | None:
    """Draw the seconds each arm took, and the teacher's part."""
    rows = []
    for i, arm in enumerate(view.arms):
        seconds = summary(part(arm, "cost", "seconds"))
        teacher = summary(part(arm, "cost", "teacher_seconds"))
        if seconds:
            rows.append((view.label(arm["name"]), series(i), seconds.mean, teacher.mean if teacher else 0.0))
    if not rows:
        return None
    caption = "Training time of one seed, mean"
    return Panel(caption, figures.times("cost", caption, rows), "Hatched: the teacher's forward passes.")
