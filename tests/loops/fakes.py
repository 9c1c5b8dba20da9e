"""Outcomes and arms that cost nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distil.loops.lab import Arm, Outcome, Role

BUDGET = {"updates": 10.0, "batch_size": 4.0, "labels": 20.0, "trials": 1.0}


def outcome(accuracy: float = 50.0, *, val: tuple[float, ...] = (), **budget: float) -> Outcome:
    """An outcome with this test accuracy, these validation accuracies epoch by epoch, and this budget."""
    history: list[dict[str, Any]] = [
        {"epoch": k + 1, "step": k + 1, "loss": 1.0, "terms": {}, "val": {"accuracy": v}} for k, v in enumerate(val)
    ]
    return Outcome(
        metrics={"last": {"accuracy": accuracy}, "best": {"accuracy": accuracy}},
        history=history,
        cost={"seconds": 1.0, "teacher_seconds": 0.25, "updates": 10.0},
        budget={**BUDGET, **budget},
        model={"parameters": 5, "bytes": 20, "latency": {"p50_ms": 1.0}},
    )


def arm(role: Role, give: Callable[[int], Outcome], expression: str = "") -> Arm:
    return Arm(role, give, label=role, expression=expression)
