"""The rivals that imitate maps: what each reads, and MasKD's first stage."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from distil.engine import Distiller
from distil.errors import DistilError
from distil.functional import cwd, maskd_detection, masked_mse, mse, spatial_masks
from distil.methods import CWD, MSE, MasKD
from distil.methods.maskd import MaskTokens
from engine import toys


def made(method: Any, student: int = 4, teacher: int = 6) -> Distiller:
    pair = toys.seeded(lambda: toys.DenseNet(student), 1), toys.seeded(lambda: toys.DenseNet(teacher), 2)
    return Distiller(*pair, method, task="segmentation", example=toys.batch(toys.scenes(8), 4))


def values(distiller: Distiller) -> tuple[Any, Any, Any]:
    """The traces of student and teacher on one batch, and the method's one term."""
    batch = toys.batch(toys.scenes(8))
    student, teacher = distiller.cast.handles()
    component = next(iter(distiller.method))
    (term,) = component.method(student, teacher, batch, distiller.ctx).values()
    return student(batch), teacher(batch), term.values


def test_plain_error_is_summed_over_taps() -> None:
    ours, theirs, found = values(made(MSE(taps=["logits", "map"]), teacher=4))
    torch.testing.assert_close(found, sum(mse(ours[tap], theirs[tap], reduction="none") for tap in ("logits", "map")))


def test_unequal_widths_get_one_convolution_and_equal_ones_none() -> None:
    distiller = made(MSE(taps=["logits", "map"]))
    assert [sum(p.numel() for p in align.parameters()) for align in distiller.method.components[0].method.align] == [
        0,
        4 * 6 + 6,
    ]
    assert values(distiller)[2].shape == (8,)


@pytest.mark.parametrize("norm", ["channel", "spatial"])
def test_cwd_is_averaged_per_sample(norm: str) -> None:
    ours, theirs, found = values(made(CWD(taps="logits", temperature=2, norm=norm)))
    torch.testing.assert_close(found.mean(), cwd(ours.logits, theirs.logits, temperature=2, norm=norm))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"norm": "chanel"}, "did you mean 'channel'"),
        ({"divergence": "kll"}, r"cwd\(divergence='kll'\) is unknown"),
        ({"temperature": 0}, "must be above 0"),
    ],
)
def test_cwds_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        CWD(**options)


def test_maps_are_asked_for() -> None:
    with pytest.raises(DistilError, match=r"tap 'logits' of the student gives \[4, 3\].*score maps"):
        Distiller(*toys.pair(), MSE(), example=toys.batch(toys.vectors(), 4))
    with pytest.raises(DistilError, match="name each by itself"):
        made(MasKD(taps="two*"))


@pytest.mark.parametrize("loss", ["segmentation", "detection"])
def test_tokens_are_learned_on_the_teacher_first_and_then_stand_still(loss: str) -> None:
    distiller = made(MasKD(taps=["logits", "map"], loss=loss, epochs=4, lr=0.5))
    method = distiller.method.components[0].method
    before, teacher = copy.deepcopy(method.tokens.state_dict()), toys.state(distiller.teachers["model"])
    student = toys.state(distiller.student)
    distiller.prepare(toys.scenes(24))
    learned = copy.deepcopy(method.tokens.state_dict())
    assert all(not torch.equal(before[name], learned[name]) for name in before if "tokens" in name)
    assert toys.same(teacher, distiller.teachers["model"].state_dict())
    assert toys.same(student, distiller.student.state_dict())
    assert not any(p.requires_grad for p in method.tokens.parameters())
    distiller.sgd = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1))
    toys.step(distiller, toys.batch(toys.scenes(24)))
    assert toys.same(learned, method.tokens.state_dict())


def test_the_first_stage_lowers_the_task_loss_of_the_masked_teacher() -> None:
    data = toys.scenes(24)
    whole = toys.batch(data)

    def seen(epochs: int) -> float:
        distiller = made(MasKD(taps="logits", epochs=epochs, lr=0.5))
        distiller.prepare(data)
        (masks,) = distiller.method.components[0].method.tokens
        scores = distiller.teachers["model"](whole["inputs"])
        return float(distiller.task.loss(masks.seen(scores), whole).mean())

    assert seen(20) < seen(0)


def test_the_student_customises_masks_after_the_warm_up() -> None:
    distiller = made(MasKD(taps="logits", loss="detection", epochs=0, warmup=10)).prepare(toys.scenes(8))
    (masks,) = distiller.method.components[0].method.tokens
    for step, late in ((9, False), (10, True)):
        distiller.ctx.step = step
        ours, theirs, found = values(distiller)
        weights = masks.importance(theirs.logits)
        torch.testing.assert_close(weights.sum(1), torch.ones(8))
        expected = maskd_detection(ours.logits, theirs.logits, masks.tokens, weights, customised=late, reduction="none")
        torch.testing.assert_close(found, expected)


def test_segmentation_is_half_the_masked_error_with_as_many_masks_as_classes() -> None:
    distiller = made(MasKD(masks=0, epochs=0)).prepare(toys.scenes(8))
    (masks,) = distiller.method.components[0].method.tokens
    assert masks.tokens.shape == (toys.CLASSES, toys.CLASSES)
    ours, theirs, found = values(distiller)
    shown = spatial_masks(theirs.logits, masks.tokens)
    torch.testing.assert_close(found.mean(), masked_mse(ours.logits, theirs.logits, shown) / 2)


def test_maskds_options_are_checked() -> None:
    with pytest.raises(DistilError, match="did you mean 'detection'"):
        MasKD(loss="detecton")
    with pytest.raises(DistilError, match="must not be below 0"):
        MasKD(masks=-1)
    with pytest.raises(DistilError, match="must be at least 1"):
        MaskTokens(4, 0)


@pytest.mark.parametrize("method", [MSE(), CWD(), MasKD(epochs=0)], ids=["mse", "cwd", "maskd"])
def test_score_maps_of_another_size_are_resized_to_the_teachers(method: Any) -> None:
    coarse = toys.seeded(lambda: torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Conv2d(2, 3, 1)), 1)
    pair = coarse, toys.seeded(lambda: toys.DenseNet(4), 2)
    distiller = Distiller(*pair, method, task="segmentation", example=toys.batch(toys.scenes(8), 4))
    distiller.prepare(toys.scenes(8))
    ours, theirs, found = values(distiller)
    assert ours.logits.shape[2:] != theirs.logits.shape[2:]
    assert found.shape == (8,)
    assert found.min() > 0
    wrong = toys.seeded(lambda: toys.DenseNet(4, classes=5), 2)
    with pytest.raises(DistilError, match="both must score the same classes"):
        Distiller(coarse, wrong, MSE(), task="segmentation", example=toys.batch(toys.scenes(8), 4))
