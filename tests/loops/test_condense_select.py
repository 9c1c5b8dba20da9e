"""Small sets of real samples: budgets, balance, where they come from, and that each rule is the one it is named for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.data.bundle import Bundle, DictDataset
from distil.errors import DistilError
from distil.functional import craig as facility
from distil.functional import (
    el2n,
    gradient_similarity,
    grand,
    herding,
    k_center,
    last_layer_gradients,
    match_pursuit,
    ranked,
    uncertainty,
)
from distil.loops.condense import condense
from distil.loops.order import Order
from distil.loops.pools import answers, forgotten
from distil.models import MLP

CLASSES, WIDTH = 3, 6
COUNTS = (9, 2, 12)
LABELS = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))[
    torch.randperm(23, generator=torch.Generator().manual_seed(1))
]
METHODS = ("herding", "k-center", "clusters", "uncertainty", "el2n", "grand", "forgetting", "craig", "gradmatch")
TAUGHT = {"uncertainty", "el2n", "grand", "craig", "gradmatch"}
FAST: dict[str, dict[str, Any]] = {"forgetting": {"epochs": 3, "net": "distil:mlp(hidden=4)"}}


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def bundle() -> Bundle:
    """23 vectors to choose from, of classes of 9, 2 and 12, and one without a label; ids begin at 100."""
    x = normal(24, 0) + torch.cat([LABELS, torch.tensor([0])])[:, None]
    train = DictDataset(x, torch.cat([LABELS, torch.tensor([-100])]), 100 + torch.arange(24))
    far = DictDataset(normal(30, 5) + torch.arange(30)[:, None] % 3, torch.arange(30) % 3, 500 + torch.arange(30))
    return Bundle("toy", "classification", train, far, far, ("a", "b", "c"), (WIDTH,), "toy")


def teacher(seed: int = 0) -> nn.Module:
    """An MLP that has learned the toy's classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = MLP(WIDTH, 8, CLASSES)
    adam = torch.optim.Adam(net.parameters(), 0.05)
    data = bundle().train
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(data.inputs), data.labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return net.eval()


def order(method: str, per_class: int = 2, *, count: int | None = None, **options: Any) -> Order:
    teachers: tuple[nn.Module, ...] = (teacher(),) if method in TAUGHT else ()
    if count is not None:
        teachers = tuple(teacher(k) for k in range(count))
    return Order(bundle(), per_class, teachers=teachers, options={**FAST.get(method, {}), **options})


every = pytest.mark.parametrize("method", METHODS)


@every
@pytest.mark.parametrize("per_class", [1, 2, 50])
def test_each_class_gives_its_budget_or_all_it_has(method: str, per_class: int) -> None:
    small = condense(order(method, per_class), method)
    assert small.labels.bincount(minlength=3).tolist() == [min(per_class, n) for n in COUNTS]
    assert small.made["method"] == method


@every
def test_every_sample_is_a_training_sample_by_its_id_and_no_test_sample(method: str) -> None:
    data = bundle()
    small = condense(order(method), method)
    assert small.ids is not None
    assert len(small.ids.unique()) == len(small)
    at = small.ids - 100
    assert torch.equal(small.inputs, data.train.inputs[at])
    assert torch.equal(small.labels, data.train.labels[at])
    assert not torch.isin(small.ids, data.test.ids).any()
    assert not (small.inputs[:, None] == data.test.inputs[None]).all(2).any()


@every
def test_without_balance_the_budget_is_that_of_all_classes_together(method: str) -> None:
    small = condense(order(method, 5, balance=False), method)
    assert len(small) == 15
    assert small.ids is not None
    assert len(small.ids.unique()) == 15


@every
def test_the_same_order_gives_the_same_set(method: str) -> None:
    first, second = (condense(order(method), method) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.ids, second.ids)  # type: ignore[arg-type]


@every
def test_weights_are_given_by_gradients_alone_and_are_not_negative(method: str) -> None:
    small = condense(order(method, 4), method)
    if method in ("craig", "gradmatch"):
        assert small.weights is not None
        assert (small.weights >= 0).all()
        assert small.weights.std() > 0
    else:
        assert small.weights is None


def members(small_of: str, **options: Any) -> tuple[Any, list[Tensor], Order]:
    made = order(small_of, 2, **options)
    return condense(made, small_of), [(bundle().train.labels == c).nonzero().flatten() for c in range(3)], made


@pytest.mark.parametrize(("method", "rule"), [("herding", herding), ("k-center", k_center)])
@pytest.mark.parametrize("taught", [0, 1, 2])
def test_features_are_the_inputs_or_the_teachers_embeddings(method: str, rule: Any, taught: int) -> None:
    small, classes, made = members(method, count=taught)
    rows = bundle().train.inputs
    if taught:
        rows = torch.cat([answers(made, net, torch.arange(24)).emb for net in made.teachers], 1)
        assert rows.shape == (24, 8 * taught)
    expected = [100 + at[rule(rows[at], 2).index] for at in classes]
    assert torch.equal(small.ids, torch.cat(expected))


def test_what_a_teacher_says_is_its_logits_and_what_its_last_layer_reads() -> None:
    made = order("grand")
    (net,) = made.teachers
    said = answers(made, net, torch.tensor([3, 1]))
    torch.testing.assert_close(said.logits, net(bundle().train.inputs[[3, 1]]).detach())
    torch.testing.assert_close(net.layers[-1](said.emb).detach(), said.logits)  # type: ignore


@pytest.mark.parametrize(
    ("method", "score", "options"),
    [
        ("uncertainty", lambda z, h, y: uncertainty(z), {}),
        ("uncertainty", lambda z, h, y: uncertainty(z, kind="entropy"), {"kind": "entropy"}),
        ("uncertainty", lambda z, h, y: uncertainty(z, kind="margin"), {"kind": "margin"}),
        ("el2n", lambda z, h, y: el2n(z, y), {}),
        ("grand", lambda z, h, y: grand(z, h, y), {}),
    ],
)
@pytest.mark.parametrize("easy", [False, True])
def test_scores_are_averaged_over_teachers_and_the_hard_or_the_easy_are_taken(
    method: str, score: Any, options: dict[str, Any], easy: bool
) -> None:
    small, classes, made = members(method, count=2, easy=easy, **options)
    labels = bundle().train.labels
    for at, c in zip(classes, range(3)):
        both = [answers(made, net, at) for net in made.teachers]
        mean = torch.stack([score(said.logits, said.emb, labels[at]) for said in both]).mean(0)
        assert torch.equal(small.ids[small.labels == c], 100 + at[ranked(mean, 2, largest=not easy).index])


@pytest.mark.parametrize("method", ["craig", "gradmatch"])
def test_gradients_are_the_last_layers(method: str) -> None:
    small, classes, made = members(method)
    labels = bundle().train.labels
    for at, c in zip(classes, range(3)):
        said = answers(made, made.teachers[0], at)
        rows = last_layer_gradients(said.logits, said.emb, labels[at])
        if method == "craig":
            found = facility(gradient_similarity(rows), 2)
        else:
            found = match_pursuit(rows.mT, rows.double().mean(0), 2)
        assert torch.equal(small.ids[small.labels == c], 100 + at[found.index])
        torch.testing.assert_close(small.weights[small.labels == c], found.weight.float())


def test_forgetting_trains_a_fresh_net_and_counts_what_it_lost() -> None:
    made = order("forgetting")
    counts = [
        forgotten(made, torch.arange(23), LABELS, net="distil:mlp(hidden=4)", epochs=6, lr=0.05) for _ in range(2)
    ]
    assert torch.equal(*counts)
    assert counts[0].shape == (23,)
    assert ((counts[0] >= 0) & (counts[0] <= 6)).all()
    assert counts[0].unique().numel() > 1


def test_clusters_are_all_represented() -> None:
    far = bundle()
    group = torch.arange(24) % 4
    train = DictDataset(100.0 * group[:, None] + normal(24, 3), torch.zeros(24).long(), torch.arange(24))
    data = replace(far, train=train, val=DictDataset(train.inputs, train.labels), classes=("a",))
    small = condense(Order(data, 8, options={"clusters": 4}), "clusters")
    assert group[small.ids].bincount().tolist() == [2, 2, 2, 2]
    few = condense(Order(data, 4), "clusters")
    assert sorted(group[few.ids].tolist()) == [0, 1, 2, 3]


def test_near_duplicates_are_no_candidates_and_that_is_said() -> None:
    data = bundle()
    x = data.train.inputs.clone()
    zero = (data.train.labels == 0).nonzero().flatten()
    x[zero[1:]] = x[zero[0]] * torch.linspace(1, 2, len(zero) - 1)[:, None]
    twins = replace(data, train=DictDataset(x, data.train.labels, data.train.ids))
    small = condense(Order(twins, 5, options={"twins": 0.9999}), "herding")
    assert (small.labels == 0).sum() == 1
    assert "8 of 23 candidates were near-duplicates" in small.made["notes"][0]
    assert (condense(Order(twins, 5), "herding").labels == 0).sum() == 5


def test_a_pool_bounds_the_candidates_by_the_seed() -> None:
    picks = {
        tuple(condense(replace(order("herding", 2, pool=2), seed=seed), "herding").ids.tolist())  # type: ignore[union-attr]
        for seed in range(4)
    }
    assert len(picks) > 1
    assert condense(order("herding", 50, pool=4), "herding").labels.bincount().tolist() == [4, 2, 4]


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("herding", {"features": "pixels"}, "features='pixels' is unknown"),
        ("herding", {"features": "teacher"}, "name one with --teacher"),
        ("herding", {"kind": "entropy"}, "kind"),
        ("herding", {"twins": 2.0}, "twins=2.0"),
        ("k-center", {"pool": -1}, "pool=-1"),
        ("clusters", {"quota": "fair"}, "quota='fair'"),
        ("uncertainty", {"kind": "variance"}, "kind='variance' is unknown"),
        ("forgetting", {"epochs": 1}, "epochs=1 must be at least 2"),
        ("gradmatch", {"ridge": -1.0}, "ridge=-1"),
    ],
)
def test_options_that_do_not_fit_are_refused(method: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        condense(order(method, **options), method)


@pytest.mark.parametrize("method", sorted(TAUGHT))
def test_what_a_teacher_is_needed_for_is_refused_without_one(method: str) -> None:
    with pytest.raises(DistilError, match=f"{method} needs a trained teacher"):
        condense(Order(bundle(), 1), method)


def test_a_teacher_whose_scores_are_not_numbers_is_refused() -> None:
    class Half(nn.Module):
        """Right on what it is checked on, and no number on one training sample."""

        def __init__(self) -> None:
            super().__init__()
            self.net = teacher()

        def forward(self, inputs: Tensor) -> Tensor:
            bad = (inputs == bundle().train.inputs[7]).all(1, keepdim=True)
            said: Tensor = self.net(inputs)
            return torch.where(bad, torch.full_like(said, torch.nan), said)

    with pytest.raises(DistilError, match="NaN"):
        condense(Order(bundle(), 1, teachers=(Half(),)), "uncertainty")
