"""DisWOT's experiment: how its score ranks published nets, and whether the net it picks distils better than others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from distil.errors import DistilError
from distil.loops.images import ImagePair, Pair, image_pair
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.recipe import Experiment
from distil.loops.search import Evaluation, Guarded, Limits, Search, distinct
from distil.loops.spaces import load_space
from distil.loops.training import Training
from distil.systems.diswot.nets import BEWARE, distilled, one_batch, others, rank_agreement
from distil.systems.diswot.procedure import Scoring, search_student
from distil.systems.diswot.ranking import Ranking, ranking_table

__all__ = ["EVIDENCE", "Setup", "experiment"]

EVIDENCE: tuple[Mapping[str, Any], ...] = ({},)


def _pair() -> ImagePair:
    return ImagePair(
        train=3000,
        teacher_train=10000,
        val=1000,
        teacher="distil:cnn(widths=(32, 64, 64, 32))",
        student="a net of the space",
        teacher_training=Training(epochs=6, batch_size=64, lr=2e-3),
    )


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; the search of a seed draws from that seed, and distils with it."""

    ranking: Ranking = field(default_factory=Ranking)
    pair: ImagePair = field(default_factory=_pair)
    space: str = "tiny-cnn"
    limits: Limits = field(default_factory=lambda: Limits(parameters=6000))
    search: Search = field(default_factory=lambda: Search(evaluations=100, population=20, sample=5))
    scoring: Scoring = field(default_factory=Scoring)
    training: Training = field(default_factory=lambda: Training(epochs=10, batch_size=64, lr=1e-2))
    seeds: tuple[int, ...] = (0, 1, 2)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: what the score picks, with and without the extra losses, against picks that cost nothing."""
    if not setup.limits.parameters:
        raise DistilError("limits.parameters is missing; the arms are compared under a budget, so give one.")
    table = ranking_table(setup.ranking, setup.seeds, lab)
    pair = image_pair(setup.pair, lab)
    made = load_space(setup.space, classes=len(pair.bundle.classes), input_shape=pair.bundle.input_shape)
    space = Guarded(made, setup.limits, shape=pair.bundle.input_shape)
    found = {seed: _searched(setup, pair, space, lab, seed) for seed in setup.seeds}
    arms: dict[str, tuple[Role, str, str, str]] = {
        "median": ("reference", "Median net", "the median net within the budget", "diswot"),
        "random": ("rival", "Random pick", "a random net within the budget", "diswot"),
        "largest": ("rival", "Parameter count's pick", "the largest net within the budget", "diswot"),
        "diswot": ("method", "DisWOT's pick", "the net that DisWOT picked", "diswot"),
        "gram": (
            "ablation",
            "DisWOT's pick + Gram losses",
            "DisWOT's pick with Gram losses",
            "diswot(gram_losses=true)",
        ),
    }
    setting = {
        **pair.setting(setup.training),
        "Student": f"a net of {setup.space} with at most {setup.limits.parameters:,} parameters, picked for every seed",
        "Distillation": "0.1 cross-entropy + 0.9 KL at temperature 4; the last arm adds the two Gram losses",
        "Search": f"{setup.search.strategy}, {setup.search.evaluations} evaluations, {setup.scoring.init} weights, one "
        f"batch of {setup.scoring.batch}",
        "Beware": BEWARE,
    }
    return Experiment(
        "DisWOT: the student that will distil best, picked untrained",
        pair.bundle,
        {name: _arm(setup, pair, space, lab, found, name, *facts) for name, facts in arms.items()},
        pair.teacher,
        setting,
        (table, _picks_table(found, space)),
    )


def _searched(setup: Setup, pair: Pair, space: Guarded, lab: Lab, seed: int) -> list[Evaluation]:
    def make() -> list[list[Any]]:
        lab.progress.begin(f"search, seed {seed}", setup.search.evaluations)
        history = search_student(
            pair.teacher.module,
            space,
            one_batch(pair.bundle, setup.scoring.batch, seed),
            how=setup.search,
            scoring=setup.scoring,
            seed=seed,
            record=lambda done: lab.progress.step(len(done), setup.search.evaluations),
        )
        return [[each.genome, each.score, each.parent] for each in history]

    inputs = {key: value for key, value in asdict(setup).items() if key in ("space", "limits", "search", "scoring")}
    stage = lab.stage(
        f"search-{seed}", make, seed=seed, data=pair.bundle.fingerprint, teacher=pair.teacher.fingerprint, **inputs
    )
    return [Evaluation(*row) for row in stage.value]


def _arm(
    setup: Setup, pair: Pair, space: Guarded, lab: Lab, found: Mapping[int, list[Evaluation]], name: str, role: Role,
    label: str, phrase: str, method: str,
) -> Arm:  # fmt: skip
    def run(seed: int) -> Outcome:
        genome = picked(name, found[seed], space, seed)
        return distilled(lab, genome, space, pair.teacher, pair.bundle, setup.training, method, seed=seed)

    return Arm(role, run, label=label, phrase=phrase, expression=method)


def picked(name: str, history: list[Evaluation], space: Guarded, seed: int) -> Any:
    """Return the net of an arm for a seed."""
    winner = max(history, key=lambda evaluation: evaluation.rank).genome
    return winner if name in ("diswot", "gram") else others(space, winner=winner, seed=seed)[name]


def _picks_table(found: Mapping[int, list[Evaluation]], space: Guarded) -> dict[str, Any]:
    rows = []
    for seed, history in found.items():
        nets = [picked(name, history, space, seed) for name in ("diswot", "random", "median", "largest")]
        shown = [f"{net}, {space.cost(net)['parameters']:,.0f}" for net in nets]
        ranked = distinct(history)
        rows.append([str(seed), *shown, len(ranked), rank_agreement(ranked, space)])
    head = ["seed", "DisWOT", "random", "median", "largest", "nets scored", "tau of score and size"]
    note = "Widths of the stages before the last, and parameters, of what each seed distilled."
    return {"title": "What was picked", "note": note, "head": head, "rows": rows}
