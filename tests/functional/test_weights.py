"""Averages, masks by magnitude, and places between networks, against plain loops in float64."""

from __future__ import annotations

import pytest
import torch

import distil.functional as D
from distil.errors import DistilError

from .oracles import normal

WEIGHTS = {"a": normal(4, 3, seed=1), "b": normal(5, seed=2)}


def test_an_average_moves_by_its_momentum() -> None:
    old, new = normal(6, seed=1), normal(6, seed=2)
    torch.testing.assert_close(D.moving_average(old, new, momentum=0.9), 0.9 * old + 0.1 * new)
    assert torch.equal(D.moving_average(old, new, momentum=1.0), old)
    assert torch.equal(D.moving_average(old, new, momentum=0.0), new)
    assert not D.moving_average(old.requires_grad_(), new, momentum=0.5).requires_grad


def test_weights_become_a_vector_and_back() -> None:
    flat = D.flat_weights(WEIGHTS)
    again = D.named_weights(flat, WEIGHTS)
    assert all(torch.equal(again[name], value) for name, value in WEIGHTS.items())
    assert flat.tolist() == [x for value in WEIGHTS.values() for x in value.flatten().tolist()]


def test_masks_leave_out_the_smallest_of_all_tensors_together() -> None:
    masks = None
    for k in range(1, 5):
        masks = D.magnitude_masks(WEIGHTS, masks, share=0.2)
        every = sorted((abs(x), name, i) for name, v in WEIGHTS.items() for i, x in enumerate(v.flatten().tolist()))
        out = sum(not bool(x) for mask in masks.values() for x in mask.flatten())
        assert all(not bool(masks[name].flatten()[i]) for _, name, i in every[:out])
        assert D.kept_share(masks) == pytest.approx(0.8**k, abs=k * 0.5 / 17)


def test_the_kept_share_after_many_rounds_is_that_of_the_paper() -> None:
    weights, masks = {"w": normal(200, 200, seed=3)}, None
    for _ in range(10):
        masks = D.magnitude_masks(weights, masks, share=0.2)
    assert D.kept_share(masks) == pytest.approx(0.8**10, abs=1e-4)


def test_what_was_pruned_stays_pruned_though_it_grew() -> None:
    first = D.magnitude_masks(WEIGHTS, share=0.5)
    grown = {name: torch.where(first[name], value, 100.0 * torch.ones_like(value)) for name, value in WEIGHTS.items()}
    second = D.magnitude_masks(grown, first, share=0.5)
    assert all(not bool((second[name] & ~first[name]).any()) for name in WEIGHTS)
    pruned = D.masked_weights(WEIGHTS, first)
    for name, value in WEIGHTS.items():
        assert torch.equal(pruned[name], value * first[name])
    assert torch.equal(D.masked_weights(WEIGHTS, {})["a"], WEIGHTS["a"])


@pytest.mark.parametrize("orthonormal", [True, False])
@pytest.mark.parametrize("nearest_zero", [True, False])
def test_the_plane_goes_through_its_points(orthonormal: bool, nearest_zero: bool) -> None:
    points = normal(3, 9, seed=4)
    plane = D.plane_through(points, orthonormal=orthonormal, nearest_zero=nearest_zero)
    for point, (a, b) in zip(points, plane.places.tolist()):
        torch.testing.assert_close(plane.at(a, b), point)
    if orthonormal:
        torch.testing.assert_close(plane.axes @ plane.axes.mT, torch.eye(2, dtype=torch.float64))
    elif not nearest_zero:
        torch.testing.assert_close(plane.places, torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=torch.float64))
    if nearest_zero:
        torch.testing.assert_close(plane.axes @ plane.centre, torch.zeros(2, dtype=torch.float64))
        around = [plane.at(*pair) for pair in ((0.1, 0.0), (0.0, -0.1), (0.1, 0.1))]
        assert all(place.norm() > plane.centre.norm() for place in around)


def test_a_line_goes_from_one_point_to_the_other() -> None:
    first, second = normal(4, seed=5), normal(4, seed=6)
    torch.testing.assert_close(D.on_line(first, second, share=0.3), 0.7 * first + 0.3 * second)
    assert torch.equal(D.on_line(first, second, share=0.0), first)
    assert torch.equal(D.on_line(first, second, share=1.0), second)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: D.plane_through(normal(2, 4)), "3, D"),
        (lambda: D.plane_through(torch.arange(6.0).view(3, 2)), "one line"),
        (lambda: D.magnitude_masks(WEIGHTS, share=1.0), "share=1.0"),
        (lambda: D.magnitude_masks(WEIGHTS, {"a": torch.ones(4, 3, dtype=torch.bool)}), "do not fit"),
        (lambda: D.named_weights(torch.zeros(3), WEIGHTS), "17 weights"),
        (lambda: D.moving_average(torch.zeros(2), torch.zeros(3), momentum=0.5), "of the shape"),
        (lambda: D.moving_average(torch.zeros(2), torch.zeros(2), momentum=1.5), "momentum=1.5"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, said: str) -> None:
    with pytest.raises(DistilError, match=said):
        call()
