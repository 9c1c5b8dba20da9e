"""Telling two sources apart, against scikit-learn's log loss and plain loops; and gradients that are reversed."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import expit
from sklearn.metrics import log_loss
from torch import Tensor

from distil.errors import DistilError
from distil.functional import reversed_gradient, source_cross_entropy

from .oracles import gradient, normal


def test_it_is_the_mean_over_both_sources_and_both_outputs() -> None:
    s, t = normal(5, 2, seed=1), normal(5, 2, seed=2)
    truth, said = [1, 0] * 5 + [0, 1] * 5, expit(torch.cat([s, t]).flatten().numpy())
    assert source_cross_entropy(s, t).item() == pytest.approx(log_loss(truth, said), rel=1e-12)
    stacked, targets = torch.cat([s, t]), torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5, dtype=torch.float64)
    assert stacked.shape == (10, 2)
    torch.testing.assert_close(
        source_cross_entropy(s, t), torch.nn.functional.binary_cross_entropy_with_logits(stacked, targets)
    )


def test_scores_of_nothing_give_log_two_and_the_right_order_less() -> None:
    nothing = torch.zeros(3, 2)
    torch.testing.assert_close(source_cross_entropy(nothing, nothing), torch.tensor(math.log(2)))
    ours, theirs = torch.tensor([[4.0, -4.0]]), torch.tensor([[-4.0, 4.0]])
    assert source_cross_entropy(ours, theirs) < 0.1 < 3 < source_cross_entropy(theirs, ours)


def test_each_row_is_its_own_and_both_sides_learn() -> None:
    s, t = normal(5, 2, seed=1), normal(5, 2, seed=2)
    rows = source_cross_entropy(s, t, reduction="none")
    for i in range(5):
        torch.testing.assert_close(rows[i], source_cross_entropy(s[i : i + 1], t[i : i + 1]))
    assert gradient(lambda x: source_cross_entropy(x, t), s).abs().min() > 0
    assert gradient(lambda x: source_cross_entropy(s, x), t).abs().min() > 0


def test_a_reversed_gradient_has_the_value_and_minus_the_slope() -> None:
    def loss(x: Tensor) -> Tensor:
        return (x**3).sum()

    x = normal(4, 3)
    assert torch.equal(reversed_gradient(x), x)
    torch.testing.assert_close(gradient(lambda z: loss(reversed_gradient(z, factor=0.5)), x), -0.5 * 3 * x**2)
    twice = gradient(lambda z: loss(reversed_gradient(reversed_gradient(z))), x)
    torch.testing.assert_close(twice, 3 * x**2)


def test_other_than_two_scores_are_refused() -> None:
    with pytest.raises(DistilError, match="one for each source"):
        source_cross_entropy(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(DistilError, match="one discriminator"):
        source_cross_entropy(torch.zeros(2, 2), torch.zeros(3, 2))
