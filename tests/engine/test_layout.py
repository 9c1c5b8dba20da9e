"""Maps that a model lays channels last are known by what its layers do, and methods read them channels first."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.engine import Anatomy, Distiller, anatomy
from distil.engine.layout import CHANNELS_LAST, UNCLEAR, layouts
from distil.errors import DistilError
from distil.loops import own_cache
from distil.methods import AT, FitNets
from distil.tasks import get_task
from engine import toys


class Block(nn.Module):
    """LayerNorm and a linear layer over the channels, which come last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.mlp(self.norm(inputs))


class Merge(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(width, out)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.reduction(inputs[:, ::2, ::2])


class Last(nn.Module):
    """Two resolutions of channels-last blocks behind a convolution, averaged and classified."""

    def __init__(self, width: int = 4, classes: int = toys.CLASSES) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 1)
        self.one = nn.Sequential(Block(width), Block(width))
        self.two = nn.Sequential(Merge(width, width + 1), Block(width + 1))
        self.head = nn.Linear(width + 1, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(inputs).permute(0, 2, 3, 1))).mean((1, 2)))


def look(model: nn.Module, *shape: int) -> Anatomy:
    return anatomy(model, lambda m: m(torch.zeros(2, *shape)))


def test_stages_and_layout_of_a_channels_last_net() -> None:
    found = look(toys.seeded(Last, 1), 2, 6, 8)
    assert [(str(at), at.layout) for at in found.meanings["stages"]] == [
        ("one", CHANNELS_LAST),
        ("two", CHANNELS_LAST),
    ]
    assert found.meanings["depths"] == found.meanings["stages"]
    assert found.meanings["map"][0].layout == CHANNELS_LAST
    assert found.records["stem"].layouts == ("", "")
    conv = look(toys.seeded(toys.CNN, 1), 2, 8, 8)
    assert {at.layout for places in conv.meanings.values() for at in places} == {""}


def test_methods_read_such_maps_channels_first() -> None:
    data = toys.batch(toys.images(), 4)
    made = Distiller(toys.seeded(Last, 1), toys.seeded(Last, 2), AT(taps="stages") + FitNets(), example=data)
    student, _ = made.cast.handles()
    trace = student(data)
    (raw,) = [value for place, value in trace.values.items() if place.path == "one"]
    assert torch.equal(trace["stages"][0], raw.permute(0, 3, 1, 2))
    assert trace["stages"][0].shape[1] == 4
    assert trace.layout("stages") == (CHANNELS_LAST, CHANNELS_LAST)
    made(data).loss.backward()
    assert made.method.methods["fitnets"].regressor.conv.in_channels == 5


def test_such_a_map_is_not_cached_as_if_it_were_channels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_cache, "example_of", lambda bundle: toys.batch(toys.images(), 4))
    options: Any = (get_task("classification"), None, torch.device("cpu"))
    with pytest.raises(DistilError, match="--features map: the teacher lays the map of two channels last"):
        own_cache._taps(["map"], toys.seeded(Last, 1), *options)
    assert own_cache._taps(["map"], toys.seeded(toys.CNN, 1), *options) == {"logits": "logits", "map": "two"}


class Read(toys.Hint):
    """Notes what stands in a tap's place."""

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> Any:
        self.seen = Seen()
        self.changed = teacher(batch, replace={self.tap: self.seen}).logits
        return super().forward(student, student, batch, ctx)


class Seen(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        self.shape = tuple(inputs.shape)
        return torch.zeros_like(inputs)


def test_what_takes_the_place_of_such_a_map_is_given_it_channels_first() -> None:
    data = toys.batch(toys.images(), 4)
    method = Read(tap="stages.1")
    made = Distiller(toys.seeded(Last, 1), toys.seeded(Last, 2), method, example=data)
    made(data)
    assert method.seen.shape[:2] == (4, 5)
    assert torch.equal(method.changed[0], method.changed[1])  # the rest ran, on nothing


def test_a_shape_that_both_kinds_of_layers_handle_is_unclear() -> None:
    x = torch.zeros(1, 8, 8, 8)
    laid = layouts([(nn.Linear(8, 8), x, x), (nn.Conv2d(8, 8, 1), x, x)])
    assert laid((1, 8, 8, 8)) == UNCLEAR
    assert laid((1, 4, 8, 8)) == laid(None) == ""
    square = layouts([(nn.LayerNorm(8), x, x)])  # both axes are 8, so it says nothing
    assert square((1, 8, 8, 8)) == ""


@cache
def timm_net(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=5, **options)


SWIN_NAME = "swin_tiny_patch4_window7_224"
SWIN = {"img_size": 32, "window_size": 2, "embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 1, 1, 1)}
DEPTHS = [
    ("vit_tiny_patch16_224", {"img_size": 32}, [f"blocks.{k}" for k in (1, 3, 9, 11)], ""),
    ("resmlp_12_224", {"img_size": 32}, [f"blocks.{k}" for k in (1, 3, 9, 11)], ""),
    ("mixer_s32_224", {"img_size": 64}, [f"blocks.{k}" for k in (1, 3, 5, 7)], ""),
    (SWIN_NAME, SWIN, [f"layers.{k}" for k in range(4)], CHANNELS_LAST),
    ("convnext_atto", {}, [f"stages.{k}" for k in range(4)], ""),
    ("resnet10t", {}, [f"layer{k}" for k in (1, 2, 3, 4)], ""),
]


def test_a_swins_stages_are_all_there() -> None:
    found = look(timm_net(SWIN_NAME, **SWIN), 3, 32, 32)
    shapes = [found.records[at.path].output_shape for at in found.meanings["stages"]]
    assert shapes == [(2, 8, 8, 24), (2, 4, 4, 48), (2, 2, 2, 96), (2, 1, 1, 192)]


@pytest.mark.parametrize(("name", "options", "paths", "layout"), DEPTHS, ids=lambda value: str(value)[:12])
def test_depths_of_timm_nets(name: str, options: dict[str, Any], paths: list[str], layout: str) -> None:
    size = options.get("img_size", 64)
    found = look(timm_net(name, **options), 3, size, size)
    assert [(str(at), at.layout) for at in found.meanings["depths"]] == [(path, layout) for path in paths]


def test_a_tap_with_a_question_mark_may_be_missing() -> None:
    data = toys.batch(toys.images(), 4)

    class Maybe(toys.Hint):
        def setup(self, student: Any, teacher: Any) -> None:
            self.found = [len(trace[tap]) for trace in (student, teacher) for tap in ("emb?", "tokens?")]

        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> Any:
            return super().forward(student, student, batch, ctx)

    method = Maybe(tap="emb")
    method.taps = ("emb", "emb?", "tokens?")
    made = Distiller(*toys.pair(toys.CNN), method, example=data)
    assert method.found == [1, 0, 1, 0]
    with pytest.raises(DistilError, match="has no tap 'tokens'"):
        Distiller(*toys.pair(toys.CNN), toys.Hint(tap="tokens"), example=data)
    assert made.eval()(data).loss.isfinite()
