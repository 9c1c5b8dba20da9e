"""What follows from measured figures, on figures made up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from distil.errors import DistilError
from distil.plan import (
    Arm,
    Cache,
    Measured,
    Memory,
    Plan,
    Work,
    Workload,
    counted,
    kept_for_backward,
    parse_bytes,
    predict,
)
from distil.plan.count import work_of
from distil.tasks import get_task

MEMORY = Memory(
    batch=10, student=40, teacher=80, method=0, gradients=40, optimizer=80, kept=500, step=1000, scoring=600,
    slope=50.0, base=10_000, loading=0, copies=40, source="",
)  # fmt: skip
ALONE = Arm(step=0.3, steps=10, teacher=0.0, diagnosis=0.0, prepare=0.0, memory=MEMORY)
TAUGHT = replace(ALONE, step=1.0, teacher=0.6)
SEEN = Measured(
    device="cpu", batch=10, samples={"train": 95, "val": 20, "test": 20}, whole=False, loader=0.01, teacher=0.6,
    work=Work(student=10, teacher=60, forward=20, backward=40, teacher_forward=120, samples=1),
    scoring=dict.fromkeys(("student_val", "student_test", "teacher_val", "teacher_test"), 0.0),
    arms={"alone": ALONE, "kd": TAUGHT}, cache=Cache(write=0.1, read=0.1, bytes={"dense16": 40}, samples=8),
    no_cache="", available=10**9,
)  # fmt: skip
WORK = Workload(epochs=5, runs={"alone": 1, "kd": 2})


def with_arm(**changed: object) -> Measured:
    return replace(SEEN, arms={"alone": ALONE, "kd": replace(TAUGHT, **changed)})  # type: ignore[arg-type]


def test_seconds_are_steps_of_all_students() -> None:
    plan = predict(SEEN, WORK)
    assert plan.steps == 10
    assert plan.training == pytest.approx({"alone": 5 * 10 * 0.3, "kd": 2 * 5 * 10 * 1.0})


def test_a_cache_saves_the_teacher_less_the_reading_and_is_written_once() -> None:
    plan = predict(SEEN, WORK)
    assert plan.gain == pytest.approx(2 * 10 * (0.6 - 0.1))  # of an epoch of both students
    assert plan.write == pytest.approx(0.1 * 135)
    assert plan.pays_from == 2  # 13.5 seconds, 10 an epoch
    assert plan.cached == pytest.approx(plan.seconds + 13.5 - 50)
    assert plan.disk == {"dense16": 40 * 135}


def test_devices_and_accumulation_leave_fewer_steps() -> None:
    assert predict(SEEN, replace(WORK, devices=4)).steps == 3  # 24 samples each
    assert predict(SEEN, replace(WORK, accumulate=4)).steps == 3
    assert predict(replace(SEEN, whole=True), WORK).steps == 1


def test_the_teachers_own_training_is_added() -> None:
    more = predict(SEEN, replace(WORK, teacher_epochs=3), teacher_training=replace(ALONE, step=2.0))
    assert more.seconds - predict(SEEN, WORK).seconds == pytest.approx(3 * 10 * 2.0)


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        (replace(SEEN, work=replace(SEEN.work, teacher=3)), "under a third of the student's parameters"),
        (with_arm(teacher=0.05), "A cache cannot help: reading it takes as long as asking the teacher."),
        (with_arm(teacher=0.11), "it pays only if it is used again"),
        (with_arm(refusal="it taps layer1."), "A cache cannot serve this method: it taps layer1."),
        (with_arm(teacher=0.0), "No arm asks the teacher"),
        (
            replace(SEEN, cache=None, no_cache="the data are changed."),
            "A cache cannot serve this run: the data are chan",
        ),
        (replace(SEEN, loader=0.7), "Reading data is the limit (70 % of a step)"),
        (with_arm(scaled=4), "Timed at micro-batches of 4 and scaled up"),
    ],
)
def test_what_cannot_help_is_said(seen: Measured, sentence: str) -> None:
    assert any(sentence in word for word in predict(seen, WORK).words)


def fits(memory: int) -> Plan:
    return predict(SEEN, WORK, memory=memory)


def test_memory_is_a_line_in_the_batch() -> None:
    assert fits(20_000).memory == 10_000 + 40 + 1000
    assert fits(20_000).fits == 10 + (20_000 - 11_040) // 50
    assert fits(10_900).fits == 7
    assert any("use --batch-size 7 and accumulate" in word for word in fits(10_900).words)
    assert fits(5_000).fits == 0


def test_the_count_of_a_step_is_what_it_allocates() -> None:
    layer = nn.Linear(1000, 1000, bias=False)
    inputs = torch.ones(4, 1000)
    with counted(torch.device("cpu")) as peak, kept_for_backward([layer.weight]) as kept:
        layer(inputs).sum().backward()
    assert 4_000_000 <= peak.bytes < 4_200_000  # the gradient of the weight, and little else
    assert kept.bytes == 16_000  # the inputs


def test_operations_are_counted_as_they_run() -> None:
    student, teacher = nn.Linear(10, 5), nn.Linear(10, 50)
    batch = {"inputs": torch.ones(3, 10), "labels": torch.zeros(3, dtype=torch.int64)}
    work = work_of(student, teacher, batch, get_task("classification"))
    assert (work.forward, work.backward, work.teacher_forward) == (
        300,
        300,
        3000,
    )  # nothing asks for the inputs' gradient
    assert (work.by_parameters, work.by_flops) == (1 + 550 / 165, 6.0)


@pytest.mark.parametrize("text", ["", "GB", "16GBB", "1e400GB", "nan MB", "0", "12", "-1GB"])
def test_amounts_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(DistilError, match=r"is no amount|is impossible"):
        parse_bytes(text)


def test_what_does_not_fit_at_all_is_said_even_where_the_batch_is_fixed() -> None:
    fixed = replace(fits(20_000).measured.arms["kd"].memory, slope=0.0)
    assert fixed.largest_batch(20_000) is None
    assert fixed.largest_batch(10) == 0
