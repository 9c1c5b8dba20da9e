"""What is asked of a method that makes small sets, and what each method needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.bundle import Bundle, ids_of, labels_of
from distil.data.condensed import CondensedSet
from distil.data.text import TEXT_TASK
from distil.errors import DistilError
from distil.loops.lab import Progress, Quiet
from distil.loops.settings import update
from distil.tasks import Task, get_task

__all__ = ["Condenser", "Order", "architecture", "imported", "inputs_of", "options_of"]


@dataclass(frozen=True)
class Order:
    """What is asked of a condenser.

    Attributes:
        bundle: the real data; a condenser uses its training part alone.
        per_class: samples (or as many bytes as that) for each class.
        seed: of every draw.
        teachers: nets trained on the data; they take inputs as the bundle holds them (images in [0, 1]).
        device: where it is computed; the CPU by default.
        progress: where it shows how far it is.
        options: the method's own, by name.
        texts: the texts that ``bundle`` holds an encoder's vectors of, where those chosen are kept as texts.
        nearest: of vectors that a method makes, the nearest of these texts are kept.
        exact: as the set will be saved with (:meth:`CondensedSet.save`): labels are of the images as they are kept.
    """

    bundle: Bundle
    per_class: int
    seed: int = 0
    teachers: tuple[nn.Module, ...] = ()
    device: str | None = None
    progress: Progress = field(default_factory=Quiet)
    options: Mapping[str, Any] = field(default_factory=dict)
    texts: Bundle | None = None
    nearest: bool = False
    exact: bool | None = None

    @property
    def words(self) -> Bundle | None:
        """The texts that are chosen from, if the set is one of texts: behind the vectors, or as they are."""
        return self.bundle if self.raw else self.texts

    @property
    def raw(self) -> bool:
        """Whether the data are texts as they are, without vectors."""
        return self.bundle.task == TEXT_TASK

    @property
    def task(self) -> Task:
        """The task of the data."""
        return get_task(self.bundle.task)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.bundle.classes)

    def real(self, label: int, *, limit: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Return the positions, in the training part, of one class's samples.

        Args:
            label: the class.
            limit: at most so many, drawn with ``generator`` without replacement; else all in their order.
            generator: a CPU generator.
        """
        found = (labels_of(self.bundle.train) == label).nonzero().flatten()
        if generator is not None:
            found = found[torch.randperm(len(found), generator=generator)]
        return found if limit is None else found[:limit]

    def inputs(self, positions: Tensor) -> Tensor:
        """Return the training samples at ``positions`` as they are, ``[n, ...]`` float32 (images in [0, 1]).

        Texts without vectors have no numbers: ``[n, 0]``.
        """
        if self.raw:
            return torch.zeros(len(positions), 0)
        return inputs_of(self.bundle.train, positions)

    def ids(self, positions: Tensor) -> Tensor:
        """Return the ids of the training samples at ``positions``."""
        return ids_of(self.bundle.train)[positions]

    def said(self, ids: Tensor) -> tuple[list[str], list[str] | None]:
        """Return the training texts of these ids and, where the data have them, their prompts."""
        assert self.words is not None
        part = self.words.train
        place = {int(k): row for row, k in enumerate(ids_of(part).tolist())}
        found = part.batch(torch.tensor([place[k] for k in ids.tolist()], dtype=torch.long))
        return found["inputs"], found.get("prompts")

    def kept(self, small: CondensedSet) -> CondensedSet:
        """Return a set as it is kept: one that was chosen from texts holds the texts themselves."""
        if self.words is None:
            return small
        assert small.ids is not None
        texts, prompts = self.said(small.ids)
        told = None if prompts is None else tuple(prompts)
        return replace(small, inputs=torch.zeros(len(small), 0), texts=tuple(texts), prompts=told)


Run = Callable[[Order], CondensedSet]


@dataclass(frozen=True)
class Condenser:
    """A method that makes a set, and what it needs before it can.

    Attributes:
        run: ``package.module:function``, imported when it is first used; the function takes an :class:`Order`.
        about: one line for ``--help`` and reports.
        options: ``package.module:Class`` of its options (a frozen dataclass with defaults), if it has any.
        inputs: "images", "vectors", "any" of the two, or "texts".
        chooses: the set is of real samples, so that of texts it can be one of texts.
        words: it can choose among texts as they are, without an encoder that makes them vectors.
        teachers: 0 (none are used), 1, "many" (at least one) or "any" (none, or some).
        batchnorm: the teachers must have BatchNorm layers.
        cam: the teacher must end in global pooling and one linear layer.
        least: the smallest number per class that makes sense.
        whole: every class must have at least ``per_class`` samples; else a class may have fewer, and gives all.
        refuses: ``package.module:function`` of an :class:`Order` that raises where the order cannot be filled.
    """

    run: str
    about: str
    options: str = ""
    inputs: str = "any"
    chooses: bool = False
    words: bool = False
    teachers: int | str = 0
    batchnorm: bool = False
    cam: bool = False
    least: int = 1
    whole: bool = False
    refuses: str = ""


def options_of(order: Order, kind: type[Any]) -> Any:
    """Return the order's options as the dataclass ``kind``; an unknown one is refused, and a value of another type."""
    return update(kind(), order.options)


def imported(place: str) -> Any:
    """Return what ``package.module:name`` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def architecture(model: nn.Module) -> str:
    """Return a name for a net's form: a hash of the shapes of its parameters and buffers, in order.

    Nets that differ in nothing else, such as their activations, are of one form here.

    >>> architecture(nn.Linear(2, 3)) == architecture(nn.Linear(2, 3)) != architecture(nn.Linear(2, 4))
    True
    """
    held = {name: value for name, value in model.state_dict().items() if not name.endswith("_extra_state")}
    form = ";".join(str(tuple(value.shape)) for value in held.values())
    return hashlib.sha256(form.encode()).hexdigest()[:12]


def inputs_of(dataset: Any, positions: Tensor) -> Tensor:
    """Return samples of a dataset as they are read, ``[n, ...]`` float32, without any random view."""
    if getattr(dataset, "in_bulk", False):
        inputs = dataset.batch(positions)["inputs"]
    else:
        inputs = torch.stack([torch.as_tensor(dataset[int(k)]["inputs"]) for k in positions.tolist()])
    if not isinstance(inputs, Tensor):
        raise DistilError("condensing reads images or vectors, and these samples are neither.")
    return inputs.float()
