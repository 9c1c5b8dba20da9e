"""MEAL V2 through its methods: which teachers teach, what the discriminator does to whom, what its switches change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.cache import CachedTeacher, TeacherCache
from distil.cli import main
from distil.data import Batches, DictDataset, Viewed, Views
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.engine.method import Method, Sum
from distil.errors import DistilError
from distil.functional import (
    as_soft_labels,
    mean_labels,
    mean_logits,
    soft_cross_entropy,
    soft_label_cross_entropy,
    source_cross_entropy,
)
from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.methods import KD
from distil.methods.expression import parse
from distil.report.check import validate
from distil.systems.meal_v2 import MealV2, OutputDiscriminator, published
from distil.tasks import ClassificationTask
from engine import toys as engine_toys

from .toys import CLASSES, Fixed, ensemble, ensemble_distiller, image_distiller, mlp, pictures, samples, seeded, train

KINDS = ("hard", "smoothing", "marginal", "renormalised")


def logits(seed: int, count: int = 6) -> Tensor:
    return 2 * torch.randn(count, CLASSES, generator=seeded(seed), dtype=torch.float64)


def fixed(method: Method | Sum, teachers: int = 3) -> tuple[Distiller, Tensor, list[Tensor], dict[str, Tensor]]:
    """A distiller whose models say the same whatever they see: the student's logits, and the teachers'."""
    s, said = logits(9), [logits(k) for k in range(teachers)]
    batch = {"inputs": torch.zeros(6, 1), "labels": torch.arange(6) % CLASSES, "id": torch.arange(6)}
    given: Any = {f"t{k}": Fixed(t) for k, t in enumerate(said)} if teachers > 1 else Fixed(said[0])
    return Distiller(Fixed(s), given, method, example=batch).double(), s, said, batch


def net(made: Distiller) -> nn.Module:
    found: nn.Module = made.method.methods["discriminator"].net
    return found


# ---- which teachers teach


@pytest.mark.parametrize("how", ["mean-prob", "mean-logit"])
def test_the_loss_is_the_cross_entropy_of_the_ensembles_label(how: str) -> None:
    made, s, said, batch = fixed(MealV2(ensemble=how))
    torch.testing.assert_close(made(batch).loss, soft_label_cross_entropy(s, mean_labels(said, how=how)))


def test_one_teacher_is_an_ensemble_of_one_by_any_name() -> None:
    made, s, said, batch = fixed(MealV2(), teachers=1)
    torch.testing.assert_close(made(batch).loss, soft_cross_entropy(s, said[0]))
    named = Distiller(Fixed(s), {"only": Fixed(said[0])}, MealV2(), example=batch).double()
    assert torch.equal(named(batch).loss, made(batch).loss)


def test_with_one_teacher_training_is_kd_at_temperature_one() -> None:
    ours = train(image_distiller(MealV2() * 1.0), samples())
    usual = train(image_distiller(KD(temperature=1) * 1.0), samples())
    torch.testing.assert_close(ours[1], usual[1])


def test_single_is_the_first_and_runs_no_other() -> None:
    made, s, said, batch = fixed(MealV2(ensemble="single"))
    seen: list[str] = []
    for name, teacher in made.teachers.items():
        teacher.register_forward_hook(lambda *_, name=name: seen.append(name))
    torch.testing.assert_close(made(batch).loss, soft_cross_entropy(s, said[0]))
    assert set(seen) == {"t0"}


def test_a_random_teacher_is_drawn_for_each_step_by_its_share_and_repeats_exactly() -> None:
    def losses(shares: tuple[float, ...] | None) -> list[float]:
        made, _, _, batch = fixed(MealV2(ensemble="random", shares=shares))
        made.watch()
        found = []
        for _ in range(40):
            found.append(made(batch).loss.item())
            made.after_step()
        return found

    _, s, said, _ = fixed(MealV2())
    possible = [soft_cross_entropy(s, t).item() for t in said]
    drawn = losses(None)
    for value in possible:
        assert any(abs(value - one) < 1e-9 for one in drawn)
    assert all(min(abs(value - one) for value in possible) < 1e-9 for one in drawn)
    assert drawn == losses(None)
    assert all(abs(one - possible[1]) < 1e-9 for one in losses((0.0, 1.0, 0.0)))


def test_the_discriminator_sees_the_teachers_that_were_chosen() -> None:
    for how, real in (("mean-prob", lambda said: mean_logits(said)), ("single", lambda said: said[0])):
        made, s, said, batch = fixed(MealV2(ensemble=how) + OutputDiscriminator(reduction=1))
        told = made(batch).terms["discriminator"]
        expected = source_cross_entropy(net(made)(s), net(made)(real(said)))
        torch.testing.assert_close(told, expected.detach())


def test_teachers_never_learn_and_stay_in_eval() -> None:
    made = ensemble_distiller(published())
    before = {name: copy.deepcopy(model.state_dict()) for name, model in made.teachers.items()}
    made.train()
    train(made, pictures())
    for name, model in made.teachers.items():
        assert not any(module.training for module in model.modules())
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())
        assert all(torch.equal(value, before[name][key]) for key, value in model.state_dict().items())


def test_what_ships_is_the_student_alone() -> None:
    made = ensemble_distiller(published())
    train(made, pictures())
    assert made.deployed() is made.student
    assert list(made.deployed().state_dict()) == list(nn.Sequential(nn.Flatten(), mlp(4, 0, 64)).state_dict())


# ---- the discriminator


def slopes(sign: str, *, alone: bool = True) -> tuple[Tensor, list[Tensor | None]]:
    """The gradient of the discriminator's loss for the student's logits, and for its own weights."""
    method = OutputDiscriminator(sign=sign, reduction=1)
    made, _, _, batch = fixed(method if alone else MealV2() + method)
    loss = made(batch).loss
    loss.backward()
    theirs = made.student.logits.grad
    return torch.zeros(6, CLASSES) if theirs is None else theirs, [p.grad for p in net(made).parameters()]


def test_as_published_both_learn_and_a_reversed_sign_turns_the_students_gradient_alone() -> None:
    (ours, own), (against, same), (none, still) = (slopes(sign) for sign in ("published", "adversarial", "detached"))
    assert ours.abs().max() > 0
    torch.testing.assert_close(against, -ours)
    assert none.abs().max() == 0
    for one, two, three in zip(own, same, still):
        assert one is not None
        assert one.abs().max() > 0
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_a_step_along_the_published_gradient_makes_the_student_easier_to_tell_apart() -> None:
    made, s, said, batch = fixed(OutputDiscriminator(reduction=1))
    before = made(batch).loss
    before.backward()
    with torch.no_grad():
        moved = s - 0.1 * made.student.logits.grad
        after = source_cross_entropy(net(made)(moved), net(made)(mean_logits(said)))
    assert after < before


def test_a_last_relu_can_leave_it_stuck() -> None:
    made, _, _, batch = fixed(OutputDiscriminator(final_relu=True))
    net(made).last.bias.data.fill_(-50.0)
    loss = made(batch).loss
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(2.0, dtype=torch.float64).log())
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in made.parameters())


def fitted(method: Sum, **options: Any) -> tuple[Distiller, list[dict[str, float]]]:
    made, batch = ensemble_distiller(method), pictures()
    data = DictDataset(batch["inputs"], batch["labels"], batch["id"])
    seen: list[dict[str, float]] = []
    options = {"lr": 0.05, "epochs": 3, "batch_size": 10, **options}
    fit(made, data, data, device="cpu", check_teacher=False, keep="last", optimizer=engine_toys.noting(seen), **options)
    return made, seen


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_discriminators_own_rate_holds_under_schedules_in_the_same_step(schedule: str) -> None:
    _, seen = fitted(published(), schedule=schedule)
    assert len(seen) == 6
    for step in seen:
        assert step["discriminator"] / step["student"] == pytest.approx(1e-4 / 0.05, rel=1e-9)
    _, seen = fitted(published(d_lr=0.0), schedule=schedule)
    assert all(step["discriminator"] == step["student"] for step in seen)
    _, seen = fitted(published(), schedule=schedule, lr={"student": 0.05, "discriminator": 0.5})
    assert seen[0]["discriminator"] == pytest.approx(10 * seen[0]["student"])


def test_its_rate_is_felt() -> None:
    def moved(d_lr: float) -> float:
        made, _ = fitted(published(d_lr=d_lr), schedule="constant")
        fresh = net(ensemble_distiller(published())).state_dict()
        return sum(float((value - fresh[key]).abs().sum()) for key, value in net(made).state_dict().items())

    assert moved(1e-2) > 20 * moved(1e-4) > 0


# ---- images


class Seeing(nn.Module):
    """Notes what it is shown."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = inner, []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs.detach().clone())
        return self.net(inputs)


def test_cutmix_shows_both_networks_the_same_images_and_needs_no_labels() -> None:
    student = Seeing(nn.Sequential(nn.Flatten(), mlp(4, 0, 64)))
    teachers = {name: Seeing(model) for name, model in ensemble(2).items()}
    batch = {key: value for key, value in pictures().items() if key != "labels"}
    made = Distiller(student, teachers, published(cutmix=1.0), example=batch, steps=8)
    made.watch()
    whole, changed = batch["inputs"], 0
    for _ in range(8):
        step = made(batch)
        assert step.loss.isfinite()
        step.loss.backward()
        made.after_step()
        ours = student.seen[-1]
        assert all(torch.equal(ours, model.seen[-1]) for model in teachers.values())
        changed += int((ours != whole).any())
        for image in ours:  # every pixel is some image's own
            assert bool((image == whole).any(0).all())
    assert changed >= 5  # now and then a patch is empty


def test_nothing_is_mixed_where_a_loss_is_only_measured_or_chance_says_so() -> None:
    for method, training in ((published(cutmix=1.0), False), (published(cutmix=0.0), True)):
        student = Seeing(nn.Sequential(nn.Flatten(), mlp(4, 0, 64)))
        made = Distiller(student, ensemble(2), method, example=pictures(), steps=4).train(training)
        made(pictures())
        assert torch.equal(student.seen[-1], pictures()["inputs"])


def test_no_method_reads_the_labels_of_mixed_images() -> None:
    with pytest.raises(DistilError, match=r"labels=1 .* cutmix=0\.5 mixes them"):
        published(labels=1.0, cutmix=0.5)
    made = ensemble_distiller(MealV2(cutmix=1.0) + published(labels=1.0, discriminator=0).components[-1].method)
    with pytest.raises(DistilError, match="needs labels"):
        made(pictures())


def test_labels_are_not_read_unless_they_are_asked_for() -> None:
    batch = {key: value for key, value in pictures().items() if key != "labels"}
    assert ensemble_distiller(published())(batch).loss.isfinite()
    both = ensemble_distiller(published(labels=0.5))(pictures())
    plain = ensemble_distiller(published())(pictures())
    assert set(both.terms) - set(plain.terms) == {"supervised"}
    torch.testing.assert_close(both.loss, plain.loss + 0.5 * both.terms["supervised"])


# ---- labels from a cache


TASK = ClassificationTask()


def stored(out: Path, codec: str, *, views: bool = True) -> tuple[CachedTeacher, nn.Module, DictDataset]:
    batch = pictures(40)
    data = DictDataset(batch["inputs"].sigmoid(), batch["labels"], batch["id"] * 3 + 1)
    teacher = ensemble(1)["t0"]
    shown = Viewed(data, Views(4, ("crop", "flip"))) if views else data
    return CachedTeacher(TeacherCache.write(teacher, shown, TASK, out, codec=codec)), teacher, data


def pupil() -> nn.Module:
    return nn.Sequential(nn.Flatten(), mlp(4, 0, 64))


@pytest.mark.parametrize("kind", KINDS)
def test_stored_crops_teach_what_the_live_teacher_says_of_them(kind: str, tmp_path: Path) -> None:
    """The FKD mode end to end: four stored crops of each image, each with three of five classes in 8 bits."""
    cached, teacher, data = stored(tmp_path, "topk3x8")
    crops = cached.cache.viewed(data, per_image=2)
    batches = Batches(crops, 20, seed=3, shuffle=True)
    method = MealV2(recover=kind, top=2)
    made = Distiller(pupil(), cached, method, example=next(iter(batches)), task=TASK)
    optimizer = made.watch(torch.optim.SGD(made.parameters(), lr=0.5))
    start = copy.deepcopy(made.student.state_dict())
    losses = []
    for epoch in range(4):
        for batch in batches.iterate(epoch):
            assert batch["view"].max() < 4
            step = made(batch)
            with torch.no_grad():
                label = as_soft_labels(teacher(batch["inputs"]), kind=kind, top=2)
                expected = soft_label_cross_entropy(step.student, label)
            torch.testing.assert_close(step.loss.detach(), expected, rtol=0, atol=0.02)
            step.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(step.loss.item())
    assert sum(losses[-4:]) < sum(losses[:4])
    assert any((value - start[key]).abs().max() > 0.01 for key, value in made.student.state_dict().items())


def test_the_whole_label_comes_from_a_dense_cache_and_several_caches_are_averaged(tmp_path: Path) -> None:
    one, teacher, data = stored(tmp_path / "one", "dense32", views=False)
    batch = next(iter(Batches(data, 10, seed=0, shuffle=False)))
    live = Distiller(pupil(), teacher, published(), example=batch, task=TASK)(batch).loss
    torch.testing.assert_close(Distiller(pupil(), one, published(), example=batch, task=TASK)(batch).loss, live)
    few, _, _ = stored(tmp_path / "few", "topk3x8", views=False)
    made = Distiller(pupil(), {"a": one, "b": few}, MealV2(recover="hard"), example=batch, task=TASK)
    label = as_soft_labels(teacher(batch["inputs"]), kind="hard")
    step = made(batch)
    torch.testing.assert_close(step.loss, soft_label_cross_entropy(step.student, label))


def test_how_many_classes_are_known_changes_the_label() -> None:
    found = {top: train(ensemble_distiller(published(recover="marginal", top=top)), pictures())[1] for top in (1, 2, 4)}
    assert not torch.equal(found[1], found[2])
    assert not torch.equal(found[2], found[4])


@pytest.mark.parametrize(
    ("codec", "method", "says"),
    [
        ("topk3", lambda: MealV2(), "all 5 classes and 3 are known; choose how to fill in the rest"),
        ("topk3", lambda: MealV2(recover="hard", top=4), "top=4 classes are wanted and 3 of 5 are known"),
        ("topk3@4", lambda: MealV2(recover="hard"), "top-k codec at temperature 1"),
        ("sampled50", lambda: MealV2(recover="marginal"), "drawn at random"),
        ("topk3", lambda: MealV2(recover="hard", ensemble="mean-logit"), "mean of logits needs all of them"),
        ("topk3", lambda: published(recover="hard"), "'discriminator' reads all logits"),
    ],
)
def test_labels_that_cannot_be_recovered_stop_before_training(
    codec: str, method: Any, says: str, tmp_path: Path
) -> None:
    cached, _, data = stored(tmp_path, codec, views=False)
    with pytest.raises(DistilError, match=says):
        Distiller(pupil(), cached, method(), example=next(iter(Batches(data, 8, seed=0, shuffle=False))), task=TASK)


def test_a_cache_does_not_know_images_that_are_mixed_here(tmp_path: Path) -> None:
    cached, _, data = stored(tmp_path, "topk3x8", views=False)
    batch = next(iter(Batches(data, 20, seed=0, shuffle=False)))
    made = Distiller(pupil(), cached, MealV2(recover="hard", cutmix=1.0), example=batch, task=TASK, steps=4)
    made.watch()
    made.ctx.step = 1  # whose patch is not empty
    with pytest.raises(DistilError, match="augments, mixes or resizes"):
        made(batch)


# ---- what does not fit


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MealV2(ensemble="mean"), "ensemble='mean'"),
        (lambda: MealV2(recover="margin"), "marginal"),
        (lambda: MealV2(top=5), "recover='full' does not say"),
        (lambda: MealV2(cutmix=1.5), "cutmix=1.5"),
        (lambda: MealV2(beta=0.0), "beta=0.0"),
        (lambda: MealV2(shares=(0.5, 0.5)), "ensemble='random'"),
        (lambda: MealV2(ensemble="random", shares=(0.5, 0.6)), "sum to 1"),
        (lambda: OutputDiscriminator(sign="reversed"), "sign='reversed'"),
        (lambda: OutputDiscriminator(reduction=0), "reduction=0"),
        (lambda: OutputDiscriminator(lr=-1.0), r"lr=-1\.0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        make()


def test_the_published_sum_draws_teachers_by_their_shares() -> None:
    release = parse("meal_v2(ensemble=random, shares=(0.2, 0.4, 0.4))")
    assert [c.method.shares for c in release if c.name == "mealv2"] == [(0.2, 0.4, 0.4)]
    assert [c.method.shares for c in published(ensemble="random") if c.name == "mealv2"] == [None]
    with pytest.raises(DistilError, match="ensemble='random'"):
        published(shares=(0.2, 0.4, 0.4))


def test_models_that_do_not_fit_are_refused_before_training() -> None:
    for method in (MealV2(), OutputDiscriminator()):
        with pytest.raises(DistilError, match="there is none; give one"):
            Distiller(mlp(4), None, method, example=samples())
        with pytest.raises(DistilError, match=r"the teacher 'wide' \(20, 64\)"):
            Distiller(mlp(4), {"t": mlp(8, 1), "wide": nn.Linear(6, 64)}, method, example=samples())
        with pytest.raises(DistilError, match="one student"):
            Distiller({"a": mlp(4), "b": mlp(4, 1)}, mlp(8, 2), method, example=samples())
    with pytest.raises(DistilError, match="one share for each"):
        ensemble_distiller(MealV2(ensemble="random", shares=(0.5, 0.5)) * 1.0)
    with pytest.raises(DistilError, match="mixes images"):
        image_distiller(published(cutmix=1.0))(samples())


# ---- from the outside


@pytest.mark.parametrize(
    "method",
    [
        published(d_lr=0.0, ensemble="single", labels=0.5),
        MealV2(ensemble="random", shares=(0.2, 0.4, 0.4)) + 2 * OutputDiscriminator(lr=0.01, sign="detached"),
        published(recover="marginal", top=5, cutmix=0.5, discriminator=0),
        parse("meal_v2(ensemble=random, shares=(0.2, 0.4, 0.4))"),
    ],
    ids=["published", "random", "cut", "release"],
)
def test_what_it_is_called_is_what_it_is(method: Sum) -> None:
    again = parse(method.expression)
    assert again.expression == method.expression
    for one, two in zip(method, again, strict=True):
        settings = [
            {key: vars(part.method)[key] for key in ("ensemble", "shares", "cutmix", "label", "sign", "lr", "shape")
             if key in vars(part.method)} for part in (one, two)
        ]  # fmt: skip
        assert settings[0] == settings[1]


def test_it_stands_in_a_leaderboard_with_one_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--data", "digits", "--teacher", "distil:mlp(hidden=24)", "--student", "distil:mlp(hidden=4)"]
    words += ["--train-teacher", "5", "--methods", "supervised+kd,meal-v2", "--seeds", "2", "--epochs", "1"]
    assert main([*words, "--lr", "0.01", "--out", str(tmp_path / "out")]) == 0
    assert "meal_v2" in capsys.readouterr().out.replace("-", "_")


TOY = (
    "pair.data=digits",
    "pair.train=120",
    "pair.teacher_train=200",
    "pair.val=60",
    "pair.teacher='distil:mlp(hidden=24)'",
    "pair.student='distil:mlp(hidden=4)'",
    "pair.teacher_training.epochs=10",
    "pair.teacher_training.lr=0.03",
    "more_teachers=['distil:mlp(hidden=16)']",
    "pretraining.epochs=2",
    "training.epochs=3",
    "learning_rates=[0.1, 0.03]",
    "seeds=[0, 1]",
)
ROWS = ("ce", "one", "mean", "meal", "labels", "scratch")


def test_the_recipe_gives_every_arm_the_same_updates_whatever_it_starts_from(tmp_path: Path) -> None:
    recipe = load_recipe("meal-v2")
    setup = prepare_setup(recipe, assignments=TOY)
    report = run_recipe(recipe, setup, tmp_path, Lab(tmp_path), command="distil run meal-v2", system="meal-v2")
    validate(report)
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert set(arms) == {*ROWS, *(f"{name}-decay" for name in ROWS), "scratch-short", "checkpoint"}
    assert {arm["role"] for arm in report["arms"]} == {"reference", "rival", "method", "ablation", "bound"}
    budgets = [arm["budget"] for arm in report["arms"] if arm["role"] != "bound"]
    assert all(budget == {"updates": 10, "batch_size": 64, "labels": 120, "trials": 2} for budget in budgets)
    assert arms["scratch-short"]["budget"]["updates"] == 6
    epochs = {name: arms[name]["curves"][0]["epoch"][-1] for name in ("mean", "scratch", "scratch-short")}
    assert epochs == {"mean": 3, "scratch": 5, "scratch-short": 3}
    assert all("ece" in arm["metrics"] for arm in report["arms"])
    starts = [arms[name]["curves"][0]["val"]["nll"][0] for name in ("mean", "scratch-short")]
    assert starts[0] != starts[1]  # one begins with the checkpoint, the other from drawn weights
    assert "the best on validation for each arm" in report["setting"]["Learning rate"]


def test_batches_of_two_sizes_are_no_equal_budget(tmp_path: Path) -> None:
    recipe = load_recipe("meal-v2")
    setup = prepare_setup(recipe, assignments=[*TOY, "pretraining.batch_size=32"])
    with pytest.raises(DistilError, match="give both the same"):
        recipe.experiment(setup, Lab(tmp_path))
