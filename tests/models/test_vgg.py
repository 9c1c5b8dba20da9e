"""The VGG without batch norm and the head that is put on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distil.engine.anatomy import anatomy
from distil.errors import DistilError
from distil.models import VGG, Headed, L2Head, UnitLinear, load_model


def test_vgg_eleven_has_the_papers_embedding_and_no_norm() -> None:
    widths = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    net = VGG(3, 0, widths=widths, size=32)
    assert net.features == 512
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 8
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_weights_are_hes_and_biases_nothing() -> None:
    torch.manual_seed(0)
    conv = VGG(3, 10, widths=((64, 64),), size=8).stage1[2]
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert not conv.bias.any()


def test_channels_last_changes_rounding_alone() -> None:
    torch.manual_seed(0)
    net, images = VGG(3, 5, widths=((4,), (6, 6)), size=(8, 12)), torch.randn(2, 3, 8, 12)
    quick = net(images)
    net.fast = False
    torch.testing.assert_close(net(images), quick, rtol=1e-4, atol=1e-5)


def test_it_is_made_by_name_as_classifier_and_as_encoder() -> None:
    shape = {"input_shape": (1, 8, 8), "classes": 7}
    assert load_model("distil:vgg(widths=((4,), (6,)))", **shape)(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert load_model("distil:vgg(widths=(4, 6), classes=0)", **shape)(torch.zeros(2, 1, 8, 8)).shape == (2, 24)


def test_its_taps_are_found_by_meaning() -> None:
    net = VGG(3, 5, widths=((4,), (6, 6)), size=8)
    found = anatomy(net, lambda model: model(torch.zeros(2, 3, 8, 8))).meanings
    assert [str(place) for place in found["head"]] == ["fc"]
    assert {"emb", "map", "stages"} <= set(found)


def test_the_head_of_a_network_with_a_head_is_its_last_layer() -> None:
    encoder = VGG(3, 0, widths=((4,), (6,)), size=8)
    net = Headed(encoder, L2Head(encoder.features, 12, hidden=(8, 8), bottleneck=4))
    found = anatomy(net, lambda model: model(torch.zeros(2, 3, 8, 8))).meanings
    assert found["head"][0].path == "head.last"
    assert isinstance(net.head.last, UnitLinear)
    assert "normalise_weights=True" in repr(net.head.last)


def test_the_heads_weights_are_truncated_normal() -> None:
    torch.manual_seed(0)
    head = L2Head(64, 512, hidden=(128,), bottleneck=32)
    for layer in (head.mlp[0], head.bottleneck, head.last):
        assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.05)
        assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VGG(3, 10, widths=()), "at least 1"),
        (lambda: VGG(3, 10, widths=((4,), ())), "at least 1"),
        (lambda: VGG(3, -1), "at least 1"),
        (lambda: VGG(3, 10, widths=((4,),) * 4, size=8), "fewer stages"),
        (lambda: L2Head(4, 0), "outputs=0"),
        (lambda: L2Head(4, 4, bottleneck=-1), "bottleneck=-1"),
        (lambda: L2Head(4, 4, activation="silu"), "activation='silu'"),
    ],
)
def test_impossible_shapes_are_refused(make: Any, said: str) -> None:
    with pytest.raises(DistilError, match=said):
        make()
