"""The rivals that compare feature maps: what each learns, what ships, and what they refuse."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.engine import Distiller, Method, Sum, during
from distil.engine.method import as_sum
from distil.errors import DistilError
from distil.functional import attention_transfer, class_attention, class_maps, flow_matrix, fsp, mse
from distil.methods import AT, CATKD, FSP, KD, VID, ReviewKD, SimKD, Supervised
from distil.methods.simkd import Projector
from distil.models import with_class_maps
from engine import toys

ON_MAPS: list[type[Method]] = [VID, FSP, ReviewKD, SimKD, CATKD]
on_maps = pytest.mark.parametrize("kind", ON_MAPS, ids=lambda kind: kind.__name__)


def nets(student: int = 4, teacher: int = 6, **options: Any) -> tuple[nn.Module, nn.Module]:
    return toys.seeded(lambda: toys.CNN(student, **options), 1), toys.seeded(lambda: toys.CNN(teacher), 2)


def made(method: Method | Sum, pair: tuple[nn.Module, nn.Module] | None = None, **options: Any) -> Distiller:
    example = toys.batch(toys.images(8), 4)
    return Distiller(*(pair or nets()), method, example=example, epochs=10, **options)


def parts(distiller: Distiller) -> tuple[Any, Any, dict[str, Tensor], Any]:
    """Both traces on one batch, the values of the method's terms, and the method."""
    batch = toys.batch(toys.images(8))
    student, teacher = distiller.cast.handles()
    component = next(iter(distiller.method))
    terms = component.method(student, teacher, batch, distiller.ctx)
    return student(batch), teacher(batch), {name: term.values for name, term in terms.items()}, component.method


class Tokens(nn.Module):
    """Patches with a class token, mixed once; scored by the mean of the tokens."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, width, 2, 2)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(width, toys.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = torch.cat([self.cls.expand(len(inputs), -1, -1), self.patch(inputs).flatten(2).mT], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


class Flat(nn.Module):
    """Classifies the flattened map, so that no average of it is read."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = toys.CNN(width)
        self.body.pool, self.body.head = nn.Identity(), nn.Linear(16 * width, toys.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs)


# ---- what all of them owe


@on_maps
def test_a_token_model_is_refused_with_the_methods_that_fit(kind: type[Method]) -> None:
    for pair in ((toys.seeded(Tokens, 1), nets()[1]), (nets()[0], toys.seeded(Tokens, 2))):
        with pytest.raises(DistilError, match=r"a method on logits or embeddings \(kd, dkd, dist, rkd"):
            made(kind(), pair)


@on_maps
def test_maps_of_other_sizes_meet(kind: type[Method]) -> None:
    """A student whose maps are half as large, and one whose maps are twice as large, both learn."""

    class Halved(toys.CNN):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(nn.functional.avg_pool2d(inputs, 2))

    small, large = toys.seeded(lambda: Halved(4), 1), toys.seeded(lambda: toys.CNN(6), 2)
    for pair in ((small, large), (copy.deepcopy(large), copy.deepcopy(small))):
        distiller = made(kind(), pair)
        loss = distiller(toys.batch(toys.images(8))).loss
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in distiller.student.parameters() if p.grad is not None)


@on_maps
def test_maps_of_zeros_give_finite_gradients(kind: type[Method]) -> None:
    distiller = made(kind())
    for model in (distiller.student, distiller.teachers["model"]):
        model.two[0].weight.data.zero_()
        model.two[0].bias.data.zero_()
        model.two[1] = nn.Identity()
    distiller(toys.batch(toys.images(8))).loss.backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


@on_maps
def test_adapters_leave_no_trace_in_what_ships(kind: type[Method]) -> None:
    distiller = made(as_sum(kind()) + Supervised())
    if kind is not SimKD:
        assert distiller.deployed() is distiller.student
    own = {name for name in distiller.state_dict() if not name.startswith("method.")}
    assert {name.removeprefix("student.") for name in own} == set(distiller.student.state_dict())


@pytest.mark.parametrize("kind", [SimKD, CATKD], ids=lambda kind: kind.__name__)
def test_other_classes_and_unpooled_heads_are_refused(kind: type[Method]) -> None:
    with pytest.raises(DistilError, match="must score the same classes"):
        made(kind(), nets(classes=5))
    flat = [toys.seeded(Flat, 3) for _ in range(2)]
    for pair, role in (((nets()[0], flat[0]), "teacher"), ((flat[1], nets()[1]), "student")):
        with pytest.raises(DistilError, match=rf"needs a {role} in which what the classifier reads .*\[4, 64\]"):
            made(kind(), pair)


@pytest.mark.parametrize("kind", [VID, FSP, ReviewKD], ids=lambda kind: kind.__name__)
def test_stages_come_in_pairs(kind: Any) -> None:
    with pytest.raises(DistilError, match=r"the student has 2 maps and the teacher 1; pair them"):
        made(kind(taps=[("stages", "stages.1")]))


# ---- one by one


def test_vids_variance_is_a_parameter_of_its_own_that_trains() -> None:
    distiller = made(VID(variance=2.0))
    method = distiller.method.components[0].method
    assert method.log_scale.shape == (12,)  # two stages of six channels of the teacher
    torch.testing.assert_close(nn.functional.softplus(method.log_scale) + 1e-5, torch.full((12,), 2.0))
    assert any(p is method.log_scale for p in distiller.groups()["vid"])
    before = method.log_scale.detach().clone()
    object.__setattr__(distiller, "sgd", distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1)))
    for _ in range(20):
        toys.step(distiller, toys.batch(toys.images(16)))
    assert bool((method.log_scale < before).all())  # a regressor that fits needs less and less of it
    with pytest.raises(DistilError, match="must be above eps"):
        VID(variance=0)


def test_fsp_sums_over_consecutive_stages_and_asks_for_two() -> None:
    ours, theirs, values, method = parts(made(FSP(taps=["one", "two"]), nets(6)))
    assert not list(method.parameters())
    expected = fsp(*(flow_matrix(trace["one"], trace["two"]) for trace in (ours, theirs)), reduction="none")
    torch.testing.assert_close(values["fsp"], expected)
    assert sum(p.numel() for p in made(FSP()).method.parameters()) == 2 * 4 * 6
    with pytest.raises(DistilError, match="finds 1 map, and it compares what happens between 2"):
        made(FSP(taps="two"))
    with pytest.raises(DistilError, match="did you mean 'paper'"):
        FSP(variant="papr")


@pytest.mark.parametrize("variant", ["code", "paper", "torchdistill"])
def test_fsps_variants_are_those_of_its_formula(variant: str) -> None:
    ours, theirs, values, method = parts(made(FSP(taps=["one", "two"], variant=variant), nets(6)))
    flows = (flow_matrix(trace["one"], trace["two"], pool=method.pool) for trace in (ours, theirs))
    torch.testing.assert_close(values["fsp"], fsp(*flows, variant=variant, reduction="none"))


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_ats_variants_are_those_of_its_formula(variant: str) -> None:
    ours, theirs, values, _ = parts(made(AT(variant=variant, p=3)))
    pairs = zip(ours["stages"], theirs["stages"], strict=True)
    each = [attention_transfer(s, t, p=3, variant=variant, reduction="none") for s, t in pairs]
    torch.testing.assert_close(values["at"], sum(each))
    assert values["at"].shape == (8,)


def test_fsp_can_be_a_stage_before_the_task() -> None:
    """The first epochs train flows alone and leave the head as it was; the others train on labels alone."""
    method = 50 * during(end=2) * FSP() + during(start=2) * Supervised()
    distiller, data = made(method), toys.images(24)
    head = copy.deepcopy(distiller.student.head)
    result = toys.train(distiller, data, epochs=4, keep="last")
    assert [sorted(r["terms"]) for r in result.history[1:]] == 2 * [["fsp"]] + 2 * [["supervised"]]
    again = made(method)
    toys.train(again, data, epochs=2, keep="last")
    assert toys.same(again.student.head.state_dict(), head.state_dict())
    assert not toys.same(distiller.student.head.state_dict(), head.state_dict())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_stage_begins_with_a_fresh_optimizer(optimizer: str) -> None:
    """What a stage leaves is as if each had been a run of its own; where a part goes on, the optimizer does too."""
    data = toys.vectors(24)
    given: dict[str, Any] = {"optimizer": optimizer, "schedule": "constant", "warmup": 0.0, "keep": "last"}
    given |= {"batch_size": 24, "weight_decay": 0.0}
    staged = toys.taught(50 * during(end=2) * KD() + during(start=2) * Supervised())
    toys.train(staged, data, epochs=4, **given)
    apart = toys.taught(50 * KD())
    toys.train(apart, data, epochs=2, **given)
    after = Distiller(apart.student, None, Supervised(), example=toys.batch(data, 4))
    toys.train(after, data, epochs=2, **given)
    for ours, theirs in zip(staged.student.parameters(), after.student.parameters()):
        torch.testing.assert_close(ours, theirs)
    going = toys.taught(50 * during(end=2) * KD() + during(start=1) * Supervised())
    assert [going.method.begins_stage(epoch) for epoch in range(4)] == [False] * 4
    assert [staged.method.begins_stage(epoch) for epoch in range(4)] == [False, False, True, False]


def test_reviewkds_levels_reach_every_stage_below_them() -> None:
    """The deepest level sees the embedding alone; each level above sees its own stage and all deeper ones."""
    method = made(ReviewKD()).eval().method.components[0].method
    maps = [torch.randn(2, 4, size, size).requires_grad_() for size in (8, 4, 1)]
    for level, out in enumerate(method.review(maps)):
        slopes = torch.autograd.grad(out.sum(), maps, retain_graph=True, materialize_grads=True)
        assert [bool(slope.any()) for slope in slopes] == [k >= level for k in range(3)]
    assert len(made(ReviewKD(pooled=None)).method.components[0].method.review.abfs) == 2
    with pytest.raises(DistilError, match=r"reads an embedding \[N, D\], and the student gives \[4, 4, 4, 4\]"):
        made(ReviewKD(pooled="two"))


def test_simkd_ships_body_projector_and_the_teachers_head() -> None:
    distiller = made(SimKD(), nets(norm=True)).eval()
    ours, theirs, values, method = parts(distiller)
    torch.testing.assert_close(values["simkd"], mse(method.projector(ours["map"]), theirs["map"], reduction="none"))
    batch, teacher, student = toys.batch(toys.images(8)), distiller.teachers["model"], distiller.student
    shipped = distiller.deployed().eval()
    with torch.no_grad():
        seen = method.projector(student.two(student.one(batch["inputs"]))).mean((2, 3))
        torch.testing.assert_close(shipped(batch["inputs"]), teacher.head(seen))
    held = [student.one, student.two, method.projector, teacher.head]
    assert sum(p.numel() for p in shipped.parameters()) == sum(p.numel() for m in held for p in m.parameters())
    assert {id(p) for p in shipped.parameters()} == {id(p) for m in held for p in m.parameters()}
    assert isinstance(student.head, nn.Linear)  # the student itself is as it was
    assert student.head is not teacher.head


def test_simkd_follows_training_and_a_tap_on_the_inward_side() -> None:
    distiller = made(SimKD(), nets(), taps={"map": "pool:in"})
    object.__setattr__(distiller, "sgd", distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1)))
    shipped, batch = distiller.deployed(), toys.batch(toys.images(8))
    before = shipped.eval()(batch["inputs"])
    distiller.train()
    toys.step(distiller, batch)
    method, student = distiller.method.components[0].method, distiller.eval().student
    after = shipped.eval()(batch["inputs"])
    assert not torch.equal(before, after)
    seen = method.projector(student.two(student.one(batch["inputs"]))).mean((2, 3))
    torch.testing.assert_close(after, distiller.teachers["model"].head(seen))


def test_simkds_projector_pools_a_larger_map_and_keeps_a_smaller_one() -> None:
    assert Projector((1, 4, 8, 6), (1, 6, 4, 8))(torch.zeros(2, 4, 8, 6)).shape == (2, 6, 4, 6)
    with pytest.raises(DistilError, match="comes inside a tuple"):
        Projector((1, 4, 8, 6), (1, 6, 4, 8))((torch.zeros(2, 4, 8, 6),))
    with pytest.raises(DistilError, match=r"simkd\(factor=7\) must lie in 1 … 6"):
        made(SimKD(factor=7))


def test_catkds_maps_average_to_the_logits_without_bias() -> None:
    ours, theirs, values, _ = parts(made(CATKD(size=2)))
    student, teacher = nets()
    maps = [class_maps(trace["map"], net.head.weight) for trace, net in ((ours, student), (theirs, teacher))]
    torch.testing.assert_close(maps[0].mean((2, 3)), ours.logits - student.head.bias)
    torch.testing.assert_close(values["catkd"], class_attention(*maps, size=2, reduction="none"))


def test_catkd_teaches_a_student_whose_head_was_rebuilt() -> None:
    student, teacher = nets()
    student.head.bias.data.zero_()
    rebuilt = with_class_maps(student, pooled="two")
    plain = parts(made(CATKD(), (student, teacher)))[2]["catkd"]
    distiller = made(CATKD(head=(None, "head")), (rebuilt, copy.deepcopy(teacher)))
    torch.testing.assert_close(parts(distiller)[2]["catkd"], plain)
    batch = toys.batch(toys.images(8))
    torch.testing.assert_close(rebuilt.eval()(batch["inputs"]), student.eval()(batch["inputs"]))
    with pytest.raises(DistilError, match=r"student in which the scores without a head .* map is \[4, 4, 4, 4\]"):
        made(CATKD(head=(None, "head")))


def test_catkds_options_are_checked() -> None:
    for bad in ({"size": 0}, {"classes": -1}):
        with pytest.raises(DistilError, match="size must be at least 1"):
            CATKD(**bad)
    with pytest.raises(DistilError, match="did you mean 'top'"):
        CATKD(order="tap")
    with pytest.raises(DistilError, match="more than the 3 classes scored"):
        made(CATKD(classes=4))
