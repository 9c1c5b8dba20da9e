"""Who plays in a run: students and frozen teachers, where their taps are, and the handles that methods call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from distil.engine.anatomy import Location, Tap, anatomy, unwrapped
from distil.engine.frozen import DEFAULT, Settled, TeacherForward
from distil.engine.grid import square_images, token_grid
from distil.engine.method import Batch, Handles, is_streams
from distil.engine.shortcut import Shortcut
from distil.engine.trace import ModelHandle, Spec, Trace, side_of
from distil.engine.visits import lent
from distil.errors import DistilError
from distil.tasks import Task
from distil.tasks.base import BatchReader, evaluating

__all__ = ["ONE", "Cast", "Models", "same_classes"]

Models = nn.Module | Mapping[str, nn.Module]
ONE = "model"
"""The name of an only student or teacher."""


class Cast:
    """The models of a run by role and name.

    A plain object, not a module, so that what it holds of teachers stays out of ``parameters()`` and ``state_dict()``.
    """

    def __init__(
        self,
        student: Models,
        teacher: Models | None,
        task: Task,
        taps: Mapping[str, str | tuple[str, str]],
        teacher_device: str | torch.device | None = None,
        teacher_forward: str | TeacherForward = DEFAULT,
    ) -> None:
        self.task, self.overrides = task, dict(taps)
        self.teacher_device = torch.device(teacher_device) if teacher_device is not None else None
        self.several = {"student": isinstance(student, Mapping), "teacher": isinstance(teacher, Mapping)}
        self.models = {
            "student": _named(student, "student"),
            "teacher": {} if teacher is None else _named(teacher, "teacher"),
        }
        self.taps: dict[tuple[str, str], dict[str, Tap]] = {}
        self._handles: dict[str, dict[str, ModelHandle]] = {}
        self._given: tuple[Handles, Handles] | None = None
        self._asked: dict[tuple[str, ...], list[ModelHandle]] = {}
        self._open: tuple[tuple[str, ...], Batch] | None = None
        self.listed: set[str] = set()  # teachers whose logits a method asks for
        self.settled: dict[str, Settled] = {}
        self.ask(teacher_forward)
        self._check()
        # Where a first parameter is held, looked up anew each time: moving or sharding a model may replace it.
        parts = [part for model in self.students.values() for part in model.modules()]
        self._anchor = next((m, n) for m in parts for n, p in m._parameters.items() if p is not None)

    def _check(self) -> None:
        mine = {id(p): name for model in self.students.values() for name, p in model.named_parameters()}
        for model in self.teachers.values():
            shared = [mine[id(p)] for p in model.parameters() if id(p) in mine]
            if shared:
                raise DistilError(
                    f"Teacher and student share {len(shared)} parameters ({shared[0]}, …): freezing the teacher would "
                    "freeze the student. Give the teacher its own copy: copy.deepcopy(model)."
                )
            model.requires_grad_(False).eval()
        self._still = [module for model in self.teachers.values() for module in model.modules()]
        if not any(p.requires_grad for model in self.students.values() for p in model.parameters()):
            raise DistilError("No parameter of the student requires grad; unfreeze what should learn.")

    @property
    def device(self) -> torch.device:
        """Where the students are, and batches go."""
        module, name = self._anchor
        parameter = module._parameters[name]
        assert parameter is not None
        return parameter.device

    @property
    def students(self) -> dict[str, nn.Module]:
        """The students by name, as the user wrote them (under any compile)."""
        return self.models["student"]

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """The frozen teachers by name."""
        return self.models["teacher"]

    def resolve(self, specs: Iterable[Spec], batch: Batch) -> None:
        """Find every tap that a method asks for, on each model, from one watched pass."""
        wanted = list(specs)
        for spec in wanted:
            if not all(
                side is None or isinstance(side, str) for side in (spec if isinstance(spec, tuple) else (spec,))
            ):
                raise DistilError(f"The tap {spec!r} is no name; write a meaning or a module path, e.g. 'emb'.")
        for role, models in self.models.items():
            own = {k: v if isinstance(v, str) else v[0 if role == "student" else 1] for k, v in self.overrides.items()}
            names = sorted({side for spec in wanted if (side := side_of(spec, role)) is not None})
            for name, model in models.items():
                self.taps[role, name] = self._resolve(role, model, names, own, _first_stream(batch))
                if role == "teacher" and "logits" in names and not self.taps[role, name]["logits"].locations:
                    self.listed.add(name)

    def _resolve(
        self, role: str, model: nn.Module, names: list[str], own: Mapping[str, str], batch: Batch
    ) -> dict[str, Tap]:
        plain = {"logits": Tap("logits", (), many=False)}
        hooked = [name for name in names if name != "logits" or "logits" in own]
        if not hooked:
            return plain
        if isinstance(model, BatchReader):  # it has what was stored, by the names it was stored by, and no layers
            asked = [name for name in hooked if name != "logits"]
            return plain | {name: _found(name, lambda n: _stored(model, n, own)) for name in asked}
        found = anatomy(model, lambda m: self.task.call(m, batch, role=role), logits=self.task.logits)
        grid, square = token_grid(model, found.records), square_images(found.records)
        taps = {name: _found(name, lambda n: found.resolve(n, role=role, overrides=own)) for name in hooked}
        return plain | {name: replace(tap, grid=grid, square_images=square) for name, tap in taps.items()}

    def dry_run(self, batch: Batch) -> tuple[Any, Any]:
        """Return the traces of one pass of every student and every teacher, in eval mode and without gradient."""
        inner, seen = _first_stream(batch), []
        with torch.no_grad(), ExitStack() as stack:
            for models in self.models.values():
                for model in models.values():
                    stack.enter_context(evaluating(model))
            for role in ("student", "teacher"):
                traces = {name: handle.dry(inner) for name, handle in self.by_role(role).items()}
                seen.append(traces if self.several[role] else traces.get(ONE))
        self.forget()
        return seen[0], seen[1]

    def by_role(self, role: str) -> dict[str, ModelHandle]:
        """Return the handles of one role by name; made on first use, in this process."""
        if role not in self._handles:
            self._handles[role] = {
                name: ModelHandle(
                    role,
                    name,
                    model,
                    self.task,
                    self.taps[role, name],
                    frozen=role == "teacher",
                    device=self._place(role),
                )
                for name, model in self.models[role].items()
            }
            if role == "teacher":
                self._equip()
        return self._handles[role]

    def ask(self, forward: str | TeacherForward) -> None:
        """Say how the teachers' plain passes are to be made; what was settled before is forgotten."""
        self.teacher_forward = TeacherForward.of(forward)
        self._away = "offload" in self.teacher_forward.options
        if self._away and self.teacher_device is not None:
            raise DistilError(
                f"teacher_device={self.teacher_device} keeps the teacher in one place, and offload lends it to the "
                "device; give one of them."
            )
        self.settled.clear()
        self._equip()

    def _equip(self) -> None:
        """Give every teacher's handle its shortcut; one that stops early serves only where no logits are asked for."""
        several = len(self.teachers) > 1
        for name, handle in self._handles.get("teacher", {}).items():
            handle.shortcut = handle.summon = None
            asked = self.teacher_forward
            pointless = asked.options == ("truncate",) and (name in self.listed or not handle.locations)
            if asked.options and not pointless and not _sharded(handle.module) and not handle.compiled:
                handle.shortcut = Shortcut(
                    handle, asked, self.settled, listed=name in self.listed, several=several,
                    device=lambda: self.teacher_device or self.device,
                )  # fmt: skip

    def ahead(self, batches: Iterable[Batch]) -> None:
        """Make the teachers' passes of a window at its beginning, where that was asked for."""
        if self.teacher_forward.early:
            single = [batch for batch in batches if not is_streams(batch)]
            for handle in self.by_role("teacher").values():
                if isinstance(handle.shortcut, Shortcut):
                    handle.shortcut.ahead(single)

    def lent(self, model: nn.Module) -> AbstractContextManager[None]:
        """Have a teacher that lives elsewhere on the device for a while."""
        return lent(model, self.device) if self._away else nullcontext()

    def said(self) -> dict[str, dict[str, Any]]:
        """Return how each teacher's passes are made and what was seen, as plain data; nothing of one without a pass."""
        return {name: settled.plain() for name, settled in self.settled.items()}

    def recall(self, said: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what another process settled, so that a resumed run goes on in the same way."""
        self.settled.clear()
        self.settled |= {name: Settled.read(stored) for name, stored in said.items()}
        self._equip()

    def handles(self) -> tuple[Handles, Handles]:
        """Return what hooks of methods receive: a handle, a mapping of handles, or ``None`` for each role."""
        if self._given is None:
            student, teacher = self.by_role("student"), self.by_role("teacher")
            self._given = (
                Several("student", student) if self.several["student"] else student[ONE],
                Several("teacher", teacher) if self.several["teacher"] else teacher.get(ONE),
            )
        return self._given

    def each(self) -> list[ModelHandle]:
        """Return every handle."""
        return [*self.by_role("student").values(), *self.by_role("teacher").values()]

    def check_fired(self, component: str, specs: Iterable[Spec]) -> None:
        """Refuse a component one of whose taps no pass has recorded since the dry run."""
        for role in ("student", "teacher"):
            handles = self.by_role(role).values()
            for spec in specs if handles else ():
                # Of several models, a method may use some in this step and others later.
                missed = min((handle.silent(spec) for handle in handles), key=len)
                if missed:
                    raise DistilError(
                        f"'{component}' lists the tap '{side_of(spec, role)}' ({missed[0]}) of the {role}, and it did "
                        "not fire on the component's first step: the method did not run that model, or the model took "
                        "another way than in the dry run. Take it out of the method's `taps`, or name another path."
                    )

    def teachers_first(self, batch: Batch, components: Iterable[str]) -> None:
        """Make the teachers' plain passes that these components made last time, while the student has no graph yet.

        The order changes no number; a teacher's activations beside a student's graph cost a small net up to a tenth of
        a step.
        """
        names = tuple(components)
        if names in self._asked:
            for handle in self._asked[names]:
                handle(batch)
        else:
            self._open = (names, batch)

    def forget(self) -> None:
        """Drop every handle's memo, once it is noted which teachers were asked about the batch itself."""
        if self._open is not None:
            (names, batch), self._open = self._open, None
            self._asked[names] = [handle for handle in self.by_role("teacher").values() if handle.asked(batch)]
        for handle in self.each():
            handle.forget()

    def move_teachers(self, device: torch.device) -> None:
        """Bring the teachers to ``device`` (or to their own), never changing their dtype."""
        for model in self.teachers.values():
            model.to(torch.device("cpu") if self._away else self.teacher_device or device)
        self._equip()  # what was copied elsewhere is made anew

    def wake(self) -> None:
        """Check the modes before a training call: students in train mode, teachers in eval."""
        for name, model in self.students.items():
            if not model.training:
                which = "The student" if name == ONE else f"The student '{name}'"
                raise DistilError(
                    f"{which} is in eval mode, so dropout and BatchNorm would not train: call distiller.train() (or "
                    "student.train())."
                )
        if any(module.training for module in self._still):
            for model in self.teachers.values():
                model.eval()

    def output(self, batch: Batch) -> Any:
        """Return the student's own output of the plain pass on ``batch``, where a method made one (nearly always)."""
        inner = _first_stream(batch)
        found = {
            name: trace.output
            for name, h in self.by_role("student").items()
            if (trace := h.remembered(inner)) is not None
        }
        return found if self.several["student"] else found.get(ONE)

    def _place(self, role: str) -> torch.device | None:
        return self.teacher_device if role == "teacher" else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}, "_given": None, "_asked": {}, "_open": None}


class Several(dict[str, ModelHandle]):
    """The handles of several models of one role; one that is called as if it were the only one says so."""

    def __init__(self, role: str, handles: Mapping[str, ModelHandle]) -> None:
        super().__init__(handles)
        self._role = role

    def __call__(self, *args: Any, **options: Any) -> Trace:
        raise self._one_of_many()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._one_of_many()

    def _one_of_many(self) -> DistilError:
        names = ", ".join(self)
        return DistilError(
            f"There are several {self._role}s ({names}), and the method calls one; use a method that takes "
            f"{self._role}['{next(iter(self))}'], or give one {self._role}."
        )


def same_classes(student: Any, teacher: Any) -> None:
    """Refuse logits that do not score the same classes; score maps ``[N, C, h, w]`` may differ in size."""
    if not (isinstance(student, Trace) and isinstance(teacher, Trace)):
        return
    ours, theirs = student.logits.shape, (teacher.sparse or teacher.logits).shape
    maps = len(ours) == len(theirs) == 4
    if ours[:2] != theirs[:2] or not (maps or ours == theirs):
        raise DistilError(
            f"The student gives logits {list(ours)} and the teacher {list(theirs)}: "
            "both must score "
            "the same classes in the same order. Build both with the class count of the data, or fine-tune the "
            "teacher's head on them."
        )


def _found(name: str, find: Callable[[str], Tap]) -> Tap:
    """Return a tap; one that is asked for as ``name?`` may be missing and gives a tuple, empty where it is."""
    if not name.endswith("?"):
        return find(name)
    try:
        return Tap(name, find(name[:-1]).locations, many=True)
    except DistilError:
        return Tap(name, (), many=True)


def _stored(model: BatchReader, name: str, own: Mapping[str, str]) -> Tap:
    wanted = own.get(name, name)
    locations = tuple(Location(path) for path in model.places(wanted))
    many = wanted == "stages" or "*" in wanted
    return Tap(name, locations, many=many, grid="a cache does not hold how its teacher's tokens lie")


def _sharded(model: nn.Module) -> bool:
    """Whether the weights are spread over processes, which a pass that ends early would leave in disorder."""
    return any(hasattr(p, "device_mesh") or hasattr(p, "ds_id") for p in model.parameters())


def _first_stream(batch: Batch) -> Batch:
    return next(iter(batch.values())) if is_streams(batch) else batch


def _named(models: Models, role: str) -> dict[str, nn.Module]:
    named = dict(models) if isinstance(models, Mapping) else {ONE: models}
    if not named:
        raise DistilError(f"The mapping of {role}s is empty; pass None for the teacher where there is none.")
    for name, model in named.items():
        if not isinstance(model, nn.Module):
            raise DistilError(
                f"The {role} '{name}' is a {type(model).__name__}; a torch.nn.Module (or a mapping of names to "
                "modules) is expected."
            )
        if role == "student" and hasattr(model, "_orig_mod"):
            warnings.warn(
                "The student was compiled before; the Distiller runs the module under it. Use "
                "distiller.compile_models().",
                stacklevel=5,
            )
    return {name: unwrapped(model) for name, model in named.items()}
