"""Losses over edges by chunks: values, gradients and memory against the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional import high_frequency, low_frequency
from distil.functional.edge_chunks import in_edge_chunks

N, C, E = 40, 5, 203
LOSSES = [(low_frequency, 1.0), (high_frequency, 1.5)]


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    z, h = (torch.randn(N, C, generator=draw, dtype=dtype) for _ in range(2))
    return z.requires_grad_(), h, torch.randint(N, (2, E), generator=draw), torch.rand(E, generator=draw, dtype=dtype)


@pytest.mark.parametrize(("loss", "tau"), LOSSES)
@pytest.mark.parametrize("chunk", [1, 7, 64, E, 10 * E])
def test_the_sum_over_chunks_is_the_whole_in_value_and_gradient(
    loss: Callable[..., Tensor], tau: float, chunk: int
) -> None:
    z, h, edges, weight = inputs()
    whole = loss(z, h, edges, temperature=tau, reduction="none")
    (expected,) = torch.autograd.grad((whole * weight).sum() / E, z)
    values = in_edge_chunks(loss, z, h, edges, chunk=chunk, temperature=tau)
    (found,) = torch.autograd.grad((values * weight).sum() / E, z)
    torch.testing.assert_close(values, whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("loss", "tau"), LOSSES)
def test_the_gradient_is_that_of_finite_differences(loss: Callable[..., Tensor], tau: float) -> None:
    z, h, edges, _ = inputs()
    edges = edges[:, edges[0] != edges[1]]
    assert torch.autograd.gradcheck(
        lambda s: in_edge_chunks(loss, s, h, edges[:, :20], chunk=6, temperature=tau).sum(), (z,)
    )


def most_kept(run: Callable[[], Tensor]) -> int:
    """The numbers that autograd keeps from the forward pass, the inputs left out."""
    kept = 0

    def pack(tensor: Tensor) -> Any:
        nonlocal kept
        kept += tensor.numel() if tensor.dim() == 2 and tensor.shape[1] == C and tensor.shape[0] != N else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return kept


@pytest.mark.parametrize(("loss", "tau"), LOSSES)
def test_nothing_of_the_size_of_edges_times_classes_is_kept(loss: Callable[..., Tensor], tau: float) -> None:
    z, h, edges, _ = inputs()
    assert most_kept(lambda: loss(z, h, edges, temperature=tau, reduction="none")) >= E * C
    assert most_kept(lambda: in_edge_chunks(loss, z, h, edges, chunk=16, temperature=tau)) == 0


def test_no_edges_no_gradient_and_half_precision() -> None:
    z, h, edges, _ = inputs(torch.float32)
    assert in_edge_chunks(low_frequency, z, h, edges[:, :0], chunk=4).shape == (0,)
    with torch.no_grad():
        whole = low_frequency(z, h, edges, reduction="none")
        assert torch.equal(in_edge_chunks(low_frequency, z, h, edges, chunk=50), whole)
    half = in_edge_chunks(high_frequency, z.bfloat16(), h.bfloat16(), edges, chunk=50)
    assert half.dtype == torch.float32
    with pytest.raises(DistilError, match="chunk=0 edges at a time is impossible"):
        in_edge_chunks(low_frequency, z, h, edges, chunk=0)
