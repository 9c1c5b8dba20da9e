"""Gradients that are written down equal those that autograd finds, on random shapes, precisions, masks and settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import distil.functional as D
from distil.errors import DistilError
from distil.functional import _closed, mixtures
from distil.functional import closed_form as C

from .oracles import normal


def standardised(s: Tensor, t: Tensor, **options: object) -> Tensor:
    return D.kl(D.standardise(s), D.standardise(t), **options)


def cosine(s: Tensor, t: Tensor, *, temperature: float, weight: Tensor | None, reduction: str) -> Tensor:
    s, t = D.working(s, t)
    return D.reduce(1 - F.cosine_similarity(s, t, dim=-1), weight, reduction=reduction)


def closed_cosine(s: Tensor, t: Tensor, *, temperature: float, **options: object) -> Tensor:
    return C.cosine(s, t, **options)


def ranked(function: Callable[..., Tensor], **fixed: object) -> Callable[..., Tensor]:
    def call(s: Tensor, t: Tensor, *, temperature: float, **options: object) -> Tensor:
        return function(s, t, some_labels(s), teacher_temperature=temperature, **fixed, **options)

    return call


def labelled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(s: Tensor, t: Tensor, **options: object) -> Tensor:
        return function(s, t, some_labels(s), alpha=1.5, beta=3.0, **options)

    return call


def some_labels(s: Tensor) -> Tensor:
    """A label for every row but some."""
    labels = torch.arange(s.shape[:-1].numel()).view(s.shape[:-1]) % s.shape[-1]
    return torch.where(labels % 5 == 3, -100, labels)


TWINS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "kl": (C.kl, D.kl),
    "reverse_kl": (C.reverse_kl, D.reverse_kl),
    "total_variation": (C.total_variation, D.total_variation),
    "standardised_kl": (C.standardised_kl, standardised),
    "cosine": (closed_cosine, cosine),
    "dkd": (labelled(C.dkd), labelled(D.dkd)),
    **{f"jsd {b}": (partial(C.jsd, beta=b), partial(D.jsd, beta=b)) for b in (0.1, 0.5, 0.9)},
    **{f"skew_kl {a}": (partial(C.skew_kl, alpha=a), partial(D.skew_kl, alpha=a)) for a in (0.0, 0.1, 0.7)},
    **{
        f"skew_reverse_kl {a}": (partial(C.skew_reverse_kl, alpha=a), partial(D.skew_reverse_kl, alpha=a))
        for a in (0.1, 0.7)
    },
    **{
        f"interpolated_kl {s}": (partial(C.interpolated_kl, share=s), partial(D.interpolated_kl, share=s))
        for s in (0.0, 0.4, 1.0)
    },
    **{
        f"plackett_luce {w} {first}": (
            ranked(C.plackett_luce, weights=w, label_first=first),
            ranked(D.plackett_luce, weights=w, label_first=first),
        )
        for w, first in (("teacher", True), ("teacher", False), ("uniform", True), ("position", True))
    },
}
EVERY = pytest.mark.parametrize("name", TWINS)


def both(name: str, student: Tensor, teacher: Tensor, **options: object) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient of the written and of the recorded form."""
    found = []
    for function in TWINS[name]:
        leaf = student.clone().requires_grad_()
        value = function(leaf, teacher, **options)
        (value * torch.arange(1, value.numel() + 1).view(value.shape)).sum().backward()
        found.append((value.detach(), leaf.grad))
    return found


@EVERY
@settings(max_examples=15, deadline=None)
@given(
    shape=st.sampled_from([(1, 2), (7, 5), (3, 4, 6), (64, 33), (2, 1)]),
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
    scale=st.sampled_from([0.1, 3.0, 40.0]),
    reduction=st.sampled_from(["none", "sum", "mean"]),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equal_in_value_and_gradient(
    name: str, shape: tuple[int, ...], temperature: float, scale: float, reduction: str, weighted: bool, seed: int
) -> None:
    student, teacher = (normal(*shape, seed=seed + i, scale=scale) for i in (0, 1))
    weight = (torch.arange(student.shape[:-1].numel()) % 3).view(shape[:-1]).double() if weighted else None
    written, recorded = both(name, student, teacher, temperature=temperature, reduction=reduction, weight=weight)
    for ours, theirs in zip(written, recorded, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11 * (1 + float(theirs.abs().max())))


@EVERY
def test_several_blocks_equal_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = normal(50, 7), normal(50, 7, seed=1)
    options = {"temperature": 2.0, "reduction": "none", "weight": None}
    whole, _ = both(name, student, teacher, **options)
    monkeypatch.setattr(_closed, "BLOCK", 7 * 3)
    parts, _ = both(name, student, teacher, **options)
    for a, b in zip(whole, parts, strict=True):  # vectorised exponentials differ in the last place at a block's end
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precisions(name: str, dtype: torch.dtype) -> None:
    student, teacher = (normal(33, 20, seed=i, scale=3.0).to(dtype) for i in (0, 1))
    (value, slope), (expected, twin) = both(name, student, teacher, temperature=2.0, reduction="mean", weight=None)
    assert value.dtype == torch.float32
    assert slope.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    rough = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(slope, twin, rtol=rough, atol=rough * float(twin.abs().max()) + 1e-7)


@pytest.mark.parametrize(
    "name", ["kl", "reverse_kl", "total_variation", "jsd 0.5", "skew_kl 0.1", "skew_reverse_kl 0.1"]
)
def test_a_class_that_both_exclude_adds_nothing(name: str) -> None:
    student, teacher = normal(6, 8), normal(6, 8, seed=1)
    full = [value for value, _ in both(name, student[:, :5], teacher[:, :5], temperature=1.0, reduction="none")]
    student[:, 5:], teacher[:, 5:] = -torch.inf, -torch.inf
    (value, slope), _ = both(name, student, teacher, temperature=1.0, reduction="none")
    torch.testing.assert_close(value, full[0])
    assert slope.isfinite().all()
    assert (slope[:, 5:] == 0).all()


def test_a_class_that_the_teacher_alone_excludes() -> None:
    student, teacher = normal(4, 6), normal(4, 6, seed=1)
    teacher[:, 4:] = -torch.inf
    for name in ("kl", "total_variation", "jsd 0.5", "skew_kl 0.1", "skew_reverse_kl 0.1"):
        written, recorded = both(name, student, teacher, temperature=2.0, reduction="none")
        torch.testing.assert_close(written[0], recorded[0])
        assert written[1].isfinite().all(), name
    assert C.reverse_kl(student, teacher).isinf()


@EVERY
def test_no_gradient_reaches_the_teacher_and_there_is_no_second(name: str) -> None:
    student, teacher = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    value = TWINS[name][0](student, teacher, temperature=1.0, reduction="sum", weight=None)
    assert torch.autograd.grad(value, teacher, allow_unused=True, retain_graph=True) == (None,)
    with pytest.raises(DistilError, match=r"backend\('plain'\)"):
        torch.autograd.grad(value, student, create_graph=True)


def test_a_graph_that_is_kept_may_be_walked_twice() -> None:
    student, teacher = normal(3, 4).requires_grad_(), normal(3, 4, seed=1)
    value = C.kl(student, teacher)
    grads = [torch.autograd.grad(value, student, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*grads)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s, t: C.kl(s, t[:, :3]), r"the student gives \(2, 4\) and the teacher \(2, 3\)"),
        (lambda s, t: C.kl(s, t, temperature=0.0), "temperature=0.0 must be above 0"),
        (lambda s, t: C.jsd(s, t, beta=1.0), "beta=1.0 must lie strictly between 0 and 1"),
        (lambda s, t: D.skew_kl(s, t, alpha=1.0), r"alpha=1.0 must lie in \[0, 1\)"),
        (lambda s, t: C.interpolated_kl(s, t, share=1.5), r"share=1.5 must lie in \[0, 1\]"),
        (lambda s, t: C.total_variation(s, t, scale="t2"), "scale='t2' is unknown"),
        (lambda s, t: C.plackett_luce(s, t, None), "labels are missing"),
        (lambda s, t: C.plackett_luce(s, t, torch.tensor([0, 9])), "label 9 is outside the 4 classes"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[Tensor, Tensor], Tensor], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call(normal(2, 4), normal(2, 4, seed=1))


def test_limits_of_the_jensen_shannon_divergence() -> None:
    student, teacher = normal(5, 6), normal(5, 6, seed=1)
    small = 1e-6
    torch.testing.assert_close(
        D.jsd(student, teacher, beta=small) / small, D.kl(student, teacher), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        D.jsd(student, teacher, beta=1 - small) / small, D.reverse_kl(student, teacher), rtol=1e-4, atol=1e-5
    )
    assert mixtures.blend(student, teacher, 0.0).equal(student)
