"""Changes made to a model before a Distiller is made; the Distiller itself changes nothing.

Each function returns a new model and leaves the given ones as they are. Heads: :func:`with_outputs`,
:func:`grow_classes`, :func:`with_second_head`, :func:`with_subclasses`. Updates: :func:`add_lora`,
:func:`merge_lora`. Experts: :func:`to_experts`. Starting points: :func:`interpolate_init`, :func:`copy_layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from math import sqrt

import torch
from torch import Tensor, nn

from distil.errors import DistilError, nearest
from distil.models.experts import Experts, to_experts
from distil.models.heads import TwoHeadOutput, grow_classes, with_outputs, with_second_head, with_subclasses
from distil.models.lora import add_lora, merge_lora

__all__ = [
    "Experts",
    "TwoHeadOutput",
    "add_lora",
    "copy_layers",
    "grow_classes",
    "interpolate_init",
    "interpolated",
    "merge_lora",
    "to_experts",
    "with_outputs",
    "with_second_head",
    "with_subclasses",
]


def interpolated(
    fresh: Tensor, teacher: Tensor, *, alpha: float, kind: str = "interpolated", variance_preserving: bool = True
) -> Tensor:
    """Return a starting point between a teacher's tensor and a fresh one.

    ``"interpolated"``: ``((1 - alpha) · teacher + alpha · fresh) / sqrt(alpha² + (1 - alpha)²)``;
    ``"neighbourhood"``: ``(teacher + alpha · fresh) / sqrt(1 + alpha²)``. The division keeps the variance of two
    independent tensors of equal variance; ``variance_preserving=False`` leaves it out.

    >>> interpolated(torch.tensor([2.0]), torch.tensor([4.0]), alpha=0.5, variance_preserving=False)
    tensor([3.])
    """
    if kind == "interpolated":
        mixed, scale = (1 - alpha) * teacher + alpha * fresh, sqrt(alpha**2 + (1 - alpha) ** 2)
    elif kind == "neighbourhood":
        mixed, scale = teacher + alpha * fresh, sqrt(1 + alpha**2)
    else:
        raise DistilError(f"kind={kind!r} is unknown; {nearest(kind, ['interpolated', 'neighbourhood'])}")
    return mixed / scale if variance_preserving else mixed


def interpolate_init(
    student: nn.Module,
    teacher: nn.Module,
    alpha: float,
    *,
    kind: str = "interpolated",
    variance_preserving: bool = True,
) -> nn.Module:
    """Return a copy of a freshly initialised student, moved close to a teacher of the same architecture.

    Args:
        student: the fresh model, whose parameters are the noise; all are moved, scales of norms included. Its buffers
            are kept.
        teacher: the model to start near to.
        alpha: 0 copies the teacher, 1 keeps the student (for ``kind="interpolated"``).
        kind, variance_preserving: see :func:`interpolated`.

    The locality of "Random Teachers are Good Teachers", ICML 2023 (arXiv 2302.12091).
    """
    student = deepcopy(student)
    theirs = dict(teacher.named_parameters())
    _same_shapes("interpolate_init", dict(student.named_parameters()), theirs)
    with torch.no_grad():
        for name, mine in student.named_parameters():
            value = interpolated(
                mine, theirs[name].to(mine.device), alpha=alpha, kind=kind, variance_preserving=variance_preserving
            )
            mine.copy_(value)
    return student


def copy_layers(student: nn.Module, teacher: nn.Module, mapping: Mapping[str, str]) -> nn.Module:
    """Return a copy of the student with some of its layers set to a teacher's, parameters and buffers.

    Args:
        student: the model to start from.
        teacher: the model to copy from.
        mapping: ``{student path: teacher path}`` of modules of equal shapes.

    >>> from distil.models import MLP
    >>> student, teacher = MLP(4, 8, 3, layers=2), MLP(4, 8, 3, layers=3)
    >>> copied = copy_layers(student, teacher, {"layers.0": "layers.0", "layers.1": "layers.2"})
    >>> torch.equal(copied.layers[1].weight, teacher.layers[2].weight)
    True
    """
    student = deepcopy(student)
    for mine, theirs in mapping.items():
        target, source = (_module(model, path) for model, path in ((student, mine), (teacher, theirs)))
        state = source.state_dict()
        _same_shapes(f"copy_layers ({mine!r} from {theirs!r})", target.state_dict(), state)
        target.load_state_dict(state)
    return student


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        raise DistilError(f"{type(model).__name__} has no module {path!r}; {nearest(path, names)}") from None


def _same_shapes(what: str, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    if mine.keys() != theirs.keys():
        lone = sorted(mine.keys() ^ theirs.keys())
        raise DistilError(f"{what}: student and teacher differ in {lone[:5]}; they must have the same tensors.")
    for name, tensor in mine.items():
        if tensor.shape != theirs[name].shape:
            raise DistilError(
                f"{what}: {name!r} has shape {tuple(tensor.shape)} in the student and {tuple(theirs[name].shape)} in "
                "the teacher; they must be equal."
            )
