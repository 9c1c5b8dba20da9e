"""Mixing and rescaling against plain loops in float64, and what the sheet of MIX-KD asks of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional import Mix, by_deviation, draw_mix, mixed, mixed_labels, rescaled_cross_entropy, rescaled_kl


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def test_a_draw_is_what_its_generator_makes_it() -> None:
    for first, second in zip(
        draw_mix(9, unmixed=0.5, generator=seeded()), draw_mix(9, unmixed=0.5, generator=seeded())
    ):
        assert torch.equal(first, second)
    assert not torch.equal(draw_mix(9, generator=seeded(1)).share, draw_mix(9, generator=seeded(2)).share)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 4, 4)])
def test_mixing_by_hand(shape: tuple[int, ...]) -> None:
    values, mix = logits(*shape), draw_mix(5, generator=seeded(3))
    expected = torch.stack(
        [
            float(mix.share[i]) * values[mix.first[i]] + (1 - float(mix.share[i])) * values[mix.second[i]]
            for i in range(5)
        ]
    )
    torch.testing.assert_close(mixed(values, mix), expected)


def test_labels_of_a_mix_are_probabilities_and_follow_the_inputs() -> None:
    labels, mix = torch.tensor([2, 0, 1, 2, 1]), draw_mix(5, generator=seeded(4))
    soft = mixed_labels(labels, mix, classes=4)
    assert soft.min() >= 0
    torch.testing.assert_close(soft.sum(1), torch.ones(5))
    for i in range(5):
        row = [0.0] * 4
        row[labels[mix.first[i]]] += float(mix.share[i])
        row[labels[mix.second[i]]] += 1 - float(mix.share[i])
        assert soft[i].tolist() == pytest.approx(row)
    with pytest.raises(DistilError, match="below 2"):
        mixed_labels(labels, mix, classes=2)


def test_how_much_stays_whole() -> None:
    """Exact draws keep ⌊pB⌋ samples whole; published ones 1 − (1 − 1/B)^⌊pB⌋ of them on average."""
    assert int((draw_mix(50, unmixed=0.9, draw="exact", generator=seeded()).share == 1).sum()) == 45
    assert bool((draw_mix(7, unmixed=1.0, draw="exact", generator=seeded()).share == 1).all())
    assert not bool((draw_mix(50, generator=seeded()).share == 1).any())
    rng = seeded(5)
    kept = sum(int((draw_mix(50, unmixed=0.9, generator=rng).share == 1).sum()) for _ in range(400)) / (400 * 50)
    assert kept == pytest.approx(1 - (1 - 1 / 50) ** 45, abs=0.01)


def test_the_beta_parameter_and_a_shared_draw() -> None:
    narrow = draw_mix(200, a=1e-3, generator=seeded()).share
    assert bool(((narrow < 1e-3) | (narrow > 1 - 1e-3)).float().mean() > 0.95)
    assert draw_mix(200, a=50.0, generator=seeded()).share.std() < 0.1
    assert len(draw_mix(20, shared=True, generator=seeded()).share.unique()) == 1


def test_the_rescaled_divergence_by_hand() -> None:
    s, t = logits(4, 6), logits(4, 6, seed=1)
    for row, (a, b) in enumerate(zip(s, t)):
        u, v = a / a.std(), b / b.std()
        p, q = v.softmax(0), u.softmax(0)
        expected = sum(float(p[c]) * (math.log(p[c]) - math.log(q[c])) for c in range(6))
        assert float(rescaled_kl(s, t, reduction="none")[row]) == pytest.approx(expected, abs=1e-12)


def test_scale_and_shift_of_a_row_do_not_matter_but_its_sign_does() -> None:
    t = logits(5, 7)
    scale, shift = torch.rand(5, 1, generator=seeded(), dtype=torch.float64) + 0.1, logits(5, 1, seed=2)
    assert float(rescaled_kl(scale * t + shift, t)) == pytest.approx(0, abs=1e-12)
    assert float(rescaled_kl(-scale * t + shift, t)) > 0.1


def test_the_gradient_flows_through_the_deviation() -> None:
    s, soft = logits(3, 5).requires_grad_(), logits(3, 5, seed=1).softmax(-1)
    assert torch.autograd.gradcheck(lambda x: rescaled_cross_entropy(x, soft), (s,))
    rescaled_cross_entropy(s, soft).backward()
    assert float((s.grad * s.detach()).sum(1).abs().max()) < 1e-12  # a loss of scale-free logits has no radial slope


def test_constant_logits_one_class_and_half_precision() -> None:
    flat = torch.zeros(2, 4, requires_grad=True)
    rescaled_kl(flat, torch.randn(2, 4, generator=seeded()), eps=1e-7).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())
    with pytest.raises(DistilError, match="one class has no deviation"):
        by_deviation(torch.zeros(3, 1))
    assert rescaled_kl(torch.randn(2, 4).bfloat16(), torch.randn(2, 4).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("wrong", [{"a": 0.0}, {"a": math.nan}, {"unmixed": 1.1}, {"unmixed": -0.1}, {"draw": "other"}])
def test_draws_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DistilError):
        draw_mix(4, **wrong)  # type: ignore[arg-type]
    with pytest.raises(DistilError):
        mixed(torch.zeros(3, 1), Mix.whole(4))
