"""The report's drawings: dots and intervals by arm, curves over epochs, shares, reliability, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distil.report.svg import GRID, MARKED, MUTED, SURFACE, WIDTH, canvas, dash, finish, series, write
from distil.report.text import duration, shorten
from distil.report.verdict import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SMALL", "TINY", "Curve", "Dots", "Spent", "curves", "dots", "multiple", "reliability", "shares", "times"]

#: Pixels of a row, and of one where there are many.
_ROW, _CLOSE, _SEVERAL = 42, 31, 10
#: Width and height of a drawing of which three stand side by side.
SMALL = (300.0, 190.0)
#: And of one among many.
TINY = (170.0, 122.0)


@dataclass(frozen=True)
class Dots:
    """One row of a dot plot: a name, its value per seed, their mean and interval, and how that is written."""

    label: str
    color: str
    values: Sequence[float | None]
    interval: Interval | None
    written: str
    marker: str = "D"
    hollow: bool = False

    @property
    def words(self) -> str:
        """The row in words, for who cannot see it."""
        return f"{self.label}: {self.written}"


@dataclass(frozen=True)
class Curve:
    """One line over epochs: the mean, and a thin line per seed."""

    label: str
    index: int
    seeds: Sequence[tuple[Sequence[float], Sequence[float]]]
    mean: tuple[Sequence[float], Sequence[float]]


def dots(
    name: str, title: str, rows: Sequence[Dots], *, marks: Sequence[tuple[float, str]] = (), zero: bool = False
) -> str:
    """Draw a row per arm: small dots are seeds, the large mark is the mean, the bar its interval.

    Args:
        name: unique on the page.
        title: the accessible name.
        rows: from top to bottom.
        marks: upright dashed lines (value, name), each named in a line of its own.
        zero: whether 0 gets a line of its own.
    """
    row_height = _ROW if len(rows) <= _SEVERAL else _CLOSE
    line, head = 14 / row_height, 4 * bool(marks) + 14 * len(marks)
    figure, axes = canvas(row_height * len(rows) + 36 + head, left=2, bottom=26)
    axes.set_ylim(len(rows), -head / row_height)
    axes.set_yticks([])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    if zero:
        axes.axvline(0, color=MUTED, linewidth=1.1)
    for value, _ in marks:
        axes.axvline(value, color=MUTED, linewidth=1, linestyle=(0, (3, 2.5)))
    for i, row in enumerate(rows):
        if i and row_height == _CLOSE:
            axes.axhline(i, color=GRID, linewidth=0.6)
        _dots(axes, i, row)
    known = [value for row in rows for value in (*row.values, *_bounds(row.interval)) if value is not None]
    known += [value for value, _ in marks] + ([0.0] if zero else [])
    _limits(axes, known, "x")
    left, right = axes.get_xlim()
    for k, (value, text) in enumerate(marks):
        side = "right" if value > (left + right) / 2 else "left"
        place = -0.06 - k * line
        write(axes, value, place, f" {shorten(text, 30)} ", ha=side, va="bottom", color=MUTED, fontsize=9.5, boxed=True)
    for i, row in enumerate(rows):
        place_, y = axes.get_yaxis_transform(), i + 11 / row_height
        room = 50 - len(row.written)
        write(axes, 0, y, shorten(row.label, min(36, room)), transform=place_, va="center", boxed=True)
        write(axes, 1, y, row.written, transform=place_, va="center", ha="right", color=MUTED, boxed=True)
    return finish(figure, name, title, f"{'; '.join(row.words for row in rows)}.")


def _dots(axes: Axes, i: int, row: Dots) -> None:
    y = i + 0.73
    known = [(k, value) for k, value in enumerate(row.values) if value is not None]
    spread = max(len(row.values) - 1, 1)
    places = [y + 0.12 * (2 * k / spread - 1) if spread > 1 else y for k, _ in known]
    axes.plot([value for _, value in known], places, "o", color=row.color, alpha=0.5, markersize=4.2, markeredgewidth=0)
    if row.interval is None:
        return
    if row.interval.half is not None:
        axes.plot(_bounds(row.interval)[1:], [y, y], color=row.color, linewidth=2.2, solid_capstyle="round")
    face = SURFACE if row.hollow else row.color
    edge = row.color if row.hollow else SURFACE
    axes.plot(
        [row.interval.mean], [y], row.marker, color=face, markersize=6.6, markeredgecolor=edge, markeredgewidth=1.2
    )


def _bounds(interval: Interval | None) -> tuple[float, ...]:
    """Return mean and, where they are known, both bounds."""
    if interval is None:
        return ()
    if interval.low is None or interval.high is None:
        return (interval.mean,)
    return interval.mean, interval.low, interval.high


def _limits(axes: Axes, values: Sequence[float], which: str) -> None:
    """Give the axis room on both sides, also where all values are one."""
    if not values:
        return
    low, high = min(values), max(values)
    pad = 0.07 * (high - low) or 0.5 * abs(high) * 0.05 or 0.5
    from matplotlib.ticker import MaxNLocator

    if which == "x":
        axes.set_xlim(low - pad, high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    else:
        axes.set_ylim(low - pad, high + pad)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def curves(
    name: str,
    title: str,
    lines: Sequence[Curve],
    *,
    size: tuple[float, float] = (WIDTH, 210),
    limits: tuple[float, float] | None = None,
    by_dash: bool = False,
    axis: str = "epoch",
) -> str:
    """Draw a line per arm or term over epochs or updates: thin for each seed, thick for their mean.

    Args:
        size: width and height in pixels.
        limits: fixed ends of the upright axis, else fitted to the data.
        by_dash: give neighbours different line styles as well (few lines that cross).
        axis: what the level axis counts.
    """
    figure, axes = canvas(size[1], width=size[0], bottom=32)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    if limits is not None and limits[0] < 0 < limits[1]:
        axes.axhline(0, color=MUTED, linewidth=1)
    for line in lines:
        color, pattern = series(line.index), dash(8 * line.index if by_dash else line.index)
        mark = None if by_dash else f"{MARKED}{line.index}"
        for x, y in line.seeds if len(line.seeds) > 1 and len(lines) <= _SEVERAL else ():
            axes.plot(x, y, color=color, linewidth=0.8, alpha=0.28, gid=mark)
        single = "o" if len(line.mean[0]) == 1 else ""
        axes.plot(
            *line.mean,
            color=color,
            linewidth=2 if len(lines) <= 6 else 1.5,
            linestyle=pattern,
            marker=single,
            markersize=6,
            gid=mark,
        )
    known = [value for line in lines for _, y in (*line.seeds, line.mean) for value in y]
    if limits is None:
        _limits(axes, known, "y")
    else:
        axes.set_ylim(*limits)
    _epochs(axes, axis)
    ends = "; ".join(f"{line.label} ends at {line.mean[1][-1]:.4g}" for line in lines if line.mean[1])
    return finish(figure, name, title, f"{ends}.")


def multiple(
    name: str,
    title: str,
    line: Curve,
    *,
    reference: Curve | None,
    band: tuple[Sequence[float], Sequence[float], Sequence[float]],
    limits: tuple[float, float],
    axis: str = "epoch",
) -> str:
    """Draw one arm among many: its curve, the reference's dashed, and behind them what all arms cover.

    Args:
        band: epochs, lowest and highest value of any arm.
        limits: ends of the upright axis, shared by all such drawings.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = canvas(TINY[1], width=TINY[0], left=30, bottom=30)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.fill_between(*band, color=GRID, linewidth=0)
    if reference is not None and reference.label != line.label:
        axes.plot(*reference.mean, color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)))
    for x, y in line.seeds if len(line.seeds) > 1 else ():
        axes.plot(x, y, color=series(line.index), linewidth=0.7, alpha=0.35)
    single = "o" if len(line.mean[0]) == 1 else ""
    axes.plot(*line.mean, color=series(line.index), linewidth=1.8, marker=single)
    axes.set_ylim(*limits)
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    _epochs(axes, axis, ticks=3)
    return finish(figure, name, title, f"{line.label} ends at {line.mean[1][-1]:.4g}.")


def _epochs(axes: Axes, label: str = "epoch", ticks: int = 6) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    axes.set_xlabel(label, color=MUTED, fontsize=10, labelpad=3)


def shares(name: str, title: str, x: Sequence[float], parts: Sequence[tuple[str, int, Sequence[float]]]) -> str:
    """Draw what part of the gradient each term has over epochs, as layers that add to 100 %."""
    figure, axes = canvas(SMALL[1], width=SMALL[0], bottom=32)
    base = [0.0] * len(x)
    for i, (label, index, values) in enumerate(parts):
        top = [low + 100 * value for low, value in zip(base, values)]
        axes.fill_between(x, base, top, color=series(index), alpha=0.82, linewidth=0)
        if i:
            axes.plot(x, base, color=SURFACE, linewidth=1.6)
        _name_layer(axes, x, base, top, label)
        base = top
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100])
    _epochs(axes)
    axes.margins(x=0)
    words = "; ".join(f"{label} from {100 * v[0]:.0f} % to {100 * v[-1]:.0f} %" for label, _, v in parts if v)
    return finish(figure, name, title, f"{words}.")


def _name_layer(axes: Axes, x: Sequence[float], base: Sequence[float], top: Sequence[float], label: str) -> None:
    """Write a layer's name inside it, at its thickest place; a thin or ragged layer stays without."""
    reach = max(1, round(len(x) * 0.12))  # the name covers its neighbours too
    best, place = 0.0, None
    inner = range(round(len(x) * 0.22), min(len(x), round(len(x) * 0.78) + 1))
    for k in sorted(inner, key=lambda k: abs(2 * k - len(x) + 1)):  # the middle, unless elsewhere is far more room
        near = slice(max(0, k - reach), k + reach + 1)
        low, high = max(base[near]), min(top[near])
        if high - low > best + (4 if place else 0):
            best, place = high - low, (x[k], (low + high) / 2)
    if place is not None and best > 12 and len(x) > 2:
        write(axes, *place, shorten(label, 18), ha="center", va="center", fontsize=9.5, boxed=True)


def reliability(name: str, title: str, bins: Sequence[tuple[float, float, float]], color: str) -> str:
    """Draw accuracy against confidence: on the diagonal a model is as often right as it says.

    Args:
        bins: confidence, accuracy (both 0 to 1) and count of each bin that holds samples.
        color: the arm's.
    """
    figure, axes = canvas(166, width=170, left=26, bottom=32)
    axes.grid(color=GRID, linewidth=0.8)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.1, linestyle=(0, (3, 2.5)))
    most = max((count for _, _, count in bins), default=1) or 1
    for confidence, accuracy, _ in bins:
        axes.plot([confidence, confidence], [confidence, accuracy], color=color, linewidth=2, alpha=0.35)
    axes.plot([each[0] for each in bins], [each[1] for each in bins], color=color, linewidth=1.4)
    for confidence, accuracy, count in bins:
        area = 2.6 + 5 * (count / most) ** 0.5
        axes.plot(
            [confidence], [accuracy], "o", color=color, markersize=area, markeredgecolor=SURFACE, markeredgewidth=0.8
        )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xlabel("confidence", color=MUTED, fontsize=10, labelpad=2)
    words = "; ".join(f"{100 * a:.0f} % right where {100 * c:.0f} % sure" for c, a, _ in bins)
    return finish(figure, name, title, f"{words}.")


@dataclass(frozen=True)
class Spent:
    """Where an arm's seconds went: in all, and of them the teacher's passes, validation and diagnosis."""

    label: str
    color: str
    total: float
    teacher: float = 0.0
    validation: float = 0.0
    diagnosis: float = 0.0

    @property
    def words(self) -> str:
        """The row in words, for who cannot see it."""
        parts = {"teacher": self.teacher, "validation": self.validation, "diagnosis": self.diagnosis}
        told = "".join(f", {name} {duration(value)}" for name, value in parts.items() if value or name == "teacher")
        return f"{self.label}: {duration(self.total)}{told}"


def times(name: str, title: str, rows: Sequence[Spent]) -> str:
    """Draw the seconds of each arm: its own training, then the teacher's part hatched, validation, diagnosis paler.

    Args:
        rows: from top to bottom; at least one.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    row_height = _ROW if len(rows) <= _SEVERAL else _CLOSE
    figure, axes = canvas(row_height * len(rows) + 36, left=2, bottom=26)
    axes.set_ylim(len(rows), 0)
    axes.set_yticks([])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    place = axes.get_yaxis_transform()
    for i, row in enumerate(rows):
        _bar(axes, i + 0.72, 10 / row_height, row)
        written, y = duration(row.total), i + 11 / row_height
        write(axes, 0, y, shorten(row.label, 36), transform=place, va="center", boxed=True)
        write(axes, 1, y, written, transform=place, va="center", ha="right", color=MUTED, boxed=True)
    longest = max(row.total for row in rows) or 1
    scale, unit = (1, "s") if longest < 120 else (60, "min") if longest < 7200 else (3600, "h")
    axes.set_xlim(0, longest * 1.04)
    axes.xaxis.set_major_locator(
        FixedLocator([scale * tick for tick in MaxNLocator(5).tick_values(0, longest / scale)])
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / scale:g} {unit}" if value else "0")
    return finish(figure, name, title, f"{'; '.join(row.words for row in rows)}.")


def _bar(axes: Axes, y: float, height: float, row: Spent) -> None:
    own = max(row.total - row.teacher - row.validation - row.diagnosis, 0)
    axes.barh(y, own, height=height, color=row.color)
    if row.teacher > 0:
        bar = axes.barh(y, row.teacher, left=own, height=height, edgecolor=row.color, hatch="/////", linewidth=1)
        bar.patches[0].set_facecolor("none")
    left = own + row.teacher
    for seconds, alpha in ((row.validation, 0.5), (row.diagnosis, 0.22)):
        if seconds > 0:
            axes.barh(y, seconds, left=left, height=height, color=row.color, alpha=alpha, linewidth=0)
            left += seconds
