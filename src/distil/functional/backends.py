"""Which form of a loss runs: the plain one, or one whose gradient is written down, and what computes that."""

from __future__ import annotations

from types import TracebackType
from typing import Literal

from distil.errors import DistilError, nearest

__all__ = ["BACKENDS", "backend", "current"]

Name = Literal["auto", "plain", "eager", "compile", "triton"]
BACKENDS: tuple[Name, ...] = ("auto", "plain", "eager", "compile", "triton")

_chosen: Name = "auto"


class backend:
    """Choose what computes the losses of this process that have several forms; as a context, for a while.

    - "auto": on a CPU the written-down gradient where it was measured to win (many classes), the plain form elsewhere
      and on every other device.
    - "plain": always the form that autograd records: for second derivatives, `torch.func`, or to compare.
    - "eager": always the written-down gradient, in torch operations.
    - "compile": the same, its blocks through `torch.compile`; the first call of a shape takes seconds.
    - "triton": kernels for `kl`, `reverse_kl` and `jsd` on CUDA; other losses, and float64, run as "eager".

    No GPU was at hand: on CUDA neither the speed of any of them nor its memory was measured, and the Triton kernels ran
    in Triton's interpreter only (and were compiled for compute capability 9.0). That is why "auto" means "plain" there.

    Args:
        name: one of the above.

    Raises:
        DistilError: an unknown name.

    >>> with backend("plain"):
    ...     current()
    'plain'
    >>> current()
    'auto'
    """

    def __init__(self, name: Name) -> None:
        global _chosen
        if name not in BACKENDS:
            raise DistilError(f"the backend {name!r} is unknown; {nearest(str(name), BACKENDS)}")
        self._before, _chosen = _chosen, name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _chosen
        _chosen = self._before


def current() -> Name:
    """Return the name that was chosen last; "auto" where none was."""
    return _chosen
