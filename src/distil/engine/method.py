"""What a student is taught in one training run: one abstract class, and the sum that composes methods."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from distil.engine.anatomy import first_tensor
from distil.engine.context import Context
from distil.engine.own_optimizer import OwnOptimizer
from distil.engine.schedule import Schedule, as_schedule, literal
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.reduction import Term

__all__ = [
    "Batch",
    "Component",
    "Handles",
    "Method",
    "Sum",
    "Traces",
    "as_sum",
    "batch_size",
    "is_streams",
    "overrides",
    "own_optimizers",
]

Batch = Mapping[str, Any]
Handles = Any  # ModelHandle, or a mapping of names to handles where there are several models of a role
Traces = Any  # Trace, or a mapping of names to traces
AtEquality = Literal["zero", "stationary"] | None


class Method(nn.Module, ABC):
    """One thing a student is taught; a module, since it may own adapters, prototypes and memories.

    Only :meth:`forward` is abstract. Methods add and scale: ``0.9 * KD() + ramp(epochs=20) * AT()``. A method holds no
    task loss (``Supervised`` does) unless its paper ties the two per sample.

    Attributes:
        taps: what it reads from the models; each a meaning, a path, or ``(student, teacher)``.
        labels: whether it reads labels: ``True``, ``False``, or the names of the streams whose labels it reads.
        at_equality: for every term, what holds where the student equals the teacher: ``"zero"`` (value and gradient),
            ``"stationary"`` (gradient only) or ``None`` (neither, by design). Its keys are the names of the terms.
        contains_task: the paper ties the task loss into this method, so adding ``Supervised`` warns.
        sparse: it reads ``trace.sparse`` of a cached teacher that knows a few classes only, where there is one.
    """

    taps: tuple[Spec, ...] = ("logits",)
    labels: bool | tuple[str, ...] = False
    at_equality: Mapping[str, AtEquality] = {}
    contains_task: ClassVar[bool] = False
    sparse: ClassVar[bool] = False
    _hyper: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Method:
        made = super().__new__(cls)
        made.__dict__["_hyper"] = dict(kwargs)
        return made

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__()
        self.name = name or type(self).__name__.lower()

    def rebuild(self, student: nn.Module) -> nn.Module:
        """Return the student with the outputs, heads or parts that this method teaches; called before the Distiller.

        A copy, where anything changes: the model that was given stays as it is.
        """
        return student

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make adapters whose shapes the dry run shows; called once, under a seed that depends on the run's."""

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Go over the training data once before training (class means, cached targets); ``data`` yields batches."""

    def transform(self, batch: Batch, student: Handles, teacher: Handles, ctx: Context) -> Batch:
        """Change the batch that both models see (mixing, masking, generation); at most one method of a sum may."""
        return batch

    def before_step(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> None:
        """Make own inner updates before a step; plain handle calls run without gradient here."""

    @abstractmethod
    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> Mapping[str, Term]:
        """Return the named, unreduced terms of this batch."""

    def counts(self, batch: Batch) -> Mapping[str, float | Tensor]:
        """Return what each term counts on ``batch``, before the forward pass (default: the number of samples)."""
        return dict.fromkeys(self.at_equality, float(batch_size(batch)))

    def after_step(self, ctx: Context) -> None:
        """Act once after every real optimizer step."""

    def after_epoch(self, metrics: Mapping[str, float], ctx: Context) -> None:
        """Act after an epoch, with the validation metrics where there are any."""

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return named groups of the method's own parameters that the run's optimizer trains."""
        own = {id(p) for optimizer in own_optimizers(self) for p in optimizer.parameters}
        mine = [p for p in self.parameters() if p.requires_grad and id(p) not in own]
        return {self.name: mine} if mine else {}

    def deployed(self, student: Handles, teacher: Handles) -> nn.Module:
        """Return what ships: cheap, sharing parameters, callable at any time (default: the student)."""
        if isinstance(student, Mapping):
            raise DistilError(
                f"{type(self).__name__} trains several students ({', '.join(student)}): it must say in deployed() "
                "which one ships."
            )
        module: nn.Module = student.module
        return module

    def __add__(self, other: Any) -> Sum:
        return as_sum(self) + other

    def __mul__(self, coefficient: float | Schedule) -> Sum:
        return as_sum(self) * coefficient

    __rmul__ = __mul__

    @property
    def expression(self) -> str:
        """The method as the command line writes it, e.g. ``kd(temperature=4)``; parsing it gives an equal method."""
        kinds = (int, float, str, bool, tuple, list, Schedule)
        known = inspect.signature(type(self).__init__).parameters
        # None is written where it says something: left out, it would be read back as a default that is not None.
        shown = [
            f"{key}={literal(value)}"
            for key, value in self._hyper.items()
            if isinstance(value, kinds) or (value is None and key in known and known[key].default is not None)
        ]
        return type(self).__name__.lower() + (f"({', '.join(shown)})" if shown else "")


@dataclass(frozen=True)
class Component:
    """A method with its coefficient."""

    coefficient: Schedule
    method: Method

    @property
    def name(self) -> str:
        return self.method.name

    def term(self, key: str) -> str:
        """Return how a term is called in logs: ``kd``, or ``ff-g2m.lfd`` where a method has several."""
        return self.method.name if len(self.method.at_equality) <= 1 else f"{self.method.name}.{key}"


class Sum(nn.Module):
    """A weighted sum of methods; made by ``+`` and ``*``, never by hand.

    A component of constant coefficient 0 is dropped here. Two components of one name are refused, since their terms
    could not be told apart: give one ``name=``.
    """

    def __init__(self, components: list[Component]) -> None:
        super().__init__()
        kept = [c for c in components if c.coefficient.constant != 0]
        names = [c.name for c in kept]
        for name in names:
            if names.count(name) > 1:
                raise DistilError(
                    f"The sum has two components called '{name}'; tell them apart with name=, e.g. KD(name='kd_hot')."
                )
        self.components = tuple(kept)
        self.methods = nn.ModuleDict({c.name: c.method for c in kept})
        self._having: dict[str, tuple[Component, ...]] = {}
        mixers = [c.name for c in self.having("transform")]
        if len(mixers) > 1:
            raise DistilError(
                f"Both '{mixers[0]}' and '{mixers[1]}' change the batch; at most one method of a sum may."
            )

    def __add__(self, other: Any) -> Sum:
        if not isinstance(other, (Method, Sum)):
            return NotImplemented
        return Sum([*self.components, *as_sum(other).components])

    def __mul__(self, coefficient: float | Schedule) -> Sum:
        factor = as_schedule(coefficient)
        return Sum([Component(_product(factor, c.coefficient), c.method) for c in self.components])

    __rmul__ = __mul__

    def __iter__(self) -> Iterator[Component]:
        return iter(self.components)

    def having(self, hook: str) -> tuple[Component, ...]:
        """Return the components whose method has a hook of its own."""
        if hook not in self._having:
            self._having[hook] = tuple(c for c in self.components if overrides(c.method, hook))
        return self._having[hook]

    def begins_stage(self, epoch: int) -> bool:
        """Say whether no component of the epoch before takes part in ``epoch``, see :func:`~distil.engine.during`."""
        parts = [c.coefficient.takes_part for c in self.components]
        return epoch > 0 and any(part(epoch) for part in parts) and not any(p(epoch) and p(epoch - 1) for p in parts)

    def rebuild(self, student: nn.Module) -> nn.Module:
        """Return the student as its methods teach it, rebuilt by the one that does; give that to the Distiller."""
        builders = self.having("rebuild")
        if len(builders) > 1:
            raise DistilError(
                f"Both '{builders[0].name}' and '{builders[1].name}' rebuild the student; at most one method of a sum "
                "may."
            )
        return builders[0].method.rebuild(student) if builders else student

    @contextmanager
    def rebuilt_first(self) -> Iterator[None]:
        """Where a method rebuilds the student and a tap of the student is not found, say what was left out."""
        try:
            yield
        except DistilError as error:
            builders = self.having("rebuild")
            if not builders or "in the student" not in str(error):
                raise
            raise DistilError(
                f"'{builders[0].name}' teaches a student that it has rebuilt: give the Distiller "
                f"method.rebuild(student). {error}"
            ) from None

    @property
    def expression(self) -> str:
        """The sum as the command line writes it."""
        parts = []
        for component in self.components:
            text = str(component.coefficient)
            parts.append(component.method.expression if text == "1" else f"{text}*{component.method.expression}")
        return " + ".join(parts) or "0"


def as_sum(method: Method | Sum) -> Sum:
    """Return ``method`` as a sum."""
    if isinstance(method, Sum):
        return method
    if isinstance(method, Method):
        return Sum([Component(as_schedule(1.0), method)])
    raise DistilError(f"A method is expected (KD(), 0.9 * KD() + 0.1 * Supervised(), …); got {type(method).__name__}.")


def overrides(method: Method, hook: str) -> bool:
    """Say whether ``method`` has a hook of its own."""
    return getattr(type(method), hook) is not getattr(Method, hook)


def own_optimizers(method: nn.Module) -> list[OwnOptimizer]:
    """Return the OwnOptimizers that ``method`` holds, in order of their attribute names."""
    found: list[OwnOptimizer] = []
    for key in sorted(vars(method)):
        value = vars(method)[key]
        members = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        found += [member for member in members if isinstance(member, OwnOptimizer)]
    return found


def is_streams(batch: Any) -> bool:
    """Say whether ``batch`` holds several named batches."""
    if type(batch) is dict and "inputs" in batch:  # nearly always, and quicker than asking what a Mapping is
        return False
    if not isinstance(batch, Mapping) or not batch or "inputs" in batch:
        return False
    return all(isinstance(value, Mapping) for value in batch.values())


def batch_size(batch: Batch) -> int:
    """Return the number of samples in a batch of one stream."""
    if is_streams(batch):
        raise DistilError(
            f"The batch has several streams ({', '.join(batch)}); a method that reads them must write its own counts()."
        )
    for key in ("inputs", "labels", "id"):
        tensor = first_tensor(batch.get(key))
        if tensor is not None:
            return int(tensor.shape[0])
    raise DistilError(
        f"The batch has none of 'inputs', 'labels', 'id' to count by; it has {', '.join(map(str, batch))}."
    )


def _product(a: Schedule, b: Schedule) -> Schedule:
    if a.constant is not None:
        if b.constant is not None:
            return as_schedule(a.constant * b.constant)
        return b if a.constant == 1 else b * a.constant
    if b.constant is not None:
        return a if b.constant == 1 else a * b.constant
    raise DistilError(f"Only one schedule may scale a method; got {a} times {b}.")
