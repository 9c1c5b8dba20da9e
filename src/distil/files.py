"""Writing a file or a folder whole or not at all; the standard library alone."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from distil.errors import DistilError

__all__ = ["readable", "write_folder", "write_text"]


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` to a neighbour of ``path`` and move it there, so that a reader never sees half a file.

    Raises:
        DistilError: the file cannot be written; what stood there before is untouched.
    """
    path = Path(path)
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        readable(name)
        os.replace(name, path)
    except OSError as error:
        raise DistilError(f"{path} could not be written ({error.strerror or error}); nothing was changed.") from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)
    return path


def readable(path: str | os.PathLike[str]) -> None:
    """Give a file the mode of any new one: what was written by way of a temporary file is private."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Let ``fill`` write into a fresh neighbour of ``folder``, then put that in its place by renaming.

    What is written is on the disk before it has its name, so that who reads sees the old folder or the new one, whole.

    Raises:
        DistilError: it cannot be written; what stood there before is untouched, as after any error of ``fill``. Where
            even that cannot be put back, whatever stopped the writing, it says where it lies.
    """
    shown, folder = folder, folder.absolute()
    fresh, old = (folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}" for _ in range(2))
    try:
        fresh.mkdir(parents=True)
        fill(fresh)
        for file in (path for path in fresh.rglob("*") if path.is_file()):
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except Exception as error:
        # safetensors has an error of its own, and its own words, for a disk that is full.
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        why = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise DistilError(f"{shown} could not be written ({why}); nothing was changed.") from error
    finally:
        try:
            if old.exists() and not folder.exists():
                old.rename(folder)
        except OSError as error:
            why = error.strerror or str(error)
            raise DistilError(
                f"{shown} could not be written, and what stood there could not be put back ({why}); it lies whole in "
                f"{old}: rename that."
            ) from error
        else:
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder
