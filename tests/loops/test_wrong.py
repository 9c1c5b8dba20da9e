"""A teacher that is surely wrong on some samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distil.data import DictDataset, load
from distil.errors import DistilError
from distil.loops.training import Teacher
from distil.loops.wrong import WrongTeacher, wrong_on
from distil.tasks import get_task

TASK = get_task("classification")


def test_it_is_wrong_where_it_is_made_so_and_as_sure() -> None:
    labels = torch.arange(40) % 4
    scores = 6 * nn.functional.one_hot(labels, 4).float() + torch.rand(40, 4)
    data = DictDataset(scores, labels)
    wrong = wrong_on(Teacher(nn.Identity(), {"accuracy": 1.0}, "x", 0.0), TASK, data, 0.4, classes=4)
    said = wrong.module({"inputs": scores, "id": data.ids})
    mine = wrong.module.is_wrong(data.ids)
    assert int(mine.sum()) == 16
    assert torch.equal(said[~mine], scores[~mine])
    assert bool((said.argmax(1) != labels)[mine].all())
    assert torch.equal(said.sort(1).values, scores.sort(1).values)
    assert wrong.fingerprint != "x"
    beyond = wrong.module({"inputs": scores[:1], "id": torch.tensor([1000])})
    assert torch.equal(beyond, scores[:1])
    assert not bool(wrong.module.is_wrong(torch.tensor([1000])))
    with pytest.raises(DistilError, match="by 'id'"):
        wrong.module({"inputs": scores})


def test_other_parts_of_the_data_are_answered_as_before() -> None:
    bundle = load("digits")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    teacher = Teacher(net, TASK.evaluate(net, bundle.test), "x", 0.0)
    wrong = wrong_on(teacher, TASK, bundle.train, 0.5, classes=10)
    assert isinstance(wrong.module, WrongTeacher)
    assert TASK.evaluate(wrong.module, bundle.test, role="teacher") == teacher.metrics
    assert TASK.evaluate(wrong.module, bundle.train, role="teacher") != TASK.evaluate(net, bundle.train)
