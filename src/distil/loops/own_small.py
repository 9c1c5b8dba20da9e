"""``distil train`` on a condensed set: fresh students, taught as the set is labelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet, load_condensed
from distil.data.condensed_check import same_classes
from distil.data.foreign_sets import find_condensed
from distil.data.text import TEXT_TASK
from distil.errors import DistilError
from distil.loops.compare import check_seeds, compare
from distil.loops.condense_check import named_teacher_fits
from distil.loops.condensed import StudentTraining, outcome_of, train_on
from distil.loops.condensed_show import sheets_of, storage_table, texts_table
from distil.loops.inputs import image_task
from distil.loops.judging import size_table
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.labelling import augmentation_of
from distil.loops.order import Order
from distil.loops.own_condense import as_called
from distil.loops.own_run import OwnRun, behind, read_raw
from distil.loops.recipe import data_report
from distil.loops.text_sets import Read, shown
from distil.loops.training import build_model, fitting
from distil.loops.vectors import vectors_of
from distil.models.load import load_model, load_weights
from distil.ship import write_student
from distil.tasks import get_task

__all__ = ["AS_LABELLED", "opened_set", "run_small", "taught_by_labels"]

AS_LABELLED = "set"
"""The method of a run whose students learn what the set's own labels say."""


def taught_by_labels(run: OwnRun) -> bool:
    """Whether a run trains on a condensed set as that is labelled."""
    return run.methods == (AS_LABELLED,)


def opened_set(run: OwnRun, lab: Lab) -> tuple[CondensedSet, Bundle, tuple[nn.Module, ...]]:
    """Return the set, the real data behind it, and the teachers of dynamic labels.

    Raises:
        DistilError: a torn set, real data that are not there or have other classes, dynamic labels without a teacher.
    """
    found = find_condensed(run.data)
    if found is None:
        raise DistilError(f"--data {run.data} is no condensed set, and --method {AS_LABELLED} is for those.")
    if not run.student:
        raise DistilError("--student is missing; see `distil train --help`.")
    check_seeds(run.seeds)
    small = load_condensed(found)
    real_run = behind(small, run, found)
    lab.progress.begin(f"reading {real_run.data}")
    real = read_raw(real_run, lab.out)
    encoder = (small.made.get("source") or {}).get("encoder")
    if real.task == TEXT_TASK and encoder and small.texts is None:
        real = vectors_of(lab, encoder, real, max_length=real_run.max_length)
    same_classes(small, real)
    teachers: tuple[nn.Module, ...] = ()
    if small.kind == "dynamic":
        if not run.teacher:
            raise DistilError(
                "the set has dynamic labels, the teacher's while a student trains; name it with --teacher."
            )
        module = load_model(run.teacher, **fitting(real), weights=run.teacher_weights, pretrained=run.pretrained)
        task, remarks = image_task(
            real, run.normalise, run.input_size, student=run.student, teacher=run.teacher, pretrained=run.pretrained,
            module=module,
        )  # fmt: skip
        for remark in remarks:
            lab.progress.say(f"{real.name}: {remark}")
        teachers = (as_called(module, task),)
        named_teacher_fits(Order(real, 1, teachers=teachers, device=lab.device), run.teacher)
    elif run.teacher:
        raise DistilError(
            f"the set has {small.kind} labels, which ask no teacher; leave --teacher out, or name a --method that "
            "uses it."
        )
    return small, real, teachers


def run_small(run: OwnRun, lab: Lab, *, command: str, title: str) -> dict[str, Any]:
    """Train students on the set as it is labelled (and with its class labels alone), and return the report."""
    small, real, teachers = opened_set(run, lab)
    seen, read = shown(small, run.student, real, named=run.tokenizer, max_length=run.max_length)
    task = get_task(seen.task)
    task.keep(lab.out)
    training = StudentTraining(
        updates=run.updates, optimizer=run.training.optimizer, lr=run.training.lr, schedule=run.training.schedule,
        weight_decay=run.training.weight_decay or StudentTraining.weight_decay, checks=min(run.updates, 10),
    )  # fmt: skip
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
            "Budget": f"{training.updates} updates of batches of {view.batch}, {training.optimizer}, learning rate "
            f"{training.lr:g} ({training.schedule})",
            "Choice": "the best look at validation data is scored on test data; both are real data",
        },
        data=data_report(real),
        settings={name: value for name, value in asdict(run).items() if name not in ("seeds", "baseline")},
        set=small.fingerprint,
        data_fingerprint=real.fingerprint,
    )
    asked = small.made.get("data")
    if asked and asked != real.fingerprint:
        report["warnings"].append(
            f"The set was made from other data ({asked}) than those it is tested on ({real.fingerprint}); what it was "
            "made from may stand among the test samples."
        )
    report["tables"] = [size_table(report), storage_table(small), *texts_table(small)]
    report["pictures"] = sheets_of(small)
    return report


def _trained(
    run: OwnRun, lab: Lab, name: str, role: Role, small: CondensedSet, view: Any, training: StudentTraining,
    real: Bundle, teachers: tuple[nn.Module, ...], read: Read | None,
) -> Callable[[int], Outcome]:  # fmt: skip
    def train(seed: int) -> Outcome:
        task = get_task(real.task)
        model = build_model(run.student, real, seed=seed)
        if run.student_weights:
            load_weights(model, run.student_weights)
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
            method=f"{small.kind} labels of a condensed set", teacher=run.teacher, seed=seed, arm=name, role=role,
        )  # fmt: skip
        return outcome

    return train
