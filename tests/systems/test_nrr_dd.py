"""What NRR-DD promises of a whole set: what stays, what moves, which crops, which labels, and a teacher left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil import catalog
from distil.data.bundle import Bundle, DictDataset
from distil.data.condensed import CondensedSet
from distil.engine import Distiller
from distil.engine.context import Context
from distil.errors import DistilError
from distil.functional import (
    draw_rolls,
    eight_bit,
    label_bytes,
    label_cross_entropy,
    label_distances,
    padded,
    rolled,
    soft_mask,
)
from distil.loops.condense import condense
from distil.loops.condense_pixels import generator_for, judges, pixel_space
from distil.loops.condensed import StudentTraining, train_on
from distil.loops.order import Order
from distil.loops.synthesis import Synthesis, synthesis_loss
from distil.models import SmallCNN
from distil.systems.nrr_dd import MixedLabels, published
from distil.systems.nrr_dd.look import Look
from distil.systems.nrr_dd.procedure import Options, condensed
from distil.systems.nrr_dd.procedure import refined as refined_by
from distil.tasks import ClassificationTask

CLASSES, SIDE = 3, 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Dim noise with a bright square of the class's colour at a random place; also its top and left."""
    draw, labels = seeded(seed), torch.arange(count) % CLASSES
    images = 0.3 * torch.rand(count, 3, SIDE, SIDE, generator=draw)
    places = torch.randint(0, SIDE - 5, (count, 2), generator=draw)
    for image, label, (top, left) in zip(images, labels.tolist(), places.tolist()):
        image[label, top : top + 5, left : left + 5] += 0.6
    return eight_bit(images), labels, places


@lru_cache(maxsize=1)
def bundle() -> Bundle:
    parts = [DictDataset(*scenes(36, k)[:2], torch.arange(36) + 100 * k) for k in range(3)]
    return Bundle("squares", "classification", *parts, ("red", "green", "blue"), (3, SIDE, SIDE), "squares")


@lru_cache(maxsize=1)
def trained() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SmallCNN(3, CLASSES, widths=(8, 12))
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    images, labels, _ = scenes(36)
    for _ in range(30):
        adam.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        adam.step()
    return net.state_dict()


def teacher() -> SmallCNN:
    net = SmallCNN(3, CLASSES, widths=(8, 12))
    net.load_state_dict(trained())
    return net.eval()


def order(net: nn.Module | None = None, per_class: int = 2, **options: Any) -> Order:
    quick = {"candidates": 6, "crops": 4, "keep": 2, "steps": 3, "epochs": 2, "view_batch": 4}
    return Order(bundle(), per_class, 0, (net or teacher(),), options={**quick, **options})


def look(net: nn.Module | None = None) -> Look:
    return Look(net or teacher(), ClassificationTask(), scenes(2)[0])


def start(count: int = 6) -> tuple[Tensor, Tensor]:
    """Images in the middle of the range, class by class."""
    images, labels, _ = scenes(count, 5)
    by_class = labels.argsort(stable=True)
    return eight_bit(0.3 + images[by_class] * 0.5), labels[by_class]


# ---- refining


def refined(images: Tensor, labels: Tensor, seen: Look, options: Options) -> Tensor:
    asked = order(seen.teacher)
    return refined_by(images, labels, asked, seen, options, pixel_space(asked))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.2])
def test_critical_pixels_come_back_bit_for_bit_and_no_others(optimizer: str, threshold: float) -> None:
    images, labels = start()
    seen = look()
    options = Options(steps=6, lr=0.3 if optimizer == "adam" else 60.0, optimizer=optimizer, threshold=threshold)
    moved = refined(images, labels, seen, options)
    critical = (seen.maps(images, labels) >= threshold)[:, None].expand_as(images)
    assert torch.equal(moved[critical], images[critical])
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert float((moved != images)[~critical].float().mean()) > 0.5 or bool(critical.all())
    if threshold == 0.0:
        assert torch.equal(moved, images)
    if threshold > 1:
        assert not bool(critical.any())
        assert float((moved != images).float().mean()) > 0.9


@pytest.mark.parametrize("region", ["critical-only", "all-pixels"])
def test_the_ablations_move_what_they_say(region: str) -> None:
    images, labels = start()
    seen = look()
    options = Options(steps=6, lr=0.3, refine=region)
    moved = refined(images, labels, seen, options) != images
    critical = (seen.maps(images, labels) > 0.5)[:, None].expand_as(images)
    assert float(moved[critical].float().mean()) > 0.5
    assert (float(moved[~critical].float().mean()) > 0.5) is (region == "all-pixels")


def test_refining_lowers_the_loss_that_it_descends() -> None:
    images, labels = start()
    seen = look()
    how = Synthesis(statistics=1.0, first=1.0)
    (network,) = judges(order(seen.teacher), [seen.teacher], pixel_space(order()), how)
    moved = refined(images, labels, seen, Options(steps=40, jitter=0))
    with torch.no_grad():
        before, after = (
            float(synthesis_loss(network, pixel_space(order()).normalised(x), labels, how).total)
            for x in (images, moved)
        )
    assert after < before


def test_activations_found_anew_may_release_pixels() -> None:
    images, labels = start()
    seen = look()
    once, again = (refined(images, labels, seen, Options(steps=9, lr=0.2, cam_every=k)) for k in (0, 3))
    critical = (seen.maps(images, labels) >= 0.5)[:, None].expand_as(images)
    assert torch.equal(once[critical], images[critical])
    assert not torch.equal(once, again)


def test_batches_hold_all_classes_and_their_size_is_only_a_bound() -> None:
    images, labels = start(12)
    seen: list[list[int]] = []

    class Noting(Look):
        def maps(self, images: Tensor, labels: Tensor) -> Tensor:
            seen.append(sorted(labels.tolist()))
            return super().maps(images, labels)

    noting = object.__new__(Noting)
    noting.__dict__.update(look().__dict__)
    refined(images, labels, noting, Options(steps=1, batch=6))
    assert seen == [[0, 0, 1, 1, 2, 2]] * 2


def test_the_map_of_a_trained_teacher_lies_on_the_object() -> None:
    images, labels, places = scenes(9, 7)
    maps = look().maps(images, labels)
    inside = torch.stack([m[t : t + 5, c : c + 5].mean() for m, (t, c) in zip(maps, places.tolist())])
    assert bool((inside > 2 * maps.mean((1, 2))).all())
    assert not maps.requires_grad


# ---- discovery


def crops_of(given: Order, label: int) -> tuple[Tensor, Tensor]:
    """A class's images of one colour, as crops of a quarter, and how unlikely the teacher finds each."""
    space, small = pixel_space(given), given.inputs(given.real(label))[:, :, :8, :8]
    shown = space.raw(padded(space.normalised(small), (SIDE, SIDE)))
    return small, label_cross_entropy(teacher()(shown), torch.full((len(small),), label)).detach()


def flat_bundle() -> Bundle:
    """Every image is of one colour: any crop of it is known, whatever box was drawn."""
    colours = torch.rand(24, 3, 1, 1, generator=seeded(3))
    data = DictDataset(eight_bit(colours.expand(-1, -1, SIDE, SIDE).contiguous()), torch.arange(24) % CLASSES)
    return replace(bundle(), train=data)


@pytest.mark.parametrize("confidence", ["low", "high"])
def test_crops_are_ranked_by_confidence_and_stitched_row_by_row(confidence: str) -> None:
    options = {"factor": 2, "crops": 1, "keep": 1, "candidates": 8, "confidence": confidence, "refine": "off"}
    given = replace(order(**options, labels="onehot"), bundle=flat_bundle())
    small = condensed(given)
    assert small.inputs.shape == (2 * CLASSES, 3, SIDE, SIDE)
    assert small.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for label in range(CLASSES):
        crops, unlikely = crops_of(given, label)
        ranked = unlikely.argsort(descending=confidence == "low")
        for place in range(2):
            for k, (row, column) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):
                cell = small.inputs[2 * label + place, :, row : row + 8, column : column + 8]
                torch.testing.assert_close(cell, crops[ranked[k * 2 + place]])


def test_of_each_image_the_crops_highest_in_activation_are_ranked() -> None:
    """With one crop kept of many, the crop holds more of the object than crops do on average."""
    net = teacher()
    small = {
        crops: condensed(order(net, per_class=3, factor=2, crops=crops, keep=1, candidates=12, refine="off",
                               labels="onehot", share=[0.1, 0.2]))
        for crops in (1, 12)
    }  # fmt: skip
    colour = {
        crops: torch.stack([image[label].mean() for image, label in zip(found.inputs, found.labels.tolist())]).mean()
        for crops, found in small.items()
    }
    assert float(colour[12]) > float(colour[1]) + 0.02


def test_rded_takes_of_each_image_its_most_confident_crop() -> None:
    options = {"init": "rded", "factor": 2, "crops": 2, "candidates": 8, "refine": "off", "labels": "onehot"}
    given = replace(order(**options), bundle=flat_bundle())
    small = condensed(given)
    crops, unlikely = crops_of(given, 1)
    torch.testing.assert_close(small.inputs[2, :, :8, :8], crops[unlikely.argmin()])


def test_starts_without_crops() -> None:
    real = condensed(order(init="random-real", refine="off", labels="onehot"))
    images = bundle().train.inputs
    assert all(any(torch.equal(image, other) for other in images) for image in real.inputs)
    noise = condensed(order(init="noise", refine="off", labels="onehot")).inputs
    assert float(noise.mean()) == pytest.approx(float(images.mean()), abs=0.1)  # cut off where no pixel can be
    assert float(noise.std()) > 0.05
    assert torch.equal(noise, eight_bit(noise))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"factor": 2, "keep": 1, "per_class": 3}, "needs 12 crops of red, and 6 images give 6"),
        ({"init": "rded", "factor": 2}, r"init=rded\) needs 8 crops of red, and 6 images give 6"),
        ({"init": "random-real", "candidates": 1}, "needs 2 images of red, and 1 images give 1"),
        ({"per_class": 13}, "needs 13 crops of red, and 6 images give 12"),
        ({"factor": 17}, "more crops than an image has pixels"),
        ({"init": "CIDD"}, "init='CIDD' is unknown; did you mean 'cidd'"),
        ({"refine": "on"}, "refine='on' is unknown"),
        ({"labels": "hard"}, "labels='hard' is unknown"),
        ({"lr": 0.0}, "lr=0.0 must be above 0"),
        ({"keep": 0}, "keep=0 must be at least 1"),
        ({"statistics_weight": -1.0}, "statistics_weight=-1.0 must not be below 0"),
        ({"share": [0.5, 2.0]}, "two numbers above 0 and up to 1"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"schedule": "cosin"}, "schedule='cosin' is unknown; did you mean 'cosine'"),
        ({"clamp": "never"}, "clamp='never' is unknown"),
        ({"cam_scale": "minmax"}, "cam_scale='minmax' is unknown; did you mean 'min-max'"),
        ({"crop_shown": "whole"}, "crop_shown='whole' is unknown"),
        ({"label_view": "crop"}, "label_view='crop' is unknown"),
        ({"betas": [0.5, 1.0]}, "two numbers from 0 to below 1"),
        ({"betas": [0.9, 0.9], "optimizer": "sgd"}, "are Adam's; set optimizer=adam"),
        ({"first": -1.0}, "first=-1.0 must not be below 0"),
        ({"mix_beta": 0.0}, "mix_beta=0.0 must be above 0"),
        ({"tresholds": 1.0}, "did you mean 'threshold'"),
    ],
)  # fmt: skip
def test_an_order_that_cannot_be_filled_is_refused(options: dict[str, Any], says: str) -> None:
    per_class = options.pop("per_class", 2) if "per_class" in options else 2
    with pytest.raises(DistilError, match=says):
        condensed(order(per_class=per_class, **options))


def test_a_filter_that_leaves_too_few_crops_says_so() -> None:
    net = teacher()
    nn.init.zeros_(net.fc.weight)
    net.fc.bias.data.copy_(torch.tensor([0.0, 9.0, 0.0]))  # everything is green
    with pytest.raises(DistilError, match="there are 0 crops that the teacher gives to their class"):
        condensed(order(net, require_correct=True))


# ---- teachers


class Unpooled(nn.Module):
    """A head on the flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4 * SIDE * SIDE, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.body(inputs).flatten(1))


class Convolved(nn.Module):
    """A head that is a convolution before the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Conv2d(4, CLASSES, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.body(inputs)).mean((2, 3))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SmallCNN(3, CLASSES, widths=(4,), norm=False), "needs a teacher with BatchNorm2d layers"),
        (Unpooled, "which is not its average"),
        (Convolved, "whose head is one linear layer|has no last feature map or no head"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)), "needs a teacher with BatchNorm2d"),
    ],
)
def test_teachers_without_what_is_read_are_refused_first(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        condensed(order(make()))


def test_one_teacher_is_asked() -> None:
    with pytest.raises(DistilError, match="asks one teacher, and 2 were given"):
        condensed(replace(order(), teachers=(teacher(), teacher())))


@pytest.mark.parametrize("training", [False, True])
def test_the_teacher_is_left_as_it_was(training: bool) -> None:
    net = teacher().train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    condensed(order(net))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(part.training is training for part in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


# ---- what each switch does, and labels


def same(one: CondensedSet, other: CondensedSet) -> bool:
    return torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize(
    "changed",
    [
        *({"init": name} for name in ("rded", "random-real", "noise")),
        {"confidence": "high"},
        *({"refine": name} for name in ("critical-only", "all-pixels", "off")),
        {"statistics_weight": 0.0},
        *(
            {"optimizer": "sgd", "lr": 20.0},
            {"view": "crop"},
            {"crop_score": "share"},
            {"threshold": 0.8},
            {"crops": 2},
        ),
        {"share": [0.1, 0.2]},
        {"factor": 2},
        {"betas": [0.9, 0.999]},
        *({"schedule": name} for name in ("linear", "constant")),
        {"first": 10.0},
        {"cam_scale": "none"},
        {"cam_every": 2},
    ],
    ids=str,
)
def test_a_component_that_is_switched_changes_the_images(changed: Mapping[str, Any]) -> None:
    plain = {"steps": 6, "lr": 0.3, "labels": "onehot"}
    first, again = condensed(order(**plain)), condensed(order(**plain))
    assert same(first, again)
    assert not same(first, condensed(order(**{**plain, **changed})))


def test_components_of_the_card_are_options() -> None:
    """Each guess is named and can be set: those that are no arguments of the labels' loss are these options."""
    named = {{"statistics": "statistics_weight"}.get(name, name) for name in catalog.card("nrr-dd").components}
    assert named <= {each.name for each in fields(Options)}


def test_at_its_defaults_refining_is_adam_with_a_cosine_cut_off_after_each_step() -> None:
    """The loop written out, bit for bit: what the options hold at their defaults is what was done before they were."""
    images, labels = start()
    seen, steps = look(), 7
    given, space = order(seen.teacher), pixel_space(order())
    how = Synthesis(steps=steps, rate=0.3, statistics=1.0, first=1.0)
    (network,) = judges(given, [seen.teacher], space, how)
    column = torch.tensor([0, 2, 4, 1, 3, 5])  # one image of each class after another
    features = seen._seen(images[column])["map"]
    found = torch.einsum("bk,bkhw->bhw", seen.head.weight[labels[column]], features).relu().detach()[:, None]
    found = nn.functional.interpolate(found, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    low, high = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(high))  # a class that is nowhere: zeros
    mask = (0.5 - (found - low) / span).clamp(min=0)[:, None]
    pixels = space.normalised(images[column]).requires_grad_()
    adam = torch.optim.Adam([pixels], betas=(0.5, 0.9))
    for step, roll in enumerate(draw_rolls(steps, jitter=4, generator=generator_for(given, "nrr-dd", "views"))):
        adam.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * step / steps)) * 0.3
        loss = synthesis_loss(network, rolled(pixels, roll), labels[column], how).total
        (pixels.grad,) = torch.autograd.grad(loss, pixels)
        before = pixels.detach().clone()
        adam.step()
        with torch.no_grad():
            after = (before + mask * (pixels - before)).maximum(space.low).minimum(space.high)
            pixels.copy_(torch.where(mask == 0, before, after))
    expected = images.clone()
    expected[column] = eight_bit(space.raw(pixels.detach()))
    assert torch.equal(refined(images, labels, seen, Options(steps=steps, lr=0.3)), expected)


def test_pixels_left_out_of_range_until_the_end_move_otherwise() -> None:
    images, labels = start()
    each, once = (refined(images, labels, look(), Options(steps=6, lr=3.0, clamp=name)) for name in ("step", "end"))
    assert 0 <= float(once.min()) <= float(once.max()) <= 1
    assert not torch.equal(each, once)


def test_a_map_is_scaled_as_it_is_asked() -> None:
    images, labels = start()
    raw, highest, both = (
        Look(teacher(), ClassificationTask(), images[:2], scale=name).maps(images, labels)
        for name in ("none", "max", "min-max")
    )
    there = raw.amax((1, 2)) > 0
    assert bool(there.any())
    assert torch.equal(highest[~there], torch.zeros_like(highest[~there]))
    raw, highest, both = raw[there], highest[there], both[there]
    torch.testing.assert_close(highest, raw / raw.amax((1, 2), keepdim=True))
    low = highest.amin((1, 2), keepdim=True)
    torch.testing.assert_close(both, (highest - low) / (1 - low))
    assert float(raw.max()) != pytest.approx(1.0)


def test_a_crop_is_ranked_by_how_it_is_shown() -> None:
    """Of images of one colour a crop that fills the image is the image, and one in a frame is another thing."""
    plain = {"factor": 2, "crops": 1, "keep": 1, "candidates": 8, "refine": "off", "labels": "onehot"}
    given = replace(order(**plain, crop_shown="resized"), bundle=flat_bundle())
    small = condensed(given)
    for label in range(CLASSES):
        whole = given.inputs(given.real(label))
        unlikely = label_cross_entropy(teacher()(whole).detach(), torch.full((len(whole),), label))
        torch.testing.assert_close(small.inputs[2 * label, :, :8, :8], whole[unlikely.argmax()][:, :8, :8])


@pytest.mark.parametrize(
    ("changed", "recorded"),
    [({}, ("pad", 1.0)), ({"factor": 2}, ("resized", 1.0)), ({"label_view": "none", "mix_beta": 0.4}, ("none", 0.4))],
)
def test_views_that_are_labelled_are_those_asked_for(changed: dict[str, Any], recorded: tuple[str, float]) -> None:
    shown = condensed(order(**changed)).record["augmentation"]
    assert (shown["crop"], shown["alpha"]) == recorded


def test_the_same_images_under_three_labels_and_their_bytes() -> None:
    found = {kind: condensed(order(labels=kind)) for kind in ("two-numbers", "soft", "onehot")}
    assert same(found["soft"], found["onehot"])
    assert same(found["soft"], found["two-numbers"])
    count, classes = 2 * CLASSES, count_of_classes()
    for kind, small in found.items():
        expected = label_bytes(kind, images=count, epochs=2, classes=classes)
        assert small.storage()["labels"] == count + expected  # the class of each image takes a byte
    assert found["two-numbers"].replay["distances"].shape == (2, count, 2)
    assert found["two-numbers"].replay["distances"].dtype == torch.float16


def count_of_classes() -> int:
    return len(bundle().classes)


def test_a_student_needs_the_two_numbers_alone() -> None:
    """Trained on the stored set without a teacher: the loss falls."""
    small = condense(order(epochs=10), "nrr-dd")
    assert small.made["method"] == "nrr-dd"
    student = SmallCNN(3, CLASSES, widths=(4, 8))
    history = train_on(small, student, StudentTraining(updates=40, lr=0.02, checks=4)).history
    assert history[-1]["loss"] < history[0]["loss"]


def test_stored_distances_teach_what_a_live_teacher_does() -> None:
    images, labels = start()
    net, student = teacher(), SmallCNN(3, CLASSES, widths=(4, 8)).eval()
    batch = {"inputs": images, "labels": labels, "partner_labels": labels.flip(0), "share": torch.full((6,), 0.7)}
    stored = {**batch, "distances": label_distances(net(images).detach(), labels, labels.flip(0))}
    for target in ("mix", "reconstructed"):
        live, told = (
            Distiller(student, who, published(sce_target=target), example=given).eval()(given)
            for who, given in ((net, batch), (None, stored))
        )
        for name, value in live.terms.items():
            torch.testing.assert_close(value, told.terms[name])


@pytest.mark.parametrize("mixing", ["cutmix", "mixup"])
def test_mixing_is_drawn_anew_each_step_and_a_measured_loss_is_of_whole_images(mixing: str) -> None:
    images, labels = start()
    mixer, batch, ctx = MixedLabels(mixing=mixing), {"inputs": images, "labels": labels}, Context()
    drawn = []
    for step in (0, 1, 1):
        ctx.step = step
        ctx.reseed("transform", 0, lambda: 0)
        drawn.append(mixer.transform(batch, None, None, ctx))
    first, second, again = drawn
    assert torch.equal(second["inputs"], again["inputs"])
    assert not torch.equal(first["inputs"], second["inputs"])
    order = [int(k) for k in second["partner_labels"]]
    assert sorted(order) == sorted(labels.tolist())
    share = second["share"]
    assert share.shape == (6,)
    assert 0 <= float(share.min()) <= float(share.max()) <= 1
    if mixing == "cutmix":  # the share is that of the pixels that are an image's own
        kept = (second["inputs"] == images).all(1).float().mean((1, 2))
        assert bool((kept >= share - 1e-6).all())
    assert mixer.eval().transform(batch, None, None, ctx) is batch
    assert mixer.train().transform({**batch, "share": share}, None, None, ctx)["inputs"] is images


def test_inputs_that_are_no_images_are_mixed_up_at_most() -> None:
    batch = {"inputs": torch.zeros(4, 6), "labels": torch.zeros(4).long()}
    made = Distiller(nn.Linear(6, 3), nn.Linear(6, 3), published(), example=batch, epochs=2)
    with pytest.raises(DistilError, match="give mixing='mixup' or 'none'"):
        made(batch)


def test_masks_of_a_class_that_is_nowhere_are_finite() -> None:
    """A classifier that finds a class nowhere gives a map of zeros: every pixel may move, equally far."""
    net = teacher()
    net.fc.weight.data[1] = -1.0
    images, labels = start()
    maps = look(net).maps(images, torch.ones_like(labels))
    assert torch.equal(maps, torch.zeros_like(maps))
    assert bool((soft_mask(maps) == 0.5).all())
