"""Searching a space: the optimum is found, the budget kept, the oldest leaves, and a history is enough to go on."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.loops.search import Evaluation, Guarded, Limits, Search, costs_of, distinct, genome_key, search
from distil.loops.spaces import S0, TinyCNN, load_space
from distil.models import SmallCNN

TARGET = (3, 0, 4, 1, 2, 4)


class Toy:
    """Six genes of five values; a genome costs what its genes sum to."""

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        return tuple(rng.randrange(5) for _ in TARGET)

    def mutate(self, genome: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
        place = rng.randrange(len(genome))
        return (*genome[:place], rng.choice([v for v in range(5) if v != genome[place]]), *genome[place + 1 :])

    def build(self, genome: tuple[int, ...]) -> nn.Module:
        return nn.Linear(1, 1 + sum(genome))

    def cost(self, genome: tuple[int, ...]) -> dict[str, float]:
        return {"parameters": sum(genome)}


class Listed(Toy):
    def all(self) -> list[tuple[int, ...]]:
        return [(a, b, 0, 0, 0, 0) for a, b in itertools.product(range(5), repeat=2)]


def separable(genome: tuple[int, ...]) -> float:
    return -float(sum((a - b) ** 2 for a, b in zip(genome, TARGET, strict=True)))


def best(history: list[Evaluation]) -> Evaluation:
    return max(history, key=lambda e: e.rank)


def test_evolution_finds_the_optimum_of_a_separable_space_and_chance_does_not() -> None:
    how = Search(evaluations=600, population=30, sample=8)
    assert best(search(Guarded(Toy()), separable, how, seed=0)).genome == TARGET
    chance = search(Guarded(Toy()), separable, Search("random", evaluations=600), seed=0)
    assert best(chance).genome != TARGET  # 5**6 nets and 600 looks


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_the_history_is_as_long_as_the_evaluations_and_within_the_limits(strategy: str) -> None:
    space = Guarded(Toy(), Limits(parameters=9))
    history = search(space, separable, Search(strategy, evaluations=80, population=12, sample=4), seed=3)
    assert len(history) == 80
    assert all(sum(e.genome) <= 9 for e in history)
    assert all(e.score == separable(e.genome) for e in history)


def test_parents_are_the_best_of_draws_among_the_youngest() -> None:
    how = Search(evaluations=200, population=10, sample=3)
    history = search(Guarded(Toy()), separable, how, seed=1)
    assert all(e.parent is None for e in history[:10])
    above = 0
    for i, child in enumerate(history[10:], 10):
        assert child.parent is not None
        assert i - 10 <= child.parent < i  # the oldest has left
        assert sum(a != b for a, b in zip(child.genome, history[child.parent].genome)) == 1
        rivals = sorted(e.rank for e in history[i - 10 : i])
        above += history[child.parent].rank >= rivals[5]
    assert above > 0.8 * 190  # the best of three is above the median seven times of eight; the worst would be once


def test_a_sample_as_large_as_the_population_takes_its_best_and_of_equals_the_oldest() -> None:
    history = search(Guarded(Toy()), lambda genome: 1.0, Search(evaluations=30, population=5, sample=400), seed=0)
    assert [e.parent for e in history[5:]] == list(range(25))
    assert best(history) is history[0]


def test_the_seed_decides_everything() -> None:
    how = Search(evaluations=60, population=10, sample=3)
    runs = [search(Guarded(Toy()), separable, how, seed=seed) for seed in (4, 4, 5)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("strategy", ["evolution", "random", "exhaustive"])
@pytest.mark.parametrize("done", [0, 1, 7, 20, 25])
def test_a_stopped_search_goes_on_to_the_very_same_history(strategy: str, done: int) -> None:
    how = Search(strategy, evaluations=25, population=6, sample=2)
    whole = search(Guarded(Listed()), separable, how, seed=2)
    assert len(whole) == 25
    scored: list[Any] = []

    def score(genome: tuple[int, ...]) -> float:
        scored.append(genome)
        return separable(genome)

    assert search(Guarded(Listed()), score, how, seed=2, history=whole[:done]) == whole
    assert len(scored) <= 25 - done


def test_every_evaluation_is_recorded_and_a_genome_is_scored_once() -> None:
    lengths, scored = [], []
    how = Search("random", evaluations=40)
    space = Guarded(Listed(), Limits(parameters=2))

    def score(genome: tuple[int, ...]) -> float:
        scored.append(genome)
        return separable(genome)

    history = search(space, score, how, record=lambda h: lengths.append(len(h)))
    assert lengths == list(range(1, 41))
    assert len(scored) == len(set(scored)) == len(distinct(history)) < 40


def test_exhaustive_search_sees_everything_within_the_limits_once() -> None:
    history = search(Guarded(Listed(), Limits(parameters=3)), separable, Search("exhaustive"))
    assert sorted(e.genome[:2] for e in history) == [(a, b) for a in range(4) for b in range(4 - a)]
    assert best(history).genome[:2] == (3, 0)


def test_a_score_that_is_not_finite_comes_last() -> None:
    history = search(
        Guarded(Listed()), lambda g: float("nan") if g[0] else separable(g), Search("exhaustive", evaluations=25)
    )
    assert best(history).genome == (0, 0, 0, 0, 0, 0)
    assert {e.score for e in history if e.genome[0]} == {None}
    assert distinct(history)[-1].score is None


def test_ranks_are_stable_and_best_first() -> None:
    history = [Evaluation((i,), score) for i, score in enumerate([1.0, 2.0, 2.0, None])] + [Evaluation((1,), 2.0)]
    assert [e.genome for e in distinct(history)] == [(1,), (2,), (0,), (3,)]


# ---- what a space may be


def test_costs_are_counted_where_the_space_does_not_say_them() -> None:
    made = Guarded(TinyCNN(channels=1), Limits(flops=10**6), shape=(1, 28, 28))
    net = SmallCNN(1, 10, widths=(4, 32))
    expected = 2 * (28 * 28 * 9 * 4 + 14 * 14 * 9 * 4 * 32 + 32 * 10)
    assert made.cost((4,)) == {"parameters": float(sum(p.numel() for p in net.parameters())), "flops": float(expected)}
    assert made.allowed((4,)) is (expected <= 10**6)
    assert costs_of(net, None).keys() == {"parameters"}


def test_a_net_that_cannot_be_counted_is_named() -> None:
    wrong = Guarded(TinyCNN(channels=3), Limits(flops=10**6), shape=(1, 28, 28))
    with pytest.raises(
        DistilError, match=r"The FLOPs of TinyCNN.build\(\(4,\)\) cannot be counted on inputs \[1, 28, 28\]"
    ):
        wrong.cost((4,))


def test_counting_leaves_the_module_as_it_was() -> None:
    net = SmallCNN(1, 10, widths=(4, 8)).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    costs_of(net, (1, 8, 8))
    assert net.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_a_user_who_changes_the_genome_in_place_changes_a_copy() -> None:
    class InPlace(Toy):
        def sample(self, rng: random.Random) -> Any:
            return {"genes": [rng.randrange(5) for _ in TARGET]}

        def mutate(self, genome: Any, rng: random.Random) -> Any:
            genome["genes"][rng.randrange(6)] = rng.randrange(5)
            return genome

        def build(self, genome: Any) -> nn.Module:
            genome["genes"].clear()
            return nn.Linear(1, 1)

        def cost(self, genome: Any) -> dict[str, float]:
            return {"parameters": 1}

    space = Guarded(InPlace())

    def score(genome: Any) -> float:
        space.build(genome)
        return separable(genome["genes"])

    history = search(space, score, Search(evaluations=120, population=10, sample=3))
    assert all(e.score == separable(e.genome["genes"]) for e in history)


def with_method(name: str, result: Any) -> Guarded:
    def method(self: Any, *_: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    made = type("Mine", (Toy,), {name: method})
    return Guarded(made(), Limits(parameters=9))


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (lambda: Guarded(object()), r"The space object has no sample\(\)"),
        (lambda: with_method("sample", {1, 2}), "Mine gave a genome with a set in it"),
        (lambda: with_method("sample", float("nan")), "use finite numbers"),
        (lambda: with_method("sample", ValueError("no idea")), r"Mine.sample\(\) fails: ValueError: no idea"),
        (lambda: with_method("mutate", KeyError("x")), r"Mine.mutate\(.*fails: KeyError"),
        (lambda: with_method("cost", {"params": 3}), "a mapping of 'parameters' and 'flops'"),
        (lambda: with_method("cost", 3), "gave 3; a mapping"),
        (lambda: with_method("sample", (4, 4, 4, 4, 4, 4)), r"within the limits \(9 parameters\).*has 24 parameters"),
    ],
)
def test_a_space_that_fails_is_named(space: Any, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        search(space(), separable, Search(evaluations=20, population=4, sample=2))


def test_a_build_that_is_no_module_is_refused() -> None:
    with pytest.raises(DistilError, match=r"gave a int; a torch\.nn\.Module is expected"):
        with_method("build", 3).build((0,) * 6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Search("evolve"), "The strategy 'evolve' is unknown"),
        (lambda: Search(sample=0), "search.sample=0 must be a whole number"),
        (lambda: Limits(parameters=0), "The limit of parameters is 0"),
        (lambda: search(Guarded(Toy()), separable, Search("exhaustive")), r"has no all\(\)"),
        (
            lambda: search(Guarded(Listed()), separable, Search("exhaustive", evaluations=24)),
            "holds 25 architectures within the limits and evaluations=24",
        ),
        (lambda: Guarded(S0(), Limits(parameters=5)).everything(), "None of the 64 architectures of S0"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Any, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        make()


# ---- spaces


@pytest.mark.parametrize("space", [S0(classes=7, channels=1), TinyCNN(classes=7, channels=1)])
def test_built_in_spaces_are_closed_under_what_they_do(space: Any) -> None:
    rng, everything = random.Random(0), {genome_key(genome) for genome in space.all()}
    assert len(everything) == len(space.all())
    seen = [space.sample(rng) for _ in range(50)]
    moved = [space.mutate(genome, rng) for genome in seen]
    assert all(a != b for a, b in zip(seen, moved))
    assert {genome_key(genome) for genome in seen + moved} <= everything
    for genome in seen[:3]:
        net = space.build(genome)
        assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
        assert net.fc.in_features == (64 if isinstance(space, S0) else 32)


def test_spaces_are_found_by_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_spaces.py").write_text(
        "from distil.loops.spaces import TinyCNN\n"
        "ready = TinyCNN(last=8)\n"
        "def made(classes, input_shape):\n    return TinyCNN(classes, input_shape[0], last=16)\n"
        "number = 3\n"
    )
    given = {"classes": 5, "input_shape": (1, 28, 28)}
    assert load_space("s0", **given) == S0(classes=5, channels=1)
    assert load_space("my_own_spaces.py:ready", **given).last == 8
    assert load_space("my_own_spaces.py:made", **given) == TinyCNN(5, 1, last=16)
    assert load_space("distil.loops.spaces:TinyCNN", **given) == TinyCNN(5, 1)
    for wrong, says in (
        ("s1", "There is no space 's1'"),
        ("tiny-cn", "did you mean 'tiny-cnn', or your own"),
        ("my_own_spaces.py:mad", "did you mean 'made'"),
        ("my_own_spaces.py:number", "is a int; an object with sample"),
        ("none.py:made", "there is no file 'none.py' for the space"),
        ("nomodule.of.mine:x", "the space 'nomodule.of.mine:x' names neither"),
    ):
        with pytest.raises(DistilError, match=says):
            load_space(wrong, **given)
