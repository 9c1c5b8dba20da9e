"""MIX-KD through its method: what both networks see, which labels count, and what its switches do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.engine.distiller import Distiller
from distil.errors import DistilError
from distil.functional import kl, rescaled_cross_entropy, rescaled_kl
from distil.methods import KD, Supervised
from distil.systems.mix_kd import MixKD, published

from .toys import CLASSES, Fixed, image_distiller, mlp, samples, seeded, train


class Seeing(nn.Module):
    """Notes what it is shown."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.net, self.seen = mlp(width, seed), []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs.detach().clone())
        return self.net(inputs)


def seen(**options: Any) -> tuple[Tensor, Tensor]:
    """What student and teacher saw in one training step."""
    student, teacher = Seeing(4, 0), Seeing(8, 1)
    made = Distiller(student, teacher, MixKD(**options), example=samples(), steps=4)
    student.seen.clear()
    teacher.seen.clear()
    made(samples())
    return student.seen[-1], teacher.seen[-1]


def test_both_networks_see_the_same_mixed_inputs() -> None:
    student, teacher = seen(mixing="full")
    assert torch.equal(student, teacher)
    assert not torch.equal(student, samples()["inputs"])


def test_the_teacher_may_see_clean_inputs() -> None:
    student, teacher = seen(mixing="full", teacher_input="clean")
    assert torch.equal(teacher, samples()["inputs"])
    assert not torch.equal(student, teacher)


def test_nothing_is_mixed_where_none_is_asked_or_a_loss_is_only_measured() -> None:
    assert torch.equal(seen(mixing="off")[0], samples()["inputs"])
    whole = image_distiller(published(mixing="off")).eval()(samples()).loss
    for mixing in ("full", "partial"):
        made = image_distiller(published(mixing=mixing))
        assert not torch.equal(made(samples()).loss, whole)
        assert torch.equal(made.eval()(samples()).loss, whole)


def fixed(method: MixKD) -> tuple[Distiller, Tensor, Tensor, dict[str, Tensor]]:
    s, t = (torch.randn(8, CLASSES, generator=seeded(k), dtype=torch.float64) for k in (0, 1))
    batch = {"inputs": torch.zeros(8, 1), "labels": torch.arange(8) % CLASSES, "id": torch.arange(8)}
    return Distiller(Fixed(s), Fixed(t), method, example=batch), s, t, batch


def test_unmixed_losses_are_the_functions() -> None:
    made, s, t, batch = fixed(MixKD(mixing="off", gamma=0.3, alpha=0.7, eps=0.0))
    hot = nn.functional.one_hot(batch["labels"], CLASSES).double()
    expected = 0.3 * rescaled_cross_entropy(s, hot) + 0.7 * rescaled_kl(s, t)
    torch.testing.assert_close(made.eval()(batch).loss, expected)
    made, s, t, batch = fixed(MixKD(mixing="off", loss="plain", gamma=0.3, alpha=0.7, temperature=3.0))
    plain = 0.3 * nn.functional.cross_entropy(s, batch["labels"]) + 0.7 * kl(s, t, temperature=3.0)
    torch.testing.assert_close(made.eval()(batch).loss, plain)


def test_unmixed_plain_training_is_kd_with_labels() -> None:
    ours = train(image_distiller(MixKD(mixing="off", loss="plain") * 1.0), samples())
    usual = train(image_distiller(0.9 * KD(temperature=4) + 0.1 * Supervised()), samples())
    torch.testing.assert_close(ours[1], usual[1])


def test_an_unlabelled_sample_adds_nothing_to_the_label_loss() -> None:
    made, s, _, batch = fixed(MixKD(mixing="off", alpha=0.0, gamma=1.0))
    batch["labels"][3:] = -100
    hot = nn.functional.one_hot(batch["labels"][:3], CLASSES).double()
    torch.testing.assert_close(made.eval()(batch).loss, rescaled_cross_entropy(s[:3], hot), rtol=1e-6, atol=1e-6)


def test_without_a_teacher_it_trains_on_mixed_labels() -> None:
    made = Distiller(mlp(4), None, MixKD(mixing="full", loss="plain", alpha=0.0, gamma=1.0), example=samples())
    before = torch.cat([p.detach().flatten().clone() for p in made.student.parameters()])
    losses, after = train(made, samples())
    assert bool(losses.isfinite().all())
    assert not torch.equal(before, after)


def test_no_other_method_reads_the_labels_of_mixed_samples() -> None:
    with pytest.warns(UserWarning, match="counts it twice"):
        made = image_distiller(MixKD(mixing="full") + Supervised())
    with pytest.raises(DistilError, match="needs labels"):
        made(samples())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mixing": "half"}, "mixing='half'"),
        ({"loss": "rescale"}, "rescaled"),
        ({"teacher_input": "raw"}, "teacher_input"),
        ({"partial": 2.0}, "unmixed=2.0"),
        ({"a": -1.0}, "a=-1.0"),
        ({"gamma": 0.0, "alpha": 0.0}, "both weights 0"),
        ({"temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        MixKD(**wrong)


def test_inputs_that_cannot_be_mixed_are_refused() -> None:
    made = image_distiller(published())
    with pytest.raises(DistilError, match="one tensor of numbers"):
        made({**samples(), "inputs": torch.zeros(20, 6).long()})


def test_the_temperature_is_the_plain_losss() -> None:
    cool, hot, rescaled = (
        train(image_distiller(published(loss=loss, temperature=t)), samples())[1]
        for loss, t in (("plain", 1.0), ("plain", 4.0), ("rescaled", 1.0))
    )
    assert not torch.equal(cool, hot)
    assert torch.equal(rescaled, train(image_distiller(published()), samples())[1])
