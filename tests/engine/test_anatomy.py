"""Taps: found by meaning on the usual families, named by path, refused with the nearest name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.engine import Anatomy, Distiller, anatomy
from distil.errors import DistilError
from distil.methods import KD
from engine import toys


@cache
def net(name: str) -> nn.Module:
    family, _, kind = name.partition(":")
    if family == "torchvision":
        import torchvision

        return getattr(torchvision.models, kind)(num_classes=5)
    import timm

    options = {"img_size": 64} if kind.startswith(("vit", "mixer")) else {}
    return timm.create_model(kind, num_classes=5, **options)


def look(model: nn.Module, *shape: int) -> Anatomy:
    return anatomy(model, lambda m: m(torch.zeros(2, *shape)))


@dataclass(frozen=True)
class Family:
    name: str
    size: int
    head: str
    emb: int
    map: tuple[int, ...] | None  # the shape of the last feature map, without the batch
    tokens: int | None  # how many tokens
    stages: tuple[str, ...]


FAMILIES = [
    Family("torchvision:resnet18", 64, "fc", 512, (512, 2, 2), None, ("layer1", "layer2", "layer3", "layer4")),
    Family("timm:resnet10t", 64, "fc", 512, (512, 2, 2), None, ("layer1", "layer2", "layer3", "layer4")),
    Family("timm:vit_tiny_patch16_224", 64, "head", 192, None, 17, ("blocks.2", "blocks.5", "blocks.8", "blocks.11")),
    Family("timm:mixer_s32_224", 64, "head", 512, None, 4, ("blocks.1", "blocks.3", "blocks.5", "blocks.7")),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_meanings_of_known_families(family: Family) -> None:
    found = look(net(family.name), 3, family.size, family.size)
    places = {meaning: tuple(map(str, where)) for meaning, where in found.meanings.items()}
    assert places["head"] == (family.head,)
    assert places["emb"] == (family.head + ":in",)
    assert found.records[family.head].input_shape == (2, family.emb)
    assert places["stages"] == family.stages
    if family.map is not None:
        assert found.records[places["map"][0]].output_shape == (2, *family.map)
    if family.tokens is not None:
        shape = found.records[places["tokens"][0]].output_shape
        assert shape is not None
        assert shape[1] == family.tokens


def test_meanings_of_small_nets() -> None:
    perceptron = look(toys.mlp(), 6)
    assert [str(p) for p in perceptron.meanings["emb"]] == ["head:in"]
    assert set(perceptron.meanings) == {"head", "emb"}
    conv = look(toys.CNN(), 2, 8, 8)
    assert [str(p) for p in conv.meanings["stages"]] == ["one", "two"]
    assert [str(p) for p in conv.meanings["map"]] == ["two"]


class Twice(nn.Module):
    """One layer called twice, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, toys.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(inputs).relu()))


def test_a_module_called_twice_is_no_meaning_and_its_tap_is_refused() -> None:
    found = look(Twice(), 6)
    assert found.records["layer"].calls == 2
    assert all("layer" not in str(place) for where in found.meanings.values() for place in where)
    student, teacher = toys.seeded(Twice, 1), toys.seeded(Twice, 2)
    data = toys.batch(toys.vectors(), 4)
    with pytest.raises(DistilError, match=r"tap 'layer' of the student runs more than once"):
        Distiller(student, teacher, toys.Hint(tap="layer"), example=data)


@pytest.mark.parametrize(
    ("tap", "width"),
    [("hidden", 4), ("hidden:in", 6), (("act", "hidden"), 4), ("emb", 4), ("head", 3)],
    ids=str,
)
def test_forms_of_a_tap(tap: Any, width: int) -> None:
    student, teacher = toys.seeded(lambda: toys.mlp(4), 1), toys.seeded(lambda: toys.mlp(4), 2)
    data = toys.batch(toys.vectors(), 5)
    distiller = Distiller(student, teacher, toys.Hint(tap=tap), example=data)
    ours, theirs = (handle(data)[tap] for handle in distiller.cast.handles())
    assert ours.shape == theirs.shape == (5, width)
    if tap != "hidden:in":  # the input itself, from which nothing is learned
        assert distiller(data).loss > 0


def test_wild_cards_give_every_match_in_order() -> None:
    distiller = toys.taught(toys.Hint() + KD(), make=toys.CNN, taps={"logits": "head"})
    data = toys.batch(toys.images(), 4)
    found = Distiller(*toys.pair(toys.CNN), WildCard(), example=data).cast.handles()[1](data)["*.1:in"]
    assert [tuple(t.shape) for t in found] == [(4, 8, 8, 8), (4, 8, 4, 4)]
    assert distiller(data).loss.isfinite()


class WildCard(toys.Hint):
    """Asks for every BatchNorm's input."""

    def __init__(self) -> None:
        super().__init__(tap="*.1:in")


@pytest.mark.parametrize(
    ("taps", "tap", "width"),
    [({"emb": "hidden"}, "emb", (4, 8)), ({"emb": ("hidden", "head")}, "emb", (4, 3)), ({"map": "act"}, "map", (4, 8))],
)
def test_the_users_path_wins(taps: dict[str, Any], tap: str, width: tuple[int, int]) -> None:
    class Read(toys.Hint):
        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> Any:
            seen.extend(h(batch)[tap].shape[1] for h in (student, teacher))
            return super().forward(student, student, batch, ctx)

    seen: list[int] = []
    data = toys.batch(toys.vectors(), 4)
    Distiller(*toys.pair(), Read(tap=tap), example=data, taps=taps).eval()(data)
    assert tuple(seen) == width


@pytest.mark.parametrize(
    ("tap", "says"),
    [
        ("hiden", "did you mean 'hidden'"),
        ("map", "has no tap 'map' \\(the last feature map before pooling\\)"),
        ("stages.7", "is not one of them"),
        ("hidden:out2", "after the colon comes 'in'"),
        ("nothing*", "does not exist"),
    ],
)
def test_wrong_names_are_refused_before_training(tap: str, says: str) -> None:
    make: Callable[..., nn.Module] = toys.CNN if tap.startswith("stages") else toys.mlp
    data = toys.batch(toys.images() if make is toys.CNN else toys.vectors(), 4)
    with pytest.raises(DistilError, match=says):
        Distiller(*toys.pair(make), toys.Hint(tap=tap), example=data)


def test_a_tap_nobody_asked_for_is_refused() -> None:
    distiller = toys.taught()
    trace = distiller.cast.handles()[0](toys.batch(toys.vectors(), 4))
    with pytest.raises(DistilError, match=r"was not asked for: add it to the method's `taps`"):
        trace["hidden"]


def test_the_dry_run_leaves_no_mark() -> None:
    model = toys.CNN().train()
    model.two.eval()
    before = toys.state(model)
    anatomy(model, lambda m: m(torch.randn(4, 2, 8, 8)))
    assert toys.same(before, model.state_dict())
    assert model.training
    assert not model.two.training
    assert toys.hooks(model) == 0


class Wrapped(nn.Module):
    """A model whose output is what ``pack`` makes of its logits."""

    def __init__(self, pack: Callable[[Tensor], Any], width: int) -> None:
        super().__init__()
        self.inner, self.pack = toys.mlp(width), pack

    def forward(self, inputs: Tensor) -> Any:
        return self.pack(self.inner(inputs))


@dataclass
class Output:
    """As a Hugging Face model gives it."""

    logits: Tensor
    hidden: Tensor | None = None


@pytest.mark.parametrize(
    "pack", [Output, lambda t: {"logits": t}, lambda t: (t, t), lambda t: [t]], ids=["object", "dict", "tuple", "list"]
)
def test_outputs_in_any_container(pack: Callable[[Tensor], Any]) -> None:
    student = toys.seeded(lambda: Wrapped(pack, 4), 1)
    data = toys.batch(toys.vectors(), 4)
    plain = toys.seeded(lambda: toys.mlp(4), 1)
    distiller = Distiller(student, toys.mlp(8), KD() + toys.Hint(), example=data)
    step = distiller(data)
    assert torch.equal(distiller.task.logits(step.student), plain(data["inputs"]))
    assert type(step.student) is type(pack(torch.zeros(1, 3)))
