"""How each role's images are brought to the form that its model knows: read in [0, 1], then resized and normalised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from distil.data.bundle import Bundle
from distil.errors import DistilError, nearest
from distil.models.published import Published, is_pretrained, published_inputs
from distil.tasks import ClassificationTask, Task, get_task

__all__ = ["NAMED", "InputSize", "Normalise", "as_teacher", "described", "for_key", "image_task", "in_words"]

ROLES = ("student", "teacher")
NAMED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Means and standard deviations by name; those that torchvision's classification weights were trained with."""

LARGEST_SIDE = 1 << 14
"""Pixels; a larger side is a slip of the hand, and would ask for more memory than there is."""


@dataclass(frozen=True)
class Normalise:
    """Each role's mean and standard deviation, taken from images in [0, 1].

    ``auto``: the library's own metadata where its published weights are loaded, else ``none``. ``imagenet``: its
    customary figures. Otherwise ``[mean, std]``, each a number or one per channel.
    """

    student: Any = "auto"
    teacher: Any = "auto"


@dataclass(frozen=True)
class InputSize:
    """Each role's side in pixels, to which its images are resized; ``none``: as they are read.

    ``auto``: the published size where published weights are loaded into a net that takes no other, else ``none``.
    """

    student: int | str = "auto"
    teacher: int | str = "auto"


def image_task(
    bundle: Bundle,
    normalise: Normalise,
    input_size: InputSize,
    *,
    student: str,
    teacher: str,
    pretrained: bool = False,
    module: nn.Module | None = None,
) -> tuple[Task, list[str]]:
    """Return the task that calls both models as they expect it, and remarks for the user.

    Args:
        bundle: the data; anything but images is left alone.
        normalise, input_size: what was set for each role.
        student, teacher: the models by name.
        pretrained: whether the teacher's library loads its published weights.
        module: the teacher, if it was made.

    Raises:
        DistilError: a setting that cannot be, or that does not fit the channels of the images.
    """
    if bundle.task != ClassificationTask.name or len(bundle.input_shape) != 3:
        for name, setting in (("normalise", normalise), ("input_size", input_size)):
            if any(_unset(getattr(setting, role)) is None for role in ROLES):
                raise DistilError(f"{name} is for images, and {bundle.name} holds none; leave it out.")
        return get_task(bundle.task), []
    found = {"student": _found(student, False, None), "teacher": _found(teacher, pretrained, module)}
    statistics, sizes, remarks = {}, {}, []
    for role, published in found.items():
        pair = _statistics(role, getattr(normalise, role), published)
        if pair is not None:
            _check_channels(role, pair, bundle)
            statistics[role] = pair
        size = _side(role, getattr(input_size, role), published)
        if size is not None:
            sizes[role] = size
        elif published is not None and published.size != tuple(bundle.input_shape[1:]):
            (height, width), seen = published.size, bundle.input_shape
            remarks.append(
                f"the {role}'s published weights know images of {height}x{width}, and it is given {seen[1]}x{seen[2]}; "
                f"--set input_size.{role}={height} resizes them for it."
            )
    return ClassificationTask(normalise=statistics, input_size=sizes), remarks


def as_teacher(task: Task) -> Task:
    """Return the task for training the teacher itself: in the student's place, with the inputs of a teacher."""
    if not isinstance(task, ClassificationTask):
        return task
    normalise = {role: task.normalise["teacher"] for role in ROLES if "teacher" in task.normalise}
    sizes = {role: task.input_size["teacher"] for role in ROLES if "teacher" in task.input_size}
    return ClassificationTask(normalise=normalise, input_size=sizes, classes=task.classes, groups=task.groups)


def described(task: Task) -> dict[str, Any]:
    """Return what is done to each role's inputs, as plain values: ``{"teacher": {"size": …, "mean": …, "std": …}}``.

    >>> described(ClassificationTask(normalise={"teacher": (0.5, 0.25)}))
    {'teacher': {'mean': [0.5], 'std': [0.25]}}
    """
    told: dict[str, Any] = {}
    for role in ROLES:
        one: dict[str, Any] = {}
        if role in getattr(task, "input_size", {}):
            one["size"] = list(task.input_size[role])  # type: ignore[attr-defined]
        if role in getattr(task, "normalise", {}):
            # Single precision as the few digits that were meant.
            mean, std = ([float(f"{x:.7g}") for x in v.tolist()] for v in task.normalise[role])  # type: ignore[attr-defined]
            one |= {"mean": mean, "std": std}
        if one:
            told[role] = one
    return told


def in_words(task: Task) -> str:
    """Return the same as a sentence, for a report.

    >>> in_words(ClassificationTask(normalise={"teacher": (0.5, 0.25)}))
    'the student takes the images in [0, 1]; the teacher takes them with mean 0.5 and std 0.25'
    """
    told, parts = described(task), list[str]()
    for role in ROLES:
        one = told.get(role, {})
        how = [f"resized to {one['size'][0]}x{one['size'][1]}"] if "size" in one else []
        if "mean" in one:
            how.append(f"with mean {_numbers(one['mean'])} and std {_numbers(one['std'])}")
        subject = "them" if parts else "the images"
        parts.append(f"the {role} takes {subject} {', '.join(how) or 'in [0, 1]'}")
    return "; ".join(parts)


def _found(spec: str, pretrained: bool, module: nn.Module | None) -> Published | None:
    return published_inputs(spec, module) if is_pretrained(spec, pretrained) else None


def _unset(value: Any) -> str | None:
    """Return "auto" or "none" where a setting is one of them (null is "none"), else nothing."""
    word = "none" if value is None else str(value).lower()
    return word if word in ("auto", "none") else None


def _statistics(role: str, value: Any, published: Published | None) -> tuple[Any, Any] | None:
    if _unset(value) is not None:
        return (published.mean, published.std) if _unset(value) == "auto" and published is not None else None
    if isinstance(value, str):
        if value.lower() not in NAMED:
            raise DistilError(
                f"normalise.{role}={value!r} is unknown; {nearest(value, ['auto', 'none', *NAMED])} "
                "Or give [mean, std], each a number or one per channel."
            )
        return NAMED[value.lower()]
    if isinstance(value, Sequence) and len(value) == 2 and all(map(_is_statistic, value)):
        return value[0], value[1]
    raise DistilError(
        f"normalise.{role}={value!r} cannot be read; give auto, none, imagenet or [mean, std], each a number or one "
        "per channel, as in [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]."
    )


def _is_statistic(value: Any) -> bool:
    members = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return bool(members) and all(isinstance(m, (int, float)) and not isinstance(m, bool) for m in members)


def _check_channels(role: str, pair: tuple[Any, Any], bundle: Bundle) -> None:
    channels = bundle.input_shape[0]
    for value in pair:
        given = len(value) if isinstance(value, Sequence) else 1
        if given not in (1, channels):
            fix = " Read them as RGB, which repeats the grey channel: --set channels=3." if channels == 1 else ""
            raise DistilError(
                f"The {role}'s inputs are normalised by {given} channels, and the images of {bundle.name} have "
                f"{channels}; give one number, or one for each channel.{fix}"
            )


def _side(role: str, value: int | str, published: Published | None) -> tuple[int, int] | None:
    if _unset(value) is not None:
        fits = _unset(value) == "auto" and published is not None and published.fixed
        return published.size if fits and published is not None else None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DistilError(f"input_size.{role}={value!r} is impossible; give auto, none, or the side in pixels (224).")
    if value > LARGEST_SIDE:
        raise DistilError(f"input_size.{role}={value} is no side of an image; give at most {LARGEST_SIDE} pixels.")
    return value, value


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def for_key(task: Task) -> Mapping[str, Any]:
    """Return the part of a stored run's key that inputs make; nothing where both roles take the images as they are."""
    told = described(task)
    return {"inputs": told} if told else {}
