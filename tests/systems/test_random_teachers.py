"""Random Teachers: nothing of the teacher moves, no label is read, starts are near, and the switches do their part."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.data.bundle import DictDataset
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError
from distil.functional import entropy, moving_average, paired_views
from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.training import Training
from distil.methods import KD
from distil.models import VGG, Headed, L2Head
from distil.report.check import validate
from distil.systems.random_teachers import (
    ProbeTask,
    RandomTeacher,
    Supervision,
    along_path,
    lottery_tickets,
    near_teacher,
    on_plane,
    probed,
    published,
    supervise,
    teach,
    without_labels,
)

from .toys import image_distiller, samples, seeded


def headed() -> nn.Module:
    encoder = VGG(3, 0, widths=((4,), (6,)), size=8)
    return Headed(encoder, L2Head(encoder.features, 10, hidden=(8,), bottleneck=4))


class Normed(nn.Module):
    """An encoder with batch norm, under the same head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = L2Head(4, 10, hidden=(8,), bottleneck=4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(inputs)).relu().mean((2, 3)))


def images(count: int = 24) -> dict[str, Tensor]:
    inputs = torch.randn(count, 3, 8, 8, generator=seeded(3))
    return {"inputs": inputs, "labels": torch.full((count,), -1), "id": torch.arange(count)}


def made(method: Any, *, alpha: float = 0.3, make: Any = headed, seed: int = 0) -> Distiller:
    student, teacher = near_teacher(make, alpha=alpha, seed=seed)
    return watched(Distiller(student, teacher, method, example=images(4), epochs=4, seed=seed))


def watched(distiller: Distiller) -> Distiller:
    distiller.watch()  # by nothing: single losses are looked at, and no step is made
    return distiller


def go(distiller: Distiller, *, steps: int = 3, lr: float = 0.01) -> Tensor:
    optimizer = distiller.watch(torch.optim.AdamW(distiller.parameters(), lr=lr, weight_decay=0.0))
    losses = []
    for k in range(steps):
        step = distiller(images())
        step.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(step.loss.detach())
        if k % 2:
            distiller.end_epoch()
    return torch.stack(losses)


# ---- what a sheet's reader must be able to trust


@pytest.mark.parametrize("make", [headed, Normed])
def test_the_teacher_stays_bit_for_bit_and_no_label_is_read(make: Any) -> None:
    distiller = made(published(), make=make)
    (teacher,) = distiller.teachers.values()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    go(distiller)  # its labels are -1, which any reader of labels would refuse
    after = teacher.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in teacher.parameters())
    if make is Normed:
        assert not after["norm.running_mean"].any()
        assert bool((after["norm.running_var"] == 1).all())
        assert bool(distiller.student.norm.running_mean.any())


def test_labels_do_not_reach_the_method() -> None:
    seen: list[set[str]] = []

    def note(module: nn.Module, args: Any) -> None:
        seen.append(set(args[2]))

    distiller = made(published())
    next(iter(distiller.method)).method.register_forward_pre_hook(note)
    distiller({**images(), "labels": torch.arange(24) % 5})
    assert all("labels" not in keys for keys in seen)
    assert seen


def test_at_alpha_zero_the_student_is_the_teacher_and_learns_nothing() -> None:
    distiller = made(RandomTeacher(loss="kl"), alpha=0.0)
    (teacher,) = distiller.teachers.values()
    ours = distiller.student.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in teacher.state_dict().items())
    step = distiller(images())
    step.loss.backward()
    assert abs(step.loss.item()) < 1e-6
    assert max(float(p.grad.abs().max()) for p in distiller.parameters() if p.grad is not None) < 1e-6


def test_at_alpha_one_the_student_is_the_fresh_start() -> None:
    student, teacher = near_teacher(headed, alpha=1.0, seed=3)
    other, _ = near_teacher(headed, alpha=1.0, seed=3, teacher=headed())
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), other.parameters()))
    assert not torch.equal(student.encoder.stage1[0].weight, teacher.encoder.stage1[0].weight)


def test_a_tiny_alpha_is_the_teacher_but_for_rounding() -> None:
    student, teacher = near_teacher(headed, alpha=1e-10)
    for a, b in zip(student.parameters(), teacher.parameters()):
        torch.testing.assert_close(a, b, rtol=3e-7, atol=1e-10)


@pytest.mark.parametrize("kind", ["interpolated", "neighbourhood"])
def test_the_variance_of_weights_does_not_depend_on_alpha(kind: str) -> None:
    def wide() -> nn.Module:
        return nn.Linear(400, 400, bias=False)

    spreads = [
        float(near_teacher(wide, alpha=a, kind=kind, seed=k)[0].weight.detach().std())
        for k, a in enumerate((0.0, 0.2, 0.5, 0.8, 1.0))
    ]
    assert max(spreads) < 1.02 * min(spreads)
    plain = near_teacher(wide, alpha=0.5, variance_preserving=False)[0]
    assert float(plain.weight.detach().std()) < 0.75 * spreads[0]


def test_outputs_are_cosines_whatever_the_scale_of_the_bottleneck() -> None:
    net = headed()
    before = net(images()["inputs"])
    assert float(before.abs().max()) <= 1
    with torch.no_grad():
        net.head.bottleneck.weight.mul_(3)
        net.head.bottleneck.bias.mul_(3)
        net.head.last.weight.mul_(torch.rand(10, 1) + 0.5)
    torch.testing.assert_close(net(images()["inputs"]), before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [{"bottleneck": 0}, {"normalise_features": False}, {"normalise_weights": False}, {"activation": "relu"}],
)
def test_every_part_of_the_head_can_be_switched(changed: dict[str, Any]) -> None:
    x = torch.randn(5, 8, generator=seeded(1))
    heads = []
    for options in ({}, changed):
        torch.manual_seed(0)
        heads.append(L2Head(8, 6, **{"hidden": (8,), "bottleneck": 8, **options})(x))
    assert not torch.allclose(*heads)


def test_kl_falls_and_its_gradient_is_cross_entropys() -> None:
    values = go(made(RandomTeacher(loss="kl")), steps=30)
    assert float(values[-5:].mean()) < 0.2 * float(values[:5].mean())
    grads = []
    for loss in ("ce", "kl"):
        distiller = made(RandomTeacher(loss=loss))
        distiller(images()).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in distiller.student.parameters()]))
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-7)


def test_one_output_has_nothing_to_learn_and_one_sample_is_enough() -> None:
    def lone() -> nn.Module:
        encoder = VGG(3, 0, widths=((4,), (6,)), size=8)
        return Headed(encoder, L2Head(encoder.features, 1, hidden=(8,), bottleneck=4))

    assert made(published(), make=lone)(images()).loss.item() == 0.0
    assert made(published())(images(1)).loss.isfinite()


# ---- DINO's switches


def test_temperatures_and_centre_are_the_functions() -> None:
    distiller = made(RandomTeacher(student_temperature=0.1, teacher_temperature=0.04, centring=0.9))
    (teacher,) = distiller.teachers.values()
    s, t = distiller.student(images()["inputs"])[None], teacher(images()["inputs"])[None]
    expected = paired_views(s, t, student_temperature=0.1, teacher_temperature=0.04)
    torch.testing.assert_close(distiller(images()).loss, expected)  # the centre is still 0


def test_the_centre_moves_after_use_by_the_mean_of_the_whole_step() -> None:
    distiller = made(RandomTeacher(centring=0.9))
    (teacher,), batch = distiller.teachers.values(), images()
    optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.0))
    method = distiller.method.methods["randomteacher"]
    parts = [{key: value[a:b] for key, value in batch.items()} for a, b in ((0, 5), (5, 24))]
    expected = torch.zeros(10)
    for _ in range(2):
        totals = distiller.totals(parts)
        for part in parts:
            assert torch.equal(method.centre, expected)
            distiller(part, totals=totals).loss.backward()
        optimizer.step()
        expected = moving_average(expected, teacher(batch["inputs"]).mean(0), momentum=0.9)
        torch.testing.assert_close(method.centre, expected)
        expected = method.centre.clone()


def test_without_centring_the_centre_is_none() -> None:
    distiller = made(published())
    go(distiller)
    assert not len(distiller.method.methods["randomteacher"].centre)


def test_the_averaged_teacher_follows_the_student_and_the_given_one_stays() -> None:
    distiller = made(RandomTeacher(averaging=0.5))
    (teacher,) = distiller.teachers.values()
    given = torch.cat([p.flatten() for p in teacher.parameters()])
    expected = given.clone()
    optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=1.0))
    for _ in range(3):
        distiller(images()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        student = torch.cat([p.detach().flatten() for p in distiller.student.parameters()])
        expected = 0.5 * expected + 0.5 * student
        torch.testing.assert_close(distiller.method.methods["randomteacher"].average, expected)
    assert torch.equal(torch.cat([p.flatten() for p in teacher.parameters()]), given)
    ours, given_loss = distiller.student(images()["inputs"]), distiller.eval()(images()).loss
    averaged = copy.deepcopy(teacher)
    torch.nn.utils.vector_to_parameters(expected, averaged.parameters())
    torch.testing.assert_close(given_loss, paired_views(ours[None], averaged(images()["inputs"])[None]))


def test_an_averaged_teacher_survives_saving() -> None:
    distiller = made(RandomTeacher(averaging=0.9, centring=0.9))
    go(distiller)
    fresh = made(RandomTeacher(averaging=0.9, centring=0.9), seed=5)
    fresh.cast.teachers["model"].load_state_dict(distiller.cast.teachers["model"].state_dict())
    fresh.load_state_dict(distiller.state_dict())
    assert torch.equal(distiller.eval()(images()).loss, fresh.eval()(images()).loss)


def test_an_average_needs_one_architecture() -> None:
    distiller = watched(image_distiller(RandomTeacher(averaging=0.9) * 1.0))
    with pytest.raises(DistilError, match="different architectures"):
        distiller(samples())


def test_the_last_layer_stays_in_the_first_epochs_and_then_learns() -> None:
    distiller = made(RandomTeacher(freeze_last=1))
    last = distiller.student.head.last.weight
    before, encoder = last.detach().clone(), distiller.student.encoder.stage1[0].weight
    start = encoder.detach().clone()
    go(distiller, steps=2)
    assert torch.equal(last, before)
    assert not torch.equal(encoder, start)
    assert last.requires_grad
    go(distiller, steps=1)
    assert not torch.equal(last, before)


def test_a_frozen_last_layer_comes_first_in_a_sum() -> None:
    distiller = made(KD() + RandomTeacher(freeze_last=1))
    with pytest.raises(DistilError, match="name it first"):
        distiller(images())
    assert made(RandomTeacher(freeze_last=1) + KD())(images()).loss.isfinite()


class Seeing(nn.Module):
    """Notes the shapes it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 4), []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs.detach().clone())
        return self.layer(inputs.mean((2, 3)))


def test_the_student_sees_all_crops_and_the_teacher_the_global_ones() -> None:
    student, teacher = Seeing(), Seeing()
    method = RandomTeacher(crops=(2, 3), crop_size=4, views="opposite")
    distiller = watched(Distiller(student, teacher, method, example=images(4), steps=4))
    student.seen.clear()
    teacher.seen.clear()
    distiller(images())
    assert [tuple(x.shape[2:]) for x in student.seen] == [(8, 8)] * 2 + [(4, 4)] * 3
    assert [tuple(x.shape[2:]) for x in teacher.seen] == [(8, 8)] * 2
    assert all(torch.equal(a, b) for a, b in zip(student.seen, teacher.seen))
    assert not torch.equal(student.seen[0], student.seen[1])


@pytest.mark.parametrize(("one", "other"), [("all", "same"), ("all", "opposite"), ("same", "opposite")])
def test_pairs_of_crops_can_be_chosen(one: str, other: str) -> None:
    losses = [made(RandomTeacher(crops=(2, 1), crop_size=8, views=views))(images()).loss for views in (one, other)]
    assert not torch.equal(*losses)


def test_crops_and_their_sizes_change_what_is_learnt() -> None:
    chosen = [{}, {"crops": (1, 0)}, {"crops": (1, 1), "crop_size": 4}, {"crops": (1, 1), "crop_size": 6}]

    def pooled() -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 5))

    losses = {float(made(RandomTeacher(**options), make=pooled)(images()).loss) for options in chosen}
    assert len(losses) == 4


def test_noise_replaces_what_both_networks_see() -> None:
    student, teacher = Seeing(), Seeing()
    distiller = watched(
        Distiller(student, teacher, RandomTeacher(inputs="noise", sigma=2.0), example=images(4), steps=4)
    )
    student.seen.clear()
    teacher.seen.clear()
    distiller(images())
    (ours,), (theirs,) = student.seen, teacher.seen
    assert torch.equal(ours, theirs)
    assert ours.shape == images()["inputs"].shape
    assert abs(float(ours.std()) - 2) < 0.1
    assert abs(float((ours * images()["inputs"]).mean())) < 0.1


def test_clipping_and_weight_decay_are_the_trainings() -> None:
    def end(**options: Any) -> Tensor:
        distiller = made(published())
        fit(distiller, DictDataset(images()["inputs"]), None, epochs=1, batch_size=8, optimizer="sgd", lr=1.0,
            check_teacher=False, device="cpu", **options)  # fmt: skip
        return torch.cat([p.detach().flatten() for p in distiller.student.parameters()])

    assert not torch.equal(end(), end(clip=1e-4))


def test_what_ships_is_the_encoder() -> None:
    distiller = made(published())
    assert distiller.deployed() is distiller.student.encoder
    plain = image_distiller(published())
    assert plain.deployed() is plain.student


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"loss": "cross"}, "loss='cross'"),
        ({"views": "both"}, "views='both'"),
        ({"inputs": "sound"}, "inputs='sound'"),
        ({"student_temperature": 0.0}, "student_temperature=0"),
        ({"centring": 1.0}, "centring=1.0"),
        ({"averaging": -0.1}, "averaging=-0.1"),
        ({"crops": (0, 2), "crop_size": 4}, "at least one global"),
        ({"crops": (1, 2)}, "crop_size"),
        ({"views": "opposite"}, "two crops"),
        ({"freeze_last": -1}, "freeze_last=-1"),
        ({"sigma": 0.0}, "sigma=0.0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        RandomTeacher(**wrong)


def test_inputs_without_pixels_cannot_be_cropped_and_a_teacher_is_needed() -> None:
    distiller = watched(image_distiller(RandomTeacher(inputs="noise") * 1.0))
    with pytest.raises(DistilError, match="one tensor of numbers"):
        distiller({**samples(), "inputs": torch.zeros(20, 6).long()})
    with pytest.raises(DistilError, match="needs a teacher"):
        Distiller(headed(), None, published(), example=images(4))


# ---- teaching, probing


def labelled(count: int = 60) -> DictDataset:
    batch = images(count)
    labels = torch.arange(count) % 3
    return DictDataset(batch["inputs"] + labels[:, None, None, None], labels)


def test_teaching_reads_no_labels_and_the_curve_is_the_probes() -> None:
    student, teacher = near_teacher(headed, alpha=0.3)
    data = labelled()
    task = ProbeTask(data, linear=False, k=5)
    training = Training(epochs=2, batch_size=20)
    result = teach(student, teacher, without_labels(data), training, val=data, task=task, device="cpu")
    assert result.cost["labels"] == 0
    assert result.model is student.encoder
    assert [set(record["val"]) for record in result.history if record["epoch"]] == [{"accuracy"}] * 2
    again = probed(student.encoder, data, data, k=5)
    assert again["accuracy"] == result.last["accuracy"]
    assert again == probed(student.encoder, data, data, k=5)
    assert set(again) == {"accuracy", "linear"}


def test_raw_inputs_can_be_probed_and_outputs_cannot_be_scored() -> None:
    data = labelled()
    assert probed(nn.Flatten(), data, data)["accuracy"] > 60
    with pytest.raises(DistilError, match="scores an encoder"):
        ProbeTask(data).score({})
    with pytest.raises(DistilError, match="no loss of its own"):
        ProbeTask(data).loss(None, {})


# ---- tickets, paths, plane


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(VGG(3, 0, widths=((4,), (6,)), size=8), nn.Linear(24, 3))


HOW = Supervision(epochs=2, batch_size=20, lr=0.05)


def score(net: nn.Module) -> float:
    data = labelled()
    with torch.no_grad():
        return 100 * float((net(data.inputs).argmax(1) == data.labels).float().mean())


def test_supervised_training_goes_on_from_an_epoch_bit_for_bit() -> None:
    whole = supervise(classifier(), labelled(), HOW, seed=3)
    half = supervise(classifier(), labelled(), HOW, end=1, seed=3)
    rest = supervise(classifier(), labelled(), HOW, begin=half, seed=3)
    assert half.epoch == 1
    assert all(torch.equal(whole.state[name], value) for name, value in rest.state.items())
    assert all(torch.equal(whole.momenta[name], value) for name, value in rest.momenta.items())
    other = supervise(classifier(), labelled(), HOW, seed=4)
    assert not all(torch.equal(whole.state[name], value) for name, value in other.state.items())


@pytest.mark.parametrize("rewind", [0, 1])
def test_tickets_keep_what_the_paper_keeps_and_rewind_to_stored_weights(rewind: int) -> None:
    net = classifier()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    tickets = lottery_tickets(net, labelled(), score, HOW, rounds=3, share=0.2, rewind=rewind, seed=1)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    stored = supervise(classifier(), labelled(), HOW, end=rewind, seed=1).state
    count = sum(p.numel() for p in net.parameters())
    for k, ticket in enumerate(tickets):
        assert ticket.kept == pytest.approx(0.8**k, abs=k / count)
        for name, mask in ticket.masks.items():
            assert torch.equal(ticket.start[name], stored[name] * mask)
        assert 0 <= ticket.score <= 100
    assert len(tickets) == 4


def test_pruned_weights_stay_out_through_training() -> None:
    net = classifier()
    masks = {name: torch.rand(p.shape, generator=seeded(1)) > 0.5 for name, p in net.named_parameters()}
    supervise(net, labelled(), HOW, masks=masks)
    assert not any(bool(p[~masks[name]].any()) for name, p in net.named_parameters())


def test_a_path_begins_and_ends_at_its_networks() -> None:
    one, other = (supervise(classifier(), labelled(), HOW, seed=k).state for k in (1, 2))
    line = along_path(classifier(), one, other, score)
    for state, value in ((one, line[0]), (other, line[-1])):
        net = classifier()
        net.load_state_dict(state)
        assert score(net.eval()) == value
    assert len(line) == 5


def test_the_plane_holds_its_three_networks() -> None:
    points = [headed() for _ in range(3)]

    def first(net: nn.Module) -> float:
        return float(next(net.parameters()).detach().flatten()[0])

    grid = on_plane(points[0], points, first, across=(0.0, 1.0), up=(0.0, 1.0))
    expected = [first(point) for point in points]
    assert [grid[0][0], grid[0][1], grid[1][0]] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"rounds": -1}, {"rewind": 9}, {"share": 1.0, "rounds": 1}], ids=["rounds", "rewind", "share"]
)
def test_tickets_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DistilError):
        lottery_tickets(classifier(), labelled(), score, HOW, **{"rounds": 1, **wrong})


# ---- the recipe

SMALL = (
    "images.data=digits", "images.size=8", "images.train=200", "images.val=40", "images.test=60",
    "encoder='distil:vgg(widths=((4,), (6,)))'", "head.outputs=12", "head.hidden=[8]", "head.bottleneck=4",
    "training.epochs=2", "training.batch_size=20", "seeds=[0, 1]",
)  # fmt: skip
CONTROLS = (
    "controls.on=true", "controls.updates=6", "controls.samples=[50]", "controls.labelled=60", "controls.rounds=1",
    "controls.grid=3", "controls.other=digits", "controls.supervision.epochs=1",
    "controls.supervision.batch_size=30", "seeds=[0]",
)  # fmt: skip


def run(out: Any, *settings: str) -> dict[str, Any]:
    recipe = load_recipe("random-teachers")
    setup = prepare_setup(recipe, assignments=settings)
    report = run_recipe(recipe, setup, out, Lab(out), command="distil run random-teachers", system="random-teachers")
    validate(json.loads(json.dumps(report)))
    return report


def test_the_recipe_runs_on_digits(tmp_path: Any) -> None:
    report = run(tmp_path, *SMALL, "alpha=1.0")
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert list(arms) == ["teacher", "raw", "student", "noise"]
    assert all(arm["budget"] == arms["teacher"]["budget"] for arm in arms.values())
    assert all(set(arm["metrics"]) == {"accuracy", "linear"} for arm in arms.values())
    assert arms["student"]["parameters"] == arms["teacher"]["parameters"]  # the encoder's alone
    assert arms["noise"]["expression"] == "random-teachers(inputs=noise)"
    first, last = (arms["student"]["diagnostics"][f"KL × 1e6, {when} epoch"][0] for when in ("first", "last"))
    assert 0 < last < first
    assert report["verdicts"][0]["against"] == "teacher"


def test_the_controls_are_tables_and_the_plane_is_drawn(tmp_path: Any) -> None:
    report = run(tmp_path, *SMALL, *CONTROLS)
    titles = [table["title"] for table in report["tables"]]
    assert titles[:3] == ["What the gain depends on", "Lottery tickets", "Paths between two trainings"]
    taught = [row[0] for row in report["tables"][0]["rows"]]
    assert taught[1:5] == ["α = 0.3", "α = 1", "50 images", "50 samples of noise"]
    assert {"second round", "DINO's options on", "m = 16 outputs", "taught from digits"} <= set(taught)
    assert [len(table["rows"]) for table in report["tables"][3:]] == [3, 3]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('aria-labelledby="heat-') == 2


def test_entropy_is_what_cross_entropy_cannot_lose() -> None:
    distiller = made(published(), alpha=0.0)
    (teacher,) = distiller.teachers.values()
    least = entropy(teacher(images()["inputs"])).mean()
    torch.testing.assert_close(distiller(images()).loss, least)
