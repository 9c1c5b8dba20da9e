"""The teacher's plain pass by the cheapest way that was seen to give the same: tried on a real batch, then used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from distil.engine.frozen import Settled, TeacherForward
from distil.engine.hooks import Cut, version_of
from distil.engine.trace import ModelHandle
from distil.engine.trial import Trial
from distil.engine.visits import ahead_of, lent, on_accelerator
from distil.engine.ways import Values, Way

__all__ = ["Shortcut"]


class Shortcut:
    """Makes a teacher handle's plain passes; the first one settles how (see :class:`TeacherForward`).

    Args:
        handle: the teacher's.
        asked: what to try.
        book: where what was settled is noted by the teacher's name, and found again by another process.
        listed: a method lists the logits, so that no pass may stop before them.
        several: there are other teachers.
        device: where batches are.
    """

    def __init__(
        self,
        handle: ModelHandle,
        asked: TeacherForward,
        book: dict[str, Settled],
        *,
        listed: bool,
        several: bool,
        device: Callable[[], torch.device],
    ) -> None:
        self.handle, self.asked, self.book = handle, asked, book
        self.listed, self.several, self.device = listed, several, device
        self._way: Way | None = None
        self._stamp = 0
        self._here = self._called = False
        self._early = 0  # passes made ahead for the open window
        if "offload" in asked.options:
            handle.summon = self._stay

    @property
    def settled(self) -> Settled:
        """What was kept, and why."""
        return self.book[self.handle.name]

    def __call__(self, batch: Mapping[str, Any]) -> tuple[Any, Values]:
        self._called = True
        way = self._ready(batch)
        with self._visit(way):
            output, values = way(batch) if self._checked else way.handle.stopped(batch)
        if "truncate" not in way.options:
            return output, values
        if self.settled.last is None:
            self.settled.last = str(next(reversed(values), "")) or None
        return Cut(partial(self._whole, batch)), values

    @property
    def _checked(self) -> bool:
        """Whether there is more to it than stopping, which runs the very same operations as the whole pass."""
        return self.asked.options != ("truncate",)

    def _ready(self, batch: Mapping[str, Any]) -> Way:
        if self._way is None or (self._way.handle is not self.handle and self._stamp != _stamp(self.handle.module)):
            self._way, self._stamp = self._made(batch), _stamp(self.handle.module)
        return self._way

    def _made(self, batch: Mapping[str, Any]) -> Way:
        device = self.device()
        with lent(self.handle.module, device) if "offload" in self.asked.options else nullcontext():
            if self.handle.name in self.book:
                way = Way.made(self.handle, tuple(self.settled.kept), batch)
            elif not self._checked:
                self.book[self.handle.name] = Settled(str(self.asked), ["truncate"])
                way = Way(self.handle, ("truncate",))
            else:
                trial = Trial(self.handle, self.asked, batch, listed=self.listed, several=self.several)
                way, self.book[self.handle.name] = trial.run()
                self.handle.seconds -= self.settled.checking_seconds  # trying is no teaching
            if "offload" in way.options and way.handle is not self.handle:
                way.handle.module.to("cpu")
        if "offload" in self.asked.options and "offload" not in way.options and on_accelerator(device):
            self._stay()
        return way

    def _whole(self, batch: Mapping[str, Any]) -> Any:
        """Make a stopped pass again to its end, since its output was asked for, and stop no other."""
        way = self._ready(batch)
        self.settled.reruns += 1
        if "truncate" in self.settled.kept:
            self.settled.kept.remove("truncate")
            self.settled.dropped["truncate"] = "the output is read by what does not list 'logits' in its taps"
            self._way = way.without("truncate")
            if not self._checked:
                self.handle.shortcut = None
        with torch.no_grad(), self._visit(way):
            return way(batch, whole=True)[0] if self._checked else self.handle.plain(batch)[0]

    # --- away and ahead ---------------------------------------------------------------------------------------------

    def _visit(self, way: Way) -> AbstractContextManager[Any]:
        if "offload" not in way.options or self._here:
            return nullcontext()
        self.settled.visits += 1
        return lent(way.handle.module, self.device())

    def _stay(self) -> None:
        """Bring the teacher itself to the device for good: a method works on it, not on what it answers."""
        self.handle.summon = None
        self.handle.module.to(self.device())
        if self._way is not None and self._way.handle is self.handle and "offload" in self._way.options:
            self._way = self._way.without("offload")
            self.settled.kept.remove("offload")
            self.settled.dropped["offload"] = "a method works on the teacher itself, which stays on the device for it"

    def ahead(self, batches: list[Mapping[str, Any]]) -> None:
        """Make the passes of a window now, in one visit or on a second stream, if the last window used its own."""
        used = self._called or len(self.handle.held) < self._early
        self.handle.held.clear()
        self._called, self._early = False, 0
        if not used or self._way is None:
            return
        with self._visit(self._way), torch.no_grad():
            self._here = True
            try:
                self._early = ahead_of(self.handle, batches, stream="stream" in self._way.options)
            finally:
                self._here = self._called = False


def _stamp(module: nn.Module) -> int:
    """Return what grows when a weight or buffer is written to: a copy made before is then out of date."""
    return sum(version_of(tensor) for tensors in (module.parameters(), module.buffers()) for tensor in tensors)
