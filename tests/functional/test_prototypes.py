"""Class means and the ND loss against plain loops and the limits its sheet names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import distil.functional as D
from distil.errors import DistilError

from .oracles import gradient, normal

S, T, MEANS = normal(5, 6), normal(5, 6, seed=1), normal(3, 6, seed=2)
Y = torch.tensor([0, 2, 1, 1, 0])
UNIT = MEANS / MEANS.norm(dim=1, keepdim=True)


def test_the_loss_is_one_minus_the_projection_over_the_longer_norm() -> None:
    rows = []
    for s, t, y in zip(S.numpy(), T.numpy(), Y):
        e = MEANS[y].numpy() / np.linalg.norm(MEANS[y])
        rows.append(1 - s @ e / max(np.linalg.norm(s), np.linalg.norm(t)))
    np.testing.assert_allclose(D.directional_norm(S, T, MEANS, Y, reduction="none"), rows, rtol=1e-12)
    cosine = 1 - torch.cosine_similarity(S, MEANS[Y])
    torch.testing.assert_close(D.directional_norm(S, T, MEANS, Y, part="cosine", reduction="none"), cosine)


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        (lambda e, other: 1e3 * e, 0.0),
        (lambda e, other: 0 * e, 1.0),
        (lambda e, other: 1e3 * other, 1.0),
        (lambda e, other: -1e3 * e, 2.0),
    ],
    ids=["along", "zero", "orthogonal", "against"],
)
def test_the_limits(student, expected: float) -> None:
    e = UNIT[Y]
    other = torch.zeros_like(e)
    other[:, 0], other[:, 1] = -e[:, 1], e[:, 0]
    loss = D.directional_norm(student(e, other), T, MEANS, Y, reduction="none")
    torch.testing.assert_close(loss, torch.full_like(loss, expected), rtol=0, atol=1e-12)


def test_a_zero_embedding_is_pulled_along_the_mean() -> None:
    zero = torch.zeros_like(S)
    slope = gradient(lambda s: D.directional_norm(s, T, MEANS, Y, reduction="sum"), zero)
    torch.testing.assert_close(slope, -UNIT[Y] / T.norm(dim=1, keepdim=True))
    for part in ("both", "cosine", "norm"):
        assert gradient(lambda s, part=part: D.directional_norm(s, zero, MEANS, Y, part=part), zero).isfinite().all()


@given(scale=st.floats(1.0, 100.0))
def test_longer_than_the_teacher_only_direction_counts(scale: float) -> None:
    long = 10 * S
    torch.testing.assert_close(D.directional_norm(scale * long, T, MEANS, Y), D.directional_norm(long, T, MEANS, Y))


@given(scale=st.floats(0.0, 1.0))
def test_shorter_than_the_teacher_the_loss_is_linear_in_the_scale(scale: float) -> None:
    short = 0.01 * S
    full = D.directional_norm(short, T, MEANS, Y)
    torch.testing.assert_close(D.directional_norm(scale * short, T, MEANS, Y), 1 + scale * (full - 1))


@given(seed=st.integers(0, 200), scale=st.floats(1e-3, 1e3))
def test_it_stays_between_zero_and_two(seed: int, scale: float) -> None:
    loss = D.directional_norm(scale * normal(5, 6, seed=seed), T, MEANS, Y, reduction="none")
    assert ((loss >= 0) & (loss <= 2)).all()


def test_equality_with_the_teacher_is_its_own_distance_from_the_mean() -> None:
    expected = (1 - torch.cosine_similarity(T, MEANS[Y])).mean()
    assert expected > 0.1
    torch.testing.assert_close(D.directional_norm(T, T, MEANS, Y), expected)
    # At the tie the student's own norm is used, and its gradient flows: that of the cosine.
    tie = gradient(lambda s: D.directional_norm(s, T, MEANS, Y), T)
    torch.testing.assert_close(tie, gradient(lambda s: D.directional_norm(s, T, MEANS, Y, part="cosine"), T))


@pytest.mark.parametrize("step", [0.5, 2.0])
def test_the_norm_part_has_a_constant_value_and_lengthens(step: float) -> None:
    loss = D.directional_norm(S, T, MEANS, Y, part="norm", step=step)
    torch.testing.assert_close(loss, torch.tensor(step**2, dtype=torch.float64))
    slope = gradient(lambda s: D.directional_norm(s, T, MEANS, Y, part="norm", step=step, reduction="sum"), S)
    torch.testing.assert_close(slope, -2 * step * S / S.norm(dim=1, keepdim=True))


def test_no_gradient_reaches_the_means() -> None:
    means = MEANS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        D.directional_norm(S.clone().requires_grad_(), T, means, Y), means, allow_unused=True
    )
    assert slope is None


@pytest.mark.parametrize("part", ["both", "cosine", "norm"])
def test_an_unlabelled_row_weighs_nothing_and_needs_no_mean(part: str) -> None:
    masked, missing = Y.masked_fill(Y == 2, -100), MEANS.clone()
    missing[2] = 0
    kept = masked >= 0
    expected = D.directional_norm(S[kept], T[kept], MEANS, Y[kept], part=part)
    torch.testing.assert_close(D.directional_norm(S, T, missing, masked, part=part), expected)
    assert (D.directional_norm(S, T, missing, masked, part=part, reduction="none")[~kept] == 0).all()


def test_misuse_of_the_loss_is_refused() -> None:
    missing = MEANS.clone()
    missing[2] = 0
    with pytest.raises(DistilError, match="the mean of class 2 is zero"):
        D.directional_norm(S, T, missing, Y)
    with pytest.raises(DistilError, match="label 3 is outside the 3 classes"):
        D.directional_norm(S, T, MEANS, Y + 1)
    with pytest.raises(DistilError, match=r"teacher_emb is \(5, 4\) but \(5, 6\) is expected; project the student"):
        D.directional_norm(S, T[:, :4], MEANS, Y)
    with pytest.raises(DistilError, match=r"class_means is \(3, 4\) but \(C, 6\)"):
        D.directional_norm(S, T, MEANS[:, :4], Y)
    with pytest.raises(DistilError, match="part='direction' is unknown"):
        D.directional_norm(S, T, MEANS, Y, part="direction")


# --- Class means ---


@pytest.mark.parametrize("chunk", [1, 4, 20])
@pytest.mark.parametrize("decimals", [None, 4])
def test_means_are_those_of_numpy_whatever_the_batches(chunk: int, decimals: int | None) -> None:
    features, labels = normal(20, 3, dtype=torch.float32), torch.arange(20) % 4
    means = D.ClassMeans(4, decimals=decimals)
    for rows, names in zip(features.split(chunk), labels.split(chunk)):
        means.update(rows, names)
    table = features.double().numpy()
    table = table if decimals is None else table.round(decimals)
    expected = np.stack([table[labels == c].mean(0) for c in range(4)])
    expected = expected if decimals is None else expected.round(decimals)
    np.testing.assert_allclose(means.compute(), expected, rtol=1e-6)
    assert means.compute().dtype == torch.float32
    torch.testing.assert_close(means.compute(), D.class_means(features, labels, 4, decimals=decimals))


def test_half_precision_features_are_summed_exactly() -> None:
    ones = torch.ones(5000, 2, dtype=torch.bfloat16)
    assert (D.class_means(ones, torch.zeros(5000, dtype=torch.long), 1) == 1).all()


def test_dense_features_and_unlabelled_positions() -> None:
    features = normal(2, 3, 4)
    labels = torch.tensor([[0, 1, -100], [1, 0, 0]])
    expected = torch.stack([features[labels == c].mean(0) for c in (0, 1)])
    torch.testing.assert_close(D.class_means(features, labels, 2), expected)


def test_misuse_of_the_means_is_refused() -> None:
    with pytest.raises(DistilError, match="no sample of class dog, bird was seen"):
        D.class_means(normal(2, 3), torch.tensor([0, 0]), ("cat", "dog", "bird"))
    with pytest.raises(DistilError, match="no batch has been seen"):
        D.ClassMeans(2).compute()
    with pytest.raises(DistilError, match="label 2 is outside the 2 classes"):
        D.class_means(normal(2, 3), torch.tensor([0, 2]), 2)
    means = D.ClassMeans(2)
    means.update(normal(2, 3), torch.tensor([0, 1]))
    with pytest.raises(DistilError, match=r"the batch of features is \(2, 4\) but \(2, 3\) is expected"):
        means.update(normal(2, 4), torch.tensor([0, 1]))
