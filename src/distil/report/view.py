"""What the page and the terminal both show: a report's figures, summed over seeds and written for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distil.report.check import OUTCOMES
from distil.report.text import MISSING, cell, count, decimals_for, duration, fixed, is_number, millis, signed, size
from distil.report.verdict import Interval, paired_interval

__all__ = ["MANY", "Row", "View", "finite", "further", "part", "summary"]

#: With more arms than this (and than there are colours) a page folds what is told arm by arm.
MANY = 8


def finite(values: object) -> list[float | None]:
    """Return a list in which everything that is not a finite number is None; not a list gives an empty one."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return []
    return [float(value) if is_number(value) else None for value in values]


def part(holder: object, *keys: str) -> Any:
    """Return ``holder[key][key]…``, or None as soon as something on the way is missing."""
    for key in keys:
        holder = holder.get(key) if isinstance(holder, Mapping) else None
    return holder


def summary(values: object) -> Interval | None:
    """Return mean and interval of the finite values, None where there are none."""
    known = [value for value in finite(values) if value is not None]
    return paired_interval(known) if known else None


def further(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a report's further tables with every cell written; a column holds numbers where its first cell is one."""
    found = []
    for table in report.get("tables") or []:
        rows = [[cell(value) for value in row] for row in table["rows"]]
        left = [not table["rows"] or isinstance(table["rows"][0][i], str) for i in range(len(table["head"]))]
        head = [cell(name) for name in table["head"]]
        found.append(
            {
                "title": table["title"],
                "note": table.get("note") or "",
                "head": head,
                "rows": rows,
                "left": left,
                "values": table["rows"] if table.get("drawing") == "heat" else None,
                "figure": None,
            }
        )
    return found


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard, written out."""

    name: str
    label: str
    role: str
    expression: str
    index: int
    last: tuple[str, str]
    best: tuple[str, str]
    difference: tuple[str, str]
    outcome: str
    parameters: str
    size: str
    p50: str
    p95: str
    throughput: str
    seconds: str
    teacher_share: str


class View:
    """A report with its defaults filled in and its numbers written.

    Args:
        report: what `distil.report.check.validate` accepts.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.report = report
        self.metric: str = report["metric"]["name"]
        self.unit: str = str(report["metric"].get("unit") or "")
        self.higher: bool = report["metric"]["higher_is_better"]
        self.score: str = report["metric"].get("score") or "last"
        self.seeds: list[Any] = list(report["seeds"])
        self.arms: list[Mapping[str, Any]] = list(report["arms"])
        self.verdicts: list[Mapping[str, Any]] = list(report.get("verdicts") or [])
        self.teacher: Mapping[str, Any] = report.get("teacher") or {}
        self.index = {arm["name"]: i for i, arm in enumerate(self.arms)}
        halves = [each.half for arm in self.arms if (each := self.mean(arm, self.score)) and each.half]
        self.decimals = decimals_for(half=min(halves, default=None), unit=self.unit, most=4)
        if not halves:
            known = [each.mean for arm in self.arms if (each := self.mean(arm, self.score))]
            self.decimals = decimals_for(*known, half=None, unit=self.unit, most=4)

    def label(self, name: str) -> str:
        """Return what an arm is called."""
        arm = self.arms[self.index[name]]
        return str(arm.get("label") or name)

    def mean(self, arm: Mapping[str, Any], score: str, metric: str | None = None) -> Interval | None:
        """Return an arm's mean of a metric over seeds, with its interval."""
        return summary(part(arm, "metrics", metric or self.metric, score))

    @property
    def many(self) -> bool:
        """Whether there are more arms than a reader can follow at once."""
        return len(self.arms) > MANY

    @property
    def reference(self) -> str | None:
        """The arm that differences refer to: what most verdicts are against, else the first reference."""
        against = [entry["against"] for entry in self.verdicts]
        if against:
            return max(dict.fromkeys(against), key=against.count)
        return next((arm["name"] for arm in self.arms if arm.get("role") == "reference"), None)

    @property
    def level(self) -> str:
        """The coverage of the verdicts' intervals, written; wider than 95 % where many comparisons were allowed for."""
        levels = [level for entry in self.verdicts if is_number(level := part(entry, "difference", "level"))]
        return f"{100 * max(levels, default=0.95):.4g} %"

    @property
    def family(self) -> str:
        """How the number of comparisons was allowed for, in a sentence; empty where there is but one."""
        number, made = len(self.verdicts), self.report.get("adjustment") or {}
        if number < 2:
            return ""
        if made.get("kind") == "blocks":
            return (
                f"Seeds are blocks: one spread of all arms serves every interval, and each is widened so that the "
                f"{made.get('comparisons')} differences to one arm hold together with "
                f"{100 * (made.get('level') or 0.95):.4g}\u00a0%."
            )
        if made.get("kind") == "bonferroni":
            together = f"{100 * made['level']:.4g}\u00a0%" if is_number(made.get("level")) else "their level"
            each = self.level.replace(" ", "\u00a0")
            return (
                f"The intervals are widened for the number of comparisons: each of the {number} covers {each}, so "
                f"that all of them hold together with {together} (Bonferroni)."
            )
        levels = {part(entry, "difference", "level") for entry in self.verdicts}
        if len(levels) > 1 or self.level != "95 %":
            return f"There are {number} comparisons; some intervals are widened for that, up to {self.level}."
        return (
            f"Each of the {number} intervals covers {self.level} by itself; they are not widened for their number, so "
            "about one in twenty excludes 0 by chance alone. `distil report FOLDER --adjust` widens them."
        )

    @property
    def tally(self) -> str:
        """How many arms helped, did not differ and hurt, against the reference."""
        seen = [entry["outcome"] for entry in self.verdicts if entry["against"] == self.reference]
        if len(seen) < 2 or self.reference is None:
            return ""
        counts = ", ".join(f"{seen.count(word)} {word}" for word in OUTCOMES if word in seen)
        return f"{len(seen)} arms against {self.label(self.reference)}: {counts}."

    @property
    def teacher_score(self) -> float | None:
        """The teacher's value of the deciding metric."""
        value = part(self.teacher, "metrics", self.metric)
        return float(value) if is_number(value) else None

    def spread(self, interval: Interval | None, decimals: int | None = None) -> tuple[str, str]:
        """Write a mean and, apart, the half-width of its interval (empty for a single seed)."""
        if interval is None:
            return MISSING, ""
        decimals = self.decimals if decimals is None else decimals
        return fixed(interval.mean, decimals), "" if interval.half is None else f"± {fixed(interval.half, decimals)}"

    def gap(self, name: str) -> tuple[str, str, str]:
        """Write an arm's difference to the reference, its interval, and the outcome."""
        for entry in self.verdicts:
            if entry["arm"] == name and entry["against"] == self.reference:
                return *self.written(entry), entry["outcome"]
        return MISSING, "", ""

    def written(self, entry: Mapping[str, Any]) -> tuple[str, str]:
        """Write the difference of a verdict and its interval."""
        gap = entry.get("difference") or {}
        decimals = self.decimals
        span = ""
        if is_number(gap.get("low")) and is_number(gap.get("high")):
            half = (gap["high"] - gap["low"]) / 2
            decimals = max(decimals, decimals_for(gap["low"], gap["high"], half=half, unit=self.unit, most=4))
            span = f"{signed(gap['low'], decimals)} to {signed(gap['high'], decimals)}"
        return signed(gap.get("mean"), decimals), span

    def pairs(self) -> list[dict[str, Any]]:
        """Return the differences to others than the reference, written: a method's against its rivals."""
        rows = []
        for entry in self.verdicts:
            if entry["against"] != self.reference:
                names = {"label": self.label(entry["arm"]), "against": self.label(entry["against"])}
                mean, span = self.written(entry)
                rows.append(names | {"difference": mean, "span": span, "outcome": entry["outcome"]})
                rows[-1] |= {"index": self.index[entry["arm"]], "against_index": self.index[entry["against"]]}
        return rows

    def rows(self) -> list[Row]:
        """Return the leaderboard, best arm first, arms without a value last."""
        order = sorted(self.arms, key=self._rank)
        return [self._row(arm) for arm in order]

    def _rank(self, arm: Mapping[str, Any]) -> tuple[bool, float]:
        mean = self.mean(arm, self.score)
        if mean is None:
            return True, 0.0
        return False, -mean.mean if self.higher else mean.mean

    def _row(self, arm: Mapping[str, Any]) -> Row:
        latency = arm.get("latency") or {}
        difference, span, outcome = self.gap(arm["name"])
        seconds = summary(part(arm, "cost", "seconds"))
        share = part(arm, "cost", "teacher_share")
        return Row(
            name=arm["name"],
            label=str(arm.get("label") or arm["name"]),
            role=str(arm.get("role") or ""),
            expression=str(arm.get("expression") or ""),
            index=self.index[arm["name"]],
            last=self.spread(self.mean(arm, "last")),
            best=self.spread(self.mean(arm, "best")),
            difference=(difference, span),
            outcome=outcome,
            parameters=count(arm.get("parameters")),
            size=size(arm.get("bytes")),
            p50=millis(latency.get("p50_ms")),
            p95=millis(latency.get("p95_ms")),
            throughput=fixed(latency.get("throughput_per_s"), 0),
            seconds=duration(seconds.mean if seconds else None),
            teacher_share=f"{fixed(100 * share, 0)} %" if is_number(share) else MISSING,
        )
