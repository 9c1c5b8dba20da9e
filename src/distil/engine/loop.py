"""The loop behind ``fit``: windows of micro-batches, evaluation, checkpoints, and stopping in good order."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from distil.data.bundle import View, ids_of
from distil.data.fingerprint import fingerprint
from distil.data.loading import BatchSource, as_batches, mix_seed
from distil.engine.checkpoint import latest, load_checkpoint, save_checkpoint
from distil.engine.distiller import Distiller
from distil.engine.ema import Ema
from distil.engine.gradient import gradient_shares, unreached
from distil.engine.method import batch_size, is_streams
from distil.engine.optim import lr_factor, make_optimizers
from distil.engine.serial import load_tree, save_tree
from distil.errors import DistilError, nearest
from distil.tasks import teacher_above_chance

__all__ = ["Loop", "Plan"]

SAVE_SECONDS = 20.0
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class Plan:
    """The settings of one run; see :func:`distil.engine.fit.fit` for what each means."""

    epochs: int | None
    steps: int | None
    batch_size: int
    optimizer: Any
    lr: Any
    weight_decay: Any
    schedule: Any
    warmup: float
    accumulate: int
    precision: str
    clip: float | None
    ema: float | None
    patience: int | None
    keep: str
    select: Callable[..., Any] | None
    eval_every: int
    seed: int
    out: Path | None
    resume: bool
    save_every: int | None
    device: str | None
    workers: int
    check_teacher: bool
    trackers: tuple[str, ...]
    diagnose: bool
    progress: Callable[[int, int], None] | None


class Loop:
    """One run. ``run()`` trains, ``finish(test)`` restores the weights to keep and scores them."""

    def __init__(self, distiller: Distiller, train: Any, val: Any, plan: Plan, prepare: Any) -> None:
        self.distiller, self.val, self.plan = distiller, val, plan
        self.accelerator = _accelerator(plan)
        distiller.to(self.accelerator.device)
        self.dataset = train
        self.batches = self._batches(train)
        self.per_epoch = math.ceil(len(self.batches) / plan.accumulate)
        self.total = plan.steps if plan.steps is not None else self.per_epoch * (plan.epochs or 1)
        self.epochs = plan.epochs if plan.epochs is not None else math.ceil(self.total / self.per_epoch)
        distiller.ctx.steps = distiller.ctx.steps or (
            self.total if plan.select is None or plan.steps is not None else None
        )
        distiller.ctx.epochs = distiller.ctx.epochs or self.epochs
        if plan.check_teacher:
            self._check_teacher()
        if not distiller.prepared:
            distiller.prepare(prepare)
        made = make_optimizers(distiller.groups(), optimizer=plan.optimizer, lr=plan.lr, weight_decay=plan.weight_decay)
        self.optimizers = {name: self.accelerator.prepare_optimizer(o) for name, o in made.items()}
        distiller.watch(*self.optimizers.values())
        self.factor = lr_factor(plan.schedule, plan.warmup)
        self.ema = Ema(distiller, plan.ema) if plan.ema is not None else None
        self.model = self._wrapped()
        self.history: list[dict[str, Any]] = []
        self.last: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.seconds, self.samples, self.stale, self.start_batch = 0.0, 0, 0, 0
        self.sums: dict[str, Tensor] = {}
        self.stopped = False
        self._best_state: dict[str, Tensor] | None = None
        self._shares: dict[str, dict[str, float]] = {}
        self._saved_at = time.monotonic()
        self._run_name = self._identity()
        if plan.resume:
            self._resume()

    # --- before -------------------------------------------------------------------------------------------------

    def _batches(self, data: Any) -> BatchSource:
        a = self.accelerator
        return as_batches(
            data,
            self.plan.batch_size,
            seed=self.plan.seed,
            shuffle=True,
            workers=self.plan.workers,
            rank=a.process_index,
            world=a.num_processes,
        )

    def _check_teacher(self) -> None:
        teachers, task = self.distiller.teachers, self.distiller.task
        if self.val is None or len(teachers) != 1 or task.metric != "accuracy":
            return
        seen = teacher_above_chance(task, next(iter(teachers.values())), self.val)
        if not seen["ok"]:
            raise DistilError(f"The run stops before training: {seen['message']}")

    def _wrapped(self) -> Any:
        """Wrap student and adapters for many processes; parameters that no loss reaches are left out of the reducer."""
        if self.accelerator.num_processes == 1:
            return self.distiller
        lost = unreached(self.distiller, next(iter(self.batches.iterate(0))))
        if lost:
            self.accelerator.print(f"No gradient reaches {len(lost)} parameters ({lost[0]}, …); they stay as they are.")
            torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.distiller, lost)  # type: ignore[arg-type]
        return self.accelerator.prepare_model(self.distiller)

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to belong to this run."""
        teachers = (
            {name: fingerprint(model) for name, model in self.distiller.teachers.items()}
            if self.plan.out is not None
            else {}
        )
        return {"method": self.distiller.method.expression, "teachers": teachers, "seed": self.plan.seed, "batch_size": self.plan.batch_size,
                "steps": self.total, "accumulate": self.plan.accumulate, "batches": len(self.batches)}  # fmt: skip

    def _resume(self) -> None:
        assert self.plan.out is not None
        found = latest(self.plan.out)
        if found is None:
            return
        loop = load_checkpoint(
            found, self.distiller, {n: o.optimizer for n, o in self.optimizers.items()}, ema=self.ema
        )
        for key, value in self._run_name.items():
            if loop["identity"].get(key) != value:
                raise DistilError(
                    f"{found} belongs to a run with {key} = {loop['identity'].get(key)}; this one has {value}. "
                    "Resume with the settings that began it, or give another --out."
                )
        self.history, self.last, self.best = loop["history"], loop["last"], loop["best"]
        self.seconds, self.samples, self.stale, self.start_batch = (
            loop["seconds"],
            loop["samples"],
            loop["stale"],
            loop["batch"],
        )
        self.sums = {name: value.to(self.accelerator.device) for name, value in loop["sums"].items()}
        self._shares, self.stopped = loop["shares"], loop["stopped"]
        if self.accelerator.scaler is not None and loop["scaler"]:
            self.accelerator.scaler.load_state_dict(loop["scaler"])

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until the plan is fulfilled, patience ends, or Ctrl-C asks to stop at the next whole step."""
        ctx = self.distiller.ctx
        if self.plan.trackers:
            self.accelerator.init_trackers(
                "distil", config={"method": self.distiller.method.expression, "seed": self.plan.seed}
            )
        with _gentle_interrupt() as interrupted:
            while ctx.epoch < self.epochs and ctx.step < self.total and not self.stopped:
                self._epoch(interrupted)
        if self.plan.out is not None:
            self._save()
        if self.plan.trackers:
            self.accelerator.end_training()

    def _epoch(self, interrupted: Callable[[], bool]) -> None:
        ctx, begun = self.distiller.ctx, time.perf_counter()
        batches, first = self._chosen(ctx.epoch), self.start_batch
        self.distiller.train()
        count = len(batches)
        for window in _windows(batches.iterate(ctx.epoch, first), self.plan.accumulate):
            done = (
                ctx.step / self.total
                if self.plan.select is None or self.plan.steps
                else (ctx.epoch + self.start_batch / count) / self.epochs
            )
            self._step(window, self.factor(done))
            self.start_batch += len(window)
            self.seconds, begun = self.seconds + time.perf_counter() - begun, time.perf_counter()
            if self.plan.progress is not None:
                self.plan.progress(ctx.step, self.total)
            at_end = self.start_batch >= count
            if not at_end and self.plan.save_every and ctx.step % self.plan.save_every == 0:
                self._save()
            if interrupted():
                if self.plan.out is not None and batches.resumable:
                    self._save()
                raise KeyboardInterrupt
            if ctx.step >= self.total:
                break
        self._close_epoch()
        self.seconds += time.perf_counter() - begun

    def _chosen(self, epoch: int) -> BatchSource:
        """The batches of this epoch: all, or those that ``select`` chose."""
        if self.plan.select is None:
            return self.batches
        with torch.no_grad():
            ids = torch.as_tensor(self.plan.select(epoch, self.dataset, self.distiller))
        place = {int(i): k for k, i in enumerate(ids_of(self.dataset))}
        unknown = [int(i) for i in ids if int(i) not in place]
        if unknown or not len(ids):
            raise DistilError(
                f"select() returned {f'the unknown id {unknown[0]}' if unknown else 'no ids'} in epoch {epoch}; it must choose among the ids of the data."
            )
        return self._batches(View(self.dataset, torch.tensor([place[int(i)] for i in ids])))

    def _step(self, window: list[Any], factor: float) -> None:
        ctx, a = self.distiller.ctx, self.accelerator
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
        totals = self.distiller.totals(window)
        look = self.plan.diagnose and a.num_processes == 1 and (ctx.step == 0 or self.start_batch == 0)
        for i, raw in enumerate(window):
            torch.manual_seed(mix_seed("step", self.plan.seed, a.process_index, ctx.step, i))
            self.distiller.keep_live(look and i == 0)
            with nullcontext() if i == len(window) - 1 else a.no_sync(self.model):
                with a.autocast():
                    step = self.model(raw, totals=totals, divides=False)
                if look and i == 0:
                    self._shares = gradient_shares(self.distiller)
                    self.distiller.keep_live(False)
                a.backward(step.loss)
            ready = totals.batches[id(raw)]
            self.samples += sum(map(batch_size, ready.values())) if is_streams(ready) else batch_size(ready)
        if self.plan.clip is not None:
            a.clip_grad_norm_(
                [p for o in self.optimizers.values() for g in o.param_groups for p in g["params"]], self.plan.clip
            )
        before = ctx.step
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if ctx.step == before:  # the scaler skipped the step: its window is gone, its time has passed
            ctx.step += 1
            return
        if self.ema is not None:
            self.ema.update()
        for name, value in ctx.terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        if ctx.step == 1:
            self.history.append(
                {"epoch": 0, "step": 1, "terms": {n: float(v) for n, v in ctx.terms.items()}, **self._diagnosis()}
            )

    def _diagnosis(self) -> dict[str, Any]:
        return {
            "shares": self._shares.get("share", {}),
            "cosines": self._shares.get("cosine", {}),
            "norms": self._shares.get("norm", {}),
        }

    # --- the end of an epoch ------------------------------------------------------------------------------------

    def _close_epoch(self) -> None:
        ctx, plan = self.distiller.ctx, self.plan
        steps = max(1, math.ceil(self.start_batch / plan.accumulate))
        terms = {name: float(value) / steps for name, value in self.sums.items()}
        loss = sum(self.distiller.weight(name) * value for name, value in terms.items())
        done = ctx.epoch + 1
        finished = done >= self.epochs or ctx.step >= self.total
        metrics = self._evaluate() if self.val is not None and (done % plan.eval_every == 0 or finished) else {}
        lr = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        record = {
            "epoch": done,
            "step": ctx.step,
            "loss": loss,
            "terms": terms,
            "val": metrics,
            "lr": lr,
            **self._diagnosis(),
        }
        self.history.append(record)
        if plan.trackers:
            self.accelerator.log(
                {
                    "loss": loss,
                    **{f"term/{n}": v for n, v in terms.items()},
                    **{f"val/{n}": v for n, v in metrics.items()},
                },
                step=ctx.step,
            )
        self.distiller.end_epoch(metrics)
        if metrics:
            self._judge(metrics, done)
        self.sums, self.start_batch = {}, 0
        if (
            plan.out is not None
            and not finished
            and plan.save_every is None
            and time.monotonic() - self._saved_at > SAVE_SECONDS
        ):
            self._save()

    def _evaluate(self) -> dict[str, float]:
        with self.ema.applied() if self.ema is not None else nullcontext():
            return self.distiller.task.evaluate(self.distiller.deployed(), self.val)

    def _judge(self, metrics: dict[str, float], epoch: int) -> None:
        """Keep the first best epoch; a metric that is not a number never is."""
        task = self.distiller.task
        self.last = dict(metrics)
        sign = 1 if task.higher_is_better else -1
        if not self.best or sign * metrics[task.metric] > sign * self.best[task.metric]:
            self.best, self.stale = {**metrics, "epoch": float(epoch)}, 0
            with self.ema.applied() if self.ema is not None else nullcontext():
                self._best_state = {k: v.detach().cpu().clone() for k, v in self.distiller.state_dict().items()}
            if self.plan.out is not None and self.accelerator.is_main_process:
                save_tree(self._best_state, self.plan.out / "best")
        else:
            self.stale += 1
            self.stopped = self.plan.patience is not None and self.stale >= self.plan.patience

    def _save(self) -> None:
        assert self.plan.out is not None
        self.distiller.check_finite()
        scaler = self.accelerator.scaler
        loop = {
            "identity": self._run_name, "history": self.history, "last": self.last, "best": self.best, "seconds": self.seconds,
            "samples": self.samples, "stale": self.stale, "batch": self.start_batch, "sums": self.sums, "shares": self._shares,
            "stopped": self.stopped, "scaler": scaler.state_dict() if scaler is not None else None,
        }  # fmt: skip
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.plan.out,
                self.distiller,
                {n: o.optimizer for n, o in self.optimizers.items()},
                loop=loop,
                ema=self.ema,
            )
        self.accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()

    def finish(self, test: Any) -> dict[str, dict[str, float]]:
        """Score the last and the best weights on ``test``, and leave those that ``keep`` names in place."""
        task, scored = self.distiller.task, {}
        if self.ema is not None:
            self.ema._copy(self.ema.average)
        if test is not None:
            scored["last"] = task.evaluate(self.distiller.deployed(), test)
            scored["best"] = dict(scored["last"])
        best = self._best_state
        if best is None and self.best and self.plan.out is not None:
            best = load_tree(self.plan.out / "best")
        if best is not None and self.best.get("epoch") != self.distiller.ctx.epoch:
            last = {k: v.detach().clone() for k, v in self.distiller.state_dict().items()}
            self.distiller.load_state_dict(best)
            if test is not None:
                scored["best"] = task.evaluate(self.distiller.deployed(), test)
            if self.plan.keep == "last":
                self.distiller.load_state_dict(last)
        return scored

    def cost(self) -> dict[str, float]:
        """Return what the run cost."""
        return {
            "seconds": self.seconds, "teacher_seconds": self.distiller.teacher_seconds, "updates": float(self.distiller.ctx.step),
            "samples": float(self.samples), "batch_size": float(self.plan.batch_size * self.plan.accumulate * self.accelerator.num_processes),
        }  # fmt: skip


def _accelerator(plan: Plan) -> Accelerator:
    if plan.precision not in PRECISIONS:
        raise DistilError(f"precision='{plan.precision}' is unknown; {nearest(plan.precision, PRECISIONS)}")
    wanted = PRECISIONS[plan.precision]
    cpu = plan.device == "cpu"
    shared = AcceleratorState._shared_state
    if shared and (shared.get("_mixed_precision") != wanted or bool(shared.get("_cpu")) != cpu):
        AcceleratorState._reset_state()  # accelerate keeps one precision for a process; runs of one comparison may differ
    try:
        return Accelerator(
            mixed_precision=wanted,
            cpu=cpu,
            log_with=list(plan.trackers) or None,
            project_dir=str(plan.out) if plan.out else None,
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise DistilError(
            f"This machine cannot run precision='{plan.precision}', device={plan.device}, trackers={list(plan.trackers)}: {error}"
        ) from None


def _windows(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    window: list[Any] = []
    for batch in batches:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


@contextmanager
def _gentle_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop after the current step; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
