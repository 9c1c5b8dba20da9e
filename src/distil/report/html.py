"""The report as one page that needs nothing else: no script, no font, no request.

The page holds no link but those to its own sections. Beyond a handful of arms it folds what is told arm by arm.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distil.files import write_text
from distil.report import panels, tables
from distil.report.check import clean, validate
from distil.report.document import save
from distil.report.heat import drawn
from distil.report.passes import passes
from distil.report.pictures import pictures
from distil.report.pieces import WORDS, count_of, date_of, page, pairs
from distil.report.svg import MARKED, style
from distil.report.text import count, fixed, heading, is_number, millis, with_unit
from distil.report.verdict import HELPED, NONE
from distil.report.view import View, finite, further, part

__all__ = ["render", "write"]

#: So many verdicts stand open beside the first; more are folded.
_OPEN = 6


def render(report: Mapping[str, Any]) -> str:
    """Return a report as a self-contained HTML page.

    The same report gives the same page, byte for byte. The verdicts' words stand in the elements ``verdict-text-0``,
    ``verdict-text-1`` … and the report itself in ``report-json``, without its pictures.

    Args:
        report: what `distil.report.build` returned or `distil.report.load` read.

    Raises:
        DistilError: it is not a report of this version.

    >>> arm = {"name": "alone", "role": "reference", "metrics": {"accuracy": {"last": [70.0]}}}
    >>> metric = {"name": "accuracy", "higher_is_better": True}
    >>> render({"kind": "comparison", "version": 1, "title": "One", "metric": metric, "seeds": [0], "arms": [arm]})[:15]
    '<!doctype html>'
    """
    report = clean(report)
    validate(report)
    view = View(report)
    data = {key: value for key, value in report.items() if key != "pictures"}  # they stand on the page already
    return page("page.html.j2", data, "report-json", sheet=_pointing(len(view.arms)), **_context(view))


def write(report: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write ``report.json`` and ``report.html`` into a folder, each whole or not at all; return the page's path."""
    folder = Path(folder)
    text = render(report)
    save(report, folder / "report.json")
    return write_text(folder / "report.html", text)


def _pointing(arms: int) -> str:
    """Return the rules by which pointing at an arm in a legend leaves its line alone in the drawings beside it."""
    if arms < 3:
        return ""
    at = ".lines:has(li.{0}:is(:hover, :focus-visible)) figure svg [class^='{1}']:not(.{0}) {{ opacity: 0.08; }}"
    return "\n".join(["", *(at.format(f"{MARKED}{i}", MARKED) for i in range(arms))])


def _context(view: View) -> dict[str, Any]:
    report = view.report
    with style():
        groups, single = panels.term_groups(view)
        drawings: dict[str, Any] = {
            "results": panels.results(view),
            "differences": panels.differences(view),
            "curves": panels.curve_panels(view),
            "multiples": panels.multiples(view) if view.many else [],
            "terms": groups,
            "single_terms": single,
            "agreement": panels.agreement(view),
            "calibration": panels.calibration(view),
            "reliability": (reliable := panels.reliability(view)),
            "cost": panels.cost(view),
            "further": drawn(further(view.report)),
        }
    return drawings | {
        "view": view,
        "title": report["title"],
        "system": report.get("system") or "",
        "meta": _meta(view),
        "verdicts": [_verdict(entry) for entry in view.verdicts],
        "folded": len(view.verdicts) > _OPEN + 1,
        "tiles": _tiles(view),
        "warnings": [str(each) for each in report.get("warnings") or []],
        "setting": pairs(report.get("setting")),
        "arm_keys": panels.legend([(view.label(arm["name"]), i) for i, arm in enumerate(view.arms)]),
        "marked": MARKED if len(view.arms) > 2 else "",
        "rows": view.rows(),
        "details": _details(view, groups, reliable) if view.many else [],
        "pairs": view.pairs(),
        "reference": view.label(view.reference) if view.reference else "",
        "teacher": tables.teacher(view),
        "other": tables.other_metrics(view),
        "times": tables.times(view),
        "passes": passes(view),
        "per_seed": tables.per_seed(view),
        "budget": tables.budget(view),
        "diagnostics": tables.diagnostics(view),
        "facts": tables.facts(view),
        "versions": pairs(report.get("versions")),
        "machine": pairs(report.get("machine")),
        "command": str(report.get("command") or ""),
        "pictures": pictures(report),
        "metric_heading": heading(view.metric),
    }


def _meta(view: View) -> list[str]:
    report = view.report
    items = [str(part(report, "data", "name") or ""), count_of(len(view.arms), "arm")]
    items.append("1 seed" if len(view.seeds) == 1 else f"{len(view.seeds)} paired seeds")
    items.append(f"{view.metric}, {'higher' if view.higher else 'lower'} is better")
    return [item for item in (*items, date_of(report.get("created"))) if item]


def _verdict(entry: Mapping[str, Any]) -> dict[str, str]:
    kind, word = WORDS[entry["outcome"]]
    seeds = finite(part(entry, "difference", "per_seed"))
    if entry["outcome"] == NONE and 0 < len(seeds) < 3:
        word = "Too few seeds to say"
    return {"kind": kind, "word": word, "text": entry["text"]}


def _details(view: View, groups: list[panels.TermGroup], reliable: Mapping[str, panels.Panel]) -> list[dict[str, Any]]:
    """Return what is folded arm by arm, best arm first: its verdicts, its terms, its reliability."""
    terms, found = {group.name: group for group in groups}, []
    for row in view.rows():
        said = [_verdict(entry) for entry in view.verdicts if entry["arm"] == row.name]
        group, trust = terms.get(row.name), reliable.get(row.name)
        if said or group or trust:
            found.append({"row": row, "verdicts": said, "group": group, "reliability": trust})
    return found


def _tiles(view: View) -> list[tuple[str, str, str]]:
    """Return the few figures that a reader looks for first: (name, value, remark), about the first verdict's arm."""
    if not view.verdicts:
        return []
    first = view.verdicts[0]
    arm, other = (view.arms[view.index[first[key]]] for key in ("arm", "against"))
    ours, theirs = view.mean(arm, view.score), view.mean(other, view.score)
    tiles = []
    if ours and theirs:
        mean, half = view.spread(ours)
        written = with_unit(fixed(theirs.mean, view.decimals), view.unit)
        tiles.append((f"{heading(view.metric)}", with_unit(mean, view.unit), f"{half}, against {written}".lstrip(", ")))
        top = view.teacher_score
        if (
            first["outcome"] == HELPED
            and top is not None
            and ((top > theirs.mean) if view.higher else (top < theirs.mean))
        ):
            closed = 100 * (ours.mean - theirs.mean) / (top - theirs.mean)
            remark = f"the teacher reaches {with_unit(fixed(top, view.decimals), view.unit)}"
            tiles.append(("Gap to teacher closed", f"{fixed(closed, 0)} %", remark))
    tiles += _against_teacher(view, arm)
    return tiles


def _against_teacher(view: View, arm: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    tiles = []
    if is_number(arm.get("parameters")):
        remark = _times(view.teacher.get("parameters"), arm["parameters"], "fewer than the teacher")
        tiles.append(("Parameters", count(arm["parameters"]), remark))
    p50 = part(arm, "latency", "p50_ms")
    if is_number(p50):
        remark = _times(part(view.teacher, "latency", "p50_ms"), p50, "faster than the teacher")
        tiles.append(("Latency, median", f"{millis(p50)} ms", remark))
    return tiles


def _times(big: object, small: object, words: str) -> str:
    if not is_number(big) or not is_number(small) or not small or big <= small:  # type: ignore[operator]
        return ""
    ratio = big / small  # type: ignore[operator]
    return f"{fixed(ratio, 0 if ratio >= 10 else 1)}× {words}"
