"""Rebuilding a model before it is distilled: old outputs stay, merges are exact, the given model is never touched."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import nn

from distil.data.fingerprint import fingerprint
from distil.errors import DistilError
from distil.models import MLP, CifarResNet, SmallCNN
from distil.models.heads import find_head
from distil.models.lora import LowRank, lora_parts
from distil.models.rebuild import (
    add_lora,
    copy_layers,
    grow_classes,
    interpolate_init,
    interpolated,
    merge_lora,
    to_experts,
    with_outputs,
    with_second_head,
)


@pytest.fixture
def cnn() -> Iterator[nn.Module]:
    torch.manual_seed(0)
    model = SmallCNN(1, 4, widths=(3, 5)).eval()
    before = fingerprint(model)
    yield model
    assert fingerprint(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, 8, 8)


def test_with_outputs_keeps_the_old_ones(cnn: nn.Module, images: torch.Tensor) -> None:
    wide = with_outputs(cnn, 7)
    assert wide(images).shape == (6, 7)
    assert not wide.training
    torch.testing.assert_close(wide(images)[:, :4], cnn(images), rtol=0, atol=1e-6)
    mean = with_outputs(cnn, 6, init="mean")
    torch.testing.assert_close(mean(images)[:, 4], cnn(images).mean(1))
    with pytest.raises(DistilError, match="3 outputs are fewer than the 4"):
        with_outputs(cnn, 3)
    with pytest.raises(DistilError, match="'mean'"):
        with_outputs(cnn, 6, init="meen")
    with pytest.raises(DistilError, match="'fc'"):
        with_outputs(cnn, 6, head="fcc")
    with pytest.raises(DistilError, match=r"no nn\.Linear"):
        with_outputs(nn.ReLU(), 6)


def test_grow_classes_and_a_bare_linear(cnn: nn.Module, images: torch.Tensor) -> None:
    assert grow_classes(cnn, 3)(images).shape == (6, 7)
    grown = grow_classes(nn.Linear(4, 2, bias=False).double(), 1)
    assert grown.weight.shape == (3, 4)
    assert grown.weight.dtype == torch.float64
    assert grown.bias is None
    with pytest.raises(DistilError, match="at least one class"):
        grow_classes(cnn, 0)


def test_timm_heads_are_found_and_renumbered() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=5).eval()
    assert find_head(model) == "fc"
    grown = grow_classes(model, 2)
    assert grown.num_classes == 7
    assert grown(torch.rand(1, 3, 32, 32)).shape == (1, 7)


def test_second_head_shares_the_features(cnn: nn.Module, images: torch.Tensor) -> None:
    torch.manual_seed(1)
    double = with_second_head(cnn, 6)
    output = double(images)
    assert (output.logits.shape, output.second.shape) == ((6, 4), (6, 6))
    torch.testing.assert_close(output.logits, cnn(images))
    output.second.sum().backward()
    first, second = double.heads
    assert first.weight.grad is None or first.weight.grad.abs().sum() == 0
    assert second.weight.grad is not None
    assert second.weight.grad.abs().sum() > 0
    assert double.model.layer1[0].weight.grad.abs().sum() > 0
    inner = nn.Sequential(nn.Linear(4, 4), nn.MaxPool1d(2))
    with pytest.raises(DistilError, match="gives 6 outputs but the model returns"):
        with_second_head(inner, 2, head="0")(torch.zeros(2, 4))


@pytest.mark.parametrize("targets", [("linear", "conv"), "layer*.0", "conv", ["fc", "layer2.1"]])
def test_lora_starts_as_the_model_trains_only_itself_and_merges_exactly(
    cnn: nn.Module, images: torch.Tensor, targets: str
) -> None:
    tuned = add_lora(cnn, 2, targets)
    torch.testing.assert_close(tuned(images), cnn(images), rtol=0, atol=0)
    trained = {name for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.endswith((".A", ".B")) for name in trained)
    frozen = {name: p.clone() for name, p in tuned.named_parameters() if name not in trained}
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(tuned(images), torch.arange(6) % 4).backward()
        optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in tuned.named_parameters() if name in frozen)
    merged = merge_lora(tuned)
    assert not torch.allclose(tuned(images), cnn(images))
    assert torch.equal(merged(images), tuned(images))
    assert list(merged.state_dict()) == list(cnn.state_dict())
    assert [type(m) for m in merged.modules()] == [type(m) for m in cnn.modules()]
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert lora_parts(tuned)  # the tuned model itself is not merged, and neither is a copy of it
    assert torch.equal(merge_lora(deepcopy(tuned))(images), deepcopy(tuned)(images))


def test_lora_update_is_the_row_major_view_and_serves_grouped_convolutions() -> None:
    for conv in (nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, (3, 1), groups=2), nn.Conv2d(4, 6, 1)):
        update = LowRank(conv.weight, 2, alpha=4)
        nn.init.normal_(update.B)
        out, into, rows, columns = conv.weight.shape
        assert update.A.shape == (2 * rows, into * columns)
        assert update.B.shape == (out * rows, 2 * rows)
        delta = (update.B @ update.A).reshape(out, into, rows, columns)
        torch.testing.assert_close(update(conv.weight), conv.weight + 2 * delta)


def test_lora_refuses_what_is_not_there(cnn: nn.Module) -> None:
    with pytest.raises(DistilError, match=r"matches 'layer9.*'; .*'layer1\.0'"):
        add_lora(cnn, 2, "layer9.0")
    with pytest.raises(DistilError, match="rank=0"):
        add_lora(cnn, 0)
    with pytest.raises(DistilError, match="merge them first"):
        add_lora(add_lora(cnn, 2), 2)
    with pytest.raises(DistilError, match="no low-rank updates"):
        merge_lora(cnn)


def block() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 10), nn.GELU(), nn.Linear(10, 3)).double()


def test_all_experts_under_an_even_router_are_the_dense_block() -> None:
    dense, x = block(), torch.randn(2, 5, 4).double()
    order = torch.randperm(10)
    split = to_experts(dense, experts=4, active=4, shared=2, order=order)
    nn.init.zeros_(split.router.weight)
    torch.testing.assert_close(split(x), dense(x), rtol=1e-12, atol=1e-12)
    assert split.share == 1.0


def test_experts_route_each_row_by_itself() -> None:
    dense, x = block(), torch.randn(9, 4).double()
    split = to_experts(dense, experts=4, active=2, shared=2)
    nn.init.normal_(split.router.weight, std=2)
    assert split.share == pytest.approx(0.6)
    chances = split.router(x).softmax(-1)
    for row in range(9):
        best, chosen = chances[row].topk(2)
        parts = [split.outer[-1](split.activation(split.inner[-1](x[row]))), split.bias]
        for gate, i in zip(2 * best / best.sum(), chosen.tolist()):
            parts.append(gate * split.outer[i](split.activation(split.inner[i](x[row]))))
        torch.testing.assert_close(split(x)[row], sum(parts), rtol=1e-5, atol=1e-7)
    split(x).sum().backward()
    assert split.router.weight.grad.abs().sum() > 0


def test_experts_inside_a_model_and_wrong_sizes() -> None:
    model = nn.ModuleDict({"ffn": block()})
    split = to_experts(model, "ffn", experts=5, active=1)
    assert type(model["ffn"]) is nn.Sequential
    assert split["ffn"].sizes == [0, 2, 2, 2, 2, 2]
    assert split["ffn"](torch.zeros(1, 4).double()).shape == (1, 3)
    with pytest.raises(DistilError, match="10 hidden units cannot be split into 1 shared and 4 equal"):
        to_experts(block(), experts=4, active=1, shared=1)
    with pytest.raises(DistilError, match="each of the 10 hidden units once"):
        to_experts(block(), experts=5, active=1, order=torch.zeros(10))
    with pytest.raises(DistilError, match=r"expected nn\.Sequential"):
        to_experts(MLP(4, 4, 2), experts=2, active=1)


def test_interpolate_init_follows_the_formula_and_keeps_variance() -> None:
    torch.manual_seed(0)
    fresh, teacher = torch.randn(200_000), torch.randn(200_000)
    for alpha in (0.0, 0.3, 1.0):
        assert float(interpolated(fresh, teacher, alpha=alpha).var()) == pytest.approx(1, rel=0.02)
    assert torch.equal(interpolated(fresh, teacher, alpha=0.0), teacher)
    assert torch.equal(interpolated(fresh, teacher, alpha=1.0), fresh)
    near = interpolated(fresh, teacher, alpha=0.1, kind="neighbourhood")
    torch.testing.assert_close(near, (teacher + 0.1 * fresh) / 1.01**0.5)
    student, model = MLP(4, 5, 3), MLP(4, 5, 3)
    mixed = interpolate_init(student, model, 0.3)
    for name, value in mixed.named_parameters():
        expected = (0.7 * model.get_parameter(name) + 0.3 * student.get_parameter(name)) / (0.09 + 0.49) ** 0.5
        torch.testing.assert_close(value, expected)
    with pytest.raises(DistilError, match="'neighbourhood'"):
        interpolate_init(student, model, 0.3, kind="neighborhood")
    with pytest.raises(DistilError, match=r"'layers.0.weight' has shape \(5, 4\) in the student and \(6, 4\)"):
        interpolate_init(student, MLP(4, 6, 3), 0.3)


def test_copy_layers_takes_buffers_too_and_names_what_differs() -> None:
    student, teacher = CifarResNet(8, classes=3), CifarResNet(14, classes=3)
    teacher.layer1[0].bn1.running_mean.fill_(7.0)
    copied = copy_layers(student, teacher, {"layer1.0": "layer1.0", "fc": "fc"})
    assert torch.equal(copied.layer1[0].bn1.running_mean, teacher.layer1[0].bn1.running_mean)
    assert torch.equal(copied.fc.weight, teacher.fc.weight)
    assert not torch.equal(student.fc.weight, teacher.fc.weight)
    with pytest.raises(DistilError, match=r"no module 'layer5'; .*'layer"):
        copy_layers(student, teacher, {"layer5": "layer1"})
    with pytest.raises(DistilError, match="differ in"):
        copy_layers(student, teacher, {"layer1": "layer1"})
