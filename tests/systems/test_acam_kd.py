"""What the sheet of ACAM-KD says a test must show, on the method itself (the maths is tested in functional/)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.engine.distiller import Distiller
from distil.engine.method import Sum
from distil.errors import DistilError
from distil.functional import masked_mse
from distil.methods import Supervised
from distil.systems.acam_kd import ACAMKD, published
from distil.systems.acam_kd.drift import Drift
from distil.systems.acam_kd.method import Level

from .toys import CLASSES, scene_distiller, scenes, train, unet

TAPS = ["logits", "map"]


def level(student: int = 3, teacher: int = 4, units: int = 3, seed: int = 0, **options: Any) -> Level:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Level(student, teacher, units, **options)


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def acam(distiller: Distiller) -> ACAMKD:
    found = next(c.method for c in distiller.method if isinstance(c.method, ACAMKD))
    return found


def terms(distiller: Distiller) -> dict[str, Tensor]:
    """Each term's live, unreduced sum."""
    student, teacher = distiller.cast.handles()
    found = acam(distiller)(student, teacher, scenes(), distiller.ctx)
    distiller.cast.forget()
    return {key: term.values.sum() for key, term in found.items()}


def reached(loss: Tensor, module: nn.Module) -> set[str]:
    """The parameters that get a gradient other than zero."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    return {name for (name, _), g in zip(named, grads, strict=True) if g is not None and g.abs().sum() > 0}


def test_shapes_and_ranges_of_masks_at_every_level() -> None:
    made = scene_distiller(published(taps=TAPS, units=0))
    student, teacher = made.cast.handles()
    batch = scenes()
    seen = list(acam(made).levels_of(student(batch), teacher(batch)))
    counts, widths = [CLASSES, 6], [CLASSES, 4]  # as many units as classes on scores, six elsewhere
    for (_, ours, theirs, masks), units, width in zip(seen, counts, widths, strict=True):
        size = ours.shape[2:]
        assert ours.shape == theirs.shape == (len(batch["inputs"]), width, *size)
        assert masks["channel"].shape == (len(batch["inputs"]), units, width)
        assert masks["spatial"].shape == (len(batch["inputs"]), units, *size)
        assert all(((m > 0) & (m < 1)).all() for m in masks.values())
        assert all((m - 0.5).abs().max() < 0.2 for m in masks.values())  # fresh units
    ids = [{id(p) for p in one.parameters()} for one, *_ in seen]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("query", ["teacher", "student"])
def test_the_one_who_asks_mixes_the_values_of_the_other(query: str) -> None:
    """Where the answering map is constant, so is the fused one, whatever is asked."""
    made, flat, rough = level(4, query=query), maps(2, 4, 1, 1).expand(2, 4, 5, 6), maps(2, 4, 5, 6, seed=1)
    pair = (flat, rough) if query == "teacher" else (rough, flat)
    fused = made.fuse(*pair)
    torch.testing.assert_close(fused, made.value(flat))
    assert not torch.allclose(made.fuse(*reversed(pair)), made.value(flat))


@pytest.mark.parametrize(
    ("fusion", "moves"),
    [("stca", {"s", "t"}), ("concat", {"s", "t"}), ("teacher_only", {"t"}), ("student_only", {"s"})],
)
def test_what_the_masks_are_made_from(fusion: str, moves: set[str]) -> None:
    made = level(4, fusion=fusion)
    s, t = maps(2, 4, 5, 6).requires_grad_(), maps(2, 4, 5, 6, seed=1).requires_grad_()
    whole = torch.stack([m.sum() for m in made.masks(s, t).values()]).sum()
    grads = torch.autograd.grad(whole, (s, t), allow_unused=True)
    assert {name for name, g in zip("st", grads, strict=True) if g is not None} == moves


def test_positions_may_be_shuffled_in_both_maps_together() -> None:
    made, order = level(4), torch.randperm(30, generator=torch.Generator().manual_seed(0))
    s, t = maps(2, 4, 5, 6), maps(2, 4, 5, 6, seed=1)
    shuffled = [m.flatten(2)[:, :, order].unflatten(2, (5, 6)) for m in (s, t)]
    plain, moved = made.masks(s, t), made.masks(*shuffled)
    torch.testing.assert_close(moved["channel"], plain["channel"])
    torch.testing.assert_close(moved["spatial"].flatten(2), plain["spatial"].flatten(2)[:, :, order])
    for kind in ("channel", "spatial"):
        torch.testing.assert_close(masked_mse(*shuffled, moved[kind]), masked_mse(s, t, plain[kind]))


def test_imitation_reaches_everything_that_trains_and_never_the_teacher() -> None:
    made = scene_distiller(published(taps=TAPS))
    values = terms(made)
    own = {name for name, p in acam(made).named_parameters() if p.requires_grad}
    # A softmax over keys does not notice a constant added to all keys' scores: the key's bias never matters.
    still = {name for name in own if name.endswith("key.bias")}
    assert reached(values["channel"] + values["spatial"] + values["diversity"], acam(made)) - still == own - still
    assert {name.split(".", 2)[2].partition(".")[0] for name in own} == {"align", "ask", "key", "value", "units"}
    for value in values.values():
        assert reached(value, made.student)
    assert all(not p.requires_grad and p.grad is None for p in made.teachers["model"].parameters())


@pytest.mark.parametrize("kind", ["channel", "spatial"])
def test_the_detaching_switches_do_what_they_say(kind: str) -> None:
    # Mask gradients cut: the error reaches alignment and student, and neither fusion nor units.
    made = scene_distiller(published(detach_masks=True, taps="map"))
    values = terms(made)
    assert {name.split(".")[2] for name in reached(values[kind], acam(made))} == {"align"}
    assert reached(values[kind], made.student)
    assert {"units", "value"} <= {name.split(".")[2] for name in reached(values["diversity"], acam(made))}
    # The student's part cut: units and fusion learn from both, diversity leaves the student alone.
    made = scene_distiller(published(detach_mask_student=True, taps="map"))
    values = terms(made)
    assert {"units", "value", "ask", "align"} <= {name.split(".")[2] for name in reached(values[kind], acam(made))}
    assert reached(values[kind], made.student)
    assert not reached(values["diversity"], made.student)
    assert "align" not in {name.split(".")[2] for name in reached(values["diversity"], acam(made))}


def test_the_students_gradient_differs_by_the_path_through_the_masks_alone() -> None:
    slopes = []
    for cut in (False, True):
        made = scene_distiller(published(detach_mask_student=cut))
        value = terms(made)["spatial"]
        slopes.append((value.detach(), torch.autograd.grad(value, list(made.student.parameters()))))
    assert torch.equal(slopes[0][0], slopes[1][0])
    assert any(not torch.allclose(a, b) for a, b in zip(slopes[0][1], slopes[1][1], strict=True))


def test_imitation_is_zero_exactly_where_the_aligned_maps_agree() -> None:
    teacher = unet(3, 1)
    same = Distiller(copy.deepcopy(teacher), teacher, published(taps=TAPS), task="segmentation", example=scenes())
    values = terms(same.prepare([scenes()]).eval())
    assert values["channel"] == 0
    assert values["spatial"] == 0
    assert values["diversity"] > 0
    other = terms(scene_distiller(published(taps=TAPS)))
    assert other["channel"] > 0
    assert other["spatial"] > 0


def test_the_total_is_the_task_and_the_weighted_terms_summed_over_levels() -> None:
    whole = terms(scene_distiller(published(taps=TAPS)))
    alone = [terms(scene_distiller(published(taps=tap))) for tap in ("logits", "map")]
    heavy = terms(scene_distiller(published(taps="logits", alpha=3.0, lam=0.25)))
    for key in ("channel", "spatial"):
        torch.testing.assert_close(heavy[key], 3 * alone[0][key])
    torch.testing.assert_close(heavy["diversity"], alone[0]["diversity"] / 4)
    assert len(whole) == 3
    step = scene_distiller(published(alpha=2.0, lam=0.5))(scenes())
    torch.testing.assert_close(step.loss, torch.stack(list(step.terms.values())).sum())
    assert set(step.terms) == {"supervised", "acamkd.channel", "acamkd.spatial", "acamkd.diversity"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"channel": False}, {"spatial", "diversity"}),
        ({"spatial": False}, {"channel", "diversity"}),
        ({"diversity": "off"}, {"channel", "spatial"}),
        ({"adaptive": False}, {"channel", "spatial"}),
    ],
)
def test_a_part_that_is_off_makes_no_term(options: dict[str, Any], expected: set[str]) -> None:
    assert set(terms(scene_distiller(published(**options)))) == expected


def test_fixed_masks_are_learned_on_the_teacher_and_stay() -> None:
    """The units leave their start in `prepare`, get no gradient afterwards, and read the teacher alone."""
    teacher = unet(4, 1)
    fresh = Distiller(unet(2), teacher, published(adaptive=False), task="segmentation", example=scenes())
    before = copy.deepcopy(acam(fresh).state_dict())
    fresh.prepare([scenes()])
    after = copy.deepcopy(acam(fresh).state_dict())
    assert all(not torch.equal(before[name], after[name]) for name in before if "tokens" in name)
    student, _ = fresh.cast.handles()
    assert student.task.name == "segmentation"
    train(fresh, scenes())
    assert all(torch.equal(after[name], acam(fresh).state_dict()[name]) for name in after if "tokens" in name)
    assert not [name for name, _ in acam(fresh).named_parameters() if "ask" in name or "mix" in name]
    assert all(p.grad is None for p in teacher.parameters())


def test_inheriting_copies_what_fits_once() -> None:
    made = scene_distiller(published(inherit=True))
    head, theirs = made.student.head, made.teachers["model"].head
    drawn = head.weight.detach().clone()
    assert not torch.equal(head.bias, theirs.bias)
    optimizer = made.watch(torch.optim.SGD(made.parameters(), lr=0.05))
    for number in range(2):
        step = made(scenes())
        if number == 0:
            assert torch.equal(head.bias, theirs.bias)
        step.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(head.bias, theirs.bias)  # it went on learning
    assert head.weight.shape != theirs.weight.shape  # which therefore stayed its own
    assert drawn.shape == head.weight.shape
    wide = Distiller(unet(4), unet(4, 1), published(inherit=True), task="segmentation", example=scenes())
    wide.prepare([scenes()]).watch(torch.optim.SGD(wide.parameters(), lr=0.0))
    wide(scenes())
    assert torch.equal(wide.student.head.weight, wide.teachers["model"].head.weight)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 3, 2), (2, 5, 1, 1)])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_smallest_maps_are_finite(shape: tuple[int, ...], autocast: bool) -> None:
    """One channel (one query channel), one position, one sample; in bf16 too."""

    class Map(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.head = nn.Conv2d(shape[1], shape[1], 1)
            nn.init.constant_(self.head.weight, 0.1 * seed)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(inputs)

    batch = {"inputs": maps(*shape), "labels": torch.zeros(shape[0], *shape[2:], dtype=torch.long)}
    made = Distiller(Map(1), Map(2), published(units=1), task="segmentation", example=batch).prepare([batch])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        step = made(batch)
    step.loss.backward()
    assert step.loss.isfinite()
    assert step.terms["acamkd.diversity"] == 0  # a single unit
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)


def test_nothing_of_the_masks_ships() -> None:
    made = scene_distiller(published(taps=TAPS))
    train(made, scenes())
    assert made.deployed() is made.student
    assert {type(m).__name__ for m in made.deployed().modules()}.isdisjoint({"Level", "MaskTokens", "Align"})
    assert [name for name, _ in made.deployed().named_parameters()] == [n for n, _ in unet(2).named_parameters()]


def test_masks_move_and_diversity_keeps_them_apart() -> None:
    """Adam, 40 steps: masks of the same images change, and units agree less where the Dice term asks them to."""
    figures = {}
    for lam in (0.0, 20.0):
        made = scene_distiller(published(taps="map", lam=lam))
        optimizer = made.watch(torch.optim.Adam(made.parameters(), lr=0.03))
        drift = Drift([scenes()], updates=1)
        for number in range(40):
            made(scenes()).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            drift.watch(made, number + 1, 40)
        figures[lam] = drift(made)
        assert figures[lam]["mask movement"] > 0.01
    assert figures[20.0]["pairwise Dice"] < figures[0.0]["pairwise Dice"] - 0.01


def test_drift_needs_to_have_watched() -> None:
    with pytest.raises(DistilError, match=r"pass drift\.watch to the run"):
        Drift([scenes()], updates=1)(scene_distiller(published()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fusion": "stac"}, "did you mean 'stca'"),
        ({"query": "techer"}, "did you mean 'teacher'"),
        ({"diversity": "median"}, r"acamkd\(diversity='median'\) is unknown"),
        ({"normalizer": "some"}, r"acamkd\(normalizer='some'\) is unknown"),
        ({"spatial": False, "channel": False}, "leaves no masks"),
        ({"stride": 0}, "stride=0"),
        ({"taps": []}, "names nothing to compare"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        ACAMKD(**options)


def test_levels_are_named_one_by_one() -> None:
    with pytest.raises(DistilError, match="name each by itself"):
        scene_distiller(Supervised() + ACAMKD(taps="stages"))


def test_published_is_the_whole_sum() -> None:
    made: Sum = published()
    assert made.expression == "supervised + " + made.components[1].method.expression
    assert [component.name for component in made] == ["supervised", "acamkd"]
