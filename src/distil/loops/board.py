"""A leaderboard: many methods, each with one trained teacher, one fresh student and the same labels."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distil.errors import DistilError, Diverged
from distil.loops.balance import TASK
from distil.loops.board_tables import absent, orderings, standing, tries
from distil.loops.board_tries import ALONE, KD, Entry, seats_of, written_in
from distil.loops.grid import Point
from distil.loops.images import Pair
from distil.loops.lab import Arm, Lab, Outcome, code_for
from distil.loops.pace import step_ratio
from distil.loops.recipe import Experiment
from distil.loops.training import Training, build_model
from distil.loops.tuning import Tuned, tune_arms, tuning_seed
from distil.report.blocks import Blocks
from distil.report.document import entry_of
from distil.tasks import get_task

__all__ = ["leaderboard"]


def leaderboard(
    title: str, entries: Sequence[Entry], pair: Pair, training: Training, seeds: Sequence[int], lab: Lab, *,
    published: Mapping[str, Sequence[float]] | None = None, left_out: Mapping[str, str] | None = None,
) -> Experiment:  # fmt: skip
    """Return the arms of a leaderboard, every one chosen from two tries on validation, and the tables that close it.

    A method's tries are its published sum, and that sum with labels at weight 1 and the rest scaled so that its
    gradient is as large as cross-entropy's at the first step. Where there is nothing to balance (the student alone; a
    sum without labels, with labels that cannot be taken apart, or with a stage of its own: Adam is blind to the scale
    of all these), the second try is a learning rate lower by √10. What is stored of a method does not depend on which
    others there are, so adding one trains only that one.

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
    seats, refused = seats_of(lab, entries, pair, training, seed)
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
        tables = [standing(report, seats, tuned, _paces(lab, arms, pair, training, code), scores)]
        tables += [orderings(published, scores)] if published else []
        tables += [tries(seats, tuned)]
        why = {**refused, **(left_out or {})}
        return tables + ([absent(why)] if why else [])

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


def _paces(lab: Lab, arms: Mapping[str, Arm], pair: Pair, training: Training, code: Any) -> dict[str, float]:
    """Return what a step of every method costs beside one of the student alone, measured once."""
    found = {ALONE: 1.0}
    for name, arm in arms.items():
        if name != ALONE:

            def measure(name: str = name, arm: Arm = arm) -> float:
                lab.progress.begin(f"timing {name}")
                return step_ratio(arm.expression, TASK, pair.chosen.student, pair.teacher.module, pair.bundle, training)

            found[name] = lab.stage(
                f"pace-{name}", measure, code=code(arm.expression), by=written_in(step_ratio), method=arm.expression,
                student=pair.chosen.student, teacher=pair.teacher.fingerprint, data=pair.bundle.fingerprint,
                training=training,
            ).value  # fmt: skip
    return found
