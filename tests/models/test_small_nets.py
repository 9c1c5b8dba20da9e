"""The small nets of the image benchmarks: published sizes, libraries' own answers, taps found by meaning."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from distil.engine import Distiller
from distil.engine.anatomy import Anatomy, anatomy
from distil.errors import DistilError
from distil.methods import KD, SimKD
from distil.models import Mixer, MobileNet, ViT, WideResNet, load_model

SPECS = ("distil:wrn16_2", "distil:mobilenet(width=0.25)", "distil:vit(dim=32, depth=4)", "distil:mixer(dim=32)")
SPECS += ("distil:shufflenet(width=0.25)",)


def size_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def places(model: nn.Module, *shape: int) -> tuple[dict[str, list[str]], Anatomy]:
    found = anatomy(model, lambda net: net(torch.randn(2, *shape)))
    return {name: [str(place) for place in where] for name, where in found.meanings.items()}, found


@pytest.mark.parametrize(("depth", "width", "millions"), [(40, 4, 8.9), (16, 8, 11.0), (16, 2, 0.69), (40, 2, 2.2)])
def test_wide_resnets_have_the_published_sizes(depth: int, width: int, millions: float) -> None:
    assert size_of(WideResNet(depth, width)) == pytest.approx(millions * 1e6, rel=0.02)


def plain_wide(model: WideResNet, x: torch.Tensor) -> torch.Tensor:
    """The paper's order: every block opens with its own BatchNorm and ReLU, and the net closes with one."""

    def opened(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return ((x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]).clamp(min=0)

    stages = [model.stem, model.layer1, model.layer2, model.layer3]
    x = model.stem[0](x)
    for before, stage in pairwise(stages):
        for block in list(stage)[:-2]:
            ready = opened(before[-2] if block.open is None else block.open[0], x)
            x = x if block.shortcut is None else block.shortcut(ready)
            x = x + block.conv2(opened(block.bn2, block.conv1(ready)))
    return model.fc(opened(stages[-1][-2], x).mean((2, 3)))


def test_wide_resnets_are_the_papers_net() -> None:
    torch.manual_seed(0)
    model, x = WideResNet(16, 2), torch.randn(4, 3, 16, 16)
    for _ in range(3):
        model(torch.randn(8, 3, 16, 16))  # running statistics that are not those of the start
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), plain_wide(model, x), rtol=1e-4, atol=1e-4)


def test_wide_resnets_taps_and_refusals() -> None:
    model = load_model("distil:wrn16_2", classes=5, input_shape=(1, 32, 32))
    found, seen = places(model, 1, 32, 32)
    assert (found["map"], found["emb"], found["head"]) == (["layer3"], ["fc:in"], ["fc"])
    assert found["stages"] == ["layer1", "layer2", "layer3"]
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 16  # the name counts shortcuts too
    shapes = [seen.records[path].output_shape[1:] for path in found["stages"]]
    assert shapes == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]
    for bad in ({"depth": 14}, {"depth": 4}, {"width": 0}):
        with pytest.raises(DistilError, match="WideResNet"):
            WideResNet(**bad)
    with pytest.raises(DistilError, match="did you mean 'wrn16_2'"):
        load_model("distil:wrn16-2")


@pytest.mark.parametrize("width", [0.5, 0.35, 1.0, 1.4])
def test_mobilenet_is_torchvisions_but_for_strides(width: float) -> None:
    from torchvision.models import mobilenet_v2

    ours, theirs = MobileNet(width, classes=7), mobilenet_v2(width_mult=width, num_classes=7)
    shapes = [[tuple(p.shape) for p in net.state_dict().values()] for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    if width == 0.5:  # with the published strides, the answers are the same
        ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
        ours.stem[0].stride = ours.layer1[1].body[1][0].stride = (2, 2)
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_mobilenets_taps_and_refusals() -> None:
    found, seen = places(load_model("distil:mobilenet(width=0.25)", classes=5, input_shape=(3, 32, 32)), 3, 32, 32)
    assert (found["map"], found["emb"]) == (["last"], ["fc:in"])
    assert [seen.records[path].output_shape[2] for path in found["stages"]] == [32, 16, 8, 4]
    for bad in ({"width": 0}, {"classes": 0}, {"dropout": 1}):
        with pytest.raises(DistilError, match="MobileNet"):
            MobileNet(**bad)


@pytest.mark.parametrize("size", [(32, 32), (16, 24)])
def test_vit_and_mixer_answer_as_timms(size: tuple[int, int]) -> None:
    from timm.models import MlpMixer, VisionTransformer

    torch.manual_seed(0)
    shared: dict[str, Any] = {"img_size": size, "patch_size": 4, "embed_dim": 32, "num_classes": 5}
    vit = VisionTransformer(**shared, depth=2, num_heads=4, mlp_ratio=2.0)
    shared.pop("img_size")
    mixers = [MlpMixer(img_size=32, **shared, num_blocks=2, mlp_ratio=(0.5, 2.0))] if size == (32, 32) else []
    ours: list[nn.Module] = [ViT(size, dim=32, depth=2, classes=5), Mixer(size, dim=32, depth=2, classes=5)]
    x = torch.randn(2, 3, *size)
    for mine, theirs in zip(ours, [vit, *mixers]):
        mine.load_state_dict(theirs.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(mine.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", ["vit", "mixer"])
def test_token_nets_taps_and_refusals(name: str) -> None:
    model = load_model(f"distil:{name}(dim=32, depth=4)", classes=5, input_shape=(1, 16, 24))
    found, seen = places(model, 1, 16, 24)
    assert "map" not in found
    assert found["stages"] == [f"blocks.{k}" for k in range(4)]
    assert (found["tokens"], found["emb"]) == (["norm"], ["head:in"])
    assert seen.records["norm"].output_shape == (2, 24 + (name == "vit"), 32)
    with pytest.raises(DistilError, match=r"made for images of 16x24, and these are \(32, 32\)"):
        model(torch.zeros(1, 1, 32, 32))
    for bad in ({"size": 30}, {"depth": 0}, {"heads": 3} if name == "vit" else {"ratio": (0.0, 1.0)}):
        with pytest.raises(DistilError):
            (ViT if name == "vit" else Mixer)(**bad)


@pytest.mark.parametrize("spec", SPECS)
def test_each_learns_and_survives_saving(spec: str) -> None:
    torch.manual_seed(0)
    model = load_model(spec, classes=3, input_shape=(1, 16, 16))
    x, y = torch.randn(12, 1, 16, 16), torch.arange(12) % 3
    adam, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(x), y)
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert losses[-1] < 0.8 * losses[0], losses
    again = load_model(spec, classes=3, input_shape=(1, 16, 16))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_convolutions_can_meet_the_teachers_classifier_and_tokens_cannot() -> None:
    batch = {"inputs": torch.randn(4, 3, 16, 16), "labels": torch.arange(4) % 3}
    wide, mobile, vit = (load_model(spec, classes=3, input_shape=(3, 16, 16)) for spec in SPECS[:3])
    shipped = Distiller(mobile, wide, SimKD(), example=batch).deployed().eval()
    assert shipped(batch["inputs"]).shape == (4, 3)
    assert Distiller(vit, wide, KD(), example=batch)(batch).loss.isfinite()
    with pytest.raises(DistilError, match=r"ViT.*has no tap 'map'.*on logits or embeddings"):
        Distiller(vit, wide, SimKD(), example=batch)
