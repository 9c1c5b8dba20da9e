"""INFER: its budget, what is shared, the labels, and each component of its card switched."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil import catalog
from distil.data.augmented import AugmentedBatch
from distil.data.condensed import CondensedSet
from distil.errors import DistilError
from distil.functional import Mix, eight_bit, kl, mixed
from distil.loops.condense import condense
from distil.loops.condense_pixels import pixel_space
from distil.loops.labelling import target_of
from distil.loops.order import Order
from distil.systems.infer import Infer, naturals_only, share_of_budget

from .squares import CLASSES, bundle, named, teachers, trained

QUICK: dict[str, Any] = {"steps": 3, "jitter": 2}


def order(per_class: int = 5, *, seed: int = 0, nets: tuple[nn.Module, ...] | None = None, **options: Any) -> Order:
    return Order(bundle(), per_class, seed, teachers() if nets is None else nets, options={**QUICK, **options})


def made(per_class: int = 5, **options: Any) -> CondensedSet:
    return condense(order(per_class, **options), "infer")


@pytest.mark.parametrize("classes", [3, 10, 100])
@pytest.mark.parametrize("networks", [1, 2, 4, 9])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_budget_is_never_exceeded_and_never_wasted(classes: int, networks: int, copies: int) -> None:
    for per_class in range(60):
        natural = share_of_budget(per_class, networks=networks, classes=classes, copies=copies)
        taken = natural * (classes + networks * copies)
        assert taken <= per_class * classes < taken + classes + networks * copies


def test_the_set_takes_no_more_room_than_was_asked() -> None:
    small = made(5)
    natural = share_of_budget(5, networks=2, classes=CLASSES)
    assert natural == 3
    assert len(small) == CLASSES * natural * 3
    assert small.labels.bincount().tolist() == [natural * 3] * CLASSES
    assert small.compensators is not None
    assert len(small.inputs) + len(small.compensators) <= 5 * CLASSES
    assert small.storage()["images"] == (CLASSES * natural + 2 * natural) * 3 * 8 * 8


def test_a_budget_without_a_real_image_is_refused() -> None:
    with pytest.raises(DistilError, match=r"--per-class 1 leaves no room .* = 0; ask for at least 2"):
        made(1)
    assert len(made(2).inputs) == CLASSES


def test_one_additive_image_is_shared_by_all_classes() -> None:
    small = made(5)
    assert small.pairs is not None
    assert small.compensators is not None
    assert small.compensators.shape == (6, 3, 8, 8)
    for which in range(6):
        rows = (small.pairs[:, 1] == which).nonzero().flatten()
        assert small.labels[rows].tolist() == list(range(CLASSES))  # every class, by its own real image
        sums, real = small.samples(rows), small.inputs[small.pairs[rows, 0]]
        inside = (sums > 0) & (sums < 1)
        shared = small.compensators[which].expand_as(sums)
        assert inside.float().mean() > 0.2
        torch.testing.assert_close((sums - real)[inside], shared[inside], rtol=0, atol=1e-6)


def test_real_images_are_real_and_no_steps_leave_only_them() -> None:
    small = made(5, steps=0)
    assert small.compensators is not None
    assert small.ids is not None
    assert not small.compensators.any()
    real = {int(i): image for i, image in zip(bundle().train.ids, bundle().train.inputs)}
    count = len(small.inputs)
    for k, (index, image) in enumerate(zip(small.ids.tolist(), small.samples())):
        assert (index >= 0) == (k < count)
        if index >= 0:
            assert torch.equal(image, eight_bit(real[index]))
    assert torch.equal(small.samples()[:count], small.samples()[count : 2 * count])
    assert len(set(small.ids[:count].tolist())) == count


def test_teachers_are_unchanged() -> None:
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in teachers()]
    made(2)
    for net, kept in zip(teachers(), before):
        assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
        assert all(p.requires_grad for p in net.parameters())


def test_four_networks_of_unlike_build_each_have_additive_images_and_label_together() -> None:
    specs = ("resnet(depth=8, widths=(4, 6, 8))", "wrn10_1", "shufflenet(width=0.25)")
    nets = (trained((6, 8), seed=0), *(named(f"distil:{spec}") for spec in specs))
    before = [{name: value.clone() for name, value in net.state_dict().items()} for net in nets]
    small = condense(order(5, nets=nets), "infer")
    assert (share_of_budget(5, networks=4, classes=CLASSES), len(small)) == (2, CLASSES * 2 * 5)
    assert small.compensators is not None
    own = small.compensators.flatten(1).unflatten(0, (4, 2))
    assert bool((own.abs().amax(2) > 0).all())
    away = torch.cdist(own[:, 0], own[:, 0])
    assert bool((away[~torch.eye(4, dtype=torch.bool)] > 0.1).all())  # each network asks for images of its own
    said = torch.stack([net(small.samples()) for net in nets]).mean(0)
    torch.testing.assert_close(small.logits, said, rtol=1e-4, atol=1e-4)
    for net, kept in zip(nets, before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())


def test_static_labels_are_the_mean_of_logits_asked_once_for_each_image() -> None:
    asked = [0, 0]
    hooks = [
        net.register_forward_hook(lambda m, a, o, k=k: asked.__setitem__(k, asked[k] + len(o)))
        for k, net in enumerate(teachers())
    ]
    try:
        free = condense(order(5, labels="hard"), "infer")
        before = list(asked)
        asked[:] = [0, 0]
        small = condense(order(5), "infer")
        assert [now - then for now, then in zip(asked, before)] == [len(small)] * 2
        asked[:] = [0, 0]
        dynamic = condense(order(5, labels="dynamic"), "infer")
        assert asked == before
        target = target_of(dynamic, teachers=teachers())
        rows = torch.arange(4)
        for step in range(1, 4):
            target(torch.zeros(4, CLASSES), AugmentedBatch(dynamic.samples(rows), rows, rows, 1.0, slice(0, 4)), 0)
            assert [now - then for now, then in zip(asked, before)] == [4 * step] * 2
    finally:
        for hook in hooks:
            hook.remove()
    assert small.logits is not None
    assert free.logits is None
    assert dynamic.logits is None
    said = torch.stack([net(small.samples()) for net in teachers()]).mean(0)
    torch.testing.assert_close(small.logits, said, rtol=1e-4, atol=1e-4)


def test_labels_are_interpolated_as_logits_and_the_divergence_is_at_rest_where_it_should_be() -> None:
    small = made(5)
    assert small.logits is not None
    target, rows, others = target_of(small), torch.arange(4), torch.arange(4, 8)

    def batch(share: float) -> AugmentedBatch:
        return AugmentedBatch(small.samples(rows), rows, others, share, slice(0, 4))

    assert target(small.logits[rows], batch(1.0), 0).abs().max() < 1e-6  # λ = 1: the stored logits themselves
    mix = Mix(torch.arange(8), torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]), torch.full((8,), 0.3))
    said = torch.stack([0.3 * small.logits[i] + 0.7 * small.logits[j] for i, j in zip(rows, others)])
    torch.testing.assert_close(mixed(small.logits[:8], mix)[:4], said)
    assert target(said, batch(0.3), 0).abs().max() < 1e-6
    wrong = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(0))
    found = target(wrong, batch(0.3), 0)
    torch.testing.assert_close(found, kl(wrong, said, temperature=30.0, scale="none", reduction="none"))
    torch.testing.assert_close(target(wrong + 7.0, batch(0.3), 0), found, rtol=1e-3, atol=1e-6)
    for temperature in (0.5, 4.0, 30.0):
        assert kl(said + 3.0, said, temperature=temperature, scale="none").abs() < 1e-6


def test_a_seed_makes_the_same_set_whatever_torch_draws() -> None:
    torch.manual_seed(1)
    one = made(2)
    torch.manual_seed(2)
    assert made(2).fingerprint == one.fingerprint
    assert condense(order(2, seed=1), "infer").fingerprint != one.fingerprint


def test_classes_that_do_not_fill_a_batch_have_their_own_additive_image() -> None:
    small = made(5, batch=2)  # 2 + 2 + 1 classes
    natural = share_of_budget(5, networks=2, classes=CLASSES, copies=3)
    assert small.compensators is not None
    assert small.pairs is not None
    assert natural == 2
    assert len(small.compensators) == 2 * natural * 3
    of = {int(k): set() for k in range(len(small.compensators))}
    for (_, which), label in zip(small.pairs.tolist(), small.labels.tolist()):
        if which >= 0:
            of[which].add(label)
    assert list(of.values())[:3] == [{0, 1}, {2, 3}, {4}]


def test_an_additive_image_for_each_class_costs_as_much_room_as_it_takes() -> None:
    small = made(6, shared=False)
    assert small.compensators is not None
    assert share_of_budget(6, networks=2, classes=CLASSES, copies=CLASSES) == 2
    assert len(small.inputs) == 2 * CLASSES
    assert len(small.compensators) == 2 * 2 * CLASSES
    assert len(small.inputs) + len(small.compensators) <= 6 * CLASSES
    on_top = made(2, shared=False, budget="images")
    assert len(on_top.inputs) == 2 * CLASSES


def test_the_published_end_is_one_step_before_the_last() -> None:
    last, published = made(2), made(2, final="published")
    assert torch.equal(last.inputs, published.inputs)
    assert not torch.equal(last.compensators, published.compensators)
    one = made(2, steps=1, final="published")
    assert not one.compensators.any()


def test_without_its_additive_images_a_set_is_real_and_labelled_as_before() -> None:
    small = made(5)
    real = naturals_only(small)
    assert len(real) == 3 * CLASSES
    assert torch.equal(real.samples(), small.inputs)
    assert torch.equal(real.logits, small.logits[: len(real)])
    assert real.record == small.record
    assert naturals_only(real) is real


def test_additive_images_lower_the_loss_of_the_network_they_are_made_for() -> None:
    from distil.loops.synthesis import Observed, Synthesis, synthesis_loss

    small, space = made(5, steps=60, rate=0.1, jitter=0), pixel_space(order())
    how, net = Synthesis(), Observed(teachers()[0], pixels=pixel_space(order()))
    start, end = (
        synthesis_loss(net, space.normalised(small.samples(rows)), small.labels[rows], how).total
        for rows in (torch.arange(CLASSES), torch.arange(3 * CLASSES, 4 * CLASSES))
    )
    assert end < 0.8 * start


def test_networks_without_batch_norm_are_refused_unless_statistics_weigh_nothing() -> None:
    nets = (teachers()[0], trained((8, 8), seed=3, norm=False))
    with pytest.raises(DistilError, match=r"teacher 2 \(SmallCNN\) has no BatchNorm2d.*statistics=0"):
        condense(order(5, nets=nets), "infer")
    assert len(condense(order(5, nets=nets, statistics=0.0), "infer")) == 45
    assert len(condense(order(5, nets=nets, networks=(0,)), "infer").compensators) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"networks": (0, 2)}, "name some of the 2 teachers"),
        ({"networks": ()}, "compensator=false"),
        ({"final": "first"}, "final='first'"),
        ({"budget": "bytes"}, "budget='bytes'"),
        ({"labels": "softly"}, "softly"),
        ({"batch": 0}, "batch=0"),
        ({"temprature": 1.0}, "temperature"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        made(5, **options)


def test_a_class_with_too_few_images_is_named() -> None:
    with pytest.raises(DistilError, match="takes 14 training samples of every class, and a has 12"):
        made(20)


# What flips each component of the card.
FLIPS: dict[str, list[dict[str, Any]]] = {
    "compensator": [{"compensator": False}],
    "shared": [{"shared": False, "budget": "images"}],
    "statistics": [{"statistics": 0.0}, {"first": 1.0}, {"skip": (0,)}],
    "jitter": [{"jitter": 0}],
    "labels": [{"labels": "dynamic"}, {"labels": "hard"}],
    "networks": [{"networks": (1,)}],
    "budget": [{"budget": "images"}],
    "final": [{"final": "published"}],
    "batch": [{"batch": 3, "budget": "images"}],
}


def test_every_component_of_the_card_is_an_option_and_is_flipped() -> None:
    assert set(FLIPS) == set(catalog.card("infer").components)
    assert set(FLIPS) <= {each.name for each in fields(Infer)}


@pytest.mark.parametrize(("key", "changed"), [(key, one) for key, flips in FLIPS.items() for one in flips])
def test_a_flipped_component_changes_the_set(key: str, changed: dict[str, Any]) -> None:
    same = {"budget": changed["budget"]} if "budget" in changed and key != "budget" else {}
    assert key in changed or key == "statistics"
    assert made(2, **changed).fingerprint != made(2, **same).fingerprint


def test_a_set_is_kept_in_its_compact_form(tmp_path: Any) -> None:
    from distil.data.condensed import load_condensed

    small = made(5)
    small.save(tmp_path / "set")
    back = load_condensed(tmp_path / "set")
    assert len(back) == len(small)
    assert torch.equal(back.pairs, small.pairs)
    far: Tensor = (back.samples() - small.samples()).abs()
    assert far.max() <= 1.5 / 255 * max(1.0, float(small.compensators.max() - small.compensators.min()))


def test_crops_and_bf16_run() -> None:
    assert made(2, crops=True).fingerprint != made(2).fingerprint
    assert torch.isfinite(made(2, precision="bf16").compensators).all()
    assert replace(Infer(), steps=0).synthesis.steps == 0


def test_the_labels_divergence_has_the_gradient_of_its_definition() -> None:
    """(softmax(z/T) - softmax(l/T)) / (T B), in float64; the golden case holds the value only."""
    generator = torch.Generator().manual_seed(0)
    z, soft = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    z.requires_grad_()
    kl(z, soft, temperature=30.0, scale="none").backward()
    expected = ((z.detach() / 30).softmax(1) - (soft / 30).softmax(1)) / (30 * 5)
    torch.testing.assert_close(z.grad, expected, rtol=1e-10, atol=1e-14)
