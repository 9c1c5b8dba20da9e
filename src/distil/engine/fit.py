"""One training run, from a Distiller and data to a Result; resumable to the bit, on whatever accelerate finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distil.engine.distiller import Distiller
from distil.engine.frozen import TeacherForward
from distil.engine.loop import Loop
from distil.engine.optim import Factory
from distil.engine.settings import Plan
from distil.engine.track import Tracking, tracking_of

__all__ = ["Result", "fit"]


@dataclass
class Result:
    """What a run gives.

    Attributes:
        model: what ships (``distiller.deployed()``), in eval mode, holding the weights that ``keep`` chose.
        last: validation metrics after the last epoch.
        best: validation metrics of the best epoch, with ``"epoch"``.
        test: ``{"last": metrics, "best": metrics}`` on the test data, where those were given.
        history: one record per epoch: ``epoch, step, loss, terms, val, lr, shares, cosines, norms``; before them one of
            the first step, with ``epoch`` 0.
        cost: ``seconds`` on the clock (data, steps, validation and diagnosis; not preparing, saving after epochs or the
            test), of them ``teacher_seconds, validation_seconds, diagnosis_seconds``; beside them
            ``prepare_seconds``; ``updates, samples, batch_size``, and ``labels`` where the data know theirs.
        artifacts: paths of what was written.
        teacher_forward: for each teacher by name ("model" where there is one) how its passes were made cheap: ``kept``,
            ``dropped`` with reasons, ``cosine``, ``speedup``, … (:class:`~distil.engine.frozen.Settled`).
    """

    model: nn.Module
    last: dict[str, float]
    best: dict[str, float]
    test: dict[str, dict[str, float]]
    history: list[dict[str, Any]]
    cost: dict[str, float]
    artifacts: dict[str, str] = field(default_factory=dict)
    teacher_forward: dict[str, dict[str, Any]] = field(default_factory=dict)


def fit(
    distiller: Distiller,
    train: Any,
    val: Any = None,
    *,
    test: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    optimizer: str | Factory | Mapping[str, str | Factory] = "adamw",
    lr: float | Mapping[str, float] = 1e-3,
    weight_decay: float | Mapping[str, float] = 0.0,
    schedule: str | Callable[[float], float] = "cosine",
    warmup: float = 0.0,
    accumulate: int = 1,
    precision: str = "fp32",
    clip: float | None = None,
    ema: float | None = None,
    patience: int | None = None,
    keep: str = "best",
    ties: str = "first",
    select: Callable[[int, Any, Distiller], Tensor | Sequence[int]] | None = None,
    eval_every: int = 1,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int | None = None,
    device: str | None = None,
    workers: int = 0,
    check_teacher: bool = True,
    shard_teacher: bool = False,
    prepare: Any = None,
    teacher_forward: str | TeacherForward | None = None,
    trackers: Sequence[str] | Tracking = (),
    diagnose: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Train ``distiller`` on ``train`` and choose on ``val``.

    Args:
        distiller: the student, teacher and method.
        train: a dataset, batches, a dict of datasets (streams), or an iterable of batches.
        val: what decides the best epoch and early stopping; without it the last epoch counts.
        test: scored once at the end, with the last and with the best weights.
        epochs: passes over ``train``; or ``steps``: optimizer steps. Exactly one of the two.
        batch_size: samples of one micro-batch on one device: a step sees ``batch_size * accumulate * processes``.
        optimizer: "adamw", "adam", "sgd" (momentum 0.9), a torch.optim class, or one for each group of
            ``distiller.groups()``.
        lr, weight_decay: numbers, or one for each group.
        schedule: "cosine", "constant", "linear", or a function of the share of the run that is done.
        warmup: the share of the run over which the learning rate rises.
        accumulate: micro-batches per step; the loss is exact under any split.
        precision: "fp32", "bf16" or "fp16".
        clip: largest norm of the gradient over all trained parameters.
        ema: decay of an average of the weights; the average is what is scored and shipped.
        patience: stop after this many evaluations without a better one (or an equal one, with ``ties="last"``).
        keep: "best" (on ``val``) or "last": which weights the result holds.
        ties: which of equally good epochs is the best, the "first" or the "last".
        select: ``select(epoch, dataset, distiller) -> ids`` chooses what an epoch trains on.
        eval_every: epochs between evaluations.
        seed: order and draws; the distiller's by default.
        out: a folder for checkpoints; with ``resume=True`` the run goes on from the newest, else it must hold none.
        save_every: steps between checkpoints; by default at ends of epochs, not more often than every 20 s.
        device: "cpu", "cuda", …; accelerate's choice by default.
        workers: processes that load data.
        check_teacher: stop where the teacher is not above chance on ``val``.
        shard_teacher: keep the teacher in shards over the processes of a launch, gathered block by block as it runs.
        prepare: the data that methods go over before training (class means); ``train`` by default.
        teacher_forward: how the teacher's plain passes are made cheap (:class:`~distil.engine.TeacherForward`); as the
            distiller was told, by default.
        trackers: "tensorboard" and "wandb" (offline, unless ``WANDB_MODE`` is set), logging losses, terms, shares and
            validation to ``out/trackers/run``; or a :class:`~distil.engine.Tracking` that names folder and run.
        diagnose: measure each term's share of the gradient on the first step and once an epoch.
        progress: called with (step, steps) as the run goes on.

    Returns:
        A :class:`Result`.

    Raises:
        DistilError: impossible settings, a teacher at chance, NaN, a checkpoint of another run, …
        KeyboardInterrupt: after Ctrl-C; with ``out`` a checkpoint of the last whole step was written first.
    """
    if teacher_forward is not None:
        distiller.cast.ask(teacher_forward)
    plan = Plan(
        epochs=epochs, steps=steps, batch_size=batch_size, optimizer=optimizer, lr=lr, weight_decay=weight_decay,
        schedule=schedule, warmup=warmup, accumulate=accumulate, precision=precision, clip=clip, ema=ema,
        patience=patience, keep=keep, ties=ties, select=select, eval_every=eval_every, resume=resume,
        seed=distiller.seed if seed is None else seed, out=Path(out) if out is not None else None, device=device,
        tracking=tracking_of(trackers, Path(out) if out is not None else None), save_every=save_every,
        workers=workers, check_teacher=check_teacher, shard_teacher=shard_teacher,
        diagnose=diagnose, progress=progress,
    )  # fmt: skip
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        loop = Loop(distiller, train, val, plan, train if prepare is None else prepare)
        with loop.tracks as tracks:
            loop.run()
            scored = loop.finish(test)
            tracks.finish(scored, loop.cost(), loop.ledger.history)
    books = loop.ledger
    return Result(
        model=distiller.deployed().eval(), last=books.last, best=books.best, test=scored, history=books.history,
        cost=loop.cost(), artifacts=_written(plan), teacher_forward=distiller.cast.said(),
    )  # fmt: skip


def _written(plan: Plan) -> dict[str, str]:
    found = {} if plan.out is None else {"checkpoints": str(plan.out)}
    return found if plan.tracking is None else found | {"trackers": str(plan.tracking.place)}
