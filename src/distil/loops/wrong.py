"""A teacher that is surely wrong on some samples, to see what a method does about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.data import ids_of, labels_of, mix_seed, split
from distil.errors import DistilError
from distil.loops.training import Teacher
from distil.tasks.base import BatchReader, Task

__all__ = ["WrongTeacher", "wrong_on"]


@final
class WrongTeacher(BatchReader):
    """Another model's logits, whose classes are turned round on chosen samples until the largest is a wrong one.

    So it is as sure there as it would have been, of a class that is not the label. Everywhere else it is the model.

    Args:
        model: the teacher.
        task: how the teacher is called.
        ids: [K] of the samples it is wrong on.
        answers: [K], the class that it gives instead.

    >>> from distil.tasks import get_task
    >>> net = WrongTeacher(nn.Identity(), get_task("classification"), torch.tensor([7]), torch.tensor([1]))
    >>> net({"inputs": torch.tensor([[0.0, 1.0, 9.0], [0.0, 1.0, 9.0]]), "id": torch.tensor([7, 8])})
    tensor([[1., 9., 0.],
            [0., 1., 9.]])
    """

    table: Tensor

    def __init__(self, model: nn.Module, task: Task, ids: Tensor, answers: Tensor) -> None:
        super().__init__()
        self.model, self._task = model, task
        table = torch.full((int(ids.max()) + 1 if len(ids) else 0,), -1)
        table[ids] = answers
        self.register_buffer("table", table)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the logits of a batch with ids, [B, C]."""
        if not isinstance(batch, Mapping) or "id" not in batch:
            raise DistilError("A WrongTeacher knows samples by 'id', and was called without; give batches with ids.")
        logits = self._task.logits(self._task.call(self.model, batch, role="teacher"))
        known = batch["id"] < len(self.table)
        answers = torch.where(known, self.table[batch["id"].clamp(max=len(self.table) - 1)], -1)
        turn = torch.where(answers >= 0, answers - logits.argmax(1), 0).unsqueeze(1)
        classes = logits.shape[1]
        return logits.gather(1, (torch.arange(classes, device=logits.device) - turn) % classes)

    def is_wrong(self, ids: Tensor) -> Tensor:
        """Return which of these samples it is made to be wrong on, [B] of bool."""
        known = ids < len(self.table)
        return known & (self.table[ids.clamp(max=len(self.table) - 1)] >= 0)


def wrong_on(teacher: Teacher, task: Task, data: Any, share: float, *, classes: int, seed: int = 0) -> Teacher:
    """Return the teacher made wrong on a share of the samples of ``data``, drawn by ``seed`` with the answers.

    Its metrics are those of the teacher, whose answers on other data are untouched.
    """
    part = split(data, [share], seed)[0]
    labels, ids = labels_of(part), ids_of(part)
    rng = torch.Generator().manual_seed(mix_seed("wrong answers", seed))
    answers = (labels + torch.randint(1, classes, labels.shape, generator=rng)) % classes
    model = WrongTeacher(teacher.module, task, ids, answers).eval()
    return replace(
        teacher, module=model, fingerprint=f"{teacher.fingerprint}-wrong-{share:g}-{seed}",
        name=f"{teacher.name}, wrong on {share:.0%} of the training samples",
    )  # fmt: skip
