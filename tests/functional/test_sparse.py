"""Losses on sparse targets agree with the dense ones where they know as much, and on average where they are drawn."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional import kl, soft_cross_entropy
from distil.functional.sparse import sampled_cross_entropy, sampled_kl, topk_cross_entropy, topk_kl, topk_of

from .oracles import gradient, normal

TAILS = ("rest", "uniform", "drop")


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_all_classes_known_is_the_dense_loss(tail: str, temperature: float) -> None:
    s, t = normal(6, 9, seed=1), normal(6, 9, seed=2)
    known = topk_of(t, 9, temperature=temperature)
    for sparse, dense in ((topk_kl, kl), (topk_cross_entropy, soft_cross_entropy)):
        ours = lambda x, f=sparse: f(x, *known, temperature=temperature, tail=tail)  # noqa: E731
        theirs = lambda x, f=dense: f(x, t, temperature=temperature)  # noqa: E731
        torch.testing.assert_close(ours(s), theirs(s), rtol=1e-10, atol=0)
        torch.testing.assert_close(gradient(ours, s), gradient(theirs, s), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("tail", TAILS)
def test_each_tail_is_the_dense_loss_of_what_it_stands_for(tail: str, temperature: float) -> None:
    s, t = normal(4, 7, seed=3), normal(4, 7, seed=4)
    ids, log_p = topk_of(t, 3, temperature=temperature)
    p = torch.zeros(4, 7, dtype=s.dtype).scatter(1, ids, log_p.exp())
    mass, unknown = 1 - p.sum(1, keepdim=True), torch.ones_like(p).scatter(1, ids, 0.0)

    def oracle(x: Tensor) -> Tensor:
        q = (x / temperature).softmax(1)
        if tail == "uniform":
            full = p + unknown * mass / 4
        elif tail == "drop":
            full = p / (1 - mass)
        else:
            q = torch.cat([q.gather(1, ids), (q * unknown).sum(1, keepdim=True)], 1)
            full = torch.cat([log_p.exp(), mass], 1)
        return (torch.xlogy(full, full) - full * q.log()).sum(1).mean() * temperature**2

    ours = lambda x: topk_kl(x, ids, log_p, temperature=temperature, tail=tail)  # noqa: E731
    torch.testing.assert_close(ours(s), oracle(s), rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient(ours, s), gradient(oracle, s), rtol=1e-7, atol=1e-12)
    entropy = lambda x: topk_cross_entropy(x, ids, log_p, temperature=temperature, tail=tail)  # noqa: E731
    torch.testing.assert_close(gradient(entropy, s), gradient(ours, s), rtol=1e-8, atol=1e-12)


def test_one_class_for_the_rest_is_a_lower_bound_that_grows_with_k() -> None:
    s, t = normal(5, 12, seed=5), normal(5, 12, seed=6)
    values = [float(topk_kl(s, *topk_of(t, k))) for k in range(1, 13)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(float(kl(s, t)))


def test_at_equality_the_rest_class_is_at_rest_and_the_dropped_tail_is_not() -> None:
    t = normal(5, 12, seed=7)
    still = lambda x: topk_kl(x, *topk_of(t, 4))  # noqa: E731
    assert float(still(t)) == pytest.approx(0, abs=1e-12)
    assert gradient(still, t).abs().max() < 1e-12
    assert gradient(lambda x: topk_kl(x, *topk_of(t, 4), tail="drop"), t).abs().max() > 1e-3


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_expectation_over_every_draw_is_the_dense_loss_and_gradient(power: float, temperature: float) -> None:
    s, t = normal(1, 4, seed=8), normal(1, 4, seed=9)
    log_p = (t / temperature).log_softmax(1)[0]
    pi = (power * log_p).softmax(0)
    entropy = -(log_p.exp() * log_p).sum()[None]
    value, slope, divergence = torch.zeros((), dtype=s.dtype), torch.zeros_like(s), torch.zeros((), dtype=s.dtype)
    for draw in itertools.product(range(4), repeat=3):
        ids = torch.tensor([draw])
        weights = (log_p.exp() / pi)[ids] / 3
        chance = pi[ids].prod()
        ours = lambda x, i=ids, w=weights: sampled_cross_entropy(x, i, w, temperature=temperature)  # noqa: E731
        value += chance * ours(s)
        slope += chance * gradient(ours, s)
        divergence += chance * sampled_kl(s, ids, weights, entropy, temperature=temperature)
    dense = lambda x: soft_cross_entropy(x, t, temperature=temperature)  # noqa: E731
    torch.testing.assert_close(value, dense(s), rtol=1e-10, atol=0)
    torch.testing.assert_close(slope, gradient(dense, s), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(divergence, kl(s, t, temperature=temperature), rtol=1e-9, atol=1e-12)


def test_many_draws_come_near_where_topk_stays_away() -> None:
    s, t = normal(1, 200, seed=10), normal(1, 200, seed=11)
    dense = gradient(lambda x: soft_cross_entropy(x, t), s)
    ids = torch.multinomial(t.softmax(1), 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    drawn = gradient(lambda x: sampled_cross_entropy(x, ids, torch.full_like(ids, 1 / 200_000, dtype=s.dtype)), s)
    cut = gradient(lambda x: topk_cross_entropy(x, *topk_of(t, 20), tail="drop"), s)
    assert (drawn - dense).norm() < 0.02 * dense.norm()
    assert (cut - dense).norm() > 0.2 * dense.norm()


def test_rows_have_any_shape_weights_and_reductions() -> None:
    s, t = normal(2, 3, 8, seed=12), normal(2, 3, 8, seed=13)
    known, weight = topk_of(t, 4), torch.tensor([[1.0, 0.0, 2.0], [1.0, 1.0, 0.0]])
    each = topk_kl(s, *known, reduction="none")
    assert each.shape == (2, 3)
    torch.testing.assert_close(topk_kl(s, *known, weight=weight), (each * weight).sum() / weight.sum())
    torch.testing.assert_close(topk_kl(s, *known, reduction="sum"), each.sum())
    torch.testing.assert_close(
        topk_kl(s, *known, temperature=2.0), 4 * topk_kl(s, *known, temperature=2.0, scale="none")
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised(dtype: torch.dtype) -> None:
    s, t = normal(4, 30, seed=14).to(dtype), normal(4, 30, seed=15)
    ids, log_p = topk_of(t, 5)
    value = topk_kl(s, ids, log_p.to(dtype))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, topk_kl(s.float(), ids, log_p.to(dtype).float()))


def test_masked_classes_make_no_nan() -> None:
    s, t = normal(3, 6, seed=16), normal(3, 6, seed=17)
    s[:, 5], t[:, 5] = -torch.inf, -torch.inf
    for tail in ("rest", "drop"):
        slope = gradient(lambda x, tail=tail: topk_kl(x, *topk_of(t, 3), tail=tail), s)
        assert slope.isfinite().all()
        assert (slope[:, 5] == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    s = normal(2, 5, seed=18)
    ids, log_p = topk_of(s, 2)
    with pytest.raises(DistilError, match=r"expected \[\.\.\., V\] and twice"):
        topk_kl(s, ids[:1], log_p[:1])
    with pytest.raises(DistilError, match="outside the student's 5 classes"):
        topk_kl(s, ids + 4, log_p)
    with pytest.raises(DistilError, match="must be above 0"):
        topk_kl(s, ids, log_p, temperature=0.0)
    with pytest.raises(DistilError, match="did you mean 'rest'"):
        topk_kl(s, ids, log_p, tail="rst")
    with pytest.raises(DistilError, match=r"convert them with \.long"):
        sampled_cross_entropy(s, ids.int(), log_p)
    with pytest.raises(DistilError, match="one number per row"):
        sampled_kl(s, ids, log_p, log_p)
    with pytest.raises(DistilError, match="k=6 of 5 classes"):
        topk_of(s, 6)
