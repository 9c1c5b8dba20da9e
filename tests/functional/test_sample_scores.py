"""Scores of samples against autograd, scipy and plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional import (
    el2n,
    following_difficulty,
    forgetting,
    grand,
    last_layer_gradients,
    perplexity,
    uncertainty,
)

from .oracles import normal

LABELS = torch.tensor([0, 3, 1, 4, 2, 2])


def test_the_unsure_are_those_of_low_confidence_high_entropy_and_small_margin() -> None:
    z = normal(6, 5, scale=2.0)
    p = softmax(z.numpy(), 1)
    ordered = np.sort(p, 1)
    np.testing.assert_allclose(uncertainty(z), 1 - p.max(1))
    np.testing.assert_allclose(uncertainty(z, kind="entropy"), entropy(p, axis=1))
    np.testing.assert_allclose(uncertainty(z, kind="margin"), 1 - (ordered[:, -1] - ordered[:, -2]))


@pytest.mark.parametrize("kind", ["confidence", "entropy", "margin"])
def test_as_coded_the_direction_is_the_other_one(kind: str) -> None:
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.4, 0.3]])
    both = torch.cat([sure, unsure])
    ours, coded = uncertainty(both, kind=kind), uncertainty(both, kind=kind, as_coded=True)
    assert ours[1] > ours[0]
    assert coded[1] < coded[0]


def test_the_largest_raw_logit_is_no_confidence() -> None:
    """Why the coded score is an option only: a shift of all logits, which changes no probability, changes its order."""
    z = torch.tensor([[2.0, 0.0], [1.0, -9.0]])
    shifted = z + torch.tensor([[0.0], [5.0]])
    assert uncertainty(z, as_coded=True).argmax() != uncertainty(shifted, as_coded=True).argmax()
    torch.testing.assert_close(uncertainty(z), uncertainty(shifted))


def test_grand_and_the_gradients_are_those_of_autograd() -> None:
    h, w, b = normal(6, 4), normal(5, 4, seed=1).requires_grad_(), normal(5).requires_grad_()
    logits = h @ w.mT + b
    rows = []
    for k in range(6):
        gw, gb = torch.autograd.grad(F.cross_entropy(logits[k : k + 1], LABELS[k : k + 1]), (w, b), retain_graph=True)
        rows.append(torch.cat([gb, gw.flatten()]))
    expected = torch.stack(rows)
    torch.testing.assert_close(last_layer_gradients(logits, h, LABELS), expected)
    torch.testing.assert_close(grand(logits, h, LABELS), expected.norm(dim=1))
    torch.testing.assert_close(el2n(logits, LABELS), expected[:, :5].norm(dim=1))


def test_el2n_runs_from_nothing_to_the_root_of_two() -> None:
    z = torch.tensor([[50.0, 0.0], [-50.0, 0.0]])
    torch.testing.assert_close(el2n(z, torch.tensor([0, 0])), torch.tensor([0.0, math.sqrt(2)]))


def test_a_sample_without_a_label_has_no_score_which_a_ranking_refuses() -> None:
    z, labels = normal(6, 5), LABELS.clone()
    labels[2] = -100
    assert el2n(z, labels).isnan().tolist() == [False, False, True, False, False, False]
    assert grand(z, normal(6, 4), labels).isnan().sum() == 1
    with pytest.raises(DistilError, match="1 samples have no label"):
        last_layer_gradients(z, normal(6, 4), labels)


def test_forgetting_counts_right_then_wrong_and_ranks_the_never_learned_above_all() -> None:
    right = torch.rand(7, 40, generator=torch.Generator().manual_seed(0)) < 0.5
    right[:, 5] = False
    right[:, 6] = True
    expected = [
        sum(bool(right[e, k]) and not bool(right[e + 1, k]) for e in range(6)) if right[:, k].any() else 7
        for k in range(40)
    ]
    assert forgetting(right).tolist() == expected
    assert forgetting(right)[5] == 7 > max(expected[:5])
    assert forgetting(right, never="count")[5] == forgetting(right)[6] == 0
    assert forgetting(right[:1])[right[0]].sum() == 0  # one look forgets nothing


def test_perplexity_is_the_mean_over_what_counts() -> None:
    z, tokens = normal(3, 4, 6), torch.tensor([[0, 5, 1, -100], [2, -100, -100, 3], [-100] * 4])
    log_p = log_softmax(z.numpy(), -1)
    for k in range(2):
        said = [-log_p[k, i, t] for i, t in enumerate(tokens[k].tolist()) if t >= 0]
        assert perplexity(z, tokens)[k].item() == pytest.approx(math.exp(sum(said) / len(said)))
    assert perplexity(z, tokens)[2].isnan()


def test_an_instruction_that_says_nothing_has_difficulty_one() -> None:
    alone = torch.tensor([4.0, 9.0])
    torch.testing.assert_close(following_difficulty(alone, alone), torch.ones(2))
    torch.testing.assert_close(following_difficulty(torch.tensor([2.0, 18.0]), alone), torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: uncertainty(torch.zeros(3), kind="entropy"), r"\(N, C\)"),
        (lambda: uncertainty(torch.zeros(3, 2), kind="least"), "kind='least' is unknown"),
        (lambda: uncertainty(torch.zeros(3, 1), kind="margin"), "two classes"),
        (lambda: grand(torch.zeros(3, 2), torch.zeros(2, 4), torch.zeros(3).long()), r"\(3, D\)"),
        (lambda: el2n(torch.zeros(3, 2), torch.full((3,), 2)), "label 2 is outside"),
        (lambda: forgetting(torch.zeros(3, 2)), "give bool"),
        (lambda: forgetting(torch.zeros(3, 2).bool(), never="zero"), "never='zero'"),
        (lambda: perplexity(torch.zeros(2, 3, 4), torch.zeros(2, 4).long()), r"\(2, 4, V\)"),
        (lambda: following_difficulty(torch.ones(2), torch.ones(3)), "both perplexities"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()
