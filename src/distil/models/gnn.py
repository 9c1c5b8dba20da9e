"""The graph networks that teach node classifiers: GCN, GAT and GraphSAGE, from torch-geometric's layers.

All three take ``(inputs [N, F], edge_index [2, E])`` with both directions of every edge, and return logits ``[N, C]``.
Between layers: ReLU, then dropout; none on the input. Self loops are added once inside, whether or not the edges hold
them. Nodes are counted by ``shape[0]``: ``len`` makes a plain number, to which an exported network would be bound.

Kipf, Welling, ICLR 2017 (arXiv 1609.02907); Veličković et al., ICLR 2018 (arXiv 1710.10903); Hamilton, Ying, Leskovec,
NeurIPS 2017 (arXiv 1706.02216). Layer choices follow the teachers of FF-G2M (AAAI 2023, arXiv 2305.10758).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError
from distil.models.sparse import SparseLinear
from distil.models.thinning import thinned

__all__ = ["GAT", "GCN", "SAGE"]


def _pyg() -> Any:
    try:
        import torch_geometric.nn as layers
    except ImportError as error:
        raise DistilError(
            "graph networks need torch-geometric; install it with pip install 'distil[graph]'."
        ) from error
    return layers


def _widths(name: str, in_features: int, hidden: int, classes: int, layers: int, dropout: float) -> list[int]:
    widths = [in_features, *[hidden] * (layers - 1), classes]
    if layers < 1 or min(widths) < 1 or not 0.0 <= dropout < 1.0:
        raise DistilError(f"{name}: layers={layers}, widths {widths} must be >= 1 and dropout={dropout} in [0, 1).")
    return widths


def _with_loops(edge_index: Tensor, nodes: int) -> Tensor:
    from torch_geometric.utils import add_remaining_self_loops

    return add_remaining_self_loops(edge_index, num_nodes=nodes)[0]


def _sparse(below: int, width: int) -> SparseLinear:
    """Return an input layer for sparse features, initialised as torch-geometric does."""
    layer = SparseLinear(below, width, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


class GCN(nn.Module):
    """Graph convolutions with symmetric normalisation: each layer is ``D^-1/2 (A + I) D^-1/2 X W + b``.

    Args:
        in_features, hidden, classes: the widths.
        layers: the number of graph convolutions, the last one included.
        dropout: between layers, after the ReLU.
        sparse_inputs: the features are mostly zeros (bag of words); the first product then skips the zeros.

    >>> GCN(3, 8, 2)(torch.ones(4, 3), torch.tensor([[0, 1], [1, 0]])).shape
    torch.Size([4, 2])
    """

    needs_edges = True

    def __init__(
        self,
        in_features: int,
        hidden: int,
        classes: int,
        *,
        layers: int = 2,
        dropout: float = 0.0,
        sparse_inputs: bool = False,
    ) -> None:
        super().__init__()
        widths = _widths("GCN", in_features, hidden, classes, layers, dropout)
        # The normalised edges are computed once per forward and shared by the layers.
        _pyg()
        from distil.models.graph_layers import Convolution

        self.layers = nn.ModuleList(Convolution(a, b, normalize=False) for a, b in pairwise(widths))
        if sparse_inputs:
            self.layers[0].lin = _sparse(widths[0], widths[1])
        self.dropout = dropout

    def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits ``[N, C]`` from features ``[N, F]`` and edges ``[2, E]``."""
        from torch_geometric.nn.conv.gcn_conv import gcn_norm

        from distil.models.graph_layers import neighbourhood

        def normalised() -> tuple[Tensor, Tensor]:
            edges, weight = gcn_norm(edge_index, None, inputs.shape[0], False, True, dtype=inputs.dtype)
            return edges, weight

        whole: Any = neighbourhood(edge_index, inputs, kind="gcn", make=normalised)
        edges, weight = (whole, None) if whole is not None else normalised()
        hidden = inputs
        for layer in self.layers[:-1]:
            hidden = thinned(F.relu(layer(hidden, edges, weight)), self.dropout, self.training)
        return self.layers[-1](hidden, edges, weight)


class GAT(nn.Module):
    """Graph attention: several heads, concatenated, in the hidden layers and one head, averaged, in the last.

    Args:
        in_features, classes: the widths.
        hidden: the width of a hidden layer, all heads together; a multiple of ``heads``.
        layers: the number of attention layers, the last one included.
        heads: of every hidden layer.
        dropout: between layers, after the ReLU.
        input_dropout: on the features; FF-G2M's teachers drop out whatever enters a layer, so there it is ``dropout``.
        attention_dropout: on the attention coefficients.
        slope: of the leaky ReLU inside the attention.
        sparse_inputs: as in :class:`GCN`.

    >>> GAT(3, 8, 2)(torch.ones(4, 3), torch.tensor([[0, 1], [1, 0]])).shape
    torch.Size([4, 2])
    """

    needs_edges = True

    def __init__(
        self,
        in_features: int,
        hidden: int,
        classes: int,
        *,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        attention_dropout: float = 0.3,
        slope: float = 0.2,
        sparse_inputs: bool = False,
    ) -> None:
        super().__init__()
        widths = _widths("GAT", in_features, hidden, classes, layers, dropout)
        if hidden % heads:
            raise DistilError(f"GAT: hidden={hidden} is no multiple of heads={heads}; each head gets hidden / heads.")
        shared: dict[str, Any] = {"negative_slope": slope, "dropout": attention_dropout, "add_self_loops": False}
        convolution = _pyg().GATConv
        hidden_layers = [convolution(a, b // heads, heads=heads, **shared) for a, b in pairwise(widths[:-1])]
        self.layers = nn.ModuleList([*hidden_layers, convolution(widths[-2], classes, heads=1, concat=False, **shared)])
        if sparse_inputs:
            self.layers[0].lin = _sparse(widths[0], widths[1])
        if not 0.0 <= input_dropout < 1.0:
            raise DistilError(f"GAT: input_dropout={input_dropout} is outside [0, 1); use for example 0.5.")
        self.dropout, self.input_dropout = dropout, input_dropout

    def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits ``[N, C]`` from features ``[N, F]`` and edges ``[2, E]``."""
        edges = _with_loops(edge_index, inputs.shape[0])
        hidden = thinned(inputs, self.input_dropout, self.training)
        for layer in self.layers[:-1]:
            hidden = thinned(F.relu(layer(hidden, edges)), self.dropout, self.training)
        return self.layers[-1](hidden, edges)


class SAGE(nn.Module):
    """GraphSAGE with the "gcn" aggregator: each layer is ``mean over (node and its neighbours) of X W, + b``.

    Args:
        in_features, hidden, classes, layers, dropout, sparse_inputs: as in :class:`GCN`.
        self_loops: how often a node counts among its neighbours: once, or twice where the aggregator adds the node to a
            graph that already has self loops, as under FF-G2M's teachers.

    >>> SAGE(3, 8, 2)(torch.ones(4, 3), torch.tensor([[0, 1], [1, 0]])).shape
    torch.Size([4, 2])
    """

    needs_edges = True

    def __init__(
        self,
        in_features: int,
        hidden: int,
        classes: int,
        *,
        layers: int = 2,
        dropout: float = 0.0,
        self_loops: int = 1,
        sparse_inputs: bool = False,
    ) -> None:
        super().__init__()
        widths = _widths("SAGE", in_features, hidden, classes, layers, dropout)
        if self_loops not in (1, 2):
            raise DistilError(f"SAGE: self_loops={self_loops}; a node counts once (1) or twice (2).")
        # The mean commutes with the product, so features are projected before they travel along the edges.
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        if sparse_inputs:
            self.layers[0] = SparseLinear(widths[0], widths[1], bias=False)
        for parameter in self.layers.parameters():
            nn.init.xavier_uniform_(parameter)
        self.biases = nn.ParameterList(torch.zeros(width) for width in widths[1:])
        self.mean = _pyg().SimpleConv(aggr="mean")
        self.dropout, self.self_loops = dropout, self_loops

    def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits ``[N, C]`` from features ``[N, F]`` and edges ``[2, E]``."""
        from distil.models.graph_layers import neighbourhood

        def joined() -> Tensor:
            edges = _with_loops(edge_index, inputs.shape[0])
            loops = torch.arange(inputs.shape[0], device=edges.device).expand(2, -1)
            return edges if self.self_loops == 1 else torch.cat([edges, loops], 1)

        def shares() -> tuple[Tensor, Tensor]:
            edges = joined()
            return edges, 1.0 / edges[1].bincount(minlength=inputs.shape[0])[edges[1]]

        whole = neighbourhood(edge_index, inputs, kind=f"mean{self.self_loops}", make=shares)
        edges = joined() if whole is None else edge_index
        hidden = inputs
        last = len(self.layers) - 1
        for k, (layer, bias) in enumerate(zip(self.layers, self.biases)):
            below = layer(hidden)
            hidden = (self.mean(below, edges) if whole is None else whole(below)) + bias
            if k < last:
                hidden = thinned(F.relu(hidden), self.dropout, self.training)
        return hidden
