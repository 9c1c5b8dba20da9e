"""Codecs give back what they were given, within the error they state, in the bytes they state."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distil.cache import bits
from distil.cache.codecs import (
    CODECS,
    Codec,
    Dense8,
    Dense16,
    Dense32,
    Features16,
    Int8,
    Sampled,
    TopK,
    codec_from,
    get_codec,
)
from distil.errors import DistilError

ALL: list[Codec] = [
    Dense32(), Dense16(), Dense8(), TopK(1), TopK(5), TopK(7, bits=8), TopK(4, bits=3, temperature=4.0), Sampled(6),
    Sampled(9, power=0.6, temperature=2.0), Features16(), Int8(),
]  # fmt: skip


def logits(rows: int, width: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * scale


# ---- bits


@given(st.integers(1, 40), st.integers(1, 200_000), st.integers(0, 5), st.randoms())
@settings(max_examples=30)
def test_sorted_ids_come_back(count: int, universe: int, rows: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    ids = np.sort(rng.integers(0, universe, (rows, count)), axis=1)
    packed = bits.pack_sorted(ids, universe)
    assert packed.shape == (rows, bits.layout(count, universe).bytes)
    assert (bits.unpack_sorted(packed, count, universe) == ids).all()


@given(st.integers(1, 24), st.integers(1, 30), st.randoms())
@settings(max_examples=30)
def test_fields_come_back(width: int, count: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    values = rng.integers(0, 2**width, (3, count))
    packed = bits.pack_fields(values, width)
    assert packed.shape == (3, math.ceil(width * count / 8))
    assert (bits.unpack_fields(packed, count, width) == values).all()


def test_ids_stay_near_the_floor_of_what_choosing_them_costs() -> None:
    for count, universe in ((32, 128_256), (64, 128_256), (128, 128_256), (64, 32_000)):
        floor = (math.lgamma(universe + 1) - math.lgamma(count + 1) - math.lgamma(universe - count + 1)) / math.log(2)
        assert floor / 8 < bits.layout(count, universe).bytes < floor / 8 * 1.07 + 1


@pytest.mark.parametrize("ids", [[[2, 1]], [[0, 10]], [[-1, 3]]])
def test_ids_that_cannot_be_coded_are_refused(ids: list[list[int]]) -> None:
    with pytest.raises(DistilError, match="sorted upwards within 0 … 9"):
        bits.pack_sorted(np.array(ids), 10)


def test_a_row_with_another_number_of_ids_is_named() -> None:
    packed = bits.pack_sorted(np.array([[1, 5]]), 10)
    packed[:] = 0
    with pytest.raises(DistilError, match="damaged"):
        bits.unpack_sorted(packed, 2, 10)


# ---- every codec


@pytest.mark.parametrize("codec", ALL, ids=str)
@given(
    rows=st.integers(1, 6),
    width=st.integers(7, 60),
    scale=st.sampled_from([0.0, 0.1, 3.0, 30.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=15)
def test_errors_stay_in_their_bounds(codec: Codec, rows: int, width: int, scale: float, seed: int) -> None:
    values = logits(rows, width, seed, scale)
    coded = codec.encode(values)
    assert coded.dtype == np.uint8
    assert coded.shape == (rows, codec.bytes(width))
    decoded = codec.decode(coded, width)
    assert (codec.error(values, decoded) <= codec.bound(values)).all()


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_every_row_can_be_read_alone(codec: Codec) -> None:
    values, keys = logits(9, 31), torch.arange(9) + 70
    whole = codec.decode(codec.encode(values, keys), 31)
    picked = codec.decode(codec.encode(values, keys)[[7, 2]], 31)
    alone = codec.decode(codec.encode(values[[7]], keys[[7]]), 31)
    for name, tensor in whole.items():
        torch.testing.assert_close(picked[name], tensor[[7, 2]], rtol=0, atol=0)
        torch.testing.assert_close(alone[name], tensor[[7]], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_a_codec_comes_back_from_its_description(codec: Codec) -> None:
    assert codec_from(codec.spec()) == codec


@pytest.mark.parametrize("codec", ALL, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(codec: Codec, bad: float) -> None:
    values = logits(2, 9)
    values[1, 3] = bad
    with pytest.raises(DistilError, match="look at the teacher's outputs"):
        codec.encode(values)


@pytest.mark.parametrize("codec", [c for c in ALL if c.logits], ids=str)
def test_a_class_that_cannot_be_stays_so(codec: Codec) -> None:
    values = logits(3, 12)
    values[:, [0, 4]] = -math.inf
    decoded = codec.decode(codec.encode(values), 12)
    assert (codec.error(values, decoded) <= codec.bound(values)).all()
    if codec.dense:
        assert (decoded["values"][:, [0, 4]] == -math.inf).all()
    else:
        assert not torch.isin(decoded["ids"], torch.tensor([0, 4])).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_taken(dtype: torch.dtype) -> None:
    values = logits(3, 12).to(dtype)
    for codec in ALL:
        assert (codec.error(values.float(), codec.decode(codec.encode(values), 12)) <= codec.bound(values)).all()


# ---- each on its own


def test_dense32_is_exact_and_dense16_exact_at_the_top() -> None:
    values = logits(5, 40) + 1e4
    assert torch.equal(Dense32().decode(Dense32().encode(values), 40)["values"], values)
    back = Dense16().decode(Dense16().encode(values), 40)["values"]
    assert torch.equal(back.amax(1), values.amax(1))
    assert torch.equal(back.argmax(1), values.argmax(1))
    assert (values - values.half().float()).abs().max() > 100 * (values - back).abs().max()


def test_dense8_is_exact_at_the_top_and_ends_50_below() -> None:
    values = torch.tensor([[3.25, 3.25, -math.inf, -80.0, -46.75], [7.0, 7.0, 7.0, 7.0, 7.0]])
    back = Dense8().decode(Dense8().encode(values), 5)["values"]
    assert back.tolist() == [[3.25, 3.25, -math.inf, -46.75, -46.75], [7.0] * 5]


def test_dense16_keeps_what_is_far_below_finite() -> None:
    values = torch.tensor([[0.0, -1e6, -math.inf]])
    assert Dense16().decode(Dense16().encode(values), 3)["values"].tolist() == [[0.0, -65504.0, -math.inf]]


def test_topk_keeps_the_most_likely_and_sums_to_one() -> None:
    values = logits(20, 500, scale=4)
    decoded = TopK(16).decode(TopK(16).encode(values), 500)
    assert torch.equal(decoded["ids"], values.topk(16, 1).indices.sort(1).values)
    total = decoded["log_probs"].double().exp().sum(1) + decoded["tail"]
    torch.testing.assert_close(total, torch.ones(20, dtype=torch.float64), rtol=0, atol=2e-6)
    p = values.double().softmax(1)
    torch.testing.assert_close(decoded["tail"].double(), 1 - p.topk(16, 1).values.sum(1), rtol=0.01, atol=1e-4)


def test_topk_of_all_classes_has_no_tail() -> None:
    decoded = TopK(6, bits=8).decode(TopK(6, bits=8).encode(logits(4, 6)), 6)
    assert decoded["tail"].tolist() == [0.0] * 4
    assert decoded["ids"].tolist() == [list(range(6))] * 4


def test_more_bits_come_nearer() -> None:
    values = logits(50, 300, scale=4)
    errors = [
        TopK(20, b).error(values, TopK(20, b).decode(TopK(20, b).encode(values), 300)).mean() for b in range(2, 9)
    ]
    assert errors == sorted(errors, reverse=True)


def test_a_language_models_row_takes_140_bytes() -> None:
    assert TopK(64).bytes(128_256) == 140
    assert Sampled(50).bytes(128_256) == 85


def test_sampled_draws_follow_the_teacher_exactly() -> None:
    """Uniform numbers on a fine grid enumerate the distribution: every class is drawn as often as it is likely."""
    codec, grid = Sampled(1), 4096
    values = torch.tensor([[0.3, 1.2, -0.7]])
    u = (torch.arange(grid, dtype=torch.float64)[:, None] + 0.5) / grid
    ids = codec.decode(codec.encode_drawn(values.expand(grid, -1), u), 3)["ids"][:, 0]
    share = ids.bincount(minlength=3).double() / grid
    torch.testing.assert_close(share, values[0].double().softmax(0), rtol=0, atol=1 / grid)


@pytest.mark.parametrize("codec", [Sampled(2), Sampled(2, power=0.5), Sampled(2, power=0.7, temperature=3.0)], ids=str)
def test_the_expectation_over_all_draws_is_the_teacher(codec: Sampled) -> None:
    """Every pair of classes with its probability under the proposal: the mean of the weights of a class is p."""
    values = torch.tensor([[0.3, 1.2, -0.7, 2.0]])
    log_p = (values[0].double() / codec.temperature).log_softmax(0)
    pi = (codec.power * log_p).softmax(0)
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), pi.cumsum(0)])
    middle = (edges[1:] + edges[:-1]) / 2
    expected = torch.zeros(4, dtype=torch.float64)
    for first, second in itertools.product(range(4), repeat=2):
        coded = codec.encode_drawn(values, torch.stack([middle[first], middle[second]])[None])
        decoded = codec.decode(coded, 4)
        assert sorted([first, second]) == decoded["ids"][0].tolist()
        chance = pi[first] * pi[second]
        expected.index_add_(0, decoded["ids"][0], chance * decoded["weights"][0].double())
    torch.testing.assert_close(expected, log_p.exp(), rtol=1e-3 if codec.power != 1 else 1e-6, atol=0)


def test_draws_depend_on_seed_and_key_alone() -> None:
    values = logits(4, 100)
    one, two = (
        Sampled(20).encode(values, torch.tensor([5, 6, 7, 8])),
        Sampled(20).encode(values[2:], torch.tensor([7, 8])),
    )
    assert (one[2:] == two).all()
    assert (one != Sampled(20, seed=1).encode(values, torch.tensor([5, 6, 7, 8]))).any()


def test_features_beyond_half_precision_are_refused_by_one_and_taken_by_the_other() -> None:
    big = torch.tensor([[1e5, -2.0]])
    with pytest.raises(DistilError, match="beyond fp16"):
        Features16().encode(big)
    assert Int8().decode(Int8().encode(big), 2)["values"][0, 0] == pytest.approx(1e5)


def test_a_row_of_zeros_is_zeros() -> None:
    zeros = torch.zeros(2, 5)
    for codec in (Features16(), Int8(), Dense16(), Dense8()):
        assert torch.equal(codec.decode(codec.encode(zeros), 5)["values"], zeros)


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("dense16", Dense16()),
        ("dense8", Dense8()),
        ("topk64", TopK(64)),
        ("topk8x6", TopK(8, 6)),
        ("sampled50", Sampled(50)),
        ("int8", Int8()),
    ],
)
def test_codecs_have_names(text: str, codec: Codec) -> None:
    assert get_codec(text) == codec


def test_unknown_codecs_and_impossible_settings_are_refused() -> None:
    assert set(CODECS) == {"dense32", "dense16", "dense8", "topk", "sampled", "features16", "int8", "bytes"}
    with pytest.raises(DistilError, match="'bytes' is unknown"):
        get_codec("bytes")
    with pytest.raises(DistilError, match="did you mean 'dense16'"):
        get_codec("dense61")
    with pytest.raises(DistilError, match="update distil"):
        codec_from({"name": "topk", "k": 3, "colour": 1})
    with pytest.raises(DistilError, match="k=0"):
        TopK(0)
    with pytest.raises(DistilError, match="power=2"):
        Sampled(5, power=2)
    with pytest.raises(DistilError, match="k=9 of 4 classes"):
        TopK(9).encode(logits(1, 4))
