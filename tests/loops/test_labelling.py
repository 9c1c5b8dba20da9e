"""Labels of small sets: each kind's loss against float64 by hand, how often teachers are asked, what is stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distil.data.augmented import Augmentation, AugmentedBatch, augmented
from distil.data.condensed import CondensedSet
from distil.data.fingerprint import fingerprint
from distil.errors import DistilError
from distil.loops.labelling import Labelling, augmentation_of, relabelled, target_of, teachers_logits

VIEWS = Augmentation(crop="pad", pad=1, flip=True, mix="cutmix", alpha=1.0, batch=4, seed=5)
TEMPERATURE = 3.0


class Counting(nn.Module):
    """A teacher that counts the samples it is asked about."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 3))
        self.asked = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.asked += len(inputs)
        logits: Tensor = 4 * self.net(inputs)
        return logits


def small(**changed: Any) -> CondensedSet:
    images = torch.rand(9, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return CondensedSet(images, torch.arange(9) % 3, ("a", "b", "c"), **changed)


def labelled(kind: str, teachers: list[nn.Module], **changed: Any) -> CondensedSet:
    how = Labelling(kind, temperature=TEMPERATURE, epochs=4, augmentation=VIEWS, **changed)
    return relabelled(small(), teachers, how)


def logs(rows: Tensor) -> np.ndarray[Any, Any]:
    held = rows.detach().double().numpy()
    top = held - held.max(1, keepdims=True)
    return np.asarray(top - np.log(np.exp(top).sum(1, keepdims=True)))


def divergence(student: Tensor, teacher: Tensor) -> np.ndarray[Any, Any]:
    p, q = logs(teacher.double() / TEMPERATURE), logs(student.double() / TEMPERATURE)
    return np.asarray((np.exp(p) * (p - q)).sum(1))


def cross_entropy(student: Tensor, batch: AugmentedBatch) -> np.ndarray[Any, Any]:
    labels, rows = small().labels, np.arange(len(student))
    own, other = (-logs(student)[rows, labels[where].numpy()] for where in (batch.positions, batch.partners))
    return np.asarray(batch.share * own + (1 - batch.share) * other)


@pytest.mark.parametrize("kind", ["hard", "static", "dynamic", "replayed", "two-numbers"])
def test_each_kind_of_labels_asks_what_its_formula_says(kind: str) -> None:
    teachers: list[nn.Module] = [Counting(0), Counting(1)]
    found = labelled(kind, teachers)
    target = target_of(found, teachers=teachers)
    for epoch in (0, 3):
        for batch in augmented(found, VIEWS, epoch):
            student = torch.randn(len(batch.positions), 3, generator=torch.Generator().manual_seed(epoch))
            said = torch.stack([t(batch.inputs) for t in teachers]).mean(0).detach()
            if kind == "hard":
                expected = cross_entropy(student, batch)
            elif kind == "static":
                plain = torch.stack([t(found.samples()) for t in teachers]).mean(0).detach()
                mixed = batch.share * plain[batch.positions] + (1 - batch.share) * plain[batch.partners]
                expected = divergence(student, mixed)
            elif kind == "dynamic":
                expected = divergence(student, said)
            elif kind == "replayed":
                expected = divergence(student, said.half().float())
            else:
                rows, labels = np.arange(len(student)), small().labels
                gaps = [
                    np.abs(logs(student)[rows, labels[w].numpy()] - logs(said)[rows, labels[w].numpy()])
                    for w in (batch.positions, batch.partners)
                ]
                expected = cross_entropy(student, batch) + gaps[0] + gaps[1]
            seen = target(student, batch, epoch).double().numpy()
            np.testing.assert_allclose(
                seen, expected, rtol=2e-3 if kind in ("replayed", "two-numbers") else 1e-5, atol=1e-5
            )


def test_two_numbers_may_rebuild_the_label_and_weigh_the_distance() -> None:
    teachers: list[nn.Module] = [Counting(0)]
    plain = labelled("two-numbers", teachers, weight=0.0)
    rebuilt = labelled("two-numbers", teachers, weight=0.0, target="reconstructed")
    heavy = labelled("two-numbers", teachers, weight=2.0)
    [batch, *_] = augmented(plain, VIEWS, 0)
    student = torch.randn(len(batch.positions), 3, generator=torch.Generator().manual_seed(0))
    one, two, three = (target_of(each)(student, batch, 0) for each in (plain, rebuilt, heavy))
    torch.testing.assert_close(one.double(), torch.from_numpy(cross_entropy(student, batch)), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(one, two)
    assert bool((three >= one).all())


@pytest.mark.parametrize(
    ("kind", "asked"), [("hard", 0), ("static", 9), ("dynamic", 0), ("replayed", 36), ("two-numbers", 36)]
)
def test_teachers_are_asked_no_more_often_than_the_labels_need(kind: str, asked: int) -> None:
    teacher = Counting()
    before = fingerprint(teacher)
    labelled(kind, [teacher])
    assert teacher.asked == asked
    assert fingerprint(teacher) == before
    assert not teacher.training


def test_what_is_stored_is_what_the_kind_needs() -> None:
    teachers: list[nn.Module] = [Counting()]
    assert labelled("static", teachers).storage()["labels"] == 9 + 9 * 3 * 4
    assert labelled("replayed", teachers).storage()["labels"] == 9 + 4 * 9 * 3 * 2
    assert labelled("two-numbers", teachers).storage()["labels"] == 9 + 2 * 2 * 9 * 4
    for kind in ("hard", "dynamic"):
        assert labelled(kind, teachers).storage()["labels"] == 9
    assert labelled("two-numbers", teachers).record["augmentation"] == asdict(VIEWS)


def test_one_kind_takes_the_place_of_another() -> None:
    teachers: list[nn.Module] = [Counting()]
    back = relabelled(labelled("replayed", teachers), teachers, Labelling("static", augmentation=VIEWS))
    assert (back.kind, "logits" in back.replay, back.logits is not None) == ("static", False, True)
    hard = relabelled(back, (), Labelling("hard"))
    assert (hard.kind, hard.logits) == ("hard", None)


def test_several_teachers_are_one_by_logits_or_by_probabilities() -> None:
    teachers: list[nn.Module] = [Counting(0), Counting(1)]
    images = small().inputs
    rows = [t(images).detach() for t in teachers]
    torch.testing.assert_close(teachers_logits(teachers, images), (rows[0] + rows[1]) / 2)
    mean = teachers_logits(teachers, images, combine="probabilities").softmax(1)
    torch.testing.assert_close(mean, (rows[0].softmax(1) + rows[1].softmax(1)) / 2)


def test_weights_weigh_samples_and_have_mean_one() -> None:
    weights = torch.tensor([0.0, 1.0, 2.0] * 3)
    heavy, light = small(weights=weights), small()
    still = Augmentation(crop="none", flip=False, mix="none", batch=9)
    [batch] = augmented(heavy, still, 0)
    student = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    ours, plain = (target_of(each)(student, batch, 0) for each in (heavy, light))
    torch.testing.assert_close(ours, plain * weights[batch.positions])
    ten = target_of(small(weights=10 * weights))(student, batch, 0)
    torch.testing.assert_close(ten, ours)


def test_a_set_without_a_record_is_shown_by_the_customs_of_its_labels() -> None:
    assert augmentation_of(small()).mix == "none"
    assert augmentation_of(small(logits=torch.zeros(9, 3))).mix == "mixup"
    vectors = CondensedSet(torch.zeros(3, 4), torch.arange(3), ("a", "b", "c"))
    assert augmentation_of(vectors).crop == "none"


def test_a_seed_of_the_student_moves_no_recorded_view() -> None:
    teachers: list[nn.Module] = [Counting()]
    assert augmentation_of(labelled("static", teachers), seed=77).seed == 77
    assert augmentation_of(labelled("replayed", teachers), seed=77).seed == VIEWS.seed


def test_soft_labels_need_a_teacher() -> None:
    for kind in ("static", "dynamic", "replayed", "two-numbers"):
        with pytest.raises(DistilError, match="come from a teacher"):
            labelled(kind, [])
    with pytest.raises(DistilError, match="none is there"):
        target_of(labelled("dynamic", [Counting()]))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"kind": "sfot"}, "labelling.kind='sfot' is unknown"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"epochs": 0}, "at least 1"),
        ({"combine": "votes"}, "labelling.combine='votes'"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DistilError, match=sentence):
        Labelling(**wrong)
