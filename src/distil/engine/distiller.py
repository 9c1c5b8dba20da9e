"""The Distiller: student, teacher and method behind one call, in anybody's loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distil.data.loading import as_batches, mix_seed
from distil.engine.anatomy import first_tensor
from distil.engine.cast import Cast, Models, same_classes
from distil.engine.context import Context
from distil.engine.guards import NanSentinel, check_count, check_teaches, lone_sample
from distil.engine.method import Batch, Component, Method, Sum, as_sum, is_streams, overrides, own_optimizers
from distil.engine.trace import Trace
from distil.engine.window import Totals, Window, counts_of, rank, summed, term_name, world_size
from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.tasks import Task, check_labels, get_task
from distil.tasks.base import to_device

__all__ = ["Distiller", "Step", "Totals"]


class Step(NamedTuple):
    """What one call returns: the loss to back-propagate, the student's own output, and each term's detached value."""

    loss: Tensor
    student: Any
    terms: dict[str, Tensor]


class Distiller(nn.Module):
    """Teach ``student`` with ``method`` from ``teacher``; a module whose call returns a loss.

    It changes no module of yours: the student is never wrapped or renamed, the teacher is frozen, in eval, outside
    ``parameters()`` and ``state_dict()``, and no hook stays on either between calls.

    Args:
        student: a module, or a mapping of names to modules (co-training).
        teacher: a module, a mapping of names to modules, or ``None`` where the method needs none.
        method: a method or a sum of methods.
        task: how to call a model on a batch, what its labels are, how it is scored ("classification" or a ``Task``).
        example: a small batch, for the dry run that finds taps and sizes adapters.
        steps: optimizer steps of the whole run; schedules by fraction need it.
        epochs: epochs of the whole run; schedules by epoch need it, and ``end_epoch()`` calls.
        taps: your paths for meanings, ``{"emb": "avgpool"}`` or ``{"emb": ("avgpool", "pool")}`` (student, teacher).
        seed: seeds adapters and everything a method draws.
        teacher_device: keep the teacher elsewhere; by default it follows the student.

    Raises:
        DistilError: a tap that does not exist, other class counts, a teacher that shares parameters with the student,
            two methods that both change the batch, …

    >>> import torch
    >>> from distil.methods import KD, Supervised
    >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> batch = {"inputs": torch.randn(8, 4), "labels": torch.randint(3, (8,))}
    >>> distiller = Distiller(student, teacher, 0.9 * KD(temperature=4) + 0.1 * Supervised(), example=batch)
    >>> optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1))
    >>> step = distiller(batch)
    >>> step.loss.backward(); optimizer.step(); optimizer.zero_grad()
    >>> sorted(step.terms)
    ['kd', 'supervised']
    """

    def __init__(
        self,
        student: Models,
        teacher: Models | None,
        method: Method | Sum,
        *,
        task: str | Task = "classification",
        example: Any,
        steps: int | None = None,
        epochs: int | None = None,
        taps: Mapping[str, str | tuple[str, str]] | None = None,
        seed: int = 0,
        teacher_device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        self.task, self.seed = get_task(task), seed
        self.method = as_sum(method)
        self._check_method()
        place = torch.device(teacher_device) if teacher_device is not None else None
        self.cast = Cast(student, teacher, self.task, taps=taps or {}, teacher_device=place)
        self.student = nn.ModuleDict(dict(student)) if isinstance(student, Mapping) else student
        self.ctx = Context(steps=steps, epochs=epochs)
        self.prepared = not any(overrides(c.method, "prepare") for c in self.method)
        self._begin()
        self.classes = self._dry_run(example)

    def _begin(self) -> None:
        """Set up what lives in one process only: hooks on optimizers, the open window, flags."""
        self._watched: list[torch.optim.Optimizer] | None = None
        self._stepped: set[int] = set()
        self._window = Window()
        self._sentinel = NanSentinel()
        self._guarded: set[str] = set()
        self._labels_seen = False
        self._keep_live = False
        self.live: dict[str, Tensor] = {}

    def _check_method(self) -> None:
        if not self.method.components:
            raise DistilError("The method is empty: every coefficient is 0, so there is nothing to learn.")
        ships = [c.name for c in self.method if overrides(c.method, "deployed")]
        if len(ships) > 1:
            raise DistilError(f"Both '{ships[0]}' and '{ships[1]}' say what ships; a sum may hold one such method.")
        tied = [c.name for c in self.method if c.method.contains_task]
        if tied and any(c.name == "supervised" for c in self.method):
            warnings.warn(
                f"'{tied[0]}' already holds the task loss its paper ties in; Supervised() counts it twice.",
                stacklevel=4,
            )

    def _dry_run(self, example: Any) -> int | None:
        """Find taps, make adapters, check that both sides score the same classes; returns the number of classes."""
        batch = to_device(
            self.task.prepare(self.task.unpack(example), torch.Generator().manual_seed(self.seed)), self._device()
        )
        self.cast.move_teachers(self._device())
        specs = [spec for c in self.method for spec in c.method.taps]
        self.cast.resolve(specs, batch)
        student, teacher = self.cast.dry_run(batch)
        if "logits" in specs:
            same_classes(student, teacher)
        for component in self.method:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix_seed(self.seed, "setup", component.name))
                component.method.setup(student, teacher)
        self.method.to(self._device())
        self._norms = [
            m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
        ]
        reads_logits = isinstance(student, Trace) and any(
            s == "logits" or (isinstance(s, tuple) and s[0] == "logits") for s in specs
        )
        return int(student.logits.shape[1]) if reads_logits and student.logits.ndim > 1 else None

    # --- the call -----------------------------------------------------------------------------------------------

    def forward(self, batch: Any = None, *, totals: Totals | None = None, divides: bool = True, **inputs: Any) -> Step:
        """Return the loss of one (micro-)batch.

        Args:
            batch: what the loader gave, or keyword inputs as a Hugging Face model takes them.
            totals: ``distiller.totals(window)`` where this batch is one of several micro-batches of a step.
            divides: the host divides the loss by the number of micro-batches, as accelerate, Trainer and Lightning do.
        """
        raw = inputs if batch is None else batch
        self.ctx.training = self.training
        if self.training:
            self.cast.wake()
            self._check_ready()
        self.ctx.reseed(self.seed, rank())
        if totals is not None and id(raw) not in totals.batches:
            raise DistilError("This batch is not in the window that totals() was given; pass the very same objects.")
        ready = self._transformed(raw) if totals is None else totals.batches[id(raw)]
        try:
            with lone_sample(self._norms if self.training else [], ready):
                return self._step(ready, totals, divides)
        finally:
            self.cast.forget()

    def _step(self, batch: Batch, totals: Totals | None, divides: bool) -> Step:
        active = [(c, weight) for c in self.method if (weight := c.coefficient(self.ctx))]
        if not active:
            raise DistilError(
                "Every coefficient is 0 at this step, so there is nothing to learn: give one component a constant share."
            )
        if self.training and self.ctx.micro == 0:
            self._before_step(batch, [c for c, _ in active])
        counts = self._counts(batch) if totals is None else totals.counts
        micro, world = (totals.micro, totals.world) if totals is not None else (1, 1)
        parts: list[Tensor] = []
        values: dict[str, Tensor] = {}
        unreduced: dict[str, Tensor] = {}
        self.live = {}
        for component, weight in active:
            terms = component.method(*self.cast.handles(), batch, self.ctx)
            self._guard(component, terms, counts, alone=totals is None)
            for key, term in terms.items():
                name = term_name(component, key)
                part = term.mean() / (micro * world) if term.coupled else term.mean(counts[name])
                values[name], unreduced[f"term '{name}'"] = part.detach(), term.values
                parts.append(part * weight)
                if self._keep_live:
                    self.live[name] = parts[-1]
        loss = self._tied(torch.stack(parts).sum() if len(parts) > 1 else parts[0])
        output = self.cast.output(batch)
        if self.training:
            self._window.add(values, joint=totals is not None)
            self._watch_numbers(batch, unreduced)
            self.ctx.micro += 1
        scale = (micro if divides else 1) * world
        return Step(loss * scale if scale != 1 else loss, output, {n: v * micro * world for n, v in values.items()})

    def _before_step(self, batch: Batch, components: list[Component]) -> None:
        for component in components:
            if overrides(component.method, "before_step"):
                with ExitStack() as stack:
                    for own in own_optimizers(component.method):
                        stack.enter_context(own.active())
                    for handle in self.cast.each():
                        stack.enter_context(handle.detached())
                    component.method.before_step(*self.cast.handles(), batch, self.ctx)

    def _guard(
        self, component: Component, terms: Mapping[str, Term], counts: Mapping[str, Tensor], *, alone: bool
    ) -> None:
        """Check, once per component on its first step: its terms are those it announced, and they teach the student."""
        if component.name in self._guarded:
            return
        known = component.method.at_equality
        if set(terms) - set(known):
            raise DistilError(
                f"'{component.name}' returned terms {sorted(terms)}, but its at_equality lists {sorted(known)}: list each."
            )
        learners = [p for p in self.student.parameters() if p.requires_grad]
        for key, term in terms.items():
            name = term_name(component, key)
            if not term.coupled and name not in counts:
                raise DistilError(f"counts() of '{component.name}' says nothing of its term '{key}'.")
            if alone and not term.coupled:
                check_count(name, term, counts[name])
            if self.training and torch.is_grad_enabled():
                check_teaches(name, term, learners)
        if self.training:
            self._guarded.add(component.name)

    def _tied(self, loss: Tensor) -> Tensor:
        """Keep skipped components' parameters in the graph under DDP, which stops at unused ones."""
        if world_size() > 1:
            for component in self.method:
                if component.coefficient(self.ctx) == 0:
                    for parameter in component.method.parameters():
                        if parameter.requires_grad:
                            loss = loss + 0.0 * parameter.sum()
        return loss

    def _watch_numbers(self, batch: Batch, unreduced: Mapping[str, Tensor]) -> None:
        inputs = None if is_streams(batch) else first_tensor(batch.get("inputs"))
        seen = {"inputs": inputs} if inputs is not None and inputs.is_floating_point() else {}
        for handle in self.cast.each():
            for trace in handle.passes:
                seen |= {f"tap '{place}' of the {handle.role}": value for place, value in trace.values.items()}
        self._sentinel.note(self.ctx.step, batch, {**seen, **unreduced})

    def _check_ready(self) -> None:
        ctx = self.ctx
        for component in self.method:
            name, coefficient = component.name, component.coefficient
            if coefficient.needs_steps and ctx.steps is None:
                raise DistilError(f"{coefficient} on '{name}' needs the length of the run: pass steps= to Distiller.")
            if coefficient.needs_epochs and ctx.epochs is None:
                raise DistilError(
                    f"{coefficient} on '{name}' counts epochs: pass epochs= to Distiller and call end_epoch() after each."
                )
            if self._watched is None and (overrides(component.method, "after_step") or coefficient.needs_steps):
                raise DistilError(
                    f"'{name}' needs to know of every optimizer step, and nothing is watched: optimizer = distiller.watch(optimizer); "
                    "a loop without torch optimizers calls distiller.watch() once and distiller.after_step() after each step."
                )
        if not self.prepared:
            waiting = next(c.name for c in self.method if overrides(c.method, "prepare"))
            raise DistilError(
                f"'{waiting}' goes over the training data before training: call distiller.prepare(data) first."
            )

    # --- the window ---------------------------------------------------------------------------------------------

    def totals(self, window: Iterable[Any]) -> Totals:
        """Sum what each term counts over the micro-batches of one optimizer step, and over all ranks."""
        raws, batches, begin = list(window), {}, self.ctx.micro
        for i, raw in enumerate(raws):
            self.ctx.micro = begin + i
            self.ctx.reseed(self.seed, rank())
            batches[id(raw)] = self._transformed(raw)
        self.ctx.micro = begin
        counts = summed([counts_of(self.method, batches[id(raw)]) for raw in raws], self._device())
        return Totals(counts, len(raws), world_size(), batches, raws)

    def _counts(self, batch: Batch) -> dict[str, Tensor]:
        counts = counts_of(self.method, batch)
        if self.training:
            self._window.compare(counts, self.ctx.micro)
        return counts

    def _transformed(self, raw: Any) -> Batch:
        """Unpack, prepare, drop the labels that no method may read, and let the one mixing method change the batch."""
        batch: Batch = to_device(self.task.prepare(self.task.unpack(raw), self.ctx.rng), self._device())
        batch = (
            {name: self._readable(name, part) for name, part in batch.items()}
            if is_streams(batch)
            else self._readable("", batch)
        )
        for component in self.method:
            if overrides(component.method, "transform"):
                with torch.no_grad(), ExitStack() as stack:
                    for handle in self.cast.each():
                        stack.enter_context(handle.detached())
                    batch = component.method.transform(batch, *self.cast.handles(), self.ctx)
        return batch

    def _readable(self, stream: str, batch: Batch) -> Batch:
        labels = batch.get("labels")
        if labels is None:
            return batch
        readers = [c.method.labels for c in self.method]
        if not any(r is True or (r is not False and stream in r) for r in readers):
            return {key: value for key, value in batch.items() if key != "labels"}
        # Labels on a CPU are always checked; on an accelerator once, since each look waits for the device.
        if self.classes and not labels.is_floating_point() and (labels.device.type == "cpu" or not self._labels_seen):
            self._labels_seen = True
            check_labels(labels, self.classes, batch.get("id"))
        return batch

    # --- around the step ----------------------------------------------------------------------------------------

    def watch(self, *optimizers: Any) -> Any:
        """Run :meth:`after_step` once after each real step of these optimizers; returns them (one as itself).

        With none given, the host promises to call :meth:`after_step` itself.
        """
        self._watched = [getattr(o, "optimizer", o) for o in optimizers]
        for optimizer in self._watched:
            optimizer.register_step_post_hook(self._stepped_once)
        return optimizers[0] if len(optimizers) == 1 else optimizers

    def _stepped_once(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        found = getattr(
            optimizer, "found_inf", None
        )  # a fused optimizer runs its hook even where the scaler skipped the step
        if found is not None and float(found) != 0:
            self._window.close(1)
            self.ctx.micro = 0
            return
        self._stepped.add(id(optimizer))
        if self._watched is not None and len(self._stepped) >= len(self._watched):
            self._stepped.clear()
            self.after_step()

    def after_step(self) -> None:
        """Finish an optimizer step: publish its terms, let methods act, move the counters."""
        self.ctx.terms = self._window.close(self.ctx.micro)
        with torch.no_grad():
            for component in self.method:
                component.method.after_step(self.ctx)
        self.ctx.step += 1
        self.ctx.micro = 0

    def end_epoch(self, metrics: Mapping[str, float] | None = None) -> None:
        """Tell methods that an epoch is over, with its validation metrics where there are any."""
        self._sentinel.read()
        self.ctx.metrics = dict(metrics or {})
        self.ctx.epoch += 1
        for component in self.method:
            component.method.after_epoch(self.ctx.metrics, self.ctx)

    def prepare(self, data: Any) -> Distiller:
        """Let methods go over the training data once (class means, cached targets); returns the distiller."""
        _, teacher = self.cast.handles()
        for component in self.method:
            if overrides(component.method, "prepare"):
                with torch.no_grad():
                    component.method.prepare(teacher, self._read_through(data))
        self.method.to(self._device())
        self.prepared = True
        return self

    def _read_through(self, data: Any) -> Iterable[Batch]:
        for raw in as_batches(data, shuffle=False).iterate(0):
            yield to_device(self.task.unpack(raw), self._device())
            self.cast.forget()

    def check_finite(self) -> None:
        """Read the flags that steps left; raises where a number was not one."""
        self._sentinel.read()

    # --- what is in it ------------------------------------------------------------------------------------------

    def deployed(self) -> nn.Module:
        """Return what ships: by default the student itself."""
        speaker = next(
            (c.method for c in self.method if overrides(c.method, "deployed")), self.method.components[0].method
        )
        return speaker.deployed(*self.cast.handles())

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the trainable parameters by name: each student's, then each method's own."""
        several = self.cast.several["student"]
        found = {
            f"student.{name}" if several else "student": [p for p in model.parameters() if p.requires_grad]
            for name, model in self.cast.students.items()
        }
        for component in self.method:
            for name, parameters in component.method.groups().items():
                if name in found:
                    raise DistilError(f"Two parameter groups are called '{name}'; rename one in groups().")
                found[name] = parameters
        return found

    def weight(self, term: str) -> float:
        """Return the coefficient of a term, by its full name, as it stands."""
        return next(c.coefficient(self.ctx) for c in self.method if term == c.name or term.startswith(c.name + "."))

    def compile_models(self, **options: Any) -> Distiller:
        """Compile the plain passes of all models with ``torch.compile(**options)``; taps are returned, not stashed."""
        for handle in self.cast.each():
            handle.compile(**options)
        return self

    def keep_live(self, on: bool) -> None:
        """Keep each term's graph of the next calls in ``live``, for ``gradient_shares``."""
        self._keep_live = on
        if not on:
            self.live = {}

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """The frozen teachers by name ("model" where there is one)."""
        return dict(self.cast.teachers)

    @property
    def teacher_seconds(self) -> float:
        """Wall-clock seconds spent inside teachers' passes so far."""
        return sum(handle.seconds for handle in self.cast.by_role("teacher").values())

    # --- nn.Module ----------------------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)
        self.cast.move_teachers(fn(torch.zeros((), device=self._device())).device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["ctx"] = replace(self.ctx, rng=None, terms={})  # type: ignore[arg-type]
        for name in ("_watched", "_stepped", "_window", "_sentinel", "live"):
            state.pop(name)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        guarded = self._guarded
        self._begin()
        self._guarded = guarded
        self.ctx.rng = torch.Generator()

    def _device(self) -> torch.device:
        return next(self.student.parameters()).device
