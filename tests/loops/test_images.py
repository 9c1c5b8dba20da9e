"""A pair of models on a long tail: what is trained on, what chooses and tests, and what is scored."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from distil.data import load
from distil.errors import DistilError
from distil.loops.images import ImagePair, image_pair, made_of
from distil.loops.inputs import as_teacher
from distil.loops.lab import Lab
from distil.loops.training import Training
from distil.tasks import ClassificationTask, get_task

PAIR = ImagePair(
    data="digits", train=150, teacher_train=300, val=60, imbalance=10.0, order=tuple(range(9, -1, -1)),
    teacher="distil:mlp(hidden=8)", student="distil:mlp(hidden=4)", teacher_training=Training(epochs=1),
)  # fmt: skip


def test_only_what_is_trained_on_has_a_tail(tmp_path: Path) -> None:
    pair = image_pair(PAIR, Lab(tmp_path, shared=tmp_path))
    for part, size in ((pair.bundle.train, 150), (pair.rich.train, 300)):
        counts = part.labels.bincount().tolist()
        assert sum(counts) == size
        assert counts == sorted(counts)
        assert 7 <= counts[9] / counts[0] <= 13
    assert set(pair.bundle.train.ids.tolist()) < set(pair.rich.train.ids.tolist())
    for part in (pair.bundle.val, pair.bundle.test):  # as balanced as the digits are
        counts = part.labels.bincount()
        assert counts.max() - counts.min() <= 2
    assert get_task(pair.bundle.task).groups == {"head third": (9, 8, 7), "tail third": (2, 1, 0)}
    assert {"balanced accuracy", "tail third accuracy"} <= set(pair.teacher.metrics)
    assert pair.setting(Training())["Long tail"].startswith("imbalance 10, for students and teacher: 9 ")


def test_without_imbalance_everything_is_as_before(tmp_path: Path) -> None:
    pair = image_pair(replace(PAIR, imbalance=1.0), Lab(tmp_path, shared=tmp_path))
    counts = pair.bundle.train.labels.bincount()
    assert counts.max() - counts.min() <= 2
    assert pair.bundle.task == "classification"
    assert "Long tail" not in pair.setting(Training())
    assert pair.bundle.fingerprint.endswith("-300-60-150")


def test_tails_and_orders_are_other_data(tmp_path: Path) -> None:
    lab = Lab(tmp_path, shared=tmp_path)
    others = [PAIR, replace(PAIR, imbalance=5.0), replace(PAIR, order=()), replace(PAIR, imbalance=1.0)]
    assert len({image_pair(one, lab).bundle.fingerprint for one in others}) == 4


def test_a_teachers_own_task_scores_the_same_groups() -> None:
    task = ClassificationTask(groups={"tail third": [7, 8, 9]})
    assert as_teacher(task).groups == task.groups == {"tail third": (7, 8, 9)}


def test_a_tail_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=r"imbalance=0\.5 at least 1"):
        image_pair(replace(PAIR, imbalance=0.5), Lab(tmp_path))
    with pytest.raises(DistilError, match="must name each class"):
        image_pair(replace(PAIR, order=(0, 1)), Lab(tmp_path))


def test_a_set_made_of_another_says_how_many_of_each_class_it_has() -> None:
    said = made_of("fashion-pairs", [10_000, 2_000, 10_000], 100)
    assert said.endswith("; 100, 20 and 100 a class are used here")
    assert made_of("fashion-pairs", [10_000, 2_000, 10_000], 100, even=False) == said.rpartition(";")[0]
    assert made_of("digits", [200, 80, 80], 10) == made_of("./my.csv", [200, 80, 80], 10) == ""


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("DISTIL_DATA"), reason="DISTIL_DATA names no data root")
def test_what_is_said_of_pairs_is_what_they_are() -> None:
    whole = load("fashion-pairs")
    said = made_of("fashion-pairs", [0, 0, 0], 1, even=False)
    for part, name in ((whole.train, "training"), (whole.val, "validation"), (whole.test, "test")):
        (each,) = set(part.labels.bincount(minlength=100).tolist())
        assert f"{each} {name}" in said
