"""The authors' settings for each graph and kind of teacher; dropouts named for whom they serve."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TUNED", "Tuned"]


@dataclass(frozen=True)
class Tuned:
    """Depth and width of both models, their dropouts, and the weights of the loss."""

    layers: int
    hidden: int
    student_dropout: float
    teacher_dropout: float
    tau: float
    lam: float
    student_lr: float = 0.01


TUNED = {
    ("cora", "gcn"): Tuned(3, 512, 0.6, 0.5, 1.5, 0.4),
    ("cora", "gat"): Tuned(3, 1024, 0.3, 0.6, 1.2, 0.5),
    ("cora", "sage"): Tuned(3, 512, 0.4, 0.3, 1.3, 0.5),
    ("citeseer", "gcn"): Tuned(2, 256, 0.5, 0.5, 1.5, 0.1),
    ("citeseer", "gat"): Tuned(2, 2048, 0.4, 0.5, 1.0, 0.1),
    ("citeseer", "sage"): Tuned(2, 1024, 0.5, 0.5, 1.2, 0.1),
    ("amazon-photo", "gcn"): Tuned(3, 2048, 0.5, 0.6, 1.3, 0.1, student_lr=0.001),
    ("amazon-photo", "gat"): Tuned(3, 256, 0.3, 0.3, 1.4, 0.3, student_lr=0.001),
    ("amazon-photo", "sage"): Tuned(3, 1024, 0.4, 0.4, 1.5, 0.2, student_lr=0.001),
}
