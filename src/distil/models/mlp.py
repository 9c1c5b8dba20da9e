"""The multi-layer perceptron: student and teacher of small experiments, and what a graph network is distilled into."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError
from distil.models.sparse import SparseLinear
from distil.models.thinning import thinned

__all__ = ["MLP"]


class MLP(nn.Module):
    """Linear → ReLU → dropout for every layer but the last, then Linear; no dropout on the input and no normalisation.

    Inputs of any shape ``[B, ...]`` are flattened to ``[B, in_features]``; the output is logits ``[B, classes]``. The
    state dict has the keys ``layers.K.weight`` and ``layers.K.bias`` and nothing else.

    Args:
        in_features: the number of input values of one sample.
        hidden: the width of every hidden layer, or one width per hidden layer (then ``layers`` follows from it).
        classes: the number of outputs.
        layers: the number of Linear layers, the last one included; 1 is a linear classifier.
        dropout: the probability of zeroing a hidden unit after its ReLU, in [0, 1).
        sparse_inputs: the inputs are mostly zeros and the same tensor in every epoch (a graph's bag of words); the
            first layer then skips the zeros. Values and keys stay the same.

    >>> import torch
    >>> MLP(4, 8, 3, layers=2)(torch.zeros(5, 2, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        in_features: int,
        hidden: int | Sequence[int],
        classes: int,
        *,
        layers: int = 2,
        dropout: float = 0.0,
        sparse_inputs: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(hidden, int):
            hidden = [hidden] * (layers - 1)
        widths = [in_features, *hidden, classes]
        if layers < 1 or min(widths) < 1:
            raise DistilError(f"MLP: layers={layers} and widths {widths} must all be at least 1; correct the argument.")
        if not 0.0 <= dropout < 1.0:
            raise DistilError(f"MLP: dropout={dropout} is outside [0, 1); use for example 0.5.")
        self.in_features = in_features
        self.dropout = dropout
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        if sparse_inputs:
            self.layers[0] = SparseLinear(widths[0], widths[1])

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` for inputs ``[B, ...]`` with ``in_features`` values per sample."""
        hidden = inputs if inputs.ndim == 2 else inputs.flatten(1)
        if hidden.shape[1] != self.in_features:
            raise DistilError(
                f"MLP: inputs of shape {tuple(inputs.shape)} have {hidden.shape[1]} values per sample, but the first "
                f"layer takes {self.in_features}; make it with MLP({hidden.shape[1]}, ...)."
            )
        for layer in self.layers[:-1]:
            hidden = thinned(F.relu(layer(hidden)), self.dropout, self.training)
        return self.layers[-1](hidden)
