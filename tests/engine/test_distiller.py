"""The Distiller in anybody's loop: equal to a plain PyTorch loop, never in its way, and strict about mistakes."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from distil.data import DictDataset
from distil.engine import Distiller, Method, Term, ramp
from distil.errors import DistilError
from distil.functional.divergence import kl
from distil.methods import AT, DKD, KD, RKD, FitNets, Supervised
from distil.systems.nd import DirectNorm
from engine import toys


def plain_loop(windows: list[list[dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """What anyone would write by hand: KD and cross-entropy over windows of micro-batches."""
    student, teacher = toys.pair()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for window in windows:
        total = sum(len(part["inputs"]) for part in window)
        for part in window:
            logits = student(part["inputs"])
            with torch.no_grad():
                known = teacher(part["inputs"])
            soft = kl(logits, known, temperature=4, reduction="none").sum() / total
            hard = F.cross_entropy(logits, part["labels"], reduction="none").sum() / total
            (0.9 * soft + 0.1 * hard).backward()
        optimizer.step()
        optimizer.zero_grad()
    return student.state_dict()


def windows(count: int, sizes: list[int]) -> list[list[dict[str, torch.Tensor]]]:
    """Steps of ragged micro-batches."""
    data = toys.vectors(64)
    rng = torch.Generator().manual_seed(0)
    return [[data.batch(torch.randint(64, (size,), generator=rng)) for size in sizes] for _ in range(count)]


@pytest.mark.parametrize("sizes", [[8], [5, 3]], ids=["whole", "accumulated"])
@pytest.mark.parametrize("accelerated", [False, True])
def test_twenty_steps_equal_a_plain_loop(sizes: list[int], accelerated: bool) -> None:
    """The ten lines of the front page; bit-equal by hand, and behind accelerate, which divides by the micro-batches."""
    steps = windows(20, sizes)
    student, teacher = toys.pair()
    distiller = Distiller(student, teacher, 0.9 * KD(temperature=4) + 0.1 * Supervised(), example=steps[0][0])
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=1e-2)
    model: nn.Module = distiller
    host = Accelerator(cpu=True, gradient_accumulation_steps=len(sizes)) if accelerated else None
    if host is not None:
        model, optimizer = host.prepare(distiller, optimizer)
    distiller.watch(optimizer)
    for window in steps:
        totals = distiller.totals(window)
        for part in window:
            if host is None:
                distiller(part, totals=totals, divides=False).loss.backward()
            else:
                with host.accumulate(model):
                    host.backward(model(part, totals=totals).loss)
                    optimizer.step()
                    optimizer.zero_grad()
        if host is None:
            optimizer.step()
            optimizer.zero_grad()
    assert distiller.ctx.step == 20
    if host is None:
        assert toys.same(student.state_dict(), plain_loop(steps))
    else:
        for name, value in plain_loop(steps).items():
            assert torch.allclose(student.state_dict()[name], value, rtol=1e-5, atol=1e-7), name


def test_the_teacher_is_nowhere_to_be_found() -> None:
    distiller = toys.taught(KD() + Supervised(), make=toys.CNN)
    (teacher,) = distiller.teachers.values()
    inside = {id(m) for m in distiller.modules()}
    assert not inside & {id(m) for m in teacher.modules()}
    assert not {id(p) for p in distiller.parameters()} & {id(p) for p in teacher.parameters()}
    assert all(name.startswith("student.") for name in distiller.state_dict())
    distiller.train()
    assert not any(m.training for m in teacher.modules())
    teacher.train()  # a host may reach it; the next call puts it back
    before = toys.state(teacher)
    toys.step(distiller, toys.batch(toys.images()))
    assert not any(m.training for m in teacher.modules())
    assert toys.same(before, teacher.state_dict())


def test_moving_the_distiller_moves_the_teacher_but_not_its_dtype() -> None:
    distiller = toys.taught(FitNets(tap=("one", "two")), make=toys.CNN)
    distiller.to(torch.float64)
    (teacher,) = distiller.teachers.values()
    assert {p.dtype for p in distiller.parameters()} == {torch.float64}
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    distiller.to("meta")
    assert {p.device.type for p in (*distiller.parameters(), *teacher.parameters())} == {"meta"}
    kept = toys.taught(teacher_device="cpu").to("meta")
    assert {p.device.type for p in kept.teachers["model"].parameters()} == {"cpu"}


def test_deployed_is_the_student_itself() -> None:
    distiller = toys.taught()
    assert distiller.deployed() is distiller.student


def test_a_mapping_of_inputs_is_called_by_name() -> None:
    class Named(nn.Module):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.net = toys.mlp(width)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.net(x * scale)

    data = toys.batch(toys.vectors(), 8)
    inputs = {"x": data["inputs"], "scale": torch.full((8, 1), 2.0)}
    distiller = Distiller(Named(), Named(8), KD() + Supervised(), example={**data, "inputs": inputs})
    given = distiller({**data, "inputs": inputs}).loss
    distiller.ctx.micro = 0
    assert torch.equal(given, distiller(**{**data, "inputs": inputs}).loss)


def test_keyword_inputs_and_pairs_are_batches_too() -> None:
    distiller = toys.taught()
    data = toys.batch(toys.vectors(), 8)
    losses = []
    for call in (
        lambda: distiller(data),
        lambda: distiller(**data),
        lambda: distiller((data["inputs"], data["labels"])),
        lambda: distiller(pixel_values=data["inputs"], label=data["labels"]),
        lambda: distiller(totals=distiller.totals([data])),
        lambda: distiller(**data, totals=distiller.totals([data])),
    ):
        losses.append(call().loss)
        distiller.skip_step()
    assert all(torch.equal(losses[0], other) for other in losses)


class Peeks(toys.Hint):
    """Keeps the batch that it was shown."""

    seen: Any = None

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        Peeks.seen = batch
        part = batch.get("train", batch)
        return {"hint": Term((student(part).logits - teacher(part).logits).square().mean(1))}

    def counts(self, batch: Any) -> dict[str, float]:
        return {"hint": float(len(batch.get("train", batch)["inputs"]))}


@pytest.mark.parametrize(
    ("reads", "kept"), [(False, set()), (True, {"train", "pool"}), (("train",), {"train"}), (("pool",), {"pool"})]
)
def test_labels_of_streams_nobody_may_read_are_removed(reads: Any, kept: set[str]) -> None:
    method = Peeks()
    method.labels = reads
    data = {"train": toys.batch(toys.vectors(), 6), "pool": toys.batch(toys.vectors(), 4)}
    Distiller(*toys.pair(), method, example=data)(data)
    assert {name for name, part in Peeks.seen.items() if "labels" in part} == kept
    single = toys.batch(toys.vectors(), 6)
    if reads in (False, True):
        Distiller(*toys.pair(), method, example=single)(single)
        assert ("labels" in Peeks.seen) == reads


def test_supervised_names_a_stream() -> None:
    data = {"train": toys.batch(toys.vectors(), 6), "pool": toys.batch(toys.vectors(), 4)}
    with pytest.raises(DistilError, match=r"Supervised\(stream='train'\)"):
        Distiller(*toys.pair(), Supervised(), example=data)(data)
    step = Distiller(*toys.pair(), Peeks() + Supervised(stream="train"), example=data)(data)
    assert step.terms.keys() == {"peeks", "supervised"}
    with pytest.raises(DistilError, match="names no stream of the batch"):
        Distiller(*toys.pair(), Supervised(stream="test"), example=data)(data)


# --- what is refused ------------------------------------------------------------------------------------------------


def made(student: Any = None, teacher: Any = None, method: Any = None, **options: Any) -> Distiller:
    ours, theirs = toys.pair()
    return Distiller(
        ours if student is None else student, theirs if teacher is None else teacher, method or KD() + Supervised(),
        **{"example": toys.batch(toys.vectors(), 4), **options},
    )  # fmt: skip


def sharing() -> dict[str, Any]:
    student = toys.mlp()
    return {"student": student, "teacher": nn.Sequential(student, nn.Identity())}


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (sharing, r"share 4 parameters \(hidden.weight.*copy.deepcopy"),
        (lambda: {"teacher": toys.mlp(classes=5)}, r"logits \[4, 3\] and the teacher \[4, 5\]"),
        (lambda: {"student": toys.mlp().requires_grad_(False)}, "No parameter of the student requires grad"),
        (lambda: {"student": {}}, "The mapping of students is empty"),
        (lambda: {"teacher": 3}, "The teacher 'model' is a int; a torch.nn.Module"),
        (lambda: {"task": "clasification"}, "unknown; did you mean 'classification'"),
    ],
)
def test_impossible_casts_are_refused(build: Any, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        made(**build())


def test_a_student_in_eval_mode_is_refused_and_frozen_parts_are_not() -> None:
    distiller = toys.taught(make=toys.CNN)
    distiller.student.one.eval().requires_grad_(False)
    toys.step(distiller, toys.batch(toys.images()))
    distiller.student.eval()
    with pytest.raises(DistilError, match=r"in eval mode.*call distiller.train\(\)"):
        distiller(toys.batch(toys.images()))
    distiller.eval()
    assert distiller(toys.batch(toys.images())).loss.isfinite()


@pytest.mark.parametrize("method", [Supervised, DKD])
def test_a_label_out_of_range_names_its_sample(method: type[Method]) -> None:
    data = toys.batch(toys.vectors(), 8)
    data["labels"][5] = 7
    with pytest.raises(DistilError, match=r"label 7 of sample id 105 is outside 0..2"):
        made(method=method())(data)


def test_no_label_weighs_nothing() -> None:
    data = toys.batch(toys.vectors(), 8)
    hidden = {**data, "labels": data["labels"].clone().index_fill(0, torch.tensor([1, 6]), -100)}
    kept = {key: value[[0, 2, 3, 4, 5, 7]] for key, value in data.items()}
    distiller = made(method=Supervised())
    assert distiller(hidden).loss.item() == pytest.approx(distiller(kept).loss.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (ramp(fraction=0.5) * KD(), {}, r"needs the length of the run: pass steps="),
        (ramp(epochs=3) * KD(), {}, r"counts epochs: pass epochs="),
        (ramp(fraction=0.5) * KD(), {"steps": 9}, r"nothing is watched: optimizer = distiller.watch"),
        (KD() + toys.Memory(), {}, r"'memory' needs to know of every optimizer step"),
        (DirectNorm(), {}, r"'directnorm' goes over the training data.*distiller.prepare\(data\)"),
    ],
)
def test_what_must_be_known_before_training(method: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        made(method=method, **options)(toys.batch(toys.vectors()))


def test_a_host_without_optimizers_calls_after_step_itself() -> None:
    distiller = made(method=toys.Memory())
    distiller.watch()
    for count in range(3):
        assert distiller.ctx.step == count
        distiller(toys.batch(toys.vectors()))
        distiller.after_step()
    assert set(distiller.ctx.terms) == {"memory"}


# --- BatchNorm, copies, compiled students ---------------------------------------------------------------------------


def test_a_batch_of_one_uses_running_statistics_and_says_so_once() -> None:
    distiller = toys.taught(KD() + Supervised(), make=toys.CNN)
    before = distiller.student.one[1].running_mean.clone()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            toys.step(distiller, toys.batch(toys.images(), 1))
        streams = {"train": toys.batch(toys.vectors(), 6), "pool": toys.batch(toys.vectors(), 1)}
        Distiller(*toys.pair(), Peeks(), example=streams)(streams)  # no BatchNorm: nothing to say
    assert [str(w.message)[:24] for w in told] == ["A batch of one sample: B"]
    assert torch.equal(before, distiller.student.one[1].running_mean)
    assert distiller.student.one[1].training
    toys.step(distiller, toys.batch(toys.images(), 2))
    assert not torch.equal(before, distiller.student.one[1].running_mean)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["copy", "pickle"])
def test_a_copy_trains_on_by_itself(twin: Any) -> None:
    data = toys.batch(toys.images())
    first = toys.taught(KD() + Supervised() + FitNets(tap=("one", "two")) + 0.01 * RKD(), make=toys.CNN)
    toys.step(first, data)
    del first.sgd
    second = twin(first)
    assert second.ctx.step == 1
    kept = toys.state(first)
    for one in (first, second):
        one.sgd = one.watch(torch.optim.SGD(one.parameters(), lr=0.1))
        toys.step(one, data)
        assert one.ctx.step == 2
        if one is first:
            assert toys.same(kept, second.state_dict())
    assert toys.same(first.state_dict(), second.state_dict())
    assert second.teachers["model"] is not first.teachers["model"]


def test_a_copy_keeps_its_own_optimizer_tied_to_its_own_parts() -> None:
    data = {"train": toys.batch(toys.vectors(), 8), "val": toys.batch(toys.vectors(), 8)}
    first = Distiller(*toys.pair(), toys.Controller(), example=data)
    for twin in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        (component,) = twin.method
        assert component.method.own.parameters[0] is component.method.gate.weight
        before, ours = component.method.gate.weight.clone(), first.method.components[0].method.gate.weight.clone()
        twin(data)
        assert not torch.equal(before, component.method.gate.weight)
        assert torch.equal(ours, first.method.components[0].method.gate.weight)


def test_a_compiled_student_is_looked_through_and_announced() -> None:
    student, _ = toys.pair()
    with pytest.warns(UserWarning, match=r"compiled before.*distiller.compile_models\(\)"):
        distiller = made(student=torch.compile(student, backend="eager"))
    assert distiller.cast.students["model"] is student
    assert distiller(toys.batch(toys.vectors())).loss.isfinite()


def test_rng_is_the_same_for_the_same_step_and_its_own_for_every_hook() -> None:
    class Draws(toys.Hint):
        def transform(self, batch: Any, student: Any, teacher: Any, ctx: Any) -> Any:
            drawn.append(float(torch.rand((), generator=ctx.rng)))
            return batch

        def before_step(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> None:
            drawn.append(float(torch.rand((), generator=ctx.rng)))

        def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> Any:
            drawn.append(float(torch.rand((), generator=ctx.rng)))
            return super().forward(student, teacher, batch, ctx)

    runs = []
    for joint in (False, True, True):
        drawn: list[float] = []
        distiller = toys.taught(Draws(), seed=4)
        for _ in range(3):
            data = toys.batch(toys.vectors())
            toys.step(distiller, data, totals=distiller.totals([data]) if joint else None)
        runs.append(drawn)
    assert runs[0] == runs[1] == runs[2]
    assert len(set(runs[0])) == 9


def test_at_runs_on_maps_of_unequal_width() -> None:
    data = DictDataset(toys.images().inputs)
    distiller = Distiller(*toys.pair(toys.CNN), AT(), example=toys.batch(data, 4))
    assert distiller(toys.batch(data)).loss > 0
