"""A graph network's layers as they are passed, GNNDelete's operators after them, and GIN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.functional.gnndelete import DELETION_START
from distil.models import GAT, GCN, GIN, SAGE
from distil.models.deletion import WithDeletion, layer_outputs, message_layers, under_operators, without_operators

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]])
EDGES = torch.cat([EDGES, EDGES.flip(0)], 1)
NETS = [GCN(5, 8, 3), GAT(5, 8, 3), GIN(5, 8, 3)]


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_every_layer_is_seen_before_its_activation_and_the_output_is_the_last(net: nn.Module) -> None:
    net.eval()
    output, layers = layer_outputs(net, X, EDGES)
    assert torch.equal(output, net(X, EDGES))
    assert torch.equal(layers[-1], output)
    assert layers[0].shape == (7, 8)
    assert (layers[0] < 0).any()
    assert not any(part._forward_hooks for part in net.modules())


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_operators_change_their_rows_and_an_empty_mask_nothing(net: nn.Module) -> None:
    net.eval()
    nothing = torch.zeros(7, dtype=torch.bool)
    still = WithDeletion(net, [nothing, nothing], [8, 3])
    assert torch.equal(still(X, EDGES), net(X, EDGES))
    rows = torch.tensor([True, False, False, False, False, False, True])
    made = WithDeletion(net, [nothing, rows], [8, 3]).eval()
    assert all(bool((operator == DELETION_START).all()) for operator in made.operators)
    changed, plain = made(X, EDGES), net(X, EDGES)
    assert torch.equal(changed[~rows], plain[~rows])
    torch.testing.assert_close(changed[rows], (plain @ made.operators[1])[rows])
    assert {name for name, p in made.named_parameters() if p.requires_grad} == {"operators.0", "operators.1"}


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_a_first_layer_that_is_kept_gives_the_same_values_and_gradients(net: nn.Module) -> None:
    rows = [torch.arange(7) < 4, torch.arange(7) < 6]
    made = WithDeletion(net, rows, [8, 3]).eval()
    plain = made.layer_outputs(X, EDGES)
    slopes = torch.autograd.grad(plain[1].square().sum(), list(made.operators))
    with made.first_kept(X, EDGES):
        kept = made.layer_outputs(X, EDGES)
        again = torch.autograd.grad(kept[1].square().sum(), list(made.operators))
    assert all(torch.equal(a, b) for a, b in zip((*plain, *slopes), (*kept, *again)))
    assert torch.equal(made.layer_outputs(X * 2, EDGES)[0], made.layer_outputs(X * 2, EDGES)[0])
    assert not torch.equal(made.layer_outputs(X * 2, EDGES)[0], kept[0])


def test_networks_whose_layers_pass_no_messages_are_refused() -> None:
    with pytest.raises(DistilError, match=r"use a network of two or more of torch-geometric's convolutions"):
        message_layers(SAGE(5, 8, 3))

    class Twice(GCN):
        def forward(self, inputs: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs, edge_index) + super().forward(inputs, edge_index)

    with pytest.raises(DistilError, match="layer 0 of Twice runs twice"):
        layer_outputs(Twice(5, 8, 3), X, EDGES)


def test_gin_sums_a_node_and_its_neighbours_before_each_linear_layer() -> None:
    net = GIN(5, 8, 3).eval()
    whole = torch.eye(7)
    whole[EDGES[1], EDGES[0]] = 1.0
    first, last = (layer.nn for layer in net.layers)
    expected = last(whole @ first(whole @ X).relu())
    torch.testing.assert_close(net(X, EDGES), expected)


def test_a_network_is_put_under_the_operators_that_were_saved_with_it() -> None:
    rows = [torch.arange(7) < 4, torch.arange(7) < 6]
    made = WithDeletion(GCN(5, 8, 3), rows, [8, 3]).eval()
    state = {name: value.clone() for name, value in made.state_dict().items()}
    again = under_operators(GCN(5, 8, 3), state)
    again.load_state_dict(state)
    assert torch.equal(again.eval()(X, EDGES), made(X, EDGES))
    plain = GCN(5, 8, 3)
    assert under_operators(plain, plain.state_dict()) is plain
    assert without_operators(plain) is plain
    assert without_operators(again).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    "changed",
    [{"mask1": None}, {"operators.0": None}, {"operators.1": torch.ones(3, 2)}, {"mask0": torch.ones(7, 1)}],
    ids=str,
)
def test_operators_that_were_changed_are_refused(changed: dict[str, torch.Tensor | None]) -> None:
    state = dict(WithDeletion(GCN(5, 8, 3), [torch.ones(7, dtype=torch.bool)] * 2, [8, 3]).state_dict()) | changed
    kept = {name: value for name, value in state.items() if value is not None}
    if "operators.0" in kept:
        with pytest.raises(DistilError, match="were changed, so restore"):
            under_operators(GCN(5, 8, 3), kept)
    else:  # then it looks like a network's own names, which do not fit
        assert isinstance(under_operators(GCN(5, 8, 3), kept), GCN)
