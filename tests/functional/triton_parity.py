"""Run as a program under TRITON_INTERPRET=1: the Triton kernels against the plain losses, on a CPU.

Prints which kernels ran how often, and the largest relative difference from float64, theirs and the plain form's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import distil.functional as D
from distil.functional import _triton, closed_form

CALLS: dict[str, dict[str, Any]] = {"kl": {}, "reverse_kl": {}, "jsd": {"beta": 0.3}}
SHAPES = ((1, 1), (3, 5), (2, 33))


def both(loss: Callable[..., Tensor], student: Tensor, teacher: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Value and gradient, in float64."""
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher, temperature=2.5, weight=torch.arange(1.0, len(student) + 1), **options)
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach().double(), slope.double()


def gaps(name: str, shape: tuple[int, int], *, scale: float, absent: bool) -> list[float]:
    """The largest relative difference in value or gradient from float64, of the kernel and of the plain form."""
    generator = torch.Generator().manual_seed(sum(shape))
    student, teacher = (scale * torch.randn(*shape, generator=generator) for _ in range(2))
    if absent and shape[1] > 2:
        student[:, 1], teacher[:, 1] = -torch.inf, -torch.inf
    plain, written = getattr(D, name), getattr(closed_form, name)
    exact = both(plain, student.double(), teacher.double(), **CALLS[name])
    with D.backend("triton"):
        found = [both(written, student, teacher, **CALLS[name])]
    found.append(both(plain, student, teacher, **CALLS[name]))
    return [max(float((x - e).abs().max() / (1 + e.abs().max())) for x, e in zip(one, exact)) for one in found]


def main() -> None:
    """Compare every kernel, with rows of several blocks."""
    _triton.WIDEST = 8
    runs: list[str] = []
    real = _triton.run

    def noted(kind: str, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        runs.append(kind)
        return real(kind, *args, **options)

    _triton.run = noted
    worst = [
        gaps(name, shape, scale=scale, absent=absent)
        for name in CALLS
        for shape in SHAPES
        for scale in (0.5, 20.0)
        for absent in (False, True)
    ]
    print(",".join(sorted(set(runs))), len(runs), *(max(column) for column in zip(*worst)))


if __name__ == "__main__":
    main()
