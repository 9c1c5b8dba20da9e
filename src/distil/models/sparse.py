"""A linear layer that reads mostly-zero features, such as a bag of words, in compressed rows."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["SparseLinear", "compressed_rows"]

# Features of a graph are the same tensor in every epoch: compressed once for all layers that read them, and forgotten
# with them.
_ROWS = WeakIdKeyDictionary()


def compressed_rows(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``features`` ``[N, F]`` and its transpose in compressed sparse rows, made once per tensor.

    A tensor that was changed in place is compressed anew.
    """
    version = 0 if features.is_inference() else features._version
    known = _ROWS.get(features)
    if known is None or known[0] != version:
        # Outside inference mode, so that what an evaluation compressed can serve a training step.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            plain = features.clone()
            known = (version, plain.to_sparse_csr(), plain.t().contiguous().to_sparse_csr())
        _ROWS[features] = known
    return known[1], known[2]


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(columns)
        return torch.sparse.mm(rows, weight.t())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor]:  # type: ignore[no-untyped-def]
        (columns,) = ctx.saved_tensors
        return None, None, torch.sparse.mm(columns, grad.contiguous()).t()


class SparseLinear(nn.Linear):
    """``nn.Linear`` for features that are mostly zeros and do not change: the same values, parameters and keys.

    The product costs as many steps as there are non-zero features. Inputs that need a gradient, or that are in half
    precision, take the dense path; so does everything inside autocast.

    >>> layer = SparseLinear(4, 2)
    >>> x = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    >>> torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    True
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ weight.T + bias`` for ``[N, in_features]``."""
        plain = input.ndim != 2 or input.requires_grad or input.dtype not in (torch.float32, torch.float64)
        if plain or torch.is_autocast_enabled(input.device.type) or torch.compiler.is_compiling():
            return F.linear(input, self.weight, self.bias)
        rows, columns = compressed_rows(input)
        product = _SparseProduct.apply(rows, columns, self.weight)
        return product if self.bias is None else product + self.bias
