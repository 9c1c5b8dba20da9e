"""Small sets that others made: folders of images by class (SRe2L, RDED), and tensors (DC, DM, MTT).

Nothing in a file is executed: tensors are read through ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet, load_condensed
from distil.data.condensed_files import is_condensed
from distil.data.images import read_picture
from distil.data.records import EXTENSIONS
from distil.errors import DistilError, nearest

__all__ = ["find_condensed", "read_set"]

_IMAGES = ("images", "image_syn", "image", "data", "x", "inputs")
_LABELS = ("labels", "label_syn", "label", "targets", "y")
_DEEPEST = 8  # lists within lists, in a file that anyone would have written for good


def find_condensed(path: str | Path) -> Path | None:
    """Return the folder of a condensed set of this project: ``path``, or ``path/set`` (a run of ``distil condense``).

    >>> find_condensed("no/such/folder") is None
    True
    """
    path = Path(path).expanduser()
    return next((folder for folder in (path, path / "set") if folder.is_dir() and is_condensed(folder)), None)


def read_set(
    path: str | Path, real: Bundle, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> CondensedSet:
    """Read a small set, wherever it was made.

    - a folder of :meth:`CondensedSet.save`, or of a run that made one;
    - a folder of class folders with images: named by class, or by its number (``00003``, ``new003``);
    - a ``.pt`` of tensors: images ``[n, C, H, W]`` with labels beside them in the file (DC, DM: ``{"data":
      [[images, labels], …]}``, the last of which is taken) or in a neighbour of its name (MTT: ``images_best.pt`` and
      ``labels_best.pt``), or the folder of the two. Labels ``[n, C]`` are soft ones: logits, or probabilities.

    Args:
        path: where it lies.
        real: the data it stands for, which say class names and size.
        mean, std: undo the normalisation of tensors, a number for each channel: x · std + mean.

    Raises:
        DistilError: another layout, class or size; images that cannot be read; tensors outside [0, 1] where nothing
            says how they were normalised.
    """
    path = Path(path).expanduser()
    own = find_condensed(path)
    if own is not None:
        if mean is not None or std is not None:
            raise _normalised(path)
        return load_condensed(own)
    if not path.exists():
        raise DistilError(f"there is no small set {str(path)!r}; correct the path.")
    tensors = _tensors_in(path)
    if not tensors and (mean is not None or std is not None):
        raise _normalised(path)
    small = _from_tensors(tensors, real, mean, std) if tensors else _from_folder(path, real)
    if tuple(small.inputs.shape[1:]) != tuple(real.input_shape):
        raise DistilError(
            f"the images of {path} are {tuple(small.inputs.shape[1:])}, and those of {real.name} "
            f"{tuple(real.input_shape)}; read the data at that size (--set size=, --set channels=)."
        )
    return small


def _from_folder(path: Path, real: Bundle) -> CondensedSet:
    folders = sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
    files = {folder: sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS) for folder in folders}
    files = {folder: found for folder, found in files.items() if found}
    if not files:
        raise DistilError(
            f"{path} is no small set: neither distil's own, nor class folders with images, nor .pt files of tensors."
        )
    labels = {folder: _class_of(folder.name, real, path) for folder in files}
    missing = set(range(len(real.classes))) - set(labels.values())
    if missing or len(set(labels.values())) < len(labels):
        which = real.classes[min(missing)] if missing else "one of them"
        raise DistilError(
            f"the {len(labels)} class folders of {path} do not cover the {len(real.classes)} classes of {real.name} "
            f"once each ({which!r} is missing or doubled)."
        )
    shape = tuple(real.input_shape)
    if len(shape) != 3:
        raise DistilError(f"{path} holds images, and {real.name} holds inputs of shape {shape}.")
    images, targets = [], []
    for folder, label in labels.items():
        for file in files[folder]:
            try:
                images.append(torch.from_numpy(read_picture(file, shape)))
            except DistilError as error:
                raise DistilError(f"{file}: {error} A small set misses every image; make it again.") from None
            targets.append(label)
    order = sorted(range(len(targets)), key=targets.__getitem__)
    inputs = torch.stack([images[k] for k in order]).float().div_(255)
    return CondensedSet(inputs, torch.tensor([targets[k] for k in order]), real.classes, made=_made(path, targets))


def _class_of(name: str, real: Bundle, path: Path) -> int:
    if name in real.classes:
        return real.classes.index(name)
    number = re.fullmatch(r"(?:new|class)?_?0*(\d+)", name)
    if number is None or int(number[1]) >= len(real.classes):
        raise DistilError(
            f"{path} has the folder {name!r}, which is no class of {real.name} nor the number of one; "
            f"{nearest(name, real.classes)}"
        )
    return int(number[1])


def _tensors_in(path: Path) -> list[Path]:
    """The files of tensors: one with all, or one of images and one of labels."""
    if path.is_file():
        beside = path.with_name(path.name.replace("images", "labels"))
        return [path, beside] if beside != path and beside.is_file() else [path]
    files = sorted(path.glob("*.pt"))
    images = [file for file in files if "label" not in file.name and "lr" not in file.stem.split("_")]
    if not files:
        return []
    if len(images) != 1:
        raise DistilError(
            f"{path} holds {len(images)} files of tensors that could be images; name the one that is meant."
        )
    labels = [file for file in files if file.name == images[0].name.replace("images", "labels") != images[0].name]
    return [*images, *(labels or [file for file in files if "label" in file.name])][:2]


def _from_tensors(
    files: Sequence[Path], real: Bundle, mean: Sequence[float] | None, std: Sequence[float] | None
) -> CondensedSet:
    where = files[0]
    images, labels = _parts(_load(where))
    if len(files) > 1:
        labels = _load(files[1])
    if not _plain(images) or images.ndim not in (2, 4) or not images.is_floating_point() or not images.numel():
        shape = f"{tuple(images.shape)} of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise DistilError(f"{where} holds {shape}; expected images [n, C, H, W] (or vectors [n, D]) of floats.")
    count, classes = len(images), len(real.classes)
    images = images.detach().float()
    if not bool(torch.isfinite(images).all()):
        raise DistilError(f"{where} holds inputs with values that are not finite; did their making diverge?")
    if (mean is None) != (std is None):
        raise DistilError("mean and std undo a normalisation together; give both, or neither.")
    if mean is not None and images.ndim != 4:
        raise DistilError(f"mean and std undo the normalisation of images, and {where} holds vectors; leave them out.")
    if mean is not None and std is not None:
        if not len(mean) == len(std) == images.shape[1]:
            raise DistilError(f"mean and std need {images.shape[1]} numbers each, one for each channel of {where}.")
        images = images * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    elif images.ndim == 4 and (float(images.min()) < -0.01 or float(images.max()) > 1.01):
        raise DistilError(
            f"{where} holds images from {float(images.min()):.2f} to {float(images.max()):.2f}, so they were "
            "normalised; say how: --set mean=[0.4914,0.4822,0.4465] --set std=[0.2023,0.1994,0.2010]."
        )
    notes = []
    if labels is None:
        if count % classes:
            raise DistilError(
                f"{where} has no labels beside {count} images, which {classes} classes cannot share evenly."
            )
        labels = torch.arange(classes).repeat_interleave(count // classes)
        notes.append("The file names no labels; its images are taken as in class order, equally many of each.")
    if not _plain(labels) or labels.ndim not in (1, 2) or len(labels) != count:
        raise DistilError(f"the labels of {where} are no tensor of {count} rows.")
    logits = None
    if labels.ndim == 2:
        logits = labels.detach().float()
        if logits.shape[1] != classes:
            raise DistilError(f"the soft labels of {where} have {logits.shape[1]} classes, and {real.name} {classes}.")
        if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones(count), atol=1e-3):
            logits = logits.clamp(min=1e-12).log()
        labels = logits.argmax(1)
    whole = labels.detach().long()
    if not torch.equal(whole.to(labels), labels) or not 0 <= int(whole.min()) <= int(whole.max()) < classes:
        low, high = float(labels.min()), float(labels.max())
        raise DistilError(
            f"{where} has labels from {low:g} to {high:g}, and {real.name} has {classes} classes; whole numbers "
            f"0 … {classes - 1} are expected."
        )
    made = _made(where, labels.tolist())
    if logits is None:
        _check_whole(where, whole, real)
    return CondensedSet(images, whole, real.classes, logits=logits, made=made | {"notes": notes})


def _check_whole(where: Path, labels: Tensor, real: Bundle) -> None:
    """Refuse hard labels of some classes alone: a student would never meet the others."""
    counts = labels.bincount(minlength=len(real.classes)).tolist()
    empty = [real.classes[k] for k, count in enumerate(counts) if count == 0]
    if empty:
        more = f" and {len(empty) - 6} more" if len(empty) > 6 else ""
        raise DistilError(
            f"{where} has no samples of {', '.join(empty[:6])}{more}, and {real.name} has {len(real.classes)} classes; "
            "give a set of them all, or leave these classes out of the data."
        )


def _normalised(path: Path) -> DistilError:
    return DistilError(
        f"mean and std undo the normalisation of tensors, and {path} holds none from a .pt; leave them out."
    )


def _parts(loaded: Any, depth: int = 0) -> tuple[Any, Any]:
    """Find images and labels in what a file holds; a list that holds itself has an end too."""
    if isinstance(loaded, Mapping):
        images = next((loaded[name] for name in _IMAGES if name in loaded), None)
        if isinstance(images, list | tuple) and images:
            return _parts(images, depth + 1)
        return images, next((loaded[name] for name in _LABELS if name in loaded), None)
    if isinstance(loaded, list | tuple) and loaded:
        if isinstance(loaded[-1], list | tuple) and depth < _DEEPEST:  # several runs: the last
            return _parts(loaded[-1], depth + 1)
        return loaded[0], loaded[1] if len(loaded) > 1 else None
    return loaded, None


def _plain(value: Any) -> bool:
    """Whether it is a tensor of numbers that lie here one by one: not sparse, quantised, complex or without data."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return False
    return not (value.is_quantized or value.is_complex() or value.is_meta)


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats and archives; what cannot be read is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a torn or foreign file sets off in the reader, the file is at fault
        raise DistilError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}); save images and labels with torch.save "
            "as plain tensors."
        ) from error


def _made(path: Path, labels: Sequence[int]) -> dict[str, Any]:
    counts = torch.tensor(labels).bincount()
    return {"method": f"others ({path.name})", "per_class": int(counts.max())}
