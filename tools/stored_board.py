"""A stored run of a board in the words that a run has now, so that a mended sentence needs no run; figures stay."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distil.boards.classification import ENTRIES, left_out
from distil.errors import DistilError
from distil.loops.board_tables import ABSENT, COLUMNS, TRIES, titled
from distil.loops.board_tries import Entry, kept_from
from distil.loops.images import made_of

__all__ = ["in_words_of_now"]

LONG = 120  # seconds a run of the small setting should take at most, on an idle machine
STAGED = (
    "the factor of its second try, as stored, is on a stage that stands alone, after which {optimizer} forgets its "
    "moments; that changes next to nothing, so the two tries are one in effect"
)


def in_words_of_now(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run with its settings, notes, names and shares as they are said now, and the seconds a run took."""
    tables = {table["title"]: table for table in run["tables"]}
    entries = _entries(run, tables["Tries"])
    changed = {
        "Leaderboard": _standing(tables["Leaderboard"], run, entries),
        "Tries": _tries(tables["Tries"], run, entries),
        "Not on the board": _absent(tables.get("Not on the board"), run["settings"]["methods"]),
    }
    return {**run, "setting": _setting(run), "tables": [*({**tables, **changed}).values()]}


def _entries(run: Mapping[str, Any], tries: Mapping[str, Any]) -> dict[str, Entry]:
    """The entries of today by their label, of those rows whose published sum is still the entry's."""
    known = {entry.name: entry for entry in ENTRIES}
    published = {row[0]: row[1] for row in reversed(tries["rows"])}  # the first of two counts
    entries = (known[arm["name"]] for arm in run["arms"] if arm["name"] in known)
    return {entry.label: entry for entry in entries if published.get(entry.label) == entry.expression}


def _setting(run: Mapping[str, Any]) -> dict[str, str]:
    data, pair, setting = run["data"], run["settings"]["pair"], dict(run["setting"])
    counts = [data[part] for part in ("train", "val", "test")]
    made = made_of(pair["data"], counts, len(data["classes"]), even=pair["imbalance"] == 1)
    if made not in setting["Data"]:
        setting["Data"] += made
    seconds = {arm["label"]: _seconds(arm) for arm in run["arms"]}
    least, most = (f"{f(seconds.values()):.0f}" for f in (min, max))
    slow = ", ".join(f"{label} ({taken:.0f})" for label, taken in seconds.items() if taken > LONG)
    setting["Seconds a run"] = (
        f"{least} to {most}, each method's median over seeds with its scoring on validation, while other work ran on "
        f"the same machine; above {LONG}: {slow or 'none'}"
    )
    return setting


def _seconds(arm: Mapping[str, Any]) -> float:
    return statistics.median(arm["cost"]["seconds"])


def _standing(table: Mapping[str, Any], run: Mapping[str, Any], entries: Mapping[str, Entry]) -> dict[str, Any]:
    rows = []
    for row in table["rows"]:
        arm = next(arm for arm in run["arms"] if row[0] == arm["label"] or row[0].startswith(f"{arm['label']} ("))
        entry = entries.get(arm["label"])
        rows.append([titled(entry) if entry else row[0], *row[1:], f"{_seconds(arm):.0f}"])
    note = f"{table['note'].partition(' By itself:')[0]} {COLUMNS} Seconds: of a run, the median over seeds."
    return {**table, "head": [*table["head"], "seconds"], "rows": rows, "note": note}


def _tries(table: Mapping[str, Any], run: Mapping[str, Any], entries: Mapping[str, Entry]) -> dict[str, Any]:
    steps, training = run["arms"][0]["budget"]["updates"], run["settings"]["training"]
    rows, staged = [], []
    for first, second in _pairs(table["rows"]):
        entry = entries.get(first[0])
        kept = _kept((entry and entry.parted) or first[1], steps=steps, epochs=training["epochs"])
        if kept == "apart" and first[2] == second[2]:
            staged.append(first[0])
        rows += [[*first[:3], first[3] if kept in ("", "none") else "", *first[4:]], second]
    said = STAGED.format(optimizer=training["optimizer"])
    note = " ".join([TRIES, *(f"{label}: {said}." for label in staged)])
    return {**table, "rows": rows, "note": note}


def _kept(expression: str, **length: int) -> str:
    """As :func:`kept_from`; of a sum that cannot be read any more nothing is known."""
    try:
        return kept_from(expression, **length)
    except DistilError:
        return ""


def _pairs(rows: Sequence[Sequence[str]]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Both tries of each arm, which lie one under the other."""
    return zip(rows[::2], rows[1::2], strict=True)


def _absent(table: Mapping[str, Any] | None, methods: Sequence[str]) -> dict[str, Any]:
    """What did not fit is of the run; the rest is of today."""
    names = {text.partition(":")[0].strip() for text in methods}
    refused = [row for row in (table["rows"] if table else []) if row[0] in names]
    rows = [*refused, *([name, why] for name, why in left_out(methods).items())]
    return {"title": "Not on the board", "head": ["method", "why"], "rows": rows, "note": ABSENT}
