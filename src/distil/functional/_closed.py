"""The machine under the closed forms: one autograd function that runs a kernel over blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional import _kernels as kernels
from distil.functional.backends import current
from distil.functional.reduction import working

__all__ = ["Closed", "Kernel"]

BLOCK = 1 << 17
"""Elements of one block of rows: a few blocks of float32 fit into a core's cache."""

Kernel = Callable[..., tuple[Tensor, Tensor]]
"""(student [n, C], teacher [n, C][, labels [n]]) → (values [n], gradient [n, C]), or [n, P] and [n, P, C]."""


class Closed(torch.autograd.Function):
    """Values per row by a kernel, block by block, with the gradient beside them."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, labels: Tensor | None, kernel: Kernel) -> Tensor:
        """Return what the kernel says of every row of ``student`` [N, C]: ``[N]``, or ``[N, P]`` for P parts."""
        values, gradient = _blocks(student, teacher, labels, kernel, wants=ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None, None]:
        """Scale the stored gradient of every row, and sum over parts; refuse to be derived again."""
        (gradient,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the stored gradient would pass for a constant
            raise DistilError(
                "a loss whose gradient is written down (distil.functional.closed_form) has no second derivative, which "
                "create_graph=True asks for: make the forward pass under `with distil.functional.backend('plain'):`, "
                "or call its plain twin in distil.functional."
            )
        if gradient is None:
            return None, None, None, None
        upstream = upstream.to(gradient.dtype)
        scaled = (
            gradient * upstream.unsqueeze(1) if upstream.ndim == 1 else torch.einsum("npc,np->nc", gradient, upstream)
        )
        return scaled, None, None, None


def _blocks(
    student: Tensor, teacher: Tensor, labels: Tensor | None, kernel: Kernel, *, wants: bool
) -> tuple[Tensor, Tensor | None]:
    """Run a kernel over blocks of rows; all at once where they are few, and on anything but a CPU."""
    rows, width = student.shape
    run = runner(kernel, student)
    step = max(1, BLOCK // max(1, width)) if student.device.type == "cpu" else max(1, rows)

    def on(block: slice) -> tuple[Tensor, Tensor]:
        own = () if labels is None else (labels[block],)
        return run(*working(student[block], teacher[block]), *own)

    if rows <= step:
        values, slope = on(slice(None))
        return values, slope.to(student.dtype) if wants else None
    values, gradient = student.new_empty(0), None
    for start in range(0, rows, step):
        block = slice(start, start + step)
        value, slope = on(block)
        if not start:
            values = value.new_empty(rows, *value.shape[1:])
            gradient = student.new_empty(rows, *slope.shape[1:]) if wants else None
        values[block] = value
        if gradient is not None:
            gradient[block] = slope
    return values, gradient


def runner(kernel: Kernel, student: Tensor) -> Kernel:
    """Return what runs a kernel under the chosen backend; see :class:`distil.functional.backend`."""
    chosen = current()
    if chosen == "compile":
        return compiled(kernel)
    if chosen == "triton" and isinstance(kernel, partial) and student.dtype != torch.float64:
        from distil.functional import _triton

        if kernel.func.__name__ in _triton.KINDS and kernel.func.__module__ == kernels.__name__:
            return partial(_triton.run, kernel.func.__name__, **kernel.keywords)
    return kernel


def compiled(kernel: Kernel) -> Kernel:
    """Return a kernel through `torch.compile`, each compiled once."""
    base, options = (kernel.func, kernel.keywords) if isinstance(kernel, partial) else (kernel, {})
    if base not in COMPILED:
        COMPILED[base] = torch.compile(base)
    return partial(COMPILED[base], **options)


COMPILED: dict[Kernel, Kernel] = {}
