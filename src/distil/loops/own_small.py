"""``distil train`` on a condensed set: fresh students, taught as the set is labelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet, load_condensed
from distil.data.condensed_check import same_classes
from distil.data.fingerprint import fingerprint
from distil.data.foreign_sets import find_condensed
from distil.data.text import TEXT_TASK
from distil.engine.frozen import DEFAULT
from distil.errors import DistilError
from distil.loops.compare import check_seeds, compare
from distil.loops.condense_check import named_teachers_fit
from distil.loops.condense_unread import changed, typed
from distil.loops.condensed import StudentTraining, outcome_of, train_on
from distil.loops.condensed_show import sheets_of, storage_table, texts_table
from distil.loops.judging import made_elsewhere, size_table
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.labelling import augmentation_of, labellers_fit
from distil.loops.order import Order
from distil.loops.own_check import check_student
from distil.loops.own_condense import CondenseRun, named_teachers, trained
from distil.loops.own_run import OwnRun, behind, read_raw
from distil.loops.recipe import data_report
from distil.loops.text_sets import Read, shown
from distil.loops.training import Training, build_model
from distil.loops.vectors import vectors_of
from distil.models.load import load_weights
from distil.ship import write_student
from distil.tasks import get_task

__all__ = ["AS_LABELLED", "OpenedSet", "as_sets_are", "opened_set", "run_small", "taught_by_labels"]

AS_LABELLED = "set"
"""The method of a run whose students learn what the set's own labels say."""

_READ = ("optimizer", "lr", "schedule", "weight_decay")
"""What of ``training`` students of a set are trained by; the rest is for runs that go over data by epochs."""

_OF_DATA = ("size", "channels", "limit", "columns", "classes", "split_seed", "drop_leaks")
_OF_METHODS = ("taps", "views", "views_per_image", "strong", "graph", "grid", "trials")


@dataclass(frozen=True)
class OpenedSet:
    """A condensed set that is trained on, and all that this needs.

    Attributes:
        small: the set. real: the data behind it.
        seen: those as the student reads them. read: how it reads the set, where that is of texts.
        teachers: of dynamic labels.
        notes: what a reader must know of those.
    """

    small: CondensedSet
    real: Bundle
    seen: Bundle
    read: Read | None = None
    teachers: tuple[nn.Module, ...] = ()
    notes: tuple[str, ...] = ()


def taught_by_labels(run: OwnRun) -> bool:
    """Whether a run trains on a condensed set as that is labelled."""
    return run.methods == (AS_LABELLED,)


def as_sets_are(run: OwnRun) -> OwnRun:
    """Return the settings over which those of a set's students are laid: these, with the weight decay of a set's.

    >>> as_sets_are(OwnRun()).training.weight_decay
    0.01
    """
    return replace(run, training=replace(run.training, weight_decay=StudentTraining.weight_decay))


def opened_set(run: OwnRun, lab: Lab) -> OpenedSet:
    """Return the set, the real data behind it, and the teachers of dynamic labels; the student is tried first.

    Raises:
        DistilError: a torn set, real data that are not there or have other classes, a student that does not fit them,
            dynamic labels without their teachers or with another number of them, settings that no student of a set is
            trained by.
    """
    found = find_condensed(run.data)
    if found is None:
        raise DistilError(f"--data {run.data} is no condensed set, and --method {AS_LABELLED} is for those.")
    if not run.student:
        raise DistilError("--student is missing; see `distil train --help`.")
    check_seeds(run.seeds)
    _check_read(run)
    small = load_condensed(found)
    real_run = behind(small, run, found)
    lab.progress.begin(f"reading {real_run.data}")
    real = read_raw(real_run, lab.out)
    encoder = (small.made.get("source") or {}).get("encoder")
    if real.task == TEXT_TASK and encoder and small.texts is None:
        real = vectors_of(lab, encoder, real, max_length=real_run.max_length)
    same_classes(small, real)
    if small.texts is None:
        for name in ("tokenizer", "max_length"):
            if getattr(run, name) != getattr(OwnRun, name):
                raise DistilError(
                    f"{name}={getattr(run, name)} is for texts, and the set holds {small.noun}; leave it out."
                )
    asked = _asked(run)
    if run.teacher_forward != DEFAULT:
        raise DistilError("--teacher-forward is for methods; what labels a condensed set runs as it is. Leave it out.")
    if small.kind != "dynamic":
        given = {
            "--teacher": asked.teachers, "--teacher-weights": asked.teacher_weights, "--pretrained": run.pretrained,
            "--train-teacher": run.train_teacher, "--set teacher_lr": run.teacher_lr is not None,
            "--set normalise.teacher": run.normalise.teacher != "auto",
            "--set input_size.teacher": run.input_size.teacher != "auto",
        }  # fmt: skip
        named = next((option for option, value in given.items() if value), None)
        if named is not None:
            raise DistilError(
                f"the set has {small.kind} labels, which ask no teacher; leave {named} out, or name a --method that "
                "uses it."
            )
    if run.teacher_lr is not None and not run.train_teacher:
        raise DistilError(f"--set teacher_lr={run.teacher_lr:g} is for teachers that are trained; add --train-teacher.")
    seen, read = shown(small, run.student, real, named=run.tokenizer, max_length=run.max_length)
    check_student(run.student, _student(run, seen, seed=0), seen)
    if small.kind != "dynamic":
        return OpenedSet(small, real, seen, read)
    answering = named_teachers(asked, real, lab)
    called = tuple(each.called for each in answering)
    labellers_fit(small, called)  # their number, before any of them is trained
    named_teachers_fit(Order(real, 1, teachers=called), asked.teachers, trained=False)
    teachers = trained(answering, asked, real, lab)
    named_teachers_fit(Order(real, 1, teachers=teachers, device=lab.device), asked.teachers)
    notes = labellers_fit(small, teachers, asked.teachers)
    for note in notes:
        lab.progress.say(note)
    return OpenedSet(small, real, seen, read, teachers, tuple(notes))


def _student(run: OwnRun, seen: Bundle, *, seed: int) -> nn.Module:
    """The student as it begins: fresh, or with the weights of a file."""
    model = build_model(run.student, seen, seed=seed)
    return load_weights(model, run.student_weights) if run.student_weights else model


def _asked(run: OwnRun) -> CondenseRun:
    """The teachers that a run names, as the verb that labels a set would load (and train) them."""
    files = run.teachers_weights or ((run.teacher_weights,) if run.teacher_weights else ())
    return CondenseRun(
        teachers=run.teachers or ((run.teacher,) if run.teacher else ()), teacher_weights=files,
        pretrained=run.pretrained, train_teacher=run.train_teacher, teacher_lr=run.teacher_lr,
        normalise=run.normalise.teacher, input_size=run.input_size.teacher, training=Training(lr=run.training.lr),
    )  # fmt: skip


def _check_read(run: OwnRun) -> None:
    """Refuse settings that no student of a set is trained by: what is typed has an effect, or is said to have none."""
    given = changed(run, as_sets_are(OwnRun()))
    for name, value in given.items():
        setting = typed(name, value)
        if name.startswith("training.") and name.partition(".")[2] not in _READ:
            raise DistilError(
                f"{name}={value} is not for a condensed set, whose students make --set updates=1000 steps of "
                f"the batches that it names, by {', '.join(_READ)} of training; leave it out."
            )
        if name.partition(".")[0] in _OF_DATA:
            raise DistilError(
                f"{setting} says how data are read, and those behind a set are read as they were when it was made; "
                "leave it out, or condense anew with it."
            )
        if name.partition(".")[0] in _OF_METHODS:
            raise DistilError(f"{setting} is of methods, and this run learns what the set's labels say; leave it out.")
        if name in ("normalise.student", "input_size.student"):
            raise DistilError(
                f"{setting} changes images, and students of a set take its images as they are; leave it out."
            )


def run_small(run: OwnRun, lab: Lab, *, command: str, title: str) -> dict[str, Any]:
    """Train students on the set as it is labelled (and with its class labels alone), and return the report."""
    opened = opened_set(run, lab)
    small, real, teachers = opened.small, opened.real, opened.teachers
    seen, read = opened.seen, opened.read
    task = get_task(seen.task)
    task.keep(lab.out)
    training = StudentTraining(
        updates=run.updates, checks=min(run.updates, 10), **{name: getattr(run.training, name) for name in _READ}
    )
    view = augmentation_of(small)
    arms: dict[str, Arm] = {}

    def add(name: str, role: Role, label: str, used: CondensedSet, view: Any = None) -> None:
        arms[name] = Arm(role, _trained(run, lab, name, role, used, view, training, seen, teachers, read), label=label)

    if small.kind == "hard":
        add("set", "reference", "Student of the set, hard labels", small)
    else:
        if run.baseline:
            plain = replace(view, mix="none")
            add("hard", "reference", "Student of the set, hard labels", small.with_labels("hard", logits=None), plain)
        role: Role = "method" if run.baseline else "reference"
        add("set", role, f"Student of the set, {small.kind} labels", small)
    report = compare(
        arms,
        run.seeds,
        lab,
        title=title,
        task=task,
        command=command,
        setting={
            "Set": f"{len(small)} samples of {len(small.classes)} classes, made by {small.made.get('method')}",
            "Student": run.student,
            **({"Teachers": ", ".join(_asked(run).teachers)} if teachers else {}),
            "Budget": f"{training.updates} updates of batches of {view.batch}, {training.optimizer}, learning rate "
            f"{training.lr:g} ({training.schedule}), weight decay {training.weight_decay:g}",
            "Choice": "the best look at validation data is scored on test data; both are real data",
        },
        data=data_report(real),
        settings={name: value for name, value in asdict(run).items() if name not in ("seeds", "baseline")},
        set=small.fingerprint,
        data_fingerprint=real.fingerprint,
        teacher_fingerprints=[fingerprint(teacher) for teacher in teachers],
    )
    report["warnings"] += [*opened.notes, *made_elsewhere(small, real)]
    report["tables"] = [size_table(report), storage_table(small), *texts_table(small)]
    report["pictures"] = sheets_of(small)
    return report


def _trained(
    run: OwnRun, lab: Lab, name: str, role: Role, small: CondensedSet, view: Any, training: StudentTraining,
    real: Bundle, teachers: tuple[nn.Module, ...], read: Read | None,
) -> Callable[[int], Outcome]:  # fmt: skip
    def train(seed: int) -> Outcome:
        task = get_task(real.task)
        model = _student(run, real, seed=seed)
        trained = train_on(
            small, model, training, task=task, teachers=teachers, val=real.val, seed=seed, augmentation=view,
            device=lab.device, progress=lab.progress, read=read,
        )  # fmt: skip
        outcome = outcome_of(trained, small, real, training, batch=(view or augmentation_of(small)).batch)
        model.load_state_dict(trained.best)
        write_student(
            lab.out / "students" / f"{name}-seed{seed}.safetensors", model.eval(), built=model, task=task, bundle=real,
            model=run.student, test=outcome.metrics["best"], validation=max(
                (record["val"] for record in trained.history), key=lambda scores: scores[task.metric]
            ),
            method=f"{small.kind} labels of a condensed set", teacher=", ".join(_asked(run).teachers), seed=seed,
            arm=name, role=role,
        )  # fmt: skip
        return outcome

    return train
