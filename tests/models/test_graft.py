"""Exchanging modules without touching the model, and a head that comes before the pool."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.models import SmallCNN, grafted, load_model, with_class_maps


def test_a_graft_shares_everything_but_what_was_exchanged() -> None:
    net = SmallCNN(1, 4, widths=(3, 5))
    keys, head = list(net.state_dict()), net.fc
    new = nn.Linear(5, 2)
    other = grafted(net, {"fc": new, "layer2.1": nn.Conv2d(3, 5, 1)})
    assert net.fc is head
    assert list(net.state_dict()) == keys
    assert other.layer1 is net.layer1
    assert other.layer2[2] is net.layer2[2]
    assert other.layer2 is not net.layer2
    assert other.fc is new
    assert other(torch.zeros(2, 1, 8, 8)).shape == (2, 2)
    net.layer1[0].weight.data.zero_()
    assert not other.layer1[0].weight.any()


def test_a_module_at_two_places_is_exchanged_at_both() -> None:
    shared = nn.Linear(3, 3)
    net = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared))
    other = grafted(net, {"0": nn.Identity()})
    x = torch.randn(2, 3)
    torch.testing.assert_close(other(x), x.relu())
    assert grafted(net, {}) is net
    with pytest.raises(DistilError, match=r"no module '1\.2'; did you mean"):
        grafted(net, {"1.2": nn.Identity()})


@pytest.mark.parametrize("spec", ["distil:resnet8", "timm:resnet10t", "torchvision:resnet18"])
def test_class_maps_answer_as_the_model_without_its_bias(spec: str) -> None:
    model = load_model(spec, classes=5).eval()
    head = model.fc
    nn.init.normal_(head.bias)
    pooled = "layer3" if spec.startswith("distil") else "layer4"
    rebuilt, x = with_class_maps(model, pooled=pooled), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(x), model(x) - head.bias, rtol=1e-4, atol=1e-4)
    assert model.fc is head
    assert not {id(p) for p in model.parameters()} & {id(p) for p in rebuilt.parameters()}
    with pytest.raises(DistilError, match="no module 'layer9'"):
        with_class_maps(model, pooled="layer9")
