"""A gate over several teachers, learned once from labelled samples: who is to be trusted where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from distil.engine.own_optimizer import OwnOptimizer
from distil.errors import DistilError
from distil.functional.weighting import gate_state, mixture_nll

__all__ = ["TeacherGate"]


@final
class TeacherGate(nn.Module):
    """A linear map from all teachers' probabilities to a share for each teacher; even until it has learned.

    Args:
        teachers, classes: K and C.

    >>> t = torch.zeros(2, 6, 3)
    >>> t[0, :3, 0] = t[1, 3:, 1] = 9.0
    >>> gate = TeacherGate(2, 3)
    >>> gate.learn([(t, torch.tensor([0, 0, 0, 1, 1, 1]))])
    >>> gate(t).argmax(0).tolist()
    [0, 0, 0, 1, 1, 1]
    """

    def __init__(self, teachers: int, classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(teachers * classes, teachers)
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)
        self.requires_grad_(False)

    def forward(self, teacher_logits: Tensor) -> Tensor:
        """Return a share of each teacher for each sample, [K, N], which sum to 1, of logits [K, N, C]."""
        state = gate_state(teacher_logits).to(self.scores.weight)
        shares: Tensor = self.scores(state).softmax(1)
        return shares.mT

    def learn(
        self, parts: Sequence[tuple[Tensor, Tensor]], *, steps: int = 200, lr: float = 0.1, decay: float = 1e-3
    ) -> None:
        """Make the mixture of the teachers likely: full-batch Adam on :func:`distil.functional.mixture_nll`.

        Args:
            parts: teachers' logits [K, N, C] and labels [N].
            steps, lr, decay: of Adam.
        """
        if not parts:
            raise DistilError("The gate has no labelled samples to learn from; give a larger share for validation.")
        said = torch.cat([logits for logits, _ in parts], 1)
        labels = torch.cat([labels for _, labels in parts])
        state = gate_state(said).to(self.scores.weight)
        own = OwnOptimizer(self.scores, torch.optim.Adam, lr=lr, weight_decay=decay)
        for _ in range(steps):
            with torch.enable_grad(), own.active():
                own.step(mixture_nll(said, self.scores(state), labels))
