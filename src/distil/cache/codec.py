"""What a codec is, and the checks and views of bytes that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distil.cache.bits import Bytes
from distil.errors import DistilError
from distil.functional.reduction import working

__all__ = ["FLOOR", "HALF", "Codec", "Targets", "all_finite", "as_bytes", "checked", "finite", "view_as"]

Targets = dict[str, Tensor]
HALF = 2.0**-11  # the relative error of rounding to fp16
FLOOR = 50.0  # a class e^-50 times as likely as the first adds nothing that float32 can show


class Codec(ABC):
    """Rows of ``width`` numbers as rows of bytes.

    Attributes:
        name: what a shard's header calls it.
        logits: whether it holds class scores (else features).
        dense: whether decoding gives every number back (under ``"values"``).
    """

    name: ClassVar[str]
    logits: ClassVar[bool] = True
    dense: ClassVar[bool] = True

    def spec(self) -> dict[str, Any]:
        """Return name and parameters as plain values; :func:`codec_from` reads them."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]

    @abstractmethod
    def bytes(self, width: int) -> int:
        """Return the bytes of a row of ``width`` numbers."""

    @abstractmethod
    def encode(self, values: Tensor, keys: Tensor | None = None) -> Bytes:
        """Return ``[N, bytes(W)]`` for ``values`` ``[N, W]``; ``keys`` int64 ``[N]`` seed what a codec draws."""

    @abstractmethod
    def decode(self, rows: Bytes, width: int) -> Targets:
        """Return what the rows hold, by name, each ``[N, …]``."""

    @abstractmethod
    def error(self, values: Tensor, decoded: Targets) -> Tensor:
        """Return the largest error of each row, ``[N]`` float64, in the codec's own unit."""

    @abstractmethod
    def bound(self, values: Tensor) -> Tensor:
        """Return what :meth:`error` of these rows never exceeds, ``[N]`` float64."""


def checked(name: str, values: Tensor) -> Tensor:
    """Return logits as float32 on the CPU; −inf is a class that cannot be, anything else not finite is refused."""
    (values,) = working(values.detach())
    values = values.float()
    good = torch.isfinite(values)
    if not bool((good | (values == -torch.inf)).all() and good.any(1).all()):
        raise DistilError(f"{name}: the logits hold nan, inf or a row of -inf alone; look at the teacher's outputs.")
    return values.contiguous()


def all_finite(name: str, values: Tensor) -> Tensor:
    values = values.detach().float().contiguous()
    if not bool(torch.isfinite(values).all()):
        raise DistilError(f"{name}: the features hold nan or inf; look at the teacher's outputs.")
    return values


def finite(values: Tensor) -> Tensor:
    """Return the numbers in float64, each −inf replaced by the row's largest."""
    values = values.double()
    return torch.where(torch.isfinite(values), values, values.amax(1, keepdim=True))


def as_bytes(array: np.ndarray[Any, Any]) -> Bytes:
    """View a row-wise array as bytes, little-endian."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return little.view(np.uint8).reshape(len(array), array.shape[1] * array.itemsize)


def view_as(rows: Bytes, kind: Any) -> np.ndarray[Any, Any]:
    """View rows of bytes as numbers of one kind."""
    return np.ascontiguousarray(rows).view(np.dtype(kind).newbyteorder("<")).astype(kind, copy=False)
