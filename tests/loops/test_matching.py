"""Small sets by optimisation: what is moved and what is not, budgets, targets, and that the way is downhill."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.data.bundle import Bundle, DictDataset
from distil.errors import DistilError, Diverged
from distil.functional import channel_moments
from distil.loops import condense_matching, matching, trajectories
from distil.loops.carrier import Carrier, Real, fresh_net, started
from distil.loops.condense import Order, condense
from distil.loops.condense_matching import Ways
from distil.loops.matching import Distributions, Gradients, match_gradients
from distil.loops.ridge_sets import Codes
from distil.loops.training import build_model
from distil.loops.trajectories import Experts, Trajectories, match_trajectories, train_experts

QUICK: dict[str, dict[str, Any]] = {
    "dm": {"iterations": 20, "lr": 0.3},
    "dc": {"iterations": 8},
    "tm": {"iterations": 12, "lr": 1.0, "experts": 1, "expert_epochs": 6, "latest": 2, "ahead": 2, "steps": 4},
    "krr": {"iterations": 20, "lr": 0.05},
    "latent": {"iterations": 10, "codes": 3, "lr": 0.3},
}
NET = "distil:mlp(hidden=8)"
EACH = pytest.mark.parametrize("method", QUICK)


def vectors(classes: int = 3, count: int = 30) -> Bundle:
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(classes).repeat(count)
    rows = 3 * torch.eye(classes, 5)[labels] + torch.randn(len(labels), 5, generator=generator) + 2
    data = DictDataset(rows, labels)
    names = tuple(str(k) for k in range(classes))
    return Bundle("blobs", "classification", data, data, data, names, (5,), "blobs")


def images() -> Bundle:
    generator = torch.Generator().manual_seed(8)
    labels = torch.arange(2).repeat(20)
    pixels = torch.rand(40, 3, 8, 8, generator=generator) * 0.5
    pixels[labels == 1, 0] += 0.5
    data = DictDataset(pixels, labels)
    return Bundle("squares", "classification", data, data, data, ("a", "b"), (3, 8, 8), "squares")


def order(bundle: Bundle | None = None, per_class: int = 2, **fields: Any) -> Order:
    return Order(bundle or vectors(), per_class, **fields)


@EACH
@pytest.mark.parametrize("per_class", [1, 3])
def test_the_set_keeps_its_budget_and_labels_moves_and_is_made_alike_twice(method: str, per_class: int) -> None:
    asked = QUICK[method]
    small = condense(order(per_class=per_class, options=asked), method)
    assert small.labels.tolist() == [label for label in range(3) for _ in range(per_class)]
    assert small.inputs.shape == (3 * per_class, 5)
    again = condense(order(per_class=per_class, options=asked), method)
    other = condense(order(per_class=per_class, options=asked, seed=1), method)
    assert torch.equal(small.inputs, again.inputs)
    assert not torch.equal(small.inputs, other.inputs)
    assert small.made["loss"]["iterations"] == asked["iterations"]
    assert small.made["options"] == asked


@EACH
def test_one_class_and_images_are_fine(method: str) -> None:
    asked = QUICK[method]
    if method != "krr":  # the ridge targets of a single class are all 0
        assert len(condense(order(vectors(1), options=asked), method)) == 2
    net = {} if method == "krr" else {"net": "distil:convnet(width=3, depth=2)"}
    small = condense(order(images(), 1, options={**asked, **net, "iterations": 2}), method)
    assert small.inputs.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("method", ["dm", "krr", "latent", "tm"])
def test_the_loss_falls(method: str) -> None:
    asked = {**QUICK[method], "iterations": 40}
    loss = condense(order(per_class=1, options=asked), method).made["loss"]
    assert loss["last"] < 0.8 * loss["first"]


def test_the_gradient_loss_falls_along_one_net(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fresh_net(Real(order()), NET, "one")
    monkeypatch.setattr(matching, "fresh_net", lambda *args: kept)
    real = Real(order(per_class=1))
    carrier = started(real, 1, "noise", torch.Generator().manual_seed(0))
    how = Gradients(iterations=60, lr=0.05, batch=30)
    losses = match_gradients(real, carrier, how, torch.Generator().manual_seed(0))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("distance", ["ours", "mse", "cos"])
def test_gradients_match_where_the_set_is_the_real_data(distance: str) -> None:
    real = Real(order(per_class=30))
    labels = torch.arange(3).repeat_interleave(30)
    carrier = Carrier(real.read(torch.cat(real.places)), labels, 3)
    # One layer: a hidden unit that is dead on a class has gradient rows of 0, and each of those counts 1 in "ours".
    how = Gradients(net="distil:mlp(layers=1)", iterations=1, outer=1, batch=30, distance=distance, lr=1e-9)
    (loss,) = match_gradients(real, carrier, how, torch.Generator())
    assert loss < 1e-3


def test_a_match_leaves_the_net_alone_and_the_inner_epochs_train_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fresh_net(Real(order()), NET, "one")
    before = {name: value.clone() for name, value in kept.state_dict().items()}
    monkeypatch.setattr(matching, "fresh_net", lambda *args: kept)

    def after(outer: int) -> bool:
        real = Real(order())
        carrier = started(real, 2, "real", torch.Generator().manual_seed(0))
        start = carrier.free.detach().clone()
        match_gradients(real, carrier, Gradients(iterations=1, outer=outer, inner=2), torch.Generator())
        assert not torch.equal(start, carrier.free)
        return all(torch.equal(before[name], value) for name, value in kept.state_dict().items())

    assert after(1)
    assert not after(2)


def test_statistics_of_batch_norm_come_from_real_samples_and_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fresh_net(Real(order(images())), "distil:convnet(width=3, depth=2, norm='batch')", "one")
    monkeypatch.setattr(matching, "fresh_net", lambda *args: kept)
    real = Real(order(images(), 1))
    carrier = started(real, 1, "noise", torch.Generator().manual_seed(0))
    match_gradients(real, carrier, Gradients(iterations=2, augment=False), torch.Generator())
    norm = kept.features[1]
    assert not norm.training
    whole = kept.features[0](real.read(torch.cat([places[:16] for places in real.places])))
    torch.testing.assert_close(norm.running_mean, whole.mean((0, 2, 3)), rtol=0.1, atol=0.05)


def test_standardised_inputs_are_given_back_as_the_data_hold_them() -> None:
    for bundle in (vectors(), images()):
        real = Real(order(bundle))
        rows = real.read(torch.arange(len(bundle.train)))
        torch.testing.assert_close(real.raw(rows), bundle.train.inputs)
        mean, deviation = channel_moments(rows)
        assert float(mean.abs().max()) < 1e-4
        assert float(deviation.square().mean()) == pytest.approx(1, abs=1e-4)
    vector = Real(order())
    assert vector.deviation.unique().numel() == 1  # one number for all features: distances keep their order


def test_a_class_with_too_few_samples_is_filled_up_with_noise() -> None:
    real = Real(order(vectors(count=3), 5))
    carrier = started(real, 5, "real", torch.Generator().manual_seed(0))
    assert carrier.free.shape == (15, 5)
    assert len(carrier.free.detach().unique(dim=0)) == 15
    noise = started(real, 5, "noise", torch.Generator().manual_seed(0))
    assert noise.free.shape == (15, 5)


def test_an_empty_class_is_refused() -> None:
    whole = vectors(2)
    empty = Bundle("b", "classification", whole.train, whole.val, whole.test, ("0", "1", "2"), (5,), "b")
    with pytest.raises(DistilError, match="no training samples of 2"):
        condense(order(empty), "dm")


def test_nets_that_make_a_set_are_drawn_apart_from_those_that_judge_it() -> None:
    bundle = vectors()
    real = Real(order(bundle))
    judges = [build_model(NET, bundle, seed=seed) for seed in range(5)]
    makers = [fresh_net(real, NET, "dm", 0, step) for step in range(5)]
    for one in makers:
        assert not any(torch.equal(one.layers[0].weight, other.layers[0].weight) for other in judges)


# ---- targets of a teacher, learned labels


def teacher(bundle: Bundle) -> nn.Module:
    net = build_model("distil:mlp(layers=1)", bundle, seed=0)
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.eye(3, 5))
        net.layers[0].bias.zero_()
    return net


def test_matching_with_a_teachers_targets_differs_and_needs_a_teacher() -> None:
    bundle = vectors()
    asked = {"iterations": 3, "net": NET, "batch": 30}
    hard = condense(order(bundle, options=asked), "dc")
    net = teacher(bundle)
    soft = condense(order(bundle, options=asked, teachers=(net,)), "dc-kd")
    assert not torch.equal(hard.inputs, soft.inputs)
    assert soft.kind == "static"
    assert soft.record["temperature"] == 1
    assert soft.logits is not None
    torch.testing.assert_close(soft.logits, net(soft.inputs).detach())
    with pytest.raises(DistilError, match="needs a trained teacher"):
        condense(order(bundle, options=asked), "dc-kd")
    with pytest.raises(DistilError, match="learn_labels must be false"):
        condense(order(bundle, options={"learn_labels": True}, teachers=(net,)), "dc-kd")


def test_gradients_with_a_sure_teacher_are_those_of_the_labels() -> None:
    bundle = vectors()
    sure = teacher(bundle)
    real, plain = Real(order(bundle, teachers=(sure,)), soft=True), Real(order(bundle))
    sure.layers[0].weight.data.zero_()  # every class alike, whatever the input: then one class for all
    sure.layers[0].bias.data = torch.tensor([0.0, 50.0, 0.0])
    labels = torch.ones(4, dtype=torch.long)
    rows = plain.read(torch.arange(4))
    torch.testing.assert_close(real.targets(rows, 0 * labels), plain.targets(rows, labels))


def test_a_teachers_targets_are_its_probabilities_on_inputs_as_the_data_hold_them() -> None:
    bundle = vectors()
    net = teacher(bundle)
    real = Real(order(bundle, teachers=(net,)), soft=True)
    places = torch.arange(6)
    said = real.targets(real.read(places), bundle.train.labels[places])
    torch.testing.assert_close(said, net(bundle.train.inputs[places]).softmax(1).detach())
    assert not said.requires_grad


@pytest.mark.parametrize("method", ["dc", "tm", "krr"])
def test_labels_are_learned_as_soft_ones_that_start_at_the_class(method: str) -> None:
    small = condense(order(options={**QUICK[method], "learn_labels": True}), method)
    assert small.kind == "static"
    start = 4.0 * torch.eye(3)[small.labels]
    assert small.logits is not None
    assert not torch.equal(small.logits, start)
    assert condense(order(options=QUICK[method]), method).kind == "hard"


# ---- distributions


def test_only_what_is_compared_differs_between_means_moments_and_kernels() -> None:
    made = {
        name: condense(order(options={"iterations": 3, "lr": 0.01, "compare": name}), "dm")
        for name in ("mean", "moments", "mmd")
    }
    assert len({small.fingerprint for small in made.values()}) == 3


def test_augmentation_changes_images_and_leaves_vectors_alone() -> None:
    asked = {"iterations": 2, "net": NET}
    for bundle, changes in ((images(), True), (vectors(), False)):
        plain, changed = (condense(order(bundle, options={**asked, "augment": on}), "dm") for on in (False, True))
        assert torch.equal(plain.inputs, changed.inputs) is not changes


# ---- trajectories


def test_trajectories_learn_the_step_size_and_follow_the_experts_given() -> None:
    real = Real(order(per_class=2))
    experts = train_experts(real, Experts(NET, experts=2, epochs=5))
    assert [tuple(way.shape) for way in experts] == [(6, 5 * 8 + 8 + 8 * 3 + 3)] * 2
    assert not torch.equal(experts[0][0], experts[1][0])
    how = Trajectories(iterations=15, lr=1.0, steps=3, ahead=2, latest=9, step=0.05, step_lr=0.1)
    carrier = started(real, 2, "real", torch.Generator().manual_seed(0))
    losses, step = match_trajectories(real, carrier, experts, how, NET, torch.Generator().manual_seed(0))
    assert step != pytest.approx(0.05)
    assert step > 0
    assert len(losses) == 15
    held = Trajectories(iterations=2, step=0.05, step_lr=0.0)
    assert match_trajectories(real, carrier, experts, held, NET, torch.Generator())[1] == pytest.approx(0.05)
    with pytest.raises(DistilError, match="ahead=6 looks further"):
        match_trajectories(real, carrier, experts, Trajectories(ahead=6), NET, torch.Generator())


def test_the_inner_steps_are_those_of_plain_gradient_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    distance = trajectories.trajectory_distance

    def watched(end: Tensor, start: Tensor, target: Tensor) -> Tensor:
        seen[:] = [end.detach(), start, target]
        return distance(end, start, target)

    monkeypatch.setattr(trajectories, "trajectory_distance", watched)
    real = Real(order(per_class=2))
    experts = train_experts(real, Experts(NET, experts=1, epochs=3))
    carrier = started(real, 2, "real", torch.Generator().manual_seed(0))
    inputs = carrier.free.detach().clone()
    how = Trajectories(iterations=1, steps=3, ahead=2, latest=0, step=0.2)
    match_trajectories(real, carrier, experts, how, NET, torch.Generator())
    net = fresh_net(real, NET, "template")
    nn.utils.vector_to_parameters(experts[0][0], net.parameters())
    learner = torch.optim.SGD(net.parameters(), lr=0.2)
    for _ in range(3):
        learner.zero_grad()
        nn.functional.cross_entropy(net(inputs), carrier.labels).backward()
        learner.step()
    torch.testing.assert_close(seen[0], nn.utils.parameters_to_vector(net.parameters()).detach())
    assert torch.equal(seen[1], experts[0][0])
    assert torch.equal(seen[2], experts[0][2])


def test_nets_with_statistics_are_no_experts() -> None:
    with pytest.raises(DistilError, match=r"without batch norm"):
        condense(order(images(), options={"net": "distil:cnn(widths=(2,))"}), "tm")


# ---- codes


def test_codes_are_whitened_principal_coordinates() -> None:
    rows = vectors().train.inputs
    codec = Codes(rows, 5)
    codes = codec.encode(rows)
    torch.testing.assert_close(codec.decode(codes), rows)
    torch.testing.assert_close(torch.cov(codes.T), torch.eye(5), rtol=1e-3, atol=1e-3)
    assert Codes(rows, 99).encode(rows).shape[1] == 5
    with pytest.raises(DistilError, match="leaves no direction"):
        Codes(rows[:1], 2)


def test_samples_of_a_decoder_stay_in_its_span_and_the_prior_draws_them_in() -> None:
    def made(**options: Any) -> Tensor:
        return condense(order(per_class=3, options={**QUICK["latent"], "codes": 2, **options}), "latent").inputs

    free, held = made(beta=0.0), made(beta=0.5)
    assert int(torch.linalg.matrix_rank(free - free.mean(0), tol=1e-3)) == 2
    mean = vectors().train.inputs.mean(0)
    assert float((held - mean).norm()) < float((free - mean).norm())
    near = made(beta=0.5, prior="nearest")
    real = Real(order())
    codec = Codes(real.read(torch.arange(90)), 2)
    bank = codec.decode(codec.encode(real.read(torch.arange(90))))
    away = [float(torch.cdist(rows, real.raw(bank)).amin(1).mean()) for rows in (free, near)]
    assert away[1] < away[0]
    assert not torch.equal(made(match="dc"), free)


# ---- bad input


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("dm", {"iterations": 0}, "iterations=0 must be at least 1"),
        ("dm", {"compare": "meen"}, "compare='meen' is unknown"),
        ("dc", {"distance": "ours2"}, "distance='ours2' is unknown"),
        ("dc", {"lr": 0.0}, "lr=0.0 must be above 0"),
        ("dc", {"outer": -1}, "outer=-1"),
        ("tm", {"ahead": 0}, "ahead=0"),
        ("tm", {"experts": 0}, "experts=0"),
        ("krr", {"kernel": "cubic"}, "kernel='cubic'"),
        ("krr", {"ridge": 0.0}, "ridge=0.0"),
        ("latent", {"prior": "none"}, "prior='none'"),
        ("latent", {"codes": 0}, "codes=0"),
        ("dm", {"iteration": 3}, "did you mean 'iterations'"),
    ],
)
def test_options_that_make_no_sense_are_refused(method: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        condense(order(options=options), method)


def test_a_run_that_diverges_stops_and_names_the_step() -> None:
    with pytest.raises(Diverged, match=r"dm: the matching loss is .* in step \d+; lower lr"):
        condense(order(options={"iterations": 60, "lr": 1e6}), "dm")


def test_the_published_loops_are_taken_by_the_nearest_number_per_class() -> None:
    assert Gradients().loops(1) == (1, 1)
    assert Gradients().loops(10) == (10, 50)
    assert Gradients().loops(48) == (50, 10)
    assert Gradients(outer=3).loops(10) == (3, 50)


def test_options_of_the_condensers_have_defaults_that_are_sound() -> None:
    for made in (Distributions(), Gradients(), Ways(), condense_matching.Latents()):
        assert made == type(made)()
