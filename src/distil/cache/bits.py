"""Integers in few bits, a row at a time: fixed-width fields, and sorted ids by Elias and Fano's code.

Every function works on whole arrays of rows and every row takes the same bytes, so that any row can be read alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distil.errors import DistilError

__all__ = ["Layout", "layout", "pack_fields", "pack_sorted", "unpack_fields", "unpack_sorted"]

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]


class Layout(NamedTuple):
    """How a row of sorted ids is laid out: ``low`` bits of each id as fields, the rest as one bit per id in unary."""

    low: int
    low_bytes: int
    high_bits: int
    high_bytes: int

    @property
    def bytes(self) -> int:
        """The bytes of a row."""
        return self.low_bytes + self.high_bytes


@lru_cache(maxsize=256)
def layout(count: int, universe: int) -> Layout:
    """Return the smallest layout of ``count`` sorted ids below ``universe``.

    Choosing 64 of 128,256 ids takes 99 bytes at least, and 104 here; fields of 17 bits take 136.

    >>> layout(64, 128_256).bytes
    104
    """
    if count < 1 or universe < 1:
        raise DistilError(f"ids: {count} of {universe} cannot be coded; expected at least 1 of at least 1.")
    options = []
    for low in range(min(24, universe.bit_length()) + 1):
        high_bits = count + ((universe - 1) >> low)
        options.append(Layout(low, (count * low + 7) // 8, high_bits, (high_bits + 7) // 8))
    return min(options, key=lambda one: (one.bytes, one.high_bits))


def pack_sorted(ids: Ids, universe: int) -> Bytes:
    """Code rows of non-decreasing ids ``[N, k]``, repeats allowed; returns ``[N, layout.bytes]``.

    Raises:
        DistilError: an id outside 0 … universe - 1, or a row that is not sorted.
    """
    rows, count = ids.shape
    form = layout(count, universe)
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= universe or bool((np.diff(ids, axis=1) < 0).any())):
        raise DistilError(f"ids: expected rows sorted upwards within 0 … {universe - 1}; sort them, check the width.")
    unary = np.zeros((rows, form.high_bits), dtype=np.uint8)
    np.put_along_axis(unary, (ids >> form.low) + np.arange(count), 1, axis=1)
    high = np.packbits(unary, axis=1, bitorder="little")
    return np.concatenate([pack_fields(ids & ((1 << form.low) - 1), form.low), high], axis=1)


def unpack_sorted(rows: Bytes, count: int, universe: int) -> Ids:
    """Return the ids that :func:`pack_sorted` coded.

    >>> ids = np.array([[3, 3, 900]])
    >>> unpack_sorted(pack_sorted(ids, 1000), 3, 1000).tolist()
    [[3, 3, 900]]
    """
    form = layout(count, universe)
    high = np.ascontiguousarray(rows[:, form.low_bytes : form.bytes])
    unary = np.unpackbits(high, axis=1, count=form.high_bits, bitorder="little")
    places: Ids = np.flatnonzero(unary.view(np.bool_))
    if places.size != len(rows) * count:
        raise DistilError(f"ids: rows of {count} ids hold {places.size / max(1, len(rows)):g} each; they are damaged.")
    found = places.reshape(len(rows), count)
    found -= np.arange(len(rows), dtype=np.int64)[:, None] * form.high_bits + np.arange(count)
    found <<= form.low
    if form.low:
        found |= unpack_fields(rows[:, : form.low_bytes], count, form.low)
    return found


def pack_fields(values: npt.NDArray[Any], bits: int) -> Bytes:
    """Put ``[N, k]`` integers below 2**bits side by side; returns ``[N, ceil(k * bits / 8)]``."""
    if bits == 0:
        return np.zeros((len(values), 0), dtype=np.uint8)
    if bits == 8:
        return values.astype(np.uint8)
    each = (values[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(each.astype(np.uint8).reshape(len(values), values.shape[1] * bits), axis=1, bitorder="little")


def unpack_fields(rows: Bytes, count: int, bits: int) -> npt.NDArray[np.int32]:
    """Return the integers that :func:`pack_fields` put side by side, for up to 24 bits.

    >>> unpack_fields(pack_fields(np.array([[5, 0, 7]]), 3), 3, 3).tolist()
    [[5, 0, 7]]
    """
    if bits == 0:
        return np.zeros((len(rows), count), dtype=np.int32)
    if bits == 8:
        return rows.astype(np.int32)
    if bits == 4:
        pairs = np.stack([rows & 15, rows >> 4], axis=2).reshape(len(rows), 2 * rows.shape[1])
        return pairs[:, :count].astype(np.int32)
    start = np.arange(count) * bits
    padded = np.zeros((len(rows), rows.shape[1] + 3), dtype=np.uint8)
    padded[:, : rows.shape[1]] = rows
    # A word of four bytes from every byte on: each field lies in one, so a single gather reads them all.
    words = np.ndarray(rows.shape, "<u4", padded, strides=(padded.shape[1], 1))
    word = words[:, start >> 3].astype(np.uint32, copy=False)
    word >>= (start & 7).astype(np.uint32)
    word &= np.uint32((1 << bits) - 1)
    return word.view(np.int32)
