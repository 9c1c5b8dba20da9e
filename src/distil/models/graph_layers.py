"""Graph convolutions whose sum over neighbours is one sparse product, made once for the edges of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from distil.functional.incidence import SparseMap, sparse_map

__all__ = ["neighbourhood"]

_KNOWN = WeakIdKeyDictionary()


def __getattr__(name: str) -> Any:
    """Make the class with its first use, since its library is an extra; by this name it pickles."""
    if name != "Convolution":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torch_geometric.nn import GCNConv

    class Convolution(GCNConv):
        """torch-geometric's GCNConv, which takes a :class:`SparseMap` in place of edges and weights as well."""

        def propagate(self, edge_index: Any, *args: Any, **features: Any) -> Tensor:
            """Sum over neighbours."""
            if isinstance(edge_index, SparseMap):
                return edge_index(features["x"])
            summed: Tensor = super().propagate(edge_index, *args, **features)
            return summed

    Convolution.__qualname__ = name
    globals()[name] = Convolution
    return Convolution


def neighbourhood(
    edge_index: Tensor, hidden: Tensor, *, kind: str, make: Callable[[], tuple[Tensor, Tensor]]
) -> SparseMap | None:
    """Return the sum over neighbours as a sparse map, made once per tensor of edges; None where it does not serve.

    In inference mode it is made when a tensor comes again: a part of a graph that is fetched for one answer never does.

    Args:
        edge_index: (2, E) as the model was given it.
        hidden: what will be summed; its length, precision and device decide.
        kind: a name for what ``make`` does.
        make: gives the edges (2, E') and their weights (E',).
    """
    plain = type(hidden) is not Tensor or type(edge_index) is not Tensor
    if plain or torch.compiler.is_compiling() or torch.jit.is_tracing() or hidden.device.type != "cpu":
        return None
    if hidden.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):
        return None
    version = 0 if edge_index.is_inference() else edge_index._version
    key = (kind, len(hidden), hidden.dtype)
    known = _KNOWN.get(edge_index)
    if known is None or known[0] != version:
        known = (version, {})
        _KNOWN[edge_index] = known
    if key not in known[1] and torch.is_inference_mode_enabled():
        known[1][key] = None
        return None
    if known[1].get(key) is None:
        edges, weights = make()
        known[1][key] = sparse_map(edges.flip(0), weights.to(hidden.dtype), (len(hidden), len(hidden)))
    found: SparseMap = known[1][key]
    return found
