"""Students of small sets: equal updates, the last and the best, arms of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distil.data.augmented import Augmentation
from distil.data.condensed import CondensedSet
from distil.errors import DistilError, Diverged
from distil.loops.compare import compare
from distil.loops.condense import condense
from distil.loops.condensed import StudentTraining, from_tree, outcome_of, set_arm, stored_set, to_tree, train_on
from distil.loops.lab import Lab
from distil.loops.labelling import Labelling, relabelled
from distil.loops.order import Order
from distil.tasks import ClassificationTask

from .test_condense import Eye, bundle

STUDENT = "distil:mlp(hidden=8)"
QUICK = StudentTraining(updates=12, lr=1e-2, checks=3)


def small(per_class: int = 3, seed: int = 0) -> CondensedSet:
    return condense(Order(bundle(), per_class, seed=seed), "random")


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 3))


class Steps(nn.Module):
    """Counts its passes in training."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.steps = student(), 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        scores: torch.Tensor = self.net(inputs)
        return scores


@pytest.mark.parametrize("per_class", [1, 3, 8])
def test_every_set_gets_the_same_number_of_updates(per_class: int) -> None:
    net = Steps()
    trained = train_on(small(per_class), net, QUICK, augmentation=Augmentation(batch=5), val=bundle().val)
    assert net.steps == 12
    assert [record["step"] for record in trained.history] == [4, 8, 12]


def test_a_student_learns_what_the_set_says() -> None:
    data = bundle()
    trained = train_on(small(), student(), StudentTraining(updates=60, lr=1e-2), val=data.val)
    scores = ClassificationTask().evaluate(trained.model, data.test)
    assert scores["accuracy"] > 90
    turned = small()
    wrong = CondensedSet(turned.inputs, (turned.labels + 1) % 3, turned.classes)
    trained = train_on(wrong, student(), StudentTraining(updates=60, lr=1e-2), val=data.val)
    assert ClassificationTask().evaluate(trained.model, data.test)["accuracy"] < 10


def test_the_best_state_is_that_of_validation_and_the_last_is_the_last() -> None:
    """After a rate that ruins it, the last state is worse than one on the way."""
    data = bundle()

    scores = iter([10.0, 90.0, 50.0])
    task = ClassificationTask()
    task.evaluate = lambda *a, **k: {"accuracy": next(scores)}  # type: ignore[method-assign]
    net = student()
    trained = train_on(small(), net, QUICK, task=task, val=data.val)
    seen = [record["val"] for record in trained.history]
    assert [one["accuracy"] for one in seen] == [10.0, 90.0, 50.0]
    assert not torch.equal(trained.best["1.weight"], trained.model.state_dict()["1.weight"])
    outcome = outcome_of(trained, small(), data, QUICK, batch=64)
    last = ClassificationTask().evaluate(trained.model, data.test)
    assert outcome.metrics["last"] == pytest.approx(last)
    net.load_state_dict(trained.best)
    assert outcome.metrics["best"] == pytest.approx(ClassificationTask().evaluate(net, data.test))


def test_the_same_seed_gives_the_same_student_to_the_bit() -> None:
    first, again, other = (train_on(small(), student(), QUICK, seed=s).model.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_a_diverging_student_is_said_to_be_one() -> None:
    with pytest.raises(Diverged, match=r"lower lr=1e\+30"):
        train_on(small(), student(), StudentTraining(updates=4, lr=1e30, checks=1))


def test_teachers_are_left_as_they_were_and_asked_only_by_dynamic_labels() -> None:
    eye = Eye()
    before = {name: value.clone() for name, value in eye.state_dict().items()}
    soft = relabelled(small(), [eye], Labelling("dynamic", temperature=4.0))
    train_on(soft, student(), QUICK, teachers=[eye])
    assert all(torch.equal(before[name], value) for name, value in eye.state_dict().items())
    assert all(parameter.grad is None for parameter in eye.parameters())


def test_recorded_views_begin_again_where_a_training_is_longer_and_take_no_other() -> None:
    soft = relabelled(small(), [Eye()], Labelling("replayed", epochs=2, augmentation=Augmentation(batch=9)))
    trained = train_on(soft, student(), QUICK)  # twelve epochs of one batch
    assert trained.history[-1]["step"] == 12
    with pytest.raises(DistilError, match="leave augmentation out"):
        train_on(soft, student(), QUICK, augmentation=Augmentation())


@pytest.mark.parametrize(
    "wrong", [{"updates": 0}, {"checks": 0}, {"updates": 3, "checks": 4}, {"validate": 0}, {"schedule": "cosin"}]
)
def test_trainings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DistilError, match=r"at least 1|did you mean 'cosine'"):
        StudentTraining(**wrong)


def test_half_a_cosine_ends_at_half_the_rate() -> None:
    curve = StudentTraining(schedule="half-cosine").curve
    assert [round(curve(done), 4) for done in (0.0, 0.5, 1.0)] == [1.0, 0.8536, 0.5]


def test_arms_of_sets_compare_whatever_their_size(tmp_path: Path) -> None:
    data, lab = bundle(), Lab(tmp_path)
    arms = {
        "random": set_arm(lab, "reference", "Random", lambda seed: small(3, seed), STUDENT, data, QUICK),
        "first": set_arm(lab, "method", "First", lambda seed: small(3), STUDENT, data, QUICK),
        "whole": set_arm(lab, "bound", "Whole", lambda seed: small(8), STUDENT, data, QUICK),
    }
    report = compare(arms, (0, 1), lab, title="Sets", task=ClassificationTask())
    budgets = {arm["name"]: arm["budget"] for arm in report["arms"]}
    assert budgets["random"] == budgets["first"] == {"updates": 12, "batch_size": 64, "labels": 9, "trials": 1}
    assert budgets["whole"]["labels"] == 24
    assert report["arms"][0]["diagnostics"]["images bytes"] == [9 * 108.0] * 2


def test_a_stored_set_is_made_once(tmp_path: Path) -> None:
    asked = []

    def make() -> CondensedSet:
        asked.append(1)
        return relabelled(small(), [Eye()], Labelling("two-numbers", epochs=2))

    first, again = (stored_set(Lab(tmp_path), "set", make, code="c", seed=1) for _ in range(2))
    assert len(asked) == 1
    assert first.fingerprint == again.fingerprint == make().fingerprint


def test_a_set_as_a_tree_is_the_set() -> None:
    soft = relabelled(small(), [Eye()], Labelling("static"))
    assert from_tree(to_tree(soft)).fingerprint == soft.fingerprint
