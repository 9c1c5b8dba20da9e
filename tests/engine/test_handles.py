"""Model handles: one shared pass, replaced outputs, functional passes, parts, pixel gradients, compile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distil.engine import Distiller, Method, Term
from distil.errors import DistilError
from distil.methods import DIST, DKD, KD, RKD, Supervised
from engine import toys


def counted(*models: nn.Module) -> Counter[nn.Module]:
    """Count the passes of each model, by its root."""
    calls: Counter[nn.Module] = Counter()
    for model in models:
        model.forward = _counting(model, model.forward, calls)  # type: ignore[method-assign]
    return calls


def _counting(model: nn.Module, forward: Callable[..., Any], calls: Counter[nn.Module]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        calls[model] += 1
        return forward(*args, **kwargs)

    return run


def handles(
    *taps: Any, make: Callable[..., nn.Module] = toys.mlp, **options: Any
) -> tuple[Any, Any, dict[str, Tensor]]:
    """The handles of a student and a teacher, and a batch."""

    class Asks(toys.Hint):
        def __init__(self) -> None:
            super().__init__()
            self.taps = taps or ("logits",)

    data = toys.batch(toys.images() if make is toys.CNN else toys.vectors(), 6)
    distiller = Distiller(*toys.pair(make), Asks(), example=data, **options)
    return *distiller.cast.handles(), data


def test_a_sum_of_methods_makes_one_pass_of_each_model_per_step() -> None:
    student, teacher = toys.pair()
    distiller = Distiller(
        student, teacher, KD() + Supervised() + DKD() + DIST() + RKD(), example=toys.batch(toys.vectors(), 4)
    )
    calls = counted(student, teacher)
    for i in range(1, 4):
        distiller(toys.batch(toys.vectors()))
        assert calls == {student: i, teacher: i}


def test_the_memo_knows_batches_by_identity_and_ends_with_the_call() -> None:
    class Views(Method):
        at_equality = {"views": None}  # noqa: RUF012

        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
            other = {**batch, "inputs": -batch["inputs"]}
            assert student(batch) is student(batch)
            assert student(other) is student(other)
            assert student(other) is not student(batch)
            assert not teacher(batch).logits.requires_grad
            assert teacher(batch, grad=True) is not teacher(batch)
            return {"views": Term((student(batch).logits - student(other).logits).square().mean(1))}

    student, teacher = toys.pair()
    data = toys.batch(toys.vectors())
    distiller = Distiller(student, teacher, Views(), example=data)
    calls = counted(student, teacher)
    distiller(data)
    assert calls == {student: 2, teacher: 2}
    assert not any(handle.passes for handle in distiller.cast.each())


def test_replace_runs_the_rest_of_the_model_on_what_the_module_made() -> None:
    student, teacher, data = handles("hidden", "logits")
    mask = nn.Linear(8, 8)
    trace = teacher(data, replace={"hidden": mask})
    net = teacher.module
    expected = net.head(net.act(mask(net.hidden(data["inputs"]))))
    assert torch.equal(trace.logits, expected)
    assert torch.equal(trace["hidden"], mask(net.hidden(data["inputs"])))
    trace.logits.sum().backward()
    assert mask.weight.grad is not None
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(teacher(data).logits, net(data["inputs"]))
    with pytest.raises(DistilError, match=r"replace= names tap 'act'"):
        student(data, replace={"act": mask})


@pytest.mark.parametrize("training", [True, False])
def test_params_equals_the_plain_pass_and_leaves_the_statistics(training: bool) -> None:
    student, _, data = handles("map", "logits", make=toys.CNN)
    student.module.train(training)
    before = toys.state(student.module)
    own = dict(student.module.named_parameters())
    trace = student(data, params=own)
    assert toys.same(before, student.module.state_dict())
    assert torch.allclose(trace.logits, student(data).logits, rtol=1e-6, atol=1e-7)
    moved = {name: (p * 1.1).detach().requires_grad_() for name, p in own.items()}
    other = student(data, params=moved)
    other["map"].sum().backward()
    assert moved["one.0.weight"].grad is not None
    assert all(p.grad is None for p in student.module.parameters())
    assert not torch.equal(other.logits, trace.logits)


def test_params_gives_second_derivatives() -> None:
    student, _, data = handles()
    student.module.double()
    data = {**data, "inputs": data["inputs"].double()}
    weight = student.module.head.weight.detach()

    def outer(shift: Tensor) -> Tensor:
        params = {n: p.detach().clone() for n, p in student.module.named_parameters()}
        params["head.weight"] = weight + shift
        inner = student(data, params=params).logits.square().mean()
        (slope,) = torch.autograd.grad(inner, params["head.weight"], create_graph=True)
        return student(data, params={**params, "head.weight": params["head.weight"] - 0.5 * slope}).logits.sum()

    assert torch.autograd.gradcheck(outer, torch.zeros_like(weight, requires_grad=True))


def test_a_part_passes_gradient_through_frozen_weights() -> None:
    student, teacher, _ = handles("head", "emb")
    own = torch.randn(5, 8, requires_grad=True)
    teacher.part("head")(own).sum().backward()
    assert own.grad is not None
    assert all(p.grad is None for p in teacher.module.parameters())
    assert teacher.part("act") is teacher.module.act
    with pytest.raises(DistilError, match=r"has no part 'heat'.*did you mean 'head'"):
        student.part("heat")


def test_pixel_gradients_through_the_frozen_teacher() -> None:
    _, teacher, data = handles("*.1:in", "logits", make=toys.CNN)
    pixels = data["inputs"].clone().requires_grad_()
    trace = teacher({"inputs": pixels}, grad=True)
    loss = sum(layer.mean((0, 2, 3)).square().sum() for layer in trace["*.1:in"]) + trace.logits.logsumexp(1).sum()
    loss.backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.module.parameters())


def test_passes_on_the_side_move_no_statistics() -> None:
    """BatchNorm sees each training batch once, however often a method looks at the student before the step."""

    class Looks(toys.Hint):
        def transform(self, batch: Any, student: Any, teacher: Any, ctx: Any) -> Any:
            student(batch)
            return batch

        def before_step(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> None:
            student(batch)

    looking, plain = toys.taught(Looks(), make=toys.CNN), toys.taught(toys.Hint(), make=toys.CNN)
    for distiller in (looking, plain):
        toys.step(distiller, toys.batch(toys.images()))
    assert toys.same(looking.student.state_dict(), plain.student.state_dict())


def test_before_step_has_a_memo_of_its_own_without_gradient() -> None:
    class Looks(toys.Hint):
        def before_step(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> None:
            trace = student(batch)
            assert trace is student(batch)
            assert not trace.logits.requires_grad
            seen.append(trace)

        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> Any:
            assert student(batch) is not seen[-1]
            return super().forward(student, teacher, batch, ctx)

    seen: list[Any] = []
    distiller = toys.taught(Looks())
    data = toys.batch(toys.vectors())
    totals = distiller.totals([data, data])
    for _ in range(2):
        distiller(totals=totals).loss.backward()
    assert len(seen) == 1  # once a step, not once a micro-batch


class Recomputed(nn.Module):
    """A net that recomputes its trunk in the backward pass."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.trunk, self.head = toys.mlp(width, classes=width), nn.Linear(width, toys.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(checkpoint(self.trunk, inputs, use_reentrant=False))


def test_activation_checkpointing_changes_nothing_and_records_nothing_twice() -> None:
    data = toys.batch(toys.vectors())
    found = []
    for make in (Recomputed, lambda width: nn.Sequential(toys.mlp(width, classes=width), nn.Linear(width, 3))):
        student, teacher = toys.seeded(lambda m=make: m(4), 1), toys.seeded(lambda m=make: m(4), 2)
        tap = "trunk" if isinstance(student, Recomputed) else "0"
        distiller = Distiller(student, teacher, toys.Hint(tap=tap) + KD(), example=data)
        trace = distiller.cast.handles()[0](data)
        kept = trace[tap]
        distiller(data).loss.backward()
        assert trace[tap] is kept
        found.append([p.grad for p in student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_compiled_pass_returns_equal_taps_and_gradients(backend: str) -> None:
    data = toys.batch(toys.images(8))
    plain, compiled = (toys.taught(toys.Hint(tap=("pool", "one")) + KD(), make=Flat) for _ in range(2))
    compiled.compile_models(backend=backend)
    for _ in range(2):
        a, b = toys.step(plain, data), toys.step(compiled, data)
        assert a.loss.item() == pytest.approx(b.loss.item(), rel=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(plain.parameters(), compiled.parameters()))
    assert toys.hooks(compiled.student, *compiled.teachers.values()) == 0


class Flat(toys.CNN):
    """A CNN whose taps all average to one shape, so that any two can be matched."""

    def __init__(self, width: int) -> None:
        super().__init__(4)
        self.one.append(nn.AdaptiveAvgPool2d(1))
        self.two[0] = nn.Conv2d(4, 4, 1)


def test_several_students_and_teachers_are_mappings() -> None:
    class Peers(Method):
        at_equality = {"a": "zero", "b": "zero"}  # noqa: RUF012

        def setup(self, student: Any, teacher: Any) -> None:
            assert set(student) == {"a", "b"}
            assert set(teacher) == {"x", "y"}

        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
            known = sum(handle(batch).logits for handle in teacher.values())
            return {name: Term((h(batch).logits - known).square().mean(1)) for name, h in student.items()}

        def deployed(self, student: Any, teacher: Any) -> nn.Module:
            return student["a"].module

    students = {"a": toys.mlp(4), "b": toys.mlp(5)}
    distiller = Distiller(
        students, {"x": toys.mlp(6), "y": toys.mlp(7)}, Peers(), example=toys.batch(toys.vectors(), 4)
    )
    step = distiller(toys.batch(toys.vectors()))
    assert set(step.student) == {"a", "b"}
    assert set(distiller.groups()) == {"student.a", "student.b"}
    assert distiller.deployed() is students["a"]
    with pytest.raises(DistilError, match=r"several students \(a, b\)"):
        Distiller(students, toys.mlp(6), KD(), example=toys.batch(toys.vectors(), 4))(toys.batch(toys.vectors()))
    with pytest.raises(DistilError, match=r"must say in deployed\(\) which one ships"):
        Distiller(students, toys.mlp(6), toys.Hint(), example=toys.batch(toys.vectors(), 4)).deployed()
