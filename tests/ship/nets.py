"""Small modules that are awkward to ship, each in its own way."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs).relu())


class TwoFaced(nn.Linear):
    """Another function while it is exported."""

    def forward(self, inputs: Tensor) -> Tensor:
        factor = 1.001 if torch.compiler.is_compiling() else 1.0
        return super().forward(inputs) * factor


class Singular(nn.Linear):
    """Uses an operator that has no ONNX form."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + torch.linalg.svdvals(inputs).sum()


class Fixed(nn.Linear):
    """Can take no other batch than the one it was traced with."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.reshape(int(inputs.shape[0]), 4)) + torch.zeros(len(inputs), 1)


class Neighbours(nn.Module):
    """A graph network in plain torch: a node and the sum of its neighbours."""

    needs_edges = True

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * features, classes)

    def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
        summed = torch.zeros_like(inputs).index_add(0, edge_index[1], inputs[edge_index[0]])
        return self.layer(torch.cat([inputs, summed], dim=1))


class Counted(Neighbours):
    """One that makes a plain number of how many nodes there are."""

    def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(inputs, edge_index) + torch.zeros(len(inputs), 1)


class Words(nn.Module):
    """A text classifier as transformers calls one: by keyword, an output with ``logits``."""

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, 6), nn.Linear(6, classes)
        self.register_buffer("places", torch.zeros(1, 9, 6))  # so it takes nine tokens at most

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        mask = attention_mask.unsqueeze(-1).float()
        places = self.get_buffer("places")[:, : input_ids.shape[1]]
        mean = ((self.embedding(input_ids) + places) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return {"logits": self.head(mean)}
