"""RKD and DIST against plain loops, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import ortho_group, pearsonr
from sklearn.metrics import pairwise_distances

import distil.functional as D
from distil.errors import DistilError

from .oracles import angle_table, distance_table, gradient, normal, smooth_l1

S, T = normal(6, 4), normal(6, 9, seed=1)
RELATIONS = pytest.mark.parametrize("loss", [D.rkd_distance, D.rkd_angle, D.rkd])


def test_distances_are_scikit_learns() -> None:
    np.testing.assert_allclose(D.pairwise_distances(S).numpy(), pairwise_distances(S.numpy()), atol=1e-6)
    close = torch.tensor([[1000.0, 1000.0], [1000.0, 1000.5]])
    assert D.pairwise_distances(close)[0, 1] == 0.5  # the dot-product form loses this in float32


def test_rkd_is_smooth_l1_over_pairs_and_triples() -> None:
    distance = smooth_l1(distance_table(S.numpy()) - distance_table(T.numpy())).mean()
    angle = smooth_l1(angle_table(S.numpy()) - angle_table(T.numpy())).mean()
    np.testing.assert_allclose(D.rkd_distance(S, T), distance, rtol=1e-10)
    np.testing.assert_allclose(D.rkd_angle(S, T), angle, rtol=1e-10)
    np.testing.assert_allclose(D.rkd(S, T, distance=2.0, angle=3.0), 2 * distance + 3 * angle, rtol=1e-10)
    np.testing.assert_allclose(D.rkd(S, T), 25 * distance + 50 * angle, rtol=1e-10)


@RELATIONS
def test_rigid_motion_global_scale_and_batch_order_change_nothing(loss) -> None:
    rotation = torch.from_numpy(ortho_group.rvs(4, random_state=0))
    torch.testing.assert_close(loss(3 * S @ rotation + 5, T), loss(S, T))
    torch.testing.assert_close(loss(S, 0.1 * T - 2), loss(S, T))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss(S[order], T[order]), loss(S, T))
    assert not torch.isclose(loss(S[order], T), loss(S, T))


@RELATIONS
def test_a_batch_of_one_is_zero_with_a_gradient_path(loss) -> None:
    student = S[:1].clone().requires_grad_()
    value = loss(student, T[:1])
    value.backward()
    assert value == 0
    assert (student.grad == 0).all()


@RELATIONS
@pytest.mark.parametrize("rows", [[0, 0, 1, 2], [0, 0, 0, 0]])
def test_coincident_rows_have_a_small_finite_gradient(loss, rows: list[int]) -> None:
    slope = gradient(lambda s: loss(s[rows], T[:4]), S)
    assert slope.isfinite().all()
    assert slope.abs().max() < 1e3
    assert loss(S[rows], T[:4]).isfinite()
    assert loss(T[:4], S[rows]).isfinite()


def test_a_collapsed_batch_has_all_distances_equal_as_in_the_authors_code() -> None:
    apart = ~torch.eye(6, dtype=torch.bool)
    expected = smooth_l1(apart.double().numpy() - distance_table(T.numpy())).mean()
    np.testing.assert_allclose(D.rkd_distance(S[:1].expand(6, -1), T), expected, rtol=1e-10)


@RELATIONS
def test_other_batches_are_refused(loss) -> None:
    with pytest.raises(DistilError, match=r"the teacher's embedding is \(5, 9\) but \(6, D\) is expected"):
        loss(S, T[:5])
    with pytest.raises(DistilError, match=r"the student's embedding is \(6,\)"):
        loss(S[:, 0], T)


# --- DIST ---

LOGITS = normal(5, 7, scale=2.0), normal(5, 7, seed=1, scale=2.0)
VARIANTS = pytest.mark.parametrize("variant", ["authors", "torchdistill"])


@VARIANTS
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_one_minus_pearson_over_classes_and_over_the_batch(variant: str, temperature: float) -> None:
    p, q = (softmax(z.numpy() / temperature, 1) for z in LOGITS)
    inter = [1 - pearsonr(a, b)[0] for a, b in zip(p, q)]
    intra = [1 - pearsonr(a, b)[0] for a, b in zip(p.T, q.T)]
    options = {"temperature": temperature, "variant": variant}
    np.testing.assert_allclose(D.dist_inter(*LOGITS, reduction="none", **options), inter, atol=1e-4)
    np.testing.assert_allclose(D.dist_intra(*LOGITS, reduction="none", **options), intra, atol=1e-4)
    expected = temperature**2 * (2 * np.mean(inter) + 3 * np.mean(intra))
    np.testing.assert_allclose(D.dist(*LOGITS, beta=2.0, gamma=3.0, **options), expected, rtol=1e-4)


def test_the_guard_is_added_to_the_product_or_raises_each_length() -> None:
    x, y = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([[2.0, -2.0]]).double()
    torch.testing.assert_close(D.pearson(x, y, eps=1.0), torch.tensor([4 / 5.0]).double())
    torch.testing.assert_close(
        D.pearson(x, y, eps=2.0, variant="torchdistill"), torch.tensor([4 / (2 * 8**0.5)]).double()
    )


def test_dist_ignores_shifts_of_logits_and_affine_maps_of_probabilities() -> None:
    student, teacher = LOGITS
    moved = student + torch.arange(5.0)[:, None]
    torch.testing.assert_close(D.dist(moved, teacher), D.dist(student, teacher))
    p, q = student.softmax(1), teacher.softmax(1)
    scale, shift = normal(5, 1).abs() + 1, normal(5, 1, seed=3)
    torch.testing.assert_close(D.pearson(scale * p + shift, q), D.pearson(p, q), rtol=1e-6, atol=1e-6)


def test_a_batch_of_one_has_a_constant_intra_part_without_gradient() -> None:
    student, teacher = (z[:1] for z in LOGITS)
    assert D.dist_intra(student, teacher) == 1
    assert (gradient(lambda s: D.dist_intra(s, teacher), student) == 0).all()


def test_a_sample_of_weight_zero_leaves_both_parts() -> None:
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
    kept = weight > 0
    whole = D.dist(*LOGITS, weight=weight, temperature=2.0)
    torch.testing.assert_close(whole, D.dist(*(z[kept] for z in LOGITS), temperature=2.0))
    torch.testing.assert_close(D.dist(*LOGITS, weight=torch.ones(5)), D.dist(*LOGITS))


def test_dist_refuses_maps_and_unknown_guards() -> None:
    with pytest.raises(DistilError, match=r"the logits are \(1, 2, 3\) but \(B, C\)"):
        D.dist(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    with pytest.raises(DistilError, match="did you mean 'authors'"):
        D.dist(*LOGITS, variant="author")
    with pytest.raises(DistilError, match=r"\(5, 7\) and the teacher \(5, 6\)"):
        D.dist(LOGITS[0], LOGITS[1][:, :6])
