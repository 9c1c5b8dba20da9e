"""What methods on feature maps share: an adapter for each map, and whether a classifier reads the mean of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from torch import Tensor, nn

from distil.engine.method import Traces
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.methods.align import maps_of

__all__ = ["Each", "check_pooled"]

LOOSE = 1e-2  # half-precision models pool with about this error


@final
class Each(nn.Module):
    """One adapter for each of several maps, as one module: a list goes in, a list comes out.

    >>> import torch
    >>> Each([nn.Identity(), nn.Flatten()])([torch.zeros(2, 3), torch.zeros(2, 1, 4)])[1].shape
    torch.Size([2, 4])
    """

    def __init__(self, adapters: Iterable[nn.Module]) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(adapters)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return each map through its adapter."""
        return [adapter(found) for adapter, found in zip(self.adapters, maps, strict=True)]


def check_pooled(name: str, trace: Traces, map_tap: Spec, read: Tensor, what: str) -> None:
    """Refuse a model in which ``read`` is not the average of its map over positions.

    Raises:
        DistilError: with both shapes; ``what`` says what ``read`` is.
    """
    found = maps_of(name, [map_tap], trace, tokens=True)[0]
    average = found.float().mean((2, 3))
    same = average.shape == read.shape
    if same:
        gap, scale = (average - read.float()).abs().max(), average.abs().max()
        same = bool(gap <= LOOSE * scale)
    if not same:
        raise DistilError(
            f"{name} needs a {trace.role} in which {what} is the average of the last map over its positions; here the "
            f"map is {list(found.shape)} and {what} {list(read.shape)}, which is not its average. Name the map that is "
            "pooled with taps={'map': 'path'}, or use a method on logits or embeddings (kd, dkd, dist, rkd)."
        )
