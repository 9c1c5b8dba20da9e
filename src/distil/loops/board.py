"""A leaderboard: many methods, each with one trained teacher, one fresh student and the same labels."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distil.errors import DistilError, Diverged
from distil.loops.balance import TASK, Balance, balanced
from distil.loops.grid import Point
from distil.loops.images import Pair
from distil.loops.lab import Arm, Lab, Outcome, code_for
from distil.loops.pace import step_ratio
from distil.loops.recipe import Experiment
from distil.loops.training import Training, build_model
from distil.loops.tuning import Tuned, score_text, tune_arms, tuning_seed
from distil.methods.expression import parse
from distil.report.blocks import Blocks
from distil.report.document import entry_of
from distil.report.text import over_seeds
from distil.report.verdict import LEAST_SEEDS, Interval, paired_interval
from distil.tasks import get_task

__all__ = ["ALONE", "KD", "Entry", "leaderboard", "orderings"]

ALONE, KD = "alone", "kd"
STEP = 10**0.5
"""How much lower the learning rate of the second try is where a method has no weight beside the labels."""


@dataclass(frozen=True)
class Entry:
    """A method on the board: its published sum, and what a reader must know of it.

    ``parted`` is the same sum with the labels as a component of their own, for a method that holds them: so they can be
    weighed against the rest. Of a method that mixes labels it only stands for the sum while that is measured, plain
    cross-entropy for its labels; ``weighted`` is then the sum of the second try, ``{weight}`` the rest's coefficient.
    """

    name: str
    expression: str
    label: str
    note: str = ""
    parted: str = ""
    weighted: str = ""


@dataclass(frozen=True)
class _Seat:
    """An entry that fits these models: its two tries, and what was measured for the second."""

    entry: Entry
    points: tuple[Point, Point]
    balance: Balance | None


def leaderboard(
    title: str, entries: Sequence[Entry], pair: Pair, training: Training, seeds: Sequence[int], lab: Lab, *,
    published: Mapping[str, Sequence[float]] | None = None, left_out: Mapping[str, str] | None = None,
) -> Experiment:  # fmt: skip
    """Return the arms of a leaderboard, every one chosen from two tries on validation, and the tables that close it.

    A method's tries are its published sum, and that sum with labels at weight 1 and the rest scaled so that its
    gradient is as large as cross-entropy's at the first step. Where there is nothing to balance (the student alone; a
    sum without labels of its own, to whose scale Adam is blind), the second try is a learning rate lower by √10. What
    is stored of a method does not depend on
    which others there are, so adding one trains only that one.

    Args:
        title: of the report.
        entries: the methods; one is called ``kd``.
        pair: data, teacher and student.
        training: how every arm is trained.
        seeds: those shown; tries are made on another.
        lab: where runs are stored.
        published: accuracies by entry, one for each published pair of models; orderings in which all pairs agree by a
            point are checked here.
        left_out: methods that are not on the board, and where they are shown instead.

    Raises:
        DistilError: no entry ``kd``, or one that these models do not fit; two entries of one name.
    """
    names = [entry.name for entry in entries]
    if KD not in names:
        raise DistilError(f"A leaderboard needs the entry '{KD}', which every method is compared with.")
    twice = next((name for name in names if names.count(name) > 1 or name == ALONE), None)
    if twice is not None:
        raise DistilError(f"Two rows of the leaderboard are called '{twice}'; give each a name of its own.")
    seed = tuning_seed(seeds)
    seats, refused = _seats(lab, entries, pair, training, seed)
    if KD in refused:
        raise DistilError(f"KD, which every method is compared with, does not fit these models: {refused[KD]}")
    models = (build_model(pair.chosen.student, pair.bundle, seed=0), pair.teacher.module)

    def code(expression: str) -> str:
        return code_for(expression, *models)

    def run(name: str, point: Point) -> Callable[[int], Outcome]:
        return pair.arm(lab, "method", name, point.expression, point.training).run

    tuned: dict[str, Tuned] = {}
    for name, seat in list(seats.items()):
        try:
            tuned |= tune_arms(
                lab, {name: seat.points}, run, seed=seed, task=get_task(pair.bundle.task), code=code,
                pair=pair.chosen, training=training, data=pair.bundle.fingerprint, teacher=pair.teacher.fingerprint,
            )  # fmt: skip
        except Diverged as error:
            if name in (ALONE, KD):
                raise
            refused[name] = str(error)
            del seats[name]
    arms = {}
    for name, seat in seats.items():
        point = tuned[name].point
        made = pair.arm(
            lab, {ALONE: "reference", KD: "rival"}.get(name, "method"), seat.entry.label, point.expression,  # type: ignore[arg-type]
            point.training, phrase="the student alone" if name == ALONE else seat.entry.label,
            trials=len(seat.points),
        )  # fmt: skip
        arms[name] = replace(made, code=_keyed(code(point.expression), point.training, training))
    apart = [seed, next(one for one in itertools.count(seed + 1) if one not in seeds)]
    facts = {
        **pair.setting(training),
        "Augmentation": "none",
        "Length": _doubled(lab, pair, tuned[ALONE].point.training, apart, code(TASK)),
        "Tries": f"two for every method, each trained once with seed {seed} and judged by its best validation score",
    }

    def close(report: Mapping[str, Any]) -> list[dict[str, Any]]:
        scores = {arm["name"]: arm["metrics"]["accuracy"]["best"] for arm in report["arms"]}
        tables = [_standing(report, seats, tuned, _paces(lab, arms, pair, training, code), scores)]
        tables += [orderings(published, scores)] if published else []
        tables += [_tries(seats, tuned)]
        why = {**refused, **(left_out or {})}
        return tables + ([_absent(why)] if why else [])

    return Experiment(
        title, pair.bundle, arms, pair.teacher, facts, closing=close, judging=_judged, apart=("methods",)
    )  # fmt: skip


def _keyed(code: str, mine: Training, base: Training) -> str:
    """The code behind an arm, and the learning rate that was chosen for it, which its expression does not tell."""
    return code if mine == base else f"{code}-lr{mine.lr:g}"


def _judged(report: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return every arm's verdict against the student alone and against KD, the best first, and how they hold."""
    scores = {arm["name"]: arm["metrics"]["accuracy"]["best"] for arm in report["arms"]}
    blocks, count = Blocks(scores), len(scores) - 1
    order = sorted(scores, key=lambda name: -statistics.fmean(scores[name]))
    verdicts = [
        entry_of(report, name, against, blocks.verdict(name, against, comparisons=count))
        for against in (ALONE, KD)
        for name in order
        if name not in (ALONE, against)
    ]
    return verdicts, {"kind": "blocks", "comparisons": count, "level": 0.95}


def _doubled(lab: Lab, pair: Pair, training: Training, seeds: Sequence[int], code: str) -> str:
    """Say whether the student alone gains less than a point from twice the epochs: unfinished ones turn rankings."""

    def measure() -> dict[str, list[float]]:
        found = {}
        for name, epochs in (("once", training.epochs), ("twice", 2 * training.epochs)):
            arm = pair.arm(lab, "bound", name, TASK, replace(training, epochs=epochs))
            lab.progress.begin(f"the student alone, {epochs} epochs")
            found[name] = [arm.run(seed).metrics["best"]["accuracy"] for seed in seeds]
        return found

    values = lab.stage(
        "doubling", measure, code=code, student=pair.chosen.student, data=pair.bundle.fingerprint, training=training,
        seeds=list(seeds),
    ).value  # fmt: skip
    once, twice = (statistics.fmean(values[name]) for name in ("once", "twice"))
    enough = "long enough" if twice - once < 1 else "too short: rankings may turn with more"
    return (
        f"{enough}: with twice the epochs the student alone has {twice:.1f} % where it has {once:.1f} % "
        f"({twice - once:+.1f} points, {len(seeds)} seeds that are not shown)"
    )


def _seats(
    lab: Lab, entries: Sequence[Entry], pair: Pair, training: Training, seed: int
) -> tuple[dict[str, _Seat], dict[str, str]]:
    """Return the entries that fit these models with their tries, and why others do not."""
    lower = replace(training, lr=float(f"{training.lr / STEP:.3g}"))
    alone = Entry(ALONE, TASK, "Student alone")
    models = (build_model(pair.chosen.student, pair.bundle, seed=0), pair.teacher.module)
    seats = {ALONE: _Seat(alone, (_point(TASK, training, "as published"), _point(TASK, lower, "rate")), None)}
    refused = {}
    for entry in entries:
        weighed = entry.parted or entry.expression

        def measure(entry: Entry = entry, weighed: str = weighed) -> dict[str, Any]:
            lab.progress.begin(f"weighing {entry.name}")
            return asdict(balanced(weighed, pair.chosen.student, pair.teacher.module, pair.bundle, training, seed=seed))

        try:
            stage = lab.stage(
                f"balance-{entry.name}", measure, code=code_for(entry.expression, *models), by=_source(balanced),
                method=weighed,
                student=pair.chosen.student, teacher=pair.teacher.fingerprint, data=pair.bundle.fingerprint,
                training=training, seed=seed,
            )  # fmt: skip
        except DistilError as error:
            refused[entry.name] = str(error)
            continue
        balance = Balance(**stage.value)
        whole = all(component.name != TASK for component in parse(weighed))
        second = (
            _point(entry.expression, lower, "rate")
            if whole
            else _point(_weighted(entry, balance), training, "balanced")
        )
        seats[entry.name] = _Seat(entry, (_point(entry.expression, training, "as published"), second), balance)
    return seats, refused


def _weighted(entry: Entry, balance: Balance) -> str:
    """Return the balanced sum, written as the entry asks."""
    if not entry.weighted:
        return balance.expression
    (rest,) = (component for component in parse(balance.expression) if component.name != TASK)
    return parse(entry.weighted.format(weight=f"{rest.coefficient.constant:.4g}")).expression


def _point(expression: str, training: Training, kind: str) -> Point:
    values: dict[str, Any] = {"weights": kind, "lr": training.lr} if kind == "rate" else {"weights": kind}
    return Point(values, expression, training)


def _paces(lab: Lab, arms: Mapping[str, Arm], pair: Pair, training: Training, code: Any) -> dict[str, float]:
    """Return what a step of every method costs beside one of the student alone, measured once."""
    found = {ALONE: 1.0}
    for name, arm in arms.items():
        if name != ALONE:

            def measure(name: str = name, arm: Arm = arm) -> float:
                lab.progress.begin(f"timing {name}")
                return step_ratio(arm.expression, TASK, pair.chosen.student, pair.teacher.module, pair.bundle, training)

            found[name] = lab.stage(
                f"pace-{name}", measure, code=code(arm.expression), by=_source(step_ratio), method=arm.expression,
                student=pair.chosen.student, teacher=pair.teacher.fingerprint, data=pair.bundle.fingerprint,
                training=training,
            ).value  # fmt: skip
    return found


def _source(function: Callable[..., Any]) -> str:
    """The hash of the file that a measurement is written in, part of the key of what it gave."""
    return hashlib.sha256(Path(inspect.getsourcefile(function) or "").read_bytes()).hexdigest()[:16]


def _standing(
    report: Mapping[str, Any], seats: Mapping[str, _Seat], tuned: Mapping[str, Tuned], paces: Mapping[str, float],
    scores: Mapping[str, Sequence[float]],
) -> dict[str, Any]:  # fmt: skip
    blocks = Blocks(scores)
    count = len(scores) - 1
    size = {arm["name"]: arm["parameters"] for arm in report["arms"]}
    rows = []
    for name in sorted(scores, key=lambda n: -statistics.fmean(scores[n])):
        seat, values = seats[name], scores[name]
        against = [
            _shown(blocks.difference(name, other, comparisons=count)) if name != other else "" for other in (ALONE, KD)
        ]
        alone = paired_interval([a - b for a, b in zip(values, scores[ALONE])])
        rows.append(
            [
                seat.entry.label + (f" ({seat.entry.note})" if seat.entry.note else ""),
                over_seeds(values),
                *against,
                _shown(alone, mark=False) if name != ALONE else "",
                str(tuned[name].point.values["weights"]),
                f"{paces[name]:.2f}",
                f"{size[name] - size[ALONE]:+,}" if size[name] != size[ALONE] else "0",
            ]
        )
    spread = f"{blocks.deviation:.2f} points, {blocks.freedom} degrees of freedom" if blocks.freedom else "one seed"
    apart = f" {', '.join(sorted(blocks.uneven))}: noisier than the rest, so by their own paired differences." * bool(
        blocks.uneven
    )
    head = ["method", "accuracy", "to the student alone", "to KD", "to the student alone, by itself"]
    return {
        "title": "Leaderboard",
        "head": [*head, "chosen try", "step cost", "extra parameters"],
        "rows": rows,
        "note": f"Best epoch on validation, scored on test; mean ± deviation over {blocks.seeds} seeds. Intervals are "
        f"95 % for all {count} differences of a column together (Bonferroni), from one spread of what arms and seeds "
        f"leave ({spread}); * where 0 lies outside.{apart} By itself: the paired t-interval of that row's own "
        "differences, 95 % for it alone. Step cost: a training step's time as a multiple of the student alone's, taken "
        "together on one machine, medians.",
    }


def _shown(gap: Interval, *, mark: bool = True) -> str:
    if gap.low is None or gap.high is None:
        return f"{gap.mean:+.1f}"
    clear = mark and gap.n >= LEAST_SEEDS and gap.excludes_zero
    return f"{gap.mean:+.1f} ({gap.low:+.1f} to {gap.high:+.1f}){' *' if clear else ''}"


def _tries(seats: Mapping[str, _Seat], tuned: Mapping[str, Tuned]) -> dict[str, Any]:
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
        "note": "The first try has the published weights. The second has labels at 1 and the rest scaled to as large a "
        "gradient as cross-entropy's at the first step (schedules at their peak); where labels are no part of the "
        "sum, a lower learning rate.",
    }


def _absent(why: Mapping[str, str]) -> dict[str, Any]:
    return {
        "title": "Not on the board",
        "head": ["method", "why"],
        "rows": [[name, text] for name, text in why.items()],
        "note": "Methods that these models do not fit, and methods that ask for something else.",
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
