"""Checks that stop a run before it lies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distil.engine import Distiller, Method, Term
from distil.errors import DistilError
from distil.methods import KD, Supervised
from engine import toys


class Says(Method):
    """Returns whatever term the test wants."""

    at_equality = {"says": "zero"}  # noqa: RUF012

    def __init__(self, make: Any, **attributes: Any) -> None:
        super().__init__()
        self.make = make
        for name, value in attributes.items():
            setattr(self, name, value)

    def setup(self, student: Any, teacher: Any) -> None:
        self.own = nn.Linear(toys.CLASSES, 1)

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> Any:
        return self.make(self, student(batch).logits, teacher(batch).logits)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m, s, t: {"says": Term((s.detach() - t).square().mean(1))}, "no student parameter in its graph"),
        (lambda m, s, t: {"says": Term(m.own(t).squeeze(1))}, "no student parameter in its graph"),
        (lambda m, s, t: {"other": Term((s - t).square().mean(1))}, r"returned terms \['other'\].*lists \['says'\]"),
        (lambda m, s, t: {}, "returned no term"),
    ],
)
def test_a_term_that_teaches_nobody_is_refused(make: Any, says: str) -> None:
    distiller = toys.taught(Says(make))
    with pytest.raises(DistilError, match=says):
        distiller(toys.batch(toys.vectors()))


def test_an_aux_term_may_train_the_methods_own_parts_alone() -> None:
    distiller = toys.taught(Says(lambda m, s, t: {"says": Term(m.own(t).squeeze(1), aux=True)}))
    distiller(toys.batch(toys.vectors())).loss.backward()
    assert distiller.method.components[0].method.own.weight.grad is not None


def test_a_tap_that_does_not_fire_is_named() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.extra, self.net, self.on = nn.Linear(6, 6), toys.mlp(), True

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.net(self.extra(inputs) if self.on else inputs)

    student, data = Skips(), toys.batch(toys.vectors())
    distiller = Distiller(student, Skips(), toys.Hint(tap="extra"), example=data)
    student.on = False
    with pytest.raises(DistilError, match=r"Tap 'extra' \(extra\) of the student did not fire"):
        distiller(data)


def test_nan_in_the_data_names_the_samples() -> None:
    distiller, data = toys.taught(), toys.batch(toys.vectors(), 8)
    toys.step(distiller, data)
    data["inputs"][[2, 5], 1] = torch.nan
    with pytest.raises(DistilError, match=r"at step 1: first in inputs .*samples with id 102, 105\. .*clean them"):
        distiller(data)


def test_nan_in_a_tap_names_it_and_the_terms_it_reached() -> None:
    data = toys.batch(toys.vectors(), 8)
    student, teacher = toys.seeded(lambda: toys.mlp(4), 1), toys.seeded(lambda: toys.mlp(4), 2)
    distiller = Distiller(student, teacher, toys.Hint(tap="hidden") + KD(), example=data)
    distiller(data)
    with torch.no_grad():
        student.hidden.weight[0, 0] = torch.inf
    with pytest.raises(DistilError, match=r"first in tap 'hidden' of the student \(seen in .*term 'hint'.*lower the"):
        distiller(data)


def test_nan_in_one_term_is_told_from_the_others() -> None:
    method = Says(lambda m, s, t: {"says": Term((s - t).square().mean(1).masked_fill(torch.arange(8) == 3, torch.nan))})
    with pytest.raises(
        DistilError, match=r"first in term 'says' \(seen in term 'says', the loss\); samples with id 103"
    ):
        toys.taught(KD() + method)(toys.batch(toys.vectors(), 8))


def test_what_weighs_nothing_may_be_anything() -> None:
    def make(method: Any, s: torch.Tensor, t: torch.Tensor) -> dict[str, Term]:
        values = (s - t).square().mean(1)
        return {"says": Term(values.masked_fill(torch.arange(8) == 3, torch.nan), (torch.arange(8) != 3).float())}

    method = Says(make, counts=lambda batch: {"says": 7.0})
    assert toys.taught(method)(toys.batch(toys.vectors(), 8)).loss.isfinite()


def test_the_ring_of_an_accelerator_is_read_late_and_names_the_first_bad_step() -> None:
    """The path of a device that must not be waited for, on a stand-in for its loss."""

    class Far:
        device = torch.device("cuda")

        def __init__(self, value: float) -> None:
            self.value = torch.tensor(value)

        def detach(self) -> torch.Tensor:
            return self.value

    sentinel = toys.taught()._sentinel
    ids = torch.arange(4)
    for step in range(10):
        values = torch.ones(4)
        if step >= 6:
            values[2] = torch.nan
        seen = {"term 'kd'": values}
        sentinel.watch(step, {"id": ids}, Far(float(values.sum())), lambda seen=seen: seen)
    with pytest.raises(DistilError, match=r"at step 6: first in term 'kd' .*samples with id 2\."):
        sentinel.read()
    sentinel.read()


class Mixed(nn.Module):
    """A net whose hidden layer is followed by an activation that writes into its output."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.hidden, self.act, self.head = nn.Linear(6, 4), nn.ReLU(inplace=inplace), nn.Linear(4, toys.CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.hidden(inputs)))


def test_a_tap_shows_what_its_module_gave_though_a_later_layer_writes_into_it() -> None:
    data = toys.batch(toys.vectors())
    steps = []
    for inplace in (False, True):
        student, teacher = (toys.seeded(lambda inplace=inplace: Mixed(inplace), seed) for seed in (1, 2))
        distiller = Distiller(student, teacher, toys.Hint(tap="hidden") + KD(), example=data)
        steps.append((distiller(data), student))
        steps[-1][0].loss.backward()
    (plain, one), (written, other) = steps
    assert torch.equal(plain.loss, written.loss)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(one.parameters(), other.parameters()))
    with torch.no_grad():
        assert (distiller.cast.handles()[0](data)["hidden"] < 0).any()


def test_a_tap_written_into_only_in_training_is_refused() -> None:
    class Sometimes(Mixed):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            hidden = self.hidden(inputs)
            return self.head(hidden.mul_(2) if self.training else hidden)

    data = toys.batch(toys.vectors())
    distiller = Distiller(Sometimes(False), Sometimes(False), toys.Hint(tap="hidden"), example=data)
    with pytest.raises(DistilError, match=r"tap hidden of the student was changed in place by a later layer"):
        distiller(data)


def test_a_listed_tap_that_is_never_run_is_named_on_the_first_step() -> None:
    class Deaf(Method):
        taps = ("hidden",)
        at_equality = {"deaf": "zero"}  # noqa: RUF012

        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
            return {"deaf": Term(student(batch).logits.square().mean(1))}

    data = toys.batch(toys.vectors())
    student, teacher = toys.seeded(lambda: toys.mlp(4), 1), toys.seeded(lambda: toys.mlp(4), 2)
    distiller = Distiller(student, teacher, Deaf(), example=data)
    with pytest.raises(
        DistilError, match=r"'deaf' lists the tap 'hidden' \(hidden\) of the teacher, and it did not fire"
    ):
        distiller(data)


def test_a_component_that_finds_nothing_in_an_epoch_stops_the_run() -> None:
    data = toys.vectors()
    data.labels[:] = -100
    with pytest.raises(DistilError, match=r"'supervised' found nothing to learn from in a whole epoch"):
        toys.train(toys.taught(KD() + Supervised()), data, epochs=2)
    data.labels[0] = 1
    toys.train(toys.taught(KD() + Supervised()), data, epochs=2, accumulate=2, batch_size=8)


def test_every_teacher_is_scored_or_it_is_said_that_none_was() -> None:
    data = toys.vectors(200)
    with pytest.warns(UserWarning, match="The teacher was not scored, as there are no validation data"):
        toys.train(toys.taught(), data, epochs=1, check_teacher=True)
    student, wrong = toys.seeded(toys.mlp, 1), toys.seeded(toys.mlp, 2)
    with torch.no_grad():
        wrong.head.weight.zero_()

    class Both(Method):
        at_equality = {"both": "zero"}  # noqa: RUF012

        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
            known = sum(handle(batch).logits for handle in teacher.values())
            return {"both": Term((student(batch).logits - known).square().mean(1))}

    teachers = {"a": toys.seeded(toys.mlp, 3), "b": wrong}
    distiller = Distiller(student, teachers, Both(), example=toys.batch(data))
    with pytest.warns(UserWarning, match=r"The teacher 'b': the teacher is right on .*not above the chance level"):
        toys.train(distiller, data, data, epochs=1, check_teacher=True)
