"""The rows of the page's tables, written out."""

from __future__ import annotations

from typing import Any

from distil.report.text import MISSING, count, decimals_for, duration, fixed, heading, is_number, millis, size
from distil.report.view import View, finite, part, summary

__all__ = ["budget", "diagnostics", "facts", "other_metrics", "per_seed", "teacher", "times"]


def teacher(view: View) -> dict[str, str] | None:
    """Return the teacher's row of the leaderboard."""
    if not view.teacher:
        return None
    latency = view.teacher.get("latency") or {}
    return {
        "name": str(view.teacher.get("name") or "teacher"),
        "score": fixed(view.teacher_score, view.decimals),
        "parameters": count(view.teacher.get("parameters")),
        "size": size(view.teacher.get("bytes")),
        "p50": millis(part(latency, "p50_ms")),
        "p95": millis(part(latency, "p95_ms")),
        "throughput": fixed(part(latency, "throughput_per_s"), 0),
        "seconds": duration(part(view.teacher, "cost", "seconds")),
    }


def other_metrics(view: View) -> dict[str, Any]:
    """Return the other metrics, last and best, with the decimals that each one's narrowest interval asks for."""
    names = list({name: None for arm in view.arms for name in arm.get("metrics") or {} if name != view.metric})
    if not names:
        return {"names": [], "rows": []}
    decimals = {}
    for name in names:
        spreads = [each for arm in view.arms for s in ("last", "best") if (each := view.mean(arm, s, name))]
        narrow = min((each.half for each in spreads if each.half), default=None)
        decimals[name] = decimals_for(*(each.mean for each in spreads if narrow is None), half=narrow, most=5)
    agree = any(value is not None for arm in view.arms for value in finite(arm.get("agreement")))
    rows = []
    for row in view.rows():
        arm = view.arms[view.index[row.name]]
        cells = [view.spread(view.mean(arm, s, name), decimals[name]) for name in names for s in ("last", "best")]
        cells += [view.spread(summary(arm.get("agreement")), 1)] if agree else []
        rows.append({"label": row.label, "index": row.index, "cells": cells})
    if view.teacher:
        written = [fixed(part(view.teacher, "metrics", name), decimals[name]) for name in names]
        cells = [cell for value in written for cell in ((value, ""), ("", ""))] + [("", "")] * agree
        rows.append({"label": str(view.teacher.get("name") or "teacher"), "index": None, "cells": cells})
    return {"names": names, "headings": [heading(name) for name in names], "agreement": agree, "rows": rows}


def times(view: View) -> dict[str, Any]:
    """Return where each arm's time went: the mean of a seed, its known parts, and all seeds together."""
    known = {"teacher": "of it teacher", "validation": "validation", "diagnosis": "diagnosis"}
    known |= {"prepare": "before: preparing"}
    means = {n: [summary(part(arm, "cost", f"{n}_seconds")) for arm in view.arms] for n in known}
    shown = [n for n in known if any(each and (each.mean >= 0.005 or n != "prepare") for each in means[n])]
    rows = []
    for i, arm in enumerate(view.arms):
        spent = [value for value in finite(part(arm, "cost", "seconds")) if value is not None]
        if spent:
            parts = [each.mean if (each := means[n][i]) else None for n in shown]
            cells = [sum(spent) / len(spent), *parts, sum(spent)]
            rows.append({"label": view.label(arm["name"]), "index": i, "cells": [duration(cell) for cell in cells]})
    return {"names": ["a seed", *(known[n] for n in shown), "all seeds"], "rows": rows, "split": len(shown) > 1}


def per_seed(view: View) -> list[dict[str, Any]]:
    """Return the deciding metric of every arm and seed."""
    rows = []
    for row in view.rows():
        values = finite(part(view.arms[view.index[row.name]], "metrics", view.metric, view.score))
        values += [None] * (len(view.seeds) - len(values))
        digits = view.decimals + 1
        rows.append({"label": row.label, "index": row.index, "cells": [fixed(value, digits) for value in values]})
    return rows


def budget(view: View) -> dict[str, Any]:
    """Return one line if all arms had the same budget, else a table of what each had."""
    names = {"updates": "updates", "batch_size": "per batch", "labels": "labels", "trials": "tuning trials"}
    budgets = [arm.get("budget") or {} for arm in view.arms]
    shown = list(dict.fromkeys(key for budget in budgets for key in budget))
    if not shown:
        return {"same": "", "rows": []}
    if all(budget == budgets[0] for budget in budgets):
        words = ", ".join(f"{fixed(budgets[0][key], 0)} {names.get(key, key)}" for key in shown)
        words = words.replace(" 1 tuning trials", " 1 tuning trial")
        start = "Every arm had the same budget" if len(budgets) > 1 else "Budget"
        return {"same": f"{start}: {words}.", "rows": []}
    rows = [
        {"label": view.label(arm["name"]), "cells": [fixed(budget.get(key), 0) for key in shown]}
        for arm, budget in zip(view.arms, budgets)
    ]
    return {"same": "", "names": [names.get(key, key) for key in shown], "rows": rows}


def diagnostics(view: View) -> list[dict[str, Any]]:
    """Return what recipes recorded beside the metrics."""
    rows = []
    for arm in view.arms:
        for name, values in (arm.get("diagnostics") or {}).items():
            seen = finite(values if isinstance(values, list) else [values])[: len(view.seeds)]
            seen += [None] * (len(view.seeds) - len(seen))
            decimals = decimals_for(*seen, half=None)
            cells = [fixed(value, decimals) for value in seen]
            rows.append({"label": view.label(arm["name"]), "name": name, "cells": cells})
    return rows


def facts(view: View) -> list[tuple[str, list[tuple[str, str]]]]:
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
