"""Soft labels against plain loops in float64: averaged, recovered from a few classes, and the loss on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import Tensor

from distil.errors import DistilError
from distil.functional import (
    SparseTargets,
    as_soft_labels,
    draw_teacher,
    kl,
    mean_labels,
    mean_logits,
    recover_labels,
    soft_cross_entropy,
    soft_label_cross_entropy,
    topk_of,
)

from .oracles import gradient, normal

KINDS = ("hard", "smoothing", "marginal", "renormalised")


def teachers(count: int = 3, *, scale: float = 2.0) -> list[Tensor]:
    return [normal(5, 7, seed=k, scale=scale) for k in range(count)]


def by_hand(ids: list[int], values: list[float], classes: int, kind: str) -> list[float]:
    """One row, as the definitions say it."""
    best = max(range(len(ids)), key=lambda i: values[i])
    if kind == "hard":
        return [1.0 if c == ids[best] else 0.0 for c in range(classes)]
    if kind == "smoothing":
        other = (1 - values[best]) / (classes - 1)
        return [values[best] if c == ids[best] else other for c in range(classes)]
    given = dict(zip(ids, values))
    if kind == "renormalised":
        return [given.get(c, 0.0) / sum(values) for c in range(classes)]
    other = (1 - sum(values)) / (classes - len(ids))
    return [given.get(c, other) for c in range(classes)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 6])
def test_a_label_recovered_from_a_few_classes_is_the_definition(kind: str, k: int) -> None:
    ids, log_probs = topk_of(teachers(1)[0], k)
    found = recover_labels(ids, log_probs.exp(), classes=7, kind=kind)
    expected = [by_hand(i, v, 7, kind) for i, v in zip(ids.tolist(), log_probs.exp().tolist())]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["full", *KINDS])
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_every_recovered_label_sums_to_one_even_where_all_classes_are_known(kind: str, classes: int) -> None:
    logits = normal(4, classes, scale=5.0)
    for top in range(1, classes + 1):
        if kind == "full" and top < classes:
            continue
        label = as_soft_labels(logits, kind=kind, top=top)
        torch.testing.assert_close(label.sum(-1), torch.ones(4, dtype=torch.float64))
        assert label.min() >= 0


def test_all_classes_known_is_the_whole_label_but_for_hard_and_smoothing() -> None:
    logits = teachers(1)[0]
    for kind in ("full", "marginal", "renormalised"):
        torch.testing.assert_close(as_soft_labels(logits, kind=kind, top=7), logits.softmax(-1))
    assert (as_soft_labels(logits, kind="hard").argmax(-1) == logits.argmax(-1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_label_and_a_live_one_cut_alike_are_the_same(kind: str) -> None:
    logits = teachers(1)[0]
    stored = SparseTargets(*topk_of(logits, 5), 7)
    for top in (5, 3):
        torch.testing.assert_close(
            as_soft_labels(stored, kind=kind, top=top), as_soft_labels(logits, kind=kind, top=top)
        )
    torch.testing.assert_close(as_soft_labels(stored, kind=kind), as_soft_labels(logits, kind=kind, top=5))


def test_the_mean_of_probabilities_is_scipys_and_not_the_softmax_of_mean_logits() -> None:
    said = teachers()
    expected = np.mean([softmax(t.numpy(), -1) for t in said], 0)
    torch.testing.assert_close(mean_labels(said), torch.from_numpy(expected))
    swapped = mean_labels(said, how="mean-logit")
    torch.testing.assert_close(swapped, torch.from_numpy(softmax(np.mean([t.numpy() for t in said], 0), -1)))
    assert (mean_labels(said) - swapped).abs().max() > 0.05
    torch.testing.assert_close(mean_logits(said), sum(said) / 3)


def test_one_teacher_is_plain_soft_cross_entropy() -> None:
    s, (t,) = normal(5, 7, seed=9), teachers(1)
    for how in ("mean-prob", "mean-logit"):
        found = soft_label_cross_entropy(s, mean_labels([t], how=how), reduction="none")
        torch.testing.assert_close(found, soft_cross_entropy(s, t, reduction="none"))


def test_the_loss_is_the_plain_sum_and_the_teachers_entropy_where_the_student_agrees() -> None:
    s, label = normal(5, 7, seed=9), mean_labels(teachers())
    rows = [-sum(p * q for p, q in zip(a, b)) for a, b in zip(label.tolist(), log_softmax(s.numpy(), -1).tolist())]
    torch.testing.assert_close(soft_label_cross_entropy(s, label, reduction="none"), torch.tensor(rows).double())
    ours = label.log() + 3.0  # any shift
    entropies = torch.from_numpy(entropy(label.numpy(), axis=-1))
    torch.testing.assert_close(soft_label_cross_entropy(ours, label, reduction="none"), entropies)
    assert gradient(lambda x: soft_label_cross_entropy(x, label), ours).abs().max() < 1e-12
    assert (soft_label_cross_entropy(s, label, reduction="none") - entropies).min() > 0  # the KL
    torch.testing.assert_close(soft_label_cross_entropy(s + 5.0, label), soft_label_cross_entropy(s, label))


def test_its_gradient_is_that_of_the_divergence() -> None:
    s, (t,) = normal(5, 7, seed=9), teachers(1)
    ours = gradient(lambda x: soft_label_cross_entropy(x, mean_labels([t])), s)
    torch.testing.assert_close(ours, gradient(lambda x: kl(x, t), s))


def test_a_class_of_probability_zero_may_be_ruled_out_by_the_student() -> None:
    s = torch.tensor([[0.0, -torch.inf]])
    assert soft_label_cross_entropy(s, torch.tensor([[1.0, 0.0]])).item() == 0.0


def test_no_gradient_reaches_the_teachers() -> None:
    s, said = normal(5, 7, seed=9).requires_grad_(), [t.requires_grad_() for t in teachers()]
    soft_label_cross_entropy(s, mean_labels(said)).backward()
    assert s.grad is not None
    assert all(t.grad is None for t in said)


def test_teachers_are_drawn_by_their_shares_and_evenly_without() -> None:
    rng = torch.Generator().manual_seed(0)
    for shares, expected in (((0.2, 0.4, 0.4), (0.2, 0.4, 0.4)), (None, (1 / 3,) * 3)):
        drawn = [draw_teacher(3, shares=shares, generator=rng) for _ in range(3000)]
        for k, share in enumerate(expected):
            assert drawn.count(k) / 3000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 3000))


IDS, HALF = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: recover_labels(IDS, HALF, classes=1), "from 1 to 1"),
        (lambda: recover_labels(IDS.int(), HALF, classes=3), "int32"),
        (lambda: recover_labels(IDS, HALF, classes=3, kind="full"), "all 3 classes and 2 are known"),
        (lambda: recover_labels(IDS, HALF, classes=3, kind="margin"), "did you mean .*'marginal'"),
        (lambda: as_soft_labels(torch.zeros(1, 3), kind="hard", top=4), "top=4 classes are wanted and 3 of 3"),
        (lambda: as_soft_labels(SparseTargets(IDS, HALF.log(), 3), kind="hard", top=3), "2 of 3 are known"),
        (lambda: as_soft_labels(SparseTargets(IDS, HALF.log(), 3)), "choose how to fill in the rest: hard"),
        (lambda: as_soft_labels(SparseTargets(IDS, HALF.log(), 3, 4.0), kind="hard"), "at temperature 1"),
        (lambda: as_soft_labels(SparseTargets(IDS, HALF, 3, entropy=HALF[0, :1])), "drawn at random"),
        (lambda: mean_labels([]), "the teachers give nothing"),
        (lambda: mean_labels([torch.zeros(1, 3), torch.zeros(1, 4)]), r"\(1, 3\) and \(1, 4\)"),
        (lambda: mean_labels([torch.zeros(1, 3)], how="mean"), "mean-prob"),
        (lambda: mean_labels([SparseTargets(IDS, HALF.log(), 3)], how="mean-logit"), "dense16"),
        (lambda: draw_teacher(3, shares=(0.5, 0.5)), "one share for each"),
        (lambda: draw_teacher(2, shares=(0.9, 0.2)), "sum to 1"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()  # type: ignore[operator]
