"""Checks that stop a run before it lies: taps that never fire, terms that teach nobody, NaN."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from distil.engine.anatomy import first_tensor
from distil.engine.cast import same_classes
from distil.engine.context import Context
from distil.engine.method import Batch, Component, Sum, is_streams
from distil.engine.window import Count, counts_of
from distil.errors import DistilError, Diverged
from distil.functional.reduction import Term

__all__ = [
    "NanSentinel",
    "check_first",
    "check_logits",
    "check_ready",
    "check_sum",
    "is_alone",
    "lone_sample",
    "reaches",
]

READ_EVERY = 50
"""Steps between two looks at the flags on an accelerator; on a CPU a look costs nothing and every step is read."""


def check_sum(method: Sum) -> None:
    """Refuse a sum that teaches nothing or ships two things; warn of a task loss counted twice."""
    if not method.components:
        raise DistilError("The method is empty: every coefficient is 0, so there is nothing to learn.")
    ships = method.having("deployed")
    if len(ships) > 1:
        raise DistilError(
            f"Both '{ships[0].name}' and '{ships[1].name}' say what ships; a sum may hold one such method."
        )
    tied = [c.name for c in method if c.method.contains_task]
    if tied and any(type(c.method).__name__ == "Supervised" for c in method):
        warnings.warn(
            f"'{tied[0]}' already holds the task loss its paper ties in; Supervised() counts it twice.", stacklevel=4
        )


def check_logits(method: Sum, student: Any, teacher: Any) -> None:
    """Refuse models of other classes, and a teacher that knows a few of them only to a method that reads all."""
    same_classes(student, teacher)
    known = getattr(teacher, "sparse", None)
    if known is None:
        return
    for component in method:
        if "logits" in component.method.taps and not component.method.sparse:
            raise DistilError(
                f"'{component.name}' reads all logits of the teacher, and the cache holds {known.codec} targets: write "
                "it with --codec dense16, or teach with kd, which learns from them."
            )


def check_ready(method: Sum, ctx: Context, *, watched: bool, prepared: bool) -> None:
    """Refuse to train before everything that the components need is known."""
    for component in method:
        name, coefficient = component.name, component.coefficient
        if coefficient.needs_steps and ctx.steps is None:
            raise DistilError(f"{coefficient} on '{name}' needs the length of the run: pass steps= to Distiller.")
        if coefficient.needs_epochs and ctx.epochs is None:
            raise DistilError(
                f"{coefficient} on '{name}' counts epochs: pass epochs= to Distiller, and call end_epoch() after each."
            )
        if not watched and (component in method.having("after_step") or coefficient.needs_steps):
            raise DistilError(
                f"'{name}' needs to know of every optimizer step, and nothing is watched: optimizer = "
                "distiller.watch(optimizer); a loop without torch optimizers calls distiller.watch() once and "
                "distiller.after_step() after each step."
            )
    if not prepared:
        waiting = method.having("prepare")[0].name
        raise DistilError(
            f"'{waiting}' goes over the training data before training: call distiller.prepare(data) first."
        )


def check_first(
    component: Component, terms: Mapping[str, Term], batch: Batch, learners: list[nn.Parameter], *, teaches: bool
) -> None:
    """Check a component on its first step: it returns what it announced, counts what it weighs, teaches somebody."""
    known = component.method.at_equality
    if set(terms) - set(known):
        raise DistilError(
            f"'{component.name}' returned terms {sorted(terms)}, but its at_equality lists {sorted(known)}: list each."
        )
    counts = counts_of(component, batch)
    for key, term in terms.items():
        name = component.term(key)
        if not term.coupled:
            if name not in counts:
                raise DistilError(f"counts() of '{component.name}' says nothing of its term '{key}'.")
            _check_count(name, term, counts[name])
        if teaches and not term.aux and not reaches(term.values, learners, own=component.method.parameters()):
            raise DistilError(
                f"Term '{name}' has no student parameter in its graph, so it teaches the student nothing: it was "
                "computed from detached tensors, from the teacher alone, or from frozen layers. Mark it aux=True if it "
                "only trains the method's own parts."
            )


def _check_count(name: str, term: Term, counted: Count) -> None:
    own, said = float(term.total()), float(counted)
    if abs(own - said) > 1e-3 * max(1.0, abs(own)):
        raise DistilError(
            f"Term '{name}' counts {own:g} elements on this batch, but counts() said {said:g}: make the two agree."
        )


def reaches(value: Tensor, parameters: Iterable[nn.Parameter], *, own: Iterable[nn.Parameter] = ()) -> bool:
    """Say whether any of ``parameters`` is in the autograd graph of ``value``.

    Of parameters in shards the graph holds the gathered weights, not themselves: there any leaf counts that is not
    among a method's ``own``.
    """
    chosen = list(parameters)
    wanted, others = {id(p) for p in chosen}, {id(p) for p in own}
    shards = any(hasattr(p, "device_mesh") for p in chosen)
    stack, seen = [value.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if id(leaf) in wanted or (shards and leaf is not None and id(leaf) not in others):
            return True
        stack.extend(child for child, _ in node.next_functions)
    return False


@contextmanager
def lone_sample(modules: list[nn.Module]) -> Iterator[None]:
    """Let train-mode BatchNorm use its running statistics, where a batch of one has none of its own."""
    alone = [m for m in modules if m.training]
    for module in alone:
        module.training = False
    try:
        yield
    finally:
        for module in alone:
            module.training = True


def is_alone(batch: Batch) -> bool:
    """Say whether a batch, or one of its streams, holds a single sample; a graph is never alone."""
    if is_streams(batch):
        return any(is_alone(part) for part in batch.values())
    inputs = first_tensor(batch.get("inputs"))  # a text's inputs are a dict
    return inputs is not None and inputs.shape[0] == 1 and "edge_index" not in batch


@dataclass
class _Record:
    step: int
    ids: Any
    names: tuple[str, ...]
    finite: Tensor  # per name
    samples: Mapping[str, Tensor]  # per name: which samples are finite


Seen = Callable[[], Mapping[str, Tensor]]


@dataclass
class NanSentinel:
    """Watches for NaN and infinity and names the first value that holds one, with its sample ids.

    On a CPU a step is looked into only where its loss is not finite. An accelerator is not waited for: each step leaves
    a few flags in a ring, and they are read together.
    """

    ring: deque[_Record] = field(default_factory=lambda: deque(maxlen=READ_EVERY))

    def watch(self, step: int, batch: Batch, loss: Tensor, seen: Seen) -> None:
        """Look at a step; ``seen()`` names what it computed, in the order in which trouble would spread."""
        if loss.device.type == "cpu":
            if not math.isfinite(loss.item()):
                self.ring.append(_record(step, batch, {**seen(), "the loss": loss}))
                self.read()
            return
        self.ring.append(_record(step, batch, {**seen(), "the loss": loss}))
        if len(self.ring) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Look at the flags; raise on the first bad step."""
        records, self.ring = list(self.ring), deque(maxlen=READ_EVERY)
        if not records or bool(torch.stack([r.finite.all() for r in records]).all()):
            return
        record = next(r for r in records if not bool(r.finite.all()))
        bad = [name for name, ok in zip(record.names, record.finite.tolist()) if not ok]
        named = next((name for name in bad if name in record.samples), None)
        who = ""
        if named is not None:
            ids = record.ids[~record.samples[named].to(record.ids.device)].tolist()
            who = f"; samples with id {', '.join(map(str, ids[:8]))}" + (" …" if len(ids) > 8 else "")
        cause = (
            "the data hold NaN or infinity: clean them"
            if bad[0].startswith("inputs")
            else "lower the learning rate, clip gradients, or use float32"
        )
        raise Diverged(
            f"Not a number at step {record.step}: first in {bad[0]} (seen in {', '.join(bad)}){who}. Likely {cause}."
        )


def _record(step: int, batch: Batch, values: Mapping[str, Tensor]) -> _Record:
    ids = None if is_streams(batch) else batch.get("id")
    count = len(ids) if isinstance(ids, Tensor) else -1
    flat = {name: value.detach() for name, value in values.items()}
    samples = {
        name: value.float().flatten(1).sum(1).isfinite() if value.ndim > 1 else value.isfinite()
        for name, value in flat.items()
        if value.ndim and value.shape[0] == count
    }
    finite = [samples[n].all() if n in samples else v.float().sum().isfinite() for n, v in flat.items()]
    home = finite[-1].device
    return _Record(step, ids, tuple(flat), torch.stack([f.to(home) for f in finite]), samples)
