"""Optimizers that belong to a method: controllers, discriminators, mask networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["OwnOptimizer"]


class OwnOptimizer:
    """An optimizer over parts of a method, stepped by the method itself inside ``before_step``.

    Its parameters require grad only there, so no other optimizer, clip or DDP reducer touches them; they stay in the
    method's ``state_dict`` and the optimizer's state goes into the checkpoint. Gradients are averaged over ranks before
    the step and cleared after it.

    Args:
        parameters: a module or parameters of the method (make them in ``setup``).
        factory: a ``torch.optim`` class.
        options: passed to ``factory`` (``lr``, ``weight_decay``, …).

    >>> part = nn.Linear(1, 1)
    >>> own = OwnOptimizer(part, torch.optim.SGD, lr=0.1)
    >>> with own.active():
    ...     own.step(part(torch.ones(1, 1)).sum())
    >>> part.weight.requires_grad
    False
    """

    def __init__(
        self,
        parameters: nn.Module | Iterable[nn.Parameter],
        factory: type[torch.optim.Optimizer] = torch.optim.Adam,
        **options: Any,
    ) -> None:
        chosen = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
        self.parameters: list[nn.Parameter] = list(chosen)
        if not self.parameters:
            raise DistilError("OwnOptimizer was given no parameters; make the method's modules in setup() first.")
        self.optimizer = factory(self.parameters, **options)
        self._set(False)

    def _set(self, on: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(on)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the parameters require grad; the engine opens this around ``before_step``."""
        self._set(True)
        try:
            yield
        finally:
            self._set(False)
            self.optimizer.zero_grad(set_to_none=True)

    def step(self, loss: Tensor | None = None, *, grads: Sequence[Tensor | None] | None = None) -> None:
        """Take one step on ``loss`` (back-propagated into these parameters only), or on ``grads`` made by hand."""
        if (loss is None) == (grads is None):
            raise DistilError("OwnOptimizer.step takes either a loss or grads=.")
        if loss is not None:
            grads = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        assert grads is not None
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = _averaged(grad.detach() if grad is not None else torch.zeros_like(parameter))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the optimizer's state."""
        self.optimizer.load_state_dict(state)


def _averaged(grad: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        grad = grad.clone()
        dist.all_reduce(grad)
        grad /= dist.get_world_size()
    return grad
