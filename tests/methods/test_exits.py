"""Exits: every stage of every family gives class scores; merging and start as published; odd cases said or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.methods.exits import MapExit, PatchMerging, TokenExit, exit_for, square_grid


@pytest.mark.parametrize("left", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (5, 3), (1, 1)])
def test_a_maps_exit_works_on_any_size_however_small(left: int, size: tuple[int, int]) -> None:
    net = exit_for((2, 6, *size), left=left, classes=4, width=10, teacher_width=7)
    assert isinstance(net, MapExit)
    assert net(torch.randn(2, 6, *size)).shape == (2, 4)
    widths = [part.out_channels for part in net.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)]
    assert widths[-1] == 10  # the wider of both embeddings
    assert [w for k, w in enumerate(widths[:-1]) if k % 2] == [6 * 2**k for k in range(1, left)]
    assert exit_for((2, 6, *size), left=left, classes=4, width=3, teacher_width=7)[-1].in_features == 7


@pytest.mark.parametrize(
    ("length", "first", "merged"),
    [(16, 0, 0), (50, 1, 0), (196, 0, 1), (197, 1, 1), (198, 2, 1), (225, 0, 1), (784, 0, 2)],
)
@pytest.mark.parametrize("left", [0, 3])
def test_a_token_exit_finds_its_grid_and_merges_down_to_about_seven(
    length: int, first: int, merged: int, left: int
) -> None:
    net = exit_for((2, length, 8), left=left, classes=4, width=8)
    assert isinstance(net, TokenExit)
    assert (net.class_tokens, len(net.merging), len(net.blocks)) == (first, merged, max(left, 1))
    assert net(torch.randn(2, length, 8)).shape == (2, 4)


def test_the_last_of_several_mergings_has_no_activation_and_an_only_one_has() -> None:
    three = TokenExit(8, grid=(56, 56), left=1, width=12, classes=4)
    assert [type(part.act) for part in three.merging] == [nn.GELU, nn.GELU, nn.Identity]
    assert [part.reduction.in_features for part in three.merging] == [32, 48, 48]
    assert [type(part.act) for part in TokenExit(8, grid=(14, 14), left=1, width=12, classes=4).merging] == [nn.GELU]


def test_merging_takes_neighbours_by_row_and_column_and_pads_odd_sides() -> None:
    merging = PatchMerging(1, 4, act=False)
    merging.norm, merging.reduction.weight = nn.Identity(), nn.Parameter(torch.eye(4))
    grid = torch.arange(6.0).reshape(1, 2, 3, 1)
    assert merging(grid)[0].tolist() == [[[0.0, 3.0, 1.0, 4.0], [2.0, 5.0, 0.0, 0.0]]]


def test_a_token_exit_is_its_formula_with_timms_blocks() -> None:
    """784 tokens without a class token: two mergings of four neighbours written out, then blocks, mean, linear."""
    from timm.models.vision_transformer import Block

    torch.manual_seed(0)
    net: TokenExit = exit_for((2, 784, 6), left=2, classes=3, width=8).double()  # type: ignore[assignment]
    tokens = torch.randn(2, 784, 6, dtype=torch.float64)
    found, side = tokens.unflatten(1, (28, 28)), 28
    for merging, act in zip(net.merging, (nn.functional.gelu, nn.Identity()), strict=True):
        side //= 2
        rows = []
        for i in range(side):
            for j in range(side):
                four = [found[:, 2 * i + di, 2 * j + dj] for di, dj in ((0, 0), (1, 0), (0, 1), (1, 1))]
                x = torch.cat(four, -1)
                x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
                rows.append(act((x * merging.norm.weight + merging.norm.bias) @ merging.reduction.weight.T))
        found = torch.stack(rows, 1).unflatten(1, (side, side))
    found = found.flatten(1, 2)
    for block in net.blocks:
        theirs = Block(8, num_heads=4, mlp_ratio=4.0, qkv_bias=False, norm_layer=nn.LayerNorm).double()
        theirs.load_state_dict(block.state_dict())
        found = theirs(found)
    torch.testing.assert_close(net(tokens), found.mean(1) @ net.head.weight.T + net.head.bias)


def test_a_swin_map_is_read_as_a_grid_of_tokens_row_by_row() -> None:
    torch.manual_seed(0)
    net = exit_for((2, 8, 14, 21), left=2, classes=4, width=12, tokens=True)
    assert isinstance(net, TokenExit)
    features = torch.randn(2, 8, 14, 21)
    torch.testing.assert_close(net(features), net(features.permute(0, 2, 3, 1).flatten(1, 2)))
    small = exit_for((2, 8, 4, 4), left=2, classes=4, width=12, tokens=True)
    assert isinstance(small.widen, nn.Linear)  # nothing merges, so the width is brought up by itself
    assert small(torch.randn(2, 8, 4, 4)).shape == (2, 4)


def test_of_two_class_tokens_the_first_is_read() -> None:
    torch.manual_seed(0)
    net = exit_for((2, 18, 8), left=1, classes=4, width=8)
    net.blocks = nn.Sequential()  # without attention tokens do not mix
    tokens = torch.randn(2, 18, 8)
    assert torch.equal(net(tokens), net.head(tokens[:, 0]))
    none = exit_for((2, 16, 8), left=1, classes=4, width=8)
    none.blocks = nn.Sequential()
    torch.testing.assert_close(none(tokens[:, 2:]), none.head(tokens[:, 2:].mean(1)))


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    for net in (MapExit(64, left=1, width=64, classes=50), TokenExit(64, grid=(14, 14), left=1, width=64, classes=50)):
        for part in net.modules():
            if isinstance(part, nn.Linear):
                assert float(part.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
                assert part.bias is None or not part.bias.any()
            if isinstance(part, nn.Conv2d):
                out = part.out_channels * part.kernel_size[0] ** 2
                assert float(part.weight.detach().std()) == pytest.approx((2 / out) ** 0.5, rel=0.15)
    block = net.blocks[0]
    assert (block.attn.qkv.bias, block.attn.heads, block.norm1.eps) == (None, 4, 1e-5)
    assert TokenExit(6, grid=(2, 2), left=1, width=6, classes=3).blocks[0].attn.heads == 2  # 4 would not divide 6


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((2, 15, 8), {}, "15 tokens with 0, 1 or 2 class tokens leave no square grid"),
        ((2, 197, 8), {"class_tokens": 0}, "197 tokens with class_tokens=0"),
        ((2, 3, 8), {"class_tokens": 3}, "no square grid"),
        ((2, 8), {}, r"a stage of the student gives \[2, 8\]"),
        ((2, 197, 8), {"width": 12}, "both widths must be equal"),
    ],
)
def test_what_no_exit_can_read_is_refused(shape: tuple[int, ...], options: dict[str, int], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        exit_for(shape, **{"left": 1, "classes": 4, "width": 8, **options})


def test_registers_are_counted_by_hand() -> None:
    assert square_grid(16 + 5, 5) == (5, 4)
    assert exit_for((2, 21, 8), left=1, classes=3, width=8, class_tokens=5)(torch.randn(2, 21, 8)).shape == (2, 3)
