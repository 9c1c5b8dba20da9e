"""Checks that stop a run before it lies: taps that never fire, terms that teach nobody, NaN."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from distil.engine.method import Batch, is_streams
from distil.errors import DistilError
from distil.functional.reduction import Term

__all__ = ["NanSentinel", "check_count", "check_teaches", "lone_sample", "reaches"]

READ_EVERY = 50
"""Steps between two looks at the flags on an accelerator; on a CPU a look costs nothing and every step is read."""


def reaches(value: Tensor, parameters: Iterable[nn.Parameter]) -> bool:
    """Say whether any of ``parameters`` is in the autograd graph of ``value``."""
    wanted = {id(p) for p in parameters}
    stack, seen = [value.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in wanted:
            return True
        stack.extend(child for child, _ in node.next_functions)
    return False


def check_teaches(name: str, term: Term, parameters: list[nn.Parameter]) -> None:
    """Refuse a term whose graph holds no student parameter: it would train nobody."""
    if not term.aux and not reaches(term.values, parameters):
        raise DistilError(
            f"Term '{name}' has no student parameter in its graph, so it teaches the student nothing: it was computed from "
            "detached tensors, from the teacher alone, or from frozen layers. Mark it aux=True if it only trains the method's own parts."
        )


def check_count(name: str, term: Term, counted: float | Tensor) -> None:
    """Refuse counts() that disagree with the weights of the term they speak of."""
    own, said = float(term.total()), float(counted)
    if not term.coupled and abs(own - said) > 1e-3 * max(1.0, abs(own)):
        raise DistilError(
            f"Term '{name}' counts {own:g} elements on this batch, but counts() said {said:g}: make the two agree."
        )


@contextmanager
def lone_sample(modules: list[nn.Module], batch: Batch) -> Iterator[None]:
    """Let train-mode BatchNorm use its running statistics on a batch of one, where batch statistics do not exist."""
    alone = [m for m in modules if m.training] if _is_alone(batch) else []
    if alone:
        warnings.warn("A batch of one sample: BatchNorm uses its running statistics for it.", stacklevel=3)
    for module in alone:
        module.training = False
    try:
        yield
    finally:
        for module in alone:
            module.training = True


def _is_alone(batch: Batch) -> bool:
    inputs = batch.get("inputs")
    return isinstance(inputs, Tensor) and inputs.shape[0] == 1 and "edge_index" not in batch


@dataclass
class _Record:
    step: int
    ids: Any
    names: tuple[str, ...]
    finite: Tensor  # per name
    samples: Mapping[str, Tensor]  # per name: which samples are finite


@dataclass
class NanSentinel:
    """Watches inputs, taps and terms for NaN and infinity without stopping the device.

    Each step leaves a few flags in a ring; they are read together. The first bad step is the one named, with its tap,
    term and sample ids.
    """

    ring: deque[_Record] = field(default_factory=lambda: deque(maxlen=READ_EVERY))

    def note(self, step: int, batch: Batch, values: Mapping[str, Tensor]) -> None:
        """Remember which of ``values`` (named inputs, taps, terms) are finite on this micro-batch."""
        if not values:
            return
        ids = None if is_streams(batch) else batch.get("id")
        count = len(ids) if isinstance(ids, Tensor) else -1
        samples = {
            name: value.detach().float().flatten(1).sum(1).isfinite() if value.ndim > 1 else value.detach().isfinite()
            for name, value in values.items()
            if value.ndim and value.shape[0] == count
        }
        finite = torch.stack(
            [samples[n].all() if n in samples else v.detach().float().sum().isfinite() for n, v in values.items()]
        )
        self.ring.append(_Record(step, ids, tuple(values), finite, samples))
        if finite.device.type == "cpu" or len(self.ring) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Look at the flags; raise on the first bad step."""
        records, self.ring = list(self.ring), deque(maxlen=READ_EVERY)
        if not records or bool(torch.stack([r.finite.all() for r in records]).all()):
            return
        record = next(r for r in records if not bool(r.finite.all()))
        bad = [name for name, ok in zip(record.names, record.finite.tolist()) if not ok]
        who = ""
        if bad[0] in record.samples and isinstance(record.ids, Tensor):
            ids = record.ids[~record.samples[bad[0]].to(record.ids.device)].tolist()
            who = f"; samples with id {', '.join(map(str, ids[:8]))}" + (" …" if len(ids) > 8 else "")
        cause = (
            "the data hold NaN or infinity: clean them"
            if bad[0] == "inputs"
            else "lower the learning rate, clip gradients, or use float32"
        )
        raise DistilError(
            f"Not a number at step {record.step}: first in {bad[0]} (seen in {', '.join(bad)}){who}. Likely {cause}."
        )
