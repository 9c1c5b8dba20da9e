"""DisWOT: the score on untrained copies, its switches, the search by it, and the losses."""

from __future__ import annotations

import copy
import doctest
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from distil import catalog
from distil.engine import Distiller
from distil.errors import DistilError
from distil.functional import channel_gram, class_maps, fc_gradient, gradient_gram, sample_gram
from distil.loops.lab import Lab
from distil.loops.search import Guarded, Limits, Search, genome_key
from distil.loops.spaces import S0, TinyCNN
from distil.models import MLP, CifarResNet, SmallCNN, redrawn
from distil.systems.diswot import GramMatch, Scorer, Scoring, published, s0_accuracies, search_student
from distil.systems.diswot.nets import others
from distil.systems.diswot.ranking import Ranking, ranking_table
from engine import toys


def batch(count: int = 12, *, channels: int = 1, size: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {"inputs": torch.randn(count, channels, size, size, generator=rng), "labels": torch.arange(count) % 10}


def net(*widths: int, classes: int = 10) -> SmallCNN:
    return SmallCNN(1, classes, widths=widths)


def total(how: Scoring, *, seed: int = 0, teacher: nn.Module | None = None, student: nn.Module | None = None) -> float:
    teacher, student = teacher or net(8, 16), student or net(4, 16)
    return Scorer(teacher, batch(), how, seed=seed)(student).total


# ---- the score


def test_a_score_is_what_the_formulas_give_on_the_very_same_copies() -> None:
    """One batch in training mode, weights from N(0, 1), the classifier's gradient by autograd."""
    data = batch()
    student, teacher = net(4, 16), net(8, 16)
    scorer = Scorer(teacher, data)
    grads, maps = [], []
    for model, role in ((student, "student"), (teacher, "teacher")):
        fresh = scorer._drawn(model, role, 0)
        seen: list[torch.Tensor] = []
        fresh.avgpool.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        loss = nn.functional.cross_entropy(fresh(data["inputs"]), data["labels"])
        grads.append(torch.autograd.grad(loss, fresh.fc.weight)[0])
        maps.append(seen[0].detach())
    score = scorer(student)
    assert score.semantic == pytest.approx(-float(gradient_gram(*grads)), rel=1e-4)
    assert score.relation == pytest.approx(-float(sample_gram(*maps)), rel=1e-4)
    assert score.total == score.semantic + score.relation


def test_class_maps_are_compared_where_asked_and_take_any_width() -> None:
    data, student, teacher = batch(), net(4, 6), net(8, 16)
    scorer = Scorer(teacher, data, Scoring(semantic="cam", relation=False))
    maps = []
    for model, role in ((student, "student"), (teacher, "teacher")):
        fresh = scorer._drawn(model, role, 0)
        seen: list[torch.Tensor] = []
        fresh.avgpool.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        fresh(data["inputs"])
        maps.append(class_maps(seen[0], fresh.fc.weight).detach())
    score = scorer(student)
    assert score.relation is None
    assert score.total == pytest.approx(-float(channel_gram(*maps)), rel=1e-4)


@pytest.mark.parametrize("semantic", ["fc_grad", "cam"])
def test_a_network_against_itself_scores_nothing_and_any_other_less(semantic: str) -> None:
    teacher = net(8, 16)
    how = Scoring(semantic=semantic, init="keep")
    assert Scorer(teacher, batch(), how)(teacher).total == 0
    assert Scorer(teacher, batch(), how)(copy.deepcopy(teacher)).total == 0
    for widths in ((4, 16), (8, 16), (2, 4, 16)):
        score = Scorer(teacher, batch(), how)(net(*widths))
        assert score.total < 0
        assert score.semantic is not None
        assert score.semantic <= 0


def test_one_sample_has_no_relations() -> None:
    assert Scorer(net(8, 16), batch(1))(net(4, 16)).relation == 0


def test_nothing_of_the_users_networks_is_touched() -> None:
    teacher, student = net(8, 16).train(), net(4, 16).eval()
    for model in (teacher, student):
        model(batch(4, seed=1)["inputs"]).sum().backward()
        model.fc.weight.requires_grad_(False)
    kept = [toys.state(teacher), toys.state(student)]
    grads = [[None if p.grad is None else p.grad.clone() for p in m.parameters()] for m in (teacher, student)]
    state = torch.get_rng_state()
    for how in (Scoring(), Scoring(semantic="cam", init="keep"), Scoring(proxy="kd + at"), Scoring(proxy="nd")):
        Scorer(teacher, batch(), how)(student)
    assert torch.equal(torch.get_rng_state(), state)
    assert (teacher.training, student.training) == (True, False)
    assert toys.hooks(teacher, student) == 0
    for model, before, slopes in zip((teacher, student), kept, grads, strict=True):
        assert toys.same(before, model.state_dict())
        assert all(a is None if b is None else torch.equal(a, b) for a, b in zip(_grads(model), slopes, strict=True))
        assert [p.requires_grad for p in model.parameters()].count(False) == 1


def _grads(model: nn.Module) -> Iterator[torch.Tensor | None]:
    return (p.grad for p in model.parameters())


def test_the_weights_a_network_comes_with_do_not_count() -> None:
    teacher, student = net(8, 16), net(4, 16)
    plain = total(Scoring(), teacher=teacher, student=student)
    for model in (teacher, student):
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data * 3 + 1
    assert total(Scoring(), teacher=teacher.eval(), student=student) == plain


def test_a_score_depends_on_the_seed_and_not_on_what_was_scored_before() -> None:
    first, second = net(4, 16), net(2, 8, 16)
    scorer = Scorer(net(8, 16), batch())
    once = [scorer(first), scorer(second)]
    again = Scorer(net(8, 16), batch())
    assert [again(second), again(first)] == once[::-1]
    assert total(Scoring(), seed=1) != total(Scoring(), seed=0)


def test_repeats_are_a_mean_over_draws() -> None:
    data, student = batch(), net(4, 16)
    three = Scorer(net(8, 16), data, Scoring(repeats=3))
    single = [three._score(three._drawn(student, "student", i), i) for i in range(3)]
    assert len({score.total for score in single}) == 3
    assert three(student).total == pytest.approx(sum(score.total for score in single) / 3)


def test_a_one_by_one_convolution_is_a_classifier_too() -> None:
    class Convolutional(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).flatten(1)

    def made() -> nn.Module:
        layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 10, 1)]
        return Convolutional(*layers)

    taps = {"head": ("4", "fc"), "emb": ("4:in", "fc:in")}
    for semantic in ("fc_grad", "cam"):
        assert Scorer(net(8, 16), batch(), Scoring(semantic=semantic), taps=taps)(made()).total < 0


@pytest.mark.parametrize(
    ("student", "how", "says"),
    [
        (lambda: net(4, 8), Scoring(), "student's reads 8 and the teacher's 16; use semantic='cam'"),
        (lambda: net(4, 16, classes=12), Scoring(), "student scores 12 classes and the teacher 10"),
        (lambda: MLP(144, 16, 10), Scoring(), "has no tap 'map'"),
        (lambda: SmallCNN(3, 10), Scoring(), r"The student \(SmallCNN\) cannot be run on inputs \[1, 12, 12\]: "),
        (lambda: SmallCNN(3, 10), Scoring(proxy="kd"), r"The student \(SmallCNN\) cannot be run on inputs"),
    ],
)
def test_networks_that_cannot_be_compared_are_refused(student: Any, how: Scoring, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        Scorer(net(8, 16), batch(), how)(student())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"semantic": "fcgrad"}, "did you mean 'fc_grad'"),
        ({"init": "normall"}, "did you mean 'normal'"),
        ({"semantic": "none", "relation": False}, "leaves no score"),
        ({"repeats": 0}, "repeats=0 must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        Scoring(**given)


def test_labels_and_proxies_that_do_not_exist_are_refused() -> None:
    with pytest.raises(DistilError, match="needs labels and the batch has none"):
        Scorer(net(8, 16), {"inputs": batch()["inputs"]})
    with pytest.raises(DistilError, match="'rdk' is no method; did you mean"):
        Scorer(net(8, 16), batch(), Scoring(proxy="rdk"))
    unlabelled = {"inputs": batch()["inputs"]}
    assert Scorer(net(8, 16), unlabelled, Scoring(semantic="cam"))(net(4, 16)).total < 0


# ---- every component of the card that is not an argument of published()

SWITCHES: dict[str, list[dict[str, Any]]] = {
    "semantic": [{"semantic": "cam"}, {"semantic": "none"}],
    "relation": [{"relation": False}],
    "init": [{"init": "kaiming"}, {"init": "keep"}],
    "proxy": [{"proxy": name} for name in ("kd", "rkd", "at", "grammatch", "nd")],
}


@pytest.mark.parametrize(
    "changed", [c for flips in SWITCHES.values() for c in flips], ids=lambda c: "-".join(map(str, *c.items()))
)
def test_every_switch_of_the_score_moves_it(changed: dict[str, Any]) -> None:
    teacher, student = net(8, 16), net(4, 16)
    plain = total(Scoring(), teacher=teacher, student=student)
    assert plain == total(Scoring(), teacher=teacher, student=student)
    flipped = total(Scoring(**changed), teacher=teacher, student=student)
    assert flipped != plain
    assert flipped < 0


def test_every_strategy_looks_elsewhere() -> None:
    seen = []
    for strategy in ("evolution", "random", "exhaustive", "exhaustive"):
        space = TinyCNN(channels=1, widths=(4, 8), stages=(2, 3), last=16)
        how = Search(strategy, evaluations=12, population=4, sample=2)
        history = search_student(net(8, 16), space, batch(), how=how, limits=Limits(parameters=2000))
        assert all(e.score is not None and e.score < 0 for e in history)
        seen.append([(genome_key(e.genome), e.score) for e in history])
    assert seen[0] != seen[1] != seen[2]
    assert seen[2] == seen[3]
    assert [genome for genome, _ in seen[2]] == ["[4]", "[8]", "[4, 4]", "[4, 8]", "[8, 4]"]  # [8, 8] is too large


def test_the_components_of_the_card_are_all_switched_somewhere() -> None:
    assert set(catalog.card("diswot").components) == {*SWITCHES, "search", "gram_losses"}


# ---- the losses of distillation (†)


def losses(student: nn.Module, teacher: nn.Module, method: Any, data: Any) -> Distiller:
    return Distiller(student, teacher, method, example=data)


@pytest.mark.parametrize("semantic", ["cam", "channel"])
def test_the_losses_are_the_formulas(semantic: str) -> None:
    data, student, teacher = batch(), net(4, 16).eval(), net(8, 16).eval()
    step = losses(student, teacher, GramMatch(semantic=semantic, semantic_weight=3, relation_weight=5), data).eval()(
        data
    )
    maps = [model.layer2(model.layer1(data["inputs"])) for model in (student, teacher)]
    assert step.terms["grammatch.relation"] == pytest.approx(5 * sample_gram(*maps).item(), rel=1e-5)
    if semantic == "cam":
        maps = [class_maps(seen, model.fc.weight) for seen, model in zip(maps, (student, teacher))]
    expected = 3 * channel_gram(*maps, normaliser="cells").item()
    assert step.terms["grammatch.semantic"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("semantic", ["cam", "channel"])
def test_the_losses_vanish_at_equality_and_leave_the_teacher_alone(semantic: str) -> None:
    data, teacher = batch(), net(8, 16)
    same = losses(copy.deepcopy(teacher), teacher, GramMatch(semantic=semantic), data).eval()(data)
    assert all(abs(value.item()) < 1e-6 for value in same.terms.values())
    student = net(4, 16)
    step = losses(student, teacher, GramMatch(semantic=semantic), data)(data)
    step.loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)
    assert student.layer1[0].weight.grad.abs().sum() > 0


def test_the_losses_are_finite_in_half_precision_on_large_maps() -> None:
    data, student, teacher = batch(), net(4, 16), net(8, 16)
    for model in (student, teacher):
        nn.init.constant_(model.layer2[2].weight, 3e3)
    distiller = losses(student, teacher, GramMatch(), data)
    with torch.autocast("cpu", torch.bfloat16):
        step = distiller(data)
    step.loss.backward()
    assert step.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


def test_losses_that_cannot_be_are_refused() -> None:
    for given, says in (
        ({"semantic": "cams"}, "did you mean 'cam'"),
        ({"semantic": None, "relation_weight": 0}, "compares nothing"),
        ({"semantic_weight": 0.0, "relation_weight": 0.0}, "compares nothing"),
    ):
        with pytest.raises(DistilError, match=says):
            GramMatch(**given)
    with pytest.raises(DistilError, match="map has 8 channels and the teacher's 16; use semantic=cam"):
        losses(net(4, 8), net(8, 16), GramMatch(semantic="channel"), batch())
    assert GramMatch(semantic_weight=0.0).taps == ("map",)


def test_the_published_sum_has_the_losses_only_where_wanted() -> None:
    assert [c.name for c in published()] == ["supervised", "kd"]
    assert [c.name for c in published(gram_losses=True)] == ["supervised", "kd", "grammatch"]


# ---- nets to compare with, and the published table


def test_the_nets_beside_a_winner_are_within_the_limits_and_the_random_one_is_another() -> None:
    space = Guarded(TinyCNN(channels=1), Limits(parameters=6000))
    sizes = sorted(space.cost(genome)["parameters"] for genome in space.everything() or [])
    picks = others(space, winner=(4,), seed=3)
    assert space.cost(picks["largest"])["parameters"] == sizes[-1]
    assert space.cost(picks["median"])["parameters"] == sizes[(len(sizes) - 1) // 2]
    assert len({*map(genome_key, picks.values()), genome_key((4,))}) == 4
    assert picks == others(space, winner=(4,), seed=3)


def test_the_table_holds_every_net_of_the_space() -> None:
    table = s0_accuracies()
    assert sorted(table) == sorted(S0().all())
    distilled = [each.distilled for each in table.values()]
    assert kendalltau([each.vanilla for each in table.values()], distilled).statistic == pytest.approx(0.836, abs=5e-4)
    sizes = [sum(p.numel() for p in S0(classes=100).build(genome).parameters()) for genome in table]
    assert kendalltau(sizes, distilled).statistic == pytest.approx(0.87, abs=0.005)
    assert max(table, key=lambda genome: table[genome].vanilla) != max(
        table, key=lambda genome: table[genome].distilled
    )


def test_a_small_ranking_of_the_space_is_made_and_kept(tmp_path: Any) -> None:
    how = Ranking(data="digits", batch=16, depths=(1, 3), teacher=8, inits=("normal",))
    table = ranking_table(how, [0], Lab(tmp_path))
    rows = {(row[0], row[1]): row[2:] for row in table["rows"]}
    assert rows[("number of parameters", "")][0] > 0.8
    assert set(rows) - {("number of parameters", "")} == {
        (f"{name}", "normal") for name in ("sum", "semantic score", "relation score")
    }
    assert all(-1 <= value <= 1 for row in rows.values() for value in row[:2])
    assert ranking_table(how, [0], Lab(tmp_path)) == table
    with pytest.raises(DistilError, match="at least two of the published 1, 3, 5 and 7"):
        Ranking(depths=(1, 2))


def test_relations_change_less_with_the_way_weights_are_drawn_than_classifiers_do() -> None:
    """Under batch norm, Kaiming's weights are N(0, 1)'s but for their length, which the norm takes away."""
    scores = [
        Scorer(CifarResNet(8), batch(channels=3), Scoring(init=init))(CifarResNet((1, 3, 1)))
        for init in ("normal", "kaiming")
    ]
    assert scores[0].relation == pytest.approx(scores[1].relation, rel=1e-3)
    assert scores[0].semantic != pytest.approx(scores[1].semantic, rel=1e-2)


def test_the_gradient_of_a_drawn_net_is_that_of_its_classifier() -> None:
    model, data = redrawn(net(4, 16), seed=0), batch()
    emb = model.avgpool(model.layer2(model.layer1(data["inputs"]))).flatten(1)
    model = redrawn(net(4, 16), seed=0)
    loss = nn.functional.cross_entropy(model(data["inputs"]), data["labels"])
    (expected,) = torch.autograd.grad(loss, model.fc.weight)
    torch.testing.assert_close(fc_gradient(model.fc(emb), emb, data["labels"]).detach(), expected)


@pytest.mark.parametrize(
    "module",
    [
        *("distil.loops.search", "distil.loops.spaces", "distil.models.fresh"),
        *(f"distil.systems.diswot.{name}" for name in ("method", "procedure", "s0")),
    ],
)
def test_the_examples_in_the_docstrings_run(module: str) -> None:
    found = doctest.testmod(import_module(module))
    assert found.attempted
    assert not found.failed
