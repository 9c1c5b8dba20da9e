"""ShuffleNet: published sizes and operations, the paper's unit written out, its taps, and its lesson as a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from distil.engine import Distiller
from distil.engine.anatomy import anatomy
from distil.errors import DistilError
from distil.methods import KD
from distil.models import ShuffleNet, load_model
from distil.models.shufflenet import ShuffleUnit, shuffled

# Counted by others from networks of their own, 1,000 classes.
PARAMETERS = {
    (1.0, 1): 1531936, (1.0, 2): 1733848, (1.0, 3): 1865728, (1.0, 4): 1968344, (1.0, 8): 2434768,
    (0.75, 1): 975214, (0.75, 3): 1238266, (0.5, 1): 534484, (0.5, 3): 718324, (0.25, 1): 209746, (0.25, 3): 305902,
}  # fmt: skip
# Table 1 of the paper: millions of multiplications and additions, images of 224 pixels.
OPERATIONS = {1: 143, 2: 140, 3: 137, 4: 133, 8: 137}


@pytest.mark.parametrize(("width", "groups"), PARAMETERS)
def test_it_has_as_many_parameters_as_other_networks_of_that_name(width: float, groups: int) -> None:
    model = ShuffleNet(width, groups, classes=1000)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[width, groups]


@contextmanager
def counted(model: nn.Module, found: dict[str, int]) -> Iterator[None]:
    """Count the multiplications of every convolution and linear layer that is called."""

    def count(name: str, layer: nn.Module, output: Tensor) -> None:
        found[name] = output[0].numel() * layer.get_parameter("weight")[0].numel()
        if isinstance(layer, nn.Linear):
            found[name] = layer.get_parameter("weight").numel()

    hooks = [
        each.register_forward_hook(lambda layer, _, output, name=name: count(name, layer, output))
        for name, each in model.named_modules()
        if isinstance(each, (nn.Conv2d, nn.Linear))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("groups", OPERATIONS)
def test_it_takes_the_papers_operations_behind_its_stem(groups: int) -> None:
    model, found = ShuffleNet(1.0, groups, classes=1000).eval(), dict[str, int]()
    with counted(model, found), torch.no_grad():
        model(torch.zeros(1, 3, 56, 56))  # where the paper's stem has brought 224 pixels
    stem = found.pop("stem.0")
    total = sum(found.values()) + 4 * stem  # with a stride of 2 from 224: 112 x 112, then the pool
    assert total / 1e6 == pytest.approx(OPERATIONS[groups], rel=0.015)


def plain_unit(unit: ShuffleUnit, x: Tensor) -> Tensor:
    """Figure 2 of the paper, group by group and channel by channel."""

    def normed(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]

    def grouped(part: nn.Sequential, x: Tensor) -> Tensor:
        weight = part[0].weight.flatten(1)
        groups = x.shape[1] // weight.shape[1]
        sides = zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
        return normed(part[1], torch.cat([torch.einsum("oi,bihw->bohw", w, part_of) for part_of, w in sides], 1))

    thin = grouped(unit.narrow, x).clamp(min=0)
    each = thin.shape[1] // unit.groups
    thin = thin[:, [g * each + k for k in range(each) for g in range(unit.groups)]]  # one of each group in turn
    weight, stride = unit.filter[0].weight, unit.filter[0].stride[0]
    wide = nn.functional.pad(thin, (1, 1, 1, 1))
    high, long = thin.shape[2:]
    sums = torch.zeros_like(thin[:, :, ::stride, ::stride])
    for i in range(3):
        for j in range(3):
            sums += weight[:, 0, i, j, None, None] * wide[:, :, i : i + high : stride, j : j + long : stride]
    made = grouped(unit.widen, normed(unit.filter[1], sums))
    if stride == 1:
        return (x + made).clamp(min=0)
    mean = nn.functional.conv2d(x, torch.full((x.shape[1], 1, 3, 3), 1 / 9), None, 2, 1, groups=x.shape[1])
    return torch.cat([mean, made], 1).clamp(min=0)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_it_is_the_papers_net(groups: int) -> None:
    torch.manual_seed(0)
    model = ShuffleNet(0.25, groups, classes=5)
    for _ in range(3):
        model(torch.randn(8, 3, 16, 16))  # running statistics that are not those of the start
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        hidden = model.eval().stem(x)
        for unit in [*model.layer1, *model.layer2, *model.layer3]:
            hidden = plain_unit(unit, hidden)
        torch.testing.assert_close(model(x), model.fc(hidden.mean((2, 3))), rtol=1e-4, atol=1e-4)


def test_each_group_reads_from_all_after_the_shuffle() -> None:
    for groups in (2, 3, 4):
        own = torch.arange(groups).repeat_interleave(12).float().view(1, -1, 1, 1)
        for part in shuffled(own, groups).chunk(groups, 1):
            assert part.unique().tolist() == list(range(groups))


def test_its_taps() -> None:
    model = load_model("distil:shufflenet(groups=3)", classes=7, input_shape=(1, 32, 32))
    seen = anatomy(model, lambda net: net(torch.randn(2, 1, 32, 32)))
    found = {name: [str(place) for place in places] for name, places in seen.meanings.items()}
    assert (found["map"], found["emb"], found["head"]) == (["layer3"], ["fc:in"], ["fc"])
    shapes = [seen.records[name].output_shape for name in ("stem", "layer1", "layer2", "layer3", "avgpool")]
    assert shapes == [(2, 24, 32, 32), (2, 240, 16, 16), (2, 480, 8, 8), (2, 960, 4, 4), (2, 960, 1, 1)]
    assert [seen.records[path].output_shape[2] for path in found["stages"]] == [32, 16, 8, 4]


def test_a_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    model = ShuffleNet(0.5, classes=4)
    nn.functional.cross_entropy(model(torch.randn(8, 3, 16, 16)), torch.arange(8) % 4).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_a_student_learns_from_it() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(24, 3, 16, 16), torch.arange(24) % 3
    teacher, student = ShuffleNet(0.25, classes=3), load_model("distil:cnn(widths=(8, 8))", classes=3)
    adam = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(20):
        adam.zero_grad()
        nn.functional.cross_entropy(teacher(x), y).backward()
        adam.step()
    batch = {"inputs": x, "labels": y}
    distiller = Distiller(student, teacher, KD(), example=batch)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    adam, losses = torch.optim.Adam(student.parameters(), lr=1e-2), []
    for _ in range(30):
        loss = distiller(batch).loss
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_what_is_no_shufflenet_is_refused() -> None:
    for bad in ({"groups": 5}, {"width": 0}, {"classes": 0}, {"channels": 0}):
        with pytest.raises(DistilError, match="ShuffleNet"):
            ShuffleNet(**bad)
    for groups, least in ((1, 0.03), (2, 0.03), (3, 0.04), (4, 0.05), (8, 0.07)):
        assert ShuffleNet(least, groups)(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
        with pytest.raises(DistilError, match=f"a width of {least:g} or more"):
            ShuffleNet(least - 0.01, groups)
    with pytest.raises(DistilError, match="did you mean 'shufflenet'"):
        load_model("distil:shuflenet")
