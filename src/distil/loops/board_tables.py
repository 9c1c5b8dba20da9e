"""What a leaderboard's report says: its standing, the tries, the orderings, and what is not on it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from distil.loops.board_tries import ALONE, KD, Entry, Seat
from distil.loops.tuning import Tuned, score_text
from distil.report.blocks import Blocks
from distil.report.text import over_seeds
from distil.report.verdict import LEAST_SEEDS, Interval, paired_interval

__all__ = ["ABSENT", "COLUMNS", "TRIES", "absent", "orderings", "standing", "titled", "tries"]

COLUMNS = (
    "By itself: the paired t-interval of that row's own differences, 95 % for it alone. Step cost: a training step's "
    "time in the last epoch as a multiple of the student alone's, taken together on one machine, medians. Seconds: of "
    "a run with its scoring on validation, the median over seeds, whatever else the machine did."
)
LONG = 120  # seconds that a run of a small setting should take at most
TRIES = (
    "The first try has the published weights. The second has labels at 1 and the rest scaled to as large a gradient as "
    "cross-entropy's at the first step (schedules at their peak); where labels cannot be taken apart from the rest, or "
    "there are none, where the two never meet in one step, and for the student alone, a lower learning rate. The share "
    "is left empty where it would hold labels too, or a loss that no step has beside the labels."
)
ABSENT = (
    "Methods that these models do not fit, methods that ask for something else, and methods that were not chosen for "
    "this board."
)


def standing(
    report: Mapping[str, Any], seats: Mapping[str, Seat], tuned: Mapping[str, Tuned], paces: Mapping[str, float],
    scores: Mapping[str, Sequence[float]],
) -> dict[str, Any]:  # fmt: skip
    """Return the table of all arms, the best first, with their differences to the student alone and to KD."""
    blocks = Blocks(scores)
    count = len(scores) - 1
    size = {arm["name"]: arm["parameters"] for arm in report["arms"]}
    seconds = {arm["name"]: statistics.median(arm["cost"]["seconds"]) for arm in report["arms"]}
    rows = []
    for name in sorted(scores, key=lambda n: -statistics.fmean(scores[n])):
        seat, values = seats[name], scores[name]
        against = [
            _shown(blocks.difference(name, other, comparisons=count)) if name != other else "" for other in (ALONE, KD)
        ]
        alone = paired_interval([a - b for a, b in zip(values, scores[ALONE])])
        rows.append(
            [
                titled(seat.entry),
                over_seeds(values),
                *against,
                _shown(alone, mark=False) if name != ALONE else "",
                str(tuned[name].point.values["weights"]),
                f"{paces[name]:.2f}",
                f"{size[name] - size[ALONE]:+,}" if size[name] != size[ALONE] else "0",
                f"{seconds[name]:.0f}",
            ]
        )
    spread = f"{blocks.deviation:.2f} points, {blocks.freedom} degrees of freedom" if blocks.freedom else "one seed"
    apart = f" {', '.join(sorted(blocks.uneven))}: noisier than the rest, so by their own paired differences." * bool(
        blocks.uneven
    )
    long = ", ".join(f"{seats[name].entry.label} ({took:.0f})" for name, took in seconds.items() if took > LONG)
    head = ["method", "accuracy", "to the student alone", "to KD", "to the student alone, by itself"]
    return {
        "title": "Leaderboard",
        "head": [*head, "chosen try", "step cost", "extra parameters", "seconds"],
        "rows": rows,
        "note": f"Best epoch on validation, scored on test; mean ± deviation over {blocks.seeds} seeds. Intervals are "
        f"95 % for all {count} differences of a column together (Bonferroni), from one spread of what arms and seeds "
        f"leave ({spread}); * where 0 lies outside.{apart} {COLUMNS} Above {LONG}: {long or 'none'}.",
    }


def titled(entry: Entry) -> str:
    """Return what a row is called: the method, and what a reader must know of it."""
    return entry.label + (f" ({entry.note})" if entry.note else "")


def _shown(gap: Interval, *, mark: bool = True) -> str:
    if gap.low is None or gap.high is None:
        return f"{gap.mean:+.1f}"
    clear = mark and gap.n >= LEAST_SEEDS and gap.excludes_zero
    return f"{gap.mean:+.1f} ({gap.low:+.1f} to {gap.high:+.1f}){' *' if clear else ''}"


def tries(seats: Mapping[str, Seat], tuned: Mapping[str, Tuned]) -> dict[str, Any]:
    """Return the table of both tries of every arm."""
    rows = []
    for name, seat in seats.items():
        one = tuned[name]
        for place, point in enumerate(one.points):
            share = f"{seat.balance.share:.0%}" if seat.balance and not place else ""
            rows.append(
                [
                    seat.entry.label, point.expression, f"{point.training.lr:g}", share,
                    score_text(one.scores[place], ".1f"), "chosen" if place == one.chosen else "",
                ]
            )  # fmt: skip
    return {
        "title": "Tries",
        "head": ["method", "sum", "learning rate", "method's share of the gradient", "validation", ""],
        "rows": rows,
        "note": TRIES,
    }


def absent(why: Mapping[str, str]) -> dict[str, Any]:
    """Return the table of what is not on the board, and why."""
    return {
        "title": "Not on the board",
        "head": ["method", "why"],
        "rows": [[name, text] for name, text in why.items()],
        "note": ABSENT,
    }


def orderings(published: Mapping[str, Sequence[float]], scores: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the table of published orderings: which hold here, are reversed, or are undecided.

    An ordering is a pair of methods that lie a point apart or more, the same way round, for every published pair of
    models. It holds (or is reversed) where the interval of the difference here, for all orderings together, excludes 0.

    >>> table = orderings({"kd": [73.0, 70.0], "dkd": [76.0, 72.0]}, {"kd": [60, 61, 62], "dkd": [64, 65.1, 65.9]})
    >>> table["rows"][0][-1]
    'holds'
    """
    names = [name for name in published if name in scores]
    pairs = []
    for first in names:
        for second in names:
            gaps = [a - b for a, b in zip(published[first], published[second], strict=True)]
            if first != second and min(gaps) >= 1 - 1e-9:
                pairs.append((first, second, gaps))
    blocks = Blocks(scores)
    rows = []
    for first, second, gaps in sorted(pairs, key=lambda pair: -min(pair[2])):
        here = blocks.difference(first, second, comparisons=len(pairs))
        clear = here.n >= LEAST_SEEDS and here.excludes_zero
        verdict = "undecided" if not clear else "holds" if here.mean > 0 else "reversed"
        rows.append([first, second, ", ".join(f"{gap:+.1f}" for gap in gaps), _shown(here), verdict])
    counted = {word: sum(row[-1] == word for row in rows) for word in ("holds", "reversed", "undecided")}
    return {
        "title": "Published orderings",
        "head": ["better", "worse", "published", "here", "seen"],
        "rows": rows,
        "note": f"Pairs of methods at least a point apart for every published pair of models: "
        f"{', '.join(f'{count} {word}' for word, count in counted.items())}. Intervals hold for all {len(pairs)} "
        "together.",
    }
