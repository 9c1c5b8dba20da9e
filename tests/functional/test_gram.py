"""Gram distances against plain float64 loops, and the properties that DisWOT's scores must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ortho_group

import distil.functional as D
from distil.errors import DistilError

from .oracles import normal

S, T = normal(5, 4, 3, 3), normal(5, 4, 2, 2, seed=1)
G, H = normal(6, 4), normal(6, 4, seed=1)


def table(rows: np.ndarray, eps: float = 1e-12) -> np.ndarray:
    """The inner products of rows, each row of the table by its length."""
    made = np.array([[float(np.dot(a, b)) for b in rows] for a in rows])
    return np.array([row / max(float(np.sqrt((row**2).sum())), eps) for row in made])


def samples(a: np.ndarray, b: np.ndarray) -> float:
    left, right = table(a.reshape(len(a), -1)), table(b.reshape(len(b), -1))
    return sum((left[i, j] - right[i, j]) ** 2 for i in range(len(a)) for j in range(len(a))) / len(a) ** 2


def channels(a: np.ndarray, b: np.ndarray) -> float:
    count = a.shape[1]
    return sum(((table(x.reshape(count, -1)) - table(y.reshape(count, -1))) ** 2).sum() for x, y in zip(a, b)) / (
        len(a) * count
    )


def gradients(a: np.ndarray, b: np.ndarray, eps: float = 1e-12) -> float:
    """Every matrix E_n written out."""
    total = 0.0
    for g, h in zip(a, b):
        left, right = np.outer(g, g), np.outer(h, h)
        for i in range(len(g)):
            mine = left[i] / max(np.linalg.norm(left[i]), eps)
            theirs = right[i] / max(np.linalg.norm(right[i]), eps)
            total += ((mine - theirs) ** 2).sum()
    return float(total / a.size)


def test_the_relation_is_the_loop_over_pairs_of_samples() -> None:
    np.testing.assert_allclose(D.sample_gram(S, T), samples(S.numpy(), T.numpy()), rtol=1e-12)
    np.testing.assert_allclose(D.row_gram(G), table(G.numpy()), rtol=1e-12)


def test_similarity_preserving_is_the_same_loss() -> None:
    """Tung and Mori: the squared Frobenius norm of the difference of row-normalised Gram matrices, over B²."""
    ours, theirs = (F.normalize(x.flatten(1) @ x.flatten(1).T, p=2, dim=1) for x in (S, T))
    torch.testing.assert_close(D.sample_gram(S, T), torch.linalg.matrix_norm(ours - theirs) ** 2 / len(S) ** 2)


def test_the_channel_correlation_is_the_loop_over_samples() -> None:
    expected = channels(S.numpy(), T.numpy())
    np.testing.assert_allclose(D.channel_gram(S, T), expected, rtol=1e-12)
    np.testing.assert_allclose(D.channel_gram(S, T, normaliser="cells"), expected / 4, rtol=1e-12)


def test_the_gradient_distance_is_that_of_the_outer_products_written_out() -> None:
    np.testing.assert_allclose(D.gradient_gram(G, H), gradients(G.numpy(), H.numpy()), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-5, 3e-7, 1e-8])
def test_the_guard_against_short_rows_is_that_of_the_outer_products(scale: float) -> None:
    """Products of the entries come near eps, which acts on rows of the matrices and not on the gradients."""
    small = G * scale
    np.testing.assert_allclose(D.gradient_gram(small, H), gradients(small.numpy(), H.numpy()), rtol=1e-9)


def test_class_maps_are_weighted_sums_of_channels() -> None:
    weight = normal(3, 4, seed=2)
    expected = np.array(
        [[sum(weight[n, c].item() * S[b, c].numpy() for c in range(4)) for n in range(3)] for b in range(5)]
    )
    np.testing.assert_allclose(D.class_maps(S, weight), expected, rtol=1e-12)


@pytest.mark.parametrize("labels", [[0, 2, 1, 1, 0], [0, -100, 1, -100, 2]])
def test_the_classifiers_gradient_is_autograds(labels: list[int]) -> None:
    weight, emb = normal(3, 4, seed=2).requires_grad_(), normal(5, 4)
    logits = emb @ weight.T + normal(3, seed=3)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor(labels)), weight)
    torch.testing.assert_close(D.fc_gradient(logits.detach(), emb, torch.tensor(labels)), expected)


# ---- properties


def test_rows_have_unit_length_and_an_empty_row_stays_empty() -> None:
    rows = torch.cat([G, torch.zeros(1, 4, dtype=G.dtype)])
    lengths = D.row_gram(rows).norm(dim=1)
    torch.testing.assert_close(lengths[:-1], torch.ones(6, dtype=G.dtype))
    assert lengths[-1] == 0


def test_the_relation_does_not_see_scale_or_rotation() -> None:
    flat = S.flatten(1)
    turned = flat @ torch.from_numpy(ortho_group.rvs(flat.shape[1], random_state=0))
    for same in (7.5 * S, turned):
        torch.testing.assert_close(D.sample_gram(same, T), D.sample_gram(S, T))
        assert D.sample_gram(same, S) < 1e-20
    assert D.sample_gram(S[:1], T[:1]) == 0  # 1x1 matrices, normalised


def test_the_semantic_distance_does_not_see_scale_or_sign_of_a_class() -> None:
    scale = torch.tensor([1.0, 2.0, 0.1, -1.0, -3.0, 50.0], dtype=G.dtype)[:, None]
    torch.testing.assert_close(D.gradient_gram(scale * G, H), D.gradient_gram(G, H))
    assert D.gradient_gram(scale * G, G) < 1e-12
    assert D.gradient_gram(G, G) == 0
    assert D.gradient_gram(G.float(), G.float()) == 0


def test_memory_stays_that_of_the_gradients() -> None:
    """1,000 classes of 2,048 channels would need 16 GB for the matrices."""
    wide = torch.randn(1000, 2048, generator=torch.Generator().manual_seed(0))
    assert 0 < float(D.gradient_gram(wide, wide.flip(0))) < 2.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matrices_are_computed_in_float32(dtype: torch.dtype) -> None:
    """In half precision the products of these maps would overflow."""
    large, other = (300 * S).to(dtype), (300 * T).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        for value in (
            D.sample_gram(large, other),
            D.channel_gram(large, other),
            D.class_maps(large, G[:, :4].to(dtype)).sum(),
        ):
            assert value.dtype == torch.float32
            assert value.isfinite()


# ---- refusals


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: D.sample_gram(S, T[:3]), r"\(5, 4, 3, 3\) and the teacher's \(3, 4, 2, 2\)"),
        (lambda: D.channel_gram(S, T[:, :3]), r"\(5, 4, 3, 3\) and the teacher's \(5, 3, 2, 2\).*class_maps"),
        (lambda: D.channel_gram(S, T, normaliser="row"), "normaliser='row' is unknown; did you mean 'rows'"),
        (lambda: D.gradient_gram(G, H[:, :3]), r"\(6, 4\) and the teacher \(6, 3\).*semantic='cam'"),
        (lambda: D.class_maps(S, normal(3, 5)), r"\(5, 4, 3, 3\) and the classifier's weight \(3, 5\)"),
        (lambda: D.fc_gradient(G, T, torch.zeros(6)), r"\(6, 4\) and the embedding \(5, 4, 2, 2\)"),
        (lambda: D.fc_gradient(G, H, torch.full((6,), 9)), "label 9 is outside the 4 classes"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: object, says: str) -> None:
    assert callable(call)
    with pytest.raises(DistilError, match=says):
        call()
