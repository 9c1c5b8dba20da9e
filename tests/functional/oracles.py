"""Plain float64 numpy readings of the formulas, written apart from the library, and a few helpers for the tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor

Array = np.ndarray


def normal(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return normal draws that do not depend on any global state."""
    generator = torch.Generator().manual_seed(seed + 1000 * len(shape) + sum(shape))
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return d loss / d at."""
    leaf = at.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def kl_rows(student: Array, teacher: Array, temperature: float) -> Array:
    """Return KL(teacher ‖ student) of each row by scipy."""
    return rel_entr(softmax(teacher / temperature, -1), softmax(student / temperature, -1)).sum(-1)


def dkd_rows(student: Array, teacher: Array, labels: Array, temperature: float) -> tuple[Array, Array]:
    """Return the target part and the other part of DKD, row by row, without T²."""
    target, others = [], []
    for s, t, y in zip(student, teacher, labels):
        q, p = softmax(s / temperature), softmax(t / temperature)
        target.append(rel_entr([p[y], 1 - p[y]], [q[y], 1 - q[y]]).sum())
        others.append(rel_entr(np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y])).sum())
    return np.array(target), np.array(others)


def plackett_luce_rows(student: Array, ranking: Array, alpha: Array) -> Array:
    """Return Σ_k α_k · −log(softmax over what is left)[k] for each row; α is by rank."""
    rows = []
    for s, order, weight in zip(student, ranking, alpha):
        steps = [-log_softmax(s[order[k:]])[0] for k in range(len(order))]
        rows.append(float(np.dot(weight, steps)))
    return np.array(rows)


def plackett_luce_slope(student: Array, ranking: Array, alpha: Array) -> Array:
    """Return the closed-form gradient of `plackett_luce_rows`."""
    slope = np.zeros_like(student)
    for b, (s, order, weight) in enumerate(zip(student, ranking, alpha)):
        for k, c in enumerate(order):
            slope[b, order[k:]] += weight[k] * softmax(s[order[k:]])
            slope[b, c] -= weight[k]
    return slope


def smooth_l1(x: Array) -> Array:
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


def distance_table(rows: Array) -> Array:
    table = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
    return table / table[table > 0].mean()


def angle_table(rows: Array) -> Array:
    def cosine(a: Array, b: Array) -> float:
        length = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / length) if length else 0.0

    return np.array([[[cosine(b - a, c - a) for c in rows] for b in rows] for a in rows])


def attention(features: Array, p: int) -> Array:
    energy = (features**p).mean(1).reshape(len(features), -1)
    return energy / np.linalg.norm(energy, axis=1, keepdims=True)
