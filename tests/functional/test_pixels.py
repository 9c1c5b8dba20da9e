"""What is done to pixels that are optimised, against plain loops and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from distil.errors import DistilError
from distil.functional import clipped_pixels, compensated, cosine_rate, draw_rolls, rolled, roughness, unit_pixels

from .oracles import normal


def test_roughness_by_loops() -> None:
    images = normal(2, 3, 4, 5).double()
    differences: dict[tuple[int, int], list[float]] = {(0, 1): [], (1, 0): [], (1, -1): [], (1, 1): []}
    for (down, right), values in differences.items():
        for row in range(4 - down):
            for column in range(max(0, -right), 5 - max(0, right)):
                far = images[:, :, row, column] - images[:, :, row + down, column + right]
                values += far.flatten().tolist()
    lengths = sum(math.sqrt(sum(v * v for v in values)) for values in differences.values())
    means = sum(sum(abs(v) for v in values) / len(values) for values in differences.values())
    assert roughness(images).item() == pytest.approx(lengths, rel=1e-12)
    assert roughness(images, kind="l1").item() == pytest.approx(means, rel=1e-12)
    assert roughness(torch.full((2, 3, 4, 4), 0.3)).item() == 0


def test_clipping_and_back_to_pixels() -> None:
    mean, deviation = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    images = 4 * normal(3, 3, 6, 6)
    clipped = clipped_pixels(images, mean=mean, deviation=deviation)
    for c in range(3):
        low, high = -mean[c] / deviation[c], (1 - mean[c]) / deviation[c]
        torch.testing.assert_close(clipped[:, c], images[:, c].clamp(low, high))
    unit = unit_pixels(images, mean=mean, deviation=deviation)
    torch.testing.assert_close(unit, unit_pixels(clipped, mean=mean, deviation=deviation))
    assert (unit >= 0).all()
    assert (unit <= 1).all()
    assert (unit == 0).any()
    assert (unit == 1).any()


def test_rolls_are_cyclic_uniform_and_from_their_own_generator() -> None:
    rolls = draw_rolls(5000, jitter=4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rolls, draw_rolls(5000, jitter=4, generator=torch.Generator().manual_seed(0)))
    for side in rolls.unbind(1):
        counts = side.bincount(minlength=5).double()
        assert len(counts) == 5
        assert ((counts - 1000).abs() < 5 * math.sqrt(5000 * 0.2 * 0.8)).all()
    image = torch.arange(12.0).view(1, 3, 4)
    moved = rolled(image, torch.tensor([1, 2]))
    for row in range(3):
        for column in range(4):
            assert moved[0, (row + 1) % 3, (column + 2) % 4] == image[0, row, column]
    assert rolled(image, torch.tensor([0, 0])) is image


def test_the_rate_falls_and_never_reaches_zero() -> None:
    rates = [cosine_rate(0.25, step=t, steps=50) for t in range(50)]
    assert rates[0] == 0.25
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: roughness(torch.zeros(1, 1, 1, 4)), "no neighbours"),
        (lambda: roughness(torch.zeros(1, 1, 4, 4), kind="l3"), "l3"),
        (lambda: clipped_pixels(torch.zeros(1, 3, 2, 2), mean=(0.5,), deviation=(0.2,)), "one for each channel"),
        (lambda: draw_rolls(3, jitter=-1), "jitter=-1"),
        (lambda: cosine_rate(0.1, step=0, steps=0), "steps=0"),
        (lambda: compensated(torch.zeros(3, 1, 2, 2), torch.zeros(2, 1, 2, 2)), "one for all or one for each"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()  # type: ignore[operator]
