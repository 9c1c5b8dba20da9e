"""Make ``docs/performance.md`` from ``benchmarks/results/*.json``: every row that was measured, won or lost.

python tools/performance.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"

HEAD = """# Performance

Made from `benchmarks/results/*.json` by `make benchmarks`; nothing here is written by hand. Both sides of a row do the
same work in one run, warm, in the order A B B A; figures are medians. The machines are shared and noisy, so read the
ratios (peer / ours unless the row says otherwise), not the times. A row that misses its target stays.
"""
TITLES = {
    "C1": "Losses, forward and backward",
    "C2": "An epoch of distillation",
    "C3": "Reading a teacher's stored answers",
    "C4": "Codecs of stored answers",
    "C5": "Embeddings",
    "C6": "GLNN",
    "C7": "Anomaly detection",
    "C8": "Imports and the command line",
    "C9": "Lines a user writes",
    "H1": "Losses from hidden states, on CUDA",
    "H2": "Throughput on CUDA",
    "H3": "A language model's step on CUDA",
    "H4": "A stored teacher on CUDA",
    "T1": "The teacher's forward pass",
    "PLAN": "What a plan predicts",
}


def page() -> str:
    """Return the whole page."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    return "\n".join([HEAD, summary(found), *map(section, found)])


def summary(found: list[dict[str, Any]]) -> str:
    """Return how many rows met their target, and those that did not."""
    rows = [(content["row"], row) for content in found for row in content["rows"]]
    judged = [(name, row) for name, row in rows if row.get("met") is not None]
    lost = [f"- {name}: {cell(named(row))} (wanted {cell(row['target'])})" for name, row in judged if not row["met"]]
    told = (
        f"{len(judged) - len(lost)} of {len(judged)} rows with a target meet it; {len(rows) - len(judged)} have none."
    )
    slower = [
        f"- {name}: {cell(named(row))} (ratio {number(row['ratio'])})"
        for name, row in judged
        if row["met"]
        and row.get("ratio") is not None
        and row["ratio"] < 1
        and "error_percent" not in row
        and not swapped(row)
    ]
    parts = ["## In short\n", told + "\n", *(["Missed:\n", *lost, ""] if lost else [])]
    parts += ["Target met, and yet behind the other side:\n", *slower, ""] if slower else []
    return "\n".join(parts)


def swapped(row: dict[str, Any]) -> bool:
    """Say whether a row's ratio is ours / peer, of something that shall be small (bytes, errors)."""
    ours, peer = row.get("ours"), row.get("peer")
    return bool(ours and peer) and abs(row["ratio"] - ours / peer) < 0.01 * row["ratio"] < abs(
        row["ratio"] - peer / ours
    )


def section(content: dict[str, Any]) -> str:
    """Return one benchmark's table."""
    name = content["row"]
    machine = ", ".join(f"{key} {value}" for key, value in content.get("machine", {}).items())
    setting = "; ".join(f"{key}: {plain(value)}" for key, value in content.get("setting", {}).items())
    lines = [f"## {name}: {TITLES[name]}\n" if name in TITLES else f"## {name}\n", f"{cell(setting)}. On {machine}.\n"]
    heads = ["what", "ours", "peer", "ratio", "target", "met", "tried"]
    rows = content["rows"]
    heads = [head for head in heads if head != "tried" or any(row.get("tried") for row in rows)]
    lines += ["| " + " | ".join(heads) + " |", "|" + "".join("---:|" if h in NUMBERS else "---|" for h in heads)]
    lines += ["| " + " | ".join(shown(row, head) for head in heads) + " |" for row in rows]
    return "\n".join([*lines, ""])


NUMBERS = ("ours", "peer", "ratio")


def shown(row: dict[str, Any], head: str) -> str:
    """Return a cell."""
    value = row.get(head)
    if head == "what":
        return cell(named(row))
    if head == "met":
        return "" if value is None else "yes" if value else "**no**"
    return number(value) if head in NUMBERS else cell(plain(value))


def named(row: dict[str, Any]) -> str:
    """Return what a row measured, in which unit, beside whom.

    >>> named({"what": "an epoch", "unit": "ms", "peer_name": "by hand"})
    'an epoch, ms, beside by hand'
    """
    beside = row.get("peer_name")
    return ", ".join([row["what"], *filter(None, [row.get("unit"), f"beside {beside}" if beside else None])])


def number(value: float | None) -> str:
    """Return a number with three digits that count.

    >>> number(0.01234), number(1234.5), number(None)
    ('0.0123', '1,234', '')
    """
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def plain(value: Any) -> str:
    """Return a value in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def cell(text: str) -> str:
    """Return text that stays inside its cell."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} written", file=sys.stderr)


if __name__ == "__main__":
    main()
