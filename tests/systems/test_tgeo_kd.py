"""TGeo-KD through its method: who learns from what, what the controller is told, and what its rules are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from distil.data import DictDataset
from distil.data.held import held_out_ids
from distil.engine import Distiller, fit
from distil.errors import DistilError
from distil.functional import class_probabilities, fused, kl, trilateral_state
from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.systems.tgeo_kd import TGeoKD, published
from distil.systems.tgeo_kd.controller import Controller

from .toys import CLASSES, Fixed, image_distiller, mlp, samples, seeded, train


class Linear(nn.Module):
    """Class scores from one linear layer, as a classifier."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)


def doubled(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}


def wired(student: nn.Module, data: Any = None, **options: Any) -> tuple[Distiller, TGeoKD]:
    """A prepared distiller in float64, and its method."""
    method = TGeoKD(**options)
    made = Distiller(student.double(), Linear(1).double(), method, example=doubled(samples()), epochs=5).double()
    made.prepare([doubled(samples())] if data is None else data)
    made.watch(torch.optim.SGD(made.parameters(), lr=0.05))
    return made, method


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_the_controller_says_one_ratio_for_each_sample() -> None:
    made, method = wired(Linear(0))
    batch = doubled(samples())
    ratio = method.ratio(made.student(batch["inputs"]), made.teachers["model"](batch["inputs"]), batch, made.ctx)
    assert ratio.shape == (20,)
    assert bool(((ratio > 0) & (ratio < 1)).all())
    assert method.decides.net[0].in_features == 9 * CLASSES
    assert Controller(18)(torch.zeros(1, 18)).shape == (1,)


def test_the_hyper_gradient_is_the_slope_of_the_outer_loss() -> None:
    """In float64, against finite differences of the held-out loss after one step made by hand."""
    student = Linear(0)
    made, method = wired(student, inner_lr=0.3)
    batch, start = doubled(samples()), weights(student)
    before = {name: p.detach().clone() for name, p in method.decides.named_parameters()}
    seen: list[list[Tensor]] = []
    method.own.step = lambda loss: seen.append(list(torch.autograd.grad(loss, method.own.parameters)))
    made(batch)
    assert torch.equal(start, weights(student))
    kept = ~torch.isin(batch["id"], method.held)
    later = {key: value[~kept] for key, value in batch.items()}
    t = made.teachers["model"](batch["inputs"])

    def outer(control: Mapping[str, Tensor]) -> float:
        net = Linear(0).double()
        s = net(batch["inputs"])
        state = trilateral_state(s, t, batch["labels"], method.means)
        alpha = functional_call(method.decides, dict(control), (state,))
        fused(s[kept], t[kept], batch["labels"][kept], alpha[kept].detach(), temperature=1.5).backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.3 * p.grad
        return F.cross_entropy(net(later["inputs"]), later["labels"]).item()

    draw = seeded(4)
    slope, way = 0.0, {}
    for (name, value), found in zip(before.items(), seen[0], strict=True):
        way[name] = torch.randn(value.shape, generator=draw, dtype=value.dtype)
        slope += float((way[name] * found).sum())
    ends = [outer({n: v + sign * 1e-5 * way[n] for n, v in before.items()}) for sign in (1, -1)]
    assert slope != 0
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)


def test_a_step_moves_the_controller_and_the_outer_step_leaves_the_student() -> None:
    student = Linear(0)
    made, method = wired(student)
    before, start = weights(method.decides), weights(student)
    loss = made(doubled(samples())).loss
    assert not torch.equal(before, weights(method.decides))
    assert torch.equal(start, weights(student))
    loss.backward()
    assert all(p.grad is None for p in method.decides.parameters())


@pytest.mark.parametrize("rule", ["tgeo", "fixed", "free"])
def test_held_out_samples_never_teach_the_student(rule: str) -> None:
    """Their labels and inputs may be anything: the student's loss is the same; so are the class means."""
    made, method = wired(Linear(0), rule=rule)
    method.eval()
    batch = doubled(samples())
    mine = torch.isin(batch["id"], method.held)
    assert 5 == int(mine.sum()) == len(method.held)
    other = {**batch, "labels": torch.where(mine, (batch["labels"] + 1) % CLASSES, batch["labels"])}
    other["inputs"] = torch.where(mine[:, None], -batch["inputs"], batch["inputs"])
    assert torch.equal(made(batch).loss, made(other).loss)
    made.skip_step()
    rest = {key: value[~mine] for key, value in batch.items()}
    torch.testing.assert_close(made(batch).loss, made(rest).loss)
    torch.testing.assert_close(
        method.means.double(),
        class_probabilities(made.teachers["model"](rest["inputs"]), rest["labels"]).detach(),
        rtol=1e-6, atol=1e-7,
    )  # fmt: skip


def fixed_loss(**options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    s, t = (torch.randn(8, CLASSES, generator=seeded(k), dtype=torch.float64) for k in (0, 1))
    batch = {"inputs": torch.zeros(8, 1), "labels": torch.arange(8) % CLASSES, "id": torch.arange(8)}
    made = Distiller(Fixed(s), Fixed(t), TGeoKD(validation=0, **options), example=batch, epochs=5).prepare([batch])
    return made.eval()(batch).loss, s, t, batch["labels"]


def test_constant_ratios_are_the_usual_losses() -> None:
    loss, s, t, y = fixed_loss(rule="fixed", alpha=0.0)
    torch.testing.assert_close(loss, F.cross_entropy(s, y))
    loss, s, t, y = fixed_loss(rule="fixed", alpha=1.0, temperature=2.0)
    torch.testing.assert_close(loss, kl(s, t, temperature=2.0))
    loss, s, t, y = fixed_loss(rule="fixed", alpha=0.3, temperature=2.0)
    torch.testing.assert_close(loss, 0.3 * kl(s, t, temperature=2.0) + 0.7 * F.cross_entropy(s, y))


def test_alpha_and_the_annealed_rule_follow_what_they_are_given() -> None:
    low, high = (train(image_distiller(published(rule="fixed", alpha=a)), samples())[1] for a in (0.2, 0.8))
    assert not torch.equal(low, high)
    method = TGeoKD(rule="annealed")
    made = Distiller(mlp(4), mlp(8, 1), method, example=samples(), epochs=5)
    shown = []
    for made.ctx.epoch in range(6):
        shown.append(float(method.ratio(torch.zeros(2, CLASSES), torch.zeros(2, CLASSES), samples(2), made.ctx)[0]))
    assert shown == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])
    made.ctx.epochs = None
    with pytest.raises(DistilError, match="run's length"):
        method.ratio(torch.zeros(2, CLASSES), torch.zeros(2, CLASSES), samples(2), made.ctx)


def test_free_ratios_learn_on_the_training_loss_and_belong_to_samples() -> None:
    made, method = wired(Linear(0), rule="free", controller_lr=0.1)
    batch = doubled(samples())
    s, t = made.student(batch["inputs"]), made.teachers["model"](batch["inputs"])
    assert method.ratio(s, t, batch, made.ctx).tolist() == [0.5] * 20
    made(batch)
    alpha, y = method.ratio(s, t, batch, made.ctx), batch["labels"]
    better = kl(s, t, temperature=1.5, reduction="none") < F.cross_entropy(s, y, reduction="none")
    mine = torch.isin(batch["id"], method.held)
    assert torch.equal((alpha > 0.5)[~mine], better[~mine])  # towards the smaller of the two losses
    assert bool((alpha[mine] == 0.5).all())
    few = {key: value[[7, 3]] for key, value in batch.items()}
    torch.testing.assert_close(method.ratio(s[[7, 3]], t[[7, 3]], few, made.ctx), alpha[[7, 3]])
    with pytest.raises(DistilError, match="one ratio for each training sample"):
        method.ratio(s, t, {**batch, "id": batch["id"] + 100}, made.ctx)


def test_without_the_unrolled_step_the_ratio_drifts_to_the_smaller_loss() -> None:
    made, method = wired(Linear(0), unroll=False, controller_lr=0.05)
    batch = doubled(samples())
    s, t = made.student(batch["inputs"]), made.teachers["model"](batch["inputs"])
    taught, told = kl(s, t, temperature=1.5).item(), F.cross_entropy(s, batch["labels"]).item()
    start = method.ratio(s, t, batch, made.ctx).mean().item()
    for _ in range(20):
        made(batch)
        made.skip_step()
    moved = method.ratio(s, t, batch, made.ctx).mean().item() - start
    assert (moved > 0) == (taught < told)


def test_the_unrolled_step_moves_no_statistics_of_batchnorm() -> None:
    class Normed(Linear):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.norm = nn.BatchNorm1d(6)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(self.norm(inputs))

    nets = []
    for rule in ("tgeo", "fixed"):
        nets.append(Normed(0))
        made, _ = wired(nets[-1], rule=rule)
        made(doubled(samples()))
    assert int(nets[0].norm.num_batches_tracked) == 1
    assert torch.equal(nets[0].norm.running_mean, nets[1].norm.running_mean)


def test_every_k_steps_and_only_while_training() -> None:
    made, method = wired(Linear(0), every=3)
    moved = []
    for _ in range(5):
        before = weights(method.decides)
        made(doubled(samples())).loss.backward()
        made.after_step()
        moved.append(not torch.equal(before, weights(method.decides)))
    assert moved == [True, False, False, True, False]
    before = weights(method.decides)
    made.eval()(doubled(samples()))
    assert torch.equal(before, weights(method.decides))


def test_a_stream_of_validation_data_takes_the_place_of_held_out_samples() -> None:
    streams = {"train": samples(), "validation": samples(10, seed=3)}
    method = TGeoKD(validation=0)
    made = Distiller(mlp(4), mlp(8, 1), method, example=streams)
    made.prepare([streams])
    before = weights(method.decides)
    step = made(streams)
    assert not torch.equal(before, weights(method.decides))
    assert len(method.held) == 0
    changed = {"train": streams["train"], "validation": {**streams["validation"], "labels": torch.zeros(10).long()}}
    method.eval()
    made.skip_step()
    assert torch.equal(made(streams).loss, made(changed).loss)
    assert step.loss.isfinite()
    with pytest.raises(DistilError, match="train and validation"):
        made({"train": samples(), "more": samples()})


def test_what_cannot_be_held_out_is_refused() -> None:
    one = {**samples(), "labels": torch.zeros(20, dtype=torch.long)}
    method = TGeoKD()
    made = Distiller(mlp(4), mlp(8, 1), method, example=samples())
    with pytest.raises(DistilError, match="too small for the controller"):
        made.prepare([one])
    with pytest.raises(DistilError, match="no 'id'"):
        made.prepare([{key: value for key, value in samples().items() if key != "id"}])
    made = Distiller(mlp(4), mlp(8, 1), TGeoKD(validation=0), example=samples())
    with pytest.raises(DistilError, match="nothing to learn from"):
        made.prepare([samples()])
    with pytest.raises(DistilError, match="prepare"):
        Distiller(mlp(4), mlp(8, 1), TGeoKD(), example=samples(), steps=4)(samples())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rule": "geo"}, "rule='geo'"),
        ({"state": 8}, "state='8'"),
        ({"controller": "big"}, "controller='big'"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"validation": 0.7}, "validation=0.7"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"inner_lr": -1.0}, "inner_lr=-1.0"),
        ({"every": 0}, "every=0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        TGeoKD(**wrong)


def test_a_batch_of_held_out_samples_alone_teaches_nothing() -> None:
    made, method = wired(Linear(0))
    batch = doubled(samples())
    chosen = torch.isin(batch["id"], method.held)
    loss = made({key: value[chosen] for key, value in batch.items()}).loss
    loss.backward()
    assert loss == 0
    assert all(float(p.grad.abs().max()) == 0 for p in made.student.parameters())


def dataset(count: int = 200) -> DictDataset:
    batch = samples(count)
    return DictDataset(batch["inputs"], batch["labels"])


@pytest.mark.parametrize("rule", ["tgeo", "free"])
def test_a_run_goes_on_bit_for_bit(rule: str, tmp_path: Path) -> None:
    def run(epochs: int, **options: Any) -> Tensor:
        method = TGeoKD(rule=rule)
        made = Distiller(mlp(4), mlp(8, 1), method, example=samples(), epochs=4)
        settings = {"epochs": 4, "batch_size": 32, "check_teacher": False, "device": "cpu", "diagnose": False}

        def stop(step: int, steps: int) -> None:
            if step == 7 * epochs:
                raise KeyboardInterrupt

        fit(made, dataset(), **settings, progress=stop, **options)
        return torch.cat([weights(made.student), weights(method.decides)])

    whole = run(99)
    with pytest.raises(KeyboardInterrupt):
        run(2, out=tmp_path, save_every=1)
    assert torch.equal(run(99, out=tmp_path, resume=True), whole)


def test_the_ratio_falls_where_the_teacher_is_surely_wrong() -> None:
    """The mechanism: labels that the student can learn, a right or a wrong teacher, and the mean ratio afterwards."""
    data, means = dataset(400), []
    for turn in (0, 1):
        scores = 8 * F.one_hot((data.labels + turn) % CLASSES, CLASSES).float()

        class Teacher(nn.Module):
            def __init__(self, table: Tensor, known: Tensor) -> None:
                super().__init__()
                self.table, self.known = nn.Parameter(table), nn.Parameter(known)

            def forward(self, inputs: Tensor) -> Tensor:
                return self.table[torch.cdist(inputs, self.known).argmin(1)]

        method = TGeoKD(controller_lr=3e-2)
        made = Distiller(mlp(16), Teacher(scores, data.inputs), method, example=samples(), epochs=10)
        fit(made, data, epochs=10, batch_size=32, lr=1e-2, check_teacher=False, device="cpu", diagnose=False)
        batch = {"inputs": data.inputs, "labels": data.labels, "id": data.ids}
        with torch.no_grad():
            means.append(float(method.ratio(made.student(data.inputs), scores, batch, made.ctx).mean()))
    assert means[1] < 0.2 < means[0], means
    assert math.isfinite(sum(means))


def test_who_is_held_out_is_decided_by_the_split_seed_alone() -> None:
    ids, labels = samples(200)["id"], samples(200)["labels"]
    for seed in (0, 1):
        _, method = wired(Linear(0), [doubled(samples(200))], split_seed=seed)
        assert torch.equal(method.held, held_out_ids(ids, labels, 0.1, seed))
    assert not torch.equal(held_out_ids(ids, labels, 0.1, 0), held_out_ids(ids, labels, 0.1, 1))


TOY = (
    "pair.train=120", "pair.teacher_train=200", "pair.val=60", "pair.teacher='distil:mlp(hidden=24)'",
    "pair.student='distil:mlp(hidden=4)'", "pair.teacher_training.epochs=5", "pair.teacher_training.lr=0.01",
    "training.epochs=2", "seeds=[0, 1]", "rates=[0.01]", "ratios=[0.3]", "controller_rates=[0.01]",
)  # fmt: skip


@pytest.mark.parametrize("share", [0.4, 0.0])
def test_the_recipe_runs_and_all_arms_are_told_alike(share: float, tmp_path: Path) -> None:
    recipe = load_recipe("tgeo-kd")
    setup = prepare_setup(recipe, assignments=(*TOY, "pair.data=digits", f"wrong={share}"))
    report = run_recipe(recipe, setup, tmp_path, Lab(tmp_path), command="distil run tgeo-kd", system="tgeo-kd")
    assert [arm["name"] for arm in report["arms"]] == list(recipe.ARMS)
    assert all(arm["budget"] == report["arms"][0]["budget"] for arm in report["arms"])
    assert report["arms"][0]["budget"]["labels"] == 120
    assert {arm["role"] for arm in report["arms"]} == {"reference", "rival", "ablation", "method"}
    for arm in report["arms"]:
        assert ("mean α where the teacher is wrong" in arm["diagnostics"]) == bool(share)
        assert all(0 <= value <= 1 for value in arm["diagnostics"]["mean α"])
    assert "40%" in report["setting"]["Teacher"] if share else "as it is" in report["setting"]["Teacher"]


def test_the_recipe_wants_equal_numbers_of_tries() -> None:
    recipe = load_recipe("tgeo-kd")
    with pytest.raises(DistilError, match="equally many"):
        recipe.experiment(prepare_setup(recipe, assignments=("rates=[0.1]",)), Lab("unused"))
