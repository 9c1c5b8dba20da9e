"""``fit``: a training run that means what its arguments say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distil.data import DictDataset
from distil.engine import Distiller, Method, Result, Term, fit
from distil.errors import DistilError
from distil.methods import DIST, KD, FitNets, Supervised
from engine import toys

TRAIN, VAL = toys.vectors(40), toys.vectors(30, seed=5)


def run(
    method: Any = None, train: Any = TRAIN, val: Any = VAL, *, make: Any = toys.mlp, teacher: Any = ..., **options: Any
) -> Result:
    """One small run from fixed weights."""
    ours, theirs = toys.pair(make)
    if isinstance(train, dict):
        example: Any = {name: toys.batch(part, 4) for name, part in train.items()}
    else:
        example = toys.batch(train if isinstance(train, DictDataset) else TRAIN, 4)
    chosen = 0.5 * KD() + Supervised() if method is None else method
    distiller = Distiller(ours, theirs if teacher is ... else teacher, chosen, example=example)
    given = {"epochs": 2, "batch_size": 16, "lr": 1e-2, "device": "cpu", "check_teacher": False, **options}
    if "steps" in options:
        given.pop("epochs")
    return fit(distiller, train, val, **given)


def weights(result: Result) -> dict[str, torch.Tensor]:
    return result.model.state_dict()


# --- settings ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": None}, "either epochs= or steps="),
        ({"batch_size": 0}, "batch_size=0 must be a whole number"),
        ({"accumulate": 1.5}, "accumulate=1.5 must be a whole number"),
        ({"save_every": 0}, "save_every=0"),
        ({"keep": "first"}, "keep='first' is unknown"),
        ({"resume": True}, "resume=True needs out="),
        ({"precision": "fp8"}, "precision='fp8' is unknown"),
        ({"optimizer": "adamm"}, "optimizer='adamm' is unknown; did you mean 'adam'"),
        ({"optimizer": {"student": "sgd", "kdd": "adam"}}, "names the group 'kdd'"),
        ({"lr": {"teacher": 1.0}}, "names the group 'teacher'"),
        ({"lr": -1.0}, "lr=-1.0 of group 'student'"),
        ({"schedule": "cosin"}, "schedule='cosin' is unknown; did you mean 'cosine'"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"device": "cuda" if not torch.cuda.is_available() else "meta"}, "device='"),
        ({"trackers": ["tensorboard"]}, "give out="),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        run(**options)


def test_one_distiller_is_one_run() -> None:
    distiller = toys.taught()
    fit(distiller, TRAIN, steps=2, batch_size=16, device="cpu")
    with pytest.raises(DistilError, match=r"has already trained 2 steps.*make a new Distiller"):
        fit(distiller, TRAIN, steps=2, batch_size=16, device="cpu")


def test_a_teacher_at_chance_stops_the_run() -> None:
    teacher = toys.mlp()
    nn.init.zeros_(teacher.head.weight)
    with pytest.raises(DistilError, match="not above the chance level"):
        run(teacher=teacher, check_teacher=True)


# --- what comes out ---


def test_a_run_learns_and_reports() -> None:
    ticks: list[tuple[int, int]] = []
    result = run(
        0.5 * KD() + Supervised() + 0.1 * DIST(), epochs=6, test=VAL, lr=3e-2, progress=lambda *t: ticks.append(t)
    )
    first, *epochs = result.history
    assert ticks == [(k + 1, 18) for k in range(18)]
    assert [record["epoch"] for record in epochs] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in epochs] == [3, 6, 9, 12, 15, 18]
    assert first["step"] == 1
    for record in result.history:
        assert record["terms"].keys() == {"kd", "supervised", "dist.inter", "dist.intra"}
        assert sum(record["shares"].values()) == pytest.approx(1)
        assert all(-1 <= cosine <= 1 + 1e-6 for cosine in record["cosines"].values())
    for record in epochs:
        terms = record["terms"]
        whole = 0.5 * terms["kd"] + terms["supervised"] + 0.1 * (terms["dist.inter"] + terms["dist.intra"])
        assert record["loss"] == pytest.approx(whole, rel=1e-5)
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert result.last == epochs[-1]["val"]
    best = max(epochs, key=lambda record: record["val"]["accuracy"])
    assert result.best == {**best["val"], "epoch": best["epoch"]}
    assert result.test["best"] == {key: value for key, value in result.best.items() if key != "epoch"}
    assert result.test["last"] == result.last
    cost = result.cost
    assert (cost["updates"], cost["samples"], cost["batch_size"], cost["labels"]) == (18, 240, 16, 40)
    assert 0 < cost["teacher_seconds"] < cost["seconds"]
    assert 0 < cost["validation_seconds"] + cost["diagnosis_seconds"] < cost["seconds"]
    assert min(cost["validation_seconds"], cost["diagnosis_seconds"]) > 0


def test_keep_says_which_weights_are_left() -> None:
    settings = {"epochs": 5, "lr": 0.3, "optimizer": "sgd", "schedule": "constant", "test": VAL}
    best, last = run(**settings), run(**settings, keep="last")
    assert best.history == last.history
    assert best.best["epoch"] < 5, "the setting must overshoot for this test to mean anything"
    task = toys.taught().task
    assert task.evaluate(best.model, VAL) == best.test["best"]
    assert task.evaluate(last.model, VAL) == last.last == last.test["last"]
    assert best.test == last.test


def test_without_validation_the_last_epoch_counts() -> None:
    result = run(val=None)
    assert (result.last, result.best) == ({}, {})
    assert not result.model.training


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    a, b, c = run(), run(), run(seed=3)
    assert toys.same(weights(a), weights(b))
    assert not toys.same(weights(a), weights(c))


def test_the_callers_generator_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(FitNets(tap=("one", "two")) + KD(), toys.images(), toys.images(), make=Dropped)
    assert torch.equal(torch.rand(3), expected)


class Dropped(toys.CNN):
    """A CNN with dropout."""

    def __init__(self, width: int) -> None:
        super().__init__(4)
        self.pool = nn.Sequential(nn.Dropout(0.5), self.pool)
        self.two[0] = nn.Conv2d(4, 4, 1)


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_accumulation_changes_nothing(accumulate: int) -> None:
    """24 samples a step in one, two, three or eight micro-batches, the last step ragged; nothing coupled."""
    settings = {"train": toys.vectors(40), "val": None, "optimizer": "sgd", "lr": 0.1, "clip": 1.0, "diagnose": False}
    whole, split = run(batch_size=24, **settings), run(batch_size=24 // accumulate, accumulate=accumulate, **settings)
    assert whole.cost["updates"] == split.cost["updates"] == 4
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(split)[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", lambda done: 1 - done / 2])
def test_schedules_and_warm_up(schedule: Any) -> None:
    rates = [record["lr"] for record in run(epochs=10, batch_size=40, schedule=schedule, warmup=0.2).history[1:]]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[1] == pytest.approx(0.005)
    assert rates[2] == pytest.approx(0.01)
    assert (len(set(rates[2:])) == 1) == (schedule == "constant")
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_clip_bounds_the_step() -> None:
    settings = {"optimizer": "sgd", "lr": 1.0, "steps": 1, "schedule": "constant", "val": None}
    start = toys.pair()[0].state_dict()
    moved = weights(run(clip=1e-3, **settings))
    size = sum(float((moved[name] - start[name]).square().sum()) for name in start) ** 0.5
    assert size == pytest.approx(1e-3, rel=1e-3)


def test_ema_ships_the_average_and_leaves_training_alone() -> None:
    """By hand: the average of the weights after every step; what trains never sees it."""
    seen: list[dict[str, torch.Tensor]] = []

    class Notes(toys.Hint):
        def after_step(self, ctx: Any) -> None:
            seen.append({name: p.detach().clone() for name, p in self.watched.named_parameters()})

    student, teacher = toys.pair()
    average = {name: p.detach().clone() for name, p in student.named_parameters()}
    method = Notes()
    object.__setattr__(method, "watched", student)
    distiller = Distiller(student, teacher, KD() + method, example=toys.batch(TRAIN, 4))
    result = fit(
        distiller, TRAIN, VAL, epochs=2, batch_size=16, lr=0.05, ema=0.8, keep="last", check_teacher=False, device="cpu"
    )
    for after in seen:
        average = {name: 0.8 * average[name] + 0.2 * after[name] for name in average}
    for name, value in weights(result).items():
        assert torch.allclose(value, average[name], rtol=1e-5, atol=1e-7)
    plain = run(KD() + toys.Hint(), lr=0.05, keep="last")
    assert all(torch.allclose(weights(plain)[n], seen[-1][n]) for n in average)
    assert distiller.task.evaluate(result.model, VAL) == result.last


def test_ema_averages_statistics_and_leaves_memories() -> None:
    kept, means = [], []
    for ema in (None, 0.5):
        method = toys.Memory()
        result = run(method, toys.images(), None, make=toys.CNN, ema=ema, steps=3)
        kept.append({"queue": method.queue, "share": method.share, "tracked": result.model.one[1].num_batches_tracked})
        means.append(result.model.one[1].running_mean)
    assert toys.same(*kept)
    assert not torch.equal(*means)


def test_patience_ends_a_run() -> None:
    result = run(epochs=30, lr=1e-12, patience=2)
    assert len(result.history) - 1 == 3
    assert result.best["epoch"] == 1


def test_eval_every_still_scores_the_end() -> None:
    result = run(epochs=5, eval_every=2)
    assert [bool(record["val"]) for record in result.history[1:]] == [False, True, False, True, True]


@pytest.mark.parametrize(("precision", "close"), [("bf16", 0.1)])
def test_half_precision_on_a_cpu(precision: str, close: float) -> None:
    result, exact = run(precision=precision), run()
    assert result.history[-1]["loss"] == pytest.approx(exact.history[-1]["loss"], rel=close)
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    assert not toys.same(weights(result), weights(exact))


# --- data ---


def test_steps_may_end_within_an_epoch() -> None:
    result = run(steps=5)
    assert [record["step"] for record in result.history[1:]] == [3, 5]
    assert result.last


def test_data_smaller_than_a_batch_shrink_it() -> None:
    with pytest.warns(UserWarning, match="batch_size=64 is larger than the 40"):
        result = run(batch_size=64)
    assert result.cost["samples"] == 80


@pytest.mark.parametrize("kind", [list, lambda parts: torch.utils.data.DataLoader(parts, batch_size=None)])
def test_plain_iterables_of_batches(kind: Any) -> None:
    parts = [toys.batch(TRAIN, 10, start) for start in (0, 10, 20, 30)]
    result = run(train=kind(parts))
    assert (result.cost["updates"], result.cost["samples"]) == (8, 80)


class Endless:
    """Batches without a length."""

    def __iter__(self) -> Iterator[Any]:
        return (toys.batch(TRAIN, 8, start) for start in (0, 8, 16))


def test_an_iterable_without_length_takes_steps_but_no_epochs() -> None:
    assert run(train=Endless(), steps=7).cost["updates"] == 7
    with pytest.raises(DistilError, match="has no length; name the number of steps"):
        run(train=Endless())


def test_streams_run_in_lock_step() -> None:
    class Both(Method):
        labels = ("train",)
        at_equality = {"train": "zero", "pool": "zero"}  # noqa: RUF012

        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
            assert ["labels" in batch[name] for name in ("train", "pool")] == [True, False]
            return {n: Term((student(b).logits - teacher(b).logits).square().mean(1)) for n, b in batch.items()}

        def counts(self, batch: Any) -> dict[str, float]:
            return {name: float(len(part["inputs"])) for name, part in batch.items()}

    result = run(Both() + Supervised(stream="train"), {"train": toys.vectors(24), "pool": toys.vectors(60, seed=8)})
    assert result.history[-1]["terms"].keys() == {"both.train", "both.pool", "supervised"}
    assert (result.cost["updates"], result.cost["labels"]) == (4, 24)


def test_select_chooses_what_an_epoch_trains_on() -> None:
    asked: list[int] = []

    def select(epoch: int, pool: Any, distiller: Distiller) -> list[int]:
        asked.append(epoch)
        assert pool is TRAIN
        return (100 + torch.arange(40)[: 20 * (epoch + 1)]).tolist()

    result = run(select=select)
    assert asked == [0, 1]
    assert result.cost["samples"] == 20 + 40
    assert run(select=lambda *_: torch.arange(100, 120), steps=9).cost["updates"] == 9
    for ids, says in (([7], "the unknown id 7"), ([], "no ids")):
        with pytest.raises(DistilError, match=rf"select\(\) returned {says} in epoch 0"):
            run(select=lambda *_, ids=ids: ids)


def test_nan_stops_the_run_with_a_name() -> None:
    data = toys.vectors(40)
    data.inputs[7] = torch.nan
    with pytest.raises(DistilError, match=r"first in inputs .*samples with id 107"):
        run(train=data)


def test_a_tuple_of_tensors_is_a_data_set() -> None:
    data = toys.vectors(64)
    pair = (data.inputs, data.labels)
    results = [
        fit(toys.taught(), given, given, epochs=2, batch_size=16, check_teacher=False)
        for given in (DictDataset(*pair), pair)
    ]
    assert results[0].last == results[1].last
    assert toys.same(*(result.model.state_dict() for result in results))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"patience": 2}, r"patience=2 waits for better validation scores; pass val="),
        ({"weight_decay": {"student": -1.0}}, r"weight_decay=-1\.0 of group 'student' must be"),
        ({"lr": float("nan")}, r"lr=nan of group 'student' must be"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: Any, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        fit(toys.taught(), toys.vectors(), epochs=1, **options)


def test_a_plain_iterable_says_once_how_it_resumes(tmp_path: Path) -> None:
    batches = [toys.batch(toys.vectors(), 8, start) for start in (0, 8)]
    with pytest.warns(UserWarning, match="goes on from the last whole epoch") as said:
        fit(toys.taught(), batches, epochs=2, out=tmp_path, check_teacher=False)
    assert sum("whole epoch" in str(one.message) for one in said) == 1
