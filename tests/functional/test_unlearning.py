"""The losses and measures of unlearning against float64 readings by scipy, scikit-learn and plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_distances
from torch import Tensor

import distil.functional as D
from distil.errors import DistilError

from .oracles import gradient, kl_rows, normal

PAIRS = torch.tensor([[0, 3, 2, 2], [1, 1, 4, 0]])
NEGATIVES = torch.tensor([[4, 3, 1, 0], [0, 4, 2, 3]])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_edge_term_is_the_divergence_of_two_bernoullis(temperature: float) -> None:
    s, t = normal(7, seed=1, scale=2.0), normal(7, seed=2, scale=2.0)
    q, p = (np.stack([expit(x.numpy() / temperature), expit(-x.numpy() / temperature)]) for x in (s, t))
    ours = D.bernoulli_kl(s, t, temperature=temperature, reduction="none")
    np.testing.assert_allclose(ours.numpy(), rel_entr(p, q).sum(0), rtol=1e-12)
    torch.testing.assert_close(D.bernoulli_kl(s, t, temperature=temperature), ours.mean())


def test_saturated_scores_stay_finite_and_what_the_clamp_holds_gets_no_gradient() -> None:
    s, t = torch.tensor([50.0, -50.0, 0.3]), torch.tensor([-50.0, -50.0, 50.0])
    values = D.bernoulli_kl(s, t, reduction="none")
    assert values.isfinite().all()
    assert float(values[0]) == pytest.approx(np.log(1e5), rel=1e-3)
    slope = gradient(lambda x: D.bernoulli_kl(x, t), s)
    assert slope[:2].tolist() == [0.0, 0.0]
    assert float(slope[2]) != 0.0


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_layers_are_compared_one_by_one_and_added(reduction: str) -> None:
    ours, theirs = ([normal(3, d, seed=seed + d) for d in (2, 5)] for seed in (0, 10))
    squared = [((a - b).numpy() ** 2) for a, b in zip(ours, theirs)]
    expected = {
        "sum": sum(each.sum() for each in squared),
        "mean": sum(each.mean() for each in squared),
        "none": sum(each.sum(1) for each in squared),
    }
    np.testing.assert_allclose(D.layer_mse(ours, theirs, reduction=reduction).numpy(), expected[reduction])


def test_a_side_without_weight_or_elements_is_left_out_and_nothing_at_all_is_refused() -> None:
    keep, forget = torch.tensor(2.0), torch.tensor(float("nan"))
    assert float(D.retain_and_forget(keep, forget, alpha=1.0)) == 2.0
    assert float(D.retain_and_forget(None, torch.tensor(3.0), alpha=0.0)) == 3.0
    assert float(D.retain_and_forget(keep, None, alpha=0.25)) == 0.5
    for sides, alpha in (((None, None), 0.5), ((None, keep), 1.0), ((keep, None), 0.0)):
        with pytest.raises(DistilError, match="nothing is left to learn"):
            D.retain_and_forget(*sides, alpha=alpha)
    with pytest.raises(DistilError, match="must lie in"):
        D.retain_and_forget(keep, keep, alpha=1.5)


@pytest.mark.parametrize(("alpha", "still"), [(1.0, slice(3, 6)), (0.0, slice(0, 3))])
def test_alpha_one_ignores_what_is_deleted_and_alpha_zero_what_is_kept(alpha: float, still: slice) -> None:
    z, keep, gone = normal(6, 4), normal(3, 4, seed=5), normal(3, 4, seed=6)

    def loss(logits: Tensor) -> Tensor:
        sides = D.kl(logits[:3], keep, scale="none"), D.kl(logits[3:], gone, scale="none")
        return D.retain_and_forget(*sides, alpha=alpha)

    slope = gradient(loss, z)
    assert not slope[still].any()
    assert slope.any()


def test_ascent_is_the_label_loss_turned_round() -> None:
    scores, logits, labels = normal(5), normal(5, 3), torch.tensor([0, 2, 1, 1, 0])
    bce = torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))
    torch.testing.assert_close(D.link_ascent(scores), -bce)
    torch.testing.assert_close(D.node_ascent(logits, labels), -torch.nn.functional.cross_entropy(logits, labels))


def test_the_operator_leaves_other_rows_bit_for_bit_and_without_rows_everything() -> None:
    h, w = torch.randn(6, 3), torch.randn(3, 3)
    mask = torch.tensor([True, False, True, False, False, True])
    changed = D.deletion_operator(h, w, mask)
    assert torch.equal(changed[~mask], h[~mask])
    torch.testing.assert_close(changed[mask], h[mask] @ w)
    assert torch.equal(D.deletion_operator(h, w, torch.zeros(6, dtype=torch.bool)), h)
    slope = gradient(lambda weight: D.deletion_operator(h, weight, mask).sum(), w)
    torch.testing.assert_close(slope, h[mask].sum(0).unsqueeze(1).expand(3, 3))


def test_bounded_divergence_and_cosine_distance() -> None:
    a, b = normal(5, 4), normal(5, 4, seed=3)
    expected = 1 - np.exp(-kl_rows(a.numpy(), b.numpy(), 1.0).mean())
    assert float(D.bounded_kl(a, b)) == pytest.approx(expected, rel=1e-12)
    assert float(D.bounded_kl(200 * a, -200 * a)) == pytest.approx(1.0)
    distances = np.diag(cosine_distances(a.numpy(), b.numpy()))
    np.testing.assert_allclose(D.cosine_distance(a, b, reduction="none").numpy(), distances, rtol=1e-9)


@pytest.mark.parametrize("who", ["original", "student"])
@pytest.mark.parametrize("ends", ["mean", "sum"])
def test_gnndeletes_loss_on_embeddings_by_loops(who: str, ends: str) -> None:
    z, h = normal(5, 3), normal(5, 3, seed=4)
    mask = torch.tensor([True, False, True, True, False])
    target = h if who == "original" else z
    rows = [(z[u] - target[a]).numpy() ** 2 for side in (0, 1) for u, a in zip(PAIRS[side], NEGATIVES[side])]
    local = [(z[k] - h[k]).numpy() ** 2 for k in range(5) if mask[k]]
    found = D.deletion_by_embedding(z, h, PAIRS, NEGATIVES, mask, unconnected=who, ends=ends)
    assert float(found.random) == pytest.approx(np.mean(rows) * (2 if ends == "sum" else 1))
    assert float(found.local) == pytest.approx(np.mean(local))


def test_gnndeletes_loss_on_links_by_loops() -> None:
    z, h = normal(5, 3), normal(5, 3, seed=4)
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[[3, 4, 4], [2, 0, 3]] = True
    random = [(z[u] @ z[v] - z[a] @ z[b]) ** 2 for (u, v), (a, b) in zip(PAIRS.t(), NEGATIVES.t())]
    local = [
        (expit(float(z[i] @ z[j])) - expit(float(h[i] @ h[j]))) ** 2 for i in range(5) for j in range(5) if mask[i, j]
    ]
    found = D.deletion_by_link(z, h, PAIRS, NEGATIVES, mask)
    assert float(found.random) == pytest.approx(float(sum(random)) / 4)
    assert float(found.local) == pytest.approx(np.mean(local))


def test_the_nodes_near_a_deletion_are_those_of_a_search_by_breadth() -> None:
    edges = torch.randint(0, 30, (2, 40), generator=torch.Generator().manual_seed(3))
    for hops in (0, 1, 2, 3):
        reached = {4, 9}
        for _ in range(hops):
            joined = {a for pair in edges.t().tolist() for a in pair if set(pair) & reached}
            reached |= joined
        found = D.near(edges, torch.tensor([4, 9]), hops=hops, num_nodes=30)
        assert set(found.nonzero().flatten().tolist()) == reached


def test_the_auc_is_scikit_learns_ties_included() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        positive, negative = (draw.integers(0, 6, size).astype(float) for size in (9, 14))
        expected = roc_auc_score([1] * 9 + [0] * 14, [*positive, *negative])
        assert D.roc_auc(torch.tensor(positive), torch.tensor(negative)) == pytest.approx(expected, rel=1e-12)


def test_forgetting_is_the_mean_auc_of_its_draws() -> None:
    retained, gone = normal(40, seed=1), normal(6, seed=2) - 0.5
    generator = torch.Generator().manual_seed(7)
    samples = [retained[torch.randperm(40, generator=generator)[:6]] for _ in range(25)]
    expected = [roc_auc_score([1] * 6 + [0] * 6, [*sample.tolist(), *gone.tolist()]) for sample in samples]
    found = D.forget_auc(retained, gone, generator=torch.Generator().manual_seed(7), draws=25)
    assert found == pytest.approx(np.mean(expected), rel=1e-12)


def test_what_an_attacker_sees_and_how_far_it_moves() -> None:
    scores = normal(4)
    posteriors = D.link_posteriors(scores)
    np.testing.assert_allclose(posteriors[:, 1].numpy(), expit(scores.numpy()))
    np.testing.assert_allclose(posteriors.sum(1).numpy(), 1.0)
    p, q = (torch.tensor(softmax(normal(5, 3, seed=k).numpy(), 1)) for k in (1, 2))
    expected = np.sqrt(((p - q).numpy() ** 2).sum(1))
    np.testing.assert_allclose(D.posterior_distance(p, q, reduction="none").numpy(), expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: D.roc_auc(torch.tensor([]), torch.ones(2)), "0 positives and 2 negatives"),
        (lambda: D.roc_auc(torch.tensor([float("nan")]), torch.ones(2)), "a score is NaN or infinite"),
        (lambda: D.bernoulli_kl(torch.ones(2), torch.ones(3)), r"\(2,\).*\(3,\)"),
        (lambda: D.bernoulli_kl(torch.ones(2), torch.ones(2), clamp=0.5), "clamp=0.5"),
        (lambda: D.link_scores(torch.ones(3, 2), torch.tensor([[0], [3]])), "names node 3"),
        (lambda: D.layer_mse([torch.ones(2)], []), "1 layers and the teacher 0"),
        (lambda: D.deletion_operator(torch.ones(3, 2), torch.ones(3, 3), torch.ones(3) > 0), r"weight is \(3, 3\)"),
        (
            lambda: D.deletion_by_embedding(*[torch.ones(5, 2)] * 2, PAIRS, NEGATIVES[:, :2], torch.ones(5) > 0),
            "draw one for each",
        ),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()
