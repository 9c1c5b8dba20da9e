"""``distil condense``: the user's own data made small, by a method of choice, and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet, load_condensed
from distil.data.condensed_check import same_classes
from distil.data.foreign_sets import read_set
from distil.data.loading import mix_seed
from distil.data.splits import SPLITS_FILE, write_splits
from distil.data.text import TEXT_TASK
from distil.errors import DistilError, nearest
from distil.loops.condense import condense, free_order, nets_behind
from distil.loops.condense_check import check_order, check_skill, check_texts, named_teachers_fit
from distil.loops.condense_existing import apart, existing_fits, labelling_for, nearest_fit, renewed
from distil.loops.condense_unread import refuse_unread
from distil.loops.condensed import stored_set
from distil.loops.condensed_show import counted, sheets_of, storage_table, texts_table, told
from distil.loops.condensers import find
from distil.loops.encoded import folders_behind
from distil.loops.inputs import InputSize, Normalise, as_teacher, described, image_task
from distil.loops.judging import Judging, check_students, evaluate
from distil.loops.lab import Lab
from distil.loops.labelling import Labelling, labellers_fit
from distil.loops.nearest_texts import cost_of_nearest, nearest_texts, told_of_nearest
from distil.loops.order import Order, architecture
from distil.loops.own_run import Columns, OwnRun, read_raw
from distil.loops.recipe import data_report
from distil.loops.training import Training, fitting, train_teacher
from distil.loops.vectors import vectors_of
from distil.models.load import load_model
from distil.report import build
from distil.tasks import ClassificationTask, Task

__all__ = [
    "SET",
    "CondenseRun",
    "Named",
    "Prepared",
    "named_teachers",
    "prepared",
    "reading",
    "run_condense",
    "trained",
]

SET = "set"
"""The folder of the set within a run's."""


@dataclass(frozen=True)
class CondenseRun:
    """The settings of ``distil condense``.

    Attributes:
        data: a path or a name that ``distil.load`` reads.
        method: a name of :data:`distil.loops.condensers.CONDENSERS`. options: its own.
        per_class: samples for each class, or as many bytes as those.
        teachers: models by name; teacher_weights: a file for each, in their order. pretrained, train_teacher,
            teacher_lr: as for ``distil train``; every teacher is trained from weights of its own.
        labels: how the set is labelled; by default as the method does, or as a set that is there is. labelling: the
            settings of that.
        exact: keep images as float32 instead of PNG.
        existing: a set that is there already, of any maker, to be judged instead of making one; with ``labels``, or
            kept as the "nearest" texts, it becomes a set of the run's own.
        mean, std: undo the normalisation of its tensors.
        evaluate: judge the set; judging: how.
        size, channels, limit, columns, classes, splits, split_seed, drop_leaks: how data are read.
        encoder: a text model by name, whose vectors stand for texts; max_length: tokens of a text.
        keep: what a set of texts holds: "texts" (those that were chosen), an encoder's "vectors", the real texts
            "nearest" to the vectors that a method makes, or "auto": texts where the method chooses, vectors where it
            makes samples.
        normalise, input_size: how teachers take images: ``auto``, ``none``, ``imagenet`` or ``[mean, std]``; a side.
        training: of teachers that are trained here.
        seed: of all draws of the method.
    """

    data: str = ""
    method: str = "random"
    options: dict[str, Any] = field(default_factory=dict)
    per_class: int = 10
    teachers: tuple[str, ...] = ()
    teacher_weights: tuple[str, ...] = ()
    pretrained: bool = False
    train_teacher: int = 0
    teacher_lr: float | None = None
    labels: str | None = None
    labelling: Labelling = field(default_factory=Labelling)
    exact: bool | None = None
    existing: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    evaluate: bool = False
    judging: Judging = field(default_factory=Judging)
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    columns: Columns = field(default_factory=Columns)
    classes: tuple[str | int, ...] = ()
    splits: str | None = None
    split_seed: int = 0
    drop_leaks: bool = False
    encoder: str | None = None
    max_length: int = 128
    keep: str = "auto"
    normalise: Any = "auto"
    input_size: int | str = "auto"
    training: Training = field(default_factory=Training)
    seed: int = 0

    @property
    def relabelling(self) -> Labelling | None:
        """How the set is labelled, where that is not left to the method."""
        return None if self.labels is None else replace(self.labelling, kind=self.labels)

    @property
    def writes(self) -> bool:
        """Whether a set comes of it: one that is made, or one that is there under other labels or as texts."""
        return self.existing is None or self.labels is not None or self.keep == "nearest"


KEPT = ("auto", "texts", "vectors", "nearest")
READING = ("data", "size", "channels", "limit", "columns", "classes", "split_seed", "drop_leaks", "max_length")


@dataclass(frozen=True)
class Prepared:
    """The data that the set stands for, the order, and the set that is there already, if one is.

    The order's data differ where chosen texts are kept: a method sees an encoder's vectors of them. Notes are what is
    to be said of vectors that are there, for which texts are taken.
    """

    bundle: Bundle
    order: Order
    existing: CondensedSet | None
    notes: tuple[str, ...] = ()


class _Called(nn.Module):
    """A teacher that takes images as the data hold them, resized and normalised for it on the way."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, inputs: Tensor) -> Tensor:
        return self.task.logits(self.task.call(self.model, {"inputs": inputs}, "teacher"))

    def get_extra_state(self) -> dict[str, Any]:
        """Return how images are changed: part of what a fingerprint names, and of no net's form."""
        told: dict[str, Any] = described(self.task).get("teacher", {})
        return told

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Do nothing: weights may come from elsewhere, and the task stays the one given."""


def reading(run: CondenseRun, lab: Lab, folder: Path) -> tuple[Bundle, Bundle | None]:
    """Read the data of a run as its method sees them: of texts, an encoder's vectors where one is named.

    Returns:
        the data, and the texts behind the vectors where the set is to hold texts.
    """
    own = OwnRun(**{name: getattr(run, name) for name in (*READING, "splits")})
    bundle, encoder, condenser = read_raw(own, folder), run.encoder, find(run.method)
    if run.keep not in KEPT:
        raise DistilError(f"keep={run.keep!r} is unknown; {nearest(run.keep, KEPT)}")
    if bundle.task != TEXT_TASK:
        length = run.max_length if run.max_length != CondenseRun.max_length else None
        for name, given in (
            ("encoder", encoder),
            ("keep", run.keep if run.keep != "auto" else None),
            ("max_length", length),
        ):
            if given:
                raise DistilError(f"{name}={given!r} is for texts, and {bundle.name} holds none; leave it out.")
        return bundle, None
    if run.keep == "nearest" and condenser.chooses and run.existing is None:
        raise DistilError(
            f"{run.method} chooses texts that are real; keep=nearest is for methods that make vectors (dm, dc, …): "
            "leave it out."
        )
    if not encoder:
        check_texts(run.method, condenser, bundle.name, teachers=bool(run.teachers))
        if run.keep == "vectors":
            raise DistilError("keep=vectors keeps an encoder's vectors, and none is named: --set encoder=hf:FOLDER.")
        return bundle, None
    seen = vectors_of(lab, encoder, bundle, max_length=own.max_length)
    return seen, bundle if run.keep in ("texts", "nearest") or (run.keep == "auto" and condenser.chooses) else None


def prepared(run: CondenseRun, lab: Lab) -> Prepared:
    """Load everything, make the teachers and check the order; what does not fit stops before anything is condensed.

    Raises:
        DistilError: data or models that cannot be read, and whatever :func:`distil.loops.condense.condense` refuses.
    """
    if not run.data:
        raise DistilError("--data is missing; see `distil condense --help`.")
    condenser, relabelling = find(run.method), run.relabelling
    refuse_unread(run, CondenseRun())
    lab.progress.begin(f"reading {run.data}")
    seen, texts = reading(run, lab, lab.out)
    bundle = texts or seen
    for note in bundle.notes:
        lab.progress.say(f"{bundle.name}: {note}")
    small = None
    if run.existing is not None:
        small = read_set(run.existing, seen, mean=run.mean or None, std=run.std or None)
        same_classes(small, bundle if small.texts is not None else seen)
        bundle = bundle if small.texts is not None or run.keep == "nearest" else seen
        for note in small.made.get("notes") or ():
            lab.progress.say(f"{run.existing}: {note}")
    named = named_teachers(run, seen, lab)
    if small is not None:
        existing_fits(run, small, [each.called for each in named])
    order = Order(
        seen, run.per_class, seed=run.seed, teachers=tuple(each.called for each in named), device=lab.device,
        progress=lab.progress, options=run.options, texts=texts, nearest=run.keep == "nearest", exact=run.exact,
    )  # fmt: skip
    notes: tuple[str, ...] = ()
    if small is None:
        check_order(order, run.method, condenser, relabelling, trained=False)
    else:
        named_teachers_fit(order, run.teachers, trained=False)
        notes = tuple(nearest_fit(run, small, order)) if order.nearest else ()
    for note in notes:
        lab.progress.say(note)
    if run.evaluate or small is not None:  # before a teacher is trained: who made a set is no judge of it
        nets = nets_behind(order, run.method) if small is None else _nets(small, run, order)
        for note in check_students(run.judging, bundle, nets, length=run.max_length):
            lab.progress.say(note)
        if order.nearest:  # what they cost is judged by students of vectors
            check_students(replace(run.judging, students=()), seen, nets)
    order = replace(order, teachers=trained(named, run, seen, lab))
    if small is None:
        check_skill(order, run.method, condenser, relabelling)
    else:
        named_teachers_fit(order, run.teachers)
        for note in () if relabelling else labellers_fit(small, order.teachers, run.teachers):
            lab.progress.say(note)
    return Prepared(bundle, order, small, notes)


def run_condense(run: CondenseRun, lab: Lab, *, command: str) -> tuple[CondensedSet, dict[str, Any]]:
    """Make the set (or take the one that is there), keep it in the run's folder, judge it, and return the report."""
    apart(run, lab.out)
    made = prepared(run, lab)
    bundle, order = made.bundle, made.order
    if bundle.contents:
        write_splits(lab.out / SPLITS_FILE, bundle)
    free: CondensedSet | None = None
    labelling = run.relabelling
    if made.existing is not None:
        free = made.existing if order.nearest else None
        labelling = labelling_for(run, made.existing)
        small = renewed(run, made.existing, order, bundle, lab, made.notes)
    else:

        def kept(name: str, make: Callable[[], CondensedSet]) -> CondensedSet:
            behind: dict[str, Any] = {} if order.words is None else {"texts": order.bundle.fingerprint}
            behind |= {} if run.exact is None else {"exact": run.exact}
            return stored_set(
                lab, name, make, method=run.method, options=run.options,
                per_class=run.per_class, labelling=run.relabelling, seed=run.seed, data=bundle.fingerprint,
                teachers=list(order.teachers), **behind, **folders_behind(*_folders(run.options)),
            )  # fmt: skip

        if order.nearest:
            vectors = free = kept("vectors", lambda: condense(free_order(order, run.method), run.method))
            small = kept("set", lambda: nearest_texts(vectors, order, run.relabelling))
        else:
            small = kept("set", lambda: condense(order, run.method, run.relabelling))
    if run.writes:
        more: dict[str, Any] = {"source": _source(run)} | ({} if run.exact is None else {"exact": run.exact})
        if made.existing is not None:
            more["nets"] = sorted(_nets(small, run, order))
        small = replace(small, made={**small.made, **more})
        small = load_condensed(small.save(lab.out / SET, exact=run.exact))  # judged as it is kept
    title = f"{counted(small)} for {bundle.name}, by {small.made.get('method', run.method)}"
    if run.evaluate or made.existing is not None:
        report = evaluate(
            small, bundle, lab, run.judging, teachers=order.teachers, title=title, command=command,
            settings=run.training, seen=order.bundle, length=run.max_length,
        )  # fmt: skip
        if made.existing is not None and run.labels:
            report["setting"]["Labels"] = (
                f"{small.kind}, given here{' by ' * bool(run.teachers)}{', '.join(run.teachers)}"
            )
    else:
        report = build(
            title=title, metric={"name": "accuracy", "higher_is_better": True}, seeds=[run.seed], arms=[],
            command=command, data=data_report(bundle), setting=told(small),
            warnings=["The set was made and not judged; --evaluate trains fresh students on it."],
        )  # fmt: skip
    report["setting"] = {**report["setting"], **told_of_nearest(small)}
    report["warnings"] += made.notes
    if free is not None and (run.evaluate or made.existing is not None):
        report["tables"].append(cost_of_nearest(free, small, order, lab, run.judging, labelling))
    report["tables"] = [*(report.get("tables") or []), storage_table(small, exact=run.exact), *texts_table(small)]
    report["pictures"] = sheets_of(small)
    return small, report


@dataclass(frozen=True)
class Named:
    """A teacher as it was loaded: its name, the net, and how it takes the images of the data."""

    name: str
    model: nn.Module
    task: Task

    @property
    def called(self) -> nn.Module:
        """The teacher that takes images as the data hold them: itself, or resizing and normalising on the way."""
        task = self.task
        changed = isinstance(task, ClassificationTask) and ("teacher" in task.normalise or "teacher" in task.input_size)
        return (_Called(self.model, task) if changed else self.model).eval()


def named_teachers(run: CondenseRun, bundle: Bundle, lab: Lab) -> list[Named]:
    """Load the teachers of a run, each with its weights where a file holds them; none is trained."""
    if len(run.teacher_weights) > len(run.teachers):
        raise DistilError(
            f"{len(run.teacher_weights)} --teacher-weights for {len(run.teachers)} --teacher; one for each."
        )
    made = []
    for k, spec in enumerate(run.teachers):
        weights = run.teacher_weights[k] if k < len(run.teacher_weights) else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix_seed("model", "teacher", k))
            model = load_model(spec, **fitting(bundle), weights=weights, pretrained=run.pretrained)
        given = Normalise(teacher=run.normalise), InputSize(teacher=run.input_size)
        task, remarks = image_task(
            bundle, *given, student=spec, teacher=spec, pretrained=run.pretrained, module=model
        )  # fmt: skip
        for remark in remarks:
            lab.progress.say(f"{bundle.name}: {remark}")
        made.append(Named(spec, model, task))
    return made


def trained(named: Sequence[Named], run: CondenseRun, bundle: Bundle, lab: Lab) -> tuple[nn.Module, ...]:
    """Return the teachers as they are asked, each trained on the data first where the run says so."""
    made = []
    for k, each in enumerate(named):
        if run.train_teacher:
            lr = run.training.lr if run.teacher_lr is None else run.teacher_lr
            training = replace(run.training, epochs=run.train_teacher, lr=lr)
            name = f"teacher {k + 1}" if len(named) > 1 else "teacher"
            model = train_teacher(
                lab, each.name, bundle, training, seed=k, name=name, start=each.model, task=as_teacher(each.task)
            ).module  # fmt: skip
            each = replace(each, model=model)
        made.append(each.called)
    return tuple(made)


def _nets(small: CondensedSet, run: CondenseRun, order: Order) -> set[str]:
    """Return the forms of the nets behind a set that is there, with those that label it here."""
    return {*(small.made.get("nets") or ()), *(map(architecture, order.teachers) if run.labels else ())}


def _folders(options: Mapping[str, Any]) -> list[str]:
    """Return the models among a method's options that lie in folders, as the language model that reads texts does."""
    return [value for value in options.values() if isinstance(value, str) and value.startswith("hf:")]


def _source(run: CondenseRun) -> dict[str, Any]:
    """How the real data were read, so that a student of the set is validated and tested on their other parts."""
    told = asdict(run)
    plain = {each.name: each.default for each in fields(run)}
    kept = {name: told[name] for name in (*READING, "encoder") if told[name] != plain.get(name)}
    kept["columns"] = {name: value for name, value in told["columns"].items() if value}
    return kept | {"data": run.data if not Path(run.data).exists() else str(Path(run.data).resolve())}
