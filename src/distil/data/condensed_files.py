"""A condensed set on disk: PNG images or lines of texts, tensors as safetensors, facts as JSON, and checksums.

::

    set/manifest.json             kind, version, and size and SHA-256 of every other file
        set.json                  classes, shapes, how to train on it, how it was made, bytes of each part
        tensors.safetensors       labels, logits, weights, …; the inputs too where they are kept exactly
        images/00003/00012.png    input 12, of class 3
        compensators/00000.png    an additive image, from its lowest value (black) to its highest (white)
        texts.jsonl               a line for each sample where they are texts: id, label, text, …
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distil.data.condensed_check import keeps_exactly
from distil.errors import DistilError
from distil.files import readable, write_folder
from distil.functional.pixels import eight_bit

if TYPE_CHECKING:
    from distil.data.condensed import CondensedSet

__all__ = ["MANIFEST", "as_kept", "is_condensed", "read", "write"]

MANIFEST, FACTS, TENSORS, TEXTS = "manifest.json", "set.json", "tensors.safetensors", "texts.jsonl"
KIND, VERSION = "distil-condensed-set", 1
_LARGEST = 64 << 20  # bytes of a JSON file that anyone would have written for good
_NAMES = re.compile(r"set\.json|tensors\.safetensors|texts\.jsonl|(images/\d{5,}|compensators)/\d{5,}\.png")
_PLAIN = ("labels", "logits", "weights", "ids", "pairs")


def is_condensed(folder: str | Path) -> bool:
    """Whether a folder holds a condensed set (whole or torn)."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return False
    try:
        return bool(_json(folder / MANIFEST).get("kind") == KIND)
    except DistilError:
        return (folder / FACTS).is_file() or (folder / TENSORS).is_file()


def write(small: CondensedSet, folder: Path, exact: bool | None) -> Path:
    """Write a set; see :meth:`distil.data.condensed.CondensedSet.save`."""
    from safetensors.torch import save_file

    if folder.exists() and not is_condensed(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise DistilError(f"{folder} holds something that is no condensed set; name another folder.")
    exactly = keeps_exactly(small, exact)
    small = small.to("cpu")

    def fill(target: Path) -> None:
        tensors = {name: value for name in _PLAIN if isinstance(value := getattr(small, name), Tensor)}
        tensors |= {f"replay.{name}": value for name, value in small.replay.items()}
        ranges: list[list[float]] = []
        if small.texts is not None:
            (target / TEXTS).write_text("".join(_lines(small)), encoding="utf-8")
        elif exactly:
            tensors["inputs"] = small.inputs
            if small.compensators is not None:
                tensors["compensators"] = small.compensators
        else:
            for k, (image, label) in enumerate(zip(small.inputs, _own_labels(small).tolist(), strict=True)):
                _write_png(target / _image(k, label), image)
            if small.compensators is not None:
                ranges = [_write_ranged(target / _added(k), image) for k, image in enumerate(small.compensators)]
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, target / TENSORS)
        readable(target / TENSORS)
        facts = {
            "classes": list(small.classes),
            "samples": len(small),
            "inputs": list(small.inputs.shape),
            "input_labels": _own_labels(small).tolist(),
            "compensators": None if small.compensators is None else len(small.compensators),
            "ranges": ranges,
            "exact": exactly,
            "record": dict(small.record),
            "made": dict(small.made),
            "storage": small.storage(exact=exactly),
        }
        _write_json(target / FACTS, facts)
        sums = {name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for name, path in _files(target)}
        _write_json(target / MANIFEST, {"kind": KIND, "version": VERSION, "files": sums})

    return write_folder(folder, fill)


def as_kept(small: CondensedSet, exact: bool | None = None) -> CondensedSet:
    """Return a set as it will be read again: to be labelled, so that labels are of that.

    Args:
        small: the set. exact: as it will be saved with; where that keeps PNG, images are rounded to 8 bits a value.
    """
    if keeps_exactly(small, exact):
        return small
    added = small.compensators
    if added is not None and len(added):
        ends = [(float(each.min()), float(each.max())) for each in added]
        added = torch.stack([_ranged(eight_bit(_unit(u, *e)), *e) for u, e in zip(added, ends, strict=True)])
    return replace(small, inputs=eight_bit(small.inputs), compensators=added)


def read(folder: Path) -> dict[str, Any]:
    """Return what a set is made of; see :func:`distil.data.condensed.load_condensed`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    listed = _verify(folder)
    facts = _json(folder / FACTS)

    unreadable: tuple[type[Exception], ...] = (
        KeyError, IndexError, TypeError, ValueError, OSError, RuntimeError, SafetensorError, *_bomb(),
    )  # fmt: skip

    def png(name: str) -> Tensor:
        if name not in listed:
            raise KeyError(f"{name} is not among the files of {MANIFEST}")
        return _read_png(folder / name, tuple(facts["inputs"][1:]))

    try:
        tensors = load_file(folder / TENSORS)
        inputs, compensators = tensors.pop("inputs", None), tensors.pop("compensators", None)
        words: dict[str, Any] = {}
        if TEXTS in listed:
            words = _words(folder / TEXTS, facts["classes"], tensors["labels"])
            inputs = torch.zeros(len(words["texts"]), 0)
        elif inputs is None:
            labels = facts["input_labels"]
            inputs = torch.stack([png(_image(k, int(label))) for k, label in enumerate(labels)])
            if facts["compensators"] is not None:
                made = [_ranged(png(_added(k)), *map(float, r)) for k, r in enumerate(facts["ranges"])]
                compensators = torch.stack(made) if made else inputs[:0]
        replay = {name.removeprefix("replay."): tensors[name] for name in tensors if name.startswith("replay.")}
        plain = {name: tensors[name] for name in _PLAIN if name in tensors}
        if "labels" not in plain:
            raise KeyError("labels")
        facts = {
            "classes": tuple(map(str, facts["classes"])),
            "record": dict(facts["record"]),
            "made": dict(facts["made"]),
        }
        return {"inputs": inputs, "compensators": compensators, "replay": replay, **plain, **facts, **words}
    except unreadable as error:
        raise DistilError(
            f"{folder} is no condensed set that this distil reads ({type(error).__name__}: {str(error)[:120]}); make "
            "it again."
        ) from error


def _verify(folder: Path) -> set[str]:
    """Hold every file against the manifest, and return their names; only those that this module writes are read."""
    if not folder.is_dir():
        raise DistilError(f"there is no condensed set {str(folder)!r}; correct the path.")
    manifest = _json(folder / MANIFEST)
    if manifest.get("kind") != KIND:
        raise DistilError(f"{folder} is of the kind {manifest.get('kind')!r}; {KIND!r} is expected.")
    if manifest.get("version") != VERSION:
        raise DistilError(
            f"{folder} has version {manifest.get('version')!r}, and this distil reads {VERSION}; update distil."
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not {FACTS, TENSORS} <= set(files) or not all(map(_NAMES.fullmatch, files)):
        raise DistilError(f"{folder / MANIFEST} names files that no condensed set has; it was changed, make it again.")
    for name, entry in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DistilError(f"{path} is a link out of {folder}; it is not read.")
        if not path.is_file() or not isinstance(entry, dict) or _digest(path) != entry.get("sha256"):
            state = "was changed or cut off (its checksum differs)" if path.is_file() else "is missing"
            raise DistilError(f"{path} {state}; the condensed set is torn: copy it again, or make it again.")
    return set(files)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _lines(small: CondensedSet) -> Iterator[str]:
    """A line of JSON for each sample; what stands in the tensors too is there for people and other programs."""
    assert small.texts is not None
    for k, text in enumerate(small.texts):
        row: dict[str, Any] = {} if small.ids is None else {"id": int(small.ids[k])}
        row["label"] = small.classes[int(small.labels[k])]
        row |= {} if small.weights is None else {"weight": float(small.weights[k])}
        row |= {} if small.prompts is None else {"prompt": small.prompts[k]}
        row["text"] = text
        line = json.dumps(row, ensure_ascii=False)
        # Half of a surrogate pair, which JSON can name, has no UTF-8.
        yield (line if line.isascii() or _encodes(line) else json.dumps(row)) + "\n"


def _encodes(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _words(path: Path, classes: list[str], labels: Tensor) -> dict[str, Any]:
    """The texts and prompts of a set; lines that do not go with its labels are a ``ValueError``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    if [row["label"] for row in rows] != [classes[k] for k in labels.tolist()]:
        raise ValueError(f"{path.name} has other labels than {TENSORS}")
    told = bool(rows) and "prompt" in rows[0]
    prompts = tuple(row["prompt"] for row in rows) if told else None
    return {"texts": tuple(row["text"] for row in rows), "prompts": prompts}


def _own_labels(small: CondensedSet) -> Tensor:
    """The class of each stored input: its own, or that of the samples made from it."""
    if small.pairs is None:
        return small.labels
    own = torch.zeros(len(small.inputs), dtype=torch.int64)
    own[small.pairs[:, 0]] = small.labels
    return own


def _image(k: int, label: int) -> str:
    return f"images/{label:05d}/{k:05d}.png"


def _added(k: int) -> str:
    return f"compensators/{k:05d}.png"


def _write_png(path: Path, image: Tensor) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (image.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path, format="PNG")


def _read_png(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Return the image, of ``shape`` [C, H, W]; one of another size or depth is refused before it is decoded."""
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        if (image.size, image.mode) != ((shape[2], shape[1]), {1: "L", 3: "RGB"}[shape[0]]):
            raise ValueError(f"{path.name} is {image.size}, {image.mode}, in a set of {shape}")
        pixels = np.asarray(image, dtype=np.uint8)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)


def _write_ranged(path: Path, image: Tensor) -> list[float]:
    low, high = float(image.min()), float(image.max())
    _write_png(path, _unit(image, low, high))
    return [low, high]


def _unit(image: Tensor, low: float, high: float) -> Tensor:
    return (image - low) / (high - low) if high > low else torch.zeros_like(image)


def _bomb() -> tuple[type[Exception], ...]:
    from PIL import Image

    return (Image.DecompressionBombError,)


def _ranged(image: Tensor, low: float, high: float) -> Tensor:
    return image * (high - low) + low


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise DistilError(f"{path} holds {path.stat().st_size} bytes, more than distil would have written.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DistilError(f"{path} cannot be read ({error.strerror}); is this a condensed set?") from None
    except (ValueError, RecursionError):
        raise DistilError(f"{path} is not whole JSON; it was cut off or changed.") from None
    if not isinstance(content, dict):
        raise DistilError(f"{path} holds a {type(content).__name__}; an object is expected.")
    return content


def _digest(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
