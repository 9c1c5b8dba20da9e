"""The hooks that record taps: what a module gave, once in a pass, whatever later layers do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distil.engine.anatomy import Location, first_tensor
from distil.engine.layout import CHANNELS_LAST
from distil.errors import DistilError

__all__ = ["ChangedInPlace", "Cut", "Enough", "Recorder", "hook_for", "turned", "version_of"]


class ChangedInPlace(DistilError):
    """A later layer wrote into a tapped tensor, so that the tap no longer shows what its module gave."""

    def __init__(self, role: str, locations: set[Location]) -> None:
        self.locations = locations
        names = ", ".join(sorted(map(str, locations)))
        super().__init__(
            f"The tap {names} of the {role} was changed in place by a later layer, which the dry run (in eval mode) "
            "did not see: set inplace=False there, or tap the module after it."
        )


class Enough(BaseException):
    """Ends a pass whose last tap was read; no error, so that a model's own ``except Exception`` lets it through."""


class Cut:
    """The output of a pass that stopped at its last tap: whoever asks for it has the pass made again, whole."""

    def __init__(self, whole: Callable[[], Any]) -> None:
        self.whole = whole


def version_of(value: Tensor) -> int:
    """Return how often a tensor was changed in place; inference tensors do not know."""
    return -1 if value.is_inference() else int(value._version)


class Recorder:
    """Where a hook writes what it saw of one tap."""

    def __init__(
        self,
        role: str,
        location: Location,
        values: dict[Location, Tensor],
        versions: dict[Location, int],
        *,
        copies: bool,
        last: int = 0,
    ) -> None:
        self.role, self.location, self.values, self.versions, self.copies = role, location, values, versions, copies
        self.last = last  # end the pass when so many taps are there; 0 lets it run on

    def __call__(self, tensor: Tensor) -> None:
        if self.location in self.values:
            raise DistilError(
                f"The module behind the tap '{self.location}' of the {self.role} runs more than once in a pass, so it "
                "is unclear which of its outputs is meant: tap a module that runs once, or give each use a module of "
                "its own."
            )
        # A tensor that a later layer changes in place is copied, so that the tap shows what its module gave.
        kept = tensor.clone() if self.copies else tensor
        self.values[self.location] = kept
        if not torch.compiler.is_compiling():
            self.versions[self.location] = version_of(kept)
        if len(self.values) == self.last:
            raise Enough


def turned(location: Location, tensor: Tensor, *, back: bool = False) -> Tensor:
    """Return a map channels first, where the model lays it channels last; ``back`` the other way."""
    if location.layout != CHANNELS_LAST:
        return tensor
    return tensor.movedim(1, -1) if back else tensor.movedim(-1, 1)


def _through(location: Location, module: nn.Module, tensor: Tensor) -> Tensor:
    """Return what takes a tap's place: a module sees maps channels first, as methods do."""
    return turned(location, module(turned(location, tensor)), back=True)


def hook_for(record: Recorder, replacement: nn.Module | None) -> Callable[..., Any]:
    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            return None
        if replacement is not None:
            tensor = _through(record.location, replacement, tensor)
        record(tensor)
        return _swap(output, tensor) if replacement is not None else None

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = first_tensor(args)
        if tensor is None:
            tensor = first_tensor(kwargs)
        if tensor is None:
            return None
        if replacement is not None:
            tensor = _through(record.location, replacement, tensor)
        record(tensor)
        return (_swap(args, tensor), kwargs) if replacement is not None else None

    return before if record.location.side == "in" else after


def _swap(value: Any, tensor: Tensor) -> Any:
    """Return ``value`` with its first tensor replaced."""
    if isinstance(value, Tensor):
        return tensor
    if isinstance(value, Mapping):
        done, out = False, dict(value)
        for key, member in value.items():
            if not done and first_tensor(member) is not None:
                out[key], done = _swap(member, tensor), True
        rebuilt: Any = type(value)  # a Hugging Face output is a mapping made of keywords
        return rebuilt(**out) if hasattr(value, "to_tuple") else rebuilt(out)
    members = list(value)
    for i, member in enumerate(members):
        if first_tensor(member) is not None:
            members[i] = _swap(member, tensor)
            break
    return type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
