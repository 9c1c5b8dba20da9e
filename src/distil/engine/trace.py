"""Model handles: a method calls models, it does not receive tensors.

A handle runs its model on a batch and returns a :class:`Trace`: the output and the taps. Within a step the plain pass
is made once and shared by every method of a sum. Hooks live only while a pass runs, so nothing stays on the user's
modules and a pass recomputed by activation checkpointing records nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from distil.engine.anatomy import Location, Tap, first_tensor
from distil.engine.aside import TaskCall, kept_buffers
from distil.engine.grid import laid
from distil.engine.hooks import ChangedInPlace, Cut, Enough, Recorder, hook_for, turned, version_of
from distil.errors import DistilError, nearest
from distil.functional.targets import SparseTargets
from distil.tasks.base import Task, to_device

__all__ = ["ModelHandle", "Pass", "Spec", "Trace", "side_of"]

Spec = str | tuple[str | None, str | None]
"""A tap as a method asks for it: one name for both models, or ``(student, teacher)``, ``None`` for a side unused."""

Pass = Callable[[Mapping[str, Any]], tuple[Any, dict[Location, Tensor]]]
"""A plain pass: from a batch to the output and the taps."""


def side_of(spec: Spec, role: str) -> str | None:
    """Return the part of ``spec`` that concerns ``role`` ("student" or "teacher")."""
    return spec if isinstance(spec, str) else spec[0 if role == "student" else 1]


class Trace:
    """What one forward pass left: ``output``, ``logits`` and the taps by name (``trace["emb"]``)."""

    def __init__(
        self,
        role: str,
        output: Any,
        values: Mapping[Location, Tensor],
        taps: Mapping[str, Tap],
        task: Task,
        home: torch.device | None = None,
    ) -> None:
        self.role, self._output = role, output
        self.values = values
        self._taps, self._task, self._home = taps, task, home
        self._logits: Tensor | None = None
        self.notes: list[str] = []  # what the user should know of how a tap was read

    @property
    def output(self) -> Any:
        """The model's own output."""
        if isinstance(self._output, Cut):
            self._output = self._output.whole()
        return self._output

    @property
    def logits(self) -> Tensor:
        """The class scores, ``[N, C]`` (or as the task shapes them)."""
        if self._logits is None:
            if isinstance(self.output, SparseTargets):
                raise DistilError(
                    f"The {self.role} answers with {self.output.codec} targets, and all of its logits were asked for: "
                    "write the cache with --codec dense16, or read `trace.sparse`, as kd does."
                )
            tap = self._taps.get("logits")
            found = self._read(tap, 0) if tap is not None and tap.locations else self._task.logits(self.output)
            self._logits = found if self._home is None else found.to(self._home)
        return self._logits

    @property
    def sparse(self) -> SparseTargets | None:
        """What a cached teacher knows of a few classes, where that is all it answers; ``None`` where it has logits."""
        if not isinstance(self.output, SparseTargets):
            return None
        return self.output if self._home is None else self.output.to(self._home)

    def __getitem__(self, spec: Spec) -> Any:
        name = side_of(spec, self.role)
        if name is None:
            raise DistilError(f"Tap {spec!r} names nothing on the {self.role}'s side.")
        if name == "logits":
            return self.logits
        tap = self._taps.get(name)
        if tap is None:
            raise DistilError(
                f"Tap '{name}' was not asked for: add it to the method's `taps`; {nearest(name, self._taps)}"
            )
        found = tuple(self._read(tap, i) for i in range(len(tap.locations)))
        return found if tap.many else found[0]

    def tap(self, spec: Spec) -> Tap | None:
        """Return the tap that is read at ``spec``: its places, and how tokens lie there."""
        return self._taps.get(side_of(spec, self.role) or "")

    def patches(self, spec: Spec, tokens: Tensor) -> Tensor:
        """Return tokens ``[N, L, D]`` read at ``spec`` as the map of their patches (``engine/grid.py``)."""
        tap = self.tap(spec)
        return laid(tap.grid if tap else "", tokens, self.role, self.notes)

    def layout(self, spec: Spec) -> tuple[str, ...]:
        """Return how the model itself lays the maps of a tap (see `engine.layout`); they are read channels first."""
        tap = self.tap(spec)
        return () if tap is None else tuple(place.layout for place in tap.locations)

    def _read(self, tap: Tap, i: int) -> Tensor:
        location = tap.locations[i]
        if location not in self.values:
            raise DistilError(
                f"Tap '{tap.name}' ({location}) of the {self.role} did not fire in this pass: the module was not "
                "called. Name another path, or check the branch that skips it."
            )
        value = turned(location, self.values[location])
        return value if self._home is None else value.to(self._home)


class ModelHandle:
    """A model as a method sees it.

    ``handle(batch)`` returns a :class:`Trace`, memoised within the step. A teacher's plain pass runs without gradient.

    Args of a call:
        batch: the dict to run on (of one stream, where there are several).
        replace: ``{tap: module}``: the tapped output is passed through ``module`` and the rest of the model runs on it;
            gradient is on, weights of a teacher stay frozen.
        params: ``{name: tensor}``: run the model functionally with these parameters and cloned buffers, in float32 and
            with plain attention, for unrolled updates.
        grad: make the graph even where the handle would not (synthesis needs pixel gradients), or cut it.
    """

    def __init__(
        self,
        role: str,
        name: str,
        module: nn.Module,
        task: Task,
        taps: Mapping[str, Tap],
        *,
        frozen: bool,
        device: torch.device | None = None,
    ) -> None:
        self.role, self.name, self.module, self.task = role, name, module, task
        self.seconds = 0.0
        self._taps, self._frozen, self._device = taps, frozen, device
        self._locations = {location for tap in taps.values() for location in tap.locations}
        self._paths = dict(module.named_modules())
        self._memo: dict[tuple[int, bool], tuple[Any, Trace]] = {}
        self._detached = False
        self._silent = set(self._locations)  # taps that no pass has recorded yet
        self._copied: set[Location] = set()  # taps that a later layer changes in place
        self._runner: Pass = self._run
        self.compiled = False
        self.shortcut: Pass | None = None  # a cheaper way to make plain passes without gradient
        self.held: dict[tuple[int, bool], tuple[Any, Callable[[], Trace]]] = {}  # passes made ahead, for calls to come
        self.summon: Callable[[], None] | None = None  # brings a model that is away, for what no shortcut does

    def __call__(
        self,
        batch: Mapping[str, Any],
        *,
        replace: Mapping[Spec, nn.Module] | None = None,
        params: Mapping[str, Tensor] | None = None,
        grad: bool | None = None,
    ) -> Trace:
        wants_grad = (
            (replace is not None or params is not None or not (self._frozen or self._detached))
            if grad is None
            else grad
        )
        key = (id(batch), wants_grad)
        plain = replace is None and params is None
        if plain and key in self._memo:
            return self._memo[key][1]
        if plain and key in self.held:
            self._memo[key] = (batch, self.held[key][1]())
            return self._memo[key][1]
        if self.summon is not None and (wants_grad or not plain):
            self.summon()
        start = time.perf_counter()
        kept = kept_buffers(self.module) if self._detached and not self._frozen else nullcontext()
        with kept, nullcontext() if wants_grad else torch.no_grad():
            moved, home = self._to_device(batch)
            if params is not None:
                output, values = self._functional(moved, params, replace)
            elif replace is not None:
                output, values = self._run(moved, self._replacements(replace))
            elif wants_grad or self.shortcut is None:
                output, values = self._runner(moved)
            else:
                output, values = self.shortcut(moved)
        self.seconds += time.perf_counter() - start
        if self._silent:
            self._silent -= values.keys()
        trace = Trace(self.role, output, values, self._taps, self.task, home)
        if plain:
            self._memo[key] = (batch, trace)
        return trace

    def part(self, spec: Spec) -> nn.Module:
        """Return a piece of the model ("head", "stages.1" or a path), to be called on a tensor of one's own.

        Gradient flows through it to its input; a teacher's weights stay frozen.
        """
        name = side_of(spec, self.role)
        tap = self._taps.get(name or "")
        path = tap.locations[0].path if tap is not None and tap.locations else name
        if path not in self._paths:
            raise DistilError(
                f"The {self.role} has no part '{name}'; {nearest(str(name), [*self._taps, *self._paths])} A meaning "
                "such as 'head' must be among the method's `taps`."
            )
        if self.summon is not None:
            self.summon()
        return self._paths[path]

    def on(self, module: nn.Module) -> ModelHandle:
        """Return a handle with the same taps on ``module``, a copy of this one's."""
        other = ModelHandle(self.role, self.name, module, self.task, self._taps, frozen=self._frozen)
        other._copied = self._copied
        return other

    def place(self, spec: Spec) -> Location:
        """Return where a tap is read: the module's path, and which side of it; the first of several."""
        tap = self._taps.get(side_of(spec, self.role) or "")
        if tap is None or not tap.locations:
            raise DistilError(f"Tap {spec!r} has no place in the {self.role}; list it among the method's `taps`.")
        return tap.locations[0]

    def compile(self, **options: Any) -> None:
        """Run plain passes through ``torch.compile``; the compiled function returns the taps."""
        self._runner, self.shortcut, self.compiled = torch.compile(self._run, **options), None, True

    def remembered(self, batch: Mapping[str, Any]) -> Trace | None:
        """Return the plain pass on ``batch`` that this call already made."""
        for grad in (True, False):
            if (id(batch), grad) in self._memo:
                return self._memo[id(batch), grad][1]
        return None

    def asked(self, batch: Mapping[str, Any]) -> bool:
        """Say whether this call made the plain pass without gradient on ``batch``."""
        return (id(batch), False) in self._memo

    @property
    def passes(self) -> list[Trace]:
        """The plain passes that this call made."""
        return [trace for _, trace in self._memo.values()]

    def forget(self) -> None:
        """Drop the memo of this call."""
        for key in self._memo if self.held else ():
            self.held.pop(key, None)
        self._memo.clear()

    def dry(self, batch: Mapping[str, Any]) -> Trace:
        """Make the dry run's pass: it finds the taps that must be copied, and does not count as their having fired."""
        shortcut, self.shortcut = self.shortcut, None
        try:
            return self(batch)
        except ChangedInPlace as changed:
            self._copied |= changed.locations
            return self(batch)
        finally:
            self._silent, self.shortcut = set(self._locations), shortcut

    def silent(self, spec: Spec) -> list[Location]:
        """Return where a tap should have been read and no pass since the dry run has."""
        tap = self._taps.get(side_of(spec, self.role) or "")
        return [] if tap is None else [place for place in tap.locations if place in self._silent]

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Give ``transform`` and ``before_step`` a memo of their own, without gradient; buffers stay as they are."""
        kept, self._memo, self._detached = self._memo, {}, True
        try:
            yield
        finally:
            self._memo, self._detached = kept, False

    @property
    def locations(self) -> set[Location]:
        """Where the taps are."""
        return self._locations

    def plain(self, batch: Mapping[str, Any]) -> tuple[Any, dict[Location, Tensor]]:
        """Make a plain pass by itself, whatever shortcut there is."""
        return self._run(batch)

    def stopped(self, batch: Mapping[str, Any]) -> tuple[None, dict[Location, Tensor]]:
        """Make a plain pass that ends with the last tap: the same operations as the whole one, up to there."""
        return None, self._run(batch, stop=True)[1]

    def _run(
        self,
        batch: Mapping[str, Any],
        replacements: Mapping[Location, nn.Module] | None = None,
        *,
        stop: bool = False,
    ) -> tuple[Any, dict[Location, Tensor]]:
        values: dict[Location, Tensor] = {}
        if not self._locations:
            return self.task.call(self.module, batch, role=self.role), values
        with self._recording(self._paths, values, replacements or {}, stop=stop) as versions:
            output = (self._until_enough if stop else self._whole)(batch)
        # Compiled hooks note no version: there the dry run's pass, which is never compiled, is the check.
        changed = {place for place, noted in versions.items() if version_of(values[place]) != noted}
        if changed:
            raise ChangedInPlace(self.role, changed)
        return output, values

    def _whole(self, batch: Mapping[str, Any]) -> Any:
        return self.task.call(self.module, batch, role=self.role)

    def _until_enough(self, batch: Mapping[str, Any]) -> Any:
        try:
            return self._whole(batch)
        except Enough:
            return None

    def _functional(
        self, batch: Mapping[str, Any], params: Mapping[str, Tensor], replace: Mapping[Spec, nn.Module] | None
    ) -> tuple[Any, dict[Location, Tensor]]:
        if any(hasattr(p, "device_mesh") for p in self.module.parameters()):
            raise DistilError(
                f"params= runs the {self.role} with other parameters, and its own are sharded (FSDP2 or DeepSpeed), "
                "which that cannot do; train this method on whole models (one device, or DDP)."
            )
        values: dict[Location, Tensor] = {}
        runner = TaskCall(self.module, self.task, self.role)
        # Cloned buffers: otherwise BatchNorm's running statistics would move once for every functional pass.
        state = {f"module.{name}": buffer.clone() for name, buffer in self.module.named_buffers()}
        state |= {f"module.{name}": tensor for name, tensor in params.items()}
        replacements = self._replacements(replace) if replace else {}
        kind = next(self.module.parameters()).device.type
        with (
            self._recording(self._paths, values, replacements),
            torch.autocast(kind, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            output = torch.func.functional_call(runner, state, (batch,))
        return output, values

    def _replacements(self, replace: Mapping[Spec, nn.Module]) -> dict[Location, nn.Module]:
        found: dict[Location, nn.Module] = {}
        for spec, module in replace.items():
            name = side_of(spec, self.role)
            tap = self._taps.get(name or "")
            if tap is None or not tap.locations:
                raise DistilError(f"replace= names tap '{name}', which the method does not list in `taps`.")
            found.update(dict.fromkeys(tap.locations, module))
        return found

    @contextmanager
    def _recording(
        self,
        paths: Mapping[str, nn.Module],
        values: dict[Location, Tensor],
        replacements: Mapping[Location, nn.Module],
        *,
        stop: bool = False,
    ) -> Iterator[dict[Location, int]]:
        """Record taps while the pass runs; yields the versions of what was recorded."""
        versions: dict[Location, int] = {}
        last = len(self._locations) if stop else 0
        with ExitStack() as stack:
            for location in self._locations:
                record = Recorder(self.role, location, values, versions, copies=location in self._copied, last=last)
                hook = hook_for(record, replacements.get(location))
                module = paths[location.path]
                handle = (
                    module.register_forward_pre_hook(hook, with_kwargs=True)
                    if location.side == "in"
                    else module.register_forward_hook(hook)
                )
                stack.callback(handle.remove)
            yield versions

    def _to_device(self, batch: Mapping[str, Any]) -> tuple[Mapping[str, Any], torch.device | None]:
        """Bring the batch to a teacher that lives elsewhere; what it leaves comes back to where the batch was."""
        if self._device is None:
            return batch, None
        found = first_tensor(batch)
        if found is None or found.device == self._device:
            return batch, None
        return to_device(batch, self._device), found.device
