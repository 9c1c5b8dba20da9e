"""The contract that every method runs through; a method that is added is tested by existing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from distil import catalog
from distil.engine import Distiller, fit
from distil.engine.method import Method, Sum, as_sum
from distil.errors import DistilError
from distil.methods.expression import parse
from engine import toys

# Rivals that train on one graph, which a system's card says by its field; every other method is given images.
ON_GRAPHS = {"glnn"}
# Rivals that compare maps of scores for every pixel; a system's card says it by its field.
ON_SCENES = {"mse", "cwd", "maskd"}
TASKS = {"graph": "node-classification", "dense": "segmentation"}
# Why a rival's term is not at rest where student and teacher are equal; a system's card says it for its own.
REASONS = {
    "supervised": "the task itself",
    "mlld": "it holds the task loss, of both views",
    "crd": "a contrast with other samples, whose least value is not 0",
    "vid": "its learned variance falls on where the maps are equal",
}
# What a method decides from the student without gradient, by component: it is held while a slope is measured.
DECIDED = {"tgeokd": "ratio"}
# Rivals that read a strongly augmented view beside the inputs.
ON_TWO_VIEWS = {"mlld"}
# Systems that hide patches of images from masked autoencoders; what ships is an encoder, scored by its features.
ON_PATCHES = {"dmae"}

# Steps in which a loss must have fallen: CRD's first meets memories that are random, and that are soon filled.
STEPS = {"crd": 150}


@dataclass(frozen=True)
class Case:
    """A method and what it needs."""

    name: str
    make: Callable[[], Method | Sum]
    field: str
    reasons: frozenset[str]

    @property
    def graph(self) -> bool:
        return self.field == "graph"

    @property
    def dense(self) -> bool:
        return self.field == "dense"

    @property
    def patches(self) -> bool:
        return self.name.partition(".")[0] in ON_PATCHES

    @property
    def task(self) -> str:
        return "features" if self.patches else TASKS.get(self.field, "classification")


def _cases() -> Iterator[Case]:
    for name in catalog.rivals():
        field = "graph" if name in ON_GRAPHS else "dense" if name in ON_SCENES else "classification"
        yield Case(name, catalog.resolve(name).load(), field, frozenset(REASONS))
    for slug, card in catalog.systems().items():
        if not (card.has_code and card.has_method):
            continue
        # The published sum holds rivals too, and their reasons are theirs.
        reasons = frozenset(card.proof.at_equality) | frozenset(REASONS)
        package = import_module(card.package)
        for name in (*card.proof.exports, "published"):
            made = getattr(package, name)
            if name == "published" or (isinstance(made, type) and issubclass(made, Method)):
                yield Case(f"{slug}.{name}", made, card.field, reasons)


CASES = list(_cases())
every = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
splittable = [case for case in CASES if not case.graph]


def data_of(case: Case, count: int = 24, *, dtype: torch.dtype = torch.float32) -> Any:
    """The data of a case: a graph, a data set of images, or one with a label for every pixel."""
    if case.graph:
        return toys.graph(count, dtype=dtype)
    if case.name in ON_TWO_VIEWS:
        return toys.two_views(count, dtype=dtype)
    return toys.scenes(count, dtype=dtype) if case.dense else toys.images(count, dtype=dtype)


def whole(data: Any, count: int | None = None) -> dict[str, Any]:
    """The data as one batch."""
    return dict(data) if isinstance(data, dict) else toys.batch(data, count)


def models(case: Case, *, norm: bool = True) -> tuple[nn.Module, nn.Module]:
    """A student and a wider teacher that suit the data."""
    if case.graph:
        return toys.seeded(toys.mlp, 1), toys.seeded(toys.GraphNet, 2)
    if case.patches:
        return toys.masked_pair()
    student, teacher = toys.pair(partial(toys.DenseNet if case.dense else toys.CNN, norm=norm))
    return rebuilt(case, student), teacher


def rebuilt(case: Case, student: nn.Module) -> nn.Module:
    """The student as its method teaches it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return as_sum(case.make()).rebuild(student)


def distiller_of(
    case: Case, data: Any, student: nn.Module, teacher: nn.Module, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Distiller:
    """A prepared distiller at the end of every warm-up, its optimizer watched."""
    student, teacher = student.to(dtype), teacher.to(dtype)
    made = Distiller(
        student, teacher, case.make(), task=case.task, example=whole(data, 6), steps=100, epochs=100, seed=seed
    ).to(dtype)
    made.prepare(data)
    made.ctx.epoch = made.ctx.step = 60
    made.sgd = made.watch(torch.optim.SGD(made.parameters(), lr=0.05))
    return made


def coupled_terms(distiller: Distiller) -> set[str]:
    """Note, from now on, which terms say that they are coupled."""
    found: set[str] = set()

    def note(component: Any) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, terms: Any) -> None:
            found.update(component.term(key) for key, term in terms.items() if term.coupled)

        return hook

    for component in distiller.method:
        component.method.register_forward_hook(note(component))
    return found


@every
def test_at_equality(case: Case) -> None:
    """A term that claims to be at rest where student and teacher are equal is; one that does not has a reason."""
    data = data_of(case, dtype=torch.float64)
    net = toys.DenseNet if case.dense else toys.CNN
    teacher = toys.seeded(toys.mlp, 2) if case.graph else toys.seeded(partial(net, 8), 2)
    if case.patches:
        teacher = toys.still_after(8)
    else:
        teacher.head.weight.data.mul_(10)  # scores far from uniform, where the small constants of a formula do not show
    student = rebuilt(case, copy.deepcopy(teacher))
    distiller = distiller_of(case, data, student, teacher, dtype=torch.float64).eval()
    # Between equal widths a dense method aligns nothing, and what makes its masks is no adapter.
    for component in distiller.method if not case.dense else ():
        if not any(component.method.at_equality.values()):
            continue  # nothing is claimed, and what it remembers has the width of its adapters
        for name, child in component.method.named_children():
            if any(True for _ in child.parameters()):
                setattr(component.method, name, nn.Identity())
    distiller.keep_live(True)
    shown = distiller(whole(data)).terms
    for component in distiller.method:
        for key, claim in component.method.at_equality.items():
            name = component.term(key)
            if claim is None:
                assert key in case.reasons or component.name in case.reasons, f"no card says why '{name}' moves"
            elif name in shown:
                slopes = torch.autograd.grad(
                    distiller.live[name], list(distiller.student.parameters()), retain_graph=True, allow_unused=True
                )
                assert max(float(g.abs().max()) for g in slopes if g is not None) < 1e-5
                assert claim == "stationary" or abs(float(shown[name])) < 1e-5


@every
def test_gradient_reaches_the_student_and_never_the_teacher(case: Case) -> None:
    data = data_of(case)
    student, teacher = models(case)
    distiller = distiller_of(case, data, student, teacher)
    before = toys.state(teacher)
    for _ in range(3):
        loss = distiller(whole(data)).loss
        loss.backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
        distiller.sgd.step()
        distiller.sgd.zero_grad()
    assert toys.same(before, teacher.state_dict())
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any(name.startswith("teacher") for name, _ in distiller.named_parameters())


@every
def test_the_loss_falls(case: Case) -> None:
    data = data_of(case)
    distiller = distiller_of(case, data, *models(case))
    adam = distiller.watch(torch.optim.Adam(distiller.parameters(), lr=0.02))
    seen = []
    for _ in range(STEPS.get(case.name, 30)):
        step = distiller(whole(data))
        step.loss.backward()
        adam.step()
        adam.zero_grad()
        seen.append(step.loss.item())
    assert sum(seen[-5:]) < sum(seen[:5]), seen


@every
@pytest.mark.filterwarnings("ignore:A batch of one")
def test_a_batch_of_one_is_finite(case: Case) -> None:
    data = data_of(case)
    distiller = distiller_of(case, data, *models(case))
    distiller(toys.graph(1) if case.graph else whole(data, 1)).loss.backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


@every
def test_bf16_autocast_is_finite_and_close(case: Case) -> None:
    data = data_of(case)
    distiller = distiller_of(case, data, *models(case)).eval()
    exact = distiller(whole(data)).loss
    with torch.autocast("cpu", torch.bfloat16):
        rough = distiller(whole(data)).loss
    rough.backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)
    assert rough.item() == pytest.approx(exact.item(), rel=0.1, abs=0.02)


@pytest.mark.parametrize("case", splittable, ids=[case.name for case in splittable])
def test_any_split_of_a_batch_gives_the_same_gradient(case: Case) -> None:
    """One, two and four ragged micro-batches with totals: uncoupled terms do not notice (no BatchNorm, float64)."""
    data = data_of(case, 12, dtype=torch.float64)
    distiller = distiller_of(case, data, *models(case, norm=False), dtype=torch.float64)
    distiller.method.eval()
    coupled = coupled_terms(distiller)
    found = []
    for sizes in ([12], [5, 7], [1, 6, 2, 3]):
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        window = [toys.batch(data, size, start) for size, start in zip(sizes, starts)]
        totals = distiller.totals(window)
        distiller.keep_live(True)
        distiller.zero_grad()
        for part in window:
            distiller(part, totals=totals, divides=False)
            free = [value for name, value in distiller.live.items() if name not in coupled]
            if free:
                torch.stack(free).sum().backward()
        found.append(toys.grads(distiller))
        distiller.skip_step()
    if len(coupled) == sum(len(c.method.at_equality) for c in distiller.method):
        pytest.skip("every term is coupled, and says so")
    for other in found[1:]:
        for name, grad in found[0].items():
            assert torch.allclose(grad, other[name], rtol=1e-6, atol=1e-12), name


@every
@pytest.mark.parametrize("prepared", [True, False])
def test_state_survives_saving(case: Case, prepared: bool) -> None:
    """A trained distiller's state, loaded into a fresh one (that may have seen no data), gives the same loss."""
    data = data_of(case)
    trained = distiller_of(case, data, *models(case))
    toys.step(trained, whole(data))
    fresh = distiller_of(case, data, *models(case), seed=5)
    if not prepared:
        fresh = Distiller(*models(case), case.make(), task=trained.task, example=whole(data, 6), steps=100, epochs=100)
        fresh.ctx.epoch, fresh.ctx.step, fresh.prepared = 60, 60, True
    fresh.load_state_dict(toys.state(trained))
    trained.ctx.step, fresh.ctx.step = 60, 60
    assert torch.equal(trained.eval()(whole(data)).loss, fresh.eval()(whole(data)).loss)


@every
def test_what_ships_is_what_was_scored(case: Case) -> None:
    data = data_of(case)
    distiller = Distiller(
        *models(case), case.make(), task=case.task, example=whole(data, 6),
    )  # fmt: skip
    result = fit(distiller, data, data, epochs=2, batch_size=12, keep="last", check_teacher=False, device="cpu")
    assert not result.model.training
    assert distiller.task.evaluate(result.model, data) == result.last


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which goes on giving what it gave first."""
    given: list[Any] = []

    def first(*args: Any) -> Any:
        if not given:
            given.append(function(*args))
        return given[0]

    return first


@every
def test_the_whole_gradient_is_the_slope_of_the_loss(case: Case) -> None:
    """The float64 derivative along a random direction equals finite differences."""
    data = data_of(case, 10, dtype=torch.float64)
    distiller = distiller_of(case, data, *models(case, norm=False), dtype=torch.float64).eval()
    parameters = [p for p in distiller.student.parameters() if p.requires_grad]
    rng = torch.Generator().manual_seed(3)
    way = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
    for component in distiller.method:
        if component.name in DECIDED:
            name = DECIDED[component.name]
            setattr(component.method, name, once(getattr(component.method, name)))
        if component.name == "tokengraph":  # a scale without gradient moves with the loss, but is no part of its slope
            component.method.sigma = "median"
    slopes = torch.autograd.grad(distiller(whole(data)).loss, parameters, allow_unused=True)
    expected = sum(float((g * w).sum()) for g, w in zip(slopes, way) if g is not None)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, w in zip(parameters, way):
                p.add_(w, alpha=sign * 1e-6 if sign > 0 else -2e-6)
        ends.append(distiller(whole(data)).loss.item())
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(expected, rel=1e-4, abs=1e-6)


@every
def test_nothing_stays_on_the_users_modules(case: Case) -> None:
    data = data_of(case)
    student, teacher = models(case)
    names = [*student.state_dict(), *teacher.state_dict()]
    distiller = distiller_of(case, data, student, teacher)
    toys.step(distiller, whole(data))
    with pytest.raises((DistilError, RuntimeError)):
        distiller({"inputs": torch.zeros(2, 1), "labels": torch.zeros(2).long()})
    assert toys.hooks(student, teacher) == 0
    assert [*student.state_dict(), *teacher.state_dict()] == names


@every
def test_the_expression_is_the_method(case: Case) -> None:
    """What ``expression`` writes, parsed, is the same sum and gives the same loss."""
    method, data = as_sum(case.make()), data_of(case)
    again = parse(method.expression)
    assert [(c.name, c.coefficient) for c in again] == [(c.name, c.coefficient) for c in method]
    read = replace(case, make=lambda: again)
    losses = [distiller_of(one, data, *models(one)).eval()(whole(data)).loss for one in (case, read)]
    assert torch.equal(*losses)
