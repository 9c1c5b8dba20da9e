"""How a teacher's answer becomes bytes: one codec for each trade of size against error.

A codec maps rows of numbers to rows of bytes, all of the same length, so any row can be read alone. It states its bytes
and its error: :meth:`Codec.error` compares a decoded row with the numbers, and never exceeds :meth:`Codec.bound`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from distil.cache.bits import Bytes
from distil.cache.codec import FLOOR, HALF, Codec, Targets, all_finite, as_bytes, checked, finite, view_as
from distil.cache.sparse_codecs import Sampled, TopK
from distil.errors import DistilError, nearest

__all__ = [
    "CODECS",
    "Bytes8",
    "Codec",
    "Dense8",
    "Dense16",
    "Dense32",
    "Features16",
    "Int8",
    "Sampled",
    "TopK",
    "codec_from",
    "get_codec",
]


_STEPS = 254
_SQUARES = np.append(-((np.arange(_STEPS + 1, dtype=np.float32) / _STEPS) ** 2), np.float32(-np.inf))


class _Numbers(Codec):
    """A dense codec; its error is the largest difference."""

    def error(self, values: Tensor, decoded: Targets) -> Tensor:
        same = values.double() == decoded["values"].double()  # −inf equals itself, but its difference is nan
        gap = (values.double() - decoded["values"].double()).abs()
        return torch.where(same, 0.0, gap).amax(1)


@final
@dataclass(frozen=True)
class Dense32(_Numbers):
    """The numbers themselves in float32: 4 bytes each.

    >>> codec = Dense32()
    >>> codec.decode(codec.encode(torch.tensor([[0.1, -2.0]])), 2)["values"]
    tensor([[ 0.1000, -2.0000]])
    """

    name: ClassVar[str] = "dense32"

    def bytes(self, width: int) -> int:
        """Return 4 · width."""
        return 4 * width

    def encode(self, values: Tensor, keys: Tensor | None = None) -> Bytes:
        """Return the rows; see :class:`Codec`."""
        return as_bytes(checked(self.name, values).cpu().numpy())

    def decode(self, rows: Bytes, width: int) -> Targets:
        """Return ``values`` float32."""
        return {"values": torch.from_numpy(view_as(rows, np.float32).copy())}

    def bound(self, values: Tensor) -> Tensor:
        """Return the rounding of a float64 to float32."""
        return finite(values).abs().amax(1) * 2.0**-23


@final
@dataclass(frozen=True)
class Dense16(_Numbers):
    """Logits as their distance below the row's largest in fp16, and that largest in float32: 2 bytes each and 4.

    Plain fp16 logits lose most where they are large, which is where the probability is, and overflow at 65,504.
    Distances from the largest are exact there, lose 2⁻¹¹ of themselves elsewhere, and give the logits back with their
    own shift. A class more than 65,504 below the largest is kept at that distance: its probability is 0 either way.

    >>> codec = Dense16()
    >>> codec.bytes(100), codec.decode(codec.encode(torch.tensor([[99_999.0, 99_998.0]])), 2)["values"]
    (204, tensor([[99999., 99998.]]))
    """

    name: ClassVar[str] = "dense16"

    def bytes(self, width: int) -> int:
        """Return 2 · width + 4."""
        return 2 * width + 4

    def encode(self, values: Tensor, keys: Tensor | None = None) -> Bytes:
        """Return the rows; see :class:`Codec`."""
        values = checked(self.name, values)
        top = values.amax(1, keepdim=True)
        gap = values - top
        gap = torch.where(gap == -torch.inf, gap, gap.clamp(min=-65504.0)).half()
        return np.concatenate([as_bytes(top.cpu().numpy()), as_bytes(gap.cpu().numpy())], axis=1)

    def decode(self, rows: Bytes, width: int) -> Targets:
        """Return ``values`` float32."""
        top, gap = view_as(rows[:, :4], np.float32), view_as(rows[:, 4:], np.float16)
        return {"values": torch.from_numpy(gap.astype(np.float32) + top)}

    def bound(self, values: Tensor) -> Tensor:
        """Return 2⁻¹¹ of the largest distance, with the rounding of float32."""
        real = finite(values)
        span = real.amax(1) - real.amin(1)
        return torch.where(span > 65504, span, span * HALF) + 2.0**-24 + real.abs().amax(1) * 2.0**-21


@final
@dataclass(frozen=True)
class Dense8(Codec):
    """Logits as their distance below the row's largest in 8 bits, that largest in float32: 1 byte each and 8.

    The steps grow with the distance (the square of a uniform scale), fine where the probability is. A class more than
    50 below the largest is kept at 50, and −inf as itself: their probability is 0 either way. The error is the largest
    difference of a distance up to 50.

    >>> codec = Dense8()
    >>> codec.bytes(1000), codec.decode(codec.encode(torch.tensor([[4.0, 4.0, -6.0]])), 3)["values"]
    (1008, tensor([[ 4.,  4., -6.]]))
    """

    name: ClassVar[str] = "dense8"

    def bytes(self, width: int) -> int:
        """Return width + 8."""
        return width + 8

    def encode(self, values: Tensor, keys: Tensor | None = None) -> Bytes:
        """Return the rows; see :class:`Codec`."""
        values = checked(self.name, values)
        top = values.amax(1, keepdim=True)
        below = top - torch.where(values == -torch.inf, top, values).clamp(min=top - FLOOR)
        span = below.amax(1, keepdim=True).clamp(min=1e-7)
        level = ((below / span).sqrt() * _STEPS).round().to(torch.uint8)
        level[values == -torch.inf] = _STEPS + 1
        return np.concatenate([as_bytes(part.cpu().numpy()) for part in (top, span, level)], axis=1)

    def decode(self, rows: Bytes, width: int) -> Targets:
        """Return ``values`` float32."""
        top, span = view_as(rows[:, :4], np.float32), view_as(rows[:, 4:8], np.float32)
        return {"values": torch.from_numpy(_SQUARES.take(rows[:, 8:]) * span + top)}

    def error(self, values: Tensor, decoded: Targets) -> Tensor:
        """Return the largest difference of a logit that is at most 50 below the largest."""
        real = values.double()
        near = torch.maximum(real, real.amax(1, keepdim=True) - FLOOR)
        gap = (near - decoded["values"].double()).abs()
        return torch.where(real == decoded["values"].double(), 0.0, gap).amax(1)

    def bound(self, values: Tensor) -> Tensor:
        """Return half of the last and largest step, with the rounding of float32."""
        real = finite(values)
        span = (real.amax(1) - real.amin(1)).clamp(max=FLOOR)
        return span * (_STEPS - 0.25) / _STEPS**2 + 2.0**-20 * (1 + span + real.abs().amax(1))


@final
@dataclass(frozen=True)
class Features16(_Numbers):
    """Features in fp16: 2 bytes each; numbers beyond 65,504 are refused."""

    name: ClassVar[str] = "features16"
    logits: ClassVar[bool] = False

    def bytes(self, width: int) -> int:
        """Return 2 · width."""
        return 2 * width

    def encode(self, values: Tensor, keys: Tensor | None = None) -> Bytes:
        """Return the rows; see :class:`Codec`."""
        values = all_finite(self.name, values)
        if values.numel() and float(values.abs().max()) > 65504:
            raise DistilError(
                f"features16: a feature of {float(values.abs().max()):.6g} is beyond fp16 (65504); take int8 or "
                "dense32."
            )
        return as_bytes(values.half().cpu().numpy())

    def decode(self, rows: Bytes, width: int) -> Targets:
        """Return ``values`` float32."""
        return {"values": torch.from_numpy(view_as(rows, np.float16).astype(np.float32))}

    def bound(self, values: Tensor) -> Tensor:
        """Return 2⁻¹¹ of the largest number."""
        return values.double().abs().amax(1) * HALF + 2.0**-24


@final
@dataclass(frozen=True)
class Int8(_Numbers):
    """Features in 127 steps either side of 0, the scale of each row in float32: 1 byte each and 4.

    >>> codec = Int8()
    >>> codec.decode(codec.encode(torch.tensor([[127.0, -3.0]])), 2)["values"]
    tensor([[127.,  -3.]])
    """

    name: ClassVar[str] = "int8"
    logits: ClassVar[bool] = False

    def bytes(self, width: int) -> int:
        """Return width + 4."""
        return width + 4

    def encode(self, values: Tensor, keys: Tensor | None = None) -> Bytes:
        """Return the rows; see :class:`Codec`."""
        values = all_finite(self.name, values)
        scale = values.abs().amax(1, keepdim=True) / 127
        steps = (values / scale.clamp(min=1e-38)).round().clamp(-127, 127).to(torch.int8)
        return np.concatenate([as_bytes(scale.cpu().numpy()), as_bytes(steps.cpu().numpy())], axis=1)

    def decode(self, rows: Bytes, width: int) -> Targets:
        """Return ``values`` float32."""
        return {"values": torch.from_numpy(view_as(rows[:, 4:], np.int8) * view_as(rows[:, :4], np.float32))}

    def bound(self, values: Tensor) -> Tensor:
        """Return half a step of the row's scale."""
        return values.double().abs().amax(1) * (0.5 / 127 + 1e-6) + 1e-37


@final
@dataclass(frozen=True)
class Bytes8(_Numbers):
    """Bytes as they are: what a record of a view is kept in."""

    name: ClassVar[str] = "bytes"
    logits: ClassVar[bool] = False

    def bytes(self, width: int) -> int:
        """Return width."""
        return width

    def encode(self, values: Tensor, keys: Tensor | None = None) -> Bytes:
        """Return the rows; see :class:`Codec`."""
        if values.dtype != torch.uint8:
            raise DistilError(f"bytes: {values.dtype} numbers are no bytes; take dense16, features16 or int8.")
        return np.ascontiguousarray(values.cpu().numpy())

    def decode(self, rows: Bytes, width: int) -> Targets:
        """Return ``values`` uint8."""
        return {"values": torch.from_numpy(np.array(rows))}

    def bound(self, values: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros(len(values), dtype=torch.float64)


CODECS: dict[str, type[Codec]] = {
    c.name: c for c in (Dense32, Dense16, Dense8, TopK, Sampled, Features16, Int8, Bytes8)
}
"""Every codec by its name."""


HEAT = r"(?:@(\d+(?:\.\d+)?))?"
"""How a sparse codec's name ends where its softmax has a temperature."""


def get_codec(text: str | Codec) -> Codec:
    """Return a codec by name: ``dense16``, ``dense32``, ``topk64``, ``topk64x8`` (8 bits), ``sampled50``, ``int8``, ….

    ``@4`` behind a sparse one is the temperature of its softmax.

    >>> get_codec("topk32x6")
    TopK(k=32, bits=6, temperature=1.0)
    >>> get_codec("sampled50@4").temperature
    4.0
    """
    if isinstance(text, Codec):
        return text
    if found := re.fullmatch(rf"topk(\d+)(?:x(\d+))?{HEAT}", text):
        return TopK(int(found[1]), int(found[2] or 4), float(found[3] or 1))
    if found := re.fullmatch(rf"sampled(\d+){HEAT}", text):
        return Sampled(int(found[1]), temperature=float(found[2] or 1))
    named = [name for name in CODECS if name != Bytes8.name]  # which holds records alone
    if text not in named:
        raise DistilError(f"the codec {text!r} is unknown; {nearest(text, [*named, 'topk64', 'sampled50'])}")
    return CODECS[text]()


def codec_from(spec: Mapping[str, Any]) -> Codec:
    """Return the codec that a header's ``spec`` describes.

    >>> codec_from(TopK(8).spec()) == TopK(8)
    True
    """
    options = dict(spec)
    name = options.pop("name", None)
    if name not in CODECS:
        raise DistilError(f"the codec {name!r} is unknown to this version; {nearest(str(name), CODECS)}")
    try:
        return CODECS[name](**options)
    except TypeError as error:
        raise DistilError(f"the codec {name!r} cannot be made from {options} ({error}); update distil.") from error
