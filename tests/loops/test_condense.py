"""Orders for small sets: what is refused before anything is computed, and the random set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.data.bundle import Bundle, DictDataset
from distil.data.condensed import CondensedSet
from distil.errors import DistilError
from distil.loops.condense import condense
from distil.loops.condensers import CONDENSERS
from distil.loops.labelling import Labelling
from distil.loops.order import Condenser, Order, architecture, imported, options_of

CLASSES = ("blue", "green", "red")


def bundle(counts: tuple[int, ...] = (8, 8, 8), shape: tuple[int, ...] = (3, 6, 6)) -> Bundle:
    """Inputs whose first value says the class."""

    def part(each: tuple[int, ...], first: int) -> DictDataset:
        labels = torch.arange(3).repeat_interleave(torch.tensor(each))
        draw = torch.Generator().manual_seed(first)
        inputs = 0.2 * torch.rand(len(labels), *shape, generator=draw)
        for k, label in enumerate(labels.tolist()):
            inputs[k, label if shape[0] >= 3 else 0] += 0.7 if shape[0] >= 3 else 0.3 * label
        return DictDataset(inputs, labels, first + torch.arange(len(labels)))

    parts = part(counts, 0), part((40, 40, 40), 1000), part((10, 10, 10), 2000)
    return Bundle("colours", "classification", *parts, CLASSES, shape, "f00")


class Eye(nn.Module):
    """Knows the classes by the mean of a channel; with batch norm, and a head that reads an average, if wanted."""

    def __init__(self, scale: float = 20.0, *, norm: bool = True, average: bool = True, outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 1, bias=False)
        self.norm = nn.BatchNorm2d(3, affine=False) if norm else nn.Identity()
        self.average = average
        self.fc = nn.Linear(3 if average else 3 * 36, outputs)
        nn.init.dirac_(self.body.weight)
        with torch.no_grad():
            self.fc.bias.zero_()
            eye = torch.eye(outputs, 3) if average else torch.eye(outputs, 3).repeat_interleave(36, 1) / 36
            self.fc.weight.copy_(scale * eye)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.norm(self.body(inputs))
        scores: Tensor = self.fc(found.mean((2, 3)) if self.average else found.flatten(1))
        return scores


ASKED: list[Order] = []


@dataclass(frozen=True)
class Options:
    steps: int = 3
    rate: float = 0.1


def first_ones(order: Order) -> CondensedSet:
    ASKED.append(order)
    assert options_of(order, Options).steps >= 1
    positions = torch.cat([order.real(label, limit=order.per_class) for label in range(order.classes)])
    labels = torch.arange(order.classes).repeat_interleave(order.per_class)
    return CondensedSet(order.inputs(positions), labels, order.bundle.classes, made={"notes": ["the first ones"]})


def never(order: Order) -> None:
    raise DistilError("not today")


HERE = __name__
PLAIN = Condenser(f"{HERE}:first_ones", "the first ones", f"{HERE}:Options")


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(CONDENSERS, "first", PLAIN)
    ASKED.clear()
    return


def order(**changed: Any) -> Order:
    return Order(**{"bundle": bundle(), "per_class": 2, **changed})


TAUGHT = replace(PLAIN, teachers=1)

REFUSED: dict[str, tuple[Condenser, dict[str, Any], str]] = {
    "no such option": (PLAIN, {"options": {"step": 1}}, "The setting 'step' does not exist; did you mean 'steps'"),
    "an option of another type": (PLAIN, {"options": {"steps": "many"}}, "a whole number is expected"),
    "an option where there are none": (replace(PLAIN, options=""), {"options": {"steps": 1}}, "has no options"),
    "nothing per class": (PLAIN, {"per_class": 0}, "--per-class 0 must be at least 1"),
    "below the least": (replace(PLAIN, least=3), {}, "first needs at least 3 per class"),
    "too few of a class": (
        replace(PLAIN, whole=True),
        {"bundle": bundle((8, 1, 8))},
        r"needs 2 training samples of every class, and green \(1\) have fewer; ask for --per-class 1, or use random",
    ),
    "a class without samples": (PLAIN, {"bundle": bundle((8, 0, 8))}, "no training samples of green"),
    "images for vectors": (replace(PLAIN, inputs="vectors"), {}, "first condenses vectors, and colours holds images"),
    "vectors for images": (
        replace(PLAIN, inputs="images"),
        {"bundle": bundle(shape=(5,))},
        "first condenses images, and colours holds vectors",
    ),
    "another task": (PLAIN, {"bundle": replace(bundle(), task="node-classification")}, "is for node-classification"),
    "no teacher": (TAUGHT, {}, "needs a trained teacher; name one with --teacher"),
    "two teachers": (TAUGHT, {"teachers": (Eye(), Eye())}, "works with one teacher, and 2 were named"),
    "a teacher at chance": (TAUGHT, {"teachers": (Eye(0.0),)}, "at chance.*check its weights"),
    "a teacher of other classes": (TAUGHT, {"teachers": (Eye(outputs=5),)}, "has 5 outputs, and colours has 3 classes"),
    "a teacher of other inputs": (
        TAUGHT,
        {"teachers": (nn.Linear(4, 3),)},
        r"cannot be called on inputs of shape \(3, 6, 6\)",
    ),
    "a teacher of colours on grey": (
        TAUGHT,
        {"teachers": (Eye(),), "bundle": bundle(shape=(1, 6, 6))},
        "Read grey images as RGB: --set channels=3",
    ),
    "no batch norm": (
        replace(TAUGHT, batchnorm=True),
        {"teachers": (Eye(norm=False),)},
        "has no BatchNorm2d; name a teacher that has",
    ),
    "the second without batch norm": (
        replace(TAUGHT, batchnorm=True, teachers="many"),
        {"teachers": (Eye(), Eye(norm=False))},
        r"teacher 2 \(Eye\) has no BatchNorm2d",
    ),
    "no average before the head": (
        replace(TAUGHT, cam=True),
        {"teachers": (Eye(average=False),)},
        "does not read the average of its last map",
    ),
    "no map": (
        replace(TAUGHT, cam=True),
        {"teachers": (nn.Sequential(nn.Flatten(), nn.Linear(108, 3)),)},
        "has no last feature map with one linear layer",
    ),
    "a reason of its own": (replace(PLAIN, refuses=f"{HERE}:never"), {}, "not today"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_computed(
    name: str, first: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    condenser, changed, sentence = REFUSED[name]
    monkeypatch.setitem(CONDENSERS, "first", condenser)
    with pytest.raises(DistilError, match=sentence):
        condense(order(**changed), "first")
    assert not ASKED


@pytest.mark.parametrize(
    ("condenser", "teachers"),
    [
        (replace(TAUGHT, batchnorm=True, cam=True), (Eye(),)),
        (replace(TAUGHT, teachers="many", batchnorm=True), (Eye(), Eye())),
    ],
)
def test_what_can_work_is_done(
    condenser: Condenser, teachers: tuple[nn.Module, ...], first: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONDENSERS, "first", condenser)
    small = condense(order(teachers=teachers), "first")
    assert len(small) == 6


def test_a_set_says_how_it_was_made(first: None) -> None:
    eye = Eye()
    small = condense(order(seed=4, options={"steps": 5}), "first", None)
    made = small.made
    assert (made["method"], made["options"], made["seed"], made["per_class"]) == ("first", {"steps": 5}, 4, 2)
    assert (made["data"], made["teachers"], made["notes"]) == ("f00", [], ["the first ones"])
    soft = condense(order(teachers=(eye,)), "first", Labelling("static", temperature=4.0))
    assert soft.kind == "static"
    assert soft.made["nets"] == [architecture(eye)]
    assert torch.equal(soft.logits, eye(soft.samples()).detach())  # type: ignore[arg-type]


def test_soft_labels_need_a_teacher_that_knows_something(first: None) -> None:
    for teachers, sentence in (((), "static labels come from a trained teacher"), ((Eye(0.0),), "at chance")):
        with pytest.raises(DistilError, match=sentence):
            condense(order(teachers=teachers), "first", Labelling("static"))
    assert not ASKED


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(DistilError, match="'rndom' makes no sets; did you mean 'random'"):
        condense(order(), "rndom")


def test_every_condenser_can_be_imported() -> None:
    for name, condenser in CONDENSERS.items():
        assert callable(imported(condenser.run)), name
        assert not condenser.options or imported(condenser.options)(), name
        assert not condenser.refuses or callable(imported(condenser.refuses)), name
        assert condenser.about, name


class Heard:
    """A progress that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, name: str, total: int | None = None) -> None: ...

    def step(self, done: int, total: int) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)


def test_random_takes_all_of_a_class_that_has_fewer_and_says_so() -> None:
    heard = Heard()
    small = condense(order(bundle=bundle((8, 3, 8)), per_class=5, progress=heard), "random")
    assert small.labels.bincount().tolist() == [5, 3, 5]
    assert "1 of 3 classes have fewer than 5 training samples and give all: green (3)" in heard.said[0]


def test_random_draws_real_samples_of_training_without_repeating_one() -> None:
    data = bundle()
    small = condense(order(bundle=data, per_class=5), "random")
    assert small.ids is not None
    assert len(set(small.ids.tolist())) == 15
    for image, label, place in zip(small.inputs, small.labels, small.ids.tolist(), strict=True):
        assert torch.equal(image, data.train[place]["inputs"])
        assert label == data.train[place]["labels"]
    assert torch.equal(small.inputs, condense(order(bundle=data, per_class=5), "random").inputs)
    assert not torch.equal(small.inputs, condense(order(bundle=data, per_class=5, seed=1), "random").inputs)


def test_data_of_another_task_are_told_what_can_be_condensed() -> None:
    with pytest.raises(DistilError, match="images, vectors or texts with one label each"):
        condense(Order(replace(bundle(), task="segmentation"), 1), "random")
