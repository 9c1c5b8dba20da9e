"""Patches and masks against plain loops, and what masked autoencoders owe: ids, means over what was removed, scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import distil.functional as D
from distil.errors import DistilError

from .oracles import gradient, normal


def test_patchify_is_the_loop_over_rows_columns_and_channels() -> None:
    images = normal(2, 3, 6, 4)
    expected = [
        [
            [float(image[c, 2 * h + p, 2 * w + q]) for p in range(2) for q in range(2) for c in range(3)]
            for h in range(3)
            for w in range(2)
        ]
        for image in images
    ]
    torch.testing.assert_close(D.patchify(images, 2), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(1, 3, 8, 6), (1, 3, 6, 8)])
def test_sides_that_the_patch_does_not_divide_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DistilError, match=f"images of {shape[2]}x{shape[3]} cannot be cut into patches of 4x4"):
        D.patchify(torch.zeros(shape), 4)
    with pytest.raises(DistilError, match=r"\(3, 8, 8\) but \(N, C, H, W\)"):
        D.patchify(torch.zeros(3, 8, 8), 4)
    with pytest.raises(DistilError, match="patches of 0x0"):
        D.patchify(torch.zeros(shape), 0)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 0.9, 0.95])
def test_masks_keep_so_many_and_their_ids_are_inverse(ratio: float) -> None:
    noise = torch.rand(5, 196, generator=torch.Generator().manual_seed(0))
    mask = D.patch_mask(noise, ratio)
    visible = int(196 * (1 - ratio))
    assert mask.keep.shape == (5, visible)
    assert bool(((1 - mask.removed).sum(1) == visible).all())
    for row in range(5):
        order = sorted(range(196), key=lambda k, row=row: float(noise[row, k]))
        assert mask.keep[row].tolist() == order[:visible]
        assert mask.restore[row][order].tolist() == list(range(196))
        assert {k for k in range(196) if mask.removed[row, k] == 0} == set(order[:visible])


def test_the_papers_nine_and_three_visible_patches() -> None:
    noise = torch.rand(1, 196)
    assert [D.patch_mask(noise, r).keep.shape[1] for r in (0.75, 0.95, 0.98)] == [49, 9, 3]


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.0, "must be in"), (-0.1, "must be in"), (0.9, "leaves none of 4"), (float("nan"), "must be")],
)
def test_masks_that_leave_nothing_are_refused(ratio: float, words: str) -> None:
    with pytest.raises(DistilError, match=words):
        D.patch_mask(torch.rand(2, 4), ratio)


def test_noise_depends_on_the_generator_or_on_ids_alone() -> None:
    same = [D.patch_noise(3, 4, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*same)
    torch.manual_seed(0)
    ids = torch.tensor([5, 2, 9])
    first, alone = D.patch_noise(3, 4, ids=ids), D.patch_noise(1, 4, ids=ids[1:2])
    assert torch.equal(first[1], alone[0])
    assert len({tuple(row.tolist()) for row in first}) == 3
    assert D.patch_noise(0, 4, ids=ids[:0]).shape == (0, 4)
    with pytest.raises(DistilError, match="3 ids name 2 images"):
        D.patch_noise(2, 4, ids=ids)


def test_tokens_taken_and_put_back_are_where_they_were() -> None:
    tokens, filler = normal(3, 8, 5), normal(5, seed=1)
    mask = D.patch_mask(torch.rand(3, 8), 0.5)
    whole = D.restore_patches(D.take_patches(tokens, mask.keep), filler, mask.restore)
    expected = torch.where(mask.removed[:, :, None] == 1, filler, tokens)
    assert torch.equal(whole, expected)
    with pytest.raises(DistilError, match="8 visible tokens and only 4 places"):
        D.restore_patches(tokens, filler, mask.restore[:, :4])
    with pytest.raises(DistilError, match="patch_mask returned"):
        D.take_patches(tokens, mask.keep[:2])


def test_normalised_targets_have_mean_zero_and_unbiased_variance_one() -> None:
    images = 3 + 2 * normal(2, 3, 8, 8)
    targets = D.patch_targets(images, 4, normalise=True, eps=0.0)
    torch.testing.assert_close(targets.mean(-1), torch.zeros(2, 4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(targets.var(-1), torch.ones(2, 4, dtype=torch.float64))
    assert torch.equal(D.patch_targets(images, 4), D.patchify(images, 4))


def test_constant_patches_and_patches_of_one_value_are_finite() -> None:
    assert bool((D.patch_targets(torch.full((1, 1, 4, 4), 7.0), 2, normalise=True) == 0).all())
    assert bool((D.patch_targets(torch.rand(1, 1, 2, 2), 1, normalise=True) == 0).all())


def test_reconstruction_is_the_loop_over_removed_patches() -> None:
    prediction, targets = normal(3, 6, 4), normal(3, 6, 4, seed=1)
    removed = D.patch_mask(torch.rand(3, 6), 0.5).removed
    squares = [
        sum(float(prediction[n, k, d] - targets[n, k, d]) ** 2 for d in range(4)) / 4
        for n in range(3)
        for k in range(6)
        if removed[n, k]
    ]
    assert float(D.masked_reconstruction(prediction, targets, removed)) == pytest.approx(sum(squares) / len(squares))
    none = D.masked_reconstruction(prediction, targets, removed, reduction="none")
    assert float(none.sum()) == pytest.approx(sum(squares))


def test_visible_patches_change_nothing() -> None:
    prediction, targets = normal(3, 6, 4), normal(3, 6, 4, seed=1)
    removed = D.patch_mask(torch.rand(3, 6), 0.5).removed
    moved = prediction + 100 * (1 - removed)[:, :, None] * normal(3, 6, 4, seed=2)

    def value(p: Tensor) -> Tensor:
        return D.masked_reconstruction(p, targets, removed)

    assert torch.equal(value(prediction), value(moved))
    assert bool((gradient(value, prediction)[removed == 0] == 0).all())


def test_with_nothing_removed_the_reconstruction_is_zero_with_a_gradient_of_zero() -> None:
    mask = D.patch_mask(torch.rand(2, 6), 0.0)
    assert not mask.removed.any()
    slope = gradient(lambda p: D.masked_reconstruction(p, normal(2, 6, 4), mask.removed), normal(2, 6, 4, seed=1))
    assert bool((slope == 0).all())


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("normalise", [True, False])
def test_token_distance_is_the_loop_over_tokens(distance: str, normalise: bool) -> None:
    student, teacher = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    expected = []
    for sample in range(3):
        total = 0.0
        for token in range(4):
            s, t = student[sample, token].tolist(), teacher[sample, token].tolist()
            lengths = [sum(x * x for x in row) ** 0.5 if normalise else 1.0 for row in (s, t)]
            gaps = [a / lengths[0] - b / lengths[1] for a, b in zip(s, t, strict=True)]
            total += sum(abs(g) if distance == "l1" else g * g for g in gaps)
        expected.append(total / 20)
    found = D.token_distance(student, teacher, distance=distance, normalise=normalise, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_token_distance_sees_no_positive_scale_of_a_token_and_has_its_range() -> None:
    student, teacher = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    scale = torch.rand(3, 4, 1, dtype=torch.float64) + 0.1
    plain = D.token_distance(student, teacher)
    torch.testing.assert_close(D.token_distance(student * scale, teacher), plain)
    torch.testing.assert_close(D.token_distance(student, teacher / scale), plain)
    one = torch.tensor([[[1.0]]])
    assert float(D.token_distance(one, -one)) == 2  # the largest there is
    assert float(D.token_distance(one, -one, distance="l2")) == 4
    assert 0 < float(plain) < 2
    assert float(D.token_distance(student, student)) == 0


def test_random_directions_are_as_far_apart_as_the_docs_say() -> None:
    found = D.token_distance(torch.randn(64, 4, 1024), torch.randn(64, 4, 1024))
    assert float(found) == pytest.approx(0.8 * (2 / 1024) ** 0.5, rel=0.02)


def test_widths_that_differ_are_refused_with_the_fix() -> None:
    with pytest.raises(DistilError, match=r"\(2, 3, 4\) and the teacher \(2, 3, 5\).*project"):
        D.token_distance(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
    with pytest.raises(DistilError, match="did you mean"):
        D.token_distance(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), distance="l11")
