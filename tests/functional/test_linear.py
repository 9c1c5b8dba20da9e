"""A divergence from hidden states equals that of the logits they make, and never holds all of these."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import distil.functional as D
from distil.errors import DistilError
from distil.functional.linear import Head, linear_divergence

from .oracles import normal

TWINS: dict[str, tuple[Any, str | None]] = {
    "kl": (D.kl, None),
    "reverse_kl": (D.reverse_kl, None),
    "jsd": (D.jsd, "beta"),
    "skew_kl": (D.skew_kl, "alpha"),
    "skew_reverse_kl": (D.skew_reverse_kl, "alpha"),
    "total_variation": (D.total_variation, None),
}


def plain_logits(hidden: Tensor, head: Head, size: int) -> Tensor:
    made = hidden @ head.weight[:size].T
    if head.bias is not None:
        made = made + head.bias[:size]
    return made if head.softcap is None else head.softcap * torch.tanh(made / head.softcap)


def case(
    rows: tuple[int, ...], widths: tuple[int, int], sizes: tuple[int, int], *, bias: bool, cap: float | None, seed: int
) -> tuple[list[Tensor], Tensor, Head]:
    """The student's leaves (hidden, weight, bias), the teacher's hidden states and head."""
    leaves = [normal(*rows, widths[0], seed=seed), normal(sizes[0], widths[0], seed=seed + 1)]
    leaves += [normal(sizes[0], seed=seed + 2)] if bias else []
    teacher = Head(normal(sizes[1], widths[1], seed=seed + 3), normal(sizes[1], seed=seed + 4) if bias else None, cap)
    return [leaf.requires_grad_() for leaf in leaves], normal(*rows, widths[1], seed=seed + 5), teacher


def head_of(leaves: list[Tensor], cap: float | None) -> Head:
    return Head(leaves[1], leaves[2] if len(leaves) > 2 else None, cap)


def expected(
    name: str, leaves: list[Tensor], known: Tensor, teacher: Head, share: float | None, temperature: float
) -> Tensor:
    twin, word = TWINS[name]
    size = min(len(leaves[1]), len(teacher.weight))
    given_share = {} if word is None or share is None else {word: share}
    logits = plain_logits(leaves[0], head_of(leaves, teacher.softcap), size), plain_logits(known, teacher, size)
    return twin(*logits, temperature=temperature, scale="none", reduction="none", **given_share)


@pytest.mark.parametrize("name", TWINS)
@settings(max_examples=12, deadline=None)
@given(
    rows=st.sampled_from([(5,), (2, 3), (17,)]),
    widths=st.sampled_from([(4, 4), (3, 6)]),
    sizes=st.sampled_from([(7, 7), (7, 9), (9, 7)]),
    bias=st.booleans(),
    cap=st.sampled_from([None, 3.0]),
    temperature=st.sampled_from([1.0, 2.5]),
    block=st.sampled_from([None, 1, 4]),
    mask=st.booleans(),
    uniform=st.booleans(),
    seed=st.integers(0, 50),
)
def test_equal_to_the_divergence_of_the_logits(
    name: str, rows: Any, widths: Any, sizes: Any, bias: bool, cap: float | None, temperature: float,
    block: int | None, mask: bool, uniform: bool, seed: int,
) -> None:  # fmt: skip
    leaves, known, teacher = case(rows, widths, sizes, bias=bias, cap=cap, seed=seed)
    share = None if TWINS[name][1] is None else 0.3
    weight = (torch.arange(known[..., 0].numel()) % 3).view(rows).double() / 7 if mask else None
    found = linear_divergence(
        leaves[0], known, head_of(leaves, cap), teacher, divergence=name, share=share, temperature=temperature,
        weight=weight, block=block,
    )  # fmt: skip
    wanted = expected(name, leaves, known, teacher, share, temperature) * (1.0 if weight is None else weight)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-7)
    upstream = torch.ones(rows).double() * 0.7 if uniform else torch.linspace(-1, 2, found.numel()).view(rows).double()
    ours = torch.autograd.grad((found * upstream).sum(), leaves)
    theirs = torch.autograd.grad((wanted * upstream).sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_the_logits_are_never_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    made = Head.logits

    def noting(self: Head, hidden: Tensor, size: int) -> Tensor:
        seen.append(len(hidden))
        return made(self, hidden, size)

    monkeypatch.setattr(Head, "logits", noting)
    leaves, known, teacher = case((40,), (4, 4), (9, 9), bias=False, cap=None, seed=0)
    weight = (torch.arange(40) % 2).float()
    linear_divergence(leaves[0], known, head_of(leaves, None), teacher, weight=weight, block=8).sum().backward()
    assert max(seen) == 8
    assert sum(seen) == 2 * 20  # ignored tokens are not computed, and the backward makes no logits
    seen.clear()
    found = linear_divergence(leaves[0], known, head_of(leaves, None), teacher, weight=weight, block=8)
    (found * torch.arange(40)).sum().backward()
    assert sum(seen) == 4 * 20  # an uneven upstream gradient costs the forward again


def test_a_frozen_head_or_a_batch_of_ignored_tokens() -> None:
    leaves, known, teacher = case((6,), (4, 4), (9, 9), bias=True, cap=None, seed=0)
    head = Head(leaves[1].detach(), leaves[2].detach())
    linear_divergence(leaves[0], known, head, teacher).sum().backward()
    assert leaves[0].grad is not None
    assert leaves[1].grad is None
    nothing = linear_divergence(leaves[0], known, head_of(leaves, None), teacher, weight=torch.zeros(6)).sum()
    assert nothing == 0
    assert all((slope == 0).all() for slope in torch.autograd.grad(nothing, leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precisions(dtype: torch.dtype) -> None:
    leaves, known, teacher = case((64,), (16, 16), (50, 50), bias=False, cap=None, seed=3)
    exact = linear_divergence(leaves[0], known, head_of(leaves, None), teacher).sum()
    wanted = torch.autograd.grad(exact, leaves)
    rough = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
    found = linear_divergence(rough[0], known.to(dtype), head_of(rough, None), Head(teacher.weight.to(dtype))).sum()
    slopes = torch.autograd.grad(found, rough)
    assert [slope.dtype for slope in slopes] == [dtype, dtype]
    close = 1e-4 if dtype == torch.float32 else 5e-2
    for mine, other in zip(slopes, wanted, strict=True):
        assert (mine.double() - other).norm() <= close * other.norm()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"teacher_hidden": torch.zeros(4, 3)}, r"student's hidden states are \(5, 3\) and the teacher's \(4, 3\)"),
        ({"student_head": Head(torch.zeros(7, 4))}, r"student's head is \(7, 4\).*must be \(V, 3\)"),
        ({"teacher_head": Head(torch.zeros(7, 3), torch.zeros(6))}, r"teacher's bias is \(6,\)"),
        ({"student_head": Head(torch.zeros(7, 3), None, 0.0)}, "softcap=0.0 must be above 0"),
        ({"divergence": "kld"}, "divergence='kld' is unknown"),
        ({"share": 0.5}, "kl has no mixture"),
        ({"divergence": "jsd", "share": 1.0}, "share=1.0 must lie strictly between"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"block": 0}, "block=0 must be"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], says: str) -> None:
    head = Head(torch.zeros(7, 3))
    fitting = {"student_hidden": torch.zeros(5, 3), "teacher_hidden": torch.zeros(5, 3)}
    arguments = {**fitting, "student_head": head, "teacher_head": head, **change}
    with pytest.raises(DistilError, match=says):
        linear_divergence(**arguments)
