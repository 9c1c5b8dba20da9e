"""What a report may hold: plain JSON data, of a known kind and version, with its parts in agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distil.errors import DistilError, nearest
from distil.report.pictures import check_pictures
from distil.report.verdict import HELPED, HURT, NONE

__all__ = ["KIND", "OUTCOMES", "ROLES", "VERSION", "clean", "validate"]

KIND = "comparison"
VERSION = 1
ROLES = ("reference", "rival", "method", "ablation", "bound")
OUTCOMES = (HELPED, NONE, HURT)

_TOP: dict[str, type | tuple[type, ...]] = {
    "setting": dict,
    "data": dict,
    "teacher": dict,
    "verdicts": list,
    "versions": dict,
    "machine": dict,
    "adjustment": dict,
    "warnings": list,
    "tables": list,
    "pictures": list,
}
_ARM: dict[str, type | tuple[type, ...]] = {
    "metrics": dict,
    "latency": dict,
    "curves": list,
    "terms": list,
    "agreement": list,
    "reliability": dict,
    "cost": dict,
    "budget": dict,
    "diagnostics": dict,
}


def clean(value: Any, where: str = "report") -> Any:
    """Return ``value`` as plain JSON data: tensors and arrays become lists, NaN and infinity None, odd text readable.

    Args:
        value: nested mappings, sequences, numbers, text, arrays or tensors.
        where: the name of ``value`` in messages.

    Raises:
        DistilError: something has no JSON form; its place is named.

    >>> clean({"a": (1, float("nan"))})
    {'a': [1, None]}
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (str, Path)):
        return _readable(str(value))
    if isinstance(value, Mapping):
        return {_readable(str(key)): clean(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if callable(getattr(value, "tolist", None)):
        return clean(value.tolist(), where)
    raise DistilError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold; give numbers, text, lists or dicts."
    )


def _readable(text: str) -> str:
    # File names may hold lone surrogates, and control characters are not allowed in HTML or SVG.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        "\ufffd" if (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 else char for char in text
    )


def validate(report: Any) -> None:
    """Refuse what is not a report of this version, naming the place.

    Required are ``kind``, ``version``, ``title``, ``metric`` (``name``, ``higher_is_better``), ``seeds`` and ``arms``
    (each with its own ``name``); per-seed lists are as long as ``seeds``; verdicts name arms that exist.

    Raises:
        DistilError: with the place, what was seen and what was expected.
    """
    if not isinstance(report, dict) or "kind" not in report:
        raise DistilError("this is not a report of distil: it has no 'kind'; give a report.json that distil wrote.")
    if report["kind"] != KIND:
        raise DistilError(
            f"this report is of kind {report['kind']!r}, not {KIND!r}; it needs the command that wrote it."
        )
    version = report.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DistilError(f"the report's version is {version!r}, expected a whole number up to {VERSION}.")
    if version > VERSION:
        raise DistilError(
            f"the report has version {version}, and this distil reads up to {VERSION}; update distil to read it."
        )
    _expect(report, "title", str, "report")
    _expect(report, "metric", dict, "report")
    _expect(report["metric"], "name", str, "metric")
    _expect(report["metric"], "higher_is_better", bool, "metric")
    _expect(report, "seeds", list, "report")
    _expect(report, "arms", list, "report")
    if report["metric"].get("score", "last") not in ("last", "best", None):
        raise DistilError(f"metric.score is {report['metric']['score']!r}, expected 'last' or 'best'.")
    for key, kind in _TOP.items():
        _expect(report, key, kind, "report", optional=True)
    names = [_validate_arm(arm, i, len(report["seeds"])) for i, arm in enumerate(report["arms"])]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DistilError(f"two arms are called {sorted(twice)[0]!r}; every arm needs its own name.")
    for i, table in enumerate(report.get("tables") or []):
        _validate_table(table, f"tables[{i}]")
    check_pictures(report.get("pictures") or [])
    for i, entry in enumerate(report.get("verdicts") or []):
        _validate_verdict(entry, f"verdicts[{i}]", names)


def _validate_arm(arm: Any, index: int, seeds: int) -> str:
    where = f"arms[{index}]"
    if not isinstance(arm, dict):
        raise DistilError(f"{where} is {type(arm).__name__}, expected an object.")
    _expect(arm, "name", str, where)
    where = f"arm {arm['name']!r}"
    for key, kind in _ARM.items():
        _expect(arm, key, kind, where, optional=True)
    if arm.get("role") is not None and arm["role"] not in ROLES:
        raise DistilError(f"{where} has role {arm['role']!r}; {nearest(str(arm['role']), ROLES)}")
    lists: dict[str, Any] = {key: arm.get(key) for key in ("curves", "terms", "agreement")}
    for name, scores in (arm.get("metrics") or {}).items():
        _expect({name: scores}, name, dict, f"{where} metrics", optional=True)
        lists |= {f"metrics.{name}.{score}": (scores or {}).get(score) for score in ("last", "best")}
    for name, values in lists.items():
        if values is None or values == []:
            continue
        if not isinstance(values, list) or len(values) != seeds:
            seen = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
            raise DistilError(f"{where} {name} holds {seen}, expected a list with one value for each of {seeds} seeds.")
        odd = [value for value in values if value is not None and not _is_number(value)]
        if odd and name.startswith(("metrics.", "agreement")):
            raise DistilError(f"{where} {name} holds {str(odd[0])[:40]!r}, expected numbers (null for none).")
    return str(arm["name"])


def _validate_table(table: Any, where: str) -> None:
    if not isinstance(table, dict):
        raise DistilError(f"{where} is {type(table).__name__}, expected an object.")
    _expect(table, "title", str, where)
    _expect(table, "note", str, where, optional=True)
    for key in ("head", "rows"):
        _expect(table, key, list, where)
    if table.get("drawing") not in (None, "heat"):
        raise DistilError(f"{where} has the drawing {table['drawing']!r}, expected 'heat' or none.")
    for i, row in enumerate(table["rows"]):
        if not isinstance(row, list) or len(row) != len(table["head"]):
            raise DistilError(f"{where} rows[{i}] is no list of {len(table['head'])} cells, one for each column.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _validate_verdict(entry: Any, where: str, names: list[str]) -> None:
    if not isinstance(entry, dict):
        raise DistilError(f"{where} is {type(entry).__name__}, expected an object.")
    for key in ("arm", "against", "outcome", "text"):
        _expect(entry, key, str, where)
    _expect(entry, "difference", dict, where, optional=True)
    if entry["outcome"] not in OUTCOMES:
        raise DistilError(f"{where} has outcome {entry['outcome']!r}; {nearest(entry['outcome'], OUTCOMES)}")
    for key in ("arm", "against"):
        if entry[key] not in names:
            raise DistilError(
                f"{where} names the arm {entry[key]!r}, which is not in the report; {nearest(entry[key], names)}"
            )


def _expect(
    holder: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str, *, optional: bool = False
) -> None:
    value = holder.get(key)
    if value is None and optional:
        return
    if not isinstance(value, kind):
        seen = "missing" if key not in holder else f"{type(value).__name__}"
        words = {str: "text", dict: "an object", list: "a list", bool: "true or false"}
        wanted = words[kind] if isinstance(kind, type) else " or ".join(words[each] for each in kind)
        raise DistilError(f"{where}: {key!r} is {seen}, expected {wanted}.")
