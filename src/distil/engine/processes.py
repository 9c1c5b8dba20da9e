"""Many processes as one run: who writes, who speaks, and what all of them must agree on."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distil.engine.window import rank, world_size
from distil.errors import DistilError

__all__ = [
    "beside_deepspeed",
    "first_to_fail",
    "from_first",
    "is_first",
    "launched",
    "leave",
    "meet",
    "of_every",
    "of_first",
    "on_cpu",
    "on_every_disk",
    "wait",
]

FAILED = "distil/failed"
ASKED = "ACCELERATE_USE_DEEPSPEED"


def launched() -> int:
    """Return how many processes a launcher (``accelerate launch``, ``torchrun``) started, by its own account."""
    told = os.environ.get("WORLD_SIZE", "1")
    return int(told) if told.isdecimal() else 1


def meet(device: str | None = None) -> None:
    """Bring the processes of a launch together, so that they can agree; does nothing where there is only one.

    A machine without an accelerator is used by its CPU: left alone, accelerate would let every process run by itself.
    """
    if launched() == 1:
        return
    from accelerate import PartialState

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with beside_deepspeed():
                PartialState(cpu=on_cpu(device))
    except (ValueError, ImportError, RuntimeError) as error:
        raise DistilError(f"The {launched()} processes of this launch could not be brought together: {error}") from None


@contextmanager
def beside_deepspeed() -> Iterator[None]:
    """Let accelerate see plain processes: its own way with DeepSpeed takes autocast, scaling and optimizers over."""
    asked = os.environ.pop(ASKED, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[ASKED] = asked


def on_cpu(device: str | None) -> bool:
    """Say whether a run takes place on the CPU: asked for, or many processes and nothing else there."""
    return device == "cpu" or (launched() > 1 and not torch.accelerator.is_available())


def leave() -> None:
    """Close the connections between processes, where there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_first() -> bool:
    """Say whether this process is the one that writes and speaks."""
    return rank() == 0


def wait() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def from_first(value: Tensor) -> Tensor:
    """Return the first process's tensor on every process; shapes may differ before.

    >>> from_first(torch.arange(3))
    tensor([0, 1, 2])
    """
    if world_size() == 1:
        return value
    place = _meeting_place()
    size = torch.tensor([value.ndim, *value.shape, *[0] * (8 - value.ndim)], device=place)
    dist.broadcast(size, 0)
    ndim, *shape = size.tolist()
    sent = value.to(place).contiguous() if is_first() else torch.empty(shape[:ndim], dtype=value.dtype, device=place)
    dist.broadcast(sent, 0)
    return sent.to(value.device)


def of_every(value: Tensor) -> Tensor:
    """Return every process's tensor (all of one shape), stacked in their order, on every process."""
    place = _meeting_place()
    parts = [torch.empty_like(value, device=place) for _ in range(world_size())]
    dist.all_gather(parts, value.to(place).contiguous())
    return torch.stack(parts)


def of_first(fn: Callable[[], Any]) -> Any:
    """Return on every process what ``fn`` gave on the first, which alone runs it: plain values, as JSON knows them.

    A mistake that it meets there is every process's mistake.

    >>> of_first(lambda: {"folder": "runs/train"})
    {'folder': 'runs/train'}
    """
    if world_size() == 1:
        return fn()
    told: dict[str, Any] = {}
    failed: BaseException | None = None
    if is_first():
        try:
            told = {"value": fn()}
        except Exception as error:  # passed on first: the others wait for it
            told, failed = {"error": str(error)}, error
    packed = from_first(torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8))
    if failed is not None:
        raise failed
    heard = json.loads(bytes(packed.tolist()))
    if "error" in heard:
        raise DistilError(heard["error"])
    return heard["value"]


def on_every_disk(present: bool, what: str) -> None:
    """Refuse to go on where the first process sees ``what`` on its disk and another does not."""
    if world_size() > 1:
        seen = torch.tensor(float(present), device=_meeting_place())
        dist.all_reduce(seen, dist.ReduceOp.MIN)
        if not seen:
            raise DistilError(
                f"{what} is not there for every process; let the run's folder and DISTIL_CACHE lie on a disk that all "
                "machines share."
            )


def first_to_fail() -> bool:
    """Say whether this process is the one to tell of a mistake: of all that failed, only the first is.

    Before the processes have met, the first on each machine tells.
    """
    if launched() == 1:
        return True
    if not (dist.is_available() and dist.is_initialized()):
        return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"
    try:
        return dist.distributed_c10d._get_default_store().add(FAILED, 1) == 1
    except RuntimeError:  # the first process, which kept the count, has left: it failed before this one
        return False


def _meeting_place() -> torch.device:
    """Where tensors must lie to be sent: NCCL knows devices only, gloo the CPU."""
    return torch.device("cpu" if "gloo" in dist.get_backend() else torch.accelerator.current_accelerator() or "cpu")
