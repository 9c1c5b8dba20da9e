"""Settings that a run on small sets would not read: they are refused, so that nothing typed is without effect."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from distil.errors import DistilError
from distil.loops.condensers import find

if TYPE_CHECKING:
    from distil.loops.own_condense import CondenseRun

__all__ = ["changed", "refuse_unread", "typed"]

OPTIONS = {
    "judging.students": "--student",
    "judging.seeds": "--seeds",
    "judging.training.updates": "--updates",
    "judging.training.checks": "--updates",
    "labelling.kind": "--labels",
    "teachers": "--teacher",
}
VERBS = ("method", "per_class", "seed", "train_teacher", "pretrained", "teacher_weights", "grid")
READ = {
    "hard": (),
    "static": ("temperature", "combine"),
    "dynamic": ("temperature", "combine"),
    "replayed": ("temperature", "combine", "epochs"),
    "two-numbers": ("combine", "epochs", "distance", "weight", "target"),
}
"""What of ``labelling`` is read for each kind of labels, besides how samples are shown."""


def changed(settings: Any, plain: Any, path: str = "") -> dict[str, Any]:
    """Return the settings that differ from ``plain``, by their dotted names."""
    found: dict[str, Any] = {}
    for each in fields(settings):
        value, usual = getattr(settings, each.name), getattr(plain, each.name)
        if is_dataclass(value) and type(value) is type(usual):
            found |= changed(value, usual, f"{path}{each.name}.")
        elif value != usual:
            found[path + each.name] = value
    return found


def typed(name: str, value: Any) -> str:
    """Return a setting as it is typed: an option of the verb, or ``--set``."""
    if name in OPTIONS or name in VERBS:
        return OPTIONS.get(name) or f"--{name.replace('_', '-')}"
    if isinstance(value, dict):
        return " ".join(f"--set {key}={one}" for key, one in value.items())
    shown = list(value) if isinstance(value, tuple) else value
    return f"--set {name}={shown}"


def refuse_unread(run: CondenseRun, plain: CondenseRun) -> None:
    """Refuse what an order names and nothing of it reads.

    Args:
        run: the order.
        plain: one in which nothing is named.
    """
    given = changed(run, plain)
    there, judged = run.existing is not None, run.evaluate or run.existing is not None
    if there:
        _refuse(
            given,
            ("method", "per_class", "options", "seed", *(() if run.keep == "nearest" else ("keep",))),
            "is of making a set, and --existing judges one that is there: leave --existing out",
        )
    else:
        _refuse(given, ("mean", "std"), "undoes the normalisation of a set that is there: name that with --existing")
    if not judged:
        _refuse(given, ("judging.",), "is how a set is judged, and this one is not: add --evaluate")
    if run.labels is None:
        _refuse(given, ("labelling.",), "is of labels that are asked for: name their kind with --labels")
    else:
        _refuse_unread_labelling(run)
    taught = ("train_teacher", "teacher_lr", "training.")
    if not run.teachers:
        _refuse(given, (*taught, "pretrained", "normalise", "input_size"), "is of teachers: name one with --teacher")
    elif not run.train_teacher:
        _refuse(given, taught, "is how teachers are trained, and none is: add --train-teacher")
    else:
        _refuse(given, ("training.epochs",), f"is what --train-teacher {run.train_teacher} says")
        if run.teacher_lr is not None:
            _refuse(given, ("training.lr",), f"is not the teachers' where teacher_lr={run.teacher_lr:g} is")
        if not there and find(run.method).teachers == 0 and run.labels in (None, "hard"):
            _refuse(given, ("train_teacher",), f"trains what {run.method} with hard labels does not ask")


def _refuse_unread_labelling(run: CondenseRun) -> None:
    """Refuse settings of labels that the kind of labels asked for does not read."""
    kind = str(run.labels)
    read = (*READ.get(kind, ()), "augmentation")
    given = changed(run.labelling, type(run.labelling)())
    for name, value in given.items():
        if name == "kind":
            raise DistilError(f"labelling.kind={value!r} is what --labels {kind} says; leave it out.")
        if name.partition(".")[0] not in read:
            raise DistilError(f"--set labelling.{name}={value} is not read for {kind} labels; leave it out.")


def _refuse(given: dict[str, Any], names: Iterable[str], why: str) -> None:
    """Refuse the first of the given settings that is one of ``names``, or that begins with one ending in a dot."""
    for name, value in given.items():
        if any(name == each or (each.endswith(".") and name.startswith(each)) for each in names):
            raise DistilError(f"{typed(name, value)} {why}; or leave it out.")
