"""Whether an order for a small set can be filled, found out before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.bundle import labels_of
from distil.engine.anatomy import anatomy
from distil.errors import DistilError
from distil.loops.carrier import default_net
from distil.loops.labelling import Labelling
from distil.loops.order import Condenser, Order, imported, options_of
from distil.loops.own_check import first_line
from distil.loops.training import build_model
from distil.tasks.preflight import teacher_above_chance

__all__ = [
    "check_data",
    "check_order",
    "check_skill",
    "check_teachers",
    "check_texts",
    "check_views",
    "class_counts",
    "enough_texts",
    "named_teachers_fit",
    "per_class_or_all",
]

UNSEEN = ("dynamic", "replayed", "two-numbers")
"""Labels of views, which texts have none of."""


def class_counts(order: Order) -> list[int]:
    """Return how many training samples each class has."""
    labels = labels_of(order.bundle.train)
    return labels[labels >= 0].bincount(minlength=order.classes).tolist()


def check_views(kind: str, fix: str) -> None:
    """Refuse labels of views for a set of texts."""
    if kind in UNSEEN:
        raise DistilError(f"{kind} labels are a teacher's on views of vectors, and texts have none; {fix}")


def enough_texts(order: Order, wanted: Sequence[int], fix: str) -> None:
    """Refuse a class with fewer texts than its ``wanted``, each of which is taken once."""
    for name, asked, found in zip(order.bundle.classes, wanted, class_counts(order), strict=True):
        if asked > found:
            raise DistilError(
                f"keep=nearest takes {asked} different texts of {name}, and {order.bundle.name} has {found}; {fix}"
            )


def check_order(
    order: Order, method: str, condenser: Condenser, labelling: Labelling | None = None, *, trained: bool = True
) -> None:
    """Refuse an order that cannot be filled; remarks go to its progress.

    Args:
        order: the order. method, condenser: who is to fill it. labelling: in place of the method's own.
        trained: its teachers know the data; without that all but their skill is checked
            (:func:`check_skill` is left).

    Raises:
        DistilError: see :func:`distil.loops.condense.condense`.
    """
    check_data(order, method, condenser, labelling)
    _check_net(order, method, condenser)
    check_teachers(order, method, condenser, labelling)
    if condenser.refuses:
        imported(condenser.refuses)(order)
    if trained:
        check_skill(order, method, condenser, labelling)


def check_data(order: Order, method: str, condenser: Condenser, labelling: Labelling | None = None) -> None:
    """Refuse data, a budget, options or labels that ``method`` cannot work with, whatever the teachers."""
    _check_inputs(order, method, condenser)
    if order.words is not None and labelling is not None:
        check_views(labelling.kind, "take hard or static labels, or keep the encoder's vectors: --set keep=vectors.")
    _check_budget(order, method, condenser)
    if condenser.options:
        options_of(order, imported(condenser.options))
    elif order.options:
        raise DistilError(f"{method} has no options, but {sorted(order.options)} were given; leave them out.")


def check_texts(method: str, condenser: Condenser, name: str, *, teachers: bool = False) -> None:
    """Refuse a method (or teachers) that can do nothing with texts as they are."""
    fix = "name the encoder that makes them: --set encoder=hf:FOLDER."
    if not condenser.chooses:
        raise DistilError(f"{method} makes samples, and {name} holds texts, which stand for that as vectors; {fix}")
    if teachers:
        raise DistilError(f"the teachers of a small set see texts as vectors, and {name} holds texts; {fix}")
    if not condenser.words:
        raise DistilError(f"{method} compares samples as vectors, and {name} holds texts; {fix}")


def per_class_or_all(order: Order, method: str) -> list[int]:
    """Return how many samples each class gives: ``per_class``, or all where a class has fewer, which is then said."""
    counts = class_counts(order)
    few = {order.bundle.classes[k]: count for k, count in enumerate(counts) if count < order.per_class}
    if few:
        shown = ", ".join(f"{name} ({count})" for name, count in list(few.items())[:6])
        order.progress.say(
            f"{method}: {len(few)} of {len(counts)} classes have fewer than {order.per_class} training samples and "
            f"give all: {shown}{', …' if len(few) > 6 else ''}."
        )
    return [min(count, order.per_class) for count in counts]


def _check_inputs(order: Order, method: str, condenser: Condenser) -> None:
    if order.raw:
        check_texts(method, condenser, order.bundle.name, teachers=bool(order.teachers))
        return
    if order.nearest and (order.texts is None or condenser.chooses):
        what = "chooses samples that are real" if condenser.chooses else "makes samples, and there are no texts to take"
        raise DistilError(f"{method} {what}; the nearest texts are taken for an encoder's vectors that a method makes.")
    if order.texts is not None and not condenser.chooses and not order.nearest:
        raise DistilError(
            f"{method} makes samples that are no texts; the set keeps vectors: leave keep=texts out, or take the real "
            "texts nearest to them: --set keep=nearest."
        )
    if condenser.inputs == "texts" and order.texts is None:
        raise DistilError(f"{method} chooses texts by reading them, and {order.bundle.name} holds none to be kept.")
    task, shape = order.task, order.bundle.input_shape
    if task.name != "classification":
        raise DistilError(
            f"condensing needs images, vectors or texts with one label each, and {order.bundle.name} is for "
            f"{task.name}; give such data (texts as they are read, or as an encoder's vectors)."
        )
    kind = "images" if len(shape) == 3 and shape[0] in (1, 3) else "vectors" if len(shape) == 1 else f"inputs {shape}"
    if kind not in ("images", "vectors") or condenser.inputs not in ("any", "texts", kind):
        wanted = "images or vectors" if condenser.inputs == "any" else condenser.inputs
        raise DistilError(f"{method} condenses {wanted}, and {order.bundle.name} holds {kind} of shape {tuple(shape)}.")


def _check_budget(order: Order, method: str, condenser: Condenser) -> None:
    if order.per_class < 1:
        raise DistilError(f"--per-class {order.per_class} must be at least 1.")
    if order.per_class < condenser.least:
        raise DistilError(
            f"{method} needs at least {condenser.least} per class; --per-class {order.per_class} is less."
        )
    counts = class_counts(order)
    empty = [order.bundle.classes[k] for k, count in enumerate(counts) if count == 0]
    if empty:
        raise DistilError(
            f"{order.bundle.name} has no training samples of {_named(empty)}; a small set of it would lack them too: "
            "add some, or leave the classes out."
        )
    if condenser.whole and min(counts) < order.per_class:
        few = [f"{order.bundle.classes[k]} ({count})" for k, count in enumerate(counts) if count < order.per_class]
        raise DistilError(
            f"{method} needs {order.per_class} training samples of every class, and {_named(few)} have fewer; ask for "
            f"--per-class {min(counts)}, or use random, which takes all there are."
        )
    if order.nearest:
        enough_texts(order, [order.per_class] * order.classes, f"ask for --per-class {min(counts)}.")


def check_teachers(order: Order, method: str, condenser: Condenser, labelling: Labelling | None = None) -> None:
    """Refuse teachers that are missing, too many, or without what the method reads, whatever they have learned."""
    wanted, given = condenser.teachers, len(order.teachers)
    soft = labelling.kind if labelling is not None and labelling.kind != "hard" else ""
    if soft and given == 0:
        raise DistilError(f"{soft} labels come from a trained teacher; name one with --teacher.")
    if wanted == 0 and not soft:
        if given:
            warnings.warn(f"{method} asks no teacher; those named are left alone.", stacklevel=2)
        return
    if given == 0:
        if wanted == "any":
            return
        raise DistilError(f"{method} needs a trained teacher; name one with --teacher.")
    if wanted == 1 and given > 1:
        raise DistilError(f"{method} works with one teacher, and {given} were named; name one --teacher.")
    for teacher, name in zip(order.teachers, _called(order), strict=True):
        if condenser.batchnorm and not any(isinstance(part, nn.BatchNorm2d) for part in teacher.modules()):
            raise DistilError(
                f"{method} matches BatchNorm statistics, and {name} has no BatchNorm2d; name a teacher that has."
            )
        _check_outputs(order, teacher, name)
        if condenser.cam:
            _check_cam(order, teacher, method, name)


def check_skill(order: Order, method: str, condenser: Condenser, labelling: Labelling | None = None) -> None:
    """Refuse teachers that are asked and no better than chance."""
    if condenser.teachers == 0 and (labelling is None or labelling.kind == "hard"):
        return
    for teacher, name in zip(order.teachers, _called(order), strict=True):
        _check_skill(order, teacher, method, name)


def named_teachers_fit(order: Order, names: Sequence[str], *, trained: bool = True) -> None:
    """Refuse teachers, called by ``names``, that do not fit the order's data or are no better than chance on them.

    Without ``trained`` what they have learned is left for later.
    """
    for teacher, name in zip(order.teachers, names, strict=True):
        _check_outputs(order, teacher, name)
        if trained:
            _check_skill(order, teacher, "the set", name)


def _called(order: Order) -> list[str]:
    several = len(order.teachers) > 1
    return [
        f"teacher {k + 1} ({type(teacher).__name__})" if several else f"the teacher ({type(teacher).__name__})"
        for k, teacher in enumerate(order.teachers)
    ]


def _check_net(order: Order, method: str, condenser: Condenser) -> None:
    """Refuse a net that the method is to draw and that the data do not fit."""
    spec = getattr(options_of(order, imported(condenser.options)), "net", None) if condenser.options else None
    if spec is not None and not order.raw:
        net = build_model(spec or default_net(order.bundle), order.bundle, seed=0)
        _check_outputs(order, net, f"net={spec or default_net(order.bundle)} of {method}")


def _check_outputs(order: Order, teacher: nn.Module, name: str) -> None:
    outputs = _outputs(order, teacher, name)
    if outputs != order.classes:
        raise DistilError(
            f"{name} has {outputs} outputs, and {order.bundle.name} has {order.classes} classes; name one that was "
            "made for these classes."
        )


def _check_skill(order: Order, teacher: nn.Module, method: str, name: str) -> None:
    data = order.bundle.val if len(order.bundle.val) else order.bundle.train
    found = teacher_above_chance(order.task, teacher, data, device=order.device or "cpu")
    if not found["ok"]:
        raise DistilError(f"{method} learns from its teachers, but {name} is at chance: {found['message']}")


def _outputs(order: Order, teacher: nn.Module, name: str) -> int:
    example = order.inputs(torch.tensor([0, 0]))
    try:
        with torch.no_grad():
            output: Any = order.task.call(teacher.eval(), {"inputs": example}, "teacher")
        return int(output.shape[1])
    except DistilError:
        raise
    except Exception as error:  # whatever is wrong in there, it is the teacher's own code
        grey = len(order.bundle.input_shape) == 3 and order.bundle.input_shape[0] == 1
        raise DistilError(
            f"{name} cannot be called on inputs of shape {tuple(example.shape[1:])} "
            f"({first_line(error)}).{' Read grey images as RGB: --set channels=3.' if grey else ''}"
        ) from error


def _check_cam(order: Order, teacher: nn.Module, method: str, name: str) -> None:
    """A class activation map is the last map weighed by the head's rows, which must read that map's average."""
    found = _map_and_input(order, teacher)
    if found is None:
        raise DistilError(
            f"{method} reads class activation maps, and {name} has no last feature map with one linear layer behind "
            "it; name a net that ends in global average pooling and a linear layer."
        )
    last, read = found
    if read.shape != last.shape[:2] or not torch.allclose(last.mean((2, 3)), read, rtol=1e-3, atol=1e-4):
        raise DistilError(
            f"{method} reads class activation maps, and the linear layer of {name} does not read the average of its "
            f"last map (map {tuple(last.shape[1:])}, read {tuple(read.shape[1:])}); name a net that ends in global "
            "average pooling and a linear layer."
        )


def _map_and_input(order: Order, teacher: nn.Module) -> tuple[Tensor, Tensor] | None:
    example = {"inputs": order.inputs(torch.arange(2))}

    def call(module: nn.Module) -> Any:
        return order.task.call(module, example, "teacher")

    places = anatomy(teacher, call).meanings
    if "map" not in places or "head" not in places:
        return None
    head = teacher.get_submodule(places["head"][0].path)
    if not isinstance(head, nn.Linear):
        return None
    seen: dict[str, Tensor] = {}
    hooks = [
        teacher.get_submodule(places["map"][0].path).register_forward_hook(lambda m, x, y: seen.update(map=y)),
        head.register_forward_pre_hook(lambda m, x: seen.update(read=x[0])),
    ]
    try:
        with torch.no_grad():
            call(teacher.eval())
    finally:
        for hook in hooks:
            hook.remove()
    return seen["map"], seen["read"]


def _named(names: list[str]) -> str:
    return f"{', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
