"""The Distiller: student, teacher and method behind one call, in anybody's loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distil.data.loading import mix_seed
from distil.engine.anatomy import first_tensor
from distil.engine.cast import Cast, Models
from distil.engine.context import Context
from distil.engine.frozen import DEFAULT, TeacherForward
from distil.engine.grid import told
from distil.engine.guards import NanSentinel, check_first, check_logits, check_ready, check_sum, is_alone, lone_sample
from distil.engine.intake import Intake, ReadThrough
from distil.engine.method import Batch, Component, Method, Sum, as_sum, is_streams, own_optimizers
from distil.engine.trace import Trace
from distil.engine.watch import Watch
from distil.engine.window import Counted, Totals, Window, counts_of, rank, reduced, summed, world_size
from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.tasks import Task, get_task

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
        teacher_forward: how its plain passes are made cheap, e.g. "auto"; see :class:`~distil.engine.TeacherForward`.

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

    # A Hugging Face Trainer that sees **inputs would otherwise leave the division by micro-batches to this module.
    accepts_loss_kwargs = False

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
        teacher_forward: str | TeacherForward = DEFAULT,
    ) -> None:
        super().__init__()
        self.task, self.seed = get_task(task), seed
        self.method = as_sum(method)
        check_sum(self.method)
        self.cast = Cast(student, teacher, self.task, taps or {}, teacher_device, teacher_forward)
        self.student = nn.ModuleDict(dict(student)) if isinstance(student, Mapping) else student
        self.ctx = Context(steps=steps, epochs=epochs)
        self.prepared = not self.method.having("prepare")
        self.untied: frozenset[str] = frozenset()
        self._guarded: set[str] = set()
        # Plain attributes: a module's look-up of its sub-modules costs more than what is done with them in a step.
        self._components = self.method.components
        self._inner, self._after = self.method.having("before_step"), self.method.having("after_step")
        self._intake = Intake(self.task, self.method, self.cast)
        self._begin()
        self._dry_run(example)

    def _begin(self) -> None:
        """Set up what lives in one process only: hooks on optimizers, the open window, flags."""
        self._watch: Watch | None = None
        self._ready = self._every = self._keep_live = self._told_alone = False
        self._window, self._counted, self._sentinel = Window(), Counted(), NanSentinel()
        self.live: dict[str, Tensor] = {}

    def _dry_run(self, example: Any) -> None:
        """Find taps, make adapters, check that both sides score the same classes, and note how many there are."""
        batch = self._intake.opened(example, torch.Generator().manual_seed(self.seed))
        self.cast.move_teachers(self.cast.device)
        with self.method.rebuilt_first():
            self.cast.resolve(specs := [spec for c in self.method for spec in c.method.taps], batch)
        student, teacher = self.cast.dry_run(batch)
        if "logits" in specs:
            check_logits(self.method, student, teacher)
        for component in self.method:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix_seed(self.seed, "setup", component.name))
                component.method.setup(student, teacher)
        self.notes = told(student, teacher)
        self.method.to(self.cast.device)
        norms = nn.modules.batchnorm._BatchNorm
        self._norms: list[nn.Module] = [m for m in self.modules() if isinstance(m, norms) and m.track_running_stats]
        reads = any(s == "logits" or (isinstance(s, tuple) and s[0] == "logits") for s in specs)
        if reads and isinstance(student, Trace) and student.logits.ndim > 1:
            self._intake.classes = int(student.logits.shape[1])

    # --- the call ---------------------------------------------------------------------------------------------------

    def forward(self, batch: Any = None, *, totals: Totals | None = None, divides: bool = True, **inputs: Any) -> Step:
        """Return the loss of one (micro-)batch.

        Args:
            batch: what the loader gave, or keyword inputs as a Hugging Face model takes them.
            totals: ``distiller.totals(window)`` where this batch is one of several micro-batches of a step; without a
                batch, or with keyword inputs, the next of the window is meant.
            divides: the host divides the loss by the number of micro-batches, as accelerate, Trainer and Lightning do.
        """
        self.ctx.training = self.training
        if self.training:
            self.cast.wake()
            if not self._ready:
                check_ready(self.method, self.ctx, watched=self._watch is not None, prepared=self.prepared)
                self._ready = True
        if totals is not None:
            ready = totals.batch(batch, self.ctx.micro)
        else:
            ready = self._transformed(inputs if batch is None else batch)
        try:
            if self.training and self._norms and is_alone(ready) and any(m.training for m in self._norms):
                if not self._told_alone:
                    self._told_alone = True
                    warnings.warn("A batch of one sample: BatchNorm uses its running statistics for it.", stacklevel=4)
                with lone_sample(self._norms):
                    return self._step(ready, totals, divides)
            return self._step(ready, totals, divides)
        finally:
            self.cast.forget()

    def _step(self, batch: Batch, totals: Totals | None, divides: bool) -> Step:
        active = self._active()
        if self._inner and self.training and self.ctx.micro == 0:
            self._before_step(batch, active)
        self.cast.teachers_first(batch, (component.name for component, _ in active))
        self.ctx.reseed("forward", self.seed, rank)
        counts = self._counts(batch) if totals is None else totals.counts
        share = 1 if totals is None else totals.micro * totals.world
        values: dict[str, Tensor] = {}
        unreduced: dict[str, Tensor] = {}
        loss: Tensor | None = None
        for component, weight in active:
            terms = component.method(*self.cast.handles(), batch, self.ctx)
            if component.name not in self._guarded:
                self._guard(component, terms, batch)
            for key, term in terms.items():
                name = component.term(key)
                value = reduced(term, counts.get(name), share)
                values[name], unreduced[name] = value.detach(), term.values
                if self._keep_live:
                    self.live[name] = value = value if weight == 1 else value * weight
                    loss = value if loss is None else loss + value
                elif loss is None:
                    loss = value if weight == 1 else value * weight
                else:
                    loss = loss.add(value, alpha=weight)  # one node of the graph less than a product and a sum
        if loss is None:
            raise DistilError(f"The method {self.method.expression} returned no term on this batch.")
        loss = self._tied(loss)
        output = self.cast.output(batch)
        if self.training:
            self._window.add(values, joint=totals is not None)
            if totals is None or self.ctx.micro == 0:
                self._counted.add(counts, values)
            self._sentinel.watch(self.ctx.step, batch, loss, lambda: self._seen(batch, unreduced))
            self.ctx.micro += 1
        scale = 1 if totals is None else (totals.micro if divides else 1) * totals.world
        shown = values if share == 1 else {name: value * share for name, value in values.items()}
        return Step(loss if scale == 1 else loss * scale, output, shown)

    def _active(self) -> list[tuple[Component, float]]:
        if self._every:
            return [(c, c.coefficient(self.ctx) or 1.0) for c in self.method]
        active = [(c, weight) for c in self._components if (weight := c.coefficient(self.ctx))]
        if not active:
            raise DistilError(
                "Every coefficient is 0 at this step, so nothing is left to learn: give one component a constant share."
            )
        return active

    def _before_step(self, batch: Batch, active: list[tuple[Component, float]]) -> None:
        for component, _ in active:
            if component in self._inner:
                self.ctx.reseed("before_step", self.seed, rank)
                with ExitStack() as stack:
                    for own in own_optimizers(component.method):
                        stack.enter_context(own.active())
                    for handle in self.cast.each():
                        stack.enter_context(handle.detached())
                    component.method.before_step(*self.cast.handles(), batch, self.ctx)

    def _guard(self, component: Component, terms: Mapping[str, Term], batch: Batch) -> None:
        teaches = self.training and torch.is_grad_enabled()
        check_first(component, terms, batch, [p for p in self.student.parameters() if p.requires_grad], teaches=teaches)
        if teaches:
            self.cast.check_fired(component.name, component.method.taps)
            self._guarded.add(component.name)

    def _tied(self, loss: Tensor) -> Tensor:
        """Keep everything a skipped component would reach in the graph under DDP, which stops at unused parameters."""
        if world_size() > 1 and not self._every and any(c.coefficient(self.ctx) == 0 for c in self.method):
            for name, parameter in self.named_parameters():
                if parameter.requires_grad and name not in self.untied:
                    loss = loss + 0.0 * parameter.sum()
        return loss

    def _seen(self, batch: Batch, unreduced: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name what a step computed, in the order in which a NaN would spread: inputs, taps, terms."""
        seen: dict[str, Tensor] = {}
        for stream, part in batch.items() if is_streams(batch) else [("", batch)]:
            inputs = first_tensor(part.get("inputs"))
            if inputs is not None and inputs.is_floating_point():
                seen["inputs" + (f" of '{stream}'" if stream else "")] = inputs
        for handle in self.cast.each():
            for trace in handle.passes:
                seen |= {f"tap '{place}' of the {handle.role}": value for place, value in trace.values.items()}
        return seen | {f"term '{name}'": value for name, value in unreduced.items()}

    # --- the window -------------------------------------------------------------------------------------------------

    def totals(self, window: Iterable[Any]) -> Totals:
        """Begin an optimizer step: transform its micro-batches, and sum what terms count over them and over ranks."""
        raws, batches = list(window), []
        if not raws:
            raise DistilError("totals() was given an empty window; pass the micro-batches of one optimizer step.")
        self._window.sums, self.ctx.micro = {}, 0  # a step that a scaler skipped leaves its sums behind
        for i, raw in enumerate(raws):
            self.ctx.micro = i
            batches.append(self._transformed(raw))
        self.ctx.micro = 0
        self.cast.ahead(batches)
        return Totals(summed(self.method, batches, self.cast.device), world_size(), raws, batches)

    def _counts(self, batch: Batch) -> Mapping[str, Any]:
        counts = {name: n for component in self._components for name, n in counts_of(component, batch).items()}
        if self.training:
            self._window.compare(counts, self.ctx.micro)
        return counts

    def _transformed(self, raw: Any) -> Batch:
        self.ctx.reseed("transform", self.seed, rank)
        return self._intake(raw, self.ctx)

    # --- around the step --------------------------------------------------------------------------------------------

    def watch(self, *optimizers: Any) -> Any:
        """Run :meth:`after_step` once after each real step of these optimizers; returns them (one as itself).

        With none given, the host promises to call :meth:`after_step` itself. A later call replaces an earlier one.
        """
        if self._watch is not None:
            self._watch.release()
        self._watch = Watch(optimizers, stepped=self.after_step, skipped=self.skip_step)
        return optimizers[0] if len(optimizers) == 1 else optimizers

    def after_step(self) -> None:
        """Finish an optimizer step: publish its terms, let methods act, move the counters."""
        self.ctx.terms = self._window.close(self.ctx.micro)
        for component in self._after:
            self.ctx.reseed("after_step", self.seed, rank)
            with torch.no_grad():
                component.method.after_step(self.ctx)
        self.ctx.step += 1
        self.ctx.micro = 0

    def skip_step(self) -> None:
        """Forget the open window: a gradient scaler found an infinity and skipped the step."""
        self._window.sums, self.ctx.micro = {}, 0

    def end_epoch(self, metrics: Mapping[str, float] | None = None) -> None:
        """Tell methods that an epoch is over, with its validation metrics where there are any."""
        self._sentinel.read()
        self._counted.close(self._components)
        self.ctx.metrics = dict(metrics or {})
        self.ctx.epoch += 1
        for component in self.method.having("after_epoch"):
            self.ctx.reseed("after_epoch", self.seed, rank)
            component.method.after_epoch(self.ctx.metrics, self.ctx)

    def prepare(self, data: Any) -> Distiller:
        """Let methods go over the training data once (class means, cached targets); returns the distiller."""
        _, teacher = self.cast.handles()
        for component in self.method.having("prepare"):
            seed = mix_seed(self.seed, "prepare", component.name)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                component.method.prepare(teacher, ReadThrough(data, self._intake, seed))
        self.method.to(self.cast.device)
        self.prepared = True
        return self

    def check_finite(self) -> None:
        """Read the flags that steps left; raises where a number was not one."""
        self._sentinel.read()

    # --- what is in it ----------------------------------------------------------------------------------------------

    def deployed(self) -> nn.Module:
        """Return what ships: by default the student itself."""
        speaker = next(iter(self.method.having("deployed")), self.method.components[0])
        return speaker.method.deployed(*self.cast.handles())

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

    def compile_models(self, **options: Any) -> Distiller:
        """Compile the plain passes of all models with ``torch.compile(**options)``; taps are returned, not stashed."""
        for handle in self.cast.each():
            handle.compile(**options)
        return self

    def keep_live(self, on: bool) -> None:
        """Keep each term's graph of the next calls in ``live``, for ``gradient_shares``."""
        self._keep_live, self.live = on, {}

    @contextmanager
    def every_component(self) -> Iterator[None]:
        """Let components whose coefficient is 0 at this step take part, to see what they reach."""
        self._every = True
        try:
            yield
        finally:
            self._every = False

    @property
    def classes(self) -> int | None:
        """How many classes the student scores, where a method reads its logits."""
        return self._intake.classes

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """The frozen teachers by name ("model" where there is one)."""
        return dict(self.cast.teachers)

    @property
    def teacher_seconds(self) -> float:
        """Wall-clock seconds spent inside teachers' passes so far."""
        return sum(handle.seconds for handle in self.cast.by_role("teacher").values())

    # --- nn.Module --------------------------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)
        self.cast.move_teachers(fn(torch.zeros((), device=self.cast.device)).device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        gone = ("_watch", "_window", "_counted", "_sentinel", "live")
        return {name: value for name, value in self.__dict__.items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()
