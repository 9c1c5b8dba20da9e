"""Losses over edges against plain loops, and the shifts, permutations and limits their sheet names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

import distil.functional as D
from distil.errors import DistilError

from .oracles import gradient, kl_rows, normal

NODES = 7
Z, H = normal(NODES, 4), normal(NODES, 4, seed=1)
ONE_WAY = torch.tensor([[0, 1, 2, 3, 0, 4], [1, 2, 3, 4, 4, 1]])  # node 6 stands alone, node 5 too
E0 = torch.cat([ONE_WAY, ONE_WAY.flip(0)], dim=1)
E1 = D.edges(E0, NODES, self_loops=True)
NONE = E0[:, :0]
LOOPS = torch.arange(NODES).expand(2, -1)


def low(z: torch.Tensor, h: torch.Tensor = H, edges: torch.Tensor = E1) -> torch.Tensor:
    return D.low_frequency(z, h, edges)


def high(z: torch.Tensor, h: torch.Tensor = H, edges: torch.Tensor = E0) -> torch.Tensor:
    return D.high_frequency(z, h, edges, temperature=1.5)


def test_both_losses_are_means_over_edges_of_scipys_relative_entropy() -> None:
    z, h = Z.numpy(), H.numpy()
    rows = [rel_entr(softmax(h[j]), softmax(z[i])).sum() for i, j in E1.T.tolist()]
    np.testing.assert_allclose(D.low_frequency(Z, H, E1, reduction="none"), rows, rtol=1e-10)
    np.testing.assert_allclose(low(Z), np.mean(rows), rtol=1e-12)
    gaps = [(np.abs(z[i] - z[j])[None], np.abs(h[i] - h[j])[None]) for i, j in E0.T.tolist()]
    np.testing.assert_allclose(high(Z), np.mean([kl_rows(s, t, 1.5) for s, t in gaps]), rtol=1e-12)
    contrast = np.log([softmax(s[0] / 1.5) for s, _ in gaps])
    np.testing.assert_allclose(D.neighbour_contrast(Z, E0, temperature=1.5), contrast, rtol=1e-10)


def test_edges_drop_loops_and_add_them_once() -> None:
    messy = torch.tensor([[0, 1, 1, 2, 2], [1, 1, 0, 2, 0]])
    assert D.edges(messy, 3, self_loops=False).tolist() == [[0, 1, 2], [1, 0, 0]]
    assert D.edges(messy, 3, self_loops=True).tolist() == [[0, 1, 2, 0, 1, 2], [1, 0, 0, 0, 1, 2]]
    assert torch.equal(D.edges(E1, NODES, self_loops=True), E1)
    assert torch.equal(D.edges(E1, NODES, self_loops=False), E0)
    assert torch.equal(D.edges(NONE, NODES, self_loops=True), LOOPS)


def test_with_self_loops_alone_low_frequency_is_glnns_term_exactly() -> None:
    assert torch.equal(low(Z, edges=LOOPS), D.node_kl(Z, H))


def test_shifts() -> None:
    same_for_all, per_node = normal(1, 4, seed=5), normal(NODES, 1, seed=6)
    torch.testing.assert_close(high(Z + same_for_all), high(Z))
    torch.testing.assert_close(low(Z + per_node), low(Z))
    assert not torch.isclose(high(Z + per_node), high(Z))
    assert not torch.isclose(low(Z + same_for_all), low(Z))


def test_where_high_frequency_vanishes() -> None:
    for student in (H, -H, H + normal(1, 4, seed=5)):
        torch.testing.assert_close(high(student), torch.tensor(0.0).double(), rtol=0, atol=1e-14)
    assert (gradient(high, H).abs() < 1e-14).all()


def test_low_frequency_vanishes_at_equality_only_where_neighbours_agree() -> None:
    assert low(H) > 0.1
    alike = H[:1].expand(NODES, -1)
    torch.testing.assert_close(low(alike, alike), torch.tensor(0.0).double(), rtol=0, atol=1e-14)


def test_the_best_student_of_a_node_is_the_mean_of_its_neighbours_teachers() -> None:
    sources, targets = E1
    best = torch.stack([H.softmax(1)[targets[sources == i]].mean(0) for i in range(NODES)])
    assert gradient(low, best.log()).abs().max() < 1e-12
    z = torch.zeros_like(H).requires_grad_()
    optimizer = torch.optim.LBFGS([z], max_iter=100, tolerance_grad=1e-10, tolerance_change=0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = low(z)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(z.detach().softmax(1), best, rtol=0, atol=1e-5)


def test_node_ids_and_edge_directions_do_not_matter() -> None:
    new_id = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    z, h = torch.empty_like(Z), torch.empty_like(H)
    z[new_id], h[new_id] = Z, H
    for loss, edges in ((low, E1), (high, E0)):
        torch.testing.assert_close(loss(z, h, new_id[edges]), loss(Z))
        torch.testing.assert_close(loss(Z, H, edges.flip(0)), loss(Z))


@pytest.mark.parametrize("loss", [D.low_frequency, D.high_frequency])
def test_without_edges_the_loss_is_zero_and_differentiable(loss) -> None:
    assert loss(Z, H, NONE) == 0
    assert (gradient(lambda z: loss(z, H, NONE), Z) == 0).all()


@pytest.mark.parametrize("loss", [low, high])
def test_one_class_teaches_nothing(loss) -> None:
    assert loss(Z[:, :1], H[:, :1]) == 0
    assert (gradient(lambda z: loss(z, H[:, :1]), Z[:, :1]) == 0).all()


def test_a_lone_node_counts_through_its_self_loop_and_a_doubled_edge_twice() -> None:
    assert (gradient(low, Z)[6] != 0).any()
    assert (gradient(high, Z)[6] == 0).all()
    rows = D.low_frequency(Z, H, E1, reduction="none")
    doubled = torch.cat([E1, E1[:, :1]], dim=1)
    torch.testing.assert_close(low(Z, edges=doubled), (rows.sum() + rows[0]) / (len(rows) + 1))


@pytest.mark.parametrize(
    "call", [low, high, lambda z, h, e: D.neighbour_contrast(z, e), lambda z, h, e: D.edges(e, 7, self_loops=True)]
)
def test_edges_to_nowhere_are_refused(call) -> None:
    for node in (NODES, -1):
        with pytest.raises(DistilError, match=rf"names node {node} but the nodes are 0 … 6"):
            call(Z, H, torch.tensor([[0, 1], [1, node]]))
    with pytest.raises(DistilError, match=r"edge_index is \(3, 2\) but \(2, E\) is expected; transpose"):
        call(Z, H, torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(DistilError, match="not node ids"):
        call(Z, H, E0.double())


def test_other_classes_are_refused_by_both_shapes() -> None:
    for loss in (low, high):
        with pytest.raises(DistilError, match=r"\(7, 4\) and the teacher \(7, 3\)"):
            loss(Z, H[:, :3])
