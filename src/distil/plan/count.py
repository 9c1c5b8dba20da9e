"""What the passes of student and teacher take in arithmetic, counted on a real batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distil.tasks import Task
from distil.tasks.base import evaluating

__all__ = ["Work", "flops", "work_of"]


@dataclass(frozen=True)
class Work:
    """Parameters, and floating-point operations on one batch (matrix products, convolutions, attention).

    Attributes:
        student, teacher: parameters.
        forward, backward: operations of the student's two passes.
        teacher_forward: of the teacher's one; 0 where none could be counted (a net of other operations).
        samples: of the batch.
    """

    student: int
    teacher: int
    forward: int
    backward: int
    teacher_forward: int
    samples: int

    @property
    def by_parameters(self) -> float:
        """The most a cache can gain by the rule of thumb 1 + P_t / (3 P_s).

        >>> Work(student=1, teacher=3, forward=2, backward=4, teacher_forward=6, samples=1).by_parameters
        2.0
        """
        return 1 + self.teacher / (3 * max(1, self.student))

    @property
    def by_flops(self) -> float | None:
        """The same by counted operations, 1 + F_t / (F_s forward and backward); ``None`` where nothing was counted."""
        mine = self.forward + self.backward
        return 1 + self.teacher_forward / mine if mine and self.teacher_forward else None


def flops(call: Callable[[], Any]) -> int:
    """Return the floating-point operations of ``call``, a multiply-add counted as two.

    >>> layer = nn.Linear(10, 5)
    >>> flops(lambda: layer(torch.ones(2, 10)))
    200
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def work_of(student: nn.Module, teacher: nn.Module, batch: Mapping[str, Any], task: Task) -> Work:
    """Count both models on a batch; the student is used up by it (its BatchNorm statistics move)."""

    def both_ways() -> None:
        task.logits(task.call(student, batch, "student")).float().sum().backward()

    student.train()
    with evaluating(teacher), torch.no_grad():
        theirs = flops(lambda: task.call(teacher, batch, "teacher"))
    with torch.no_grad():
        forward = flops(lambda: task.call(student, batch, "student"))
    whole = flops(both_ways)
    return Work(
        student=sum(p.numel() for p in student.parameters()),
        teacher=sum(p.numel() for p in teacher.parameters()),
        forward=forward,
        backward=whole - forward,
        teacher_forward=theirs,
        samples=len(batch["labels"]),
    )
