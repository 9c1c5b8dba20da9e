"""GIN, the graph isomorphism network, from torch-geometric's layers.

Xu, Hu, Leskovec, Jegelka, *How Powerful are Graph Neural Networks?*, ICLR 2019, arXiv 1810.00826.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from distil.models.gnn import _pyg, _widths

__all__ = ["GIN"]


class GIN(nn.Module):
    """Sums over a node and its neighbours, each followed by a linear layer: ``W Σ_{j ∈ N(i) ∪ i} x_j + b``.

    Between layers: ReLU, then dropout. The weight of a node itself is fixed (ε = 0), as in GNNDelete's experiments.

    Args:
        in_features, hidden, classes: the widths.
        layers: the number of layers, the last one included.
        dropout: between layers, after the ReLU.

    >>> import torch
    >>> GIN(3, 8, 2)(torch.ones(4, 3), torch.tensor([[0, 1], [1, 0]])).shape
    torch.Size([4, 2])
    """

    needs_edges = True

    def __init__(self, in_features: int, hidden: int, classes: int, *, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        widths = _widths("GIN", in_features, hidden, classes, layers, dropout)
        convolution = _pyg().GINConv
        self.layers = nn.ModuleList(convolution(nn.Linear(a, b)) for a, b in pairwise(widths))
        self.dropout = dropout

    def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits (or embeddings) ``[N, C]`` from features ``[N, F]`` and edges ``[2, E]``."""
        hidden = inputs
        for layer in self.layers[:-1]:
            hidden = F.dropout(F.relu(layer(hidden, edge_index)), self.dropout, self.training)
        return self.layers[-1](hidden, edge_index)
