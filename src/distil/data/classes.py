"""The list of classes of a data set: given, declared beside the data, or found in its training part.

One place for images and texts. The order of the list is the order of every model's outputs, so a teacher that was
trained elsewhere is matched by giving its order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distil.errors import DistilError, nearest

__all__ = ["number_labels", "read_classes"]

Label = int | str
_SHOWN = 8


def read_classes(folder: Path) -> tuple[str, ...] | None:
    """Return the names in ``classes.txt`` (one a line) or ``classes.json`` (a list) of a folder, ``None`` without one.

    The place of a name in the list is its number.
    """
    for file in (folder / "classes.txt", folder / "classes.json"):
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8-sig")
            found = json.loads(text) if file.suffix == ".json" else [line.strip() for line in text.splitlines()]
        except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise DistilError(f"the class list {str(file)!r} cannot be read ({error}); save it as UTF-8.") from error
        if not isinstance(found, list) or not all(isinstance(name, (str, int)) for name in found):
            raise DistilError(f'the class list {str(file)!r} is no list of names; write ["cat", "dog"].')
        return checked_names([name for name in map(str, found) if name], str(file))
    return None


def checked_names(names: Sequence[Label], where: str) -> tuple[str, ...]:
    """Return class names as text; fewer than two, or one twice, are refused."""
    texts = tuple(map(str, names))
    twice = next((name for k, name in enumerate(texts) if name in texts[:k]), None)
    if twice is not None or len(texts) < 2:
        wrong = f"names {twice!r} twice" if twice is not None else f"has {len(texts)} classes and needs at least two"
        raise DistilError(f"the class list of {where} {wrong}; correct it.")
    return texts


def number_labels(
    name: str,
    labels: Sequence[Label],
    training: Sequence[bool],
    notes: list[str],
    *,
    place: Callable[[int], str],
    given: Sequence[Label] | None = None,
    declared: Sequence[str] | None = None,
    noun: str = "samples",
) -> tuple[Tensor, tuple[str, ...]]:
    """Turn labels into numbers 0..C-1 and return them with the class names.

    Args:
        name: what the data are called in a message.
        labels: as found, numbers or names.
        training: which samples are (or may become) training samples; they make the list where none is given.
        notes: what a reader must know is added here.
        place: names a sample in a message.
        given: the user's list: it orders the classes and refuses others. Labels are looked up in it by name; numbers
            that are no names count its entries.
        declared: a list that came with the data; numbers count its entries first.
        noun: what samples are called.

    Raises:
        DistilError: for a label that is no class (it is named, with its place and the nearest class), or one class
            only.
    """
    known = set(labels)
    if not labels:
        raise DistilError(f"{name!r} holds no {noun}.")
    whole = all(isinstance(label, int) for label in known)
    if given or declared:
        names = checked_names(given, "the setting 'classes'") if given else tuple(map(str, declared or ()))
        counts = whole and all(0 <= int(label) < len(names) for label in known)
        by_name = {str(label) for label in known} <= set(names)
        if counts and not (given and by_name):
            number: dict[Any, int] = {label: int(label) for label in known}
        else:
            number = {label: names.index(str(label)) for label in known if str(label) in names}
    else:
        found = {label for label, trains in zip(labels, training) if trains} or known
        values: list[Any] = sorted(found) if len({type(value) for value in found}) == 1 else sorted(found, key=str)
        if len(values) == 1:
            raise DistilError(
                f"{name!r} has one class only ({str(values[0])!r}, {len(labels)} {noun}); there is nothing to tell "
                "apart: give at least two."
            )
        number, names = {value: k for k, value in enumerate(values)}, tuple(map(str, values))
        if whole and values != list(range(len(values))):
            notes.append(f"the labels {values[:_SHOWN]} were renumbered 0..{len(values) - 1}.")
    for k, label in enumerate(labels):
        if label not in number:
            source = "the setting 'classes' has" if given else "the data's class list has" if declared else "train has"
            raise DistilError(
                f"{place(k)} has the label {str(label)!r}, and {source} the classes {', '.join(names[:_SHOWN])}"
                f"{', …' if len(names) > _SHOWN else ''}; {nearest(str(label), names)} Correct the label, or name "
                "every class with --set classes=[…]."
            )
    numbers = torch.tensor([number[label] for label in labels])
    seen = set(numbers[torch.tensor(list(training))].tolist())
    absent = [one for k, one in enumerate(names) if k not in seen]
    if absent and seen:
        notes.append(f"no training sample has the class {', '.join(map(repr, absent[:_SHOWN]))}.")
    return numbers, names
