"""The two losses by node and by pair against their definition over edges, and diagnostics against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

import distil.functional as D
from distil.errors import DistilError
from distil.functional.incidence import sparse_map

from .oracles import gradient, normal

NODES = 7
Z, H = normal(NODES, 4), normal(NODES, 4, seed=1)
ONE_WAY = torch.tensor([[0, 1, 2, 3, 0, 4], [1, 2, 3, 4, 4, 1]])  # nodes 5 and 6 stand alone
GRAPHS = {
    "symmetric": torch.cat([ONE_WAY, ONE_WAY.flip(0)], 1),
    "one way": ONE_WAY,
    "doubled": torch.cat([ONE_WAY, ONE_WAY[:, :2], ONE_WAY.flip(0)], 1),
    "none": ONE_WAY[:, :0],
}


def low(z: torch.Tensor, graph: torch.Tensor, h: torch.Tensor = H) -> torch.Tensor:
    targets = D.neighbour_means(h, D.edges(graph, len(z), self_loops=True), temperature=1.3)
    return (D.mean_divergence(z, targets) * targets.degree).sum() / targets.degree.sum()


def high(z: torch.Tensor, graph: torch.Tensor, h: torch.Tensor = H) -> torch.Tensor:
    targets = D.neighbour_pairs(h, graph, temperature=1.5)
    assert targets.weight.sum() == graph.shape[1]
    return (D.contrast_divergence(z, targets) * targets.weight).sum() / max(1, graph.shape[1])


@pytest.mark.parametrize("name", GRAPHS)
def test_by_node_and_by_pair_they_are_the_means_over_directed_edges(name: str) -> None:
    graph = GRAPHS[name]
    loops = D.edges(graph, NODES, self_loops=True)
    for quick, whole in (
        (lambda z: low(z, graph), lambda z: D.low_frequency(z, H, loops, temperature=1.3)),
        (lambda z: high(z, graph), lambda z: D.high_frequency(z, H, graph, temperature=1.5)),
    ):
        torch.testing.assert_close(quick(Z), whole(Z), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradient(quick, Z), gradient(whole, Z), rtol=1e-10, atol=1e-14)


def test_a_node_without_any_edge_is_taught_nothing() -> None:
    targets = D.neighbour_means(H, GRAPHS["symmetric"])
    assert targets.degree[6] == 0
    assert D.mean_divergence(Z, targets)[6] == 0


@pytest.mark.parametrize("loss", [low, high])
def test_one_class_infinite_confidence_and_half_precision(loss) -> None:
    graph = GRAPHS["symmetric"]
    assert loss(Z[:, :1], graph, H[:, :1]) == 0
    sure = torch.eye(4).repeat(2, 1)[:NODES].double() * 1e6
    assert loss(-sure, graph, sure).isfinite()
    assert gradient(lambda z: loss(z, graph, sure), -sure).isfinite().all()
    half, other = Z.bfloat16(), H.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        seen = loss(half, graph, other)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen, loss(half.float(), graph, other.float()))


def test_the_teacher_gets_no_gradient() -> None:
    teacher = H.clone().requires_grad_()
    for loss in (low, high):
        loss(Z.clone().requires_grad_(), GRAPHS["symmetric"], teacher).backward()
    assert teacher.grad is None


def test_what_does_not_fit_is_refused() -> None:
    for make in (D.neighbour_means, D.neighbour_pairs):
        with pytest.raises(DistilError, match="names node 7 but the nodes are 0 … 6"):
            make(H, torch.tensor([[0], [7]]))
        with pytest.raises(DistilError, match="must be above 0"):
            make(H, GRAPHS["one way"], temperature=0.0)
    with pytest.raises(DistilError, match="one row per node of the targets"):
        D.mean_divergence(Z[:3], D.neighbour_means(H, GRAPHS["one way"]))


def test_a_sparse_map_is_the_dense_product_in_value_and_gradient() -> None:
    index, values = torch.tensor([[0, 2, 2, 2], [1, 0, 3, 3]]), torch.tensor([1.0, -2.0, 3.0, 0.5]).double()
    with torch.inference_mode():  # what an evaluation made must serve training
        made = sparse_map(index, values, (3, 4))
    dense = torch.zeros(3, 4).double().index_put_(tuple(index), values, accumulate=True)
    x = normal(4, 2, seed=3)
    torch.testing.assert_close(made(x), dense @ x)
    assert torch.autograd.gradcheck(made, x.clone().requires_grad_())
    with pytest.raises(DistilError, match="one row per column"):
        made(x[0])


def test_the_cosine_is_by_node_and_zero_for_a_silent_one() -> None:
    student = Z.clone()
    student[2] = 0
    z, h = student.numpy(), H.numpy()
    lengths = np.linalg.norm(z, axis=1) * np.linalg.norm(h, axis=1)
    expected = np.where(lengths > 0, (z * h).sum(1) / np.maximum(lengths, 1e-12), 0)
    np.testing.assert_allclose(D.output_cosine(student, H), expected, rtol=1e-10)


def test_distances_of_neighbours_are_compared_as_one_distribution() -> None:
    graph = GRAPHS["symmetric"]
    z, h = Z.numpy(), H.numpy()
    far = [[np.linalg.norm(x[i] - x[j]) for i, j in graph.T.tolist()] for x in (h, z)]
    expected = rel_entr(softmax(far[0]), softmax(far[1])).sum()
    with_loops = D.edges(graph, NODES, self_loops=True)
    np.testing.assert_allclose(D.pair_distance_divergence(Z, H, with_loops), expected, rtol=1e-10)
    assert expected > 0.01
    for same in (H, -H, H + 3):
        assert D.pair_distance_divergence(same, H, graph).abs() < 1e-14
    assert D.pair_distance_divergence(Z, H, GRAPHS["none"]) == 0


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_features_travel_by_the_normalised_matrix(hops: int) -> None:
    graph = GRAPHS["symmetric"]
    a = torch.eye(NODES).double()
    a[graph[0], graph[1]] = 1
    scale = a.sum(1).rsqrt()
    whole = torch.linalg.matrix_power(scale[:, None] * a * scale, hops)
    torch.testing.assert_close(D.propagated_features(Z, graph, hops=hops), whole @ Z)
    torch.testing.assert_close(D.propagated_features(Z, graph, hops=hops)[6], Z[6])  # it has no neighbour


def test_noise_mixes_and_impossible_amounts_are_refused() -> None:
    noise = normal(NODES, 4, seed=2)
    assert torch.equal(D.noisy_features(Z, noise, amount=0.0), Z)
    assert torch.equal(D.noisy_features(Z, noise, amount=1.0), noise)
    torch.testing.assert_close(D.noisy_features(Z, noise, amount=0.3), 0.7 * Z + 0.3 * noise)
    with pytest.raises(DistilError, match=r"must lie in \[0, 1\]"):
        D.noisy_features(Z, noise, amount=1.5)
    with pytest.raises(DistilError, match="at least 0"):
        D.propagated_features(Z, GRAPHS["none"], hops=-1)
