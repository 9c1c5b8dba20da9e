"""What decides how much the teacher counts: a small network over a sample's state, or one number for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from torch import Tensor, nn

from distil.data.held import places_of
from distil.errors import DistilError

__all__ = ["Controller", "FreeRatios"]


@final
class Controller(nn.Module):
    """Linear layers with an activation between them, and a sigmoid: state [B, W] → α [B] in (0, 1).

    Args:
        width: W, the numbers of a state.
        hidden: widths of the layers between; (32, 16) is the released MLP script's, (128,) the CIFAR code's.
        activation: "leaky" (slope 0.01, the script's) or "relu" (the CIFAR code's).

    >>> import torch
    >>> Controller(18)(torch.zeros(5, 18)).shape
    torch.Size([5])
    """

    def __init__(self, width: int, hidden: Sequence[int] = (32, 16), *, activation: str = "leaky") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.LeakyReLU(0.01) if activation == "leaky" else nn.ReLU()]
            width = size
        self.net = nn.Sequential(*layers, nn.Linear(width, 1), nn.Sigmoid())

    def forward(self, state: Tensor) -> Tensor:
        """Return one ratio for each row; never a column, which would broadcast against a batch."""
        ratio: Tensor = self.net(state)
        return ratio.squeeze(1)


@final
class FreeRatios(nn.Module):
    """One free number for each training sample, found by its id; its sigmoid is α, 0.5 at the start.

    >>> import torch
    >>> FreeRatios(torch.tensor([7, 3]))(torch.tensor([3, 7, 7]))
    tensor([0.5000, 0.5000, 0.5000], grad_fn=<SqueezeBackward1>)
    """

    ids: Tensor

    def __init__(self, ids: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", ids.unique())
        self.raw = nn.Embedding(len(self.ids), 1)
        nn.init.zeros_(self.raw.weight)
        self.squash = nn.Sigmoid()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + "ids")
        if isinstance(stored, Tensor) and stored.shape != self.ids.shape:  # known only once the data were read
            self.ids = self.ids.new_empty(stored.shape)
            self.raw.weight.data = self.raw.weight.data.new_zeros(len(stored), 1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, ids: Tensor) -> Tensor:
        """Return α of the samples ``ids``, [B]."""
        place = places_of(ids, self.ids)
        if place is None:
            raise DistilError(
                "rule=free has one ratio for each training sample, and the batch holds others (or prepare(data) was "
                "not called); prepare with all data that are trained on."
            )
        ratio: Tensor = self.squash(self.raw(place))
        return ratio.squeeze(1)
