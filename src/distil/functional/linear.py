"""Divergences straight from hidden states: logits are made for a block of rows at a time, and never all together.

With a large vocabulary the two logit matrices are what fills the memory. Here a block's logits are made, turned into
values and gradients by the kernels of :mod:`distil.functional.closed_form`, and dropped; what stays are gradients of
the size of the hidden states and of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distil.errors import DistilError
from distil.functional import _kernels as kernels
from distil.functional._checks import known, positive
from distil.functional.mixtures import check_share
from distil.functional.reduction import working

__all__ = ["Head", "linear_divergence"]

Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

KERNELS: Mapping[str, tuple[Callable[..., tuple[Tensor, Tensor]], str | None]] = {
    "kl": (kernels.kl, None),
    "reverse_kl": (kernels.reverse, None),
    "jsd": (kernels.jsd, "beta"),
    "skew_kl": (kernels.skew, "alpha"),
    "skew_reverse_kl": (kernels.skew_reverse, "alpha"),
    "total_variation": (kernels.variation, None),
}
"""By name: the kernel, and what its share of the mixture is called there."""

LOGITS = 1 << 24
"""Logits of one block and side: 64 MiB in float32."""


class Head(NamedTuple):
    """The last layer of a language model: ``softcap · tanh((h W^T + b) / softcap)``, without the cap where it is None.

    Attributes:
        weight: ``[V, H]``.
        bias: ``[V]``.
        softcap: above 0, as Gemma 2 caps its logits.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None

    def logits(self, hidden: Tensor, size: int) -> Tensor:
        """Return the logits of the first ``size`` entries of the vocabulary, in working precision."""
        bias = None if self.bias is None else self.bias[:size]
        (made,) = working(torch.nn.functional.linear(hidden, self.weight[:size], bias))
        return made if self.softcap is None else made.div_(self.softcap).tanh_().mul_(self.softcap)


def linear_divergence(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    student_head: Head,
    teacher_head: Head,
    *,
    divergence: str = "kl",
    share: float | None = None,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """Return a divergence of every row's next-token distributions, times its weight, from hidden states.

    Equal in value and gradient to the divergence of the logits ``head(hidden)``; the gradient reaches the student's
    hidden states and head, never the teacher. Where the vocabularies differ in size, the entries both have (the first
    min(V_s, V_t)) are compared, each side normalised over them: nothing is padded.

    Args:
        student_hidden: ``[..., H_s]``.
        teacher_hidden: ``[..., H_t]``, the same rows; the width may differ.
        student_head, teacher_head: the last layers.
        divergence: ``kl``, ``reverse_kl``, ``jsd``, ``skew_kl``, ``skew_reverse_kl`` or ``total_variation``.
        share: β of ``jsd`` (0.5 by default), α of the skewed ones (0.1).
        temperature: above 0; the factor T² is left out.
        weight: one per row, already divided by whatever the loss is averaged over; 1 by default. A row of weight 0 (an
            ignored token) is not computed.
        block: rows of which logits are held at a time; by default about 64 MiB of logits.

    Returns:
        Values times weights, ``[...]``. Summed, its gradient was made in the forward; any other use of the rows (an
        upstream gradient that is not the same for all) is computed anew, which costs the forward again.

    Raises:
        DistilError: rows or widths that do not fit, or an argument out of its range.

    >>> hidden, head = torch.eye(2), Head(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> linear_divergence(hidden, hidden.flip(0), head, head)
    tensor([0.4621, 0.4621])
    """
    _check(student_hidden, teacher_hidden, student_head, teacher_head)
    kernel = _kernel(divergence, share, temperature)
    rows = student_hidden.shape[:-1]
    weights = student_hidden.new_ones(rows, dtype=torch.float32) if weight is None else weight.detach().expand(rows)
    size = min(len(student_head.weight), len(teacher_head.weight))
    if block is not None and block < 1:
        raise DistilError(f"linear_divergence: block={block} must be a whole number of rows, at least 1.")
    step = max(1, LOGITS // size) if block is None else block
    bias = None if teacher_head.bias is None else teacher_head.bias.detach()
    frozen = Head(teacher_head.weight.detach(), bias, teacher_head.softcap)
    found: Tensor = _Linear.apply(
        student_hidden.reshape(-1, student_hidden.shape[-1]),
        student_head.weight,
        student_head.bias,
        teacher_hidden.detach().reshape(-1, teacher_hidden.shape[-1]),
        weights.reshape(-1),
        _Setting(student_head.softcap, frozen, kernel, size, step),
    )
    return found.view(rows)


class _Setting(NamedTuple):
    softcap: float | None
    teacher: Head
    kernel: Kernel
    size: int
    step: int


class _Linear(torch.autograd.Function):
    """Values and gradients block by block."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, known: Tensor, weights: Tensor, how: _Setting
    ) -> Tensor:
        ctx.how, ctx.wants = how, ctx.needs_input_grad[:3]
        values, ctx.made = _blocks(hidden, Head(weight, bias, how.softcap), known, weights, how, ctx.wants)
        ctx.save_for_backward(hidden, weight, bias, known, weights)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, known, weights = ctx.saved_tensors
        how, made, first = ctx.how, ctx.made, upstream[:1]
        if upstream.numel() and not bool((upstream == first).all()):
            first = torch.ones_like(first)
            _, made = _blocks(hidden, Head(weight, bias, how.softcap), known, weights * upstream, how, ctx.wants)
        scaled = (None if part is None else part * first.to(part.dtype) for part in made)
        return (*scaled, None, None, None)


def _blocks(
    hidden: Tensor, head: Head, known: Tensor, weights: Tensor, how: _Setting, wants: tuple[bool, ...]
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Return weighted values, and gradients of their sum for the hidden states, the head's weight and its bias."""
    values = weights.new_zeros(len(hidden))
    slopes = (
        torch.zeros_like(hidden) if wants[0] else None,
        # Sums over all rows are kept in working precision and rounded once.
        _sums(head.weight) if wants[1] else None,
        _sums(head.bias) if wants[2] and head.bias is not None else None,
    )
    used = weights.nonzero().squeeze(1)
    for rows in used.split(how.step):
        logits = head.logits(hidden[rows], how.size)
        value, slope = how.kernel(logits, how.teacher.logits(known[rows], how.size))
        scale = weights[rows].to(value.dtype)
        values[rows] = (value * scale).to(values.dtype)
        if not any(wants):
            continue
        slope.mul_(scale.unsqueeze(1))
        if head.softcap is not None:
            slope.mul_(1 - (logits / head.softcap).square_())
        _add(slopes, rows, slope, hidden[rows], head.weight[: how.size])
    to_hidden, to_weight, to_bias = slopes
    return values, (
        to_hidden,
        None if to_weight is None else to_weight.to(head.weight.dtype),
        None if to_bias is None or head.bias is None else to_bias.to(head.bias.dtype),
    )


def _sums(of: Tensor) -> Tensor:
    return torch.zeros_like(of, dtype=torch.promote_types(of.dtype, torch.float32))


def _add(
    slopes: tuple[Tensor | None, Tensor | None, Tensor | None],
    rows: Tensor,
    slope: Tensor,
    hidden: Tensor,
    weight: Tensor,
) -> None:
    """Carry a block's gradient from its logits to the hidden states and the head."""
    to_hidden, to_weight, to_bias = slopes
    rounded = slope.to(hidden.dtype)
    if to_hidden is not None:
        to_hidden[rows] = rounded @ weight
    if to_weight is not None:
        to_weight[: len(weight)] += (rounded.T @ hidden).to(to_weight.dtype)
    if to_bias is not None:
        to_bias[: len(weight)] += slope.sum(0)


def _kernel(divergence: str, share: float | None, temperature: float) -> Kernel:
    known("linear_divergence", "divergence", divergence, tuple(KERNELS))
    positive("linear_divergence", "temperature", temperature)
    kernel, name = KERNELS[divergence]
    if name is None:
        if share is not None:
            raise DistilError(f"linear_divergence: {divergence} has no mixture, so share={share} means nothing to it.")
        return partial(kernel, temperature=temperature)
    value = {"beta": 0.5, "alpha": 0.1}[name] if share is None else share
    check_share("linear_divergence", "share", value, closed=divergence == "skew_kl")
    return partial(kernel, temperature=temperature, **{name: value})


def _check(student: Tensor, teacher: Tensor, student_head: Head, teacher_head: Head) -> None:
    if student.shape[:-1] != teacher.shape[:-1]:
        raise DistilError(
            f"linear_divergence: the student's hidden states are {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; all but the last axis must be equal: one row for each token of both."
        )
    for role, hidden, head in (("student", student, student_head), ("teacher", teacher, teacher_head)):
        if head.weight.ndim != 2 or head.weight.shape[1] != hidden.shape[-1]:
            raise DistilError(
                f"linear_divergence: the {role}'s head is {tuple(head.weight.shape)} and its hidden states "
                f"{tuple(hidden.shape)}; the head must be (V, {hidden.shape[-1]})."
            )
        if head.bias is not None and head.bias.shape != head.weight.shape[:1]:
            raise DistilError(
                f"linear_divergence: the {role}'s bias is {tuple(head.bias.shape)}; one for each of the "
                f"{len(head.weight)} entries is expected."
            )
        if head.softcap is not None:
            positive("linear_divergence", f"the {role}'s softcap", head.softcap)
