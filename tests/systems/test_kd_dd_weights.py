"""The survey's weights as a method: whom it trusts, how it goes on without a teacher, what the gate learns."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.data import DictDataset
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.engine.method import Method, Sum
from distil.errors import DistilError
from distil.functional import certainty, kl, mean_one, several_teachers, teacher_weights
from distil.methods import KD
from distil.systems.kd_dd_survey import WeightedTeachers, published
from distil.systems.meal_v2 import MealV2

from .toys import CLASSES, Fixed, ensemble, ensemble_distiller, image_distiller, mlp, pictures, samples, seeded, train


def logits(seed: int, count: int = 6) -> Tensor:
    return 2 * torch.randn(count, CLASSES, generator=seeded(seed), dtype=torch.float64)


BATCH = {"inputs": torch.zeros(6, 1), "labels": torch.tensor([0, 1, 2, 3, 4, -100]), "id": torch.arange(6)}


def fixed(method: Method | Sum, said: list[Tensor] | None = None) -> tuple[Distiller, Tensor, Tensor]:
    """A distiller whose models say the same whatever they see; the student's logits, and the teachers' [K, B, C]."""
    s, said = logits(9), said or [logits(k) for k in range(3)]
    named: Any = {f"t{k}": Fixed(t) for k, t in enumerate(said)}
    return Distiller(Fixed(s), named, method, example=BATCH).double().prepare([BATCH]), s, torch.stack(said)


class Flaky(nn.Module):
    """A teacher whose call raises on some of its calls, or whose scores are not numbers."""

    def __init__(self, inner: nn.Module, *, raises: Any = (), empty: bool = False) -> None:
        super().__init__()
        self.inner, self.raises, self.empty, self.calls = inner, raises, empty, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.raises == "always" or self.calls in self.raises:
            raise RuntimeError("the server is gone\nand more lines")
        said: Tensor = self.inner(inputs)
        return said.log() - said.log() if self.empty else said  # of a negative number


# ---- what is learned


@pytest.mark.parametrize("kind", ["uniform", "confidence", "entropy"])
@pytest.mark.parametrize("sure", ["none", "entropy", "max-prob", "variance"])
def test_the_loss_is_the_weighted_divergence(kind: str, sure: str) -> None:
    made, s, t = fixed(WeightedTeachers(teachers=kind, certainty=sure, temperature=2.0))
    w = teacher_weights(t, kind=kind, labels=BATCH["labels"])
    v = mean_one(certainty(t, kind=sure, weights=w))
    expected = (v * several_teachers(s, t, w, temperature=2.0, reduction="none")).mean()
    torch.testing.assert_close(made(BATCH).loss, expected)


def test_one_teacher_by_any_weights_is_plain_kd() -> None:
    for kind in ("uniform", "confidence", "entropy", "alternate"):
        for target in ("probabilities", "logits", "losses"):
            made, s, t = fixed(WeightedTeachers(teachers=kind, target=target, temperature=3.0), [logits(1)])
            torch.testing.assert_close(made(BATCH).loss, kl(s, t[0], temperature=3.0))
    plain = train(image_distiller(KD(temperature=4.0) * 1.0), samples())
    for kind in ("uniform", "gate"):
        ours = train(image_distiller(WeightedTeachers(teachers=kind, temperature=4.0) * 1.0), samples())
        torch.testing.assert_close(ours[1], plain[1])


def test_even_probabilities_are_meal_v2s_lesson() -> None:
    ours = train(ensemble_distiller(WeightedTeachers() * 1.0), pictures())
    torch.testing.assert_close(ours[1], train(ensemble_distiller(MealV2() * 1.0), pictures())[1])


def test_the_mean_of_probabilities_and_the_sum_of_losses_train_alike() -> None:
    a, b, c = (
        train(ensemble_distiller(WeightedTeachers(target=how, shares=(0.5, 0.3, 0.2)) * 1.0), pictures())
        for how in ("probabilities", "losses", "logits")
    )
    torch.testing.assert_close(a[1], b[1])
    assert (a[0] < b[0]).all()  # by what the teachers disagree
    assert (a[1] - c[1]).abs().max() > 1e-4


def test_fixed_shares_may_leave_a_teacher_out() -> None:
    made, s, t = fixed(WeightedTeachers(shares=(0, 1, 0)))
    torch.testing.assert_close(made(BATCH).loss, kl(s, t[1]))


def test_teachers_alternate_by_step_and_only_one_is_asked() -> None:
    made, s, t = fixed(WeightedTeachers(teachers="alternate") * 1.0)
    sgd = made.watch(torch.optim.SGD(made.parameters(), lr=0.0))
    for step in range(5):
        loss = made(BATCH).loss
        torch.testing.assert_close(loss, kl(s, t[step % 3]))
        loss.backward()
        sgd.step()


def test_the_weights_carry_no_gradient_and_have_mean_one() -> None:
    """Equal divergences under any certainty give the plain mean: the weights of a batch sum to its size."""
    said = logits(1)
    made, s, _ = fixed(WeightedTeachers(certainty="entropy"), [said])
    v = mean_one(certainty(said[None]))
    assert v.mean().item() == pytest.approx(1)
    made(BATCH).loss.backward()
    slope = next(made.student.parameters()).grad
    assert slope is not None
    plain = (s.softmax(1) - said.softmax(1)) / 6
    torch.testing.assert_close(slope, v[:, None] * plain)


def test_a_weight_by_certainty_says_that_it_depends_on_the_batch() -> None:
    for sure, coupled in (("none", False), ("entropy", True)):
        made = ensemble_distiller(WeightedTeachers(certainty=sure) * 1.0)
        seen: list[bool] = []
        made.method.methods["teachers"].register_forward_hook(
            lambda m, a, terms, seen=seen: seen.append(terms["teachers"].coupled)
        )
        made(pictures())
        assert seen == [coupled]


def test_smoothing_is_of_the_label_and_moves_the_point_of_rest() -> None:
    assert WeightedTeachers().at_equality == {"teachers": "zero"}
    assert WeightedTeachers(smoothing=0.1).at_equality == {"teachers": None}


# ---- the gate


def test_the_gate_learns_who_knows_which_class_and_then_stays_as_it_is() -> None:
    x = torch.randn(60, 6, generator=seeded(3))
    labels = torch.arange(60) % CLASSES
    expert = [12.0 * nn.functional.one_hot(labels, CLASSES).double() * (labels % 2 == k)[:, None] for k in (0, 1)]
    batch = {"inputs": x, "labels": labels, "id": torch.arange(60)}

    class Looked(nn.Module):
        """Answers a sample by its id, kept in the first feature."""

        def __init__(self, table: Tensor) -> None:
            super().__init__()
            self.table = nn.Parameter(table.float())

        def forward(self, inputs: Tensor) -> Tensor:
            return self.table[inputs[:, 0].long()]

    batch["inputs"] = torch.cat([torch.arange(60.0)[:, None], x[:, 1:]], 1)
    teachers: Any = {f"t{k}": Looked(t) for k, t in enumerate(expert)}
    made = Distiller(mlp(4), teachers, WeightedTeachers(teachers="gate", validation=0.5), example=batch)
    made.prepare([batch])
    gate: Any = made.method.methods["teachers"].gate
    shares = gate(torch.stack(expert))
    torch.testing.assert_close(shares.sum(0), torch.ones(60))
    assert (shares.argmax(0) == labels % 2).float().mean() > 0.95
    assert not any(p.requires_grad for p in gate.parameters())
    before = {key: value.clone() for key, value in gate.state_dict().items()}
    train(made, batch)
    assert all(torch.equal(value, before[key]) for key, value in gate.state_dict().items())
    assert not any("gate" in name for group in made.groups() for name in group)


def test_a_gate_is_even_before_it_has_learned_and_needs_labels() -> None:
    made, _, _ = fixed(WeightedTeachers(teachers="uniform"))
    assert not made.method.methods["teachers"].labels
    assert WeightedTeachers(teachers="gate").labels
    assert WeightedTeachers(teachers="confidence").labels
    with pytest.raises(DistilError, match="prepare"):
        Distiller(mlp(4), ensemble_of_vectors(), WeightedTeachers(teachers="gate"), example=samples())(samples())


def ensemble_of_vectors() -> Any:
    return {f"t{k}": mlp(6 + k, k + 1) for k in range(3)}


# ---- a teacher that fails


def run_with(bad: nn.Module, method: Method, *, epochs: int = 1) -> tuple[Any, list[str]]:
    teachers: Any = {"good": mlp(6, 1), "bad": bad, "other": mlp(7, 2)}
    data = DictDataset(samples()["inputs"], samples()["labels"])
    distiller = Distiller(mlp(4), teachers, method, example=samples())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = fit(distiller, data, epochs=epochs, batch_size=5, check_teacher=False, device="cpu", lr=0.05)
    return result, [str(one.message) for one in seen if "weightedteachers" in str(one.message)]


@pytest.mark.parametrize("kind", ["uniform", "confidence", "entropy", "gate", "alternate"])
def test_a_teacher_whose_call_fails_stops_no_step_and_is_named_once(kind: str) -> None:
    raises = {3} if kind == "alternate" else {3, 4, 5}  # of the calls; the first is the dry run's
    result, said = run_with(Flaky(mlp(9, 5), raises=raises), WeightedTeachers(teachers=kind), epochs=2)
    assert math.isfinite(result.history[-1]["loss"])
    assert len(said) == 1
    assert "'bad' failed on a batch (the server is gone)" in said[0]


@pytest.mark.parametrize("sure", ["none", "entropy", "variance"])
def test_without_the_one_that_fails_the_others_teach_as_if_it_were_not_there(sure: str) -> None:
    both = [logits(0), torch.full((6, CLASSES), torch.nan, dtype=torch.float64), logits(2)]
    made, s, _ = fixed(WeightedTeachers(teachers="entropy", certainty=sure), both)
    without = torch.stack([both[0], both[2]])
    w = teacher_weights(without, kind="entropy")
    v = torch.ones(6).double() if sure != "entropy" else mean_one(certainty(without, weights=w))
    expected = (v * several_teachers(s, without, w, reduction="none")).mean()
    if sure != "variance":  # its scale knows how many teachers there are
        torch.testing.assert_close(made(BATCH).loss, expected)
    assert made(BATCH).loss.isfinite()


def test_a_sample_that_nobody_answers_costs_nothing() -> None:
    said = [logits(0), logits(1)]
    for one in said:
        one[2, 1] = torch.inf
    made, _, _ = fixed(WeightedTeachers(), said)
    made(BATCH).loss.backward()
    slope = next(made.student.parameters()).grad
    assert slope is not None
    assert slope.isfinite().all()
    assert slope[2].abs().sum() == 0
    assert slope[[0, 1, 3, 4, 5]].abs().sum(1).min() > 0


def test_in_turn_the_next_teacher_stands_in_for_one_that_fails() -> None:
    teachers: Any = {"bad": Flaky(Fixed(logits(0)), raises=range(2, 99)), "good": Fixed(logits(1))}
    made = Distiller(Fixed(logits(9)), teachers, WeightedTeachers(teachers="alternate"), example=BATCH)
    made = made.double().prepare([BATCH])
    with pytest.warns(UserWarning, match="the teacher 'bad' failed"):
        loss = made(BATCH).loss
    torch.testing.assert_close(loss, kl(logits(9), logits(1)))


def test_a_teacher_that_answers_nothing_for_an_epoch_stops_the_run() -> None:
    with pytest.raises(DistilError, match="'bad' answered none of 20 samples of an epoch"):
        run_with(Flaky(mlp(9, 5), raises=range(2, 99)), WeightedTeachers())
    with pytest.raises(DistilError, match="'bad' answered none of 20"):
        run_with(Flaky(mlp(9, 5), empty=True), WeightedTeachers())


def test_failing_can_be_made_to_stop_the_run() -> None:
    with pytest.raises(DistilError, match="the teacher 'bad' failed: the server is gone"):
        run_with(Flaky(mlp(9, 5), raises={3}), WeightedTeachers(failing="stop"))
    with pytest.raises(DistilError, match="scores are not finite"):
        run_with(Flaky(mlp(9, 5), empty=True), WeightedTeachers(failing="stop"))


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "mean"}, "target='mean'"),
        ({"teachers": "label"}, "teachers='label'"),
        ({"certainty": "max"}, "certainty='max'"),
        ({"failing": "ignore"}, "failing='ignore'"),
        ({"temperature": 0}, "temperature=0 must be above 0"),
        ({"smoothing": 2.0}, "smoothing=2.0"),
        ({"validation": 0.0}, "validation=0.0"),
        ({"shares": (0.0, 0.0)}, "not all 0"),
        ({"shares": (1.0,), "teachers": "alternate"}, "do not go with"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        WeightedTeachers(**options)


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DistilError, match="2 shares for 3 teachers"):
        Distiller(mlp(4), ensemble_of_vectors(), WeightedTeachers(shares=(1, 1)), example=samples())
    wide = nn.Linear(6, CLASSES + 1)
    with pytest.raises(DistilError, match="the teacher 'wide'"):
        Distiller(mlp(4), {"wide": wide}, WeightedTeachers(), example=samples())
    with pytest.raises(DistilError, match="one teacher or a mapping"):
        Distiller(mlp(4), None, WeightedTeachers(), example=samples())


def test_published_is_labels_and_teachers() -> None:
    assert sorted(published().methods) == ["supervised", "teachers"]
    assert sorted(published(label_weight=0).methods) == ["teachers"]
    assert ensemble(2).keys() == {"t0", "t1"}
