"""Values and gradients of divergences on a block of rows, written down: what `closed_form` runs.

A kernel takes (student [n, C], teacher [n, C]) in working precision and returns (values [n], gradient [n, C]). With
u = student / T, q = softmax(u) and a = ∂value/∂q, ∂value/∂u = q · (a − Σ q a). Sums over probabilities count 0 where a
probability is 0, whatever it meets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _softmax(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax and log-sum-exp of each row with one exponential per element."""
    q = u.softmax(-1)
    return q, u.amax(-1, keepdim=True) - q.amax(-1, keepdim=True).log_()


def _dot(weights: Tensor, values: Tensor) -> Tensor:
    """Return Σ weights · values, where weight 0 adds 0 even to an infinite value."""
    if not torch.compiler.is_compiling():  # compiled, the careful way costs nothing and a look at the data would
        total = torch.linalg.vecdot(weights, values).unsqueeze(-1)
        if bool(total.isfinite().all()):
            return total
    return (weights * torch.where(weights > 0, values, torch.zeros_like(values))).sum(-1, keepdim=True)


def _finite(values: Tensor) -> Tensor:
    """Return values with what is not finite set to 0: it only ever meets a probability of 0."""
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _through(q: Tensor, slope: Tensor, temperature: float) -> Tensor:
    """Return q · (a − Σ q a) / T for ``slope`` a; a is overwritten."""
    mean = torch.linalg.vecdot(q, slope).unsqueeze(-1)
    return slope.sub_(mean).mul_(q).div_(temperature)


def _cooled(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return both logits over T; at T = 1 they are the caller's own, not to be changed."""
    return (student, teacher) if temperature == 1 else (student / temperature, teacher / temperature)


def kl(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """T-free part of the forward divergence: gradient (q − p) / T."""
    u, v = _cooled(student, teacher, temperature)
    q, log_zu = _softmax(u)
    p, log_zv = _softmax(v)
    values = _dot(p, v - u) - log_zv + log_zu
    slope = q.sub_(p)
    return values.squeeze(-1), slope if temperature == 1 else slope.div_(temperature)


def reverse(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """KL(q ‖ p): gradient q (log q − log p − value) / T."""
    u, v = _cooled(student, teacher, temperature)
    gap = u.log_softmax(-1)
    q = gap.exp()
    gap.sub_(v.log_softmax(-1))  # log q − log p
    values = _dot(q, gap)
    # A class that the teacher excludes and the student does not: infinite.
    if torch.compiler.is_compiling() or not bool(values.isfinite().all()):
        return values.squeeze(-1), torch.where(q > 0, q * (gap - values), torch.zeros_like(q)).div_(temperature)
    return values.squeeze(-1), _finite(gap.sub_(values)).mul_(q).div_(temperature)


def _mixture(student: Tensor, teacher: Tensor, share: float, temperature: float) -> tuple[Tensor, ...]:
    """Return q, p, m and the logs of all three, m = share · p + (1 − share) · q."""
    u, v = student / temperature, teacher / temperature
    q, log_zu = _softmax(u)
    p, log_zv = _softmax(v)
    log_q, log_p = u.sub_(log_zu), v.sub_(log_zv)
    log_m = torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share)) if share else log_q
    return q, p, log_q, log_p, log_m


def jsd(student: Tensor, teacher: Tensor, *, beta: float, temperature: float) -> tuple[Tensor, Tensor]:
    """β KL(p ‖ m) + (1 − β) KL(q ‖ m): a = (1 − β)(log q − log m)."""
    q, p, log_q, log_p, log_m = _mixture(student, teacher, beta, temperature)
    above = log_q.sub_(log_m)
    values = beta * _dot(p, log_p.sub_(log_m)) + (1 - beta) * _dot(q, above)
    return values.squeeze(-1), _through(q, _finite(above).mul_(1 - beta), temperature)


def skew(student: Tensor, teacher: Tensor, *, alpha: float, temperature: float) -> tuple[Tensor, Tensor]:
    """KL(p ‖ m), m = α p + (1 − α) q: a = −(1 − α) p / m."""
    q, p, _, log_p, log_m = _mixture(student, teacher, alpha, temperature)
    gap = log_p.sub_(log_m)
    values = _dot(p, gap)
    return values.squeeze(-1), _through(q, _finite(gap.exp_()).mul_(alpha - 1), temperature)  # −(1 − α) p / m


def skew_reverse(student: Tensor, teacher: Tensor, *, alpha: float, temperature: float) -> tuple[Tensor, Tensor]:
    """KL(q ‖ m): a = log q − log m − (1 − α) q / m."""
    q, _, log_q, _, log_m = _mixture(student, teacher, alpha, temperature)
    gap = _finite(log_q.sub_(log_m))
    values = _dot(q, gap)
    return values.squeeze(-1), _through(q, gap - (1 - alpha) * gap.exp(), temperature)


def variation(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """½ Σ |q − p|: a = ½ sign(q − p)."""
    q, _ = _softmax(student / temperature)
    p, _ = _softmax(teacher / temperature)
    gap = q - p
    return 0.5 * gap.abs().sum(-1), _through(q, gap.sign_().mul_(0.5), temperature)


def interpolated(student: Tensor, teacher: Tensor, *, share: float, temperature: float) -> tuple[Tensor, Tensor]:
    """`kl` from the blended logits, the student in them a constant."""
    target = teacher if share == 1 else student if share == 0 else torch.lerp(student, teacher, share)
    return kl(student, target, temperature=temperature)


def standardised(student: Tensor, teacher: Tensor, *, temperature: float, eps: float) -> tuple[Tensor, Tensor]:
    """`kl` of z-scores, through both moments."""
    z, inverse, spread = _zscore(student, eps)
    values, slope = kl(z, _zscore(teacher, eps)[0], temperature=temperature)
    free = student.shape[-1] - 1
    if free < 1:
        return values, torch.zeros_like(slope)
    # z = c / (eps + s), s = |c| / sqrt(C − 1): the part of the slope along c shrinks, then the mean goes.
    along = torch.linalg.vecdot(slope, z).unsqueeze(-1) / (spread * free * inverse).clamp(min=1e-30)
    moved = torch.where(spread > 0, slope - z * along, slope).mul_(inverse)
    return values, moved.sub_(moved.mean(-1, keepdim=True))


def _zscore(logits: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return standardised logits, 1 / (eps + s), and s."""
    centred = logits - logits.mean(-1, keepdim=True)
    if logits.shape[-1] < 2:
        return centred, torch.ones_like(centred), torch.zeros_like(centred)
    spread = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(logits.shape[-1] - 1)
    inverse = 1 / (eps + spread)
    return centred.mul_(inverse), inverse, spread


def cosine(student: Tensor, teacher: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """1 − cos: gradient (cos · s/|s| − t/|t|) / |s|."""
    ours = torch.linalg.vector_norm(student, dim=-1, keepdim=True).clamp(min=eps)
    theirs = torch.linalg.vector_norm(teacher, dim=-1, keepdim=True).clamp(min=eps)
    s, t = student / ours, teacher / theirs
    same = torch.linalg.vecdot(s, t).unsqueeze(-1)
    slope = s.mul_(torch.where(ours > eps, same, torch.zeros_like(same))).sub_(t).div_(ours)
    return (1 - same).squeeze(-1), slope
