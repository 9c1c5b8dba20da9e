"""The scores of small sets, against the formulas as DD-Ranking states them, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from distil.errors import DistilError
from distil.loops.dd_scores import Scores, ranking_score, scores_of

REAL, HARD = [81.3, 80.2, 82.9], [44.1, 47.0, 40.6]
OWN, RANDOM = [61.2, 58.8, 60.1], [55.5, 57.9, 61.3]


@pytest.mark.parametrize(
    ("improvement", "recovery", "weight"), [(0.031, 0.42, 0.5), (-0.1, 0.0, 0.5), (0.2, 0.3, 0.9), (0.2, 0.3, 0.0)]
)
def test_the_ranking_score_is_the_stated_formula(improvement: float, recovery: float, weight: float) -> None:
    alpha = weight * improvement - (1 - weight) * recovery
    expected = (math.e**alpha - 1 / math.e) / (math.e - 1 / math.e)
    assert ranking_score(improvement, recovery, weight=weight) == pytest.approx(expected, rel=1e-12)


def test_the_ranking_score_rises_with_improvement_and_falls_with_what_is_lost() -> None:
    assert ranking_score(0.1, 0.4) > ranking_score(0.0, 0.4) > ranking_score(0.0, 0.5)
    with pytest.raises(DistilError, match=r"in \[0, 1\]"):
        ranking_score(0.1, 0.4, weight=1.5)


def test_scores_are_means_and_population_deviations_of_paired_differences() -> None:
    found = scores_of(
        real_hard=[80.0, 82.0], set_hard=[50.0, 56.0], set_any=[60.0, 61.0], random_any=[55.0, 52.0], weight=0.5
    )
    assert (found.recovery, found.recovery_spread) == (28.0, 2.0)  # 30 and 26
    assert (found.improvement, found.improvement_spread) == (7.0, 2.0)  # 5 and 9
    each = [
        (math.exp(0.5 * a - 0.5 * b) - math.exp(-1)) / (math.e - math.exp(-1)) for a, b in ((0.05, 0.3), (0.09, 0.26))
    ]
    assert found.score == pytest.approx(sum(each) / 2, rel=1e-12)


def test_what_was_not_run_is_not_known() -> None:
    found = scores_of(real_hard=None, set_hard=[50.0], set_any=[60.0], random_any=[55.0])
    assert (found.recovery, found.improvement, found.score) == (None, 5.0, None)
    found = scores_of(real_hard=[80.0], set_hard=[50.0], set_any=[60.0], random_any=None)
    assert (found.recovery, found.improvement, found.score) == (30.0, None, None)


# Recovery, improvement and score (of shares) that ddranking 0.2.0's own evaluators gave for the accuracies above.
PACKAGE = {
    ("soft", 0.5): (37.566666666666663, 1.7999999999999978, 0.1994031084612048),
    ("soft", 0.9): (37.566666666666663, 1.7999999999999978, 0.2601056916036633),
    ("hard", 0.5): (37.566666666666663, -14.333333333333329, 0.17196200247045132),
    ("hard", 0.9): (37.566666666666663, -14.333333333333329, 0.204006937391228),
}


@pytest.mark.parametrize(("labels", "weight"), PACKAGE)
def test_what_the_package_gave_for_these_accuracies(labels: str, weight: float) -> None:
    own = OWN if labels == "soft" else HARD
    found = scores_of(real_hard=REAL, set_hard=HARD, set_any=own, random_any=RANDOM, weight=weight)
    assert (found.recovery, found.improvement, found.score) == pytest.approx(PACKAGE[labels, weight], rel=1e-9)


def theirs(kind: str, monkeypatch: pytest.MonkeyPatch, *, soft: list[float], weight: float, unit: float) -> Scores:
    """What the package's own evaluator makes of accuracies, told to it in the place of trainings, times ``unit``."""
    module = pytest.importorskip(f"ddranking.metrics.{kind}")
    evaluator = object.__new__(module.LabelRobustScoreSoft if kind == "soft_label" else module.LabelRobustScoreHard)
    plain = {"num_eval": len(REAL), "eval_full_data": True, "use_dist": False, "rank": 0, "ipc": 1, "num_classes": 2}
    vars(evaluator).update(plain, soft_label_mode="S", save_path="")
    hard, real, any_, drawn = (iter([unit * value for value in each]) for each in (HARD, REAL, soft, RANDOM))

    def by_class(*, mode: str, lr: float | None, image_tensor: object, **rest: object) -> tuple[float, float]:
        return next(real if mode == "real" else drawn if image_tensor == "drawn" else hard), 0.1

    def by_teacher(*, image_tensor: object, **rest: object) -> tuple[float, float]:
        return next(drawn if image_tensor == "drawn" else any_), 0.1

    kept: dict[str, list[float]] = {}
    monkeypatch.setattr(evaluator, "_compute_hard_label_metrics_helper", by_class)
    monkeypatch.setattr(evaluator, "_compute_soft_label_metrics_helper", by_teacher, raising=False)
    monkeypatch.setattr(evaluator, "_get_random_data_helper", lambda eval_iter: (None, "drawn", None))
    monkeypatch.setattr(module, "save_results", lambda results, path: kept.update(results))
    monkeypatch.setattr(module, "set_seed", lambda: None)
    labels = {"soft_labels": "given"} if kind == "soft_label" else {}
    evaluator.compute_metrics(image_tensor="set", lrs_lambda=weight, **labels)
    lost, won = (
        torch.tensor(kept[name], dtype=torch.float64) for name in ("hard_label_recovery", "improvement_over_random")
    )
    spread = [float(each.std(correction=0)) for each in (lost, won)]
    return Scores(float(lost.mean()), spread[0], float(won.mean()), spread[1], sum(kept["lrs"]) / len(kept["lrs"]))


@pytest.mark.parametrize("weight", [0.5, 0.9])
@pytest.mark.parametrize("kind", ["soft_label", "hard_label"])
def test_the_package_makes_the_same_of_the_same_accuracies(
    kind: str, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ddranking 0.2.0, on shares: it puts accuracies in % into the exponent as they are, which its paper does not."""
    own = OWN if kind == "soft_label" else HARD
    found = scores_of(real_hard=REAL, set_hard=HARD, set_any=own, random_any=RANDOM, weight=weight)
    shares = theirs(kind, monkeypatch, soft=own, weight=weight, unit=0.01)
    assert found.score == pytest.approx(shares.score, rel=1e-9)
    points = theirs(kind, monkeypatch, soft=own, weight=weight, unit=1.0)
    assert (found.recovery, found.recovery_spread) == pytest.approx((points.recovery, points.recovery_spread), rel=1e-9)
    assert (found.improvement, found.improvement_spread) == pytest.approx(
        (points.improvement, points.improvement_spread), rel=1e-9
    )
    assert points.score != pytest.approx(found.score, abs=0.05)
