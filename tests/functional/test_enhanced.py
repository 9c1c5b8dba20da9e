"""The strengthened soft cross-entropy against a plain loop, and its limits in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import distil.functional as D
from distil.errors import DistilError

from .oracles import gradient, normal


def by_loop(s: Tensor, t: Tensor, labels: list[int], gamma: float, enhance: str, temperature: float) -> list[float]:
    """Σ over classes, one row and one class at a time; a row labelled -100 costs nothing."""
    rows = []
    for zs, zt, label in zip(s.tolist(), t.tolist(), labels, strict=True):
        q, p = ([math.exp(z / temperature) for z in row] for row in (zs, zt))
        q, p = ([e / sum(row) for e in row] for row in (q, p))
        value = 0.0
        for c in range(len(p)):
            m = float(c == label)
            raised = (p[c] + m) ** gamma - m
            share = {"code": raised, "target_only": raised if m else p[c], "off": p[c]}[enhance]
            value -= share * math.log(q[c])
        rows.append(value if label >= 0 or enhance == "off" else 0.0)
    return rows


@pytest.mark.parametrize("enhance", ["code", "target_only", "off"])
@pytest.mark.parametrize(("gamma", "temperature"), [(1.0, 1.0), (1.5, 1.0), (0.7, 3.0), (2.0, 4.0)])
def test_the_values_are_those_of_a_loop(enhance: str, gamma: float, temperature: float) -> None:
    s, t, labels = normal(6, 5), normal(6, 5, seed=1, scale=2.0), torch.tensor([0, 4, 2, -100, 1, 2])
    options = {"gamma": gamma, "enhance": enhance, "temperature": temperature}
    expected = torch.tensor(by_loop(s, t, labels.tolist(), **options), dtype=torch.float64)
    torch.testing.assert_close(D.enhanced_cross_entropy(s, t, labels, **options, reduction="none"), expected)
    counted = 6 if enhance == "off" else 5
    torch.testing.assert_close(D.enhanced_cross_entropy(s, t, labels, **options), expected.sum() / counted)


@pytest.mark.parametrize("enhance", ["code", "target_only", "off"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gamma_one_is_soft_cross_entropy_at_rest_where_logits_agree(enhance: str, temperature: float) -> None:
    s, t, labels = normal(4, 5), normal(4, 5, seed=1), torch.tensor([0, 2, 1, 3])

    def loss(z: Tensor) -> Tensor:
        return D.enhanced_cross_entropy(z, t, labels, enhance=enhance, temperature=temperature)

    torch.testing.assert_close(loss(s), D.soft_cross_entropy(s, t, temperature=temperature, scale="none"))
    assert float(gradient(loss, t + 3.0).abs().max()) < 1e-12  # least at the teacher's logits, up to a shift
    assert all(float(loss(t + 0.1 * normal(4, 5, seed=k))) > float(loss(t)) for k in range(3))
    moved = gradient(lambda z: D.enhanced_cross_entropy(z, t, labels, gamma=1.5, temperature=temperature), t)
    assert float(moved.abs().max()) > 1e-3


def test_a_shift_of_either_sides_logits_changes_nothing() -> None:
    s, t, labels = normal(4, 5), normal(4, 5, seed=1), torch.tensor([0, 2, 1, 3])
    shift = normal(4, 1, seed=2, scale=10.0)
    plain = D.enhanced_cross_entropy(s, t, labels, gamma=1.5)
    torch.testing.assert_close(D.enhanced_cross_entropy(s + shift, t - 2 * shift, labels, gamma=1.5), plain)


def test_the_temperature_is_not_multiplied_back() -> None:
    s, t, labels = normal(4, 5), normal(4, 5, seed=1), torch.tensor([0, 2, 1, 3])
    torch.testing.assert_close(
        D.enhanced_cross_entropy(4 * s, 4 * t, labels, gamma=1.5, temperature=4.0),
        D.enhanced_cross_entropy(s, t, labels, gamma=1.5),
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0])
def test_a_certain_teacher_and_one_that_knows_nothing(gamma: float) -> None:
    """Certain: the label's coefficient is 2^γ − 1 and the others' 0. Uniform over K: the others' K^−γ."""
    log_q = normal(1, 4).log_softmax(-1)
    certain = torch.full((1, 4), -torch.inf, dtype=torch.float64)
    certain[0, 2] = 0.0
    value = D.enhanced_cross_entropy(log_q, certain, torch.tensor([2]), gamma=gamma)
    torch.testing.assert_close(value, -(2**gamma - 1) * log_q[0, 2])
    share = torch.full((4,), 4**-gamma, dtype=torch.float64)
    share[1] = 1.25**gamma - 1
    value = D.enhanced_cross_entropy(log_q, torch.zeros_like(log_q), torch.tensor([1]), gamma=gamma)
    torch.testing.assert_close(value, -(share * log_q[0]).sum())


def test_a_teacher_that_is_unsure_of_the_label_by_far_keeps_its_digits() -> None:
    """(1 + p)^γ − 1 at p = 1e-30 is γ p; 1 + p rounds it away."""
    t = torch.tensor([[0.0, -69.07755278982137]], dtype=torch.float64)
    slope = gradient(lambda s: D.enhanced_cross_entropy(s, t, torch.tensor([1]), gamma=1.5), t.new_zeros(1, 2))
    share = D.enhanced_cross_entropy(t.new_tensor([[0.0, -1e30]]), t, torch.tensor([1]), gamma=1.5)
    assert float(share) == pytest.approx(1.5, rel=1e-9)
    assert slope.isfinite().all()


def test_soft_labels_name_their_largest_share() -> None:
    s, t = normal(3, 4), normal(3, 4, seed=1)
    soft = torch.tensor([[0.1, 0.6, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0], [0.9, 0.0, 0.1, 0.0]])
    hard = torch.tensor([1, -100, 0])
    for reduction in ("none", "mean"):
        torch.testing.assert_close(
            *(D.enhanced_cross_entropy(s, t, y, gamma=1.5, reduction=reduction) for y in (soft, hard))
        )


def test_mixed_samples_take_the_label_of_the_larger_part() -> None:
    share = torch.tensor([0.9, 0.5, 0.1])
    labels, partner = torch.tensor([0, 1, 2]), torch.tensor([5, 6, 7])
    assert D.dominant_labels(labels, partner, share).tolist() == [0, 1, 7]
    with pytest.raises(DistilError, match="one partner's label"):
        D.dominant_labels(labels, partner[:2], share)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gamma": 0.0}, "gamma=0.0 must be above 0"),
        ({"temperature": -1.0}, "temperature=-1.0 must be above 0"),
        ({"enhance": "targets_only"}, "did you mean 'target_only'"),
        ({"labels": None}, "needs labels"),
        ({"labels": torch.tensor([0, 9, 1])}, "label 9 is outside the 4 classes"),
        ({"labels": torch.rand(3, 5)}, r"soft labels are \(3, 5\)"),
    ],
)
def test_bad_input_is_refused(changed: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"labels": torch.tensor([0, 1, 2]), **changed}
    with pytest.raises(DistilError, match=said):
        D.enhanced_cross_entropy(normal(3, 4), normal(3, 4, seed=1), given.pop("labels"), **given)
