"""Forward and reverse KL and the Jensen-Shannon divergence as one Triton kernel: a program for each row.

Each program walks its row three times in blocks: for both log-sum-exps at once (online, rescaled as the maximum grows),
for the value, and for the gradient; what it holds is a block, and what it writes is the value and the gradient.

No GPU was at hand: on CUDA this ran nowhere, and its speed was not measured. It is tested in Triton's interpreter
(``TRITON_INTERPRET=1``), where a CPU's tensors serve.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from distil.errors import DistilError

__all__ = ["KINDS", "run"]

tl: Any = None  # triton.language, once something asks for it

KINDS = {"kl": 0, "reverse": 1, "jsd": 2}
"""Kernels of :mod:`distil.functional._kernels` that are here too, by name."""

WIDEST = 4096
"""Classes of one block."""


def run(kind: str, student: Tensor, teacher: Tensor, *, temperature: float, beta: float = 0.5) -> tuple[Tensor, Tensor]:
    """Return values ``[n]`` and gradients ``[n, C]`` in float32, as the kernel of that name does.

    Raises:
        DistilError: triton is not installed, or the tensors are not on CUDA.
    """
    kernel = _kernel(student.device.type)
    rows, width = student.shape
    values = student.new_empty(rows)
    gradient = torch.empty_like(student, memory_format=torch.contiguous_format)
    block = min(WIDEST, 1 << (width - 1).bit_length())
    if rows:
        kernel[(rows,)](
            student.contiguous(), teacher.contiguous(), values, gradient, width, 1 / temperature, beta, math.log(beta),
            math.log1p(-beta), KIND=KINDS[kind], BLOCK=block,
        )  # fmt: skip
    return values, gradient


@lru_cache(maxsize=2)
def _kernel(device: str) -> Any:
    """Compile (or wrap, for the interpreter) the kernel."""
    global tl
    try:
        import triton
        import triton.language as language
    except ModuleNotFoundError:
        raise DistilError(
            "backend('triton') needs triton, which is not installed; pip install triton, or use backend('eager')."
        ) from None
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise DistilError(
            f"backend('triton') runs on CUDA and the tensors are on {device}; move them, or use backend('eager')."
        )
    tl = language
    return triton.jit(_row)


def _row(  # type: ignore[no-untyped-def]
    student,
    teacher,
    values,
    gradient,
    width,
    cold,
    beta,
    log_beta,
    log_rest,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row. ``cold`` is 1 / T; a = ∂value/∂q below, and the gradient is q (a − Σ q a) / T."""
    none = float("-inf")
    row = tl.program_id(0).to(tl.int64) * width
    lanes = tl.arange(0, BLOCK)

    top_u = tl.full((1,), none, tl.float32)
    top_v = tl.full((1,), none, tl.float32)
    sum_u = tl.zeros((1,), tl.float32)
    sum_v = tl.zeros((1,), tl.float32)
    for start in range(0, width, BLOCK):
        here = start + lanes
        u = tl.load(student + row + here, mask=here < width, other=none) * cold
        v = tl.load(teacher + row + here, mask=here < width, other=none) * cold
        more_u = tl.maximum(top_u, tl.max(u, 0))
        more_v = tl.maximum(top_v, tl.max(v, 0))
        # A row that has shown nothing but −inf so far: its sum stays 0, and the difference would not be a number.
        seen_u = tl.where(more_u == none, 0.0, more_u)
        seen_v = tl.where(more_v == none, 0.0, more_v)
        sum_u = sum_u * tl.exp(top_u - seen_u) + tl.sum(tl.exp(u - seen_u), 0)
        sum_v = sum_v * tl.exp(top_v - seen_v) + tl.sum(tl.exp(v - seen_v), 0)
        top_u = more_u
        top_v = more_v
    log_u = tl.log(sum_u)  # kept apart from the maximum, which is taken off first: that rounds less
    log_v = tl.log(sum_v)

    value = tl.zeros((1,), tl.float32)
    mean = tl.zeros((1,), tl.float32)  # Σ q a
    for start in range(0, width, BLOCK):
        here = start + lanes
        log_q = tl.load(student + row + here, mask=here < width, other=none) * cold - top_u - log_u
        log_p = tl.load(teacher + row + here, mask=here < width, other=none) * cold - top_v - log_v
        q = tl.exp(log_q)
        p = tl.exp(log_p)
        if KIND == 0:
            value += tl.sum(tl.where(p > 0, p * (log_p - log_q), 0.0), 0)
        elif KIND == 1:
            value += tl.sum(tl.where(q > 0, q * (log_q - log_p), 0.0), 0)
        else:
            ours, theirs = log_q + log_rest, log_p + log_beta
            log_m = tl.maximum(ours, theirs) + tl.log(1 + tl.exp(-tl.abs(ours - theirs)))
            above = tl.sum(tl.where(q > 0, q * (log_q - log_m), 0.0), 0)
            mean += (1 - beta) * above
            value += beta * tl.sum(tl.where(p > 0, p * (log_p - log_m), 0.0), 0) + (1 - beta) * above
    if KIND == 1:
        mean = value
    tl.store(values + tl.program_id(0) + tl.arange(0, 1), value)

    for start in range(0, width, BLOCK):
        here = start + lanes
        log_q = tl.load(student + row + here, mask=here < width, other=none) * cold - top_u - log_u
        log_p = tl.load(teacher + row + here, mask=here < width, other=none) * cold - top_v - log_v
        q = tl.exp(log_q)
        p = tl.exp(log_p)
        if KIND == 0:
            slope = q - p
        elif KIND == 1:
            slope = tl.where(q > 0, q * (log_q - log_p - mean), 0.0)
        else:
            ours, theirs = log_q + log_rest, log_p + log_beta
            log_m = tl.maximum(ours, theirs) + tl.log(1 + tl.exp(-tl.abs(ours - theirs)))
            slope = tl.where(q > 0, q * ((1 - beta) * (log_q - log_m) - mean), 0.0)
        tl.store(gradient + row + here, slope * cold, mask=here < width)
