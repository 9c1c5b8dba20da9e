"""One way to make a teacher's pass, what it hands over, and how close that is to the plain float32 pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distil.engine.anatomy import Location, first_tensor
from distil.engine.frozen import COPIED
from distil.engine.lighter import fold_batchnorm, to_bf16, to_channels_last, to_int8
from distil.engine.trace import ModelHandle
from distil.errors import DistilError
from distil.tasks import Task

__all__ = ["Values", "Way", "closeness", "differences", "handed"]

Values = dict[Location, Tensor]
HALF = (torch.float16, torch.bfloat16)


class Way:
    """One way to make a pass: the model that runs (the teacher, or a copy of it), and under which options."""

    def __init__(self, handle: ModelHandle, options: tuple[str, ...]) -> None:
        self.handle, self.options = handle, options
        self._compiled: Callable[[Mapping[str, Any]], Any] | None = None

    @classmethod
    def made(cls, handle: ModelHandle, options: tuple[str, ...], batch: Mapping[str, Any]) -> Way:
        """Build the copy that ``options`` ask for; ``batch`` shows which layers feed which."""
        if not COPIED & set(options):
            return cls(handle, options)
        module = copy.deepcopy(handle.module).eval()
        if "fold_bn" in options:
            call = partial(handle.task.call, module, batch, role=handle.role)
            with _autocast(batch, enabled=False):
                fold_batchnorm(module, call, {place.path for place in handle.locations})
        for name, change in (("channels_last", to_channels_last), ("bf16", to_bf16), ("int8", to_int8)):
            if name in options:
                change(module)
        return cls(handle.on(module), options)

    def __call__(self, batch: Mapping[str, Any], *, whole: bool = False) -> tuple[Any, Values]:
        """Return the output (``None`` from a pass that stopped) and the taps, as methods are handed them."""
        stop = "truncate" in self.options and not whole
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode() if "inference" in self.options else torch.no_grad())
            stack.enter_context(_autocast(batch, enabled="bf16" in self.options))
            if "compile" in self.options and not whole:
                output, values = self._through_compiler(stop)(batch)
            else:
                output, values = self.handle.stopped(batch) if stop else self.handle.plain(batch)
        with torch.no_grad():  # outside inference mode, where copies are tensors like any other
            return handed(output), {place: handed(value) for place, value in values.items()}

    def _through_compiler(self, stop: bool) -> Callable[[Mapping[str, Any]], Any]:
        if self._compiled is None:
            plain = self.handle.plain
            # A stop cannot be compiled: where the output is not returned, the compiler leaves out what only it needs.
            self._compiled = torch.compile((lambda b: (None, plain(b)[1])) if stop else plain)
        return self._compiled

    def without(self, option: str) -> Way:
        """Return the same way without an option that asks for no copy."""
        return Way(self.handle, tuple(name for name in self.options if name != option))


def _autocast(batch: Mapping[str, Any], *, enabled: bool) -> AbstractContextManager[Any]:
    found = first_tensor(batch)
    kind = "cpu" if found is None else found.device.type
    # Nothing is cached: weights that need no gradient never are, and those that would be are cast once, in the copy.
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


def handed(value: Any) -> Any:
    """Return what methods get of an output or a tap: half precision raised to float32, laid out plainly, a tensor that
    autograd may keep; containers are kept, and what is neither tensor nor container passes as it is.
    """
    if isinstance(value, Tensor):
        dtype = torch.float32 if value.dtype in HALF else value.dtype
        return value.to(dtype, memory_format=torch.contiguous_format, copy=value.is_inference())
    if isinstance(value, Mapping):
        members = {key: handed(member) for key, member in value.items()}
        rebuilt: Any = type(value)  # a Hugging Face output is a mapping made of keywords
        return rebuilt(**members) if hasattr(value, "to_tuple") else members
    if isinstance(value, (tuple, list)):
        rebuilt = type(value)
        return rebuilt(*map(handed, value)) if hasattr(value, "_fields") else rebuilt(map(handed, value))
    return value


def closeness(seen: Tensor, plain: Tensor) -> tuple[float, float]:
    """Return the lowest cosine between samples of two tensors ``[N, …]``, and how far their lengths are apart at most.

    The distance is relative to the plain one's length. Two samples of zeros are equal; what is not finite, or of
    another shape, is as far away as can be.

    >>> closeness(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 2.0]]))[1]
    0.5
    """
    if seen.shape != plain.shape:
        return -1.0, float("inf")
    if not plain.numel():
        return 1.0, 0.0
    ours, theirs = (_rows(tensor) for tensor in (seen, plain))
    tiny = torch.finfo(ours.dtype).tiny
    long, wanted = ours.norm(dim=1), theirs.norm(dim=1)
    cosine = ((ours / long.clamp(min=tiny)[:, None]) * (theirs / wanted.clamp(min=tiny)[:, None])).sum(1)
    cosine = torch.where((long == 0) & (wanted == 0), torch.ones_like(cosine), cosine).nan_to_num(-1.0)
    apart = ((long - wanted).abs() / wanted.clamp(min=tiny)).nan_to_num(float("inf"))
    return min(1.0, cosine.min().item()), apart.max().item()


def _rows(tensor: Tensor) -> Tensor:
    wide = tensor.detach().float() if tensor.device.type == "mps" else tensor.detach().double()
    return wide.flatten(1) if wide.ndim > 1 else wide.reshape(1, -1)


def differences(
    task: Task, seen: tuple[Any, Values], plain: tuple[Any, Values], *, stopped: bool
) -> dict[str, tuple[float, float]]:
    """Return the :func:`closeness` of the taps, and of the answers where the pass was not stopped before them.

    Logits say the same when all classes are shifted together, and a large common offset would hide everything else, so
    they are compared without it as well, and the worse of the two counts.
    """
    found = {str(place): closeness(value, plain[1][place]) for place, value in seen[1].items() if place in plain[1]}
    missed = plain[1].keys() - seen[1].keys()
    found |= {str(place): (-1.0, float("inf")) for place in missed}
    if stopped:
        return found
    ours, theirs = _answer(task, seen[0]), _answer(task, plain[0])
    if ours is None or theirs is None:
        return found
    near = [closeness(ours, theirs)]
    dim = 1 if theirs.ndim == 4 else -1
    if theirs.ndim > 1 and theirs.shape[dim] > 1 and ours.shape == theirs.shape:
        near.append(closeness(_centred(ours, dim), _centred(theirs, dim)))
    return found | {"logits": (min(cosine for cosine, _ in near), max(apart for _, apart in near))}


def _answer(task: Task, output: Any) -> Tensor | None:
    try:
        return task.logits(output)
    except DistilError:  # a model without a head answers with features
        return first_tensor(output)


def _centred(tensor: Tensor, dim: int) -> Tensor:
    return tensor.double() - tensor.double().mean(dim, keepdim=True)
