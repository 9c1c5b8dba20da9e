"""What a condensed set must be, what it takes in bytes, and whether it fits real data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distil.data.text import TEXT_TASK
from distil.errors import DistilError, nearest

if TYPE_CHECKING:
    from distil.data.bundle import Bundle
    from distil.data.condensed import CondensedSet

__all__ = ["LABELS_REPLAYED", "LABEL_KINDS", "check", "keeps_exactly", "same_classes", "stored_bytes"]

LABEL_KINDS = ("hard", "static", "dynamic", "replayed", "two-numbers")
"""How a set is labelled: by class; by stored logits, one row per sample; by the teachers while a student trains; by
logits stored for every view of every epoch; by two distances stored for every view of every epoch."""

LABELS_REPLAYED = ("logits", "distances")
"""The stored tensors that are labels; every other one records an augmentation."""


def check(small: CondensedSet) -> None:
    """Refuse a set whose parts do not fit each other."""
    count, classes = len(small), len(small.classes)
    if small.inputs.ndim < 2 or count == 0 or not small.inputs.is_floating_point():
        raise _wrong(f"inputs of shape {tuple(small.inputs.shape)} and {small.inputs.dtype}; expected float [n, ...]")
    if not bool(torch.isfinite(small.inputs).all()):
        raise _wrong("inputs that are not finite; did its making diverge?")
    if small.labels.shape != (count,) or small.labels.is_floating_point():
        raise _wrong(
            f"labels {tuple(small.labels.shape)} of {small.labels.dtype} for {count} samples; expected int64 [n]"
        )
    if int(small.labels.min()) < 0 or int(small.labels.max()) >= classes:
        low, high = int(small.labels.min()), int(small.labels.max())
        raise _wrong(f"labels from {low} to {high} for {classes} classes; expected 0 … {classes - 1}")
    for name, shape in (("logits", (count, classes)), ("weights", (count,)), ("ids", (count,))):
        value = getattr(small, name)
        if value is not None and tuple(value.shape) != shape:
            raise _wrong(f"{name} of shape {tuple(value.shape)}; expected {shape}")
    for name in ("logits", "weights", "compensators"):
        value = getattr(small, name)
        if value is not None and not bool(torch.isfinite(value).all()):
            raise _wrong(f"{name} that are not finite")
    if small.weights is not None and bool((small.weights < 0).any()):
        raise _wrong("weights below 0")
    _check_pairs(small)
    _check_texts(small)
    if small.kind not in LABEL_KINDS:
        raise _wrong(f"labels of the kind {small.kind!r}; {nearest(small.kind, LABEL_KINDS)}")
    needed = {
        "static": small.logits,
        "replayed": small.replay.get("logits"),
        "two-numbers": small.replay.get("distances"),
    }
    if small.kind in needed and needed[small.kind] is None:
        raise _wrong(f"{small.kind!r} labels without the numbers that are stored for them")
    for name in LABELS_REPLAYED:
        value = small.replay.get(name)
        width = classes if name == "logits" else 2
        if value is not None and (value.ndim != 3 or tuple(value.shape[1:]) != (count, width) or not len(value)):
            raise _wrong(f"replay[{name!r}] of shape {tuple(value.shape)}; expected [epochs, {count}, {width}]")
    for name in ("record", "made"):
        try:
            json.dumps(getattr(small, name) | {}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise _wrong(f"a {name} that is no plain JSON ({error})") from None
    _check_told(small)


def _check_told(small: CondensedSet) -> None:
    """What others read of record and made must be of the kinds they expect: a set may come from anywhere."""
    numbers, words, several = (int, float), (str,), (list, tuple)
    kinds: dict[str, dict[str, tuple[type, ...]]] = {
        "record": {
            "augmentation": (dict,), "temperature": numbers, "epochs": (int,), "weight": numbers, "combine": words,
            "distance": words, "target": words, "labelled_by": several,
        },
        "made": {"method": words, "per_class": (int,), "nets": several, "notes": several, "source": (dict,)},
    }  # fmt: skip
    for name, expected in kinds.items():
        told = getattr(small, name)
        for key, kind in expected.items():
            value = told.get(key)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise _wrong(f"{name}[{key!r}] = {value!r:.60}, which is no {kind[-1].__name__}")
            parts: Any = value if kind is several else None
            if not all(isinstance(each, str) for each in parts or ()):
                raise _wrong(f"{name}[{key!r}] with other things than words")
    if not small.record.get("temperature", 1) > 0:
        raise _wrong(f"a temperature of {small.record['temperature']}; above 0 is expected")


def _check_pairs(small: CondensedSet) -> None:
    if (small.pairs is None) != (small.compensators is None):
        raise _wrong("compensators without pairs, or pairs without compensators; give both or neither")
    if small.pairs is None or small.compensators is None:
        return
    if small.pairs.ndim != 2 or small.pairs.shape[1] != 2 or small.pairs.is_floating_point():
        raise _wrong(f"pairs of shape {tuple(small.pairs.shape)} and {small.pairs.dtype}; expected int64 [n, 2]")
    natural, added = small.pairs.unbind(1)
    inside = natural.min() >= 0 and natural.max() < len(small.inputs)
    if not (inside and added.min() >= -1 and added.max() < len(small.compensators)):
        raise _wrong("pairs that name images or compensators which are not there")
    if len(small.compensators) and small.compensators.shape[1:] != small.inputs.shape[1:]:
        shapes = f"{tuple(small.compensators.shape[1:])} and images of {tuple(small.inputs.shape[1:])}"
        raise _wrong(f"compensators of {shapes}; they are added, so they must be of one shape")


def _check_texts(small: CondensedSet) -> None:
    if small.texts is None:
        if small.prompts is not None:
            raise _wrong("prompts without texts")
        return
    for name, held in (("texts", small.texts), ("prompts", small.prompts)):
        if held is not None and (len(held) != len(small) or not all(isinstance(each, str) for each in held)):
            raise _wrong(f"{len(held)} {name} for {len(small)} samples, or some that are no strings")
    if small.inputs[0].numel() or small.pairs is not None:
        raise _wrong(f"texts beside inputs of shape {tuple(small.inputs.shape)}; expected [n, 0], and no pairs")
    if small.kind not in ("hard", "static"):
        raise _wrong(f"texts with {small.kind} labels, which belong to views of images or vectors")


def _wrong(what: str) -> DistilError:
    return DistilError(f"the condensed set has {what}.")


def keeps_exactly(small: CondensedSet, exact: bool | None) -> bool:
    """Whether the inputs are kept as float32 rather than as 8-bit images."""
    if small.texts is not None:
        if exact is False:
            raise DistilError("texts are kept as they are; leave exact=False out.")
        return True
    fits = small.images and float(small.inputs.min()) >= 0 and float(small.inputs.max()) <= 1
    if exact is False and not fits:
        raise DistilError(
            f"the condensed set's inputs of shape {tuple(small.inputs.shape[1:])}, from {float(small.inputs.min()):g} "
            f"to {float(small.inputs.max()):g}, "
            "are no images in [0, 1], so they cannot be kept as PNG; leave exact=False out."
        )
    return exact is True or not fits or (exact is None and small.made.get("exact") is True)


def stored_bytes(small: CondensedSet, exact: bool) -> dict[str, int]:
    """Return the bytes of images, labels, augmentation, other and total."""
    each = 4 if exact else 1
    compensators = 0 if small.compensators is None else small.compensators.numel()
    index = 1 if len(small.classes) <= 256 else 2
    replayed = {name: _size(value) for name, value in small.replay.items()}
    augmentation: Any = small.record.get("augmentation") or {}
    words = sum(len(each.encode("utf-8", "surrogatepass")) for each in (*(small.texts or ()), *(small.prompts or ())))
    found = {
        "images": each * (small.inputs.numel() + compensators) + words,
        "labels": index * len(small.inputs)
        + _size(small.logits)
        + sum(replayed.get(name, 0) for name in LABELS_REPLAYED),
        "augmentation": sum(size for name, size in replayed.items() if name not in LABELS_REPLAYED)
        + (8 if "seed" in augmentation and any(name in replayed for name in LABELS_REPLAYED) else 0),
        "other": _size(small.weights),
    }
    return found | {"total": sum(found.values())}


def _size(value: Tensor | None) -> int:
    return 0 if value is None else value.numel() * value.element_size()


def same_classes(small: CondensedSet, real: Bundle) -> None:
    """Refuse real data of other classes or shape."""
    if tuple(small.classes) != tuple(real.classes):
        raise DistilError(
            f"the condensed set has the classes {_few(small.classes)}, and {real.name} has {_few(real.classes)}; give "
            "the data it was made from."
        )
    if small.texts is not None:
        if real.task != TEXT_TASK:
            raise DistilError(f"the condensed set holds texts, and {real.name} none; give the data it was made from.")
        return
    if real.task == TEXT_TASK:
        raise DistilError(
            f"the condensed set holds inputs of shape {tuple(small.inputs.shape[1:])}, and {real.name} texts; give "
            "data of those inputs. If they are an encoder's vectors of the texts, name it to distil condense "
            "--existing SET --set encoder=hf:FOLDER; distil train knows the encoder of a set that distil made."
        )
    if tuple(small.inputs.shape[1:]) != tuple(real.input_shape):
        raise DistilError(
            f"the condensed set's inputs are {tuple(small.inputs.shape[1:])}, and those of {real.name} "
            f"{tuple(real.input_shape)}; read the data at that size (size=, channels=)."
        )


def _few(names: tuple[str, ...]) -> str:
    return f"{list(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
