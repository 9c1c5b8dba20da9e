"""Packed files of rows: written whole or not at all, self-describing, checksummed, memory-mapped, in any order.

A shard is::

    8 bytes  "DISTILc1"                    8 bytes  length of the header, little-endian
    4 bytes  CRC-32 of the header          the header, JSON, padded with spaces to a multiple of 64 bytes
    the sections, one after another: "id" int64, "content" int64, with views "view" int64, then the rows of each tap

Its header says what a row is (:class:`Meta`), how many there are, where each section begins, and the CRC-32 of each of
its blocks. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distil.cache.bits import Bytes
from distil.cache.codec import Codec
from distil.cache.codecs import codec_from
from distil.errors import DistilError

__all__ = ["PLAIN", "SUFFIX", "Field", "Meta", "Shard", "write_shard"]

SUFFIX = ".shard"
VERSIONS = (1, 2)
_MAGIC = b"DISTILc1"
_BLOCK = 1 << 18
_START = 20
PLAIN = -1
"""The view that is none: a sample as it is."""
_MOST = 1 << 28  # a longer header is no header
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Field:
    """One tap: its codec, and the shape of one sample's numbers, the last of which is coded as a row.

    Attributes:
        codec: its name and parameters.
        shape: of one sample, as it is coded.
        form: of one sample, as it is given back, where that differs (maps are coded by channel).
        place: the module path it was read at, where its name is a meaning.

    >>> Field({"name": "dense16"}, (100,)).bytes
    204
    """

    codec: Mapping[str, Any]
    shape: tuple[int, ...]
    form: tuple[int, ...] | None = None
    place: str | None = None

    @property
    def width(self) -> int:
        """The numbers that are coded together."""
        return self.shape[-1]

    @property
    def lead(self) -> int:
        """The rows of one sample: 1, or one for each token or place."""
        return int(np.prod(self.shape[:-1], dtype=np.int64))

    @property
    def bytes(self) -> int:
        """The bytes of one sample."""
        return self.lead * self.coder().bytes(self.width)

    def coder(self) -> Codec:
        """Return the codec."""
        return codec_from(self.codec)


@dataclass(frozen=True)
class Meta:
    """What every shard of a cache agrees on.

    Attributes:
        fields: each tap's codec and shape.
        teacher: the teacher's fingerprint.
        task: the task's name, and what it does to a teacher's inputs.
        precision: in which the teacher ran.
        temperature: a word on what the numbers are: logits as the teacher gave them, or a softmax at a temperature.
        contents: whether rows know the inputs they belong to (imported ones do not).
        note: where it came from.
        views: the views of each sample (``Views.plain()``), whose records are the field ``augment``; ``None`` where
            samples are stored as they are.
    """

    fields: Mapping[str, Field]
    teacher: str
    task: Mapping[str, Any]
    precision: str = "fp32"
    temperature: str = "logits as given"
    contents: bool = True
    note: str = ""
    views: Mapping[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON would hold it, without what is not used."""
        tree: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        tree["fields"] = {name: _used(field) for name, field in tree["fields"].items()}
        return _used(tree)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Meta:
        """Return what :meth:`plain` described."""
        fields = {
            name: Field(one["codec"], tuple(one["shape"]), tuple(form) if (form := one.get("form")) else None,
                        one.get("place"))
            for name, one in plain["fields"].items()
        }  # fmt: skip
        return cls(**{**plain, "fields": fields})

    @property
    def bytes(self) -> int:
        """The bytes of one answer, id and content among them: of a sample, or of one view of it."""
        return (24 if self.views else 16) + sum(field.bytes for field in self.fields.values())

    @property
    def version(self) -> int:
        """The oldest version of the format that says all this, so that older programs read what they can."""
        return 2 if self.views or any(f.form or f.place for f in self.fields.values()) else 1


def write_shard(
    folder: Path, meta: Meta, ids: Longs, contents: Longs, rows: Mapping[str, Bytes], *, views: Longs | None = None
) -> Path:
    """Write a shard under a name that its content gives, so that writers never meet; a reader sees all of it or none.

    Raises:
        DistilError: the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    parts: dict[str, Bytes] = {"id": _raw(ids), "content": _raw(contents)}
    if views is not None:
        parts["view"] = _raw(views)
    parts |= {f"tap:{name}": np.ascontiguousarray(block).reshape(-1) for name, block in rows.items()}
    sections, at = [], 0
    for name, part in parts.items():
        sums = [zlib.crc32(part[first : first + _BLOCK].data) for first in range(0, part.nbytes, _BLOCK)]
        sections.append({"name": name, "at": at, "bytes": part.nbytes, "crc32": sums})
        at += part.nbytes
    described = {
        "version": meta.version,
        "count": len(ids),
        "block": _BLOCK,
        "meta": meta.plain(),
        "sections": sections,
    }
    header = json.dumps(described, sort_keys=True).encode()
    header += b" " * (-(_START + len(header)) % 64)
    digest = hashlib.sha256(header).hexdigest()[:24]
    path, temporary = folder / f"{digest}{SUFFIX}", ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=folder)
        with os.fdopen(handle, "wb") as stream:
            stream.write(_MAGIC + struct.pack("<QI", len(header), zlib.crc32(header)) + header)
            for part in parts.values():
                stream.write(part.data)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise DistilError(
            f"the cache {folder} could not be written ({error.strerror or error}); the shards that are there stay "
            "whole: make room, then go on with resume."
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
    return path


class Shard:
    """A shard that is read where it lies; ids and contents are in memory, rows are mapped when they are first read.

    Each process maps the file anew, so a shard can be sent to workers or inherited by them.

    Raises:
        DistilError: no shard, one cut short, of another version, or with a flipped byte; file and block are named.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as stream:
                header = self._header(stream.read(_START), stream)
                size = os.fstat(stream.fileno()).st_size
        except OSError as error:
            raise DistilError(f"the shard {self.path} cannot be read ({error.strerror or error}).") from error
        self.meta = Meta.read(header["meta"])
        self.count, self._block = int(header["count"]), int(header["block"])
        self._sections = {one["name"]: one for one in header["sections"]}
        whole = self._first + sum(one["bytes"] for one in header["sections"])
        if size != whole:
            raise self._broken(f"has {size} bytes and should have {whole}: it was cut short, or something was added")
        self._begin()
        self.ids, self.contents = (self._section(name).view("<i8").astype(np.int64) for name in ("id", "content"))
        self.views = np.full(self.count, PLAIN)
        if "view" in self._sections:
            self.views = self._section("view").view("<i8").astype(np.int64)

    def rows(self, tap: str, positions: Longs) -> Bytes:
        """Return the coded samples of a tap, ``[n, lead, bytes of a row]``; what is read is checked first."""
        field = self.meta.fields[tap]
        each, name = field.bytes, f"tap:{tap}"
        self._check(name, positions, each)
        table = self._mapped(name).reshape(self.count, each)
        return np.asarray(table[positions]).reshape(len(positions), field.lead, each // field.lead)

    def verify(self) -> None:
        """Check every block of the file."""
        for name, section in self._sections.items():
            for block in range(len(section["crc32"])):
                self._check_block(name, block)

    def _header(self, start: bytes, stream: Any) -> dict[str, Any]:
        if len(start) < _START or start[:6] != _MAGIC[:6]:
            raise self._broken("is no shard of a teacher cache, or was cut short")
        if start[:8] != _MAGIC:
            raise self._broken(
                f"is of the format {start[6:8]!r}, and this version reads {_MAGIC[6:]!r}", "update distil"
            )
        length, checksum = struct.unpack("<QI", start[8:])
        text = stream.read(length) if length < _MOST else b""
        if len(text) != length or zlib.crc32(text) != checksum:
            raise self._broken("has a damaged header")
        header: dict[str, Any] = json.loads(text)
        if header.get("version") not in VERSIONS:
            raise self._broken(
                f"is of version {header.get('version')}, and this version reads {' and '.join(map(str, VERSIONS))}",
                "update distil, or write",
            )
        self._first = _START + length
        return header

    def _begin(self) -> None:
        self._process, self._map = -1, np.zeros(0, dtype=np.uint8)
        self._good = {name: np.zeros(len(one["crc32"]), dtype=bool) for name, one in self._sections.items()}

    def _mapped(self, name: str) -> Bytes:
        if self._process != os.getpid():
            try:
                self._map = np.memmap(self.path, dtype=np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise self._broken(f"cannot be mapped any more ({error})") from error
            self._process = os.getpid()
        first = self._first + self._sections[name]["at"]
        return self._map[first : first + self._sections[name]["bytes"]]

    def _section(self, name: str) -> Bytes:
        for block in range(len(self._sections[name]["crc32"])):
            self._check_block(name, block)
        return np.asarray(self._mapped(name))

    def _check(self, name: str, positions: Longs, each: int) -> None:
        good = self._good[name]
        if good.all():
            return
        first, last = positions * each // self._block, ((positions + 1) * each - 1) // self._block
        wanted = np.zeros(len(good), dtype=bool)
        for more in range(int((last - first).max(initial=0)) + 1):
            wanted[np.minimum(first + more, last)] = True
        for block in np.flatnonzero(wanted & ~good):
            self._check_block(name, int(block))

    def _check_block(self, name: str, block: int) -> None:
        part = self._mapped(name)[block * self._block : (block + 1) * self._block]
        if zlib.crc32(np.ascontiguousarray(part).data) != self._sections[name]["crc32"][block]:
            raise self._broken(f"is damaged in block {block} of '{name}' (its checksum is another)")
        self._good[name][block] = True

    def _broken(self, what: str, fix: str = "delete it and write") -> DistilError:
        return DistilError(f"the shard {self.path} {what}; {fix} the cache again with resume.")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_map", "_good", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()


def _used(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if value is not None}


def _raw(values: Longs) -> Bytes:
    return np.ascontiguousarray(values, dtype="<i8").view(np.uint8)
