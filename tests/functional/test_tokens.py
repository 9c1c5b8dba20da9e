"""Tokens and their graphs: shapes that meet, invariances, limits, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import distil.functional as D
from distil.errors import DistilError
from distil.functional.token_graph import MOST_NODES

from .oracles import normal


def rotation(width: int, seed: int = 3) -> Tensor:
    return torch.linalg.qr(normal(width, width, seed=seed)).Q


# ---- the same tokens on both sides


def test_widths_and_sizes_of_maps_may_differ() -> None:
    s, t = normal(2, 3, 8, 6), normal(2, 5, 4, 3, seed=1)
    ours, theirs = D.token_pair(s, t)
    assert (ours.shape, theirs.shape) == ((2, 12, 3), (2, 12, 5))
    assert torch.equal(theirs[1, 4], t[1, :, 1, 1])
    torch.testing.assert_close(ours[1, 4], s[1, :, 2:4, 2:4].mean((1, 2)))


@pytest.mark.parametrize(("length", "class_tokens"), [(16, None), (17, None), (18, None), (20, 4), (17, 1)])
def test_a_transformer_meets_a_map_without_its_class_tokens(length: int, class_tokens: int | None) -> None:
    tokens, fine = normal(2, length, 6), normal(2, 3, 8, 8)
    ours, theirs = D.token_pair(tokens, fine, class_tokens=class_tokens)
    assert torch.equal(ours, tokens[:, length - 16 :])
    assert torch.equal(theirs, D.token_pair(fine, normal(2, 1, 4, 4))[0])
    back = D.token_pair(fine, tokens, class_tokens=class_tokens)
    assert torch.equal(back[0], theirs)
    assert torch.equal(back[1], ours)


def test_a_map_that_is_no_square_says_how_tokens_lie() -> None:
    tokens, oblong = normal(2, 13, 6), normal(2, 3, 4, 3)
    ours, theirs = D.token_pair(tokens, oblong)
    assert torch.equal(ours, tokens[:, 1:])
    assert torch.equal(theirs, oblong.flatten(2).mT)


def test_two_transformers() -> None:
    s, t = normal(2, 17, 6), normal(2, 18, 9, seed=1)
    ours, theirs = D.token_pair(s, t)
    assert torch.equal(ours, s[:, 1:])
    assert torch.equal(theirs, t[:, 2:])
    kept = D.token_pair(s, s, class_tokens=0)
    assert torch.equal(kept[0], s)  # the class token may take part
    coarse = D.token_pair(s, normal(2, 5, 9))
    assert (coarse[0].shape, coarse[1].shape) == ((2, 4, 6), (2, 4, 9))
    oblong = D.token_pair(normal(2, 13, 6), normal(2, 13, 9), class_tokens=1)
    assert oblong[0].shape == (2, 12, 6)


def test_what_is_known_of_a_sequence_is_not_guessed() -> None:
    """4 x 6 patches behind a class token are as many tokens as 5 x 5 patches."""
    s, t = normal(2, 25, 6), normal(2, 25, 9, seed=1)
    lie = (1, 4, 6)
    ours, theirs = D.token_pair(s, t, layouts=(lie, lie))
    assert torch.equal(ours, s[:, 1:])
    assert torch.equal(theirs, t[:, 1:])
    grid = s[:, 1:].mT.unflatten(2, (4, 6))
    expected = torch.nn.functional.adaptive_avg_pool2d(grid, (2, 3)).flatten(2).mT
    torch.testing.assert_close(D.token_pair(s, normal(2, 5, 2, 3), layouts=(lie, None))[0], expected)
    torch.testing.assert_close(D.token_pair(s, normal(2, 7, 5), layouts=(lie, (1, 2, 3)))[0], expected)
    cut = D.token_pair(s, t, layouts=(lie, lie), patch=2)[0]
    torch.testing.assert_close(cut, torch.nn.functional.unfold(grid, 2, stride=2).mT)
    other = D.token_pair(s, t, layouts=(lie, None))[1]  # as many places as the side that is known
    assert torch.equal(other, t[:, 1:])
    turned = D.token_pair(s, t, layouts=(lie, (1, 6, 4)))[0]  # as many places, but not the same ones
    assert turned.shape == (2, 16, 6)


def test_the_number_of_tokens_tells_nothing_where_images_are_no_squares() -> None:
    s, t = normal(2, 25, 6), normal(2, 25, 9, seed=1)
    assert D.token_pair(s, t)[0].shape[1] == 25
    with pytest.raises(DistilError, match=r"25 tokens may lie in many ways.*say with class_tokens="):
        D.token_pair(s, t, square=False)
    assert torch.equal(D.token_pair(s, t, square=False, class_tokens=1)[0], s[:, 1:])
    for options in ({"patch": 2}, {"grid": 2}):
        with pytest.raises(DistilError, match="25 tokens lie on a grid that is not known"):
            D.token_pair(s, t, square=False, class_tokens=0, **options)
    assert torch.equal(D.token_pair(s, normal(2, 3, 4, 6), square=False)[0], s[:, 1:])


def test_one_token_an_image() -> None:
    s, t = normal(2, 3, 4, 4), normal(2, 5, 7, 7)
    ours, theirs = D.token_pair(s, t, grid=1)
    torch.testing.assert_close(ours, s.mean((2, 3))[:, None])
    torch.testing.assert_close(theirs.squeeze(1), t.mean((2, 3)))
    assert torch.equal(D.token_pair(t.mean((2, 3)), t.mean((2, 3)))[0], t.mean((2, 3))[:, None])
    assert D.token_pair(s, t, grid=9)[0].shape == (2, 16, 3)  # a grid is never made finer


@pytest.mark.parametrize(
    ("student", "teacher", "options", "said"),
    [
        ((2, 3, 6, 6), (2, 5, 6, 6), {"patch": 4}, r"6x6 .*patches of 4x4; give patch= a divisor"),
        ((2, 3, 6, 6), (2, 5, 6, 6), {"patch": 0}, "patch=0"),
        ((2, 3, 6, 6), (2, 5, 6, 6), {"grid": 0}, "grid=0"),
        ((2, 3, 6, 6), (3, 5, 6, 6), {}, r"\(2, 3, 6, 6\) and the teacher \(3, 5, 6, 6\)"),
        ((2, 3, 6, 6), (2,), {}, "tap a convolutional stage"),
        ((2, 12, 6), (2, 12, 6), {}, "12 tokens are no square of patches.*class_tokens="),
        ((2, 17, 6), (2, 17, 6), {"class_tokens": 17}, "class_tokens=17 leaves no patch of 17 tokens"),
        ((2, 17, 6), (2, 17, 6), {"class_tokens": 0, "patch": 2}, "17 tokens are no square"),
    ],
)
def test_features_without_common_tokens_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DistilError, match=said):
        D.token_pair(normal(*student), normal(*teacher), **options)


# ---- drawing


def test_tokens_are_drawn_by_seed_without_replacement_and_anew() -> None:
    def draw(seed: int, samples: int = 3) -> Tensor:
        return D.draw_tokens(5, 9, samples, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert all(len(set(row)) == 3 and set(row) <= set(range(9)) for row in draw(0).tolist())
    assert len({tuple(row) for row in draw(0).tolist()}) > 1  # each image has its own
    for samples in (9, 100):
        assert torch.equal(draw(0, samples), torch.arange(9).expand(5, 9))
    with pytest.raises(DistilError, match="samples=0"):
        D.draw_tokens(1, 9, 0)


def test_every_token_is_drawn_as_often() -> None:
    drawn = D.draw_tokens(4000, 5, 2, generator=torch.Generator().manual_seed(0))
    assert (drawn.flatten().bincount() / 4000 - 0.4).abs().max() < 0.03


def test_nodes_are_gathered_image_by_image_at_the_same_places() -> None:
    s, t = normal(3, 7, 2), normal(3, 7, 4)
    drawn = D.draw_tokens(3, 7, 2, generator=torch.Generator().manual_seed(0))
    for tokens in (s, t):
        nodes = D.gather_tokens(tokens, drawn)
        expected = [tokens[b, p] for b, row in enumerate(drawn.tolist()) for p in row]
        assert torch.equal(nodes, torch.stack(expected))


def test_values_of_images_average_to_the_mean_or_the_sum_of_nodes() -> None:
    values = normal(12)
    torch.testing.assert_close(D.image_values(values, 4).mean(), values.mean())
    torch.testing.assert_close(D.image_values(values, 4, reduction="sum").mean(), values.sum())
    with pytest.raises(DistilError, match="reduction='median'"):
        D.image_values(values, 4, reduction="median")


# ---- invariances


@pytest.mark.parametrize("mask", ["own", "shared"])
def test_the_local_relation_knows_no_rotation_shift_scale_or_order(mask: str) -> None:
    s, t = normal(12, 4), normal(12, 6, seed=1)
    plain = D.local_relation(s, t, neighbours=3, mask=mask)
    assert plain > 1e-4
    moved = D.local_relation(5 * s @ rotation(4) + 2, t @ rotation(6) - 1, neighbours=3, mask=mask)
    torch.testing.assert_close(moved, plain)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(D.local_relation(s[order], t[order], neighbours=3, mask=mask), plain)
    assert not torch.allclose(D.local_relation(s[order], t, neighbours=3, mask=mask), plain)


def test_the_inner_relation_knows_no_rotation_or_order_of_images() -> None:
    s, t = normal(5, 6, 4), normal(5, 6, 3, seed=1)
    plain = D.inner_relation(s, t, reduction="none")
    torch.testing.assert_close(D.inner_relation(s @ rotation(4), t @ rotation(3), reduction="none"), plain)
    torch.testing.assert_close(D.inner_relation(s.flip(0), t.flip(0), reduction="none"), plain.flip(0))
    assert D.inner_relation(s[:, :1], t[:, :1]).item() == 0  # one token attends to itself


def test_the_contrast_is_least_where_pairs_agree_and_others_are_orthogonal() -> None:
    basis = rotation(6)
    best = D.token_contrast(3 * basis, basis, temperature=0.2)
    torch.testing.assert_close(best.item(), math.log1p(5 * math.exp(-5)))
    for seed in range(5):
        other = D.token_contrast(normal(6, 6, seed=seed), normal(6, 6, seed=seed + 9), temperature=0.2)
        assert other > best >= 0
    alike = torch.ones(6, 2, dtype=torch.float64)
    torch.testing.assert_close(D.token_contrast(alike, 2 * alike).item(), math.log(6))


# ---- the graph


def test_weights_lie_on_neighbours_alone_and_in_0_to_1() -> None:
    nodes = normal(10, 3)
    near = D.nearest_tokens(nodes, 4)
    weights = D.graph_weights(nodes, near)
    on = torch.zeros(10, 10, dtype=torch.bool).scatter(1, near, True)
    assert not on.diagonal().any()
    assert bool((weights[~on] == 0).all())
    assert bool(((weights[on] > 0) & (weights[on] <= 1)).all())
    odd = D.graph_weights(nodes[:9], D.nearest_tokens(nodes[:9], 3))
    torch.testing.assert_close(odd[odd > 0].median().item(), math.exp(-0.5))  # the median distance is the scale


def test_the_choice_of_neighbours_is_not_differentiated() -> None:
    nodes = normal(5, 3).requires_grad_()
    assert not D.nearest_tokens(nodes, 2).requires_grad
    far = torch.tensor([[0.0], [1.0], [100.0]]).requires_grad_()
    (slope,) = torch.autograd.grad(D.graph_weights(far, D.nearest_tokens(far, 1), sigma=1.0)[:2].sum(), far)
    assert slope[2] == 0 != slope[0]


def test_more_neighbours_than_nodes_means_all_others() -> None:
    nodes, theirs = normal(4, 3), normal(4, 3, seed=1)
    assert D.nearest_tokens(nodes, 99).sort(1).values.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    all_others = D.local_relation(nodes, theirs, neighbours=3)
    assert torch.equal(D.local_relation(nodes, theirs, neighbours=99), all_others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["one node", "all zero", "duplicates", "one side zero", "large"])
def test_degenerate_nodes_give_finite_values_and_gradients(kind: str, dtype: torch.dtype) -> None:
    s, t = normal(8, 3, dtype=dtype), normal(8, 5, seed=1, dtype=dtype)
    if kind == "one node":
        s, t = s[:1], t[:1]
    if kind == "duplicates":
        s, t = s[:2].repeat(4, 1), t[:1].repeat(8, 1)
    if kind in ("all zero", "one side zero"):
        s, t = 0 * s, t if kind == "one side zero" else 0 * t
    if kind == "large":
        s, t = 1e4 * s, 1e4 * t
    s.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        near = D.local_relation(s, t, neighbours=3, sigma="median") + D.local_relation(s, t, neighbours=3, sigma=1.0)
        told = D.token_contrast(s, t[:, :3])
        own = D.inner_relation(s[None], t[None])
    (slope,) = torch.autograd.grad(near + told + own, s)
    assert bool(near.isfinite() & told.isfinite() & own.isfinite() & slope.isfinite().all())
    assert near.dtype == told.dtype == own.dtype == torch.float32
    if kind == "one node":
        assert near.item() == told.item() == 0
        assert D.neighbour_overlap(s, t).tolist() == [1.0]


def test_only_neighbours_that_differ_tell_the_scale() -> None:
    """Coincident tokens, as a black background gives them, leave the graph of the others alone."""
    nodes = torch.cat([torch.zeros(20, 2), torch.tensor([[3.0, 4.0], [6.0, 8.0]])]).double()
    weights = D.graph_weights(nodes, D.nearest_tokens(nodes, 1))
    assert weights[0].max() == 1
    torch.testing.assert_close(weights[21, 20].item(), math.exp(-0.5))


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


def test_memory_is_the_square_of_the_nodes() -> None:
    nodes = 2048
    s, t = normal(nodes, 16, dtype=torch.float32).requires_grad_(), normal(nodes, 24, seed=1, dtype=torch.float32)
    assert 4 * nodes**2 == 16 * 2**20  # as the module says
    for call in (lambda: D.local_relation(s, t), lambda: D.token_contrast(s, t[:, :16])):
        with Largest() as seen:
            call().backward()
        assert seen.numbers == nodes**2


def test_too_many_nodes_are_refused_before_anything_is_computed() -> None:
    many = torch.zeros(MOST_NODES + 1, 1)
    for call in (D.local_relation, D.token_contrast, D.neighbour_overlap):
        with pytest.raises(DistilError, match=r"16385 nodes.*draw fewer tokens"):
            call(many, many)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mask": "share"}, "did you mean 'shared'"),
        ({"direction": "both"}, "direction='both'"),
        ({"sigma": "mean"}, "sigma='mean'"),
        ({"sigma": 0.0}, "sigma=0.0 must be above 0"),
        ({"sharpness": 0.0}, "sharpness=0.0"),
        ({"neighbours": 0}, "neighbours=0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        D.local_relation(normal(4, 3), normal(4, 3), **options)


def test_embeddings_of_two_widths_are_refused() -> None:
    with pytest.raises(DistilError, match="project both to one width"):
        D.token_contrast(normal(4, 3), normal(4, 5))
    with pytest.raises(DistilError, match="temperature=0"):
        D.token_contrast(normal(4, 3), normal(4, 3), temperature=0)
