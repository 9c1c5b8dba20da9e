"""The survey's weights as a method: several teachers in one lesson, and each sample as far as they are sure of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.data.held import HeldOut, held_out_ids, inside, listed
from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, Traces, is_streams
from distil.engine.trace import ModelHandle
from distil.errors import DistilError, nearest
from distil.functional.reduction import Term
from distil.functional.weighting import (
    CERTAINTIES,
    TARGETS,
    certainty,
    gate_state,
    mean_one,
    mixture_nll,
    several_teachers,
    smoothed_labels,
    teacher_weights,
)
from distil.methods.supervised import Supervised

__all__ = ["WeightedTeachers", "published"]

TEACHERS = ("uniform", "confidence", "entropy", "gate", "alternate")
FAILURES = ("skip", "stop")
MOST = 4096  # samples that a gate learns from


@final
class WeightedTeachers(Method):
    """Several teachers in one lesson, each as far as it is trusted, and each sample as far as they are sure of it.

    ``v_i · T² KL(Σ_k w_ik softmax(t_k / T) ‖ softmax(s / T))``: the w of a sample sum to 1, the v of a batch have mean
    1, and neither carries a gradient.

    Args:
        target: what is combined: "probabilities" (as above), "logits" (softmax of Σ w_k t_k), or "losses"
            (Σ w_k KL(p_k ‖ q), whose gradient is that of "probabilities").
        teachers: how w is found: "uniform"; "confidence" (in proportion to the probability of the label); "entropy" (to
            exp(−H), without labels); "gate" (a linear gate over all teachers' probabilities, learned by ``prepare`` on
            a share of each class); "alternate" (one teacher a step, in turn).
        shares: fixed shares of the teachers, in the mapping's order, by which w is multiplied.
        certainty: how v is found: "none", or "entropy", "max-prob", "variance" of
            :func:`distil.functional.certainty`.
        smoothing: ε of (1 − ε) p + ε / C, laid on the teachers' label.
        temperature: T above 0; certainty and w are measured at 1.
        validation: share of each class that the gate learns from (at least one of a class).
        failing: "skip" goes on where a teacher fails, "stop" raises.

    A teacher *fails* on a batch where its call raises, and on a sample where its scores are not finite. Then the others
    share its part; a sample that nobody answered costs 0. It is warned of once for each teacher and counted in
    ``failed``; one that answered nothing in a whole epoch stops the run, since that is no failure but an absence.

    Requirements: a teacher, or a mapping of names to teachers, of the student's classes. "confidence" and "gate" read
    labels; "gate" needs ``prepare`` and ids. The gate is as honest as its samples: teachers that were trained on them
    are surer there than elsewhere. With ``certainty`` a sample's weight depends on who shares the batch.

    Relations:
        One teacher is KD; even shares of probabilities are MEAL V2's label, at any temperature.

    Example:
        >>> from distil.systems.kd_dd_survey import WeightedTeachers
        >>> WeightedTeachers(teachers="confidence", certainty="entropy").expression
        'weightedteachers(teachers=confidence, certainty=entropy)'

    Paper: Fang et al., Knowledge Distillation and Dataset Distillation of Large Language Models, 2025, arXiv
    2504.14772, which lists these weights without formulas: those of "entropy" (of teachers) and "variance", and the
    gate, are this project's reading. Teachers of other vocabularies are refused.
    """

    at_equality: Mapping[str, AtEquality] = {"teachers": "zero"}
    failed: Tensor
    answered: Tensor

    def __init__(
        self, *, target: str = "probabilities", teachers: str = "uniform", shares: Sequence[float] | None = None,
        certainty: str = "none", smoothing: float = 0.0, temperature: float = 1.0, validation: float = 0.1,
        failing: str = "skip", name: str = "teachers",
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        for key, value, options in (
            ("target", target, TARGETS), ("teachers", teachers, TEACHERS), ("certainty", certainty, CERTAINTIES),
            ("failing", failing, FAILURES),
        ):  # fmt: skip
            if value not in options:
                raise DistilError(f"weightedteachers({key}={value!r}) is unknown; {nearest(str(value), options)}")
        if not temperature > 0 or not 0 < validation <= 0.5:
            raise DistilError(
                f"weightedteachers: temperature={temperature} must be above 0, and validation={validation} above 0 "
                "and at most 0.5."
            )
        smoothed_labels(torch.ones(1), smoothing)
        if shares is not None and (teachers == "alternate" or not shares or min(shares) < 0 or not sum(shares) > 0):
            raise DistilError(
                f"weightedteachers: shares={list(shares)} must be numbers of at least 0, not all 0, and do not go "
                "with teachers='alternate', which asks one at a time."
            )
        self.target, self.kind, self.shares, self.sure, self.failing = target, teachers, shares, certainty, failing
        self.smoothing, self.temperature, self.validation = smoothing, temperature, validation
        self.labels = teachers in ("confidence", "gate")
        self.at_equality = {"teachers": "zero" if not smoothing else None}
        self.gate: nn.Module | None = None
        self._warned: set[str] = set()

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Refuse models that do not fit; make the gate, which is even until it has learned."""
        if isinstance(student, Mapping) or teacher is None:
            raise DistilError("weightedteachers teaches one student by one teacher or a mapping of names to teachers.")
        traces = teacher if isinstance(teacher, Mapping) else {"model": teacher}
        for key, trace in traces.items():
            ours, theirs = tuple(student.logits.shape), tuple(trace.logits.shape)
            if len(ours) != 2 or ours != theirs:
                raise DistilError(
                    f"weightedteachers: the student gives logits {ours} and the teacher '{key}' {theirs}; expected "
                    "[B, C] of the same classes in the same order from all."
                )
        if self.shares is not None and len(self.shares) != len(traces):
            raise DistilError(f"weightedteachers: {len(self.shares)} shares for {len(traces)} teachers.")
        for name in ("failed", "answered"):
            self.register_buffer(name, torch.zeros(len(traces), device=student.logits.device))
        if self.kind == "gate":
            self.gate = nn.Linear(len(traces) * student.logits.shape[1], len(traces))
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
            self.gate.requires_grad_(False)

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Teach the gate, on a share of each class, which teacher knows what."""
        if self.gate is None:
            return
        if is_streams(next(iter(data))):
            raise DistilError("weightedteachers(teachers=gate) reads one stream of labelled samples.")
        ids, labels = listed(data)
        held = held_out_ids(ids, labels, min(self.validation, MOST / len(ids)))
        parts = HeldOut(part for batch in data for part in inside(batch, held)).pools
        known = [(torch.stack(self._said(teacher, part)), part["labels"]) for part in parts]
        self.gate.requires_grad_(True)
        optimizer = torch.optim.LBFGS(self.gate.parameters(), max_iter=50, line_search_fn="strong_wolfe")
        gate = self.gate

        def closure() -> Tensor:
            optimizer.zero_grad()
            losses = [mixture_nll(said, gate(gate_state(said).to(gate.weight)), y) for said, y in known]
            decay = [parameter.square().mean() for parameter in gate.parameters()]
            loss = Term(torch.stack([*losses])).mean()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        self.gate.requires_grad_(False)
