"""Crops chosen, padded and stitched, against plain loops and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.functional import (
    best_crops,
    cropped,
    label_cross_entropy,
    padded,
    square_boxes,
    stitched,
)

from .oracles import normal


def test_cross_entropy_of_each_row() -> None:
    logits, labels = normal(7, 4), torch.tensor([0, 1, 2, 3, -100, 1, 0])
    found = label_cross_entropy(logits, labels)
    assert torch.allclose(found, nn.functional.cross_entropy(logits, labels, reduction="none"))
    assert label_cross_entropy(torch.tensor([[500.0, 0.0]]), torch.tensor([1])).item() == 500.0
    assert label_cross_entropy(logits.bfloat16(), labels).dtype == torch.float32


def test_the_smallest_score_of_each_image_then_of_all() -> None:
    scores = normal(9, 5)
    chosen = best_crops(scores, 4)
    plain = sorted((min((float(s), m) for m, s in enumerate(row)), n) for n, row in enumerate(scores))[:4]
    assert chosen.image.tolist() == [n for _, n in plain]
    assert chosen.crop.tolist() == [m for (_, m), _ in plain]
    turned = best_crops(-scores, 4, largest=True)
    assert torch.equal(turned.image, chosen.image)
    assert torch.equal(turned.crop, chosen.crop)


def test_ties_keep_their_order() -> None:
    chosen = best_crops(torch.ones(50, 3), 50)
    assert chosen.image.tolist() == list(range(50))
    assert not chosen.crop.any()


@pytest.mark.parametrize(("height", "width", "factor"), [(16, 16, 2), (7, 11, 3), (5, 4, 4), (9, 9, 1)])
def test_constant_crops_stay_constant_in_their_cells(height: int, width: int, factor: int) -> None:
    n = 3
    crops = torch.arange(float(n * factor**2)).view(-1, 1, 1, 1).expand(-1, 2, 4, 4)
    images = stitched(crops, (height, width), factor=factor)
    assert images.shape == (n, 2, height, width)
    down, across = (np.array_split(np.arange(length), factor) for length in (height, width))
    for one in range(n):
        for i, rows in enumerate(down):
            for j, columns in enumerate(across):
                cell = images[one][:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                assert (cell == (i * factor + j) * n + one).all()


def test_padding_puts_the_crop_in_the_middle() -> None:
    crop = normal(2, 3, 3, 4)
    whole = padded(crop, (6, 9))
    assert torch.equal(whole[..., 1:4, 2:6], crop)
    assert whole.abs().sum().item() == pytest.approx(crop.abs().sum().item())
    assert torch.equal(padded(crop, (3, 4)), crop)


def test_boxes_are_square_and_lie_in_the_image() -> None:
    boxes = square_boxes(4000, share=(0.25, 0.64), generator=torch.Generator().manual_seed(0))
    left, top, width, height = boxes.unbind(1)
    assert torch.equal(width, height)
    assert (boxes >= 0).all()
    assert ((left + width <= 1 + 1e-6) & (top + height <= 1 + 1e-6)).all()
    area = (width * height).double()
    assert (area.min() >= 0.25 - 1e-6) & (area.max() <= 0.64 + 1e-6)
    assert area.mean().item() == pytest.approx(0.445, abs=4 * 0.39 / (12 * 4000) ** 0.5)
    image = normal(1, 3, 8, 8)
    assert torch.allclose(cropped(image, square_boxes(1, share=(1.0, 1.0)), side=8), image, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: best_crops(torch.zeros(3, 2), 4), "4 crops are asked for and 3 images"),
        (lambda: best_crops(torch.zeros(3), 1), "one row of scores"),
        (lambda: best_crops(torch.tensor([[float("nan")]]), 1), "not a number"),
        (lambda: stitched(torch.zeros(5, 1, 2, 2), (4, 4), factor=2), "5 crops"),
        (lambda: stitched(torch.zeros(4, 1, 2, 2), (4, 1), factor=2), "one pixel"),
        (lambda: padded(torch.zeros(1, 1, 4, 4), (4, 3)), "do not fit"),
        (lambda: square_boxes(1, share=(0.0, 1.0)), "share="),
    ],
)
def test_what_does_not_fit_is_refused(call: object, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()  # type: ignore[operator]
