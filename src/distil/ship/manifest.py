"""JSON and file names that come from elsewhere: read with care, never followed out of their folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from distil.errors import DistilError
from distil.files import write_text
from distil.report.check import clean

__all__ = ["digest", "files_in", "inside", "read_json", "write_json"]

_LARGEST = 64 << 20  # bytes of a JSON file that anyone would have written for good


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> Path:
    """Write strict JSON, whole or not at all; a number that is not finite becomes null."""
    return write_text(path, json.dumps(clean(content), ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def read_json(path: Path, *, kind: str | None = None, version: int = 1) -> Any:
    """Read strict JSON.

    Args:
        path: the file.
        kind: what its ``"kind"`` must say; then its ``"version"`` is checked too.
        version: the newest version that this distil reads.

    Raises:
        DistilError: the file is missing, cut off, too large, of another kind or of a newer version.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise DistilError(f"{path} holds {path.stat().st_size} bytes, more than distil would have written.")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise DistilError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise DistilError(f"{path} is not whole JSON ({error}); it was cut off or changed.") from None
    if kind is None:
        return content
    if not isinstance(content, dict) or content.get("kind") != kind:
        seen = content.get("kind") if isinstance(content, dict) else type(content).__name__
        raise DistilError(f"{path} is of kind {seen!r}; {kind!r} is expected.")
    found = content.get("version")
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= version:
        raise DistilError(f"{path} has version {found!r}, and this distil reads up to {version}; update distil.")
    return content


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def inside(folder: Path, name: Any, what: str) -> Path:
    """Return ``folder/name``, refusing a name that leads out of ``folder``, by dots, from the root or by a link.

    >>> inside(Path("runs"), "../secret", "the tokenizer")
    Traceback (most recent call last):
    distil.errors.DistilError: the tokenizer is called '../secret', which leads out of runs; it is not read.
    """
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath("..")
    odd = not path.parts or path.is_absolute() or ".." in path.parts or "\\" in str(name) or "\0" in str(name)
    if odd or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise DistilError(f"{what} is called {name!r}, which leads out of {folder}; it is not read.")
    return folder / path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def files_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and checksum of every file below ``folder``, by its name with slashes."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": digest(p)} for p in found}
