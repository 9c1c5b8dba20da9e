"""PLD through its method: what the sheet asks beyond the formula, which tests/functional holds against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from distil.engine.distiller import Distiller
from distil.errors import DistilError
from distil.functional import plackett_luce
from distil.methods import Supervised
from distil.systems.pld import PLD, published

from .toys import CLASSES, Fixed, image_distiller, samples, seeded, train


def logits(count: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, CLASSES, generator=seeded(seed), dtype=torch.float64)


def distiller(**options: object) -> Distiller:
    return Distiller(Fixed(logits()), Fixed(logits(seed=1)), published(**options), example=batch())  # type: ignore[arg-type]


def batch() -> dict[str, torch.Tensor]:
    return {"inputs": torch.zeros(8, 1), "labels": torch.arange(8) % CLASSES, "id": torch.arange(8)}


def test_the_loss_is_the_function_alone_with_weight_one() -> None:
    made = distiller(teacher_temperature=2.0)
    step = made.eval()(batch())
    expected = plackett_luce(logits(), logits(seed=1), batch()["labels"], teacher_temperature=2.0)
    torch.testing.assert_close(step.loss, expected)
    assert set(step.terms) == {"pld"}


def test_first_only_weights_are_the_label_loss_of_the_same_student() -> None:
    step = distiller(weights="first-only").eval()(batch())
    torch.testing.assert_close(step.loss, F.cross_entropy(logits(), batch()["labels"]))


def test_a_step_leaves_the_teacher_without_gradient_and_moves_the_student() -> None:
    made = distiller()
    before = made.student.state_dict()["logits"].clone()
    train(made, batch())
    assert all(p.grad is None for teacher in made.teachers.values() for p in teacher.parameters())
    assert not torch.equal(before, made.student.state_dict()["logits"])


def test_unlabelled_samples_weigh_nothing() -> None:
    hidden = batch()
    hidden["labels"] = torch.where(hidden["id"] < 3, hidden["labels"], -100)
    step = distiller().eval()(hidden)
    first = plackett_luce(logits()[:3], logits(seed=1)[:3], batch()["labels"][:3])
    torch.testing.assert_close(step.loss, first)


def test_a_batch_of_one_and_half_precision_are_computed_in_float32() -> None:
    one = {key: value[:1] for key, value in samples().items()}
    made = image_distiller(published())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = made(one)
    assert step.student.dtype == torch.bfloat16
    assert step.terms["pld"].dtype == torch.float32
    assert step.loss.isfinite()


def test_the_label_loss_beside_it_warns_that_it_counts_twice() -> None:
    with pytest.warns(UserWarning, match="'pld' already holds the task loss"):
        image_distiller(PLD() + 0.5 * Supervised())


def test_wrong_choices_are_refused_with_what_is_known() -> None:
    with pytest.raises(DistilError, match="did you mean 'uniform'"):
        distiller(weights="unifrom").eval()(batch())
    with pytest.raises(DistilError, match="teacher_temperature"):
        distiller(teacher_temperature=0.0).eval()(batch())


def test_a_label_outside_the_classes_is_named() -> None:
    wrong = {**batch(), "labels": torch.full((8,), CLASSES)}
    with pytest.raises(DistilError, match=f"label {CLASSES}"):
        distiller()(wrong)
