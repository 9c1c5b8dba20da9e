"""Training a fresh student on a small set: equal updates for every set, the last and the best of the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.augmented import Augmentation, augmented
from distil.data.bundle import Bundle, View
from distil.data.condensed import CondensedSet
from distil.data.loading import epoch_order, mix_seed
from distil.engine.optim import SCHEDULES, lr_factor, make_optimizers
from distil.errors import DistilError, Diverged, nearest
from distil.loops.lab import Arm, Lab, Outcome, Progress, Role
from distil.loops.labelling import augmentation_of, target_of
from distil.loops.measure import latency, reliability, size_in_bytes
from distil.loops.training import build_model
from distil.tasks import Task, get_task
from distil.tasks.base import to_device

__all__ = ["StudentTraining", "Trained", "from_tree", "outcome_of", "set_arm", "stored_set", "to_tree", "train_on"]

HALF_COSINE = "half-cosine"


@dataclass(frozen=True)
class StudentTraining:
    """How long and how a fresh student is trained on a set; the same for every set that is compared.

    Attributes:
        updates: optimizer steps, whatever the size of the set.
        optimizer, lr, weight_decay: AdamW at 1e-3 and 0.01, as INFER and RDED have it.
        schedule: "cosine", "half-cosine" (½(1 + cos(π t / 2T)), RDED's), "linear" or "constant".
        checks: how often on the way it is validated, to find the best state.
        validate: samples of the validation part that are looked at each time, at most.
    """

    updates: int = 1000
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"
    checks: int = 5
    validate: int = 1000

    def __post_init__(self) -> None:
        if self.updates < 1 or not 1 <= self.checks <= self.updates or self.validate < 1:
            raise DistilError(
                f"updates={self.updates} and validate={self.validate} must be at least 1, and checks={self.checks} "
                "between 1 and the updates."
            )
        if self.schedule not in (*SCHEDULES, HALF_COSINE):
            raise DistilError(
                f"schedule={self.schedule!r} is unknown; {nearest(self.schedule, [*SCHEDULES, HALF_COSINE])}"
            )

    @property
    def curve(self) -> Callable[[float], float]:
        """The factor of the learning rate, from the share of the updates that is done."""
        if self.schedule == HALF_COSINE:
            return lambda done: 0.5 * (1 + math.cos(math.pi * done / 2))
        return lr_factor(self.schedule, 0.0)


@dataclass(frozen=True)
class Trained:
    """A trained student: the module with its last weights, the best ones on validation, and the way there."""

    model: nn.Module
    best: dict[str, Tensor]
    history: list[dict[str, Any]]
    seconds: float


def train_on(
    small: CondensedSet,
    student: nn.Module,
    training: StudentTraining,
    *,
    task: Task | None = None,
    teachers: Sequence[nn.Module] = (),
    val: Any = None,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    read: Callable[[Tensor], Any] | None = None,
) -> Trained:
    """Train a student on a set, as its labels ask.

    Args:
        small: the set.
        student: a net with fresh weights; it is trained in place.
        training: updates, optimizer, checks.
        task: how student and teachers are called, and how the student is scored.
        teachers: of dynamic labels.
        val: a dataset by which the best state is chosen; without one the last is the best.
        seed: of the views, where the labels do not depend on them.
        augmentation: other views than the set's own; refused where labels were stored for those.
        device: where it is trained.
        progress: shows the updates.
        read: from places in the set to what the student takes, where the samples are texts
            (:func:`distil.loops.text_sets.shown`).

    Raises:
        Diverged: the loss is no longer finite.
    """
    from distil.tasks import ClassificationTask

    task, place = task or ClassificationTask(), torch.device(device or "cpu")
    shown = augmentation_of(small, seed=mix_seed("student", seed) % 2**31)
    if augmentation is not None:
        if small.kind in ("replayed", "two-numbers"):
            raise DistilError(f"{small.kind} labels were stored for the set's own views; leave augmentation out.")
        shown = augmentation if small.images else augmentation.for_vectors()
    if (small.texts is not None) != (read is not None):
        raise DistilError("a set of texts, and no other, is read by the student's own tokenizer; see text_sets.shown.")
    here, student = small.to(place), student.to(place).train()
    if read is not None:
        shown = replace(shown, mix="none")  # half of a text is no text
    asked = [teacher.to(place).eval() for teacher in teachers]
    target = target_of(here, task=task, teachers=asked)
    [optimizer] = make_optimizers(
        {"student": [p for p in student.parameters() if p.requires_grad]},
        optimizer=training.optimizer, lr=training.lr, weight_decay=training.weight_decay,
    ).values()  # fmt: skip
    curve, part = training.curve, _looked_at(val, training.validate)
    checks = {round(training.updates * (k + 1) / training.checks) for k in range(training.checks)}
    history: list[dict[str, Any]] = []
    best: dict[str, Tensor] | None = None
    highest, step, epoch, losses = -math.inf, 0, 0, list[Tensor]()
    recorded = _epochs_recorded(small)
    began = time.perf_counter()
    while step < training.updates:
        for batch in augmented(here, shown, epoch % recorded if recorded else epoch):
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * curve(step / training.updates)
            inputs = batch.inputs if read is None else to_device(read(batch.positions), place)
            logits = task.logits(task.call(student, {"inputs": inputs}, "student"))
            loss = target(logits, batch, epoch % recorded if recorded else epoch).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step += 1
            if step in checks:
                mean = float(torch.stack(losses).mean())
                if not math.isfinite(mean):
                    raise Diverged(f"the student's loss is {mean} after {step} updates; lower lr={training.lr}.")
                scores = task.evaluate(student, part, device=place) if part is not None else {}
                history.append({"epoch": epoch + 1, "step": step, "loss": mean, "val": scores})
                losses.clear()
                if scores.get(task.metric, math.inf) > highest:
                    highest = scores.get(task.metric, -math.inf)
                    best = {name: value.detach().cpu().clone() for name, value in student.state_dict().items()}
                student.train()
            if progress is not None:
                progress.step(step, training.updates)
            if step >= training.updates:
                break
        epoch += 1
    assert best is not None  # the last update is a check
    return Trained(student.eval(), best, history, time.perf_counter() - began)


def outcome_of(
    trained: Trained, small: CondensedSet, bundle: Bundle, training: StudentTraining, *, batch: int, trials: int = 1
) -> Outcome:
    """Return what a report says of a student trained on a set: the test scores of its last and its best state."""
    task, model = get_task(bundle.task), trained.model
    said = task.predict(model, bundle.test)
    last = task.score(said)
    final = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(trained.best)
    best = task.predict(model, bundle.test)
    scores = task.score(best)
    model.load_state_dict(final)
    parameters, size = size_in_bytes(model)
    speed = task.unpack(next(iter(torch.utils.data.DataLoader(View(bundle.test, torch.tensor([0])), batch_size=1))))
    per_class = int(small.made.get("per_class", 0)) * len(small.classes)
    return Outcome(
        metrics={"last": last, "best": scores},
        history=trained.history,
        cost={"seconds": trained.seconds, "teacher_seconds": 0.0, "updates": float(training.updates)},
        budget={
            "updates": training.updates, "batch_size": batch, "labels": per_class or len(small), "trials": trials,
        },
        model={"parameters": parameters, "bytes": size, "latency": latency(task, model, speed)},
        reliability=reliability(best),
        diagnostics={f"{name} bytes": float(value) for name, value in small.storage().items()},
    )  # fmt: skip


def set_arm(
    lab: Lab,
    role: Role,
    label: str,
    make: Callable[[int], CondensedSet],
    student: str,
    bundle: Bundle,
    training: StudentTraining,
    *,
    teachers: Sequence[nn.Module] = (),
    augmentation: Augmentation | None = None,
    phrase: str = "",
    trials: int = 1,
    code: str = "",
) -> Arm:
    """Return an arm that trains a fresh student on the set that ``make(seed)`` gives.

    Weights are drawn from the seed, by other draws than any condenser's: a student is never the net that made the set.
    The budget counts labels by what was asked per class, so that sets of one budget compare, however many samples are
    made of it.
    """

    def run(seed: int) -> Outcome:
        small = make(seed)
        model = build_model(student, bundle, seed=seed, role="student")
        trained = train_on(
            small, model, training, task=get_task(bundle.task), teachers=teachers, val=bundle.val, seed=seed,
            augmentation=augmentation, device=lab.device, progress=lab.progress,
        )  # fmt: skip
        batch = (augmentation or augmentation_of(small)).batch
        return outcome_of(trained, small, bundle, training, batch=batch, trials=trials)

    return Arm(role, run, label=label, phrase=phrase or label, code=code)


def stored_set(lab: Lab, name: str, make: Callable[[], CondensedSet], *, code: str = "", **inputs: Any) -> CondensedSet:
    """Return a set that the lab stores under what it was made from; :meth:`distil.loops.Lab.stage` for sets."""
    stage = lab.stage(name, lambda: to_tree(make()), code=code, **inputs)
    small = from_tree(stage.value)
    return replace(small, made={**small.made, "seconds": stage.seconds})


def to_tree(small: CondensedSet) -> dict[str, Any]:
    """Return a set as plain values and tensors."""
    found = {name: getattr(small, name) for name in small.__dataclass_fields__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def from_tree(tree: Mapping[str, Any]) -> CondensedSet:
    """Return the set that :func:`to_tree` took apart."""
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in tree.items()}
    return CondensedSet(**fields)


def _epochs_recorded(small: CondensedSet) -> int:
    """How many epochs of views have labels; 0 where labels do not depend on the views."""
    name = {"replayed": "logits", "two-numbers": "distances"}.get(small.kind)
    return len(small.replay[name]) if name else 0


def _looked_at(val: Any, most: int) -> Any:
    if val is None or len(val) <= most:
        return val
    return View(val, epoch_order(len(val), 0, 0, True)[:most])
