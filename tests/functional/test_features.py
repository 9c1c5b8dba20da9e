"""Hints and attention maps against torch and plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import distil.functional as D
from distil.errors import DistilError

from .oracles import attention, gradient, normal

S, T = normal(3, 4, 6, 6), normal(3, 5, 6, 6, seed=1)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 3, 2, 2)])
def test_mse_is_torchs(shape: tuple[int, ...]) -> None:
    student, teacher = normal(*shape), normal(*shape, seed=1)
    torch.testing.assert_close(D.mse(student, teacher), F.mse_loss(student, teacher))
    assert D.mse(student, teacher, reduction="none").shape == (5,)


def test_mse_refuses_other_widths_and_single_numbers() -> None:
    with pytest.raises(DistilError, match=r"\(2, 3\) and the teacher \(2, 4\).*put a regressor"):
        D.mse(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(DistilError, match="keep the batch"):
        D.mse(torch.tensor(0.0), torch.tensor(0.0))


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_attention_is_the_normalised_energy(p: int) -> None:
    np.testing.assert_allclose(D.attention_map(S, p=p).numpy(), attention(S.numpy(), p), rtol=1e-10)
    torch.testing.assert_close(D.attention_map(S.abs(), p=p), D.attention_map(S, p=p, variant="paper"))


@pytest.mark.parametrize("p", [2, 4])
def test_transfer_is_the_mean_square_or_the_length_of_the_gap(p: int) -> None:
    gap = attention(S.numpy(), p) - attention(T.numpy(), p)
    code, paper = (D.attention_transfer(S, T, p=p, variant=v) for v in ("code", "paper"))
    np.testing.assert_allclose(code, (gap**2).mean(), rtol=1e-10)
    np.testing.assert_allclose(paper, np.linalg.norm(gap, axis=1).sum() / len(gap), rtol=1e-10)


@given(student=st.floats(1e-3, 1e3), teacher=st.floats(1e-3, 1e3))
def test_transfer_ignores_a_positive_scale_of_either_map(student: float, teacher: float) -> None:
    torch.testing.assert_close(D.attention_transfer(student * S, teacher * T), D.attention_transfer(S, T))


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_all_zero_maps_give_zero_attention_and_no_gradient(variant: str, p: int) -> None:
    zero = torch.zeros(2, 3, 4, 4)
    assert (D.attention_map(zero, p=p, variant=variant) == 0).all()
    assert gradient(lambda s: D.attention_transfer(s, zero, p=p, variant=variant), zero).abs().max() == 0


def test_a_fractional_power_is_for_the_paper_variant_only() -> None:
    assert gradient(lambda s: D.attention_transfer(s, T, p=0.5, variant="paper"), S.relu()).isfinite().all()
    with pytest.raises(DistilError, match=r"p=0\.5 with variant='code' keeps signs"):
        D.attention_map(S, p=0.5)
    with pytest.raises(DistilError, match="did you mean 'paper'"):
        D.attention_map(S, variant="papr")
    with pytest.raises(DistilError, match=r"the map is \(3, 4\)"):
        D.attention_map(torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("student", "teacher", "met"),
    [((8, 8), (4, 4), (4, 4)), ((4, 4), (8, 8), (4, 4)), ((5, 7), (5, 7), (5, 7)), ((8, 3), (4, 6), (4, 3))],
)
def test_the_larger_map_is_average_pooled_to_the_smaller(student, teacher, met) -> None:
    maps = normal(2, 3, *student), normal(2, 5, *teacher, seed=1)
    for pooled, original in zip(D.pool_match(*maps), maps):
        torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(original, met))
    assert D.attention_transfer(*maps).isfinite()


def test_maps_of_other_ranks_or_batches_are_refused() -> None:
    with pytest.raises(DistilError, match=r"the student's map is \(2, 3\) but \(B, C, H, W\)"):
        D.pool_match(torch.zeros(2, 3), S)
    with pytest.raises(DistilError, match=r"the teacher's map is \(3, 5, 6, 6\) but \(2, C, H, W\)"):
        D.pool_match(S[:2], T)
