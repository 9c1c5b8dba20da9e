"""Subspaces against scikit-learn, numpy and plain loops; and what LELP's sheet asks of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from distil.errors import DistilError
from distil.functional.divergence import kl
from distil.functional.subspace import (
    Subspaces,
    class_subspaces,
    fixed_signs,
    linear_rows,
    null_space,
    principal_directions,
    random_rotation,
    subclass_coordinates,
    subclass_cross_entropy,
    subclass_log_probs,
)

from .oracles import gradient, normal


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def groups(count: int = 30, width: int = 9, classes: int = 2) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % classes
    return normal(count, width) + labels[:, None].double(), labels


def coordinates(made: Subspaces, features: Tensor) -> Tensor:
    return subclass_coordinates(features, made.means, made.directions, made.scale)


# --- the parts


@pytest.mark.parametrize("shape", [(40, 6), (5, 9), (3, 3), (1, 4)])
def test_principal_directions_are_scikit_learns_up_to_sign(shape: tuple[int, int]) -> None:
    x = normal(*shape)
    mean, ways, variances = principal_directions(x, 3)
    kept = min(3, *shape)
    assert ways.shape == (shape[1], kept)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(ways.T @ ways, torch.eye(kept, dtype=x.dtype))
    if shape[0] > 1:
        theirs = PCA(kept, svd_solver="full").fit(x.numpy())
        real = theirs.explained_variance_ > 1e-12
        np.testing.assert_allclose(np.abs(np.diag(theirs.components_ @ ways.numpy()))[real], 1, atol=1e-9)
        np.testing.assert_allclose(variances.numpy(), theirs.explained_variance_, atol=1e-10)
    largest = ways.gather(0, ways.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())


def test_signs_do_not_depend_on_the_decompositions() -> None:
    ways = torch.linalg.qr(normal(6, 3)).Q
    flipped = ways * torch.tensor([-1.0, 1.0, -1.0])
    torch.testing.assert_close(fixed_signs(ways), fixed_signs(flipped))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_null_space_is_what_the_layer_does_not_see(rank: int) -> None:
    weight = normal(3, rank, seed=1) @ normal(rank, 8)
    basis = null_space(weight)
    assert basis.shape == (8, 8 - rank)
    assert float((weight @ basis).abs().max()) < 1e-10
    torch.testing.assert_close(basis.T @ basis, torch.eye(8 - rank, dtype=weight.dtype))
    row = torch.linalg.svd(weight).Vh[:rank]
    projector = torch.eye(8, dtype=weight.dtype) - row.T @ row
    torch.testing.assert_close(basis @ basis.T, projector)


def test_the_layer_is_found_from_its_answers() -> None:
    x, weight = normal(50, 6), normal(3, 6, seed=4)
    found, unsaid = linear_rows(x, x @ weight.T + 2)
    torch.testing.assert_close(found, weight)
    assert float(unsaid) < 1e-12
    assert float(linear_rows(x, (x @ weight.T).square())[1]) > 0.3
    flat = torch.cat([x, torch.zeros(50, 2, dtype=x.dtype)], 1)  # dimensions that never move have no part in it
    torch.testing.assert_close(linear_rows(flat, x @ weight.T)[0][:, 6:], torch.zeros(3, 2, dtype=x.dtype))
    few = linear_rows(x[:4], x[:4] @ weight.T)[0]  # fewer samples than dimensions: the part within their span
    span = x[:4] - x[:4].mean(0)
    torch.testing.assert_close(span @ few.T, span @ weight.T)


def test_rotations_are_orthonormal_and_prefer_no_direction() -> None:
    q = random_rotation(5, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(q.T @ q, torch.eye(5, dtype=q.dtype))
    many = torch.stack([random_rotation(3, generator=rng(k)) for k in range(3000)])
    assert float(many.mean(0).abs().max()) < 4 / math.sqrt(3 * 3000)
    assert float((many.square().mean(0) - 1 / 3).abs().max()) < 0.03
    tall = random_rotation(6, 2, generator=rng())
    torch.testing.assert_close(tall.T @ tall, torch.eye(2))
    with pytest.raises(DistilError, match="3 orthonormal columns of length 2"):
        random_rotation(2, 3)


# --- what the sheet asks


def test_directions_are_in_the_null_space_and_orthonormal() -> None:
    x, labels = groups()
    weight = normal(2, 9, seed=7)
    for directions in ("pca", "random"):
        made = class_subspaces(x, labels, 2, 4, unseen=null_space(weight), generator=rng(), directions=directions)
        for way in made.directions:
            assert float((weight @ way).abs().max()) < 1e-10
            torch.testing.assert_close(way.T @ way, torch.eye(4, dtype=x.dtype))
        moved = x + normal(len(x), 2, seed=8) @ weight * 5  # anything from the row space
        torch.testing.assert_close(coordinates(made, moved), coordinates(made, x))


def test_float32_directions_are_in_the_null_space_too() -> None:
    x, labels = groups(60, 40)
    weight = normal(2, 40, seed=7).float()
    made = class_subspaces(x.float(), labels, 2, 5, unseen=null_space(weight), generator=rng())
    assert float((weight @ made.directions).abs().max()) < 1e-5


def test_rotation_keeps_the_total_variance_and_spreads_it_evenly() -> None:
    x, labels = groups(60, 6, 1)
    x = x * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.2, 0.1], dtype=x.dtype)
    plain = coordinates(class_subspaces(x, labels, 1, 3, rotate=False, standardize=False), x)[:, 0]
    seen = []
    for seed in range(400):
        made = class_subspaces(x, labels, 1, 3, standardize=False, generator=rng(seed))
        turned = coordinates(made, x)[:, 0]
        torch.testing.assert_close(turned.var(0).sum(), plain.var(0).sum())
        seen.append(turned.var(0))
    mean = torch.stack(seen).mean(0)
    assert bool(plain.var(0)[0] > 2 * plain.var(0)[1])
    torch.testing.assert_close(mean, torch.full_like(mean, float(plain.var(0).sum()) / 3), rtol=0.12, atol=0)


def test_without_rotation_it_is_scikit_learns_pca_up_to_sign() -> None:
    x, labels = groups()
    made = class_subspaces(x, labels, 2, 3, rotate=False, standardize=False)
    for c in range(2):
        theirs = PCA(3, svd_solver="full").fit(x[labels == c].numpy())
        ours = coordinates(made, x)[:, c].numpy()
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs.transform(x.numpy())), atol=1e-9)


def test_a_shift_changes_nothing_and_a_scale_nothing_where_standardised() -> None:
    x, labels = groups()
    whole = class_subspaces(x, labels, 2, 3, generator=rng())
    shifted = class_subspaces(x + 100, labels, 2, 3, generator=rng())
    scaled = class_subspaces(7 * x, labels, 2, 3, generator=rng())
    torch.testing.assert_close(coordinates(shifted, x + 100), coordinates(whole, x))
    torch.testing.assert_close(coordinates(scaled, 7 * x), coordinates(whole, x))
    torch.testing.assert_close(
        torch.stack([coordinates(whole, x)[labels == c, c].square().mean(0) for c in range(2)]),
        torch.ones(2, 3, dtype=x.dtype),
    )


def test_a_coordinate_that_never_moves_counts_as_zero() -> None:
    x, labels = groups()
    x[:, 2:] = 3.0  # two dimensions move, three directions are wanted
    made = class_subspaces(x, labels, 2, 3, rotate=False)
    z = coordinates(made, x + normal(*x.shape, seed=9))
    assert bool(z.isfinite().all())
    assert bool((z[:, :, 2] == 0).all())
    assert bool((z[:, :, :2] != 0).any())


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_of_few_samples_has_as_many_subclasses(count: int) -> None:
    x, labels = groups(30)
    labels[:] = 0
    labels[:count] = 1
    made = class_subspaces(x, labels, 2, 4, generator=rng())
    assert made.present.sum(1).tolist() == [4, count]
    p = subclass_log_probs(normal(30, 2), coordinates(made, x), present=made.present).exp()
    assert bool((p[:, 1, count:] == 0).all())
    torch.testing.assert_close(p.sum(2), normal(30, 2).softmax(1))


def test_what_cannot_be_split_is_refused() -> None:
    x, labels = groups()
    with pytest.raises(DistilError, match="no sample of class 2 was seen"):
        class_subspaces(x, labels, 3, 2)
    with pytest.raises(DistilError, match=r"8 subclasses need .* has 9, of which 7 are left .*null_space=False"):
        class_subspaces(x, labels, 2, 8, unseen=null_space(normal(2, 9)))
    with pytest.raises(DistilError, match=r"10 subclasses .* has 9; give fewer"):
        class_subspaces(x, labels, 2, 10)
    with pytest.raises(DistilError, match="'random'"):
        class_subspaces(x, labels, 2, 2, directions="randm")
    with pytest.raises(DistilError, match="0 directions"):
        principal_directions(x, 0)


def test_unlabelled_samples_and_those_of_others_do_not_move_a_class() -> None:
    x, labels = groups()
    made = class_subspaces(x, labels, 2, 3, rotate=False)
    more = torch.cat([x, 50 * normal(5, 9, seed=3)])
    again = class_subspaces(more, torch.cat([labels, torch.full((5,), -100)]), 2, 3, rotate=False)
    torch.testing.assert_close(again.directions, made.directions)


def test_one_class_alone_may_be_split() -> None:
    x, labels = groups(20, 6, 1)
    made = class_subspaces(x, labels, 1, 3, generator=rng())
    p = subclass_log_probs(normal(20, 1), coordinates(made, x)).exp()
    torch.testing.assert_close(p.sum((1, 2)), torch.ones(20, dtype=x.dtype))


# --- the split


def test_the_split_is_a_plain_loop() -> None:
    logits, z = normal(4, 3), normal(4, 3, 5)
    found = subclass_log_probs(logits, z, temperature=2.0, beta=0.7)
    for i in range(4):
        p = [math.exp(float(v) / 2) for v in logits[i]]
        for c in range(3):
            e = [math.exp(float(v) / 0.7) for v in z[i, c]]
            for s in range(5):
                assert float(found[i, c, s].exp()) == pytest.approx(p[c] / sum(p) * e[s] / sum(e), rel=1e-10)


def test_subclasses_sum_to_their_class_and_permute_with_it() -> None:
    logits, z = normal(6, 2, scale=9).float(), normal(6, 2, 4).float()
    p = subclass_log_probs(logits, z, beta=0.2).exp()
    torch.testing.assert_close(p.sum(2), logits.softmax(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(p.sum((1, 2)), torch.ones(6), rtol=0, atol=1e-6)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(subclass_log_probs(logits, z[..., order], beta=0.2).exp(), p[..., order])


def test_the_ends_of_beta() -> None:
    logits, z = normal(6, 2), normal(6, 2, 4)
    for large in (1e9, math.inf):
        even = subclass_log_probs(logits, z, beta=large).exp()
        torch.testing.assert_close(even, (logits.softmax(1) / 4)[..., None].expand(-1, -1, 4), rtol=1e-6, atol=1e-9)
    hard = subclass_log_probs(logits, z, beta=1e-9).exp()
    assert bool((hard.argmax(2) == z.argmax(2)).all())
    torch.testing.assert_close(hard.amax(2), logits.softmax(1))
    absent = subclass_log_probs(logits, z.masked_fill(z < 0, -math.inf)[:, :, :], beta=math.inf)
    assert not bool(absent[z.amax(2) > 0].isnan().any())


def test_one_subclass_is_the_class() -> None:
    logits, student = normal(6, 3), normal(6, 3, seed=1)
    targets = subclass_log_probs(logits, normal(6, 3, 1), beta=0.1)
    torch.testing.assert_close(targets[..., 0], logits.log_softmax(1))
    slope = gradient(lambda s: subclass_cross_entropy(s, targets), student)
    expected = gradient(lambda s: kl(s, logits), student)
    torch.testing.assert_close(slope, expected)


def test_the_loss_is_a_plain_loop() -> None:
    targets, student = subclass_log_probs(normal(4, 2), normal(4, 2, 3)), normal(4, 6, seed=2)
    values = subclass_cross_entropy(student, targets, temperature=1.5, reduction="none")
    for i in range(4):
        q = (student[i] / 1.5).softmax(0)
        flat = targets[i].exp().flatten()
        assert float(values[i]) == pytest.approx(-sum(float(a) * math.log(float(b)) for a, b in zip(flat, q)), rel=1e-9)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0], dtype=student.dtype)
    torch.testing.assert_close(
        subclass_cross_entropy(student, targets, temperature=1.5, weight=weight), (values * weight).sum() / 4
    )
    torch.testing.assert_close(
        subclass_cross_entropy(student.view(4, 2, 3), targets, temperature=1.5, reduction="none"), values
    )


def test_at_rest_where_the_student_has_the_targets() -> None:
    targets = subclass_log_probs(normal(4, 2), normal(4, 2, 3))
    slope = gradient(lambda s: subclass_cross_entropy(s, targets), targets.flatten(1) + 3)
    assert float(slope.abs().max()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised(dtype: torch.dtype) -> None:
    x, labels = groups()
    made = class_subspaces(x.float(), labels, 2, 3, generator=rng())
    half = x.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        z = subclass_coordinates(half, made.means, made.directions, made.scale)
        targets = subclass_log_probs(normal(30, 2).to(dtype), z)
        loss = subclass_cross_entropy(normal(30, 6).to(dtype), targets)
    assert z.dtype == targets.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(z, coordinates(made, half.float()))


def test_shapes_and_ranges_are_checked() -> None:
    targets = subclass_log_probs(normal(4, 2), normal(4, 2, 3))
    with pytest.raises(DistilError, match="beta=0"):
        subclass_log_probs(normal(4, 2), normal(4, 2, 3), beta=0)
    with pytest.raises(DistilError, match="must be above 0"):
        subclass_log_probs(normal(4, 2), normal(4, 2, 3), temperature=-1)
    with pytest.raises(DistilError, match=r"\(4, 3, 3\)"):
        subclass_log_probs(normal(4, 2), normal(4, 3, 3))
    with pytest.raises(DistilError, match=r"with_subclasses\(model, S\)"):
        subclass_cross_entropy(normal(4, 2), targets)
    with pytest.raises(DistilError, match="weight"):
        null_space(normal(3))
