"""Memberships: by clusters, by chance, by finer labels, and as a split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestCentroid

from distil.errors import DistilError
from distil.functional.members import (
    filled_labels,
    hard_split,
    members_by_chance,
    members_by_clusters,
    members_by_labels,
    nearest_mean,
)
from distil.functional.subspace import subclass_log_probs

from .oracles import normal


def test_the_nearest_mean_is_scikit_learns() -> None:
    x, labels = normal(40, 5), torch.arange(40) % 3
    means = torch.stack([x[labels == c].mean(0) for c in range(3)])
    theirs = NearestCentroid().fit(x.numpy(), labels.numpy()).predict(x.numpy())
    assert nearest_mean(x, means).tolist() == theirs.tolist()


def test_clusters_of_ones_own_class_and_the_nearest_of_others() -> None:
    x, labels = normal(40, 3), torch.arange(40) % 2

    def cluster(rows: torch.Tensor, count: int) -> torch.Tensor:
        return torch.as_tensor(KMeans(count, n_init=5, random_state=0).fit_predict(rows.numpy()))

    members, present = members_by_clusters(x, labels, 2, 4, cluster)
    assert members.shape == (40, 2)
    assert bool(present.all())
    for c in range(2):
        mine = x[labels == c].numpy()
        theirs = KMeans(4, n_init=5, random_state=0).fit(mine)
        assert members[labels == c, c].tolist() == theirs.labels_.tolist()
        assert members[labels != c, c].tolist() == theirs.predict(x[labels != c].numpy()).tolist()


def test_a_class_without_samples_has_no_clusters() -> None:
    with pytest.raises(DistilError, match="no sample of class 1"):
        members_by_clusters(normal(3, 2), torch.zeros(3).long(), 2, 2, lambda rows, k: torch.arange(len(rows)) % k)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_fewer_clusters_than_were_asked_for_are_named() -> None:
    def cluster(rows: torch.Tensor, count: int) -> torch.Tensor:
        return torch.as_tensor(KMeans(count, n_init=1, random_state=0).fit_predict(rows.numpy()))

    x, labels = normal(20, 3), torch.arange(20) % 2
    x[labels == 1] = 0.5
    with pytest.raises(DistilError, match=r"4 clusters of class 1 were asked for, and 1 came back.* its 10 samples"):
        members_by_clusters(x, labels, 2, 4, cluster)


def test_chance_is_even_and_seeded() -> None:
    draw = [members_by_chance(3000, 2, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    counts = np.stack([draw[0][:, c].bincount(minlength=4).numpy() for c in range(2)])
    assert np.abs(counts - 750).max() < 110


def test_finer_labels_are_numbered_within_their_class() -> None:
    fine = torch.tensor([3, 8, 5, 3, -100])
    members, present = members_by_labels(fine, fine.clamp(min=0) % 2, 2, 3)
    assert members.tolist() == [[-1, 0], [0, -1], [-1, 1], [-1, 0], [-1, -1]]
    assert present.tolist() == [[True, False, False], [True, True, False]]
    with pytest.raises(DistilError, match="class 1 has 2 finer labels, and 1 to 1"):
        members_by_labels(fine, fine.clamp(min=0) % 2, 2, 1)
    with pytest.raises(DistilError, match="class 1 has 0 finer labels"):
        members_by_labels(torch.tensor([2]), torch.tensor([0]), 2, 1)


def test_a_hard_split_gives_the_class_to_one_subclass() -> None:
    logits = normal(3, 2)
    members = torch.tensor([[0, 2], [1, -1], [2, 0]])
    p = subclass_log_probs(logits, hard_split(members, 3), beta=0.3).exp()
    torch.testing.assert_close(p.sum(2), logits.softmax(1))
    assert p[0, 0].count_nonzero() == p[0, 1].count_nonzero() == 1
    torch.testing.assert_close(p[1, 1], (logits.softmax(1)[1, 1] / 3).expand(3))
    present = torch.tensor([[True, True, True], [True, False, False]])
    kept = subclass_log_probs(logits, hard_split(torch.tensor([[0, -1]] * 3), 3), present=present).exp()
    torch.testing.assert_close(kept[:, 1, 0], logits.softmax(1)[:, 1])


def test_a_sample_without_a_label_has_the_teachers_class() -> None:
    logits = normal(4, 3)
    labels = torch.tensor([0, -100, 2, -100])
    assert filled_labels(labels, logits).tolist() == [0, int(logits[1].argmax()), 2, int(logits[3].argmax())]
    with pytest.raises(DistilError, match="teacher_logits"):
        filled_labels(labels, logits[:2])
