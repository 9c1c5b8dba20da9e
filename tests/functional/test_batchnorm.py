"""Statistics of batch norms against float64 by hand, the plain form and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.functional import Layer, batch_moments, statistics_distance, statistics_terms

from .oracles import normal


def plain(layer: Layer) -> torch.Tensor:
    """The distance as it is written, through what autograd records."""
    rows = layer.inputs.transpose(0, 1).flatten(1)
    far = layer.variance - rows.var(1, correction=0), layer.mean - rows.mean(1)
    return far[0].norm() + far[1].norm()


def layer(*shape: int, seed: int = 0) -> Layer:
    inputs = (3 * normal(*shape, seed=seed) + 1).double().requires_grad_()
    channels = shape[1]
    return Layer(inputs, normal(channels, seed=seed + 1).double(), normal(channels, seed=seed + 2).double().abs())


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (2, 4, 7), (6, 2), (1, 3, 2, 2)])
def test_distance_and_gradient_are_those_of_the_plain_form(shape: tuple[int, ...]) -> None:
    one = layer(*shape)
    found, wanted = statistics_distance(one), plain(one)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(value, one.inputs)[0] for value in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_moments_by_finite_differences() -> None:
    assert torch.autograd.gradcheck(batch_moments, normal(3, 2, 4).double().requires_grad_())


def test_zero_if_and_only_if_the_statistics_match() -> None:
    inputs = normal(8, 3, 5, 5)
    mean, variance = batch_moments(inputs)
    assert statistics_distance(Layer(inputs, mean, variance)).item() == 0
    assert statistics_distance(Layer(inputs, mean + 0.1, variance)).item() == pytest.approx(0.1 * 3**0.5, rel=1e-4)
    assert statistics_distance(Layer(inputs, mean, variance + 0.1)).item() > 0.1


def test_a_gradient_at_rest_is_zero_and_not_nan() -> None:
    inputs = normal(4, 2, 3, 3).requires_grad_()
    mean, variance = (value.detach() for value in batch_moments(inputs))
    (gradient,) = torch.autograd.grad(statistics_distance(Layer(inputs, mean, variance)), inputs)
    assert not gradient.any()


def test_the_biased_variance_is_what_a_batch_norm_normalises_by() -> None:
    inputs, norm = normal(6, 3, 4, 4).float(), nn.BatchNorm2d(3, eps=1e-14, affine=False)
    mean, variance = batch_moments(inputs)
    by_hand = (inputs - mean.view(1, 3, 1, 1)) / variance.view(1, 3, 1, 1).sqrt()
    torch.testing.assert_close(norm(inputs), by_hand)


def test_first_weight_and_places_left_out() -> None:
    layers = [layer(3, 2, 4, seed=k) for k in range(4)]
    alone = [statistics_distance(one) for one in layers]
    found = statistics_terms(layers, first=10.0, skip=(2,))
    torch.testing.assert_close(found, torch.stack([10 * alone[0], alone[1], alone[3]]))
    assert len(statistics_terms(layers, first=10.0, skip=(0,))) == 3  # the next one does not take the first's weight
    torch.testing.assert_close(statistics_terms(layers, first=10.0, skip=(0,))[0], alone[1])


def test_half_precision_is_raised() -> None:
    one = Layer(normal(4, 2, 3).bfloat16(), torch.zeros(2), torch.ones(2))
    assert statistics_distance(one).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: statistics_terms([]), "of 0 batch norms"),
        (lambda: statistics_terms([layer(2, 2)], skip=(0,)), "leave at least one"),
        (lambda: statistics_terms([layer(2, 2), layer(2, 2)], skip=(5,)), r"\[5\]"),
        (lambda: statistics_distance(Layer(torch.zeros(2, 3), torch.zeros(2), torch.ones(3))), "running mean"),
        (lambda: batch_moments(torch.zeros(0, 3)), "at least one value"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()  # type: ignore[operator]
