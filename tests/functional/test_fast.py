"""What methods take is the plain loss to the last bit where classes are few, and equal to it where they are many."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import distil.functional as D
from distil.errors import DistilError
from distil.functional import fast
from distil.functional._row_kernels import falling
from distil.functional.ranking import teacher_ranking

from .oracles import normal

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def labels_of(s: Tensor) -> Tensor:
    labels = torch.arange(len(s)) * 7 % s.shape[-1]
    return torch.where(torch.arange(len(s)) % 5 == 3, -100, labels)


def parts(s: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(part(s, t, y, temperature=4.0, reduction="none") for part in (D.tckd, D.nckd))


PAIRS: dict[str, tuple[Loss, Loss]] = {
    **{
        f"kd {c}": (
            lambda s, t, y, c=c: fast.kd(s, t, temperature=4.0, convention=c, reduction="none"),
            lambda s, t, y, c=c: D.kd(s, t, temperature=4.0, convention=c, reduction="none"),
        )
        for c in ("distil", "trl", "deit", "textbrewer", "kd_lib")
    },
    "dkd": (
        lambda s, t, y: torch.stack(fast.decoupled(s, t, y, temperature=4.0)),
        lambda s, t, y: torch.stack(parts(s, t, y)),
    ),
    **{
        f"pld {which}": (
            lambda s, t, y, w=which: fast.plackett_luce(s, t, y, standardise=w, reduction="none"),
            lambda s, t, y, w=which: D.plackett_luce(s, t, y, standardise=w, reduction="none"),
        )
        for which in (None, "teacher", "both")
    },
}
ODD = [-torch.inf, -3.5, -1.0, -0.0, 0.0, 1e-40, 1.0, 2.5]
EVERY = pytest.mark.parametrize("name", PAIRS)


def both(name: str, student: Tensor, teacher: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient of what methods take and of the plain form."""
    found = []
    for loss in PAIRS[name]:
        leaf = student.clone().requires_grad_()
        value = loss(leaf, teacher, labels_of(student))
        (value * torch.linspace(0.5, 2, value.numel()).view_as(value)).sum().backward()
        found.append((value.detach(), leaf.grad))
    return found


@EVERY
@pytest.mark.parametrize("rows", [1, 64, 5000])
def test_ten_classes_are_the_plain_form_bit_for_bit(name: str, rows: int) -> None:
    student, teacher = (normal(rows, 10, seed=i, scale=5.0).float() for i in (0, 1))
    ours, theirs = both(name, student, teacher)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_many_classes_are_equal_and_kept_in_few_buffers(name: str, dtype: torch.dtype) -> None:
    student, teacher = (normal(64, 600, seed=i, scale=4.0).to(dtype) for i in (0, 1))
    ours, theirs = both(name, student, teacher)
    rough = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    # In float32 either form of a small divergence is up to 1e-5 from float64's.
    torch.testing.assert_close(ours[0], theirs[0], rtol=min(rough, 1e-4), atol=1e-9 if dtype == torch.float64 else 3e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=rough, atol=rough * float(theirs[1].abs().max()))
    assert ours[1].dtype == dtype
    taken = name.startswith(("kd distil", "kd trl", "kd deit", "dkd", "pld None", "pld teacher"))
    assert closed(name, student, teacher) == taken


def closed(name: str, student: Tensor, teacher: Tensor) -> bool:
    """Whether the loss was computed by a closed form, seen in its graph."""
    todo, seen = [PAIRS[name][0](student.requires_grad_(), teacher, labels_of(student)).grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [above for above, _ in node.next_functions]
    return any(type(node).__name__ == "ClosedBackward" for node in seen)


def test_what_a_closed_form_cannot_do_is_left_to_the_plain_one() -> None:
    student, teacher = normal(600, 64).requires_grad_(), normal(600, 64, seed=1)
    labels = labels_of(student)
    learned = torch.tensor(4.0, requires_grad=True)
    fast.kd(student, teacher, temperature=learned).backward()
    assert learned.grad is not None
    learns = teacher.clone().requires_grad_()
    (fast.kd(student, learns) + fast.decoupled(student, learns, labels)[1].mean()).backward()
    assert learns.grad is not None
    torch.testing.assert_close(fast.kd(student, teacher, dim=0), D.kd(student, teacher, dim=0))
    for call in (
        lambda: fast.kd(student, teacher[:, :3]),
        lambda: fast.kd(student, teacher, convention="hinton"),
        lambda: fast.kd(student, teacher, convention="glnn", temperature=4.0),
        lambda: fast.decoupled(student, teacher, labels + 100),
        lambda: fast.plackett_luce(student, teacher, None),
        lambda: fast.plackett_luce(student, teacher, labels, standardise="students"),
        lambda: fast.kd(student, teacher, temperature=0.0),
    ):
        with pytest.raises(DistilError):
            call()


def test_a_second_derivative_is_there_under_the_plain_backend_and_refused_without() -> None:
    def curvature() -> Tensor:
        student = normal(600, 64).requires_grad_()
        (first,) = torch.autograd.grad(fast.kd(student, normal(600, 64, seed=1)), student, create_graph=True)
        return torch.autograd.grad(first.square().sum(), student)[0]

    with pytest.raises(DistilError, match="no second derivative"):
        curvature()
    with D.backend("plain"):
        assert curvature().abs().max() > 0


def test_inference_tensors_of_a_teacher_serve() -> None:
    with torch.inference_mode():
        teacher = normal(600, 64, seed=1)
    student = normal(600, 64).requires_grad_()
    for name, (ours, _) in PAIRS.items():
        if name != "kd kd_lib":  # a mean square saves the teacher's probabilities
            ours(student, teacher, labels_of(student)).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", ["eager", "plain", "auto"])
def test_a_backend_lasts_as_long_as_its_context(name: str) -> None:
    teacher = normal(8, 10, seed=1)
    with D.backend(name):
        assert closed("kd distil", normal(8, 10), teacher) == (name == "eager")
    assert not closed("kd distil", normal(8, 10), teacher)
    with pytest.raises(DistilError, match="did you mean 'eager'"):
        D.backend("eagre")  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.sampled_from(ODD), min_size=6, max_size=6), min_size=1, max_size=4),
    labelled=st.booleans(),
)
def test_the_quick_order_is_the_teachers_ranking_with_ties_to_the_lower_index(
    rows: list[list[float]], labelled: bool
) -> None:
    logits = torch.tensor(rows)
    labels = torch.tensor([-100, 5, 0, 2])[: len(rows)] if labelled else None
    assert torch.equal(falling(logits, labels), teacher_ranking(logits, labels))


def test_a_student_whose_logits_are_far_apart_is_summed_in_log_space() -> None:
    student, teacher = normal(4, 100).float(), normal(4, 100, seed=1).float()
    student[:, 10:20] -= 5000
    (value, slope), (expected, twin) = both("pld None", student, teacher)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slope, twin, rtol=1e-4, atol=1e-5)
