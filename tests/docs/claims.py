"""What a hidden comment on ``docs/choose.md`` says of the figure before it, worked out again from the evidence.

A comment names what its figure is: ``<!-- kd -->`` the mean of an arm, ``<!-- kd - alone -->`` a paired difference
(with its interval where three figures stand there: ``1.0 (0.2 to 1.8)``), ``<!-- kd/ece -->`` another metric,
``<!-- a over b -->`` a ratio of means, ``<!-- Title/row/column -->`` a cell of a further table,
``<!-- #Title/holds -->`` how many of its rows say so, ``<!-- setting/Length -->``, ``<!-- teacher/accuracy -->`` and
``<!-- limits -->`` (of the card). ``<!-- dist ~ kd, fsp < alone -->`` holds no figure: no difference was seen, or one
was. A run is named before a colon, ``<!-- trg-2: kd -->``, where a line links to more than one. An arm that the
sentence names last before a figure must be one of the comment's ("DMAE" will do for "DMAE, α = 5").
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from distil import catalog
from distil.report import paired_interval
from distil.report.blocks import Blocks
from distil.report.verdict import Interval

from .tools import ROOT

COMMENT = re.compile(r"<!--(.*?)-->")
LINK = re.compile(r"\[[^]]*\]\((results|leaderboard)\.md#([\w-]+)\)")
NUMBER = re.compile(r"(?<![\w.])(?:[+−-](?=\d))?\d+(?:,\d{3})*(?:\.\d+)?(?!\w|\.\d)")
RELATION = re.compile(r" ([~<>]) ")


@dataclass(frozen=True)
class Run:
    """One run's stored figures; a board has no slug."""

    stored: Mapping[str, Any]
    slug: str = ""

    @property
    def labels(self) -> dict[str, str]:
        return {arm["name"]: arm["label"] for arm in self.stored["arms"]}

    def values(self, name: str, metric: str = "") -> list[float]:
        """The scores of an arm, or one of its diagnostics, seed by seed."""
        arm = next((arm for arm in self.stored["arms"] if arm["name"] == name), None)
        assert arm, f"no arm '{name}'; there are {', '.join(self.labels)}"
        metric = metric or self.stored["metric"]["name"]
        found = {**(arm.get("diagnostics") or {}), **{key: scores["best"] for key, scores in arm["metrics"].items()}}
        assert metric in found, f"'{name}' has no '{metric}'; it has {', '.join(found)}"
        return list(found[metric])

    def difference(self, arm: str, against: str, metric: str = "") -> Interval:
        """Arm less the other, as the pages have it: together with all others on a board, by itself in a recipe."""
        if not self.slug and not metric:
            scores = {name: self.values(name) for name in self.labels}
            return Blocks(scores).difference(arm, against, comparisons=len(scores) - 1)
        pairs = zip(self.values(arm, metric), self.values(against, metric), strict=True)
        return paired_interval([ours - theirs for ours, theirs in pairs])

    def cell(self, table: Mapping[str, Any], keys: list[str]) -> Any:
        """The cell in the one row that begins with these words, below the last of them."""
        *begins, column = keys
        rows = [row for row in table["rows"] if all(_begins(cell, key) for cell, key in zip(row, begins))]
        assert len(rows) == 1, f"{len(rows)} rows of '{table['title']}' begin with {begins}"
        assert column in table["head"], f"'{table['title']}' has no column '{column}'; it has {table['head']}"
        return rows[0][table["head"].index(column)]

    def claimed(self, claim: str) -> tuple[list[Any], list[str]]:
        """What a claim stands for, figure by figure (or the text it is in), and the labels of the arms it is about."""
        head, *keys = claim.split("/")
        table = next((one for one in self.stored.get("tables") or [] if one["title"] == head.lstrip("#")), None)
        if table and head.startswith("#"):
            return [sum(set(keys) <= set(map(str, row)) for row in table["rows"])], []
        if table:
            cell = self.cell(table, keys)
            numbers = [cell] if isinstance(cell, (int, float)) else numbers_of(cell)
            return numbers, [label for label in self.labels.values() if label == keys[0]]
        if head == "setting":
            assert keys[0] in self.stored["setting"], f"no '{keys[0]}' among {list(self.stored['setting'])}"
            return [self.stored["setting"][keys[0]]], []
        if head == "limits":
            return [" ".join(catalog.systems()[self.slug].limits)], []
        if head == "teacher":
            return [self.stored["teacher"]["metrics"][keys[0]]], []
        metric = "/".join(keys)
        first, sign, second = re.match(r"(.+?)(?: (-|over) (.+))?$", head).groups()  # type: ignore[union-attr]
        subjects = [self.labels.get(name, name) for name in (first, second) if name]
        if sign == "-":
            gap = self.difference(first, second, metric)
            return [each for each in (gap.mean, gap.low, gap.high) if each is not None], subjects
        means = [statistics.fmean(self.values(name, metric)) for name in (first, second) if name]
        return [means[0] / means[1] if sign else means[0]], subjects

    def named(self, text: str) -> str | None:
        """The arm that a text names last, if any, by its label or what comes before a comma in it ("PLD, τ = 1")."""
        known = {name.lower() for label in self.labels.values() for name in (label, label.split(",")[0])}
        words = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
        found = re.findall(rf"(?<![\w+-])(?:{words})(?![\w+-])", text.lower())
        return str(found[-1]) if found else None


@cache
def runs() -> dict[str, Run]:
    """Every stored run by the place it has on its page."""
    found = {}
    for slug in catalog.systems():
        for number, run in enumerate((catalog.evidence(slug) or {"runs": []})["runs"], 1):
            found[f"{slug}-{number}"] = Run(run, slug)
    for file in (ROOT / "evidence" / "boards").glob("*.json"):
        found[file.stem.replace(".", "-")] = Run(json.loads(file.read_text(encoding="utf-8"))["run"])
    return found


def check(line: str) -> None:
    """Raise AssertionError, with a sentence, where a line holds a figure or a verdict that is not in its evidence."""
    linked = [name for _, name in LINK.findall(line)]
    assert linked, f"no evidence behind: {line}"
    text, begin = LINK.sub("", line), 0
    for comment in COMMENT.finditer(text):
        before, begin = text[begin : comment.start()], comment.end()
        name, _, claim = comment.group(1).strip().rpartition(": ")
        assert name or len(linked) == 1, f"the line links to {linked}: say of which <!-- {claim} --> is"
        name = name or linked[0]
        assert name in linked, f"<!-- {name}: {claim} --> is of a run that the line does not link to: {line}"
        assert name in runs(), f"there is no run '{name}'; there are {', '.join(runs())}"
        if RELATION.search(claim):
            assert not decimals_of(before), f"{decimals_of(before)} belong to nothing: {before}"
            for part in claim.split(", "):
                check_relation(runs()[name], part)
        else:
            sentence = COMMENT.sub("", text[: comment.start()]).rsplit(". ", 1)[-1]
            check_figures(runs()[name], claim, before, sentence)
    assert not decimals_of(text[begin:]), f"{decimals_of(text[begin:])} belong to nothing: {line}"


def check_relation(run: Run, part: str) -> None:
    """Hold "a ~ b" (no difference seen), "a > b" or "a < b" (seen) against the interval."""
    arm, sign, against = RELATION.split(part)
    gap = run.difference(arm, against)
    seen = "~" if not gap.excludes_zero else ">" if gap.mean > 0 else "<"
    assert seen == sign, f"'{part}' should be '{seen}': {gap}"


def check_figures(run: Run, claim: str, before: str, sentence: str) -> None:
    """Hold the figures before a comment, one or a difference with its bounds, against what the comment names."""
    expected, subjects = run.claimed(claim)
    written = decimals_of(before) or NUMBER.findall(before)[-1:]
    assert len(written) in {1, len(expected)}, f"{written} stand before <!-- {claim} -->, which is {expected}: {before}"
    for number, truth in zip(written, expected):
        if isinstance(truth, str):
            same = number.lstrip("+") in [each.lstrip("+") for each in NUMBER.findall(truth)]
        else:
            same = numbers_of(number)[0] == float(f"{truth:.{len(number.partition('.')[2])}f}")
        assert same, f"{number} is not <!-- {claim} -->, {truth}: {before}"
    named = run.named(sentence)
    fits = not subjects or named is None or any(f"{label},".lower().startswith(f"{named},") for label in subjects)
    assert fits, f"'{named}' is named before a figure of {subjects}: {before}"


def numbers_of(text: str) -> list[float]:
    """The numbers in a text, thousands with commas."""
    return [float(number.replace("−", "-").replace(",", "")) for number in NUMBER.findall(text)]


def decimals_of(text: str) -> list[str]:
    """The numbers of a text that have decimals, as they are written: those that need a comment."""
    return [number for number in NUMBER.findall(text) if "." in number]


def _begins(cell: Any, key: str) -> bool:
    return str(cell) == key or str(cell).startswith(f"{key} (")
