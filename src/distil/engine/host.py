"""Where a run happens: the devices and processes that accelerate finds, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from distil.engine.processes import beside_deepspeed, launched, on_cpu
from distil.engine.window import world_size
from distil.errors import DistilError, nearest

__all__ = ["PRECISIONS", "agreed", "any_of", "find_accelerator", "gentle_interrupt", "same_buffers", "seed_draws"]

ECHO_SECONDS = 2.0

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def seed_draws(seed: int) -> None:
    """Seed torch's global generators as ``torch.manual_seed`` does.

    On a build for accelerators without one, that would queue a call with a stack trace each time, which is dearer than
    a step of a small net; the processor's generator alone is all there is.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def find_accelerator(*, precision: str, device: str | None) -> Accelerator:
    """Return accelerate's view of this machine, or say what it cannot do."""
    if precision not in PRECISIONS:
        raise DistilError(f"precision='{precision}' is unknown; {nearest(precision, PRECISIONS)}")
    wanted, cpu = PRECISIONS[precision], on_cpu(device)
    shared = AcceleratorState._shared_state
    if shared and (shared.get("_mixed_precision") != wanted or bool(shared.get("_cpu")) != cpu):
        AcceleratorState._reset_state()  # accelerate keeps one precision for a process; runs in it may differ
    try:
        with beside_deepspeed():
            found = Accelerator(mixed_precision=wanted, cpu=cpu)
        asked = torch.device(device) if device is not None else found.device
    except (ValueError, ImportError, RuntimeError) as error:
        raise DistilError(f"This machine cannot run precision='{precision}', device={device}: {error}") from None
    if launched() > 1 and found.num_processes == 1:
        raise DistilError(
            f"This run was launched as {launched()} processes, and accelerate began as one: a distributed state was "
            "made before. Make no Accelerator before fit(), or launch with ACCELERATE_USE_CPU=true."
        )
    if asked.type != found.device.type or asked.index not in (None, found.device.index):
        raise DistilError(f"device='{device}' was asked for and accelerate found '{found.device}'; use that, or 'cpu'.")
    return found


@torch.no_grad()
def same_buffers(module: nn.Module) -> None:
    """Give every process rank 0's buffers: each process's BatchNorm has seen its own share of the last step."""
    if world_size() == 1:
        return
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for buffer in module.buffers():
        kinds.setdefault(buffer.dtype, []).append(buffer)
    for buffers in kinds.values():  # together, for a network may have hundreds of a few bytes
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.broadcast(flat, 0)
        for buffer, sent in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(sent.view_as(buffer))


def agreed(numbers: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Return rank 0's numbers on every process, so that all of them stop, or go on, together."""
    if world_size() == 1:
        return dict(numbers)
    packed = torch.tensor([numbers[name] for name in sorted(numbers)], dtype=torch.float64, device=device)
    dist.broadcast(packed, 0)
    return dict(zip(sorted(numbers), packed.tolist()))


def any_of(said: bool, device: torch.device) -> bool:
    """Say whether any process said yes, so that all of them act on it together."""
    if world_size() == 1:
        return said
    votes = torch.tensor(float(said), device=device)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes)


@contextmanager
def gentle_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop after the current step; a second one stops at once.

    A launcher hands on the Ctrl-C that the terminal sent its processes as well, so there the second of the two counts
    as the first.
    """
    asked, since = threading.Event(), [0.0]
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and (launched() == 1 or time.monotonic() - since[0] > ECHO_SECONDS):
            raise KeyboardInterrupt
        if not asked.is_set():
            since[0] = time.monotonic()
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
