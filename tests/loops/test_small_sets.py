"""Arms of small sets: an architecture that is called unseen had no part in making the set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distil.data.condensed import CondensedSet
from distil.errors import DistilError
from distil.loops.condense import condense
from distil.loops.condensed import StudentTraining
from distil.loops.lab import Arm, Lab
from distil.loops.order import Order
from distil.loops.small_sets import judged_arm
from distil.loops.training import build_model

from .test_condense import bundle

NET, OTHER = "distil:mlp(hidden=4)", "distil:mlp(hidden=6)"
Make = Callable[[int], CondensedSet]


def never(seed: int) -> CondensedSet:
    raise AssertionError("a set was made")


def arm(lab: Lab, make: Make = never, *, unseen: tuple[str, ...] = (OTHER,), teacher: str | None = None) -> Arm:
    teachers = [build_model(teacher, bundle(), seed=0, role="teacher")] if teacher else []
    training = StudentTraining(updates=2, checks=1)
    return judged_arm(
        lab, "method", "Set", make, bundle(), training, student=NET, unseen=unseen, teachers=teachers
    )  # fmt: skip


@pytest.mark.parametrize("name", [NET, "distil:mlp(hidden=[4])"], ids=["by name", "by form"])
def test_the_student_that_makes_sets_is_unseen_by_no_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="no unseen architecture"):
        arm(Lab(tmp_path), unseen=(OTHER, name))


def test_a_teachers_form_is_not_unseen(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=r"hidden=6.*no unseen architecture"):
        arm(Lab(tmp_path), teacher=OTHER)


def test_a_net_that_the_set_names_is_found_before_a_student_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(seed: int) -> CondensedSet:
        return condense(Order(bundle(), 2, seed, options={"net": OTHER, "epochs": 2}), "forgetting")

    monkeypatch.setattr("distil.loops.condensed.train_on", never)
    with pytest.raises(DistilError, match="no unseen architecture"):
        arm(Lab(tmp_path), make).run(0)


def test_others_are_trained_and_told(tmp_path: Path) -> None:
    outcome = arm(Lab(tmp_path), lambda seed: condense(Order(bundle(), 2, seed), "random")).run(0)
    assert 0 <= outcome.diagnostics[f"accuracy of {OTHER}"] <= 100
