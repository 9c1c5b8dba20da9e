"""States, ratios and the unrolled step against plain loops in float64, and what the sheet of TGeo-KD asks of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import distil.functional as D
from distil.errors import DistilError

B, C = 6, 4
LABELS = torch.tensor([0, 2, 1, 3, 2, 0])


def logits(rows: int = B, classes: int = C, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float], heat: float = 1.0) -> list[float]:
    top = max(row)
    powers = [math.exp((value - top) / heat) for value in row]
    return [power / sum(powers) for power in powers]


def test_the_table_is_the_mean_of_each_class_by_hand() -> None:
    t = logits(seed=1)
    table = D.class_probabilities(t, LABELS)
    for label in range(C):
        rows = [softmax(row) for row, own in zip(t.tolist(), LABELS.tolist()) if own == label]
        expected = [sum(column) / len(rows) for column in zip(*rows)]
        torch.testing.assert_close(table[label], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(table.sum(1), torch.ones(C, dtype=torch.float64))


def test_a_class_that_never_occurs_gets_a_uniform_row() -> None:
    table = D.class_probabilities(logits(), torch.zeros(B, dtype=torch.long))
    assert torch.equal(table[1:], torch.full((C - 1, C), 1 / C, dtype=torch.float64))
    torch.testing.assert_close(table.sum(1), torch.ones(C, dtype=torch.float64))
    gathered = D.ClassMeans(C)
    D.add_probabilities(gathered, logits(), LABELS, LABELS == 0)
    assert gathered.counts.tolist() == [2, 0, 0, 0]
    with pytest.raises(DistilError, match="no batch has been seen"):
        D.mean_rows(D.ClassMeans(C))


def by_hand(s: list[float], t: list[float], g: list[float], m: list[float], design: str) -> list[float]:
    def each(function: object) -> list[float]:
        return [function(*four) for four in zip(s, t, g, m)]  # type: ignore[operator]

    edges = each(lambda s, t, g, m: (m - s) ** 2) + each(lambda s, t, g, m: (g - s) ** 2)
    edges += each(lambda s, t, g, m: (t - s) ** 2)
    angles = each(lambda s, t, g, m: (m - s) * (g - s)) + each(lambda s, t, g, m: (t - s) * (g - s))
    more = each(lambda s, t, g, m: (t - g) ** 2) + each(lambda s, t, g, m: (m - g) ** 2)
    points = s + t + g + m
    if design == "cifar":
        found = s + t + m + g + each(lambda s, t, g, m: abs(s - g)) + each(lambda s, t, g, m: abs(s - t))
        found += each(lambda s, t, g, m: abs(s - m)) + each(lambda s, t, g, m: (g - m) * (g - s))
        return found + each(lambda s, t, g, m: (g - t) * (g - s))
    return {
        "1": points, "2": edges, "3": points + edges + more, "4": points + angles, "5": edges + angles,
        "6": points + edges + angles, "7": angles,
    }[design]  # fmt: skip


WIDTHS = {"1": 4, "2": 3, "3": 9, "4": 6, "5": 5, "6": 9, "7": 2, "cifar": 9}


@pytest.mark.parametrize("design", D.STATE_BLOCKS)
def test_a_state_by_hand(design: str) -> None:
    s, t = logits(), logits(seed=1)
    table = D.class_probabilities(t, LABELS)
    state = D.trilateral_state(s, t, LABELS, table, design=int(design) if design.isdigit() else design)
    assert state.shape == (B, WIDTHS[design] * C)
    for row in range(B):
        label = int(LABELS[row])
        hot = [float(k == label) for k in range(C)]
        expected = by_hand(softmax(s[row].tolist()), softmax(t[row].tolist()), hot, table[label].tolist(), design)
        torch.testing.assert_close(state[row], torch.tensor(expected, dtype=torch.float64))


def test_no_gradient_leaves_a_state() -> None:
    s, t = logits().requires_grad_(), logits(seed=1).requires_grad_()
    assert not D.trilateral_state(s, t, LABELS, D.class_probabilities(t.detach(), LABELS)).requires_grad


def test_states_refuse_what_does_not_fit() -> None:
    table = D.class_probabilities(logits(), LABELS)
    with pytest.raises(DistilError, match="design='8' is unknown"):
        D.trilateral_state(logits(), logits(), LABELS, table, design=8)
    with pytest.raises(DistilError, match="mean_probabilities"):
        D.trilateral_state(logits(), logits(), LABELS, table[:2])


def test_the_fused_loss_by_hand() -> None:
    s, t, ratio = logits(), logits(seed=1), torch.linspace(0, 1, B, dtype=torch.float64)
    values = D.fused(s, t, LABELS, ratio, temperature=3.0, reduction="none")
    assert values.shape == (B,)
    for i in range(B):
        p, q = softmax(t[i].tolist(), 3.0), softmax(s[i].tolist(), 3.0)
        taught = 9 * sum(a * math.log(a / b) for a, b in zip(p, q))
        told = -math.log(softmax(s[i].tolist())[int(LABELS[i])])
        assert float(values[i]) == pytest.approx(float(ratio[i]) * taught + (1 - float(ratio[i])) * told, rel=1e-12)


def test_the_ends_and_the_middle_are_the_usual_losses() -> None:
    s, t, one = logits(), logits(seed=1), torch.ones(B, dtype=torch.float64)
    told, taught = F.cross_entropy(s, LABELS), D.kl(s, t, temperature=2.0)
    torch.testing.assert_close(D.fused(s, t, LABELS, 0 * one, temperature=2.0), told)
    torch.testing.assert_close(D.fused(s, t, LABELS, one, temperature=2.0), taught)
    torch.testing.assert_close(D.fused(s, t, LABELS, 0.3 * one, temperature=2.0), 0.3 * taught + 0.7 * told)
    published = D.fused(s, t, LABELS, 0 * one, labels_on="probabilities")
    torch.testing.assert_close(published, F.cross_entropy(s.softmax(1), LABELS))


def test_a_column_of_ratios_is_refused() -> None:
    """(B, 1) against (B,) would be B x B: the released CIFAR code's slip."""
    with pytest.raises(DistilError, match=r"ratio is \(6, 1\) but \(6,\) is expected"):
        D.fused(logits(), logits(), LABELS, torch.ones(B, 1))


def test_an_unlabelled_row_weighs_nothing() -> None:
    s, t, ratio = logits(), logits(seed=1), torch.full((B,), 0.5)
    labels = LABELS.clone()
    labels[4:] = -100
    torch.testing.assert_close(D.fused(s, t, labels, ratio), D.fused(s[:4], t[:4], LABELS[:4], ratio[:4]))


def test_ratios_by_hand() -> None:
    s, t = logits(), logits(seed=1)
    margin, likelihood = D.ratio_by_margin(t, LABELS), D.ratio_by_likelihood(s, t, LABELS)
    for i, label in enumerate(LABELS.tolist()):
        p, q = softmax(t[i].tolist()), softmax(s[i].tolist())
        rest = [value for k, value in enumerate(p) if k != label]
        assert float(margin[i]) == pytest.approx(max(0.0, p[label] - sum(rest) / len(rest)), abs=1e-12)
        assert float(likelihood[i]) == pytest.approx(1 - math.exp(-math.log(q[label]) / math.log(p[label])), rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: D.ratio_by_likelihood(x, t, LABELS), s.requires_grad_())
    sure = torch.full((1, 2), 0.0)
    sure[0, 0] = 1e4
    assert D.ratio_by_likelihood(torch.zeros(1, 2, requires_grad=True), sure, torch.tensor([0])).tolist() == [1.0]


def test_the_unrolled_step_is_a_step_of_sgd_with_its_graph() -> None:
    weight = torch.tensor([[1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    idle = torch.ones(1, requires_grad=True)
    share = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    moved = D.unrolled_step((share * weight.square()).sum(), {"weight": weight, "idle": idle}, lr=0.1)
    assert moved["idle"] is idle
    torch.testing.assert_close(moved["weight"], weight * (1 - 0.1 * 2 * 0.5))
    (slope,) = torch.autograd.grad(moved["weight"].sum(), share)
    torch.testing.assert_close(slope, (-0.2 * weight).sum())
    with pytest.raises(DistilError, match=r"lr=0\.0 must be above 0"):
        D.unrolled_step(weight.sum(), {"weight": weight}, lr=0.0)
