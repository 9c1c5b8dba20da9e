"""The condensers that choose: real samples of each class, by what they look like or by what a model says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distil.data.condensed import CondensedSet
from distil.data.loading import mix_seed
from distil.data.text import normal_form
from distil.errors import DistilError, nearest
from distil.functional.coresets import craig as facility
from distil.functional.coresets import gradient_similarity, match_pursuit
from distil.functional.sample_scores import (
    UNCERTAINTIES,
    last_layer_gradients,
)
from distil.functional.sample_scores import (
    el2n as el2n_scores,
)
from distil.functional.sample_scores import (
    grand as grand_scores,
)
from distil.functional.sample_scores import (
    uncertainty as uncertainty_scores,
)
from distil.functional.selection import (
    QUOTAS,
    Selected,
    by_quota,
    chosen_per_class,
    ranked,
    without_twins,
)
from distil.functional.selection import (
    herding as herd,
)
from distil.functional.selection import (
    k_center as centres,
)
from distil.loops.condense_check import per_class_or_all
from distil.loops.order import Order, options_of
from distil.loops.pools import answers, candidates, features, forgotten

__all__ = [
    "Choosing",
    "Clustering",
    "Forgetting",
    "Matching",
    "Scoring",
    "Twins",
    "chosen_set",
    "clusters",
    "craig",
    "duplicates",
    "el2n",
    "forgetting",
    "gradmatch",
    "grand",
    "herding",
    "k_center",
    "uncertainty",
]

SOURCES = ("auto", "inputs", "teacher")
MOST = 10000  # candidates in one table of distances


@dataclass(frozen=True)
class Choosing:
    """Which samples are looked at, and as what.

    Attributes:
        features: what a sample is: its "inputs", a "teacher"'s embedding, or ("auto") the latter where there is one.
        balance: ``per_class`` samples of every class; False chooses as many in all, wherever they are.
        twins: samples whose cosine to one before them reaches this are no candidates; 0 looks for none.
        pool: at most so many candidates of each class, drawn by the seed; 0 takes all.
    """

    features: str = "auto"
    balance: bool = True
    twins: float = 0.0
    pool: int = 0

    def __post_init__(self) -> None:
        if self.features not in SOURCES:
            raise DistilError(f"features={self.features!r} is unknown; {nearest(self.features, SOURCES)}")
        if not 0 <= self.twins <= 1 or self.pool < 0:
            raise DistilError(
                f"twins={self.twins} is a cosine from 0 (look for none) to 1, and pool={self.pool} at least 0."
            )


@dataclass(frozen=True)
class Scoring(Choosing):
    """Choosing by a score of each sample.

    Attributes:
        kind: of uncertainty: "confidence", "entropy" or "margin".
        easy: take the smallest scores, the easy and certain samples, which suits tiny budgets.
    """

    kind: str = "confidence"
    easy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in UNCERTAINTIES:
            raise DistilError(f"kind={self.kind!r} is unknown; {nearest(self.kind, UNCERTAINTIES)}")


@dataclass(frozen=True)
class Forgetting(Choosing):
    """Choosing by how often a fresh net forgets a sample.

    Attributes:
        net: the net that is trained for it.
        epochs, lr: of that training.
        easy: take those that are forgotten least.
    """

    net: str = "distil:mlp(hidden=64)"
    epochs: int = 20
    lr: float = 1e-3
    easy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 2 or not self.lr > 0:
            raise DistilError(f"epochs={self.epochs} must be at least 2, to be forgotten in, and lr={self.lr} above 0.")


@dataclass(frozen=True)
class Matching(Choosing):
    """Choosing by last-layer gradients; the set's samples are weighed.

    Attributes:
        ridge: of matching pursuit.
    """

    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ridge >= 0:
            raise DistilError(f"ridge={self.ridge} must be at least 0.")


@dataclass(frozen=True)
class Clustering(Choosing):
    """Choosing from k-means clusters, nearest to their centres first.

    Attributes:
        clusters: of each class (of all, without balance); 0 takes as many as samples are wanted.
        quota: "even" or "proportional" to the clusters' sizes.
    """

    clusters: int = 0
    quota: str = "even"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clusters < 0 or self.quota not in QUOTAS:
            raise DistilError(
                f"clusters={self.clusters} must be at least 0 and quota={self.quota!r} one of {', '.join(QUOTAS)}."
            )


@dataclass(frozen=True)
class Twins(Choosing):
    """Choosing from what is left without near-duplicates.

    Attributes:
        twins: samples of one class whose cosine to one before them reaches this are its copies.
    """

    twins: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.twins:
            raise DistilError("twins=0 looks for no duplicates; give a cosine up to 1, or choose with random.")


def herding(order: Order) -> CondensedSet:
    """Choose samples whose mean follows their class's: :func:`distil.functional.herding`.

    >>> from distil.data import load
    >>> small = herding(Order(load("digits"), per_class=1))
    >>> len(small), small.weights is None
    (10, True)
    """
    return _by_features(order, "herding", herd)


def k_center(order: Order) -> CondensedSet:
    """Choose samples that leave none of their class far away: :func:`distil.functional.k_center`."""
    return _by_features(order, "k-center", centres)


def clusters(order: Order) -> CondensedSet:
    """Choose samples of every cluster of their class, found by scikit-learn's k-means: diversity first."""
    how: Clustering = options_of(order, Clustering)

    def choose(rows: Tensor, budget: int) -> Selected:
        count = min(how.clusters or budget, len(rows))
        if not count:
            return Selected(torch.zeros(0, dtype=torch.long), torch.zeros(0))
        group, away = _k_means(rows, count, seed=order.seed)
        return by_quota(away, group, budget, how=how.quota, largest=False)

    return _by_features(order, "clusters", choose, how)


def uncertainty(order: Order) -> CondensedSet:
    """Choose the samples that teachers are least sure of: :func:`distil.functional.uncertainty`, their mean."""
    how: Scoring = options_of(order, Scoring)
    return _by_score(order, "uncertainty", how, lambda said, labels: uncertainty_scores(said.logits, kind=how.kind))


def el2n(order: Order) -> CondensedSet:
    """Choose the samples that teachers are farthest from knowing: :func:`distil.functional.el2n`, their mean."""
    how: Scoring = options_of(order, Scoring)
    return _by_score(order, "el2n", how, lambda said, labels: el2n_scores(said.logits, labels))


def grand(order: Order) -> CondensedSet:
    """Choose the samples with the longest last-layer gradient: :func:`distil.functional.grand`, teachers' mean."""
    how: Scoring = options_of(order, Scoring)
    return _by_score(order, "grand", how, lambda said, labels: grand_scores(said.logits, said.emb, labels))


def forgetting(order: Order) -> CondensedSet:
    """Choose the samples that a fresh net forgets most often: :func:`distil.functional.forgetting`."""
    how: Forgetting = options_of(order, Forgetting)
    positions, labels = _candidates(order, how)
    scores = forgotten(order, positions, labels, net=how.net, epochs=how.epochs, lr=how.lr)
    return chosen_set(
        order, "forgetting", how, positions, labels, lambda at, few: ranked(scores[at], few, largest=not how.easy)
    )


def craig(order: Order) -> CondensedSet:
    """Choose and weigh samples by facility location over last-layer gradients: :func:`distil.functional.craig`."""

    def choose(rows: Tensor, budget: int) -> Selected:
        _few("craig", len(rows))
        return facility(gradient_similarity(rows), budget)

    return _by_gradients(order, "craig", choose)


def gradmatch(order: Order) -> CondensedSet:
    """Choose and weigh samples whose last-layer gradients sum to the mean one: matching pursuit (GradMatch)."""
    how: Matching = options_of(order, Matching)

    def choose(rows: Tensor, budget: int) -> Selected:
        return match_pursuit(rows.mT, rows.double().mean(0), budget, ridge=how.ridge)

    return _by_gradients(order, "gradmatch", choose)


def duplicates(order: Order) -> CondensedSet:
    """Draw samples of which none is a near-duplicate of another; each weighs as many as it stands for.

    Texts without vectors are copies where they differ in case, spacing and compatible characters alone.
    """
    how: Twins = options_of(order, Twins)
    positions, labels = _candidates(order, how)
    texts = order.said(order.ids(positions))[0] if order.raw else []
    rows = torch.zeros(0) if order.raw else features(order, positions, how.features)
    rng = torch.Generator().manual_seed(mix_seed("condense", "duplicates", order.seed))

    def choose(at: Tensor, budget: int) -> Selected:
        if order.raw:
            first: dict[str, int] = {}
            twin = torch.tensor([first.setdefault(normal_form(texts[k]), i) for i, k in enumerate(at.tolist())])
        else:
            _few("duplicates", len(at))
            twin = without_twins(rows[at], threshold=how.twins)[1]
        stay, count = twin.unique(return_counts=True)
        drawn = torch.randperm(len(stay), generator=rng)[:budget]
        return Selected(stay[drawn], count[drawn].double())

    return chosen_set(order, "duplicates", Choosing(balance=how.balance), positions, labels, choose, weighed=True)


# ---- what they share


def _by_features(
    order: Order, name: str, choose: Callable[[Tensor, int], Selected], how: Choosing | None = None
) -> CondensedSet:
    how = how or options_of(order, Choosing)
    positions, labels = _candidates(order, how)
    rows = features(order, positions, how.features)
    return chosen_set(order, name, how, positions, labels, lambda at, few: choose(rows[at], few), rows)


def _by_score(order: Order, name: str, how: Scoring, score: Callable[[Any, Tensor], Tensor]) -> CondensedSet:
    positions, labels = _candidates(order, how)
    scores = torch.stack([score(answers(order, teacher, positions), labels) for teacher in order.teachers]).mean(0)
    return chosen_set(
        order, name, how, positions, labels, lambda at, few: ranked(scores[at], few, largest=not how.easy)
    )


def _by_gradients(order: Order, name: str, choose: Callable[[Tensor, int], Selected]) -> CondensedSet:
    how: Matching = options_of(order, Matching)
    positions, labels = _candidates(order, how)
    said = answers(order, order.teachers[0], positions)

    def of(at: Tensor, few: int) -> Selected:
        return choose(last_layer_gradients(said.logits[at], said.emb[at], labels[at]), few)

    return chosen_set(order, name, how, positions, labels, of, weighed=True)


def _candidates(order: Order, how: Choosing) -> tuple[Tensor, Tensor]:
    return candidates(order, how.pool or None)


def chosen_set(
    order: Order, name: str, how: Choosing, positions: Tensor, labels: Tensor,
    choose: Callable[[Tensor, int], Selected], rows: Tensor | None = None, *, weighed: bool = False,
) -> CondensedSet:  # fmt: skip
    """Apply a rule to the candidates that are no twins, class by class or to all; return what it chose as a set."""
    notes = []
    left = torch.arange(len(positions))
    if how.twins:
        _few("twins", len(left))
        left, _ = without_twins(features(order, positions, how.features) if rows is None else rows, threshold=how.twins)
        notes.append(f"{len(positions) - len(left)} of {len(positions)} candidates were near-duplicates and left out.")
    if how.balance:
        per_class_or_all(order, name)
        found = chosen_per_class(lambda at, few: choose(left[at], few), labels[left], order.per_class)
    else:
        found = choose(left, min(order.per_class * order.classes, len(left)))
    chosen = left[found.index]
    if not weighed:
        weights = None
    elif bool((found.weight > 0).any()):
        weights = found.weight.float()
    else:
        raise DistilError(f"{name}: every weight is 0, so nothing would be learned; take a larger --per-class.")
    return CondensedSet(
        order.inputs(positions[chosen]), labels[chosen], order.bundle.classes, weights=weights,
        ids=order.ids(positions[chosen]), made={"notes": notes} if notes else {},
    )  # fmt: skip


def _few(name: str, count: int) -> None:
    if count > MOST:
        raise DistilError(
            f"{name} compares all pairs of {count} candidates, and more than {MOST} do not fit; set pool= to a smaller "
            "number of each class."
        )


def _k_means(rows: Tensor, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return each row's cluster and its distance to that cluster's centre."""
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=4, random_state=seed % 2**32).fit(rows.double().numpy())
    group = torch.as_tensor(found.labels_).long()
    centre = torch.as_tensor(found.cluster_centers_)
    return group, (rows.double() - centre[group]).norm(dim=1)
