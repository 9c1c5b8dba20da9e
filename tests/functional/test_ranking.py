"""Plackett–Luce against plain loops, its closed-form gradient, brute force over all permutations, and torch."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

import distil.functional as D
from distil.errors import DistilError

from .oracles import gradient, normal, plackett_luce_rows, plackett_luce_slope

S, T = normal(5, 6), normal(5, 6, seed=1)
Y = torch.tensor([0, 5, 2, 2, 4])


def position(classes: int) -> np.ndarray:
    gain = 2.0 ** (classes - np.arange(1, classes + 1)) - 1
    return gain / gain.sum()


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("label_first", [True, False])
@pytest.mark.parametrize("weights", ["teacher", "uniform", "position"])
def test_value_and_gradient_are_those_of_the_loops(tau: float, label_first: bool, weights: str) -> None:
    ranking = D.teacher_ranking(T, Y if label_first else None).numpy()
    alpha = {
        "teacher": np.take_along_axis(softmax(T.numpy() / tau, 1), ranking, 1),
        "uniform": np.full((5, 6), 1 / 6),
        "position": np.tile(position(6), (5, 1)),
    }[weights]
    options = {"teacher_temperature": tau, "label_first": label_first, "weights": weights}
    rows = D.plackett_luce(S, T, Y, reduction="none", **options)
    np.testing.assert_allclose(rows, plackett_luce_rows(S.numpy(), ranking, alpha), rtol=1e-12)
    slope = gradient(lambda s: D.plackett_luce(s, T, Y, reduction="sum", **options), S)
    np.testing.assert_allclose(slope, plackett_luce_slope(S.numpy(), ranking, alpha), atol=1e-13)
    np.testing.assert_allclose(slope.sum(1), 0, atol=1e-13)


def test_the_label_ranks_first_even_where_the_teacher_is_wrong() -> None:
    wrong = (T.argmax(1) + 1) % 6
    ranking = D.teacher_ranking(T, wrong)
    assert torch.equal(ranking[:, 0], wrong)
    for row, order in enumerate(ranking):
        assert sorted(order.tolist()) == list(range(6))
        assert (T[row, order[1:]].diff() <= 0).all()
    assert torch.equal(D.teacher_ranking(T), T.argsort(1, descending=True))
    tied = D.teacher_ranking(torch.zeros(1, 300), torch.tensor([2]))[0].tolist()
    assert tied == [2, 0, 1, *range(3, 300)]
    assert D.teacher_ranking(torch.eye(3)[:1], torch.tensor([-100])).tolist() == [[0, 1, 2]]


def test_weight_on_the_first_rank_alone_is_cross_entropy() -> None:
    torch.testing.assert_close(
        D.plackett_luce(S, T, Y, weights="first-only"), F.cross_entropy(S, Y), rtol=1e-14, atol=0
    )


def test_uniform_weights_are_listmle_by_tensorflow_ranking() -> None:
    # The documented value of its ListMLE loss: labels [1, 0], scores [0.6, 0.8].
    scores = torch.tensor([[0.6, 0.8]]).double()
    value = 2 * D.plackett_luce(scores, torch.tensor([[1.0, 0.0]]).double(), torch.tensor([0]), weights="uniform")
    torch.testing.assert_close(value, torch.tensor(0.7981389).double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5])
def test_the_probabilities_of_all_rankings_sum_to_one(classes: int) -> None:
    scores, total = normal(1, classes, scale=2.0), 0.0
    for order in permutations(range(classes)):
        teacher = torch.empty(1, classes, dtype=torch.float64)
        teacher[0, list(order)] = -torch.arange(classes).double()
        total += float((-classes * D.plackett_luce(scores, teacher, torch.tensor([order[0]]), weights="uniform")).exp())
    assert total == pytest.approx(1, rel=1e-12)


@given(student=st.floats(-50, 50), teacher=st.floats(-50, 50))
def test_shifting_either_side_changes_nothing(student: float, teacher: float) -> None:
    shift = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    moved = D.plackett_luce(S + student * shift, T + teacher * shift, Y)
    torch.testing.assert_close(moved, D.plackett_luce(S, T, Y), rtol=1e-10, atol=0)


def test_scaling_the_student_changes_the_loss_and_renaming_classes_does_not() -> None:
    assert not torch.isclose(D.plackett_luce(2 * S, T, Y), D.plackett_luce(S, T, Y))
    order = torch.tensor([3, 5, 0, 2, 1, 4])
    renamed = D.plackett_luce(S[:, order], T[:, order], order.argsort()[Y])
    torch.testing.assert_close(renamed, D.plackett_luce(S, T, Y))


@given(share=st.floats(0, 1), seed=st.integers(0, 50))
def test_the_loss_is_convex_along_segments(share: float, seed: int) -> None:
    a, b = normal(5, 6, seed=seed, scale=3.0), normal(5, 6, seed=seed + 100, scale=3.0)
    between = D.plackett_luce(share * a + (1 - share) * b, T, Y)
    assert between <= share * D.plackett_luce(a, T, Y) + (1 - share) * D.plackett_luce(b, T, Y) + 1e-12


def test_it_is_positive_at_equality_and_falls_to_zero_as_ranks_separate() -> None:
    assert D.plackett_luce(T, T, T.argmax(1)) > 0.1
    losses = [D.plackett_luce(k * -D.teacher_ranking(T, Y).argsort(1).double(), T, Y) for k in (1, 5, 50)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 1e-12


def test_one_class_is_zero_and_one_row_of_two_is_weighted_cross_entropy() -> None:
    for weights in ("teacher", "uniform", "position", "first-only"):
        assert D.plackett_luce(normal(3, 1), normal(3, 1), torch.zeros(3, dtype=torch.long), weights=weights) == 0
    student, teacher = S[:1, :2], T[:1, :2]
    expected = teacher.softmax(1)[0, 1] * F.cross_entropy(student, torch.tensor([1]))
    torch.testing.assert_close(D.plackett_luce(student, teacher, torch.tensor([1])), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_plus_and_minus_sixty_match_the_loops(dtype: torch.dtype) -> None:
    student, teacher = (60 * z.sign().to(dtype) for z in (S, T))
    ranking = D.teacher_ranking(teacher, Y).numpy()
    alpha = np.take_along_axis(softmax(teacher.double().numpy(), 1), ranking, 1)
    rows = plackett_luce_rows(student.double().numpy(), ranking, alpha)
    np.testing.assert_allclose(D.plackett_luce(student, teacher, Y, reduction="none"), rows, rtol=1e-5)


def test_a_thousand_classes_keep_position_weights_finite() -> None:
    value = D.plackett_luce(
        normal(2, 1000).float(), normal(2, 1000).float(), torch.tensor([0, 999]), weights="position"
    )
    assert value.isfinite()
    assert value > 0


def test_standardising_is_done_before_everything_else() -> None:
    z, t = D.standardise(S), D.standardise(T)
    torch.testing.assert_close(D.plackett_luce(S, T, Y, standardise="both"), D.plackett_luce(z, t, Y))
    torch.testing.assert_close(D.plackett_luce(S, T, Y, standardise="teacher"), D.plackett_luce(S, t, Y))


def test_dense_predictions_and_unlabelled_rows() -> None:
    student, teacher = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    labels = torch.tensor([[0, -100, 3], [1, 1, -100]])
    kept = labels >= 0
    dense = D.plackett_luce(student, teacher, labels)
    torch.testing.assert_close(dense, D.plackett_luce(student[kept], teacher[kept], labels[kept]))
    assert D.plackett_luce(student, teacher, torch.full_like(labels, -100)) == 0


def test_misuse_is_refused() -> None:
    with pytest.raises(DistilError, match="labels are missing"):
        D.plackett_luce(S, T, None)
    assert D.plackett_luce(S, T, None, label_first=False).isfinite()
    with pytest.raises(DistilError, match="weights='teachr' is unknown; did you mean 'teacher'"):
        D.plackett_luce(S, T, Y, weights="teachr")
    with pytest.raises(DistilError, match="label 6 is outside the 6 classes"):
        D.plackett_luce(S, T, Y + 1)
    with pytest.raises(DistilError, match=r"\(5, 6\) and the teacher \(5, 5\)"):
        D.plackett_luce(S, T[:, 1:], Y)
