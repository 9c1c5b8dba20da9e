"""What differs between two reports: settings, data, teacher and versions, and the metric of the arms they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distil.errors import DistilError
from distil.report.check import clean, validate
from distil.report.pieces import plain
from distil.report.verdict import LEAST_SEEDS, NONE, Interval, bonferroni, paired_interval, welch_interval
from distil.report.view import View, finite, part

__all__ = ["BETTER", "WORSE", "difference"]

#: How an arm of the first run stands to the same arm of the second.
BETTER, WORSE = "better", "worse"


def difference(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    names: tuple[str, str] = ("A", "B"),
    settings: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] = (None, None),
    adjust: bool = False,
    level: float = 0.95,
) -> dict[str, Any]:
    """Compare two runs of the same metric and task: the first minus the second.

    Arms are matched by name. Where both runs have the same seeds the differences are paired by seed; otherwise they are
    Welch's, of two independent groups, and a note says so.

    Args:
        first, second: reports.
        names: what the two runs are called.
        settings: their full settings, where they are at hand.
        adjust: widen the intervals so that all of them hold together (Bonferroni).
        level: coverage of the intervals.

    Returns:
        ``kind`` (``"difference"``), ``version``, ``names``, ``titles``, ``metric``, ``differs`` (each with ``group``,
        ``what``, ``values``), ``same`` (groups in which nothing differs), ``arms``, ``only`` (arms of one run alone),
        ``verdicts`` (each with both outcomes), ``adjustment``, ``family`` (it in a sentence) and ``notes``.

    Raises:
        DistilError: one is no report, or they are of another metric or task.

    >>> from distil.report import build
    >>> def run(values):
    ...     arm = {"name": "kd", "role": "reference", "metrics": {"accuracy": {"last": values}}}
    ...     return build(title="t", metric={"name": "accuracy", "higher_is_better": True}, seeds=[0, 1, 2], arms=[arm])
    >>> difference(run([74.0, 75.1, 74.6]), run([70.0, 71.0, 70.5]))["arms"][0]["outcome"]
    'better'
    """
    pair = (clean(first), clean(second))
    for report in pair:
        validate(report)
    _comparable(pair, names)
    views = (View(pair[0]), View(pair[1]))
    shared = [arm["name"] for arm in views[0].arms if arm["name"] in views[1].index]
    each = bonferroni(level, len(shared)) if adjust and shared else level
    differs, same = _differs(pair, settings)
    arms = [_arm(views, name, each) for name in shared]
    made: dict[str, Any] = clean(
        {
            "kind": "difference",
            "version": 1,
            "names": names,
            "titles": [report["title"] for report in pair],
            "metric": pair[0]["metric"],
            "paired": views[0].seeds == views[1].seeds,
            "differs": differs,
            "same": same,
            "arms": arms,
            "only": [[a["name"] for a in v.arms if a["name"] not in o.index] for v, o in (views, views[::-1])],
            "verdicts": _verdicts(views),
            "adjustment": {"kind": "bonferroni" if adjust else "none", "comparisons": len(shared), "level": level},
            "notes": _notes(views, differs, names),
            "family": _family(len(shared), adjust),
        }
    )
    return made


def _comparable(pair: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> None:
    """Refuse two reports whose figures mean different things."""
    facts = [
        {
            "metric": report["metric"]["name"],
            "unit": report["metric"].get("unit") or "no unit",
            "direction": "higher is better" if report["metric"]["higher_is_better"] else "lower is better",
            "judged score": report["metric"].get("score") or "last",
            "task": report.get("task") or "classification",
        }
        for report in pair
    ]
    for what, left in facts[0].items():
        if left != facts[1][what]:
            raise DistilError(
                f"These reports cannot be compared: the {what} is '{left}' in {names[0]} and '{facts[1][what]}' in "
                f"{names[1]}; give two runs of the same {what}."
            )


def _arm(views: tuple[View, View], name: str, level: float) -> dict[str, Any]:
    arms = [view.arms[view.index[name]] for view in views]
    metric, score = views[0].metric, views[0].score
    values = [finite(part(arm, "metrics", metric, score)) for arm in arms]
    known = [[value for value in each if value is not None] for each in values]
    seeds = [view.seeds for view in views]
    made: dict[str, Any] = {"name": name, "labels": [view.label(name) for view in views]}
    made |= {"means": [sum(each) / len(each) if each else None for each in known], "outcome": NONE, "how": None}
    whole = all(len(each) == len(s) for each, s in zip(known, seeds))
    if not all(known):
        return made | {"difference": None}
    if whole and seeds[0] == seeds[1]:
        gaps = [a - b for a, b in zip(*known)]
        interval, made["how"], enough = paired_interval(gaps, level), "paired", len(gaps)
    else:
        gaps, made["how"] = [], "welch"
        interval, enough = welch_interval(known[0], known[1], level), min(map(len, known))
    if enough >= LEAST_SEEDS and interval.excludes_zero:
        made["outcome"] = BETTER if (interval.mean > 0) == views[0].higher else WORSE
    return made | {"difference": _as_data(interval, gaps), "seeds": [len(each) for each in known]}


def _as_data(interval: Interval, gaps: Sequence[float]) -> dict[str, Any]:
    spread = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return spread | {"level": interval.level, "per_seed": list(gaps)}


def _verdicts(views: tuple[View, View]) -> list[dict[str, Any]]:
    """Return every verdict that either report holds, with its outcome in both."""
    seen = [{(v["arm"], v["against"]): v["outcome"] for v in view.verdicts} for view in views]
    rows = []
    for arm, against in dict.fromkeys([*seen[0], *seen[1]]):
        view = views[0] if (arm, against) in seen[0] else views[1]
        outcomes = [each.get((arm, against)) for each in seen]
        labels = [view.label(arm), view.label(against)]
        rows.append({"arm": arm, "against": against, "labels": labels, "outcomes": outcomes})
        rows[-1]["changed"] = outcomes[0] != outcomes[1]
    return rows


def _differs(
    pair: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, Any] | None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what differs, group by group, and the groups in which nothing does."""
    facts = [_facts(report, known) for report, known in zip(pair, settings)]
    rows, same = [], []
    for group in facts[0]:
        sides = [each[group] for each in facts]
        found = [
            {"group": group, "what": key, "values": [side.get(key) for side in sides]}
            for key in dict.fromkeys([*sides[0], *sides[1]])
            if sides[0].get(key) != sides[1].get(key)
        ]
        rows += found
        if not found and any(sides):
            same.append(group)
    return rows, same


def _facts(report: Mapping[str, Any], settings: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
    """Return everything that may differ, written: group → name → value."""
    data, teacher = report.get("data") or {}, report.get("teacher") or {}
    about = {"name": teacher.get("name"), "parameters": teacher.get("parameters")}
    about |= {"fingerprint": teacher.get("fingerprint"), **(teacher.get("metrics") or {})}
    told = {"seeds": report["seeds"], "command": report.get("command"), "system": report.get("system")}
    arms: dict[str, Any] = {}
    for arm in report["arms"]:
        own = {"role": arm.get("role"), "expression": arm.get("expression"), "parameters": arm.get("parameters")}
        arms |= {f"{arm['name']}: {key}": value for key, value in (own | _flat(arm.get("budget") or {})).items()}
    groups = {
        "data": {key: value for key, value in data.items() if key != "notes"},
        "teacher": about,
        "settings": told | (report.get("setting") or {}) | _flat(settings or {}),
        "arms": arms,
        "versions": report.get("versions") or {},
        "machine": report.get("machine") or {},
    }
    return {
        group: {str(key): plain(value) for key, value in facts.items() if value not in (None, "", [], {})}
        for group, facts in groups.items()
    }


def _flat(tree: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Return a nested mapping as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{start}{key}.") if isinstance(value, Mapping) else {f"{start}{key}": value}
    return flat


def _notes(views: tuple[View, View], differs: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> list[str]:
    notes = []
    marks = {group: {row["what"] for row in differs if row["group"] == group} for group in ("data", "teacher")}
    mixed = [group for group, rows in marks.items() if rows & {"fingerprint", "name"}]
    if mixed:
        notes.append(
            f"The runs have different {' and '.join(mixed)}; a difference between their arms may come from that alone."
        )
    seeds = [view.seeds for view in views]
    if seeds[0] != seeds[1]:
        told = [", ".join(map(str, each)) or "none at all" for each in seeds]
        notes.append(
            f"The seeds are not the same ({names[0]}: {told[0]}; {names[1]}: {told[1]}), so nothing is paired: the "
            "intervals are Welch's, for two independent groups, and as a rule wider than paired ones."
        )
    if not any(arm["name"] in views[1].index for arm in views[0].arms):
        notes.append("The runs have no arm of the same name; only their settings can be compared.")
    return notes


def _family(shared: int, adjust: bool) -> str:
    """Say how the number of intervals was allowed for; empty where there is but one."""
    if shared < 2:
        return ""
    if adjust:
        return f"The {shared} intervals are widened so that all of them hold together (Bonferroni)."
    return (
        f"Each of the {shared} intervals holds by itself; they are not widened for their number (--adjust does that)."
    )
