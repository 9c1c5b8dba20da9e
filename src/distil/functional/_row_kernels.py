"""Kernels that look at more of a row than its divergence: the label's part and the others', and the teacher's order.

They are called as those of :mod:`distil.functional._kernels` are, with the labels ``[n]`` as a third tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distil.functional._kernels import _dot, _softmax
from distil.functional.ranking import _alpha as rank_weights
from distil.functional.ranking import teacher_ranking

__all__ = ["decoupled", "falling", "listwise"]

DEEPEST = 600.0
"""How far below a row's largest a logit may be for float64 to add up exponentials without underflow."""


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Both parts of decoupled distillation: values ``[n, 2]`` (target, others) and gradients ``[n, 2, C]``, without T².

    With r and ρ the distributions of student and teacher over the other classes: ∂target/∂u = (p_y − q_y) · r there
    and q_y − p_y at the label, ∂others/∂u = r − ρ and 0 at the label.
    """
    at = labels.unsqueeze(-1)
    u, v = student / temperature, teacher / temperature
    u_y, v_y = u.gather(-1, at), v.gather(-1, at)
    gap = (v - u).scatter_(-1, at, 0.0)
    r, log_ru = _softmax(u.scatter_(-1, at, -torch.inf))
    rho, log_rv = _softmax(v.scatter_(-1, at, -torch.inf))
    log_zu, log_zv = torch.logaddexp(u_y, log_ru), torch.logaddexp(v_y, log_rv)
    others = _dot(rho, gap) - log_rv + log_ru
    log_q, log_p = (torch.cat(pair, -1) for pair in ((u_y - log_zu, log_ru - log_zu), (v_y - log_zv, log_rv - log_zv)))
    p, q = log_p.exp(), log_q.exp()
    target = _dot(p, log_p - log_q)
    slopes = torch.stack([r.scatter(-1, at, -1.0).mul_((p - q)[:, :1]), r.sub_(rho)], 1)
    return torch.cat([target, others], -1), slopes.div_(temperature)


def falling(teacher: Tensor, labels: Tensor | None) -> Tensor:
    """Return `teacher_ranking`, on a CPU by sorting integers that hold a float32's order above its place in the row."""
    if teacher.dtype != torch.float32 or teacher.device.type != "cpu":
        return teacher_ranking(teacher, labels)
    keys = teacher + 0.0  # −0 becomes 0, its equal
    if labels is not None:
        at = labels.clamp(min=0).unsqueeze(-1)
        first = torch.where((labels >= 0).unsqueeze(-1), torch.inf, keys.gather(-1, at))
        keys.scatter_(-1, at, first)
    bits = keys.view(torch.int32)
    rising = torch.where(bits < 0, bits & 0x7FFFFFFF, ~bits).long()
    rising.bitwise_left_shift_(32).bitwise_or_(torch.arange(teacher.shape[-1]))
    rising.numpy().sort(axis=-1)  # in place; vectorised, where torch's stable sort is not
    return rising.bitwise_and_(0xFFFFFFFF)


def listwise(
    student: Tensor, teacher: Tensor, labels: Tensor | None = None, *, temperature: float, weights: str
) -> tuple[Tensor, Tensor]:
    """Plackett-Luce: Σ_k α_k (log Σ_{l ≥ k} e^{s_l} − s_k) in the teacher's order, the label first."""
    order = falling(teacher, labels)
    s = student.gather(-1, order)
    alpha = rank_weights(teacher / temperature, order, weights).expand_as(s)
    top = s.amax(-1, keepdim=True)
    if s.device.type == "cpu" and bool((top - s.amin(-1, keepdim=True) < DEEPEST).all()):
        raised = (s - top).double().exp_()
        below = raised.flip(-1).cumsum_(-1).flip(-1)
        reached = (alpha / below).cumsum_(-1)  # what places up to this one pull down, per unit of e^s
        values = torch.linalg.vecdot(alpha, below.log_().to(s.dtype).add_(top).sub_(s))
        slope = raised.mul_(reached).to(s.dtype).sub_(alpha)
    else:
        rest = s.flip(-1).logcumsumexp(-1).flip(-1)
        values = torch.linalg.vecdot(alpha, rest - s)
        reached = (alpha.log() - rest).logcumsumexp(-1)
        slope = (s + reached).exp_().sub_(alpha)
    return values, torch.empty_like(slope).scatter_(-1, order, slope)
