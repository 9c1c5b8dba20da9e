"""Weights of samples and teachers against plain loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor

from distil.errors import DistilError
from distil.functional import (
    certainty,
    combined_labels,
    gate_state,
    kl,
    mean_labels,
    mean_one,
    mixture_nll,
    several_teachers,
    smoothed_labels,
    teacher_weights,
)

from .oracles import gradient, kl_rows, normal

K, N, C = 3, 6, 5
LABELS = torch.tensor([0, 3, 1, 4, 2, -100])
TARGETS = ("probabilities", "logits", "losses")


def teachers(scale: float = 2.0) -> Tensor:
    return torch.stack([normal(N, C, seed=k, scale=scale) for k in range(K)])


def failing() -> Tensor:
    """The second teacher fails on sample 1, and all on sample 2."""
    t = teachers()
    t[1, 1, 0] = torch.nan
    t[:, 2] = torch.inf
    return t


# ---- how sure


def test_each_kind_of_certainty_is_its_formula() -> None:
    t = teachers()
    p = softmax(t.numpy() / 2, 2)
    mean = p.mean(0)
    np.testing.assert_allclose(certainty(t, temperature=2.0), 1 - entropy(mean, axis=1) / math.log(C))
    np.testing.assert_allclose(certainty(t, kind="max-prob", temperature=2.0), mean.max(1))
    spread = np.array([sum(np.var([p[k, i, c] for k in range(K)]) for c in range(C)) for i in range(N)])
    np.testing.assert_allclose(certainty(t, kind="variance", temperature=2.0), 1 - spread / (1 - 1 / K))
    assert torch.equal(certainty(t, kind="none"), torch.ones(N).double())


@pytest.mark.parametrize("kind", ["none", "entropy", "max-prob", "variance"])
def test_one_class_leaves_nothing_to_be_unsure_of(kind: str) -> None:
    sure = certainty(torch.randn(2, 4, 1), kind=kind)
    assert torch.equal(sure, torch.ones(4))
    assert torch.equal(mean_one(sure), torch.ones(4))


@pytest.mark.parametrize("kind", ["entropy", "max-prob", "variance"])
def test_certainty_lies_in_the_unit_interval_and_carries_no_gradient(kind: str) -> None:
    t = teachers(30.0).requires_grad_()
    sure = certainty(t, kind=kind)
    assert not sure.requires_grad
    assert ((sure >= 0) & (sure <= 1)).all()
    assert certainty(t[:1], kind="variance").tolist() == [1.0] * N  # one teacher cannot disagree


def test_disagreement_is_zero_certainty_and_a_teacher_that_failed_has_no_say() -> None:
    sure = 99 * torch.eye(3).double()
    assert certainty(sure[:, None], kind="variance").tolist() == pytest.approx([0.0])
    found = certainty(failing(), kind="entropy")
    assert found[2] == 0
    torch.testing.assert_close(found[1], certainty(teachers()[[0, 2]])[1])
    both = softmax(teachers()[[0, 2], 1].numpy(), 1)
    spread = both.var(0).sum() / (1 - 1 / K)  # of the three that there are, two can differ less
    assert certainty(failing(), kind="variance")[1].item() == pytest.approx(1 - spread)


def test_certainty_is_that_of_the_label_that_is_taught() -> None:
    t = teachers()
    w = teacher_weights(t, kind="confidence", labels=LABELS)
    label = combined_labels(t, w)
    np.testing.assert_allclose(certainty(t, weights=w), 1 - entropy(label.numpy(), axis=1) / math.log(C))
    only = torch.tensor([0.0, 1.0, 0.0]).double()[:, None].expand(K, N)
    torch.testing.assert_close(certainty(t, kind="variance", weights=only), torch.ones(N).double())
    torch.testing.assert_close(certainty(t, kind="max-prob", weights=only), t[1].softmax(1).amax(1))


@pytest.mark.parametrize("kind", ["none", "entropy", "max-prob", "variance"])
def test_weights_have_mean_one_over_what_counts_and_are_detached(kind: str) -> None:
    counted = LABELS != -100
    t = teachers().requires_grad_()
    w = mean_one(certainty(t, kind=kind), counted)
    assert not w.requires_grad
    assert w[counted].mean().item() == pytest.approx(1)
    assert w[~counted].sum() == 0
    assert (w >= 0).all()


def test_where_nobody_is_sure_all_count_the_same() -> None:
    assert torch.equal(mean_one(torch.zeros(3), torch.tensor([True, True, False])), torch.tensor([1.0, 1.0, 0.0]))
    assert torch.equal(mean_one(torch.zeros(2), torch.zeros(2).bool()), torch.zeros(2))
    assert mean_one(torch.tensor([1.0, 3.0]).bfloat16()).dtype == torch.float32


def test_smoothed_labels_are_the_mixture_with_the_uniform_prior() -> None:
    p = teachers()[0].softmax(1)
    torch.testing.assert_close(smoothed_labels(p, 0.3), 0.7 * p + 0.3 / C)
    torch.testing.assert_close(smoothed_labels(p, 1.0), torch.full_like(p, 1 / C))
    torch.testing.assert_close(smoothed_labels(p, 0.3).sum(1), torch.ones(N).double())


# ---- which teacher


def test_each_kind_of_teacher_weight_is_its_formula() -> None:
    t = teachers()
    p = softmax(t.numpy(), 2)
    own = np.array([[p[k, i, y] if y >= 0 else 1.0 for i, y in enumerate(LABELS.tolist())] for k in range(K)])
    np.testing.assert_allclose(teacher_weights(t, kind="confidence", labels=LABELS), own / own.sum(0))
    low = np.exp(-entropy(p, axis=2))
    np.testing.assert_allclose(teacher_weights(t, kind="entropy"), low / low.sum(0))
    assert teacher_weights(t).tolist() == [[pytest.approx(1 / K)] * N] * K
    shares = teacher_weights(t, prior=[1.0, 2.0, 1.0])
    assert shares[:, 0].tolist() == pytest.approx([0.25, 0.5, 0.25])


@pytest.mark.parametrize("kind", ["uniform", "confidence", "entropy"])
@pytest.mark.parametrize("prior", [None, [0.0, 1.0, 0.0], [3.0, 1.0, 1.0]])
def test_weights_of_teachers_sum_to_one_wherever_one_answered(kind: str, prior: list[float] | None) -> None:
    w = teacher_weights(failing().requires_grad_(), kind=kind, labels=LABELS, prior=prior)
    assert not w.requires_grad
    assert w.sum(0).tolist() == pytest.approx([1, 1, 0, 1, 1, 1])
    assert w[1, 1] == 0
    assert (w >= 0).all()


def test_one_teacher_has_all_the_weight() -> None:
    for kind in ("uniform", "confidence", "entropy"):
        assert torch.equal(teacher_weights(teachers()[:1], kind=kind, labels=LABELS), torch.ones(1, N).double())


# ---- what the student learns


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_is_the_plain_loop(target: str, temperature: float) -> None:
    s, t, w = normal(N, C, seed=9), teachers(), teacher_weights(teachers(), kind="entropy")
    found = several_teachers(s, t, w, target=target, temperature=temperature, reduction="none")
    for i in range(N):
        row = s[i].numpy() / temperature
        if target == "losses":
            expected = sum(float(w[k, i]) * kl_rows(row, t[k, i].numpy() / temperature, 1.0) for k in range(K))
        else:
            parts = [t[k, i].numpy() / temperature for k in range(K)]
            mixed = (
                sum(float(w[k, i]) * softmax(parts[k]) for k in range(K))
                if target == "probabilities"
                else softmax(sum(float(w[k, i]) * parts[k] for k in range(K)))
            )
            expected = kl_rows(row, np.log(mixed), 1.0)
        assert found[i].item() == pytest.approx(temperature**2 * float(expected), rel=1e-9)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_single_teacher_is_plain_kd_in_value_and_gradient(target: str, temperature: float) -> None:
    s, t = normal(N, C, seed=9), teachers()[:1]
    w = teacher_weights(t)

    def ours(x: Tensor) -> Tensor:
        return several_teachers(x, t, w, target=target, temperature=temperature)

    torch.testing.assert_close(ours(s), kl(s, t[0], temperature=temperature))
    torch.testing.assert_close(gradient(ours, s), gradient(lambda x: kl(x, t[0], temperature=temperature), s))
    assert ours(t[0]).abs() < 1e-12


def divergence(t: Tensor, w: Tensor, target: str, s: Tensor) -> Tensor:
    return several_teachers(s, t, w, target=target, temperature=2.0)


def test_the_mean_of_probabilities_and_the_sum_of_losses_have_one_gradient() -> None:
    s, t = normal(N, C, seed=9), teachers()
    w = teacher_weights(t, prior=[0.2, 0.5, 0.3])
    slopes = [gradient(partial(divergence, t, w, how), s) for how in TARGETS]
    torch.testing.assert_close(slopes[0], slopes[2])
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3
    values = [several_teachers(s, t, w, target=how, reduction="none") for how in ("probabilities", "losses")]
    assert (values[1] > values[0]).all()


def test_even_weights_give_the_mean_labels() -> None:
    t = teachers()
    for ours, theirs in (("probabilities", "mean-prob"), ("logits", "mean-logit")):
        torch.testing.assert_close(
            combined_labels(t, teacher_weights(t), target=ours), mean_labels(list(t), how=theirs)
        )


@pytest.mark.parametrize("target", TARGETS)
def test_a_teacher_that_failed_changes_nothing_and_stops_nothing(target: str) -> None:
    s, t = normal(N, C, seed=9).requires_grad_(), failing()
    w = teacher_weights(t)
    values = several_teachers(s, t, w, target=target, smoothing=0.1, reduction="none")
    values.sum().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert values[2] == 0
    assert s.grad[2].abs().sum() == 0
    others = several_teachers(
        s.detach(), teachers()[[0, 2]], teacher_weights(teachers()[[0, 2]]), target=target, smoothing=0.1,
        reduction="none",
    )  # fmt: skip
    torch.testing.assert_close(values[1].detach(), others[1])


def test_no_gradient_reaches_the_teachers() -> None:
    s, t = normal(N, C, seed=9).requires_grad_(), teachers().requires_grad_()
    several_teachers(s, t, teacher_weights(t, kind="entropy")).backward()
    assert s.grad is not None
    assert t.grad is None


def test_smoothing_moves_the_minimum_away_from_the_teacher() -> None:
    t = teachers()[:1]
    w = teacher_weights(t)
    assert gradient(lambda x: several_teachers(x, t, w, smoothing=0.2), t[0]).abs().max() > 1e-3
    at_rest = smoothed_labels(t[0].softmax(1), 0.2).log()
    assert gradient(lambda x: several_teachers(x, t, w, smoothing=0.2), at_rest).abs().max() < 1e-12


def test_a_gate_learns_the_teacher_that_knows_the_label() -> None:
    t, gate = failing(), torch.zeros(N, K, dtype=torch.float64)
    expected = []
    for i, y in enumerate(LABELS.tolist()):
        if y < 0 or i == 2:
            continue
        known = [k for k in range(K) if not (i == 1 and k == 1)]
        expected.append(-math.log(sum(softmax(t[k, i].numpy())[y] for k in known) / len(known)))
    assert mixture_nll(t, gate, LABELS).item() == pytest.approx(sum(expected) / len(expected))
    slope = gradient(lambda g: mixture_nll(t, g, LABELS), gate)
    best = softmax(t[:, 0].numpy(), 1)[:, 0]
    assert int(slope[0].argmin()) == int(best.argmax())
    assert slope[2].abs().sum() == slope[5].abs().sum() == slope[1, 1] == 0
    assert gate_state(t).shape == (N, K * C)
    assert gate_state(t).isfinite().all()
    torch.testing.assert_close(gate_state(t)[0], torch.cat([t[k, 0].softmax(0) for k in range(K)]))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: certainty(torch.zeros(2, 3)), r"\(K, N, C\)"),
        (lambda: certainty([torch.zeros(2, 3), torch.zeros(2, 4)]), r"\(2, 3\) and \(2, 4\)"),
        (lambda: certainty([]), "the teachers give nothing"),
        (lambda: certainty(teachers(), kind="margin"), "kind='margin' is unknown"),
        (lambda: certainty(teachers(), temperature=0), "above 0"),
        (lambda: smoothed_labels(torch.ones(2), 1.5), "0 … 1"),
        (lambda: teacher_weights(teachers(), kind="confidence"), "give labels"),
        (lambda: teacher_weights(teachers(), kind="gate"), "kind='gate' is unknown"),
        (lambda: teacher_weights(teachers(), prior=[1.0]), "for 3 teachers"),
        (lambda: teacher_weights(teachers(), prior=[0.0, 0.0, 0.0]), "not all 0"),
        (lambda: combined_labels(teachers(), torch.ones(2, N)), "one weight for each teacher"),
        (lambda: several_teachers(normal(N, C + 1), teachers(), torch.ones(K, N)), "which must be equal"),
        (lambda: several_teachers(normal(N, C), teachers(), torch.ones(K, N), target="mean"), "target='mean'"),
        (lambda: mixture_nll(teachers(), torch.zeros(K, N), LABELS), "one score for each sample and teacher"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()
