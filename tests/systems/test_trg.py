"""TRG through its method: who gets a gradient, what is drawn, how the temperature falls, and which models fit."""

from __future__ import annotations

import copy
import inspect
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil import catalog
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError
from distil.functional import inner_relation, kl, local_relation, token_contrast, token_pair
from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.methods import Supervised
from distil.models import SmallCNN, ViT
from distil.report.check import validate
from distil.systems.trg import TokenGraph, published
from distil.systems.trg.likeness import likeness

from .toys import CLASSES, map_distiller, pictures, train


def part(distiller: Distiller) -> TokenGraph:
    return next(c.method for c in distiller.method if isinstance(c.method, TokenGraph))


def only(**options: Any) -> TokenGraph:
    """One part alone."""
    return TokenGraph(**{"inner": 0.0, "local": 0.0, "contrast": 0.0, **options})


def graded(distiller: Distiller) -> dict[str, bool]:
    """Which parameters have a gradient that is not zero."""
    distiller(pictures()).loss.backward()
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in distiller.named_parameters()}


def maps(distiller: Distiller) -> tuple[Tensor, Tensor]:
    """Both networks' tokens of :func:`pictures` in eval mode."""
    batch = pictures()
    nets = distiller.student.eval(), next(iter(distiller.teachers.values()))
    found = [net.layer2(net.layer1(batch["inputs"])) for net in nets]
    return token_pair(found[0], found[1].detach())


# ---- the terms


def test_terms_are_the_functions_on_all_tokens() -> None:
    made = map_distiller(
        TokenGraph(inner=3.0, local=2.0, contrast=0.5, samples=99, neighbours=5, fall="constant")
    ).eval()
    s, t = maps(made)
    method, shown = part(made), made(pictures()).terms
    torch.testing.assert_close(shown["tokengraph.inner"], 3 * inner_relation(s, t).detach())
    s, t = s.flatten(0, 1), t.flatten(0, 1)
    expected = 2 * local_relation(s, t, neighbours=5, reduction="sum")
    torch.testing.assert_close(shown["tokengraph.local"], expected.detach())
    pair = method.student_projection(s), method.teacher_projection(t)
    torch.testing.assert_close(shown["tokengraph.contrast"], 0.5 * token_contrast(*pair, temperature=0.1).detach())


def test_the_mean_over_nodes_is_the_sum_over_their_number() -> None:
    summed, averaged = (
        map_distiller(only(local=1.0, samples=4, reduction=name)).eval()(pictures()).loss for name in ("sum", "mean")
    )
    torch.testing.assert_close(summed, 20 * 4 * averaged)


def test_options_reach_the_local_relation() -> None:
    options = {"neighbours": 3, "mask": "shared", "sigma": 2.0, "direction": "teacher", "sharpness": 7.0}
    made = map_distiller(only(local=1.0, samples=99, **options)).eval()
    s, t = (tokens.flatten(0, 1) for tokens in maps(made))
    torch.testing.assert_close(made(pictures()).loss, local_relation(s, t, reduction="sum", **options))


def test_kd_and_labels_are_the_usual_ones() -> None:
    made = map_distiller(published(kd=0.7, temperature=3.0)).eval()
    shown, batch = made(pictures()).terms, pictures()
    s, t = made.student(batch["inputs"]), next(iter(made.teachers.values()))(batch["inputs"])
    torch.testing.assert_close(shown["kd"], kl(s, t, temperature=3.0).detach())
    torch.testing.assert_close(shown["supervised"], nn.functional.cross_entropy(s, batch["labels"]).detach())
    assert {c.name: c.coefficient(made.ctx) for c in made.method} == {"supervised": 1, "kd": 0.7, "tokengraph": 1}


def test_only_the_contrast_trains_the_projections_and_nothing_trains_the_teacher() -> None:
    made = map_distiller(TokenGraph())
    before = copy.deepcopy(next(iter(made.teachers.values())).state_dict())
    seen = graded(made)
    projections = {name for name in seen if "projection" in name}
    assert len(projections) == 2
    assert all(seen[name] for name in projections)
    train(made, pictures())
    after = next(iter(made.teachers.values())).state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    made = map_distiller(TokenGraph())
    step = made(pictures())
    relations = made.method.components[0].method
    weights = [relations.student_projection.weight, relations.teacher_projection.weight]
    made.keep_live(True)
    made(pictures())
    for name in ("tokengraph.inner", "tokengraph.local"):
        assert torch.autograd.grad(made.live[name], weights, retain_graph=True, allow_unused=True) == (None, None)
    assert step.loss.isfinite()
    assert not any("projection" in name for name in map_distiller(TokenGraph(contrast=0)).state_dict())


@pytest.mark.parametrize("name", ["inner", "local", "contrast"])
def test_each_part_alone_teaches_the_student(name: str) -> None:
    seen = graded(map_distiller(only(**{name: 1.0})))
    assert seen["student.layer1.0.weight"]
    assert not seen["student.fc.weight"]  # the classifier stands behind the map


# ---- what is drawn


def test_training_draws_anew_in_each_step_and_by_seed() -> None:
    def drawn(seed: int) -> list[float]:
        made = map_distiller(only(local=1.0, samples=2), seed=seed)
        made.watch()
        losses = []
        for _ in range(3):
            losses.append(made(pictures()).loss.item())
            made.after_step()  # the optimizer's step is left out: only the draw moves
        return losses

    assert drawn(0) == drawn(0)
    assert len(set(drawn(0))) == 3
    assert drawn(0) != drawn(1)


def test_a_loss_that_is_only_measured_draws_the_same() -> None:
    made = map_distiller(TokenGraph(samples=2)).eval()
    losses = []
    for step in range(3):
        made.ctx.step = step
        losses.append(made(pictures()).loss.item())
    assert len(set(losses)) == 1


# ---- the temperature


@pytest.mark.parametrize("fall", ["linear", "cosine"])
@pytest.mark.parametrize("epochs", [2, 5, 40])
def test_the_temperature_falls_from_the_first_epoch_to_the_last(fall: str, epochs: int) -> None:
    made = map_distiller(only(contrast=1.0, fall=fall), epochs=epochs)
    seen = []
    for epoch in range(epochs):
        made.ctx.epoch = epoch
        seen.append(part(made).temperature(made.ctx))
    assert seen[0] == 0.5
    assert seen[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(seen))


def test_linear_and_cosine_differ_between_the_ends() -> None:
    seen = []
    for fall in ("linear", "cosine"):
        made = map_distiller(only(contrast=1.0, fall=fall), epochs=5)
        made.ctx.epoch = 1
        seen.append(part(made).temperature(made.ctx))
    assert seen == [pytest.approx(0.4), pytest.approx(0.3 + 0.2 * 2**-0.5)]


def test_a_constant_temperature_and_a_run_of_one_epoch() -> None:
    made = map_distiller(only(contrast=1.0, fall="constant", tau_last=0.3), epochs=5)
    assert part(made).temperature(made.ctx) == 0.3
    made = map_distiller(only(contrast=1.0), epochs=1)
    assert part(made).temperature(made.ctx) == 0.5


def test_the_loss_follows_the_temperature() -> None:
    made = map_distiller(only(contrast=1.0), epochs=5).eval()
    losses = []
    for epoch in range(5):
        made.ctx.epoch = epoch
        losses.append(made(pictures()).loss.item())
    assert len(set(losses)) == 5


def test_a_run_of_unknown_length_is_told_what_to_do() -> None:
    nets = [SmallCNN(1, CLASSES, widths=(4, 6)) for _ in range(2)]
    made = Distiller(*nets, TokenGraph(), example=pictures())
    with pytest.raises(DistilError, match=r"pass epochs= to Distiller.*fall=constant"):
        made(pictures())
    Distiller(*nets, TokenGraph(fall="constant"), example=pictures())(pictures()).loss.backward()


# ---- which models fit


def net(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "vit":
            return ViT(8, patch=2, dim=8, depth=1, heads=2, classes=CLASSES, channels=1)
        return SmallCNN(1, CLASSES, widths=(4, 6) if kind == "cnn" else (4, 6, 5))


@pytest.mark.parametrize(
    ("student", "teacher", "tap", "count"),
    [
        ("vit", "vit", "tokens", 16),
        ("vit", "cnn", ("tokens", "map"), 16),
        ("cnn", "vit", ("map", "tokens"), 16),
        ("deep", "cnn", "map", 4),
        ("cnn", "deep", "map", 4),
        ("cnn", "cnn", "emb", 1),
    ],
)
def test_transformers_and_maps_of_other_sizes(student: str, teacher: str, tap: Any, count: int) -> None:
    nets = net(student, 0), net(teacher, 1)
    made = Distiller(*nets, published(tap=tap, samples=5), example=pictures(), epochs=2)
    seen: list[Tensor] = []
    method = part(made)
    method.nodes, plain = lambda s, t, rng: (seen.extend((s, t)), plain(s, t, rng))[1], method.nodes
    losses, _ = train(made, pictures())
    assert bool(losses.isfinite().all())
    assert {tokens.shape[1] for tokens in seen} == {count}
    assert method.student_projection.weight.shape == (128, seen[0].shape[2])
    assert method.teacher_projection.weight.shape == (128, seen[1].shape[2])


def test_patches_have_their_own_width_and_must_divide() -> None:
    made = map_distiller(TokenGraph(patch=2))
    assert part(made).student_projection.weight.shape == (128, 6 * 4)
    assert part(made).teacher_projection.weight.shape == (128, 8 * 4)
    with pytest.raises(DistilError, match=r"4x4 .*patches of 3x3"):
        map_distiller(TokenGraph(patch=3))


def test_one_token_an_image_relates_images() -> None:
    made = map_distiller(only(local=1.0, grid=1, neighbours=3)).eval()
    s, t = (tokens.mean(1) for tokens in maps(made))
    torch.testing.assert_close(made(pictures()).loss, local_relation(s, t, neighbours=3, reduction="sum"))


def test_a_tap_of_several_outputs_is_refused() -> None:
    with pytest.raises(DistilError, match=r"tap 'stages' of the student gives 2 outputs.*stages\.1"):
        map_distiller(TokenGraph(tap="stages"))


@pytest.mark.filterwarnings("ignore:A batch of one")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_small_batches_and_dead_maps_are_finite(count: int, dead: bool, dtype: torch.dtype) -> None:
    made = map_distiller(published(samples=99, neighbours=99))
    if dead:  # no channel of the student's last map is ever active
        nn.init.constant_(made.student.layer2[2].bias, -100.0)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        step = made(pictures(count))
    step.loss.backward()
    assert bool(step.loss.isfinite())
    assert all(bool(value.isfinite()) for value in step.terms.values())
    assert all(bool(p.grad.isfinite().all()) for p in made.parameters() if p.grad is not None)


def test_a_whole_run_with_a_ragged_last_batch() -> None:
    made = map_distiller(published(), epochs=2)
    data = [pictures(8), pictures(8, seed=1), pictures(1, seed=2)]
    with pytest.warns(UserWarning, match="A batch of one"):
        result = fit(made, data, [pictures()], epochs=2, lr=0.01, check_teacher=False, device="cpu")
    assert set(result.history[-1]["terms"]) == {
        "supervised",
        "kd",
        *(f"tokengraph.{k}" for k in part(made).at_equality),
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mask": "shraed"}, "did you mean 'shared'"),
        ({"direction": "both"}, "direction='both'"),
        ({"reduction": "none"}, "reduction='none'"),
        ({"fall": "exponential"}, "fall='exponential'"),
        ({"sigma": "mean"}, "sigma='mean'"),
        ({"sigma": -1.0}, "sigma=-1.0"),
        ({"inner": -1.0}, "must not be below 0"),
        ({"inner": 0.0, "local": 0.0, "contrast": 0.0}, "give one part a weight"),
        ({"samples": 0}, "samples=0"),
        ({"neighbours": 0}, "neighbours=0"),
        ({"patch": 0}, "patch=0"),
        ({"grid": 0}, "grid=0"),
        ({"projection": 0}, "projection=0"),
        ({"tau_last": 0.0}, "tau_last=0.0"),
        ({"sharpness": 0.0}, "sharpness=0.0"),
        ({"tau_first": 0.1, "tau_last": 0.5}, "exchange them"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        TokenGraph(**wrong)


# ---- likeness, and the recipe


def test_likeness_is_whole_for_a_copy_and_less_for_another_net() -> None:
    teacher = net("cnn", 1)
    data = [pictures(20), pictures(20, seed=3)]
    alike = likeness(Distiller(copy.deepcopy(teacher), teacher, published(), example=pictures()), data, batch_size=20)
    assert alike == {"neighbour overlap": 1.0, "context MSE": 0.0}
    apart = likeness(Distiller(net("cnn", 2), teacher, published(), example=pictures()), data, batch_size=20)
    assert 0 < apart["neighbour overlap"] < 0.9
    assert apart["context MSE"] > 0
    plain = Distiller(net("cnn", 2), teacher, Supervised(), example=pictures())
    assert likeness(plain, data, batch_size=20) == apart


@pytest.mark.parametrize(
    ("options", "figure", "sign"),
    [
        ({"inner": 100.0}, "context MSE", -1),
        ({"local": 1.0}, "neighbour overlap", 1),
        ({"contrast": 1.0}, "neighbour overlap", 1),
    ],
)
def test_each_part_moves_the_relation_it_is_about(options: dict[str, Any], figure: str, sign: int) -> None:
    made = map_distiller(only(**options), epochs=2)
    before = likeness(made, [pictures()], batch_size=20)[figure]
    optimizer = made.watch(torch.optim.Adam(made.parameters(), lr=0.01))
    for _ in range(60):
        made(pictures()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = likeness(made, [pictures()], batch_size=20)[figure]
    assert sign * (after - before) > 0.3 * before


ARMS = ["alone", "kd", "rkd", "image", "trg", "no-inner", "no-local", "no-global", "no-kd", "sigma"]
TOY = (
    "pair.train=120",
    "pair.teacher_train=200",
    "pair.val=60",
    "pair.imbalance=5",
    "pair.teacher='distil:cnn(widths=(6, 8))'",
    "pair.student='distil:cnn(widths=(3, 4))'",
    "pair.teacher_training.epochs=6",
    "pair.teacher_training.lr=0.02",
    "pair.teacher_training.batch_size=20",
    "training.epochs=2",
)


def test_the_recipe_runs_on_digits(tmp_path: Path) -> None:
    recipe = load_recipe("trg")
    setup = prepare_setup(recipe, assignments=["pair.data=digits", "seeds=[0, 1]", *TOY])
    report = run_recipe(recipe, setup, tmp_path, Lab(tmp_path), command="distil run trg", system="trg")
    validate(report)
    assert [arm["name"] for arm in report["arms"]] == ARMS
    budgets = [arm["budget"] for arm in report["arms"]]
    assert all(budget == budgets[0] for budget in budgets)
    assert budgets[0]["trials"] == 2
    for arm in report["arms"]:
        assert {"accuracy", "balanced accuracy", "head third accuracy", "tail third accuracy"} <= set(arm["metrics"])
        assert set(arm["diagnostics"]) == {"neighbour overlap", "context MSE"}
        assert arm["parameters"] == report["arms"][0]["parameters"]  # the projections do not ship
    judged = {(v["arm"], v["against"]) for v in report["verdicts"]}
    assert judged >= {("trg", name) for name in ("alone", "kd", "rkd", "image")}
    assert "imbalance 5" in report["setting"]["Long tail"]
    assert report["setting"]["Long tail"].index("9 ") < report["setting"]["Long tail"].index("0 ")


def test_card_recipe_and_method_have_the_same_defaults() -> None:
    card, setup = catalog.card("trg"), load_recipe("trg").Setup()
    usual = inspect.signature(published).parameters
    for key, value in card.defaults.items():
        assert usual[key].default == value
        assert getattr(setup, key, value) == value


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("DISTIL_DATA"), reason="DISTIL_DATA names no data root")
def test_the_recipe_runs_on_its_own_data(tmp_path: Path) -> None:
    recipe = load_recipe("trg")
    setup = prepare_setup(
        recipe, assignments=["seeds=[0]", *TOY[:3], "pair.teacher_train=600", "training.epochs=1",
        "learning_rates=[0.01]"],
    )  # fmt: skip
    report = run_recipe(recipe, setup, tmp_path, Lab(tmp_path), command="distil run trg", system="trg")
    assert report["data"]["train"] == 120
    assert "Ankle boot" in report["setting"]["Long tail"]
