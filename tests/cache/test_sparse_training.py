"""KD learns from a cache that holds a few classes of each sample; what needs all of them says so before training."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from cache.worlds import TASK, dataset, live, student, teacher
from distil import Distiller
from distil.cache import CachedTeacher, Sampled, TeacherCache, TopK
from distil.data import Batches
from distil.engine.method import Method, Sum
from distil.errors import DistilError
from distil.functional import SparseTargets, sparse_kd, topk_kl
from distil.methods import DIST, DKD, KD, Supervised
from distil.systems.pld import PLD

from .test_training import trained

T = 4.0


def cached(out: Path, codec: TopK | Sampled | str) -> CachedTeacher:
    return CachedTeacher(TeacherCache.write(teacher(), dataset(), TASK, out, codec=codec))


def distiller(who: nn.Module, method: Method | Sum) -> Distiller:
    return Distiller(
        student(), who, method, task=TASK, example=next(iter(Batches(dataset(), 8, seed=0, shuffle=False)))
    )


def test_every_class_kept_trains_as_the_live_teacher_does(tmp_path: Path) -> None:
    method = lambda: 0.9 * KD(temperature=T) + 0.1 * Supervised()  # noqa: E731
    ours, theirs = trained(cached(tmp_path, TopK(10, 8, T)), method()), trained(teacher(), method())
    start = student().state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=5e-3)
        assert (value - start[name]).abs().max() > 0.02


def test_the_term_is_the_loss_on_what_is_stored(tmp_path: Path) -> None:
    who = cached(tmp_path, "topk4@4")
    made = distiller(who, KD(temperature=T))
    batch = next(iter(Batches(dataset(), 20, seed=0, shuffle=False)))
    kept = who.cache.read(batch["id"])
    step = made(batch)
    expected = topk_kl(step.student, kept["ids"], kept["log_probs"], temperature=T)
    torch.testing.assert_close(step.loss, expected)


@pytest.mark.parametrize("codec", ["topk4@4", Sampled(400, 0.7, T), "topk10x8@4"])
def test_training_brings_the_student_nearer_to_the_teacher(tmp_path: Path, codec: TopK | Sampled | str) -> None:
    state = trained(cached(tmp_path, codec), KD(temperature=T))
    after, data = student(), dataset()
    after.load_state_dict(state)
    targets = live(teacher(), data)
    far, near = (float(sparse_gap(live(model, data), targets)) for model in (student(), after))
    assert near < 0.8 * far


def sparse_gap(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return (student_logits.softmax(1) - teacher_logits.softmax(1)).square().sum()


@pytest.mark.parametrize("convention", ["distil", "trl", "deit", "textbrewer"])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_the_methods_loss_and_gradient_are_right_on_average_over_every_draw(convention: str, power: float) -> None:
    generator = torch.Generator().manual_seed(3)
    s, t = (torch.randn(1, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    log_p = (t / T).log_softmax(1)
    pi, entropy = (power * log_p).softmax(1), -(log_p.exp() * log_p).sum(1)
    method = KD(temperature=T, convention=convention)

    def taught(said: object) -> tuple[Tensor, Tensor]:
        leaf = s.clone().requires_grad_()
        pupil = lambda _: SimpleNamespace(logits=leaf)  # noqa: E731
        value = method(pupil, lambda _: said, {}, None)["kd"].mean()
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    value, slope = torch.zeros((), dtype=s.dtype), torch.zeros_like(s)
    for draw in itertools.product(range(4), repeat=3):
        ids = torch.tensor([draw])
        weights = (log_p.exp() / pi).gather(1, ids) / 3
        drawn = SparseTargets(ids, weights, 4, T, "sampled3@4", entropy)
        one, two = taught(SimpleNamespace(sparse=drawn))
        chance = pi.gather(1, ids).prod()
        value, slope = value + chance * one, slope + chance * two
    full, whole = taught(SimpleNamespace(sparse=None, logits=t))
    torch.testing.assert_close(value, full, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slope, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("codec", "method", "says"),
    [
        ("topk4", DKD, "'dkd' reads all logits of the teacher, and the cache holds topk4x4 targets"),
        ("sampled50", DIST, "'dist' reads all logits of the teacher, and the cache holds sampled50 targets"),
        ("topk4", lambda: PLD() + KD(temperature=1), "write it with --codec dense16"),
        ("topk4x8", KD, r"made at temperature 1, .* use kd\(temperature=1\), or .* --codec topk4x8@4"),
        ("topk4@4", lambda: KD(convention="kd_lib"), "convention='kd_lib' cannot be read from topk4x4@4"),
        ("topk4@4", lambda: KD(convention="glnn"), "knows no temperature"),
    ],
)
def test_what_cannot_learn_from_it_is_refused_before_training(
    tmp_path: Path, codec: str, method: type, says: str
) -> None:
    who = cached(tmp_path, codec)
    with pytest.raises(DistilError, match=says):
        distiller(who, method())


def test_a_method_that_forgot_to_say_what_it_reads_is_told_at_its_first_step(tmp_path: Path) -> None:
    class Sharp(KD):  # type: ignore[misc]
        def forward(self, student, teacher, batch, ctx):  # type: ignore[no-untyped-def]
            return {"kd": (teacher(batch).logits, student)}

    made = distiller(cached(tmp_path, "topk4@4"), Sharp(name="sharp"))
    made.watch()
    with pytest.raises(DistilError, match="all of its logits were asked for"):
        made(next(iter(Batches(dataset(), 8, seed=0, shuffle=False))))


def test_other_classes_than_the_students_are_refused(tmp_path: Path) -> None:
    who = cached(tmp_path, "topk4@4")
    with pytest.raises(DistilError, match=r"The student gives logits \[8, 7\] and the teacher \[8, 10\]"):
        Distiller(
            student(classes=7), who, KD(), task=TASK, example=next(iter(Batches(dataset(), 8, seed=0, shuffle=False)))
        )
    with pytest.raises(DistilError, match="the student scores 3 classes and the teacher's targets are of 5"):
        sparse_kd(torch.zeros(1, 3), SparseTargets(torch.tensor([[1]]), torch.tensor([[0.0]]), 5))


def test_the_teacher_is_scored_by_what_is_stored(tmp_path: Path) -> None:
    expected = TASK.evaluate(teacher(), dataset(), role="teacher")
    found = TASK.evaluate(cached(tmp_path / "k", "topk10x8@4"), dataset(), role="teacher")
    assert found["accuracy"] == expected["accuracy"]
    assert found["nll"] == pytest.approx(expected["nll"], abs=0.02)
    few = TASK.evaluate(cached(tmp_path / "few", "topk2@4"), dataset(), role="teacher")
    assert few["accuracy"] == expected["accuracy"]
    drawn = TASK.evaluate(cached(tmp_path / "d", Sampled(4000)), dataset(), role="teacher")
    assert drawn["nll"] == pytest.approx(expected["nll"], abs=0.05)
