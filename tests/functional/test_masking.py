"""Masks and dense comparisons against plain loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import distil.functional as D
from distil.errors import DistilError
from distil.functional.masking import FULL_ATTENTION

from .oracles import gradient, kl_rows, normal

B, C, H, W, M = 2, 4, 3, 5, 3
S, T = normal(B, C, H, W), normal(B, C, H, W, seed=1)
CHANNEL = D.channel_masks(T, normal(M, seed=2))
SPATIAL = D.spatial_masks(T, normal(M, C, seed=3))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_masks_are_sigmoids_of_units_and_features() -> None:
    channel, spatial = normal(M, seed=2), normal(M, C, seed=3)
    assert CHANNEL.shape == (B, M, C)
    assert SPATIAL.shape == (B, M, H, W)
    for b in range(B):
        for m in range(M):
            for c in range(C):
                mean = sum(float(T[b, c, i, j]) for i in range(H) for j in range(W)) / (H * W)
                assert float(CHANNEL[b, m, c]) == pytest.approx(sigmoid(float(channel[m]) * mean), rel=1e-12)
            for i in range(H):
                for j in range(W):
                    score = sum(float(spatial[m, c] * T[b, c, i, j]) for c in range(C))
                    assert float(SPATIAL[b, m, i, j]) == pytest.approx(sigmoid(score), rel=1e-12)
    for masks in (CHANNEL, SPATIAL):
        assert ((masks > 0) & (masks < 1)).all()


@pytest.mark.parametrize("normalizer", ["sum", "literal"])
@pytest.mark.parametrize("masks", [CHANNEL, SPATIAL], ids=["channel", "spatial"])
def test_masked_error_is_the_plain_sum(masks: Tensor, normalizer: str) -> None:
    """The error of maps multiplied by the mask, element by element, over (or times) the mask's sum."""
    expected = np.zeros((B, M))
    for b in range(B):
        for m in range(M):
            error = 0.0
            for c in range(C):
                for i in range(H):
                    for j in range(W):
                        mask = float(masks[b, m, c] if masks.ndim == 3 else masks[b, m, i, j])
                        error += (mask * float(T[b, c, i, j]) - mask * float(S[b, c, i, j])) ** 2
            size, other = float(masks[b, m].sum()), H * W if masks.ndim == 3 else C
            expected[b, m] = error / (other * (size + 1e-5)) if normalizer == "sum" else error * size / other
    values = D.masked_mse(S, T, masks, normalizer=normalizer, reduction="none")
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    torch.testing.assert_close(D.masked_mse(S, T, masks, normalizer=normalizer), values.mean())


@pytest.mark.parametrize("masks", [CHANNEL, SPATIAL], ids=["channel", "spatial"])
def test_masked_error_scales_with_the_masks_and_stays_finite_without_them(masks: Tensor) -> None:
    """Dividing by the sum leaves one factor of the mask, multiplying by it three."""
    once, twice = (D.masked_mse(S, T, factor * masks, eps=0.0) for factor in (1, 2))
    torch.testing.assert_close(twice, 2 * once)
    literal = [D.masked_mse(S, T, factor * masks, normalizer="literal") for factor in (1, 2)]
    torch.testing.assert_close(literal[1], 8 * literal[0])
    empty = D.masked_mse(S, T, 0 * masks)
    assert empty == 0
    assert gradient(lambda m: D.masked_mse(S, T, m), 0 * masks).isfinite().all()


@pytest.mark.parametrize("masks", [CHANNEL, SPATIAL], ids=["channel", "spatial"])
def test_masked_error_is_zero_only_where_maps_agree(masks: Tensor) -> None:
    assert D.masked_mse(S, S, masks) == 0
    assert D.masked_mse(S, T, masks) > 0
    one = S.clone()
    one[0, 1, 2, 3] += 1e-3
    assert D.masked_mse(one, S, masks) > 0


def test_attention_is_the_softmax_of_scores_over_keys() -> None:
    query, key, value = normal(B, 2, H, W, seed=4), normal(B, 2, H, W, seed=5), T
    weights, fused = D.attention_weights(query, key), D.cross_attention(query, key, value)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H * W, dtype=torch.float64))
    for b in range(B):
        for p in range(H * W):
            scores = [
                sum(float(query[b, k].flatten()[p] * key[b, k].flatten()[r]) for k in range(2)) / math.sqrt(2)
                for r in range(H * W)
            ]
            shares = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(weights[b, p], shares, rtol=1e-12)
            for c in range(C):
                mixed = float((torch.tensor(shares) * value[b, c].flatten()).sum())
                assert float(fused[b, c].flatten()[p]) == pytest.approx(mixed, rel=1e-11)


def test_fused_values_lie_between_those_that_are_mixed() -> None:
    fused = D.cross_attention(9 * normal(B, 2, H, W), normal(B, 2, H, W, seed=1), T).flatten(2)
    low, high = T.flatten(2).min(2, keepdim=True).values, T.flatten(2).max(2, keepdim=True).values
    assert (fused >= low - 1e-12).all()
    assert (fused <= high + 1e-12).all()


@pytest.mark.parametrize("channels", [1, 6])
def test_the_saving_kernel_equals_the_whole_table(channels: int) -> None:
    """In value and in every gradient; widths of query and value may differ."""
    maps = normal(B, channels, H, W, seed=4), normal(B, channels, H, W, seed=5), T
    found = []
    for limit in (FULL_ATTENTION, 0):
        leaves = [m.clone().requires_grad_() for m in maps]
        fused = D.cross_attention(*leaves, full_up_to=limit)
        found.append([fused, *torch.autograd.grad((fused * normal(B, C, H, W, seed=7)).sum(), leaves)])
    for whole, saving in zip(*found, strict=True):
        torch.testing.assert_close(saving, whole, rtol=1e-9, atol=1e-12)


def test_a_stride_pools_and_resizes_back() -> None:
    query, key = normal(B, 2, H, W, seed=4), normal(B, 2, H, W, seed=5)
    assert D.cross_attention(query, key, T, stride=2).shape == T.shape
    flat = torch.ones_like(T) * T.mean((2, 3), keepdim=True)
    torch.testing.assert_close(D.cross_attention(query, key, flat, stride=2), flat)
    torch.testing.assert_close(D.cross_attention(query, key, T, stride=1), D.cross_attention(query, key, T))
    with pytest.raises(DistilError, match="stride=0 must be at least 1"):
        D.cross_attention(query, key, T, stride=0)


@pytest.mark.parametrize("masks", [CHANNEL, SPATIAL], ids=["channel", "spatial"])
def test_dice_is_the_mean_over_pairs_or_one_ratio(masks: Tensor) -> None:
    mean, ratio = np.zeros(B), np.zeros(B)
    for b in range(B):
        flat = masks[b].flatten(1).numpy()
        pairs = [(i, j) for i in range(M) for j in range(M) if i != j]
        mean[b] = np.mean([2 * (flat[i] @ flat[j]) / (flat[i] @ flat[i] + flat[j] @ flat[j]) for i, j in pairs])
        norms = sum(flat[i] @ flat[i] for i in range(M))
        ratio[b] = 2 * sum(flat[i] @ flat[j] for i, j in pairs) / (norms + norms)
    np.testing.assert_allclose(D.dice(masks, reduction="none"), mean, rtol=1e-10)
    np.testing.assert_allclose(D.dice(masks, reading="ratio", reduction="none"), ratio, rtol=1e-10)


def test_dice_at_its_ends() -> None:
    same, apart = torch.full((2, M, 4), 0.3, dtype=torch.float64), torch.eye(4, dtype=torch.float64)[None, :M]
    torch.testing.assert_close(D.dice(same), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(D.dice(same, reading="ratio"), torch.tensor(M - 1.0, dtype=torch.float64))
    for reading in ("mean", "ratio"):
        assert D.dice(apart, reading=reading) == 0
        assert D.dice(same[:, :1], reading=reading) == 0
        assert D.dice(0 * same, reading=reading).isfinite()
        assert gradient(lambda m, r=reading: D.dice(m, reading=r), 0 * same).isfinite().all()
    with pytest.raises(DistilError, match=r"the masks are \(2, 3\)"):
        D.dice(torch.zeros(2, 3))


def test_the_order_of_units_is_free() -> None:
    order = torch.tensor([2, 0, 1])
    for masks in (CHANNEL, SPATIAL):
        torch.testing.assert_close(D.masked_mse(S, T, masks[:, order]), D.masked_mse(S, T, masks))
        for reading in ("mean", "ratio"):
            torch.testing.assert_close(D.dice(masks[:, order], reading=reading), D.dice(masks, reading=reading))


@pytest.mark.parametrize("masks", [CHANNEL, SPATIAL], ids=["channel", "spatial"])
def test_the_masked_map_is_the_sum_over_masks(masks: Tensor) -> None:
    weights = normal(B, M, seed=6).softmax(1)
    wide = masks[:, :, :, None, None] if masks.ndim == 3 else masks[:, :, None]
    torch.testing.assert_close(D.masked_map(T, masks), (T[:, None] * wide).sum(1))
    expected = (T[:, None] * wide * weights[:, :, None, None, None]).sum(1)
    torch.testing.assert_close(D.masked_map(T, masks, weights), expected)


def test_maskd_takes_half_or_weighs_masks_and_lets_the_student_customise() -> None:
    tokens, weights = normal(M, C, seed=3), normal(B, M, seed=6).softmax(1)
    plain = D.masked_mse(S, T, SPATIAL, reduction="none")
    torch.testing.assert_close(D.maskd_segmentation(S, T, tokens), plain.mean() / 2)
    exact = D.masked_mse(S, T, SPATIAL, eps=0.0, reduction="none")
    early = D.maskd_detection(S, T, tokens, weights, customised=False, reduction="none")
    torch.testing.assert_close(early, (exact * weights).sum(1))
    both = SPATIAL * D.spatial_masks(S, tokens)
    late = D.maskd_detection(S, T, tokens, weights, customised=True, reduction="none")
    torch.testing.assert_close(late, (D.masked_mse(S, T, both, eps=0.0, reduction="none") * weights).sum(1))
    # No gradient through the student's own mask: the slope is that of the error under fixed masks.
    slope = gradient(lambda s: D.maskd_detection(s, T, tokens, weights, customised=True), S)
    fixed = gradient(lambda s: (D.masked_mse(s, T, both, eps=0.0, reduction="none") * weights).sum(1).mean(), S)
    torch.testing.assert_close(slope, fixed)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_is_kl_over_positions_or_over_classes(temperature: float) -> None:
    flat = [m.flatten(2).reshape(B * C, -1).numpy() for m in (S, T)]
    expected = temperature**2 * kl_rows(*flat, temperature)
    np.testing.assert_allclose(D.cwd(S, T, temperature=temperature), expected.mean(), rtol=1e-10)
    pixels = [m.permute(0, 2, 3, 1).reshape(-1, C).numpy() for m in (S, T)]
    expected = temperature**2 * kl_rows(*pixels, temperature)
    np.testing.assert_allclose(D.cwd(S, T, temperature=temperature, norm="spatial"), expected.mean(), rtol=1e-10)


def test_cwd_forgets_a_constant_per_channel_or_per_position() -> None:
    torch.testing.assert_close(D.cwd(S + normal(B, C, 1, 1), T), D.cwd(S, T))
    torch.testing.assert_close(D.cwd(S + normal(B, 1, H, W), T, norm="spatial"), D.cwd(S, T, norm="spatial"))
    means = (S.mean((2, 3)) - T.mean((2, 3))).square().mean()
    torch.testing.assert_close(D.cwd(S, T, norm="channel_mean", divergence="mse"), means)
    summed = (S.flatten(2).softmax(2) - T.flatten(2).softmax(2)).square().sum(2).mean()
    torch.testing.assert_close(D.cwd(S, T, divergence="mse"), summed)
    with pytest.raises(DistilError, match="compares numbers, not distributions"):
        D.cwd(S, T, norm="channel_mean")


def test_maps_of_other_sizes_meet_at_the_teachers() -> None:
    resized = D.resize_match(S, normal(B, 7, 6, 4))
    expected = torch.nn.functional.interpolate(S, size=(6, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized, expected)
    assert D.resize_match(S, T) is S


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DistilError, match=r"the channel mask is \(2, 3, 9\) but \(2, M, 4\)"):
        D.masked_mse(S, T, torch.ones(B, M, 9))
    with pytest.raises(DistilError, match=r"the spatial mask is \(2, 3, 5, 3\) but \(2, M, 3, 5\)"):
        D.masked_mse(S, T, torch.ones(B, M, W, H))
    with pytest.raises(DistilError, match=r"the table of units is \(3, 5\) but \(M, 4\)"):
        D.spatial_masks(T, torch.ones(M, 5))
    with pytest.raises(DistilError, match=r"key is \(2, 3, 3, 5\) but \(2, 2, 3, 5\)"):
        D.cross_attention(normal(B, 2, H, W), normal(B, 3, H, W), T)
    with pytest.raises(DistilError, match="must be equal; compare masks of the same samples"):
        D.mask_movement(CHANNEL, CHANNEL[:1])
