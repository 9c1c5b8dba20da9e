"""Know of every real optimizer step, in whoever's loop it is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

__all__ = ["Watch"]


class Watch:
    """Calls ``stepped`` once after each round of the optimizers' steps, or ``skipped`` where none of them moved.

    The optimizer's own post-step hook is used, so accumulation, gradient scaling and foreign loops need no care.

    Args:
        optimizers: torch optimizers, or wrappers with an ``.optimizer`` (accelerate's has no hook table of its own).
        stepped: called after the last of them has stepped.
        skipped: called instead where a scaler found an infinity in all of them.
    """

    def __init__(self, optimizers: Sequence[Any], *, stepped: Callable[[], None], skipped: Callable[[], None]) -> None:
        self._stepped, self._skipped = stepped, skipped
        self._inner: list[Optimizer] = [getattr(o, "optimizer", o) for o in optimizers]
        self._done: set[int] = set()
        self._moved = False
        self._hooks = [o.register_step_post_hook(self._after) for o in self._inner]

    def release(self) -> None:
        """Take the hooks off again."""
        for hook in self._hooks:
            hook.remove()

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A fused optimizer runs its hook even where the scaler found an infinity and nothing moved.
        found = getattr(optimizer, "found_inf", None)
        self._moved |= found is None or float(found) == 0
        self._done.add(id(optimizer))
        if len(self._done) == len(self._inner):
            moved, self._moved = self._moved, False
            self._done.clear()
            (self._stepped if moved else self._skipped)()
