"""An exponential moving average of trained parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distil.engine.sharding import local
from distil.errors import DistilError

__all__ = ["Ema"]


class Ema:
    """Keep ``average = decay * average + (1 - decay) * parameter`` of every trainable parameter and running statistic.

    Other buffers (memories, counters, schedules) stay as they are: their mean over steps is nothing that was ever
    there.

    Args:
        module: what is trained.
        decay: in (0, 1).

    >>> layer = nn.Linear(1, 1, bias=False); ema = Ema(layer, decay=0.5)
    >>> before = layer.weight.item(); _ = layer.weight.data.add_(2.0); ema.update()
    >>> with ema.applied(): round(layer.weight.item() - before, 4)
    1.0
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise DistilError(f"ema={decay} must lie between 0 and 1 (0.999 is usual).")
        self.decay = decay
        self._live: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self._live += [b for m in norms for b in m.buffers(recurse=False) if b.is_floating_point()]
        self.average: list[Tensor] = [t.detach().clone() for t in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards what is there now."""
        torch._foreach_lerp_([local(t) for t in self.average], [local(t.detach()) for t in self._live], 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in place of the parameters, then put them back."""
        with torch.no_grad():
            kept = [t.detach().clone() for t in self._live]
            self._copy(self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                self._copy(kept)

    def settle(self) -> None:
        """Put the average in place of the parameters for good."""
        with torch.no_grad():
            self._copy(self.average)

    def _copy(self, source: list[Tensor]) -> None:
        for live, value in zip(self._live, source, strict=True):
            live.data.copy_(value)
