"""Products with a fixed sparse matrix: sums and differences over the edges of a graph, as fast as a processor can."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from distil.functional._checks import shaped

__all__ = ["SparseMap", "sparse_map"]


@dataclass(frozen=True)
class SparseMap:
    """A fixed sparse matrix (M, N) and its transpose, both in compressed rows; call it with a dense (N, F).

    The gradient is the product with the transpose. No gradient reaches the matrix. Half precision and autocast are
    raised to the matrix's own precision.

    >>> twice = sparse_map(torch.tensor([[0, 1], [1, 1]]), torch.tensor([2.0, 1.0]), (2, 2))
    >>> twice(torch.tensor([[1.0], [3.0]]))
    tensor([[6.],
            [3.]])
    """

    rows: Tensor
    columns: Tensor

    def __call__(self, dense: Tensor) -> Tensor:
        """Return ``matrix @ dense``, (M, F)."""
        shaped("sparse_map", "dense", dense, ("N", "F"), "give one row per column of the matrix")
        with torch.autocast(dense.device.type, enabled=False):
            product: Tensor = _Product.apply(self.rows, self.columns, dense.to(self.rows.dtype))
        return product


def sparse_map(index: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseMap:
    """Return the matrix that has ``values`` (E,) at ``index`` (2, E); values at one place add up.

    Args:
        index: (2, E) int64: rows and columns.
        values: (E,), float32 or float64.
        shape: (M, N).
    """
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        index, values = index.clone(), values.clone()  # what was made in inference mode could not train later
        forth, back = (
            torch.sparse_coo_tensor(at, values, size, check_invariants=True).coalesce().to_sparse_csr()
            for at, size in ((index, shape), (index.flip(0), shape[::-1]))
        )
    return SparseMap(forth, back)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, columns: Tensor, dense: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(columns)
        return torch.sparse.mm(rows, dense.contiguous())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor]:  # type: ignore[no-untyped-def]
        (columns,) = ctx.saved_tensors
        return None, None, torch.sparse.mm(columns, grad.contiguous())
