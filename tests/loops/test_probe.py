"""Probes of frozen features, held against scikit-learn and against numbers counted by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from distil.data import DictDataset
from distil.errors import DistilError
from distil.loops.probe import features_of, knn_probe, linear_probe, standard_scale


def blobs(n: int, *, seed: int, apart: float = 2.0) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=made)
    return torch.randn(n, 5, generator=made) + apart * torch.eye(3, 5)[labels], labels


def test_knn_votes_as_scikit_learn_does() -> None:
    train, test = blobs(300, seed=0), blobs(2500, seed=1)  # more rows than one chunk
    for k in (1, 5, 20, 300):
        theirs = KNeighborsClassifier(k, algorithm="brute").fit(*(t.numpy() for t in train))
        assert knn_probe(*train, *test, k=k) == pytest.approx(100 * theirs.score(*(t.numpy() for t in test)), abs=0.09)


def test_knn_gives_a_tie_to_the_lowest_class() -> None:
    near, labels = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]), torch.tensor([2, 1, 1, 2])
    assert knn_probe(near, labels, torch.zeros(1, 1), torch.tensor([1]), k=4) == 100
    assert knn_probe(near, labels, torch.zeros(1, 1), torch.tensor([2]), k=4) == 0


def test_the_linear_probe_comes_to_what_logistic_regression_finds() -> None:
    train, test = blobs(600, seed=0), blobs(2000, seed=1)
    theirs = LogisticRegression(C=1e4).fit(*(t.numpy() for t in train)).score(*(t.numpy() for t in test))
    assert linear_probe(*train, *test, epochs=60, lr=1e-2) == pytest.approx(100 * theirs, abs=1.0)


def test_a_seed_decides_the_probe_and_nothing_else_does() -> None:
    train, test = blobs(200, seed=0, apart=0.5), blobs(500, seed=1, apart=0.5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = linear_probe(*train, *test, epochs=2, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with torch.no_grad():  # a caller's mode does not stop it
        assert linear_probe(*train, *test, epochs=2, seed=3) == first
    assert len({linear_probe(*train, *test, epochs=1, seed=seed) for seed in range(6)}) > 1


def test_standardising_is_scikit_learns_but_unbiased_and_a_constant_column_divides_by_one() -> None:
    train, _ = blobs(50, seed=0)
    train[:, 4] = 7.0
    other, _ = blobs(10, seed=1)
    mine = standard_scale(train, other)
    theirs = StandardScaler().fit(train.numpy())
    unbiased = (49 / 50) ** 0.5
    for given, source in zip(mine, (train, other), strict=True):
        expected = torch.from_numpy(theirs.transform(source.numpy()))
        torch.testing.assert_close(given[:, :4], expected[:, :4] * unbiased, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine[1][:, 4], other[:, 4] - 7.0)
    assert bool((standard_scale(torch.ones(1, 2))[0] == 0).all())  # one row has no deviation


def test_standardising_makes_a_badly_scaled_column_count() -> None:
    (train, labels), (test, expected) = blobs(600, seed=0), blobs(600, seed=1)
    scale = torch.tensor([1e-3, 1e-3, 1e-3, 1.0, 1.0])
    found = {
        on: linear_probe(train * scale, labels, test * scale, expected, epochs=80, lr=1e-2, standardise=on)
        for on in (False, True)
    }
    assert found[True] > found[False] + 10


class Noted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(4, 6), set[tuple[bool, bool]]()
        self.inner = nn.Dropout(0.5).eval()

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.add((self.training, torch.is_grad_enabled()))
        found: Tensor = self.inner(self.linear(inputs.flatten(1))).unflatten(1, (2, 3))
        return found


def test_features_are_read_in_eval_without_gradient_and_the_encoder_is_left_as_it_was() -> None:
    net = Noted().train()
    net.inner.eval()
    inputs, labels = torch.randn(11, 2, 2), torch.tensor([0, 1] * 5 + [-100])
    features, found = features_of(net, DictDataset(inputs, labels), batch_size=4)
    assert net.seen == {(False, False)}
    assert [net.training, net.inner.training] == [True, False]
    torch.testing.assert_close(features, net.linear(inputs.flatten(1)).detach()[:10])
    assert found.tolist() == [0, 1] * 5
    assert not features.requires_grad
    assert all(p.grad is None for p in net.parameters())


def test_what_cannot_be_probed_is_refused_in_a_sentence() -> None:
    x, y = blobs(10, seed=0)
    cases = [
        (lambda: knn_probe(x, y, x, y, k=11), "k=11"),
        (lambda: linear_probe(x, y, x[:, :2], y), "5 columns"),
        (lambda: linear_probe(x.unsqueeze(1), y, x, y), "(N, D)"),
        (lambda: linear_probe(x, y - 1, x, y), "below 0"),
        (lambda: linear_probe(x / 0, y, x, y), "NaN or infinity"),
        (lambda: linear_probe(x, y, x, y, epochs=0), "epochs=0"),
        (lambda: features_of(lambda t: t.mean(), DictDataset(x, y)), "one row of features"),
        (lambda: features_of(nn.Identity(), DictDataset(x)), "labels"),
        (lambda: features_of(nn.Identity(), DictDataset(x, y.new_full((10,), -100))), "labels"),
    ]
    for call, words in cases:
        with pytest.raises(DistilError, match=words.replace("(", r"\(").replace(")", r"\)")):
            call()
