"""A trained student on disk: its weights as safetensors, and beside them what is needed to build and use it again."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model as fill
from safetensors.torch import save_model
from torch import nn

from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.loading import as_batches
from distil.engine.anatomy import unwrapped
from distil.errors import DistilError, nearest
from distil.report import environment
from distil.ship.manifest import inside, read_json, write_json
from distil.ship.preprocessing import preprocessing_of
from distil.tasks import ClassificationTask, NodeTask, Task, TextTask

__all__ = ["Student", "first_answers", "load_state", "read_student", "save_state", "task_for", "write_student"]

KIND, VERSION = "distil-student", 1
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Student:
    """What the sidecar ``ARM-seedN.json`` of a trained student says.

    Attributes:
        model: the specification it was built from.
        plain: what ships is that model itself; else a module that the method made of it (``deployed`` names its class).
        task, classes, input_shape: what it was trained for.
        preprocessing: how inputs are made: ``{"kind": "image", "size", "channels", "range", ["mean", "std"]}``,
            ``{"kind": "features", "shape", "edges"}``, ``{"kind": "table", "shape", "columns", "missing"}`` or
            ``{"kind": "text", "tokenizer", "max_length"}``.
        metric: ``name`` and ``higher_is_better`` of the deciding score.
        test, validation: scores of the weights that ship, and of the epoch that chose them.
        method, teacher, data, seed, arm, role: where it comes from.
        fingerprint: of its state dict.
        answers: ids and logits of a few test samples, by which a rebuilt model is recognised.
        weights: the name of the safetensors file beside the sidecar.
        distil: the version that wrote it.
    """

    model: str
    plain: bool
    deployed: str
    task: str
    classes: list[str]
    input_shape: list[int]
    preprocessing: dict[str, Any]
    metric: dict[str, Any]
    test: dict[str, float]
    validation: dict[str, float]
    method: str
    teacher: str
    data: dict[str, str]
    seed: int
    fingerprint: str
    answers: dict[str, Any]
    weights: str
    arm: str = ""
    role: str = ""
    distil: str = field(default_factory=lambda: environment()[0].get("distil", "unknown"))

    @property
    def score(self) -> float:
        """The validation score, larger being better whatever the metric."""
        value = self.validation.get(self.metric["name"])
        if value is None:
            return float("-inf")
        return value if self.metric["higher_is_better"] else -value

    def make_task(self) -> Task:
        """Return the task as the student needs it: its inputs normalised as they were in training."""
        return task_for(self.task, self.preprocessing)


def task_for(name: str, preprocessing: Mapping[str, Any]) -> Task:
    """Return the task by which a shipped student is called."""
    if name == NodeTask.name:
        return NodeTask()
    if name == TextTask.name:
        return TextTask(max_length=int(preprocessing.get("max_length", 128)))
    mean, std, inner = (preprocessing.get(key) for key in ("mean", "std", "input_size"))
    return ClassificationTask(
        normalise=None if mean is None or std is None else {"student": (mean, std)},
        input_size=None if inner is None else {"student": (int(inner[0]), int(inner[1]))},
    )


def write_student(path: Path, module: nn.Module, *, built: nn.Module, task: Task, bundle: Bundle, **facts: Any) -> None:
    """Write the weights of ``module`` to ``path`` (.safetensors) and its sidecar beside it, each whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        module: what ships, in eval mode.
        built: the model as it was built from its specification; ``module`` is this one unless a method made another.
        task, bundle: what it was trained for and on.
        facts: the remaining attributes of :class:`Student`.
    """
    save_state(module, path)
    student = Student(
        plain=module is unwrapped(built),
        deployed=type(module).__qualname__,
        task=task.name,
        classes=list(map(str, bundle.classes)),
        input_shape=list(bundle.input_shape),
        preprocessing=_preprocessing(task, module, bundle),
        metric={"name": task.metric, "higher_is_better": task.higher_is_better},
        data={"name": str(bundle.name), "fingerprint": bundle.fingerprint},
        fingerprint=fingerprint(module),
        answers=first_answers(task, module, bundle),
        weights=path.name,
        **facts,
    )
    write_json(path.with_suffix(".json"), {"kind": KIND, "version": VERSION, **asdict(student)})


def _preprocessing(task: Task, module: nn.Module, bundle: Bundle) -> dict[str, Any]:
    """Return how inputs are made: what the data learned of it, or what it adds to what task and module say."""
    learned = dict(bundle.preprocessing or {})
    return learned if "kind" in learned else preprocessing_of(task, module, bundle.input_shape) | learned


def read_student(path: Path) -> Student:
    """Read a sidecar and check that its parts are what they should be and its weights are there."""
    content = read_json(path, kind=KIND, version=VERSION)
    known = {name: content[name] for name in Student.__dataclass_fields__ if name in content}
    try:
        student = Student(**known)
    except TypeError as error:
        raise DistilError(f"{path} is no whole description of a student ({error}); train it again.") from None
    wanted = {"model": str, "plain": bool, "task": str, "classes": list, "input_shape": list, "metric": dict}
    wanted |= {"preprocessing": dict, "validation": dict, "test": dict, "answers": dict, "seed": int, "data": dict}
    for name, kind in wanted.items():
        if not isinstance(getattr(student, name), kind):
            raise DistilError(f"{path}: {name!r} is {type(getattr(student, name)).__name__}; {kind.__name__} expected.")
    if not {"name", "higher_is_better"} <= set(student.metric):
        raise DistilError(f"{path}: 'metric' is {student.metric}; its name and direction are expected.")
    _check_parts(path, student)
    if not inside(path.parent, student.weights, "the weights file").is_file():
        raise DistilError(f"{path} names the weights {student.weights!r}, which are not beside it; train again.")
    return student


def _check_parts(path: Path, student: Student) -> None:
    """Refuse a sidecar whose lists and numbers were tampered with."""
    tasks = (ClassificationTask.name, NodeTask.name, TextTask.name)
    if student.task not in tasks:
        raise DistilError(f"{path}: 'task' is {student.task!r}; {nearest(student.task, tasks)}")
    if not student.classes or not all(isinstance(name, str) for name in student.classes):
        raise DistilError(f"{path}: 'classes' is no list of names; train it again.")
    if not all(isinstance(size, int) and size > 0 for size in student.input_shape):
        raise DistilError(f"{path}: 'input_shape' is {student.input_shape}; a list of sizes is expected.")
    for name in ("validation", "test"):
        scores = getattr(student, name)
        if not all(value is None or isinstance(value, (int, float)) for value in scores.values()):
            raise DistilError(f"{path}: {name!r} is {str(scores)[:80]}; numbers are expected.")
    try:
        shape = torch.tensor(student.answers["logits"], dtype=torch.float64).shape
    except (KeyError, TypeError, ValueError):
        shape = torch.Size()
    if not shape or not isinstance(student.answers.get("id"), list):
        raise DistilError(f"{path}: 'answers' holds no ids and rows of numbers; train it again.")


def first_answers(task: Task, module: nn.Module, bundle: Bundle, count: int = 3) -> dict[str, Any]:
    """Return ids and logits of the first test samples."""
    said = task.predict(module, [next(iter(as_batches(bundle.test, count).iterate(0)))])
    return {"id": said["id"][:count].tolist(), "logits": said["logits"][:count].tolist()}


def same_answers(student: Student, found: Mapping[str, Any]) -> bool:
    """Say whether a rebuilt model answers as the trained one did."""
    ours, theirs = (torch.tensor(answers["logits"], dtype=torch.float64) for answers in (student.answers, found))
    if list(found["id"]) != list(student.answers["id"]) or ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= TOLERANCE * ours.abs().max())


def save_state(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors, tied weights once, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        save_model(module, name)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise DistilError(f"{path} could not be written ({str(error).splitlines()[0]}).") from error
    finally:
        Path(name).unlink(missing_ok=True)


def load_state(module: nn.Module, path: Path) -> nn.Module:
    """Fill ``module`` from a file that :func:`save_state` wrote, tied weights included; nothing may be left over."""
    try:
        fill(module, path, strict=True)
    except (OSError, SafetensorError) as error:
        raise DistilError(f"{path} cannot be read ({error}); it was cut off or is no safetensors file.") from None
    except RuntimeError as error:
        shapes = re.findall(r"size mismatch for (\S+):", str(error))
        why = f"{len(shapes)} of another shape: {', '.join(shapes[:6])}" if shapes else " ".join(str(error).split())
        raise DistilError(f"the weights in {path} do not fit {type(module).__name__}: {why[:300]}.") from None
    return module
