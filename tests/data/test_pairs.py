"""Two images side by side: which halves a class has, and that nothing is shared between parts."""

from __future__ import annotations

import os

import pytest
import torch

from distil.data import load
from distil.data.pairs import side_by_side
from distil.errors import DistilError


def marked(count: int = 40, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are filled with ten times their class."""
    labels = torch.arange(count) % classes
    return (10 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 6).contiguous(), labels


def test_left_and_right_are_of_the_pairs_classes() -> None:
    made, labels = side_by_side(*marked(), each=3, classes=4)
    assert made.shape == (48, 1, 2, 6)
    assert torch.equal(labels.bincount(), torch.full((16,), 3))
    assert torch.equal(made[:, 0, 0, 0].long() // 10, labels // 4)
    assert torch.equal(made[:, 0, -1, -1].long() // 10, labels % 4)


def test_the_draw_is_the_seeds() -> None:
    pixels = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    draws = [side_by_side(pixels, marked()[1], each=5, classes=4, seed=s)[0] for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_halving_is_the_mean_of_four_pixels() -> None:
    pixels = torch.randint(256, (4, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made, _ = side_by_side(pixels, torch.arange(4), each=1, classes=4)
    mean = pixels[2].float().unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4)).round()
    assert torch.equal(made[4 * 2][:, :, :2].float(), mean)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixels": torch.zeros(4, 1, 3, 4, dtype=torch.uint8)}, "even sides"),
        ({"labels": torch.zeros(4).long()}, "every class at least once"),
        ({"each": 0}, "each=0"),
    ],
)
def test_what_cannot_be_paired_is_refused(change: dict[str, object], said: str) -> None:
    given = {"pixels": torch.zeros(4, 1, 4, 4, dtype=torch.uint8), "labels": torch.arange(4), "each": 1, **change}
    pixels, labels, each = given["pixels"], given["labels"], given["each"]
    with pytest.raises(DistilError, match=said):
        side_by_side(pixels, labels, each=each, classes=4)  # type: ignore[arg-type]


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("DISTIL_DATA"), reason="DISTIL_DATA names no data root")
def test_fashion_pairs_have_a_hundred_classes() -> None:
    bundle = load("fashion-pairs", limit=3000)
    assert bundle.input_shape == (1, 14, 28)
    assert len(bundle.classes) == 100
    assert bundle.classes[12] == "Trouser | Pullover"
    assert all(
        bool((part.labels.bincount(minlength=100) > 0).all()) for part in (bundle.train, bundle.val, bundle.test)
    )
