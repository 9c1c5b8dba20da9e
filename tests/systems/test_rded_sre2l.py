"""SRe2L and RDED as makers of small sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distil.data import DictDataset
from distil.data.condensed import load_condensed
from distil.errors import DistilError
from distil.functional import eight_bit, label_cross_entropy
from distil.loops import condense_rded, condense_sre2l
from distil.loops.condense import condense
from distil.loops.condense_pixels import chunks_of, pixel_space
from distil.loops.labelling import Labelling
from distil.loops.order import Order
from distil.loops.synthesis import synthesise

from .squares import CLASSES, bundle, teachers


def order(per_class: int = 2, *, seed: int = 0, **options: Any) -> Order:
    return Order(bundle(), per_class, seed, teachers()[:1], options=options)


def test_sre2l_images_are_pixels_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, space = list[Tensor](), pixel_space(order())

    def watched(*args: Any, **options: Any) -> Any:
        steps = range(1, args[3].steps + 1)
        rolls = torch.zeros(args[3].steps, 2, dtype=torch.int64)
        for count in steps:  # a shorter run stops at that step of the longer one, but for its rates
            short = synthesise(*args[:3], replace(args[3], steps=count), **options, rolls=rolls[:count])
            seen.append(short.pixels)
        return synthesise(*args, **options)

    monkeypatch.setattr(condense_sre2l, "synthesise", watched)
    small = condense(order(1, steps=3, rate=1.0, labels="hard"), "sre2l")
    assert seen
    for pixels in seen:
        raw = space.raw(pixels)
        assert raw.min() >= -1e-6
        assert raw.max() <= 1 + 1e-6
    assert small.inputs.min() == 0
    assert small.inputs.max() == 1


def test_sre2l_makes_as_many_as_asked_and_its_network_sees_their_classes() -> None:
    small = condense(order(3, steps=80, rate=0.2, statistics=0.01, labels="static"), "sre2l")
    assert small.labels.tolist() == [k for k in range(CLASSES) for _ in range(3)]
    assert (teachers()[0](small.inputs).argmax(1) == small.labels).float().mean() > 0.9
    noise = condense(order(3, steps=0, labels="hard"), "sre2l")
    assert (
        label_cross_entropy(teachers()[0](noise.inputs), noise.labels).mean()
        > label_cross_entropy(teachers()[0](small.inputs), small.labels).mean()
    )
    assert small.kind == "static"
    assert not any(m._forward_pre_hooks for m in teachers()[0].modules())


def test_sre2l_is_its_seeds_and_batches_classes() -> None:
    one = condense(order(2, steps=2, labels="hard"), "sre2l")
    assert condense(order(2, steps=2, labels="hard"), "sre2l").fingerprint == one.fingerprint
    assert condense(order(2, seed=1, steps=2, labels="hard"), "sre2l").fingerprint != one.fingerprint
    few = condense(order(2, steps=2, labels="hard", batch=2), "sre2l")
    assert few.labels.tolist() == one.labels.tolist()
    assert chunks_of(5, None) == [range(5)]


def test_sre2l_labels_of_views_are_stored_by_default() -> None:
    small = condense(order(1, steps=1, epochs=2), "sre2l")
    assert small.kind == "replayed"
    assert small.replay["logits"].shape == (2, CLASSES, CLASSES)
    assert small.record["augmentation"]["mix"] == "cutmix"


def test_rded_takes_the_surest_crop_of_each_image_then_the_surest_images() -> None:
    """Against a plain search over the very crops it drew."""
    from distil.functional import cropped, eight_bit, square_boxes
    from distil.loops.condense_pixels import generator_for

    asked = order(2, crops=3, candidates=7, labels="hard")
    small = condense(asked, "rded")
    assert len(small) == 2 * CLASSES
    for label in range(CLASSES):
        draw = generator_for(asked, "rded", label)
        positions = asked.real(label, limit=7, generator=draw)
        boxes = square_boxes(21, generator=draw)
        crops = cropped(asked.inputs(positions).repeat_interleave(3, 0), boxes, side=8)
        with torch.no_grad():
            costs = label_cross_entropy(teachers()[0](crops), torch.full((21,), label))
        best = sorted(min((float(costs[3 * i + m]), 3 * i + m) for m in range(3)) for i in range(7))[:2]
        mine = small.inputs[small.labels == label]
        for image, (_, which) in zip(mine, best):
            torch.testing.assert_close(image, eight_bit(crops[which].clamp(0, 1)))


def test_rded_puts_several_crops_in_an_image_and_shows_them_in_other_places() -> None:
    small = condense(order(2, factor=2, candidates=12, labels="dynamic"), "rded")
    assert small.inputs.shape == (2 * CLASSES, 3, 8, 8)
    shown = small.record["augmentation"]
    assert (shown["shuffle"], shown["share"], shown["mix"]) == (2, (0.5, 1.0), "cutmix")
    assert small.record["temperature"] == 20.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"factor": 2, "per_class": 4}, r"rded needs 16 images of each class \(4 x 2² crops.*a has 12"),
        ({"candidates": 1}, "candidates=1; raise it"),
        ({"factor": 9, "candidates": 999, "per_class": 1}, "9"),
        ({"crops": 0}, "crops=0"),
        ({"labels": "odd"}, "odd"),
    ],
)
def test_rded_refuses_what_it_cannot_fill(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        condense(order(options.pop("per_class", 2), **options), "rded")


def test_one_network_with_batch_norm() -> None:
    with pytest.raises(DistilError, match="one teacher"):
        condense(replace(order(steps=1), teachers=teachers()), "sre2l")
    with pytest.raises(DistilError, match="needs a trained teacher"):
        condense(replace(order(), teachers=()), "rded")


def test_the_usual_batch_of_rded_grows_with_the_set() -> None:
    how = condense_rded.RDED()
    sizes = [how.labelling(order(count)).augmentation.batch for count in (1, 10, 50)]
    assert sizes == [10, 50, 100]
    many = replace(order(10), bundle=replace(bundle(), classes=tuple(map(str, range(100)))))
    assert how.labelling(many).augmentation.batch == 100


def test_a_constant_channel_is_no_division_by_zero() -> None:
    grey = DictDataset(torch.full((10, 3, 8, 8), 0.5), torch.arange(10) % CLASSES, torch.arange(10))
    space = pixel_space(replace(order(), bundle=replace(bundle(), train=grey)))
    assert torch.isfinite(space.normalised(torch.rand(2, 3, 8, 8))).all()


def test_the_likeliest_classes_alone_and_the_rest_evenly() -> None:
    """RDED's smoothing of labels is the recovery of a label of which a few classes are known."""
    from distil.functional import as_soft_labels

    logits = 2 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    whole = logits.softmax(1)
    for known in range(1, 8):
        rows = as_soft_labels(logits, kind="marginal", top=known)
        torch.testing.assert_close(rows.sum(1), torch.ones(20))
        kept = whole.topk(known, 1).indices
        torch.testing.assert_close(rows.gather(1, kept), whole.gather(1, kept))
        rest = rows.scatter(1, kept, torch.nan)
        for row in rest:
            others = row[~row.isnan()]
            assert len(others) == 7 - known
            assert not len(others) or others.max() - others.min() < 1e-6
    torch.testing.assert_close(as_soft_labels(logits, kind="marginal", top=7), whole)


@pytest.mark.parametrize(
    ("method", "options", "how"),
    [
        ("sre2l", {"steps": 2, "labels": "static"}, None),
        ("rded", {"labels": "static", "crops": 2}, None),
        ("infer", {"steps": 2, "jitter": 2}, None),
        ("dm", {"iterations": 1}, Labelling("static")),
    ],
)
def test_labels_are_of_the_images_as_they_will_be_kept(
    method: str, options: dict[str, Any], how: Labelling | None, tmp_path: Path
) -> None:
    for exact in (None, True):
        small = condense(replace(order(5, **options), exact=exact), method, how)
        small.save(tmp_path / str(exact), exact=exact)
        kept = load_condensed(tmp_path / str(exact))
        assert kept.kind == "static"
        with torch.no_grad():
            torch.testing.assert_close(kept.logits, teachers()[0](kept.samples()), rtol=1e-5, atol=1e-5)
        assert torch.equal(kept.inputs, small.inputs)
        if exact and (kept.compensators is not None or method == "sre2l"):
            images = kept.inputs if kept.compensators is None else kept.compensators
            assert not torch.equal(images, eight_bit(images))  # so labels of rounded ones would be others
