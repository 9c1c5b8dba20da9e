"""A first call of the user's models: what they cannot take, or take badly, is said before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distil.data.bundle import Bundle
from distil.engine.anatomy import anatomy
from distil.errors import DistilError
from distil.loops.order import inputs_of
from distil.loops.training import example_of
from distil.models.load import split_spec
from distil.models.published import sized
from distil.tasks import Task, TextTask, get_task
from distil.tasks.base import evaluating

__all__ = ["check_call", "check_student", "first_line"]


def check_call(role: str, spec: str, model: nn.Module, bundle: Bundle, task: Task) -> list[str]:
    """Call a model on a few samples, and return remarks for the user.

    Raises:
        DistilError: what it cannot take, or that it answers with numbers that are not finite.
    """
    batch = task.unpack(example_of(bundle))
    try:
        with evaluating(model), torch.no_grad():
            answer = task.logits(task.call(model, batch, role))
    except DistilError:
        raise
    except (Exception, SystemExit) as error:  # whatever is wrong in there, it is the model's own code
        shape = tuple(bundle.input_shape)
        raise DistilError(
            f"The {role} {spec} cannot take the samples of {bundle.name}, whose shape is {shape} "
            f"({first_line(error)}){_fix(role, spec, shape)}."
        ) from error
    if not answer.isfinite().all():
        raise DistilError(
            f"The {role} {spec} answers samples of {bundle.name} with numbers that are not finite; check its weights "
            "and its forward."
        )
    return _remarks(role, spec, model, batch, task)


def check_student(spec: str, model: nn.Module, seen: Bundle) -> None:
    """Refuse a student that cannot be called on the data, or that answers for another number of classes.

    Args:
        spec: its name. model: as it was built for the data.
        seen: the data as it reads them, texts as tokens.
    """
    task, places = get_task(seen.task), torch.tensor([0, 0])
    texts = isinstance(task, TextTask)
    inputs = seen.train.batch(places)["inputs"] if texts else inputs_of(seen.train, places)
    try:
        with evaluating(model), torch.no_grad():
            outputs = task.logits(task.call(model, {"inputs": inputs}, "student")).shape[1]
    except DistilError:
        raise
    except Exception as error:  # whatever is wrong in there, it is the student's own code
        shape = tuple(seen.input_shape)
        kind = "tokens" if texts else "such images" if len(shape) == 3 else "such vectors"
        raise DistilError(
            f"the student {spec} cannot be called on inputs of shape {shape} ({first_line(error)}); name a net that "
            f"takes {kind}."
        ) from error
    if outputs != len(seen.classes):
        raise DistilError(
            f"the student {spec} has {outputs} outputs for {len(seen.classes)} classes; make it for those."
        )


def first_line(error: BaseException) -> str:
    """What kind of error it is, and how its message begins."""
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line[:300]}" if line else type(error).__name__


def _fix(role: str, spec: str, shape: tuple[int, ...]) -> str:
    if len(shape) != 3:
        return f"; make it for {shape[0]} features" if len(shape) == 1 else ""
    made = sized(spec, shape)
    fix = f"; --set input_size.{role}=SIDE resizes images for it"
    fix += f", and {made} is made for these" if made else ""
    return fix if shape[0] != 1 else f"; --set channels=3 reads grey images as RGB, {fix[2:]}"


def _remarks(role: str, spec: str, model: nn.Module, batch: Any, task: Task) -> list[str]:
    """Whether a library's net, made for larger images, strides over these until one position is left."""
    if split_spec(spec)[0] not in ("timm", "torchvision") or batch["inputs"].ndim != 4:
        return []
    modules = dict(model.named_modules())
    found = anatomy(model, lambda m: task.call(m, batch, role))
    for path, record in found.records.items():
        module, before, after = modules.get(path), record.input_shape or (), record.output_shape or ()
        strided = isinstance(module, nn.Conv2d) and max(module.stride) > 1 and len(before) == len(after) == 4
        if strided and after[2:] == (1, 1) and min(before[2:]) > 1:
            sides = next(s[2:] for r in found.records.values() if len(s := r.input_shape or ()) == 4)
            return [
                f"the {role} {spec} was made for larger images: it brings {sides[0]}x{sides[1]} down to a map of one "
                f"position (at {path}), where methods on maps find little; --set input_size.{role}={4 * max(sides)} "
                "resizes images for it, and nets such as distil:resnet20 are made for small ones."
            ]
    return []
