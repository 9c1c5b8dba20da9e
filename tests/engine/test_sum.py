"""Coefficients and sums: what is added, scaled, dropped, skipped and refused."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from distil import catalog
from distil.engine import Sum, Term, cosine, during, ramp, step_decay
from distil.engine.method import Method
from distil.engine.schedule import as_schedule
from distil.errors import DistilError
from distil.methods import AT, DKD, KD, FitNets, Supervised
from distil.methods.expression import parse
from distil.systems.pld import PLD
from engine import toys


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ramp(epochs=4), [0, 0.25, 0.5, 0.75, 1, 1]),
        (ramp(epochs=2, first=1, last=3), [1, 2, 3, 3, 3, 3]),
        (step_decay(every=2, factor=0.5, first=8), [8, 8, 4, 4, 2, 2]),
        (during(start=1, end=3), [0, 1, 1, 0, 0, 0]),
        (during(start=4), [0, 0, 0, 0, 1, 1]),
        (ramp(fraction=0.5), [0, 0.4, 0.8, 1, 1, 1]),
        (0.5 * cosine(fraction=1), [0.25 * (1 + math.cos(math.pi * k / 5)) for k in range(6)]),
    ],
    ids=str,
)
def test_schedules(schedule: Any, expected: list[float]) -> None:
    """Over six epochs, or over the six ends of five steps."""
    seen = [schedule(SimpleNamespace(epoch=k, step=k, steps=5)) for k in range(6)]
    assert seen == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ramp(),
        lambda: ramp(epochs=2, fraction=0.5),
        lambda: ramp(epochs=0),
        lambda: cosine(fraction=1.5),
        lambda: step_decay(every=0, factor=0.5),
        lambda: during(),
        lambda: during(start=3, end=3),
        lambda: during(end=1.5),
        lambda: as_schedule(math.nan),
        lambda: True * KD(),
        lambda: "2" * KD(),
        lambda: ramp(epochs=2) * (ramp(epochs=3) * KD()),
    ],
)
def test_impossible_coefficients_are_refused(wrong: Any) -> None:
    with pytest.raises((DistilError, TypeError)):
        wrong()


def test_sums_add_and_scale() -> None:
    made = 2 * (0.5 * KD() + ramp(epochs=20) * AT()) + Supervised()
    assert isinstance(made, Sum)
    assert made.expression == "kd + 2*ramp(epochs=20)*at + supervised"
    assert [c.coefficient(SimpleNamespace(epoch=10)) for c in made] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "text",
    [
        "0.123456789*kd(temperature=3.14159)",
        "ramp(epochs=20, first=0.5)*kd(temperature=2, convention=trl)",
        "0.5*cosine(fraction=0.25, last=0.1)*at + supervised",
        "step_decay(every=10, factor=0.5)*kd(name=hot) + kd",
        "50*during(end=30)*fsp + during(start=30)*supervised",
        "at(taps=['layer1.0', (one, 'two.conv')]) + fitnets(tap='stages.1')",
        "supervised(stream=train)",
        "directnorm(part=cosine)",
        "reviewkd(pooled=none)",
        "catkd(head=(none, head))",
    ],
)
def test_an_expression_reads_back_as_itself(text: str) -> None:
    assert parse(text).expression == text
    assert parse(parse(text).expression).expression == text


def optional() -> Iterator[tuple[str, str]]:
    """The methods and those of their arguments that may be None and are not by default."""
    for name in catalog.export_names():
        kind = catalog.export(name)
        if isinstance(kind, type) and issubclass(kind, Method):
            for key, parameter in inspect.signature(kind.__init__).parameters.items():
                if "None" in str(parameter.annotation) and parameter.default is not None:
                    yield name, key


OPTIONAL = list(optional())


def test_some_arguments_may_be_none_and_are_not_by_default() -> None:
    assert {("ReviewKD", "pooled"), ("CATKD", "head"), ("SubclassKD", "head"), ("GramMatch", "semantic")} <= {*OPTIONAL}


@pytest.mark.parametrize(("name", "key"), OPTIONAL)
def test_an_argument_of_none_reads_back_as_none(name: str, key: str) -> None:
    made = catalog.export(name)(**{key: None})
    (again,) = parse(made.expression)
    assert made.expression == again.method.expression == f"{name.lower()}({key}=none)"
    assert again.method.taps == made.taps
    plain = catalog.export(name)()
    assert plain.expression == name.lower()
    for word in ("none", "None", "null"):
        (read,) = parse(f"{name.lower()}({key}={word})")
        assert vars(read.method)[key] == vars(made)[key] != vars(plain)[key]


def test_a_word_that_means_something_is_quoted_where_it_is_a_string() -> None:
    for word in ("none", "null", "true"):
        made = Supervised(stream=word)
        (again,) = parse(made.expression)
        assert again.method.stream == word
    assert Supervised(stream=None).expression == "supervised"


def test_a_constant_zero_is_dropped_and_its_branch_never_computed() -> None:
    made = 0 * Exploding() + KD()
    assert [c.name for c in made] == ["kd"]
    assert toys.taught(made)(toys.batch(toys.vectors())).terms.keys() == {"kd"}
    with pytest.raises(DistilError, match="every coefficient is 0"):
        toys.taught(0 * KD())


def test_a_scheduled_zero_is_skipped_until_it_rises() -> None:
    distiller = toys.taught(ramp(epochs=2) * Exploding() + KD(), epochs=4)
    data = toys.batch(toys.vectors())
    assert toys.step(distiller, data).terms.keys() == {"kd"}
    distiller.end_epoch()
    with pytest.raises(RuntimeError, match="boom"):
        distiller(data)


class Exploding(toys.Hint):
    """Cannot be computed."""

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        raise RuntimeError("boom")


def test_all_components_at_zero_say_so() -> None:
    distiller = toys.taught(ramp(epochs=2) * KD(), epochs=4)
    with pytest.raises(DistilError, match="Every coefficient is 0 at this step"):
        distiller(toys.batch(toys.vectors()))


class Mixes(toys.Hint):
    """Changes the batch, and says what ships."""

    def transform(self, batch: Any, student: Any, teacher: Any, ctx: Any) -> Any:
        return {**batch, "inputs": batch["inputs"] * torch.rand((), generator=ctx.rng)}

    def deployed(self, student: Any, teacher: Any) -> nn.Module:
        return nn.Sequential(student.module, nn.Identity())


def test_what_a_sum_may_hold_once() -> None:
    with pytest.raises(DistilError, match=r"two components called 'kd'.*name="):
        KD() + 2 * KD()
    assert [c.name for c in KD() + KD(name="hot")] == ["kd", "hot"]
    with pytest.raises(DistilError, match="'mixes' and 'again' change the batch"):
        Mixes() + Mixes(name="again")
    ships = type("Ships", (toys.Hint,), {"deployed": Mixes.deployed})
    with pytest.raises(DistilError, match="'mixes' and 'ships' say what ships"):
        toys.taught(Mixes() + ships())


def test_a_task_loss_counted_twice_warns() -> None:
    with pytest.warns(UserWarning, match="'pld' already holds the task loss"):
        toys.taught(PLD() + Supervised())


def test_terms_are_named_by_component_and_key() -> None:
    distiller = toys.taught(KD() + DKD() + FitNets(tap=("one", "two")), make=toys.CNN, taps=None)
    assert distiller(toys.batch(toys.images())).terms.keys() == {"kd", "dkd.tckd", "dkd.nckd", "fitnets"}


def test_a_method_that_is_none_is_refused() -> None:
    with pytest.raises(DistilError, match="A method is expected"):
        toys.taught("kd")
