"""The survey's weights as a method: several teachers in one lesson, and each sample as far as they are sure of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from distil.data.held import held_out_ids, inside, listed
from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, Traces
from distil.engine.trace import ModelHandle
from distil.errors import DistilError, nearest
from distil.functional.reduction import Term
from distil.functional.weighting import (
    CERTAINTIES,
    TARGETS,
    TEACHER_WEIGHTS,
    answered,
    certainty,
    mean_one,
    several_teachers,
    smoothed_labels,
    stacked_answers,
    teacher_weights,
)
from distil.methods.gate import TeacherGate
from distil.methods.supervised import Supervised

__all__ = ["WeightedTeachers", "published"]

TEACHERS = (*TEACHER_WEIGHTS, "gate", "alternate")
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
    share its part; a sample that nobody answered costs 0. It is warned of once for each teacher; one that answered
    nothing in a whole epoch stops the run, since that is no failure but an absence. (Passes made ahead, with
    ``teacher_forward`` "stream" or "offload", raise where they are made.)

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
        odd = shares is not None and (not shares or min(shares) < 0 or not sum(shares) > 0)
        if odd or (shares is not None and teachers in ("alternate", "gate")):
            raise DistilError(
                f"weightedteachers: shares={list(shares or ())} must be numbers of at least 0, not all 0, and do not "
                "go with teachers='alternate' or 'gate'."
            )
        self.target, self.kind, self.shares, self.sure, self.failing = target, teachers, shares, certainty, failing
        self.smoothing, self.temperature, self.validation = smoothing, temperature, validation
        self.labels = teachers in ("confidence", "gate")
        self.at_equality = {"teachers": "zero" if not smoothing else None}
        self.gate: TeacherGate | None = None
        self._warned: set[str] = set()
        self._tally: dict[str, list[Tensor]] = {}  # of this epoch: which samples each teacher answered

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
            raise DistilError(f"weightedteachers: {len(self.shares)} shares for {len(traces)} teachers; give as many.")
        if self.kind == "gate":
            self.gate = TeacherGate(len(traces), student.logits.shape[1]).to(student.logits.device)

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Teach the gate, on a share of each class, which teacher knows what."""
        if self.gate is None:
            return
        ids, labels = listed(data)
        held = held_out_ids(ids, labels, min(self.validation, MOST / len(ids)))
        parts = []
        for part in (part for batch in data for part in inside(batch, held)):
            said = self._said(teacher, part, 0)
            like = next((each for each in said.values() if each is not None), None)
            if like is not None:
                parts.append((stacked_answers(list(said.values()), like), part["labels"]))
        self.gate.learn(parts)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``teachers``, one value per sample."""
        # A batch of its own: passes that the engine remembers it makes ahead of this, where a failure would stop it.
        said = self._said(teacher, dict(batch), ctx.step)
        s = student(batch).logits
        t = stacked_answers(list(said.values()), s)
        self._note(said, answered(t), ctx)
        kind = self.kind if self.kind in TEACHER_WEIGHTS else "uniform"
        prior = self.shares if self.gate is None else self.gate(t)
        w = teacher_weights(t, kind=kind, labels=batch["labels"] if kind == "confidence" else None, prior=prior)
        v = None if self.sure == "none" else mean_one(certainty(t, kind=self.sure, weights=w))
        how: dict[str, Any] = {"target": self.target, "temperature": self.temperature, "smoothing": self.smoothing}
        values = several_teachers(s, t, w, **how, weight=v, reduction="none")
        return {"teachers": Term(values, coupled=v is not None)}

    def after_epoch(self, metrics: Mapping[str, float], ctx: Context) -> None:
        """Say which teachers failed; stop where one answered nothing in the whole epoch."""
        for name, looks in self._tally.items():
            got, asked = sum(int(each.sum()) for each in looks), sum(len(each) for each in looks)
            if not got:
                raise DistilError(
                    f"weightedteachers: the teacher '{name}' answered none of {asked} samples of an epoch (its call "
                    "failed, or its scores were not finite); repair it or leave it out."
                )
            if got < asked:
                self._warn(name, f"left {asked - got} of {asked} samples of an epoch without finite scores")
        self._tally = {}

    def _said(self, teacher: Handles, batch: Batch, turn: int) -> dict[str, Tensor | None]:
        """Ask all teachers, or under "alternate" the one whose turn it is (the next where its call fails)."""
        handles = teacher if isinstance(teacher, Mapping) else {"model": teacher}
        said: dict[str, Tensor | None] = {}
        order = [*handles]
        for name in order[turn % len(order) :] + order[: turn % len(order)] if self.kind == "alternate" else order:
            said[name] = self._asked(name, handles[name], batch)
            if self.kind == "alternate" and said[name] is not None:
                break
        return said

    def _asked(self, name: str, handle: ModelHandle, batch: Batch) -> Tensor | None:
        """Return a teacher's logits; None where its call fails, which is warned of once."""
        try:
            return handle(batch).logits
        except DistilError:
            raise  # a mistake in how things were set up
        except Exception as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            if self.failing == "stop":
                raise DistilError(f"weightedteachers: the teacher '{name}' failed: {said}") from error
            self._warn(name, f"failed on a batch ({said}); the others go on without it")
            return None

    def _note(self, said: Mapping[str, Any], got: Tensor, ctx: Context) -> None:
        """Remember who answered which samples, on the device: counting waits for the end of the epoch."""
        if ctx.training:
            for name, each in zip(said, got):
                self._tally.setdefault(name, []).append(each)
        if self.failing == "stop" and not bool(got.all()):
            raise DistilError(
                "weightedteachers(failing=stop): a teacher's scores are not finite; failing=skip lets the others go on."
            )

    def _warn(self, name: str, text: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"weightedteachers: the teacher '{name}' {text}.", stacklevel=2)


def published(
    *, target: str = "probabilities", teachers: str = "uniform", certainty: str = "none", smoothing: float = 0.0,
    temperature: float = 1.0, label_weight: float = 1.0, kd_weight: float = 1.0,
) -> Sum:  # fmt: skip
    """Return labels and weighted teachers, each of weight 1; the survey names no weights.

    >>> sorted(published(teachers="entropy").methods), sorted(published(label_weight=0).methods)
    (['supervised', 'teachers'], ['teachers'])
    """
    made = WeightedTeachers(
        target=target, teachers=teachers, certainty=certainty, smoothing=smoothing, temperature=temperature
    )
    return label_weight * Supervised() + kd_weight * made
