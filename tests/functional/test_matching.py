"""Matching distances, kernel ridge, nearest rows and siamese changes, against brute force in float64."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor, nn
from torch.nn import functional as F

import distil.functional as D
from distil.errors import DistilError
from distil.models import ConvNet

DISTANCES = pytest.mark.parametrize("distance", D.GRADIENT_DISTANCES)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def two(seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    shapes = [(4, 3, 2, 2), (4,), (3, 5)]
    return tuple([normal(*s, seed=10 * side + seed + k) for k, s in enumerate(shapes)] for side in (1, 2))


def test_each_distance_is_what_a_loop_over_rows_gives() -> None:
    small, whole = two()
    rows = 0.0
    for g, h in zip(small, whole):
        for a, b in zip(g, h) if g.ndim > 1 else ():
            a, b = a.flatten().numpy(), b.flatten().numpy()
            rows += 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6)
    a, b = (np.concatenate([g.flatten().numpy() for g in side]) for side in (small, whole))
    expected = {"ours": rows, "mse": ((a - b) ** 2).sum()}
    expected["cos"] = 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6)
    for name, value in expected.items():
        assert float(D.gradient_distance(small, whole, distance=name)) == pytest.approx(value, rel=1e-12)


@DISTANCES
def test_equal_gradients_are_at_distance_zero_but_for_what_epsilon_adds(distance: str) -> None:
    small, _ = two()
    assert float(D.gradient_distance(small, small, distance=distance)) < 1e-5
    tiny = [1e-4 * g for g in small]  # the residue of the cosine's 1e-6, visible and no more than its rows
    residue = float(D.gradient_distance(tiny, tiny, distance=distance))
    assert (residue > 1) if distance == "ours" else residue < (1e-12 if distance == "mse" else 1)


def test_ours_does_not_see_the_length_of_a_gradient_and_mse_does() -> None:
    small, whole = two()
    for distance, moved in (("ours", False), ("cos", False), ("mse", True)):
        plain = D.gradient_distance(small, whole, distance=distance)
        longer = D.gradient_distance([1e3 * g for g in small], whole, distance=distance)
        assert bool((plain - longer).abs() > 1e-5 * plain) is moved


@DISTANCES
def test_no_gradient_reaches_the_real_side_and_the_small_side_is_right(distance: str) -> None:
    small, whole = two()
    leaves = [g.requires_grad_() for g in (*small, *whole)]
    loss = D.gradient_distance(small, whole, distance=distance)
    slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert all(slope is None for slope in slopes[3:])
    assert torch.autograd.gradcheck(lambda *g: D.gradient_distance(g, whole, distance=distance), small)


@DISTANCES
@pytest.mark.parametrize("per_class", [1, 3])
def test_second_order_gradient_of_the_inputs_equals_finite_differences(distance: str, per_class: int) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 2)).double()
    real, labels = normal(6, 4), torch.tensor([0, 0, 0, 1, 1, 1])
    parameters = list(net.parameters())

    def slopes(x: Tensor, y: Tensor, graph: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(net(x), y), parameters, create_graph=graph)

    def loss(x: Tensor) -> Tensor:
        total = x.new_zeros(())
        for label in (0, 1):
            rows = slice(label * per_class, (label + 1) * per_class)
            ours = slopes(x[rows], torch.full((per_class,), label), True)
            theirs = slopes(real[labels == label], labels[labels == label], False)
            total = total + D.gradient_distance(ours, theirs, distance=distance)
        return total

    start = normal(2 * per_class, 4, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(loss, start)
    assert bool((torch.autograd.grad(loss(start), start)[0] != 0).any())


def test_gradients_that_do_not_fit_are_refused() -> None:
    small, whole = two()
    with pytest.raises(DistilError, match="2 gradients against 3"):
        D.gradient_distance(small[:2], whole)
    with pytest.raises(DistilError, match=r"\(4, 3, 2, 2\).*\(4,\)"):
        D.gradient_distance(small, [whole[1], whole[0], whole[2]])
    with pytest.raises(DistilError, match="did you mean 'cos'"):
        D.gradient_distance(small, whole, distance="coss")


# ---- distributions


def test_mean_match_is_zero_for_equal_means_and_sums_over_dimensions_and_classes() -> None:
    small, whole = normal(4, 3, seed=1), normal(9, 3, seed=2)
    ours, theirs = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1, 1, 3, -100])
    values = D.mean_match(small, whole, small_labels=ours, whole_labels=theirs, classes=4, reduction="none")
    both = [float((small[ours == c].mean(0) - whole[theirs == c].mean(0)).square().sum()) for c in (0, 1)]
    assert values.tolist() == pytest.approx([*both, 0.0, 0.0])  # a class that one side lacks counts 0
    assert float(D.mean_match(whole.mean(0, keepdim=True), whole)) < 1e-28
    twice = D.mean_match(torch.cat([small, small], 1), torch.cat([whole, whole], 1))
    assert float(twice) == pytest.approx(2 * float(D.mean_match(small, whole)))


@pytest.mark.parametrize(
    "match", [D.mean_match, partial(D.mean_match, moments=3), D.mmd, partial(D.mmd, kernel="linear")]
)
def test_distribution_distances_have_the_gradient_of_finite_differences_on_one_side_only(match: object) -> None:
    small, whole = normal(3, 4, seed=1).requires_grad_(), normal(5, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: match(x, whole.detach()), small)
    assert torch.autograd.grad(match(small, whole), whole, allow_unused=True)[0] is None
    assert float(match(whole, whole).detach()) == pytest.approx(0, abs=1e-12)
    assert match(small.bfloat16(), whole.bfloat16()).dtype == torch.float32
    with pytest.raises(DistilError, match=r"\(3, 4\).*\(5, 3\)"):
        match(small, whole[:, :3])
    with pytest.raises(DistilError, match="at least one row"):
        match(small[:0], whole)


def test_moments_and_kernels_see_what_means_do_not() -> None:
    small, whole = torch.tensor([[-1.0], [1.0]]), torch.tensor([[-3.0], [3.0]])
    assert float(D.mean_match(small, whole)) == float(D.mmd(small, whole, kernel="linear")) == 0
    assert float(D.mean_match(small, whole, moments=2)) == 64
    expected = sum(
        sign * np.mean([np.exp(-((a - b) ** 2) / 8) for a, b in itertools.product(one, two)])
        for sign, one, two in ((1, (-1, 1), (-1, 1)), (-2, (-1, 1), (-3, 3)), (1, (-3, 3), (-3, 3)))
    )
    assert float(D.mmd(small, whole, bandwidth=2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(D.mmd(torch.ones(2, 1), torch.zeros(2, 1))) > 0  # equal real features: the width falls back to 1


# ---- trajectories


def test_trajectory_distance_is_0_at_the_target_and_1_at_the_start() -> None:
    start, target = normal(9), normal(9, seed=1)
    assert float(D.trajectory_distance(target, start, target)) == 0
    assert float(D.trajectory_distance(start, start, target)) == 1
    end = normal(9, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: D.trajectory_distance(x, start, target), end)
    still = D.trajectory_distance(end, target, target)
    assert still.isfinite()
    assert torch.autograd.grad(still, end)[0].isfinite().all()
    assert float(D.trajectory_distance(target, target, target)) == 0
    with pytest.raises(DistilError, match="same parameters"):
        D.trajectory_distance(end, start[:3], target)


def test_a_learnable_step_size_gets_the_gradient_of_finite_differences() -> None:
    rows, start, target = normal(4, 3), normal(3, seed=1), normal(3, seed=2)

    def loss(x: Tensor, rate: Tensor) -> Tensor:
        weights = {"w": start.clone().requires_grad_()}
        for _ in range(3):
            weights = D.unrolled_step((x @ weights["w"]).tanh().square().mean(), weights, lr=rate)
        return D.trajectory_distance(weights["w"], start, target)

    inputs = (rows.requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(loss, inputs)
    assert float(torch.autograd.grad(loss(*inputs), inputs[1])[0]) != 0


# ---- kernel ridge, priors, nearest rows


@pytest.mark.parametrize("kernel", D.RIDGE_KERNELS)
def test_kernel_ridge_agrees_with_scikit_learn_and_its_gradient_with_finite_differences(kernel: str) -> None:
    small, targets, queries = normal(5, 3), normal(5, 2, seed=1), normal(4, 3, seed=2)
    gram = D.ridge_kernel(small, small, kernel=kernel)
    ridge = 0.1 * float(gram.diagonal().mean())
    theirs = KernelRidge(alpha=ridge, kernel="precomputed").fit(gram.numpy(), targets.numpy())
    expected = theirs.predict(D.ridge_kernel(queries, small, kernel=kernel).numpy())
    ours = D.kernel_ridge(small, targets, queries, ridge=0.1, kernel=kernel)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-8)
    given = (small.requires_grad_(), targets.requires_grad_(), queries)
    assert torch.autograd.gradcheck(partial(D.kernel_ridge, ridge=0.1, kernel=kernel), given)


def test_the_relu_kernel_is_the_tangent_kernel_of_a_wide_net() -> None:
    a, b, width = normal(3, 4), normal(2, 4, seed=1), 200_000
    first, last = normal(width, 5, seed=2), normal(width, seed=3)

    def features(x: Tensor) -> Tensor:  # gradients of sqrt(2 / width) v . relu(W [x, 1]) in v and in W, both N(0, 1)
        row = torch.cat([x, x.new_ones(1)])
        hidden = first @ row
        return torch.cat([hidden.relu(), ((hidden > 0) * last)[:, None].mul(row).flatten()]) * (2 / width) ** 0.5

    wide = torch.stack([torch.stack([features(x) @ features(y) for y in b]) for x in a]) / 4
    torch.testing.assert_close(D.ridge_kernel(a, b), wide, rtol=0.03, atol=0.02)


def test_kernel_ridge_refuses_what_it_cannot_solve() -> None:
    with pytest.raises(DistilError, match="must be above 0"):
        D.kernel_ridge(normal(2, 3), normal(2, 2), normal(1, 3), ridge=0.0)
    with pytest.raises(DistilError, match="one row of targets"):
        D.kernel_ridge(normal(2, 3), normal(3, 2), normal(1, 3))
    with pytest.raises(DistilError, match="'relu'"):
        D.ridge_kernel(normal(2, 3), normal(2, 3), kernel="rel")
    twice = normal(1, 3).repeat(2, 1).requires_grad_()  # equal rows: the slope of arccos at 1 is cut off
    assert torch.autograd.grad(D.kernel_ridge(twice, normal(2, 2), normal(3, 3)).sum(), twice)[0].isfinite().all()


def test_priors_are_half_squared_distances() -> None:
    codes, real = normal(4, 3), normal(6, 3, seed=1)
    torch.testing.assert_close(D.latent_prior(codes, reduction="none"), codes.square().sum(1) / 2)
    away = (codes[:, None] - real[None]).square().sum(-1).amin(1) / 2
    torch.testing.assert_close(D.latent_prior(codes, real, kind="nearest", reduction="none"), away)
    assert float(D.latent_prior(real[:2], real, kind="nearest")) == 0
    for kind in ("normal", "nearest"):
        prior = partial(D.latent_prior, real=real, kind=kind)
        assert torch.autograd.gradcheck(prior, codes.clone().requires_grad_())
    with pytest.raises(DistilError, match="needs the codes of real data"):
        D.latent_prior(codes, kind="nearest")


def test_nearest_rows_by_brute_force_by_label_and_each_once() -> None:
    rows, bank = normal(2, 3, 4), normal(9, 4, seed=1)
    ids, away = D.nearest_rows(rows, bank)  # tokens: leading axes are kept
    distances = (rows[:, :, None] - bank).square().sum(-1).sqrt()
    assert torch.equal(ids, distances.argmin(-1))
    torch.testing.assert_close(away, distances.amin(-1))
    labels, of_bank = torch.tensor([[0, 1, 1], [2, 0, 2]]), torch.tensor([0, 1, 2] * 3)
    ids, _ = D.nearest_rows(rows, bank, labels=labels, bank_labels=of_bank, metric="cosine")
    assert torch.equal(of_bank[ids], labels)
    assert torch.equal(ids.flatten()[0], 3 * F.cosine_similarity(rows[0, 0], bank[::3]).argmax())
    once, _ = D.nearest_rows(rows.flatten(0, 1), bank, distinct=True)
    assert once.unique().numel() == 6
    best = linear_sum_assignment(distances.flatten(0, 1).numpy())
    flat = distances.flatten(0, 1)
    assert float(flat[torch.arange(6), once].sum()) == pytest.approx(float(flat[best].sum()))
    with pytest.raises(DistilError, match="real rows of every label"):
        D.nearest_rows(rows, bank, labels=labels, bank_labels=of_bank + 1)
    with pytest.raises(DistilError, match="distinct=True"):
        D.nearest_rows(bank, bank[:3], distinct=True)
    with pytest.raises(DistilError, match="distinct=True"):
        D.nearest_rows(rows, bank, labels=labels * 0, bank_labels=of_bank, distinct=True)
    with pytest.raises(DistilError, match="of both"):
        D.nearest_rows(rows, bank, labels=labels)


# ---- siamese changes


def view(change: str, *draws: float) -> D.SiameseView:
    return D.SiameseView(change, torch.tensor([[*draws, *[0.0] * (3 - len(draws))]], dtype=torch.float64))


@pytest.mark.parametrize("change", D.SIAMESE_CHANGES)
def test_one_view_changes_real_and_synthetic_images_alike_and_differentiably(change: str) -> None:
    drawn = D.draw_siamese(torch.Generator().manual_seed(1), changes=(change,))
    images = torch.rand(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    changed = D.siamese(images, drawn)
    assert changed.shape == images.shape
    torch.testing.assert_close(D.siamese(images[1:2], drawn), changed[1:2])  # whoever shares the batch
    assert torch.autograd.gradcheck(partial(D.siamese, view=drawn), images.requires_grad_())
    assert D.siamese(images.bfloat16(), drawn).dtype == torch.float32
    each = D.draw_siamese(torch.Generator().manual_seed(1), changes=(change,), count=3)
    torch.testing.assert_close(
        D.siamese(images, each)[2:], D.siamese(images[2:], D.SiameseView(change, each.draws[2:]))
    )


def test_the_changes_are_what_their_numbers_say() -> None:
    image = torch.arange(36.0, dtype=torch.float64).view(1, 1, 6, 6).repeat(1, 3, 1, 1) / 36
    image[:, 1] += 0.5
    flat = image[0].numpy()
    assert torch.equal(D.siamese(image, view("flip", 0.4)), image.flip(3))
    assert torch.equal(D.siamese(image, view("flip", 0.6)), image)
    shifted = D.siamese(image, view("crop", 0.0, 0.99))  # one row up, one column to the right: 6 * 0.125 rounds to 1
    np.testing.assert_allclose(shifted[0].numpy(), ndimage.shift(flat, (0, 1, -1), order=0, cval=0.0))
    blank = D.siamese(image, view("cutout", 0.0, 0.5))  # 3 of 6 pixels, centred on 0 and on 3
    assert bool((blank[..., :2, 2:5] == 0).all())
    kept = torch.ones(6, 6, dtype=torch.bool)
    kept[:2, 2:5] = False
    assert torch.equal(blank[..., kept], image[..., kept])
    neutral = view("color", 0.5, 0.5, 0.5)
    torch.testing.assert_close(D.siamese(image, neutral), image)
    grey = D.siamese(image, view("color", 1.0, 0.0, 0.5))  # half brighter, no saturation
    torch.testing.assert_close(grey, (image.mean(1, keepdim=True) + 0.5).expand_as(image))
    pale = D.siamese(image, view("color", 0.5, 0.5, 0.0))
    torch.testing.assert_close(pale, image.mean() + (image - image.mean()) / 2)
    same = (1 - 1 / 1.2) / (1.2 - 1 / 1.2)
    torch.testing.assert_close(D.siamese(image, view("scale", same, same)), image)
    torch.testing.assert_close(D.siamese(image, view("rotate", 0.5)), image)
    quarter = D.siamese(image, view("rotate", 1.0), strengths=D.SiameseStrengths(rotate=90.0))
    torch.testing.assert_close(quarter, image.rot90(1, (2, 3)))


def test_views_are_drawn_evenly_and_wrong_ones_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = [D.draw_siamese(generator).change for _ in range(600)]
    assert all(60 < seen.count(change) < 140 for change in D.SIAMESE_CHANGES)
    with pytest.raises(DistilError, match="did you mean 'color'"):
        D.draw_siamese(changes=("colour",))
    with pytest.raises(DistilError, match="numbers for 2 images and 3"):
        D.siamese(torch.zeros(3, 1, 4, 4), D.SiameseView("flip", torch.zeros(2, 3)))


# ---- the net


def test_the_convnet_keeps_samples_apart_and_pads_grey_images() -> None:
    net = ConvNet(1, 3, width=4, depth=3, size=28)
    assert net.classifier.in_features == 4 * 4 * 4
    images = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(net(images)[2:3], net(images[2:3]))
    assert ConvNet(3, 3, width=4, depth=2, size=(8, 12), norm="batch")(torch.rand(2, 3, 8, 12)).shape == (2, 3)
    assert not any("bias" in name and "1" in name for name in ConvNet(norm="none", width=2, depth=1).state_dict())
    with pytest.raises(DistilError, match="halves the images to nothing"):
        ConvNet(size=8, depth=4)
    with pytest.raises(DistilError, match="norm='layer'"):
        ConvNet(norm="layer")
