"""Flows, class maps and context at several scales, against plain loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import distil.functional as D
from distil.errors import DistilError

from .oracles import Array, normal


def pooled(map_: Array, size: int, how: str = "mean") -> Array:
    """Adaptive pooling of one (C, H, W) map by its definition."""
    (_, height, width), out = map_.shape, np.zeros((len(map_), size, size))
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, -(-(i + 1) * height // size))
            columns = slice(j * width // size, -(-(j + 1) * width // size))
            out[:, i, j] = getattr(map_[:, rows, columns], how)(axis=(1, 2))
    return out


def flow(first: Array, second: Array, how: str) -> Array:
    first = pooled(first, second.shape[1], how)
    table = np.zeros((len(second), len(first)))
    for i, a in enumerate(second):
        for j, b in enumerate(first):
            table[i, j] = (a * b).mean()
    return table


@pytest.mark.parametrize(("variant", "how"), [("code", "mean"), ("paper", "max"), ("torchdistill", "max")])
def test_flows_are_sums_over_positions_and_their_distance_over_channels(variant: str, how: str) -> None:
    pool = {"mean": "avg", "max": "max"}[how]
    maps = [(normal(2, 3, 6, 6, seed=k), normal(2, 4, 3, 3, seed=k + 1)) for k in (0, 5)]
    ours, theirs = (D.flow_matrix(*pair, pool=pool) for pair in maps)
    plain = [[flow(a, b, how) for a, b in zip(*(m.numpy() for m in pair))] for pair in maps]
    np.testing.assert_allclose(ours, plain[0])
    gaps = [s - t for s, t in zip(*plain)]
    expected = {
        "code": [(g**2).mean() for g in gaps],
        "paper": [(g**2).sum() for g in gaps],
        "torchdistill": [sum(np.linalg.norm(row) for row in g) for g in gaps],
    }[variant]
    np.testing.assert_allclose(D.fsp(ours, theirs, variant=variant, reduction="none"), expected)


def test_flow_meets_at_the_smaller_map_whichever_comes_first() -> None:
    small, large = normal(2, 3, 2, 4), normal(2, 5, 4, 2)
    assert D.flow_matrix(small, large).shape == (2, 5, 3)
    torch.testing.assert_close(D.flow_matrix(small, large), D.flow_matrix(large, small).mT)


def test_context_is_the_weighted_error_of_the_pooled_maps() -> None:
    ours, theirs = normal(2, 3, 6, 5), normal(2, 3, 6, 5, seed=1)
    for height, weights in ((6, {0: 1, 4: 0.5, 2: 0.25, 1: 0.125}), (4, {0: 1, 2: 0.5, 1: 0.25}), (1, {0: 1})):
        found = D.hierarchical_context(ours[:, :, :height], theirs[:, :, :height], reduction="none")
        for b, value in enumerate(found):
            s, t = ours[b, :, :height].numpy(), theirs[b, :, :height].numpy()
            errors = {k: ((pooled(s, k) - pooled(t, k) if k else s - t) ** 2).mean() for k in weights}
            assert float(value) == pytest.approx(sum(w * errors[k] for k, w in weights.items()) / sum(weights.values()))


def test_vid_is_the_negative_log_likelihood_of_a_gaussian_without_its_constant() -> None:
    mean, target, rho = normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1), normal(3, seed=2)
    found = D.vid(mean, target, rho, reduction="none")
    for b, value in enumerate(found):
        deviation = (torch.log1p(rho.exp()) + 1e-5).sqrt()[:, None, None]
        likelihood = torch.distributions.Normal(mean[b], deviation).log_prob(target[b])
        assert float(value) == pytest.approx(-float(likelihood.mean()) - 0.5 * np.log(2 * np.pi))
    start = torch.full((3,), D.initial_log_scale(5.0), dtype=torch.float64)
    assert float(D.vid(mean, mean, start)) == pytest.approx(0.5 * np.log(5.0))
    with pytest.raises(DistilError, match=r"log_scale is \(2,\) but \(3,\)"):
        D.vid(mean, target, rho[:2])
    with pytest.raises(DistilError, match="must be above eps"):
        D.initial_log_scale(0.0)


def unit(row: Array) -> Array:
    return row / max(float(np.linalg.norm(row)), 1e-12)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("binarise", [True, False])
@pytest.mark.parametrize(("classes", "order"), [(0, "top"), (2, "top"), (2, "bottom")])
def test_class_maps_are_compared_class_by_class(normalise: bool, binarise: bool, classes: int, order: str) -> None:
    ours, theirs = normal(2, 4, 6, 6), normal(2, 4, 5, 5, seed=1)
    options = {"normalise": normalise, "binarise": binarise, "classes": classes, "order": order}
    found = D.class_attention(ours, theirs, size=3, **options, reduction="none")
    for b, value in enumerate(found):
        s, t = ours[b].numpy(), theirs[b].numpy()
        ranked = sorted(range(4), key=lambda n, t=t: t[n].mean(), reverse=order == "top")[: classes or None]
        seen = np.array([(m > np.abs(m).mean()) * 1.0 for m in t]) if binarise else t
        rows = [[pooled(m, 3)[n].ravel() for m in (s, seen)] for n in ranked]
        rows = [[unit(row) for row in both] for both in rows] if normalise else rows
        assert float(value) == pytest.approx(np.mean([((a - c) ** 2).mean() for a, c in rows]))


def test_class_attention_ignores_scale_and_survives_empty_maps() -> None:
    ours, theirs = normal(2, 4, 4, 4), normal(2, 4, 4, 4, seed=1)
    scales = torch.tensor([0.1, 2.0, 5.0, 1e3], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(D.class_attention(ours * scales, theirs), D.class_attention(ours, theirs))
    assert float(D.class_attention(0 * ours, 0 * theirs)) == 0
    with pytest.raises(DistilError, match="same classes"):
        D.class_attention(ours, theirs[:, :3])
    for bad in ({"size": 0}, {"classes": 5}, {"classes": -1}):
        with pytest.raises(DistilError, match="class_attention: size="):
            D.class_attention(ours, theirs, **bad)
    with pytest.raises(DistilError, match="did you mean 'bottom'"):
        D.class_attention(ours, theirs, order="botom")
