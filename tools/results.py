"""Make ``docs/results.md``, ``docs/leaderboard.md`` and the README's table of systems, from evidence, cards and states.

Every figure was seen in a run whose command stands beside it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distil import catalog
from distil.boards import BOARDS
from distil.errors import DistilError
from distil.loops.lab import methods_of
from distil.report import paired_interval
from distil.report.view import further

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
BOARD_PAGE = ROOT / "docs" / "leaderboard.md"
#: What is scored beside the metric: on a long tail by how common classes were in training, encoders by a linear probe.
BESIDE = ("head third accuracy", "tail third accuracy", "linear")
MARKS = ("<!-- systems: made by `make results` -->", "<!-- /systems -->")

HEAD = """# Results

Made from `evidence/*.json` by `make results`; nothing here is written by hand. Each row is the mean over paired seeds
(same initial weights, same order of the data, equal budget), the epoch chosen on validation data and scored on test
data. *Difference* is to the reference arm, with the 95 % t-interval of the paired differences; it is in bold where the
interval excludes 0. "No difference seen" is a result. On a long tail the classes are also scored by thirds, the most
common ones (head) and the rarest (tail), and encoders by a linear probe beside their nearest neighbours, each with its
own difference.
"""


BOARD_HEAD = """# The leaderboard of classification

Made from `evidence/boards/*.json` by `make results`; nothing here is written by hand. Methods that take one trained
teacher and one fresh student, under one budget: the first board has all that fit it, the others a choice. Every row has
two tries, chosen on validation and reported on test: the published weights, and weights at which the method pulls as
hard as the labels or, where the two cannot be weighed, a lower learning rate. The figures are of small nets and small
images on a processor: they are no figures of the papers, which are on CIFAR-100 and ImageNet. What each setting tells,
and what it does not, is in [choose.md](choose.md). Pages with curves and gradient shares: `evidence/boards/*.html`.
"""
PARTS = """A further part of a setting holds methods that were added later, with a teacher trained anew: compare them
with the student alone and KD of their own part. Where a method stands in two parts, the later row takes the place of
the earlier, which is called stale.
"""


def board_page() -> str:
    """Return the page of leaderboards."""
    further = any((ROOT / "evidence" / "boards").glob("*.*.json"))
    parts = [BOARD_HEAD, *([PARTS] if further else [])]
    for name in BOARDS:
        for file in sorted((ROOT / "evidence" / "boards").glob(f"{name}.*json"), key=lambda f: (len(f.name), f.name)):
            run = json.loads(file.read_text(encoding="utf-8"))["run"]
            parts += [place(file.stem.replace(".", "-")), f"## {run['title']}\n"]
            parts += [f"Seeds {', '.join(map(str, run['seeds']))}. `{run['command']}`\n"]
            parts += [f"- {key}: {value}" for key, value in run["setting"].items()]
            metrics = run["teacher"]["metrics"]
            parts += [f"- Teacher: accuracy {metrics['accuracy']:.1f} %"]
            old = [arm["label"] for arm in run["arms"] if arm["hash"] != behind(arm["expression"])]
            parts += [f"- Stale, since their code changed after the run: {', '.join(old)}"] if old else []
            parts += ["", *tables_of(run)]
    return "\n".join(parts)


def behind(expression: str) -> str:
    """Return the hash of the code behind an expression now; "" where it cannot be read any more."""
    try:
        return catalog.maths_hash(methods_of(expression))
    except DistilError:
        return ""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for slug, card in catalog.systems().items():
        stored = catalog.evidence(slug)
        if stored is None:
            continue
        state = catalog.state(slug)
        parts.append(f"## {card.name} (`{slug}`)\n\n{card.title}. {card.venue} {card.year}. State: {state}.\n")
        parts += [f"- {limit}" for limit in card.limits] + [""]
        for number, run in enumerate(stored["runs"], 1):
            parts += [place(f"{slug}-{number}"), section(run)]
    return "\n".join(parts)


def place(name: str) -> str:
    """Return where a link to one run leads: a system's runs are counted from 1, a board has the name of its file."""
    return f'<a id="{name}"></a>\n'


def section(run: dict[str, Any]) -> str:
    """Return one setting's table, its verdicts and the command that repeats it."""
    metric, unit = run["metric"]["name"], run["metric"].get("unit") or ""
    reference = next(arm for arm in run["arms"] if arm["role"] == "reference")
    told = sorted({name for arm in run["arms"] for name in arm.get("diagnostics") or {}})
    names = {name: digits_of(name, run["arms"]) for name in told}
    beside = [name for name in BESIDE if name in reference["metrics"]]
    head = [
        "arm",
        "role",
        f"{metric} {unit}".strip(),
        "last epoch",
        "difference",
        *(title for name in beside for title in (f"{name.removesuffix(' accuracy')} {unit}".strip(), "its difference")),
        "ECE",
        "parameters",
        "seconds",
        *(column(name, names) for name in names),
    ]
    lines = [f"### {run['title']}\n", f"Seeds {', '.join(map(str, run['seeds']))}. `{run['command']}`\n"]
    lines += [f"- {key}: {value}" for key, value in run["setting"].items()]
    if run.get("teacher"):
        lines.append(f"- Teacher's {metric}: {run['teacher']['metrics'][metric]:.1f} {unit}")
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row(arm, reference, metric, beside, names)) + " |" for arm in run["arms"]]
    lines += ["", *(f"- {verdict['text']}" for verdict in run["verdicts"]), ""]
    return "\n".join(lines + tables_of(run))


def column(name: str, names: Iterable[str]) -> str:
    """Return what a column is called: a loss of one term goes by its method's name, and arms differ in which it is."""
    return f"{name} (of one term, the arm's own)" if any(other.startswith(f"{name}.") for other in names) else name


def tables_of(run: dict[str, Any]) -> list[str]:
    """Return a run's further tables, line by line."""
    lines = []
    for table in further(run):
        lines += [f"**{table['title']}.** {table['note']}\n", "| " + " | ".join(table["head"]) + " |"]
        lines += ["|" + "".join("---|" if left else "---:|" for left in table["left"])]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in table["rows"]] + [
            ""
        ]
    return lines


def row(
    arm: dict[str, Any], reference: dict[str, Any], metric: str, beside: list[str], names: dict[str, int]
) -> list[str]:  # fmt: skip
    """Return one arm's cells."""
    extra = [mean_of((arm.get("diagnostics") or {}).get(name), digits) for name, digits in names.items()]
    return [
        arm["label"],
        arm["role"],
        best(arm, metric),
        f"{statistics.mean(arm['metrics'][metric]['last']):.1f}",
        gap(arm, reference, metric),
        *(cell for name in beside for cell in (best(arm, name), gap(arm, reference, name))),
        mean_of(arm["metrics"].get("ece", {}).get("best"), 3),
        f"{arm['parameters']:,}",
        f"{statistics.mean(arm['cost']['seconds']):.0f}",
        *extra,
    ]


def best(arm: dict[str, Any], metric: str) -> str:
    """Return the mean and the spread of an arm's scores at its best epochs."""
    scores = arm["metrics"][metric]["best"]
    return f"{statistics.mean(scores):.1f} ± {spread(scores):.1f}"


def gap(arm: dict[str, Any], reference: dict[str, Any], metric: str) -> str:
    """Return the paired difference to the reference with its interval, in bold where that excludes 0."""
    if arm is reference:
        return ""
    ours, theirs = (one["metrics"][metric]["best"] for one in (arm, reference))
    seen = paired_interval([a - b for a, b in zip(ours, theirs, strict=True)])
    text = f"{seen.mean:+.1f}" + ("" if seen.low is None else f" ({seen.low:+.1f} to {seen.high:+.1f})")
    return f"**{text}**" if seen.excludes_zero else text


def mean_of(values: list[float] | None, digits: int) -> str:
    """Return a mean, or nothing where there is none."""
    return f"{statistics.mean(values):.{digits}f}" if values and None not in values else ""


def digits_of(name: str, arms: list[dict[str, Any]]) -> int:
    """Return how many places a column has: two, or four where all that is in it is small."""
    each = [values for arm in arms if (values := (arm.get("diagnostics") or {}).get(name)) and None not in values]
    means = [abs(statistics.mean(values)) for values in each]
    return 4 if 0 < max(means, default=0) < 0.1 else 2


def spread(values: list[float]) -> float:
    """Return the sample standard deviation; 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def readme(text: str) -> str:
    """Return the README with its table of systems made anew."""
    rows = ["| no | system | what it is | field | state |", "|---:|---|---|---|---|"]
    for slug, card in catalog.systems().items():
        if card.origin == "distil":
            state = catalog.state(slug)
            shown = f"**{state}**" if state.name != "planned" else str(state)
            rows.append(
                f"| {card.number} | `{slug}` | {card.name}, {card.venue} {card.year} | {card.field} | {shown} |"
            )
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    return text[:begin] + "\n" + "\n".join(rows) + "\n" + text[end:]


def main() -> None:
    """Write both files."""
    PAGE.write_text(page(), encoding="utf-8")
    BOARD_PAGE.write_text(board_page(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(", ".join(str(file.relative_to(ROOT)) for file in (PAGE, BOARD_PAGE, README)), "written", file=sys.stderr)


if __name__ == "__main__":
    main()
