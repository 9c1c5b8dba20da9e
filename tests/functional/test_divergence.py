"""KL and its relatives against scipy and torch, the conventions of other libraries, DKD, standardisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import distil.functional as D
from distil.errors import DistilError

from .oracles import dkd_rows, gradient, kl_rows, normal

S, T = normal(6, 7), normal(6, 7, seed=1)
Y = torch.tensor([0, 6, 3, 3, 1, 5])
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])


@TEMPERATURES
def test_kl_is_scipys_relative_entropy(temperature: float) -> None:
    rows = torch.from_numpy(kl_rows(S.numpy(), T.numpy(), temperature))
    torch.testing.assert_close(
        D.kl(S, T, temperature=temperature, reduction="none", scale="none"), rows, rtol=1e-10, atol=1e-14
    )
    torch.testing.assert_close(D.kl(S, T, temperature=temperature), temperature**2 * rows.mean(), rtol=1e-10, atol=0)
    back = torch.from_numpy(kl_rows(T.numpy(), S.numpy(), temperature))
    torch.testing.assert_close(D.reverse_kl(S, T, temperature=temperature, reduction="none"), temperature**2 * back)


@TEMPERATURES
def test_soft_cross_entropy_is_torchs_and_has_the_gradient_of_kl(temperature: float) -> None:
    torch_value = F.cross_entropy(S / temperature, (T / temperature).softmax(1))
    torch.testing.assert_close(D.soft_cross_entropy(S, T, temperature=temperature), temperature**2 * torch_value)
    soft = gradient(lambda s: D.soft_cross_entropy(s, T, temperature=temperature), S)
    torch.testing.assert_close(soft, gradient(lambda s: D.kl(s, T, temperature=temperature), S))


def test_any_axis_can_be_the_distribution() -> None:
    student, teacher = normal(2, 5, 3, 4), normal(2, 5, 3, 4, seed=1)
    pixels = D.kl(student, teacher, dim=1, reduction="none")
    assert pixels.shape == (2, 3, 4)
    flat = D.kl(student.movedim(1, -1).reshape(-1, 5), teacher.movedim(1, -1).reshape(-1, 5), reduction="none")
    torch.testing.assert_close(pixels.flatten(), flat)


@given(shift=st.floats(-100, 100), row=st.integers(0, 5))
def test_kl_and_dkd_ignore_a_shift_of_either_side(shift: float, row: int) -> None:
    moved = torch.zeros(6, 1, dtype=torch.float64)
    moved[row] = shift
    for loss in (D.kl, lambda s, t: D.dkd(s, t, Y)):
        torch.testing.assert_close(loss(S + moved, T - moved), loss(S, T), rtol=1e-9, atol=1e-11)


def test_the_teachers_temperature_may_be_learned() -> None:
    slope = gradient(lambda t: D.kl(S, T, temperature=t), torch.tensor(3.0, dtype=torch.float64))
    sides = [D.kl(S, T, temperature=3.0 + e) for e in (1e-5, -1e-5)]
    torch.testing.assert_close(slope, (sides[0] - sides[1]) / 2e-5, rtol=1e-6, atol=0)


def test_classes_that_both_sides_exclude_add_nothing() -> None:
    student, teacher = S.clone(), T.clone()
    student[:, -2:], teacher[:, -2:] = -torch.inf, -torch.inf
    for loss in (D.kl, D.reverse_kl, D.soft_cross_entropy):
        torch.testing.assert_close(loss(student, teacher), loss(S[:, :-2], T[:, :-2]))
        slope = gradient(lambda s, loss=loss: loss(s, teacher), student)
        torch.testing.assert_close(slope[:, :-2], gradient(lambda s, loss=loss: loss(s, T[:, :-2]), S[:, :-2]))
        assert (slope[:, -2:] == 0).all()


@pytest.mark.parametrize("loss", [D.kl, D.reverse_kl, lambda s, t: D.dkd(s, t, torch.zeros(len(s), dtype=torch.long))])
def test_one_class_leaves_nothing_to_learn(loss) -> None:
    student = normal(3, 1)
    assert loss(student, normal(3, 1, seed=1)) == 0
    assert (gradient(lambda s: loss(s, normal(3, 1, seed=1)), student) == 0).all()


# --- Conventions: the table of "what KD loss means", on logits drawn as it says ---


@pytest.mark.parametrize(
    ("convention", "temperature", "published"),
    [
        ("distil", 4.0, 3.977),
        ("mdistiller", 4.0, 3.977),
        ("timm", 4.0, 3.977),
        ("torchdistill", 4.0, 3.977),
        ("trl", 4.0, 0.2485),
        ("liger", 4.0, 0.2485),
        ("torchdistill-unlabelled", 4.0, 0.2485),
        ("modelopt", 4.0, 0.00398),
        ("deit", 4.0, 0.00398),
        ("textbrewer", 4.0, 7.03),
        ("torchtune", 1.0, 3.866),
        ("glnn", 1.0, 3.866),
        ("kd_lib", 4.0, 0.0000090),
    ],
)
def test_conventions_give_the_published_magnitudes(convention: str, temperature: float, published: float) -> None:
    student, teacher = normal(64, 1000, scale=2.0), normal(64, 1000, seed=1, scale=2.0)
    value = float(D.kd(student, teacher, temperature=temperature, convention=convention))
    assert math.isclose(value, published, rel_tol=0.03)  # other draws of the same distribution


def test_conventions_are_what_torch_computes_for_them() -> None:
    log_q, p, t = (S / 3).log_softmax(1), (T / 3).softmax(1), 3.0
    expected = {
        "distil": F.kl_div(log_q, p, reduction="batchmean") * t**2,
        "trl": F.kl_div(log_q, p, reduction="batchmean"),
        "deit": F.kl_div(log_q, p, reduction="none").mean() * t**2,
        "textbrewer": F.cross_entropy(S / 3, p),
        "kd_lib": F.mse_loss(log_q.exp(), p) * t**2,
    }
    for convention, value in expected.items():
        torch.testing.assert_close(D.kd(S, T, temperature=3.0, convention=convention), value)


def test_a_convention_is_refused_when_unknown_or_without_a_temperature() -> None:
    with pytest.raises(DistilError, match="'distl' is unknown; did you mean 'distil'"):
        D.kd(S, T, convention="distl")
    with pytest.raises(DistilError, match="knows no temperature"):
        D.kd(S, T, temperature=2.0, convention="glnn")
    with pytest.raises(DistilError, match="scale='t2' is unknown"):
        D.kl(S, T, scale="t2")


# --- Decoupled distillation ---


@TEMPERATURES
def test_dkd_and_its_parts_are_the_two_divergences(temperature: float) -> None:
    target, others = (
        torch.from_numpy(x) * temperature**2 for x in dkd_rows(S.numpy(), T.numpy(), Y.numpy(), temperature)
    )
    torch.testing.assert_close(D.tckd(S, T, Y, temperature=temperature, reduction="none"), target)
    torch.testing.assert_close(D.nckd(S, T, Y, temperature=temperature, reduction="none"), others)
    dkd = D.dkd(S, T, Y, alpha=0.5, beta=3.0, temperature=temperature)
    torch.testing.assert_close(dkd, (0.5 * target + 3 * others).mean())


@TEMPERATURES
def test_kl_is_the_target_part_plus_the_rest_in_proportion(temperature: float) -> None:
    sure = (T / temperature).softmax(1).gather(1, Y[:, None])[:, 0]
    parts = [part(S, T, Y, temperature=temperature, reduction="none") for part in (D.tckd, D.nckd)]
    kl = D.kl(S, T, temperature=temperature, reduction="none")
    torch.testing.assert_close(kl, parts[0] + (1 - sure) * parts[1])


def test_two_classes_have_no_other_part() -> None:
    student, labels = S[:, :2], Y % 2
    assert (D.nckd(student, T[:, :2], labels, reduction="none") == 0).all()
    assert (gradient(lambda s: D.nckd(s, T[:, :2], labels), student) == 0).all()


def test_a_certain_teacher_and_a_certain_student_keep_a_finite_target_part() -> None:
    student, teacher = torch.tensor([[100.0, 0.0, 0.0]]), torch.tensor([[0.0, 100.0, 0.0]])
    for label in (0, 1):
        value = D.tckd(student, teacher, torch.tensor([label]))
        torch.testing.assert_close(value, torch.tensor(100.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("loss", [D.dkd, D.tckd, D.nckd])
def test_unlabelled_rows_weigh_nothing_and_wrong_labels_are_refused(loss) -> None:
    masked = Y.clone()
    masked[[1, 4]] = -100
    kept = masked >= 0
    torch.testing.assert_close(loss(S, T, masked), loss(S[kept], T[kept], Y[kept]))
    assert (loss(S, T, masked, reduction="none")[~kept] == 0).all()
    assert loss(S, T, torch.full_like(Y, -100)) == 0
    for wrong in (7, -1):
        with pytest.raises(DistilError, match=f"label {wrong} is outside the 7 classes"):
            loss(S, T, torch.full_like(Y, wrong))
    with pytest.raises(DistilError, match=r"labels are \(5,\) but the rows they label are \(6,\)"):
        loss(S, T, Y[:5])
    with pytest.raises(DistilError, match="not class indices"):
        loss(S, T, Y.double())


# --- Standardised logits ---


def test_standardised_logits_have_mean_zero_and_unit_spread() -> None:
    z = D.standardise(S)
    expected = (S.numpy() - S.numpy().mean(1, keepdims=True)) / (1e-7 + S.numpy().std(1, ddof=1, keepdims=True))
    np.testing.assert_allclose(z.numpy(), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(D.standardise, S.clone().requires_grad_())


def test_standardised_distillation_ignores_shift_and_positive_scale() -> None:
    loss = D.kl(D.standardise(S), D.standardise(T), temperature=2.0)
    moved = D.kl(D.standardise(7 * S + 3), D.standardise(T / 5 - 1), temperature=2.0)
    torch.testing.assert_close(moved, loss, rtol=1e-5, atol=0)  # the 1e-7 in the denominator is not scaled


def test_a_row_without_spread_becomes_zero_with_a_finite_gradient() -> None:
    flat = torch.full((2, 4), 3.0)
    assert (D.standardise(flat) == 0).all()
    assert gradient(lambda z: D.kl(D.standardise(z), torch.eye(4)[:2]), flat).isfinite().all()
    assert (D.standardise(normal(3, 1)) == 0).all()
