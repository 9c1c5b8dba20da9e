"""The dry run: a few real steps of every arm, of the teacher, of the loader and of a small cache, each timed."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.cache import CachedTeacher, Field, TeacherCache, get_codec, plan_cache
from distil.data.bundle import Bundle, View
from distil.data.loading import FullBatch, as_batches
from distil.engine.distiller import Distiller
from distil.engine.fit import Result, fit
from distil.engine.host import find_accelerator
from distil.engine.optim import OPTIMIZERS
from distil.errors import DistilError
from distil.methods.expression import parse
from distil.plan.count import Work, work_of
from distil.plan.memory import Memory, available, counted, held, high_water, kept_for_backward, resident, state_of
from distil.tasks import Task
from distil.tasks.base import evaluating, to_device

__all__ = ["Arm", "Cache", "Measured", "Rehearsal"]

CODECS = ("dense32", "dense16", "topk64", "sampled50")
STORED = "dense16"  # what a CachedTeacher reads
SECONDS, LEAST, MOST = 2.0, 8, 200  # a timing's length, and its steps
SAMPLE = 512  # at most, of what is scored or cached to see how long it takes


@dataclass(frozen=True)
class Arm:
    """What one way of training takes.

    Attributes:
        step: seconds of an optimizer step with everything in it, the median of ``steps``.
        teacher: of them, in the teacher's passes.
        diagnosis: seconds of an epoch's measuring of gradient shares; prepare: of the pass before training.
        memory: what a run of it holds.
        refusal: why a cached teacher cannot serve it, or "".
        scaled: the micro-batch it was timed at, where the wanted one does not fit; ``step`` is scaled up from it.
    """

    step: float
    steps: int
    teacher: float
    diagnosis: float
    prepare: float
    memory: Memory
    refusal: str = ""
    scaled: int | None = None


@dataclass(frozen=True)
class Cache:
    """A small cache that was written and read: seconds of writing a sample and of reading a batch, bytes by codec."""

    write: float
    read: float
    bytes: Mapping[str, int]
    samples: int


@dataclass(frozen=True)
class Measured:
    """All that a dry run saw. Seconds of ``loader`` and ``teacher`` are for one micro-batch.

    ``scoring`` holds the seconds of one pass of each role over validation and test data.
    """

    device: str
    batch: int
    samples: Mapping[str, int]
    whole: bool
    loader: float
    teacher: float
    work: Work
    scoring: Mapping[str, float]
    arms: Mapping[str, Arm]
    cache: Cache | None
    no_cache: str
    available: int


class Rehearsal:
    """Runs a few steps of what a real run would do, with students that are thrown away.

    Args:
        student: makes a fresh one.
        teacher: the live one; it is left frozen and where it is trained.
        task, bundle: the data and how both roles are called on them.
        training: settings as ``fit`` takes them.
        taps: as a Distiller takes them.
        device: as ``fit`` takes it.
        begin: told the name of what is measured now.
    """

    def __init__(
        self, student: Callable[[], nn.Module], teacher: nn.Module, task: Task, bundle: Bundle,
        training: Mapping[str, Any], *, taps: Mapping[str, Any] | None = None,
        device: str | None = None, begin: Callable[[str], None] = lambda name: None,
    ) -> None:  # fmt: skip
        self.student, self.teacher, self.task, self.bundle = student, teacher, task, bundle
        self.taps, self.asked, self.begin = taps, device, begin
        self.training = {**training, "patience": None}
        self.device = find_accelerator(precision=training["precision"], device=device).device
        self.steady = self._batches(int(training["batch_size"]))
        self.whole = isinstance(self.steady, FullBatch)
        self.batch = len(self._one()["labels"]) if self.whole else int(self.steady.batch_size)

    def run(self, methods: Mapping[str, str]) -> Measured:
        """Measure every arm (a method's expression by its name), the teacher, the loader, scoring and a cache."""
        with warnings.catch_warnings(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            warnings.simplefilter("ignore")
            return self._run(methods)

    def _run(self, methods: Mapping[str, str]) -> Measured:
        self.begin("counting operations")
        gc.collect()
        self.teacher.to(self.device).eval()
        batch = to_device(self._one(), self.device)
        work = work_of(self.student().to(self.device), self.teacher, batch, self.task)
        self.begin("timing scores")
        scoring = self._scoring()  # before memory is counted: it loads what every run loads
        arms = {name: self.arm(text) for name, text in methods.items()}
        self.begin("timing the teacher")
        teacher = self._seconds(lambda: self._ask(self.teacher, batch))
        self.begin("writing and reading a small cache")
        cache, why = None, ""
        try:
            cache, refusals = self._cache(methods, teacher / self.batch)
            arms = {name: replace(arm, refusal=refusals.get(name, "")) for name, arm in arms.items()}
        except DistilError as error:
            why = str(error)
        return Measured(
            device=str(self.device), batch=self.batch, whole=self.whole, loader=self._loader(), teacher=teacher,
            samples={part: len(getattr(self.bundle, part)) for part in ("train", "val", "test")}, work=work,
            scoring=scoring, arms=arms, cache=cache, no_cache=why, available=available(self.device),
        )  # fmt: skip

    def glance(self, method: str) -> float:
        """Return about how many seconds a step takes, from three."""
        with warnings.catch_warnings(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            warnings.simplefilter("ignore")
            return min(self._steps(method, 3, self.batch)[0])

    # --- one arm ----------------------------------------------------------------------------------------------------

    def arm(self, method: str) -> Arm:
        """Count the memory of a few steps of a method, then time some; where the batch does not fit, a smaller one."""
        self.begin(f"counting the memory of {method}")
        memory, size = self._memory(method)
        self.begin(f"timing {method}")
        rough, seen = self._steps(method, 3, size, diagnose=True)
        epochs = -(-3 * self.training["accumulate"] // len(self._batches(size)))
        count = int(min(MOST, max(LEAST, SECONDS / max(1e-6, min(rough))))) + 2
        taken, cost = self._steps(method, count, size)
        step = statistics.median(taken)
        factor = self.batch / size
        return Arm(
            step=step * factor, steps=len(taken), teacher=min(cost["teacher_seconds"] / count, step) * factor,
            diagnosis=seen["diagnosis_seconds"] / epochs, prepare=cost["prepare_seconds"],
            memory=memory, scaled=size if size < self.batch else None,
        )  # fmt: skip

    def _memory(self, method: str) -> tuple[Memory, int]:
        """Return the memory of a run and the micro-batch it can be timed at: the one wanted, if it fits.

        It is counted at a small batch and at half of it; then, where their growth says that it fits, at the real one.
        """
        low = min(self.batch, 16)
        memory = self._counted(method, low)
        if self.whole or low < 4:
            return memory, self.batch
        less = self._counted(method, low // 2)
        memory = replace(memory, slope=max(0.0, (memory.step - less.step) / (memory.batch - less.batch)))
        if low == self.batch:
            return memory, self.batch
        room = available(self.device)
        if memory.peak(self.batch) > 0.9 * room:
            return memory, max(low, memory.largest_batch(int(0.8 * room)) or low)
        real = self._counted(method, self.batch)
        return replace(real, slope=max(0.0, (real.step - memory.step) / (real.batch - memory.batch))), self.batch

    def _counted(self, method: str, size: int) -> Memory:
        """Count two steps: at the second the optimizer has its state."""
        distiller, name = self._distiller(method), self.training["optimizer"]
        distiller.to(self.device)
        made: list[torch.optim.Optimizer] = []

        def noted(groups: Any) -> torch.optim.Optimizer:
            made.append(OPTIMIZERS[name](groups))
            return made[-1]

        students, gpu = [*distiller.cast.students.values()], self.device.type == "cuda"
        weights = [*distiller.parameters(), *self.teacher.parameters()]
        base = held(*students, distiller.method, self.teacher) if gpu else resident()
        optimizer = noted if name in OPTIMIZERS else name  # an unknown name is refused there
        with counted(self.device) as peak, kept_for_backward(weights) as kept:
            self._fit(distiller, 2, size, optimizer=optimizer, progress=lambda done, total: kept.next())
        learners = [p for group in distiller.groups().values() for p in group]
        return Memory(
            batch=size, student=held(*students), teacher=held(self.teacher), method=held(distiller.method),
            gradients=sum(p.numel() * p.element_size() for p in learners), optimizer=sum(map(state_of, made)),
            kept=kept.bytes, step=peak.bytes, scoring=self._scoring_peak, slope=0.0, base=base,
            loading=0 if gpu else high_water(), copies=0 if gpu else held(*students, distiller.method),
            source="torch.cuda.max_memory_allocated" if gpu else "the allocator's record of real steps",
        )  # fmt: skip

    def _steps(
        self, method: str, count: int, size: int, diagnose: bool = False
    ) -> tuple[list[float], dict[str, float]]:
        """Run so many steps; return the seconds of all but the first two (one, of three), and the run's cost."""
        marks: list[float] = []
        warm = 1 if count <= 3 else 2

        def note(done: int, total: int) -> None:
            if self.device.type == "cuda" and done in (warm, total):
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

        result = self._fit(self._distiller(method), count, size, diagnose=diagnose, progress=note)
        taken = [after - before for before, after in zip(marks[warm - 1 :], marks[warm:])]
        if self.device.type == "cuda":  # between the two moments at which it had finished
            taken = [sum(taken) / len(taken)] * len(taken)
        return taken, result.cost

    def _fit(self, distiller: Distiller, steps: int, size: int, **changed: Any) -> Result:
        quiet = {"epochs": None, "steps": steps, "diagnose": False, "check_teacher": False, "batch_size": size}
        return fit(distiller, self.bundle.train, device=self.asked, **{**self.training, **quiet, **changed})

    def _distiller(self, method: str, teacher: nn.Module | None = None) -> Distiller:
        methods = parse(method)
        return Distiller(
            methods.rebuild(self.student()), teacher or self.teacher, methods, task=self.task,
            example=next(iter(as_batches(self.bundle.train, 8).iterate(0))), epochs=self.training["epochs"],
            taps=self.taps,
        )  # fmt: skip

    # --- the rest ---------------------------------------------------------------------------------------------------

    def _batches(self, size: int) -> Any:
        return as_batches(self.bundle.train, size, seed=0, shuffle=True)

    def _one(self) -> dict[str, Any]:
        return self.task.unpack(next(iter(self.steady.iterate(0))))

    def _ask(self, teacher: nn.Module, batch: Mapping[str, Any]) -> Any:
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.training["precision"])
        with evaluating(teacher), torch.no_grad(), torch.autocast(self.device.type, half, enabled=half is not None):
            return self.task.call(teacher, batch, "teacher")

    def _seconds(self, call: Callable[[], Any], seconds: float = 0.5) -> float:
        """Return the median seconds of a call, once it is warm."""
        taken: list[float] = []
        call()
        self._wait()
        while len(taken) < 5 or (sum(taken) < seconds and len(taken) < MOST):
            start = time.perf_counter()
            call()
            self._wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _loader(self) -> float:
        """Return the median seconds of reading a batch."""
        taken: list[float] = []
        for epoch in range(MOST):
            batches, start = self.steady.iterate(epoch), time.perf_counter()
            for raw in batches:
                self.task.unpack(raw)
                taken.append(time.perf_counter() - start)
                if len(taken) >= MOST or (len(taken) > 4 and sum(taken) > 0.5):
                    return statistics.median(taken)
                start = time.perf_counter()
        return statistics.median(taken)

    def _part(self, name: str) -> tuple[Any, float]:
        """Return some of a part of the data, and by how much the part is larger."""
        data = getattr(self.bundle, name)
        if self.whole or len(data) <= SAMPLE:
            return data, 1.0
        return View(data, torch.arange(SAMPLE)), len(data) / SAMPLE

    def _scoring(self) -> dict[str, float]:
        found = {}
        for role, model in (("student", self.student().to(self.device)), ("teacher", self.teacher)):
            for name in ("val", "test"):
                data, share = self._part(name)
                score = partial(self.task.evaluate, model, data, role=role)
                found[f"{role}_{name}"] = share * self._seconds(score, 0.2)
        return found

    @cached_property
    def _scoring_peak(self) -> int:
        """The most that scoring holds, for either role."""
        most, data = 0, self._part("val")[0]
        for role, model in (("student", self.student().to(self.device)), ("teacher", self.teacher)):
            with counted(self.device) as peak:
                self.task.predict(model, data, role=role)
            most = max(most, peak.bytes)
        return most

    def _cache(self, methods: Mapping[str, str], pace: float) -> tuple[Cache, dict[str, str]]:
        """Write a small cache and read it; with why a method cannot use one."""
        if self.whole:
            raise DistilError("the data are one batch, whose teacher's answers methods keep in memory")
        data = self.bundle.train
        some = int(max(min(32, len(data)), min(SAMPLE, len(data), SECONDS / max(pace, 1e-9))))
        view, task = View(data, torch.arange(some)), self.task
        with tempfile.TemporaryDirectory() as place:
            meta = plan_cache(self.teacher, view, task, codec=STORED)
            shape = meta.fields["logits"].shape
            start = time.perf_counter()
            stored = TeacherCache.write(self.teacher, view, task, Path(place) / "cache", codec=STORED)
            write = (time.perf_counter() - start) / some
            cached = CachedTeacher(stored)
            batch = task.unpack(next(iter(as_batches(view, min(self.batch, some)).iterate(0))))
            read = self._seconds(lambda: task.call(cached, batch, "teacher"), 0.2) * self.batch / len(batch["labels"])
            refusals = {name: said for name, text in methods.items() if (said := self._refusal(text, cached))}
        sizes = {}
        for codec in CODECS:
            try:
                sizes[codec] = replace(meta, fields={"logits": Field(get_codec(codec).spec(), shape)}).bytes
            except DistilError:  # a codec that so few classes have no use for
                continue
        return Cache(write=write, read=read, bytes=sizes, samples=some), refusals

    def _refusal(self, method: str, cached: CachedTeacher) -> str:
        try:
            self._distiller(method, cached)
        except DistilError as error:
            return str(error)
        return ""
