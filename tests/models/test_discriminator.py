"""The discriminator on logits: its widths, its last ReLU, what it refuses."""

from __future__ import annotations

import pytest
import torch

from distil.errors import DistilError
from distil.models import LogitDiscriminator


def widths(net: LogitDiscriminator) -> list[int]:
    return [layer.out_features for layer in (net.first, net.second, net.last)]


@pytest.mark.parametrize(
    ("classes", "reduction", "least", "expected"),
    [
        (1000, 8, 2, [125, 15, 2]),  # ImageNet: whole division, twice
        (100, 8, 1, [12, 1, 2]),
        (128, 8, 2, [16, 2, 2]),
        (10, 8, 2, [2, 2, 2]),  # 1 and 0 without a guard
        (10, 8, 1, [1, 1, 2]),
        (1, 8, 1, [1, 1, 2]),
        (10, 1, 2, [10, 10, 2]),
    ],
)
def test_widths_shrink_by_whole_division_and_never_vanish(
    classes: int, reduction: int, least: int, expected: list[int]
) -> None:
    net = LogitDiscriminator(classes, reduction=reduction, least=least)
    assert widths(net) == expected
    assert net(torch.randn(3, classes)).shape == (3, 2)


def test_it_is_three_layers_with_relus_between_and_after_the_last_if_wanted() -> None:
    torch.manual_seed(0)
    net, x = LogitDiscriminator(6, reduction=2), torch.randn(50, 6)
    hidden = (x @ net.first.weight.T + net.first.bias).clamp(min=0)
    hidden = (hidden @ net.second.weight.T + net.second.bias).clamp(min=0)
    scores = hidden @ net.last.weight.T + net.last.bias
    torch.testing.assert_close(net(x), scores)
    assert scores.min() < 0
    net.final_relu = True
    torch.testing.assert_close(net(x), scores.clamp(min=0))


@pytest.mark.parametrize("wrong", [{"classes": 0}, {"reduction": 0}, {"least": 0}])
def test_widths_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DistilError, match="at least 1"):
        LogitDiscriminator(**{"classes": 10, **wrong})
