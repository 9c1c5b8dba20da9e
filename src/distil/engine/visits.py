"""A teacher that is away, and passes made before they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from distil.engine.anatomy import first_tensor
from distil.engine.hooks import Cut
from distil.engine.trace import ModelHandle, Trace
from distil.tasks.base import to_device

__all__ = ["ahead_of", "lent", "on_accelerator"]


def on_accelerator(device: torch.device) -> bool:
    """Say whether a device is another place than the CPU's memory."""
    return device.type != "cpu"


@contextmanager
def lent(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a model's weights on ``device`` for a while; they are not copied back, as nothing may change them."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    homes = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = to_device(tensor.data, device)
        yield
    finally:
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = home


def ahead_of(handle: ModelHandle, batches: list[Mapping[str, Any]], *, stream: bool) -> int:
    """Make a handle's passes on ``batches`` and hold them for the calls to come; return how many."""
    made = [_aside(handle, batch) if stream else _now(handle, batch) for batch in batches]
    handle.forget()
    handle.held |= {(id(batch), False): (batch, trace) for batch, trace in zip(batches, made, strict=True)}
    return len(made)


def _now(handle: ModelHandle, batch: Mapping[str, Any]) -> Callable[[], Trace]:
    trace = handle(batch)
    return lambda: trace


def _aside(handle: ModelHandle, batch: Mapping[str, Any]) -> Callable[[], Trace]:
    """Make a pass on a second stream, behind what the first one has been given so far."""
    found = first_tensor(batch)
    side = torch.cuda.Stream(None if found is None else found.device)
    side.wait_stream(torch.cuda.current_stream(side.device))
    with torch.cuda.stream(side):
        trace = handle(batch)
        done = side.record_event()
    return partial(_waited, trace, done)


def _waited(trace: Trace, done: torch.cuda.Event) -> Trace:
    """Let the stream that asks wait for the pass, and keep its memory while that stream may read it."""
    asking = torch.cuda.current_stream()
    asking.wait_event(done)
    output = None if isinstance(trace._output, Cut) else trace._output
    for leaf in tree_leaves((output, trace.values)):
        if isinstance(leaf, Tensor):
            leaf.record_stream(asking)
    return trace
