"""TRG by brute force: double loops in float64 against the vectorised losses, and gradients by finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import distil.functional as D

Rows = list[list[float]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the formulas as loops over plain numbers


def squared(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b))


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(x - max(row)) for x in row]
    return [p / sum(powers) for p in powers]


def nearest(rows: Rows, k: int) -> list[list[int]]:
    others = [sorted((j for j in range(len(rows)) if j != i), key=lambda j: squared(rows[i], rows[j])) for i in
              range(len(rows))]  # fmt: skip
    return [order[:k] for order in others]


def graph(rows: Rows, near: list[list[int]], sigma: float | None) -> Rows:
    if sigma is None:
        found = sorted(d for i, js in enumerate(near) for j in js if (d := squared(rows[i], rows[j])) > 0)
        sigma = found[(len(found) - 1) // 2] if found else 1.0
    return [
        [math.exp(-squared(rows[i], rows[j]) / (2 * sigma)) if j in near[i] else 0.0 for j in range(len(rows))]
        for i in range(len(rows))
    ]


def local(
    student: Rows, teacher: Rows, k: int, *, shared: bool = False, sigma: float | None = None, first: str = "student",
    sharpness: float = 1.0,
) -> list[float]:  # fmt: skip
    theirs = nearest(teacher, k)
    ours = theirs if shared else nearest(student, k)
    values = []
    for s, t in zip(graph(student, ours, sigma), graph(teacher, theirs, sigma)):
        p, q = softmax([sharpness * x for x in s]), softmax([sharpness * x for x in t])
        if first == "teacher":
            p, q = q, p
        values.append(sum(a * math.log(a / b) for a, b in zip(p, q)))
    return values


def inner(student: list[Rows], teacher: list[Rows]) -> list[float]:
    values = []
    for sides in zip(student, teacher):
        attention = []
        for rows in sides:
            width = math.sqrt(len(rows[0]))
            attention.append([softmax([sum(x * y for x, y in zip(a, b)) / width for b in rows]) for a in rows])
        gaps = [(x - y) ** 2 for a, b in zip(*attention) for x, y in zip(a, b)]
        values.append(sum(gaps) / len(gaps))
    return values


def contrast(student: Rows, teacher: Rows, temperature: float) -> list[float]:
    def cosine(a: list[float], b: list[float]) -> float:
        lengths = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b)) / lengths if lengths else 0.0

    values = []
    for i, s in enumerate(student):
        alike = [cosine(s, t) / temperature for t in teacher]
        values.append(-math.log(softmax(alike)[i]))
    return values


def same(seen: Tensor, expected: list[float]) -> None:
    np.testing.assert_allclose(seen.numpy(), expected, rtol=1e-9, atol=1e-12)


# ---- values


@pytest.mark.parametrize(("nodes", "k"), [(1, 3), (2, 1), (7, 1), (7, 3), (7, 6), (7, 50), (24, 8)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("sigma", [None, 0.7])
@pytest.mark.parametrize("first", ["student", "teacher"])
def test_the_local_relation(nodes: int, k: int, shared: bool, sigma: float | None, first: str) -> None:
    s, t = drawn(nodes, 3), drawn(nodes, 5, seed=1)
    for scale in ("median", "detached") if sigma is None else (sigma,):
        for sharpness in (1.0, 10.0):
            seen = D.local_relation(
                s, t, neighbours=k, mask="shared" if shared else "own", sigma=scale, direction=first,
                sharpness=sharpness, reduction="none",
            )  # fmt: skip
            expected = local(s.tolist(), t.tolist(), k, shared=shared, sigma=sigma, first=first, sharpness=sharpness)
            same(seen, expected)


def test_the_local_relation_where_nodes_coincide() -> None:
    """Groups of equal tokens, each as large as its neighbourhood, so that no tie is left to chance."""
    s, t = (drawn(3, width, seed=width).repeat_interleave(3, 0) for width in (2, 4))
    same(D.local_relation(s, t, neighbours=2, reduction="none"), local(s.tolist(), t.tolist(), 2))
    t = drawn(9, 4)
    same(D.local_relation(s, t, neighbours=2, reduction="none"), local(s.tolist(), t.tolist(), 2))


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (4, 9)])
def test_the_inner_relation(shape: tuple[int, int]) -> None:
    s, t = drawn(*shape, 3), drawn(*shape, 5, seed=1)
    same(D.inner_relation(s, t, reduction="none"), inner(s.tolist(), t.tolist()))


@pytest.mark.parametrize("nodes", [1, 2, 13])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_contrast(nodes: int, temperature: float) -> None:
    s, t = drawn(nodes, 6), drawn(nodes, 6, seed=1)
    seen = D.token_contrast(s, t, temperature=temperature, reduction="none")
    same(seen, contrast(s.tolist(), t.tolist(), temperature))


@pytest.mark.parametrize("k", [1, 4, 30])
def test_neighbours_and_their_overlap(k: int) -> None:
    s, t = drawn(12, 3), drawn(12, 5, seed=1)
    ours, theirs = nearest(s.tolist(), k), nearest(t.tolist(), k)
    assert D.nearest_tokens(s, k).tolist() == ours
    expected = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in zip(ours, theirs)]
    np.testing.assert_allclose(D.neighbour_overlap(s, t, neighbours=k), expected, rtol=1e-6)


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patches(patch: int) -> None:
    """Every patch, row by row, flattened channel by channel."""
    image = drawn(2, 3, 6, 6)
    tokens, _ = D.token_pair(image, image, patch=patch)
    count = 6 // patch
    assert tokens.shape == (2, count**2, 3 * patch**2)
    for b in range(2):
        for i in range(count):
            for j in range(count):
                cut = image[b, :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                assert torch.equal(tokens[b, i * count + j], cut.flatten())


# ---- gradients, with the neighbours held fixed


def test_gradients_equal_finite_differences() -> None:
    s, t = drawn(9, 3).requires_grad_(), drawn(9, 5, seed=1)
    near = D.nearest_tokens(t, 3)
    for sigma in ("median", 0.8):
        assert torch.autograd.gradcheck(lambda x, sigma=sigma: D.graph_weights(x, near, sigma=sigma), s)
        assert torch.autograd.gradcheck(
            lambda x, sigma=sigma: D.local_relation(x, t, neighbours=3, mask="shared", sigma=sigma), s
        )
    assert torch.autograd.gradcheck(lambda x: D.token_contrast(x, t[:, :3], temperature=0.3), s)
    tokens = drawn(2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: D.inner_relation(x, drawn(2, 5, 4, seed=1)), tokens)


def test_a_detached_scale_is_held_constant() -> None:
    s, t = drawn(9, 3).requires_grad_(), drawn(9, 5, seed=1)
    near = D.nearest_tokens(s, 3)
    found = (s[near] - s[:, None]).square().sum(-1).detach().median().item()
    held, fixed = (
        torch.autograd.grad(D.local_relation(s, t, neighbours=3, sigma=sigma), s)[0] for sigma in ("detached", "median")
    )
    assert torch.equal(held, torch.autograd.grad(D.local_relation(s, t, neighbours=3), s)[0])
    s_only = D.graph_weights(s, near, sigma="detached")
    at_number = D.graph_weights(s, near, sigma=found)
    weights = drawn(9, 9, seed=2)
    torch.testing.assert_close(
        torch.autograd.grad((s_only * weights).sum(), s)[0], torch.autograd.grad((at_number * weights).sum(), s)[0]
    )
    assert not torch.allclose(held, fixed)
    s = s.detach()
    # No scale of the tokens changes the loss, so its gradient has no part along the tokens; the detached one has.
    assert abs(float((fixed * s).sum())) < 1e-12 < 1e-6 < abs(float((held * s).sum()))
