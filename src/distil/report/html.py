"""The report as one page that needs nothing else: no script, no font, no request.

Every text comes from data or models and is escaped by the template engine; only the drawings (made here, from escaped
text) and the style sheet go in as they are. The page holds no link but those to its own sections.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from distil.files import write_text
from distil.report import panels
from distil.report.check import clean, validate
from distil.report.document import save
from distil.report.svg import style
from distil.report.text import MISSING, count, decimals_for, duration, fixed, heading, is_number, size, with_unit
from distil.report.verdict import HELPED, HURT, NONE
from distil.report.view import View, finite, part, summary, tables

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["render", "write"]

_HERE = Path(__file__).parent
_WORDS = {HELPED: ("helped", "Helped"), NONE: ("none", "No difference seen"), HURT: ("hurt", "Hurt")}


def render(report: Mapping[str, Any]) -> str:
    """Return a report as a self-contained HTML page.

    The same report gives the same page, byte for byte. The verdicts' words stand in the elements ``verdict-text-0``,
    ``verdict-text-1`` … and the report itself in ``report-json``.

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
    sheet = Markup((_HERE / "page.css").read_text(encoding="utf-8"))
    return str(_template().render(sheet=sheet, embedded=Markup(_embedded(report)), **_context(View(report))))


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    engine = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    engine.filters["drawing"] = Markup  # only for what `svg.finish` made
    engine.filters["words"] = _words
    return engine.get_template("page.html.j2")


def write(report: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write ``report.json`` and ``report.html`` into a folder, each whole or not at all; return the page's path."""
    folder = Path(folder)
    page = render(report)
    save(report, folder / "report.json")
    return write_text(folder / "report.html", page)


def _words(text: str) -> Markup:
    """Set a sentence: what it claims in bold, numbers not torn from their units; its text stays what it was."""
    claim, colon, rest = text.partition(": ")
    parts = [Markup("<b>{}{}</b>").format(claim, colon[:1]), colon[1:]] if colon else [claim]
    for i, piece in enumerate(re.split(r"([+\u2212]?[\d.,]+ (?:%|points))", rest)):
        parts.append(Markup('<span class="nb">{}</span>').format(piece) if i % 2 else escape(piece))
    return Markup("").join(parts)


def _embedded(report: Mapping[str, Any]) -> str:
    """Return the report as JSON that cannot end the element it stands in."""
    text = json.dumps(report, ensure_ascii=False, allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _context(view: View) -> dict[str, Any]:
    report = view.report
    with style():
        groups, single = panels.term_groups(view)
        drawings: dict[str, Any] = {
            "results": panels.results(view),
            "differences": panels.differences(view),
            "curves": panels.curve_panels(view),
            "terms": groups,
            "single_terms": single,
            "agreement": panels.agreement(view),
            "calibration": panels.calibration(view),
            "reliability": panels.reliability(view),
            "cost": panels.cost(view),
        }
    return drawings | {
        "view": view,
        "title": report["title"],
        "system": report.get("system") or "",
        "meta": _meta(view),
        "verdicts": [_verdict(entry) for entry in view.verdicts],
        "tiles": _tiles(view),
        "warnings": [str(each) for each in report.get("warnings") or []],
        "setting": _pairs(report.get("setting")),
        "arm_keys": panels.legend([(view.label(arm["name"]), i) for i, arm in enumerate(view.arms)]),
        "rows": view.rows(),
        "tables": tables(view.report),
        "reference": view.label(view.reference) if view.reference else "",
        "teacher": _teacher(view),
        "other_metrics": (names := _other_metrics(view)),
        "other_rows": _other_rows(view, names),
        "times": _time_rows(view),
        "per_seed": _per_seed(view),
        "budget": _budget(view),
        "diagnostics": _diagnostics(view),
        "facts": _facts(view),
        "versions": _pairs(report.get("versions")),
        "machine": _pairs(report.get("machine")),
        "command": str(report.get("command") or ""),
        "metric_heading": heading(view.metric),
    }


def _meta(view: View) -> list[str]:
    report = view.report
    items = [str(part(report, "data", "name") or ""), f"{len(view.arms)} arm{'s' * (len(view.arms) != 1)}"]
    items.append("1 seed" if len(view.seeds) == 1 else f"{len(view.seeds)} paired seeds")
    items.append(f"{view.metric}, {'higher' if view.higher else 'lower'} is better")
    created = report.get("created")
    try:
        moment = datetime.datetime.fromisoformat(str(created))
        items.append(f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip())
    except ValueError:
        items.append(str(created or ""))
    return [item for item in items if item]


def _verdict(entry: Mapping[str, Any]) -> dict[str, str]:
    kind, word = _WORDS[entry["outcome"]]
    seeds = finite(part(entry, "difference", "per_seed"))
    if entry["outcome"] == NONE and 0 < len(seeds) < 3:
        word = "Too few seeds to say"
    return {"kind": kind, "word": word, "text": entry["text"]}


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
        tiles.append(("Latency, median", f"{fixed(p50, 2)} ms", remark))
    return tiles


def _times(big: object, small: object, words: str) -> str:
    if not is_number(big) or not is_number(small) or not small or big <= small:  # type: ignore[operator]
        return ""
    ratio = big / small  # type: ignore[operator]
    return f"{fixed(ratio, 0 if ratio >= 10 else 1)}× {words}"


def _pairs(holder: object) -> list[tuple[str, str]]:
    if not isinstance(holder, Mapping):
        return []
    return [(str(key), MISSING if value is None else _plain(value)) for key, value in holder.items()]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_plain(each) for each in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def _teacher(view: View) -> dict[str, str] | None:
    if not view.teacher:
        return None
    latency = view.teacher.get("latency") or {}
    return {
        "name": str(view.teacher.get("name") or "teacher"),
        "score": fixed(view.teacher_score, view.decimals),
        "parameters": count(view.teacher.get("parameters")),
        "size": size(view.teacher.get("bytes")),
        "p50": fixed(part(latency, "p50_ms"), 2),
        "p95": fixed(part(latency, "p95_ms"), 2),
        "throughput": fixed(part(latency, "throughput_per_s"), 0),
        "seconds": duration(part(view.teacher, "cost", "seconds")),
    }


def _other_metrics(view: View) -> list[str]:
    return list({name: None for arm in view.arms for name in arm.get("metrics") or {} if name != view.metric})


def _other_rows(view: View, names: list[str]) -> list[dict[str, Any]]:
    """Return the other metrics, last and best, with the decimals that each one's narrowest interval asks for."""
    decimals = {}
    for name in names:
        spreads = [each for arm in view.arms for s in ("last", "best") if (each := view.mean(arm, s, name))]
        narrow = min((each.half for each in spreads if each.half), default=None)
        decimals[name] = decimals_for(*(each.mean for each in spreads if narrow is None), half=narrow, most=5)
    rows = []
    for row in view.rows():
        arm = view.arms[view.index[row.name]]
        cells = [view.spread(view.mean(arm, s, name), decimals[name]) for name in names for s in ("last", "best")]
        rows.append({"label": row.label, "index": row.index, "cells": cells})
    if view.teacher:
        written = [fixed(part(view.teacher, "metrics", name), decimals[name]) for name in names]
        cells = [cell for value in written for cell in ((value, ""), ("", ""))]
        rows.append({"label": str(view.teacher.get("name") or "teacher"), "index": None, "cells": cells})
    return rows


def _time_rows(view: View) -> list[dict[str, Any]]:
    rows = []
    for i, arm in enumerate(view.arms):
        spent = [value for value in finite(part(arm, "cost", "seconds")) if value is not None]
        teacher = summary(part(arm, "cost", "teacher_seconds"))
        if spent:
            cells = [sum(spent) / len(spent), teacher.mean if teacher else None, sum(spent)]
            rows.append({"label": view.label(arm["name"]), "index": i, "cells": [duration(cell) for cell in cells]})
    return rows


def _per_seed(view: View) -> list[dict[str, Any]]:
    rows = []
    for row in view.rows():
        values = finite(part(view.arms[view.index[row.name]], "metrics", view.metric, view.score))
        values += [None] * (len(view.seeds) - len(values))
        digits = view.decimals + 1
        rows.append({"label": row.label, "index": row.index, "cells": [fixed(value, digits) for value in values]})
    return rows


def _budget(view: View) -> dict[str, Any]:
    """Return one line if all arms had the same budget, else a table of what each had."""
    names = {"updates": "updates", "batch_size": "per batch", "labels": "labels", "trials": "tuning trials"}
    budgets = [arm.get("budget") or {} for arm in view.arms]
    shown = list(dict.fromkeys(key for budget in budgets for key in budget))
    if not shown:
        return {"same": "", "rows": []}
    if all(budget == budgets[0] for budget in budgets):
        words = ", ".join(f"{fixed(budgets[0][key], 0)} {names.get(key, key)}" for key in shown)
        start = "Every arm had the same budget" if len(budgets) > 1 else "Budget"
        return {"same": f"{start}: {words}.", "rows": []}
    rows = [
        {"label": view.label(arm["name"]), "cells": [fixed(budget.get(key), 0) for key in shown]}
        for arm, budget in zip(view.arms, budgets)
    ]
    return {"same": "", "names": [names.get(key, key) for key in shown], "rows": rows}


def _diagnostics(view: View) -> list[dict[str, Any]]:
    rows = []
    for arm in view.arms:
        for name, values in (arm.get("diagnostics") or {}).items():
            seen = finite(values if isinstance(values, list) else [values])[: len(view.seeds)]
            seen += [None] * (len(view.seeds) - len(seen))
            decimals = decimals_for(*seen, half=None)
            cells = [fixed(value, decimals) for value in seen]
            rows.append({"label": view.label(arm["name"]), "name": name, "cells": cells})
    return rows


def _facts(view: View) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what identifies the data and the models, in named groups."""
    data = view.report.get("data") or {}
    about = [("Name", str(data.get("name") or MISSING))]
    splits = {"train": "to train", "val": "to validate", "test": "to test"}
    sizes = [f"{fixed(data[key], 0)} {words}" for key, words in splits.items() if is_number(data.get(key))]
    classes = data.get("classes") or []
    about += [("Samples", ", ".join(sizes))] if sizes else []
    if isinstance(classes, list) and classes:
        shown = ", ".join(str(each) for each in classes[:12]) + (", …" if len(classes) > 12 else "")
        about.append((f"{len(classes)} classes", shown))
    about += [("Fingerprint", str(data["fingerprint"]))] if data.get("fingerprint") else []
    notes = data.get("notes") or []
    about += [("Note", str(note)) for note in (notes if isinstance(notes, list) else [notes])]
    groups = [("Data", about)] if data else []
    if view.teacher:
        facts = [
            ("Name", str(view.teacher.get("name") or MISSING)),
            ("Parameters", count(view.teacher.get("parameters"))),
        ]
        facts += [("Fingerprint", str(view.teacher["fingerprint"]))] if view.teacher.get("fingerprint") else []
        groups.append(("Teacher", facts))
    return groups
