"""Patches against plain loops, and what is drawn of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from distil.errors import DistilError
from distil.functional import Patch, draw_patch, pasted, patch_at

from .oracles import normal

STORED = Path(__file__).parents[1] / "golden" / "data" / "baselines-graph-dd.npz"


def test_pasting_by_hand() -> None:
    one, two, patch = normal(2, 3, 5, 6), normal(2, 3, 5, 6, seed=1), Patch(1, 2, 3, 4)
    found = pasted(one, two, patch)
    for row in range(5):
        for column in range(6):
            source = two if 1 <= row < 4 and 2 <= column < 6 else one
            assert torch.equal(found[..., row, column], source[..., row, column])
    assert torch.equal(pasted(one, two, Patch(4, 5, 0, 0)), one)


def test_boxes_are_those_of_the_authors_code() -> None:
    """The boxes that CutMix's own function gives, stored with other methods that use it."""
    with np.load(STORED) as arrays:
        (key, *_) = [name for name in arrays.files if "cutmix_bbox" in name and name.endswith("W20_H14")]
        table = arrays[key]
    for share, x, y, x1, y1, x2, y2 in table:
        patch = patch_at((14, 20), float(share), (int(y), int(x)))
        assert patch == (y1, x1, y2 - y1, x2 - x1)


def test_all_or_nothing() -> None:
    assert patch_at((8, 6), 0.0, (4, 3)) == Patch(0, 0, 8, 6)
    assert patch_at((8, 6), 1.0, (4, 3))[2:] == (0, 0)


def test_draws_are_their_generators_and_lie_in_the_image() -> None:
    rng = torch.Generator().manual_seed(0)
    first = draw_patch((5, 3, 7, 9), generator=torch.Generator().manual_seed(3))
    again = draw_patch((5, 3, 7, 9), generator=torch.Generator().manual_seed(3))
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])
    seen = [draw_patch((5, 3, 7, 9), generator=rng) for _ in range(400)]
    for patch, order in seen:
        assert patch is not None
        assert 0 <= patch.top <= patch.top + patch.height <= 7
        assert 0 <= patch.left <= patch.left + patch.width <= 9
        assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
    assert len({patch for patch, _ in seen}) > 50


def test_the_share_of_mixed_batches_and_their_area_follow_the_settings() -> None:
    rng = torch.Generator().manual_seed(1)
    drawn = [draw_patch((2, 1, 8, 8), probability=0.3, generator=rng)[0] for _ in range(2000)]
    share = sum(patch is not None for patch in drawn) / 2000
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 2000))
    sizes = {beta: [draw_patch((1, 32, 32), beta=beta, generator=rng)[0] for _ in range(300)] for beta in (0.05, 20.0)}
    empty = {beta: sum(p is not None and p.height * p.width == 0 for p in some) for beta, some in sizes.items()}
    assert empty[20.0] == 0  # about half of the image each time, cut off at its borders
    assert empty[0.05] > 60  # nearly all or nothing


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: patch_at((8, 8), 1.5, (0, 0)), "share=1.5"),
        (lambda: draw_patch((2, 3), beta=1.0), r"\[B, …, H, W\]"),
        (lambda: draw_patch((2, 3, 4, 4), beta=0.0), "beta=0.0"),
        (lambda: draw_patch((2, 3, 4, 4), probability=2.0), "probability=2.0"),
        (lambda: pasted(torch.zeros(2, 3, 3), torch.zeros(2, 3, 4), Patch(0, 0, 1, 1)), "twice"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()  # type: ignore[operator]
