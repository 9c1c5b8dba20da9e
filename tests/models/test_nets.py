"""The reference nets: shapes, keys, and values against plain arithmetic."""

from __future__ import annotations

import pickle
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.models import GAT, GCN, MLP, SAGE, CifarResNet, SmallCNN, UNet, load_model
from distil.models.sparse import SparseLinear, compressed_rows
from distil.models.thinning import thinned


def test_importing_models_is_light() -> None:
    heavy = ["timm", "torchvision", "torch_geometric", "pandas", "pyarrow"]
    code = f"import sys, distil.models, distil.data, distil.tasks; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_models_names_are_all_there() -> None:
    import distil.models

    assert all(getattr(distil.models, name) for name in distil.models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Unet'"):
        distil.models.Unet  # noqa: B018


def test_mlp_is_the_plain_formula_with_the_published_keys() -> None:
    model = MLP(6, 5, 3, layers=3, dropout=0.5).eval()
    assert list(model.state_dict()) == [f"layers.{k}.{part}" for k in range(3) for part in ("weight", "bias")]
    x = torch.randn(4, 2, 3)
    w = model.state_dict()
    hidden = x.reshape(4, 6)
    for k in range(2):
        hidden = (hidden @ w[f"layers.{k}.weight"].T + w[f"layers.{k}.bias"]).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ w["layers.2.weight"].T + w["layers.2.bias"])


def test_mlp_dropout_acts_in_training_on_hidden_units_only() -> None:
    torch.manual_seed(0)
    x = torch.ones(2, 6)
    assert not torch.equal(*(MLP(6, 50, 3, dropout=0.5).train()(x) for _ in range(2)))
    linear = MLP(6, 1, 3, layers=1, dropout=0.9).train()
    assert torch.equal(linear(x), linear(x))


def test_mlp_takes_widths_and_refuses_nonsense() -> None:
    assert [layer.out_features for layer in MLP(4, (8, 6), 3).layers] == [8, 6, 3]
    for bad in ({"layers": 0}, {"hidden": 0}, {"dropout": 1.0}):
        with pytest.raises(DistilError, match="MLP"):
            MLP(**({"in_features": 4, "hidden": 4, "classes": 2} | bad))
    with pytest.raises(DistilError, match=r"\(2, 5\) have 5 values per sample.*MLP\(5"):
        MLP(4, 4, 2)(torch.zeros(2, 5))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (7, 13)])
def test_cnn_stages_end_after_relu(norm: bool, size: tuple[int, int]) -> None:
    model = SmallCNN(1, 4, widths=(3, 5, 6), norm=norm).eval()
    seen: list[torch.Tensor] = []
    for k in (1, 2, 3):
        getattr(model, f"layer{k}").register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        assert model(torch.randn(2, 1, *size)).shape == (2, 4)
    assert [out.shape[1] for out in seen] == [3, 5, 6]
    assert all(float(out.min()) >= 0 for out in seen)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) is norm
    with pytest.raises(DistilError, match="SmallCNN"):
        SmallCNN(widths=())


def test_resnet_has_the_published_size_and_stages() -> None:
    model = CifarResNet(20, classes=10)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == 20
    # 0.27 M in the paper's table, which has no parameters in its shortcuts; the 1x1 convolutions are 2,752 more.
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.27e6, rel=0.03)
    seen = {}
    for name in ("layer1", "layer2", "layer3", "avgpool"):
        getattr(model, name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        model.eval()(torch.randn(2, 3, 32, 32))
    assert [tuple(seen[f"layer{k}"].shape[1:]) for k in (1, 2, 3)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert all(float(out.min()) >= 0 for out in seen.values())
    assert isinstance(model.fc, nn.Linear)


def test_resnet_takes_free_depths_and_widths() -> None:
    model = CifarResNet((1, 2), classes=3, channels=1, widths=(4, 8), stem=6)
    assert model(torch.randn(2, 1, 9, 9)).shape == (2, 3)
    with pytest.raises(DistilError, match="depth=18 is not 6n \\+ 2"):
        CifarResNet(18)
    with pytest.raises(DistilError, match="one width for each stage"):
        CifarResNet((1, 1), widths=(4, 8, 16))


@pytest.fixture
def graph() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    edges = torch.tensor([[0, 1, 1, 2, 3, 0], [1, 0, 2, 1, 0, 3]])
    adjacency = torch.zeros(5, 5)
    adjacency[edges[1], edges[0]] = 1
    return torch.rand(5, 6), edges, adjacency + torch.eye(5)  # node 4 is isolated


def test_gcn_is_the_normalised_product(graph: tuple[torch.Tensor, ...]) -> None:
    x, edges, a = graph
    model = GCN(6, 4, 3, layers=2, dropout=0.5).eval()
    root = a.sum(1).rsqrt()
    spread = root[:, None] * a * root
    w = [(layer.lin.weight, layer.bias) for layer in model.layers]
    expected = spread @ (spread @ x @ w[0][0].T + w[0][1]).clamp(min=0) @ w[1][0].T + w[1][1]
    torch.testing.assert_close(model(x, edges), expected)


def test_sage_is_the_mean_over_the_node_and_its_neighbours(graph: tuple[torch.Tensor, ...]) -> None:
    x, edges, a = graph
    model = SAGE(6, 4, 3).eval()
    nn.init.normal_(model.biases[0])
    mean = a / a.sum(1, keepdim=True)
    w = [layer.weight for layer in model.layers]
    hidden = (mean @ x @ w[0].T + model.biases[0]).clamp(min=0)
    torch.testing.assert_close(model(x, edges), mean @ hidden @ w[1].T + model.biases[1])


def test_gat_is_attention_over_the_node_and_its_neighbours(graph: tuple[torch.Tensor, ...]) -> None:
    x, edges, a = graph
    model = GAT(6, 8, 3, layers=1).eval()
    layer = model.layers[0]
    h = x @ layer.lin.weight.T
    score = (h * layer.att_dst[0]).sum(1)[:, None] + (h * layer.att_src[0]).sum(1)
    score = nn.functional.leaky_relu(score, 0.2).masked_fill(a == 0, -torch.inf)
    torch.testing.assert_close(model(x, edges), score.softmax(1) @ h + layer.bias)


def test_gat_follows_the_teacher_text() -> None:
    model = GAT(6, 8, 3, layers=3)
    assert [(m.heads, m.out_channels, m.concat) for m in model.layers] == [(4, 2, True), (4, 2, True), (1, 3, False)]
    assert all((m.dropout, m.negative_slope) == (0.3, 0.2) for m in model.layers)
    with pytest.raises(DistilError, match="hidden=6 is no multiple of heads=4"):
        GAT(6, 6, 3)


@pytest.mark.parametrize("net", [GCN, GAT, SAGE])
def test_graph_nets_add_self_loops_once_and_read_sparse_features_alike(
    net: type[nn.Module], graph: tuple[torch.Tensor, ...]
) -> None:
    x, edges, _ = graph
    x = x * (x > 0.6)
    torch.manual_seed(3)
    dense = net(6, 8, 3, layers=3, dropout=0.3)
    sparse = net(6, 8, 3, layers=3, dropout=0.3, sparse_inputs=True)
    assert dense.needs_edges is True
    assert list(dense.state_dict()) == list(sparse.state_dict())
    sparse.load_state_dict(dense.state_dict())
    loops = torch.cat([edges, torch.arange(5).expand(2, -1)], 1)
    dense.eval(), sparse.eval()
    torch.testing.assert_close(dense(x, edges), dense(x, loops))
    torch.testing.assert_close(dense(x, edges), sparse(x, edges))
    for model in (dense, sparse):
        model(x, edges).square().sum().backward()
    for (name, left), right in zip(dense.named_parameters(), sparse.parameters()):
        torch.testing.assert_close(left.grad, right.grad, msg=name)
    assert dense.train()(x, edges).std() > 0
    assert not torch.equal(dense(x, edges), dense(x, edges))  # dropout between layers


def test_sparse_linear_equals_linear_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    x = torch.rand(7, 9).double()
    x[x < 0.7] = 0
    layer = SparseLinear(9, 4).double()
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert torch.autograd.gradcheck(
        lambda w, b: torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,)), (layer.weight, layer.bias)
    )


def test_sparse_linear_notices_changes_and_survives_evaluation_first() -> None:
    x = torch.eye(4)
    layer = SparseLinear(4, 2)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert compressed_rows(x)[0] is compressed_rows(x)[0]
    before = layer(x)
    x[0, 1] = 5.0
    assert not torch.equal(before, layer(x))
    pixels = x.clone().requires_grad_()
    layer(pixels).sum().backward()
    assert pixels.grad is not None
    deepcopy(layer)(x)


def test_mlp_with_sparse_inputs_is_the_same_mlp() -> None:
    torch.manual_seed(0)
    plain = MLP(6, 5, 3)
    torch.manual_seed(0)
    sparse = MLP(6, 5, 3, sparse_inputs=True)
    x = torch.rand(4, 6) * (torch.rand(4, 6) > 0.5)
    sparse.load_state_dict(plain.state_dict())
    torch.testing.assert_close(plain(x), sparse(x))


@pytest.mark.parametrize("size", [(32, 48), (96, 128), (17, 30)])
def test_unet_scores_a_quarter_of_the_resolution_whatever_the_size(size: tuple[int, int]) -> None:
    model = load_model("distil:unet(width=4)", classes=5, input_shape=(3, *size))
    assert model(torch.zeros(2, 3, *size)).shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))
    for bad in ({"width": 0}, {"classes": 0}):
        with pytest.raises(DistilError, match="UNet"):
            UNet(**bad)


def test_unets_taps_are_found_by_meaning() -> None:
    from distil.engine.anatomy import anatomy

    found = anatomy(UNet(3, 5, width=4), lambda model: model(torch.zeros(2, 3, 32, 48)))
    places = {name: [str(place) for place in found.meanings[name]] for name in ("head", "map", "stages")}
    stages = ["down1", "down2", "down3", "down4", "up3", "up2"]
    assert places == {"head": ["head"], "map": ["up2"], "stages": stages}
    shapes = [found.records[path].output_shape[1:] for path in stages]
    assert shapes == [(4, 16, 24), (8, 8, 12), (16, 4, 6), (32, 2, 3), (8, 4, 6), (4, 8, 12)]


def test_unet_merges_coarse_and_fine() -> None:
    """A change of one pixel reaches every score through the coarsest stage, and its own corner through the finest."""
    model = UNet(3, 2, width=4).eval()
    x = torch.randn(1, 3, 32, 32).requires_grad_()
    (slope,) = torch.autograd.grad(model(x)[0, 0, 0, 0], x)
    assert (slope.abs().sum(1) > 0).float().mean() > 0.5
    assert slope[0, :, :8, :8].abs().mean() > 5 * slope[0, :, 24:, 24:].abs().mean()


def test_dropout_by_random_bits_is_dropout() -> None:
    ones = torch.ones(400, 500, requires_grad=True)
    for p in (0.5, 0.6, 0.1):
        torch.manual_seed(1)
        kept = thinned(ones, p, training=True)
        share = (kept == 0).float().mean().item()
        assert abs(share - p) < 5 * (p * (1 - p) / ones.numel()) ** 0.5
        torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 1 / (1 - p)), rtol=1e-4, atol=0)
        torch.manual_seed(1)
        assert torch.equal(thinned(ones, p, training=True), kept)
        assert not torch.equal(thinned(ones, p, training=True), kept)
    (slope,) = torch.autograd.grad(kept.sum(), ones)
    assert torch.equal(slope, kept.detach())
    assert thinned(ones, 0.5, training=False) is ones
    rows = (thinned(ones, 0.5, training=True) == 0).float()
    centred = rows - rows.mean()
    assert abs((centred[:, :-1] * centred[:, 1:]).mean()) < 0.01  # neighbours are drawn apart
    assert thinned(torch.ones(7, dtype=torch.float64), 0.5, training=True).dtype == torch.float64
    assert thinned(torch.ones(9, dtype=torch.bfloat16), 0.5, training=True).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("net", "options"), [(GCN, {}), (SAGE, {}), (SAGE, {"self_loops": 2})], ids=["gcn", "sage", "sage twice"]
)
def test_sums_by_sparse_products_are_the_librarys(
    net: type[nn.Module], options: dict[str, int], graph: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, edges, _ = graph
    torch.manual_seed(0)
    model = net(6, 8, 3, layers=3, **options)

    def run() -> list[torch.Tensor]:
        out = model(x, edges)
        return [out, *torch.autograd.grad(out.square().sum(), list(model.parameters()))]

    quick = run()
    monkeypatch.setattr("distil.models.graph_layers.neighbourhood", lambda *_, **__: None)
    for left, right in zip(quick, run()):
        torch.testing.assert_close(left, right)


def test_a_graph_network_pickles_and_copies(graph: tuple[torch.Tensor, ...]) -> None:
    x, edges, _ = graph
    model = GCN(6, 8, 3)
    for other in (pickle.loads(pickle.dumps(model)), deepcopy(model)):
        assert torch.equal(other(x, edges), model(x, edges))


def test_edges_that_change_in_place_are_summed_anew(graph: tuple[torch.Tensor, ...]) -> None:
    x, edges, _ = graph
    edges, model = edges.clone(), GCN(6, 8, 3)
    before = model(x, edges)
    edges[:, 0] = edges[:, 1]
    after = model(x, edges)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model(x, edges.clone()))


def test_sage_may_count_a_node_twice_among_its_neighbours(graph: tuple[torch.Tensor, ...]) -> None:
    x, edges, a = graph
    model = SAGE(6, 8, 3, layers=1, self_loops=2)
    twice = a + torch.eye(len(a), dtype=a.dtype)
    expected = (twice / twice.sum(1, keepdim=True)) @ (x @ model.layers[0].weight.T) + model.biases[0]
    torch.testing.assert_close(model(x, edges), expected)
    with pytest.raises(DistilError, match="once \\(1\\) or twice \\(2\\)"):
        SAGE(6, 8, 3, self_loops=0)


def test_gat_may_drop_features_out_as_well(graph: tuple[torch.Tensor, ...]) -> None:
    x, edges, _ = graph
    model = GAT(6, 8, 3, layers=1, attention_dropout=0.0, input_dropout=0.5)
    torch.testing.assert_close(model.eval()(x, edges), model(x, edges))
    assert not torch.equal(model.train()(x, edges), model(x, edges))
    with pytest.raises(DistilError, match="is outside"):
        GAT(6, 8, 3, input_dropout=1.0)
