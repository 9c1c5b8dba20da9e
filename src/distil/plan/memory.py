"""Memory of a training step: what is held, what is kept for the backward pass, and the most that was alive at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil  # accelerate brings it
import torch
from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["Memory", "Peak", "available", "counted", "held", "high_water", "kept_for_backward", "parse_bytes"]

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {f"{unit}ib": 1024**k for k, unit in enumerate(("k", "m", "g", "t"), start=1)}


@dataclass
class Peak:
    """The most bytes of tensors that were alive at once while something ran, beyond those alive before."""

    bytes: int = 0


@dataclass(frozen=True)
class Memory:
    """What one training run holds on one device, in bytes.

    Attributes:
        batch: samples of a micro-batch, at which it was counted.
        student, teacher, method: parameters and buffers.
        gradients, optimizer: of what is trained; the best weights so far are kept on the host besides (``copies``).
        kept: tensors that autograd keeps for the backward pass.
        step: the most that steps held beyond the weights: gradients, optimizer, kept tensors, and what passes through.
        scoring: the same while a model is scored.
        slope: bytes of ``step`` for each further sample of a batch; 0 where the whole data are one batch.
        base: on a CPU the process before training (interpreter, libraries, data, weights); on a GPU the weights alone.
        loading: on a CPU the most the process had held before (reading the data); 0 on a GPU.
        source: who counted.
    """

    batch: int
    student: int
    teacher: int
    method: int
    gradients: int
    optimizer: int
    kept: int
    step: int
    scoring: int
    slope: float
    base: int
    loading: int
    copies: int
    source: str

    def peak(self, batch: int | None = None) -> int:
        """Return the most bytes a run holds, at this batch or another.

        >>> plain = dict(student=4, teacher=8, method=0, gradients=4, optimizer=8, kept=90, scoring=50, copies=4)
        >>> seen = Memory(batch=10, step=100, slope=5.0, base=1000, loading=0, source="", **plain)
        >>> seen.peak(), seen.peak(20), seen.largest_batch(1300)
        (1104, 1154, 49)
        """
        step = self.step + ((batch or self.batch) - self.batch) * self.slope
        return int(max(self.loading, self.base + self.copies + max(step, self.scoring)))

    def largest_batch(self, memory: int) -> int | None:
        """Return the largest micro-batch whose steps fit into ``memory``; 0 for none, ``None`` where it is fixed."""
        if max(self.loading, self.base + self.copies + self.scoring) > memory:
            return 0
        if self.slope <= 0:
            return None
        return max(0, int(self.batch + (memory - self.base - self.copies - self.step) // self.slope))


@contextmanager
def counted(device: torch.device) -> Iterator[Peak]:
    """Count the most bytes of tensors alive at once in the block.

    On a GPU that is ``max_memory_allocated``, on a CPU the allocator's own record, through the profiler; it sees what
    operators take for themselves too. It slows what runs, so nothing is timed in the block.

    >>> with counted(torch.device("cpu")) as peak:
    ...     kept = torch.zeros(250) + 1
    >>> 2000 <= peak.bytes < 2100
    True
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    level = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = "9"  # else it writes on standard error whenever it starts
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
            yield peak
    finally:
        if level is None:
            del os.environ["KINETO_LOG_LEVEL"]
        else:
            os.environ["KINETO_LOG_LEVEL"] = level
    assert seen.profiler is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak.bytes = max(peak.bytes, live)


@dataclass
class Kept:
    """What autograd keeps for the backward pass, each storage once; ``bytes`` is the most of a step."""

    bytes: int = 0
    step: dict[int, int] = field(default_factory=dict)

    def next(self) -> None:
        """Begin another step."""
        self.bytes, self.step = max(self.bytes, sum(self.step.values())), {}


@contextmanager
def kept_for_backward(besides: Iterable[Tensor]) -> Iterator[Kept]:
    """Note what autograd keeps in the block, but for ``besides``.

    >>> x = torch.ones(100, requires_grad=True)
    >>> with kept_for_backward([x]) as kept:
    ...     y = (x * 2).exp()
    >>> kept.bytes
    400
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    kept = Kept()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided and tensor.untyped_storage().data_ptr() not in known:
            kept.step[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
    kept.next()


def held(*modules: nn.Module | None) -> int:
    """Return the bytes of parameters and buffers, each tensor once."""
    found = {id(t): t for m in modules if m is not None for t in (*m.parameters(), *m.buffers())}
    return sum(t.numel() * t.element_size() for t in found.values())


def state_of(optimizer: Any) -> int:
    """Return the bytes of an optimizer's state."""
    states = (value for state in optimizer.state.values() for value in _leaves(state))
    return sum(t.numel() * t.element_size() for t in states)


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)


def resident() -> int:
    """Return the bytes that this process holds in memory."""
    return int(psutil.Process().memory_info().rss)


def high_water() -> int:
    """Return the most bytes that this process has held; what it holds now where the system does not say."""
    try:
        import resource
    except ImportError:
        return resident()
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available(device: torch.device) -> int:
    """Return the bytes that a run on this device may take in all."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)
    return int(psutil.virtual_memory().available) + resident()


def parse_bytes(text: str) -> int:
    """Return an amount of memory in bytes.

    Raises:
        DistilError: no number with a unit, or an amount that no run fits into.

    >>> parse_bytes("16GB"), parse_bytes("1.5 GiB"), parse_bytes("800MB")
    (16000000000, 1610612736, 800000000)
    """
    plain = text.strip().lower()
    number = plain.rstrip("bkmgti ")
    unit = plain[len(number) :].strip()
    try:
        value = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        raise DistilError(f"memory '{text}' is no amount; write 16GB, 800MB or 1.5GiB.") from None
    if not 10**6 <= value < 10**18:
        raise DistilError(f"memory '{text}' is impossible; expected from 1MB up, e.g. 16GB.")
    return int(value)
