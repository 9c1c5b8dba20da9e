"""Copies with weights drawn anew: what is drawn, from what, and what stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.models import CifarResNet, redrawn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)
        self.group, self.table = nn.GroupNorm(4, 64), nn.Embedding(200, 50)
        self.token = nn.Parameter(torch.full((7,), 0.25))
        self.head = nn.Linear(64, 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def trained() -> Net:
    net = Net()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 3.0)
    net.norm.running_mean.fill_(9)
    net.eval()
    return net


def test_normal_weights_are_standard_normal_and_the_rest_is_plain() -> None:
    net = redrawn(trained(), seed=1)
    for weight in (net.conv.weight, net.head.weight):
        assert abs(weight.mean().item()) < 0.1
        assert weight.std().item() == pytest.approx(1, abs=0.05)
    for layer in (net.conv, net.head, net.norm, net.group):
        assert not layer.bias.any()
    for layer in (net.norm, net.group):
        assert bool((layer.weight == 1).all())
    assert not net.norm.running_mean.any()
    assert net.table.weight.std() > 0.5  # its own way of starting
    assert bool((net.token == 3).all())
    assert net.training


def test_kaiming_weights_have_their_size_from_the_fan() -> None:
    net = redrawn(trained(), init="kaiming", seed=1)
    assert net.conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert not net.conv.bias.any()


def test_keep_is_a_copy() -> None:
    net = trained()
    copy = redrawn(net, init="keep")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), copy.state_dict().values(), strict=True))
    assert copy.training
    assert not net.training


def test_the_seed_alone_decides_and_nothing_else_moves() -> None:
    net, fresh = trained(), Net()
    state = torch.get_rng_state()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    first, again, other = redrawn(net, seed=4), redrawn(fresh, seed=4), redrawn(net, seed=5)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_nets_that_begin_alike_get_like_weights() -> None:
    short, long = (redrawn(CifarResNet(depth), seed=0) for depth in ((1, 1, 1), (1, 3, 1)))
    assert torch.equal(short.layer1[0].conv2.weight, long.layer1[0].conv2.weight)


def test_an_unknown_way_of_drawing_is_refused() -> None:
    with pytest.raises(DistilError, match="init='kaimng' is unknown; did you mean 'kaiming'"):
        redrawn(trained(), init="kaimng")
