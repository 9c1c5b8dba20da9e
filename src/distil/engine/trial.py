"""The trial of a teacher's shortcuts on a real batch: each option against the plain float32 pass, kept or dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from distil.engine.anatomy import first_tensor
from distil.engine.frozen import CLOSE, LENGTH, Settled, TeacherForward
from distil.engine.host import agreed
from distil.engine.lighter import Unfit
from distil.engine.trace import ModelHandle
from distil.engine.visits import on_accelerator
from distil.engine.ways import Way, differences
from distil.engine.window import world_size

__all__ = ["Trial"]

QUICKER = 1.02  # "auto" keeps what is so many times as fast
ENOUGH = 0.05  # seconds that each side of a comparison takes at least, where passes are short


class Trial:
    """One trial; ``run()`` returns the way to go and what was seen.

    Options are tried one after another, each on top of those that were kept, so that what is used in the end was
    compared as a whole. All processes of a run decide alike: by the lowest cosine of all, and rank 0's clock.
    """

    def __init__(
        self, handle: ModelHandle, asked: TeacherForward, batch: Mapping[str, Any], *, listed: bool, several: bool
    ) -> None:
        self.handle, self.asked, self.batch, self.listed, self.several = handle, asked, batch, listed, several
        found = first_tensor(batch)
        self.device = torch.device("cpu") if found is None else found.device
        self.seen = Settled(str(asked), batch=0 if found is None else len(found))

    def run(self) -> tuple[Way, Settled]:
        """Try every option that was asked for."""
        began, seen = time.perf_counter(), self.seen
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # trying must leave no trace in what the run draws
            plain = way = Way(self.handle, ())
            expected = plain(self.batch)
            for option in self.asked.options:
                reason = self._why_not(option)
                if reason is None:
                    way, reason = self._tried(option, way, expected)
                if reason is not None:
                    seen.dropped[option] = reason
            seen.kept = list(way.options)
            if way is not plain:
                seen.plain_seconds, seen.seconds = self._timed(plain, way)
        if way.handle is not self.handle:
            seen.copy_bytes = sum(map(_bytes, way.handle.module.parameters()))
        seen.checking_seconds = time.perf_counter() - began
        return way, seen

    def _why_not(self, option: str) -> str | None:
        """Say why an option cannot be tried at all."""
        if next(self.handle.module.parameters(), None) is None:
            return "it has no weights: it reads stored answers"
        if option == "truncate":
            # Bit for bit the same by construction; with nothing to stop after, or the logits to be read, there is none.
            if self.listed:
                return "a method reads the logits"
            return None if self.handle.locations else "no layer of it is read"
        if self.several and world_size() > 1:
            return "there are several teachers in several processes, which might not call the same one at once"
        if option == "stream" and self.device.type != "cuda":
            return f"a second stream is CUDA's, and the batches are on {self.device.type}"
        if option == "offload" and not on_accelerator(self.device):
            return "the batches are on the CPU, where the teacher is"
        return None

    def _tried(self, option: str, before: Way, expected: tuple[Any, Any]) -> tuple[Way, str | None]:
        """Return the way with ``option`` and no reason, or the way before and why the option is dropped."""
        seen, name, reason, cosines = (-2.0, float("inf")), "", None, {}
        way = before
        try:
            way = Way.made(self.handle, (*before.options, option), self.batch)
            found = differences(self.handle.task, way(self.batch), expected, stopped="truncate" in way.options)
            cosines = {place: cosine for place, (cosine, _) in found.items()}
            name, seen = min(found.items(), key=lambda item: (item[1][0], -item[1][1]), default=("", (1.0, 0.0)))
            seen = (seen[0], max((apart for _, apart in found.values()), default=0.0))
        except Unfit as error:
            reason = str(error)
        except Exception as error:  # whatever a model, a compiler or a library says to it
            reason = f"it fails: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        worst = self._lowest(seen[0], -seen[1])
        if worst[0] < CLOSE or -worst[1] > LENGTH:
            return before, reason or self._too_far(name, *worst)
        if self.asked.auto and option != "truncate" and before is not way:
            ratio = self._ratio(before, way)
            if ratio < QUICKER:
                return before, f"it holds (cosine {worst[0]:.6f}) and is not quicker: {ratio:.2f} times the speed"
        self.seen.cosine = cosines
        return way, None

    def _too_far(self, name: str, cosine: float, apart: float) -> str:
        if cosine < -1:
            return "it fails on another process"
        if cosine < CLOSE:
            return f"cosine {cosine:.6f} with the plain pass at '{name}', below {CLOSE}"
        return f"its values are up to {100 * -apart:.3g} % longer or shorter than the plain pass's"

    def _lowest(self, *numbers: float) -> tuple[float, ...]:
        """Return the lowest of each number over all processes."""
        if world_size() == 1:
            return numbers
        packed = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(packed, op=dist.ReduceOp.MIN)
        return tuple(packed.tolist())

    # --- time -------------------------------------------------------------------------------------------------------

    def _ratio(self, before: Way, after: Way) -> float:
        first, second = self._timed(before, after)
        return agreed({"ratio": first / second}, self.device)["ratio"]

    def _timed(self, one: Way, other: Way) -> tuple[float, float]:
        """Return the median seconds of both ways, in turn (A B B A), warm."""
        short = max(min(self._once(one), self._once(other)), 1e-6)
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(max(1, min(20, round(ENOUGH / short / 2)))):
            for which in (0, 1, 1, 0):
                taken[which].append(self._once((one, other)[which]))
        return median(taken[0]), median(taken[1])

    def _once(self, way: Callable[[Mapping[str, Any]], Any]) -> float:
        self._wait()
        began = time.perf_counter()
        way(self.batch)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _bytes(tensor: Any) -> int:
    """Return what a tensor takes; a quantised one consists of others."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return int(tensor.numel() * tensor.element_size())
