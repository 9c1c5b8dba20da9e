"""Run as a program under TRITON_INTERPRET=1: the Triton kernels against the plain losses, on a CPU."""

from __future__ import annotations

from functools import partial

import torch

import distil.functional as D
from distil.functional import _triton, closed_form

CALLS = {"kl": {}, "reverse_kl": {}, "jsd": {"beta": 0.3}}
SHAPES = ((1, 1), (3, 5), (2, 33))


def gap(name: str, shape: tuple[int, int], *, scale: float, absent: bool) -> float:
    """The largest relative difference in value and gradient from the plain form in float64."""
    generator = torch.Generator().manual_seed(sum(shape))
    student, teacher = (scale * torch.randn(*shape, generator=generator) for _ in range(2))
    if absent and shape[1] > 2:
        student[:, 1], teacher[:, 1] = -torch.inf, -torch.inf
    one, two = student.clone().requires_grad_(), student.double().requires_grad_()
    weight = torch.arange(1.0, shape[0] + 1)
    options = {"temperature": 2.5, "weight": weight, "reduction": "mean", **CALLS[name]}
    with D.backend("triton"):
        value = partial(getattr(closed_form, name), **options)(one, teacher)
    expected = getattr(D, name)(two, teacher.double(), **options)
    value.backward()
    expected.backward()
    assert one.grad is not None
    assert two.grad is not None
    off = ((value - expected).abs() / (1 + expected.abs())).item()
    return max(off, float((one.grad - two.grad).abs().max() / (1 + two.grad.abs().max())))


def main() -> None:
    """Compare every kernel, with rows of several blocks."""
    _triton.WIDEST = 8
    runs: list[str] = []
    real = _triton.run
    _triton.run = lambda kind, *args, **options: runs.append(kind) or real(kind, *args, **options)  # type: ignore[assignment,func-returns-value]
    worst = max(
        gap(name, shape, scale=scale, absent=absent)
        for name in CALLS
        for shape in SHAPES
        for scale in (0.5, 20.0)
        for absent in (False, True)
    )
    print(sorted(set(runs)), len(runs), worst)


if __name__ == "__main__":
    main()
