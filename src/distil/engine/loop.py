"""The loop behind ``fit``: windows of micro-batches, evaluation, checkpoints, and stopping in good order."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from distil.data.bundle import View, ids_of
from distil.data.loading import BatchSource, Streams, as_batches, mix_seed
from distil.engine.checkpoint import latest, load_checkpoint, save_checkpoint
from distil.engine.distiller import Distiller
from distil.engine.ema import Ema
from distil.engine.gradient import gradient_shares, unreached
from distil.engine.host import agreed, any_of, find_accelerator, gentle_interrupt, same_buffers, seed_draws
from distil.engine.ledger import Ledger, labels_read
from distil.engine.method import batch_size, is_streams
from distil.engine.optim import forget, lr_factor, make_optimizers
from distil.engine.processes import from_first
from distil.engine.settings import Plan, described, identity
from distil.engine.sharding import Spread, bare, kept
from distil.engine.track import Tracks
from distil.errors import DistilError
from distil.tasks import teacher_above_chance

__all__ = ["Loop"]

SAVE_SECONDS = 20.0
ASK_EVERY = 10


class Loop:
    """One run. ``run()`` trains, ``finish(test)`` restores the weights to keep and scores them."""

    def __init__(self, distiller: Distiller, train: Any, val: Any, plan: Plan, prepare: Any) -> None:
        if plan.patience is not None and val is None:
            raise DistilError(f"patience={plan.patience} waits for better validation scores; pass val= as well.")
        self.distiller, self.val, self.plan = distiller, val, plan
        found = latest(plan.out) if plan.out is not None else None
        self._check_fresh(found)
        self.accelerator = find_accelerator(precision=plan.precision, device=plan.device)
        self.tracks = Tracks(plan.tracking, described(plan, distiller))
        self._identity = identity(plan, distiller, train) if plan.out is not None else {}
        self.spread = Spread(self.accelerator, distiller, plan)
        distiller.to(self.accelerator.device)
        self.dataset = train
        awake = [model for model in distiller.cast.students.values() if model.training]
        self.asleep = [m for model in awake for m in model.modules() if not m.training]
        self.batches = self._batches(train)
        if plan.out is not None and not self.batches.resumable:
            warnings.warn(
                "The data are a plain iterable of batches, which can be entered only at its start: a resumed run goes "
                "on from the last whole epoch. Give a dataset for an exact resume at any step.",
                stacklevel=4,
            )
        self._set_length()
        if plan.check_teacher:
            self._check_teacher()
        began = time.perf_counter()
        if not distiller.prepared:
            distiller.prepare(prepare)
        preparing = time.perf_counter() - began
        made = make_optimizers(distiller.groups(), optimizer=plan.optimizer, lr=plan.lr, weight_decay=plan.weight_decay)
        self.optimizers: dict[str, Any] = self.spread.steppers(made)
        distiller.watch(*self.optimizers.values())
        self.factor = lr_factor(plan.schedule, plan.warmup)
        self.model = self._wrapped()  # which may give buffers new places, so averages come after it
        self.ema = Ema(distiller, plan.ema) if plan.ema is not None else None
        self.ledger = Ledger()
        self._before = distiller.teacher_seconds  # what preparing took is not part of the run's seconds either
        self._saved_at = time.monotonic()
        if found is not None:
            self._resume(found)
        self.ledger.prepare_seconds += preparing

    # --- before -----------------------------------------------------------------------------------------------------

    def _check_fresh(self, found: Any) -> None:
        plan, step = self.plan, self.distiller.ctx.step
        if found is not None and not plan.resume:
            raise DistilError(
                f"{plan.out} holds the checkpoints of another run ({found.name}); go on with it (resume=True), or give "
                "another folder."
            )
        if step and found is None:
            raise DistilError(
                f"This distiller has already trained {step} steps, and its schedules and counters belong to that run; "
                "make a new Distiller around the same student for another one."
            )

    def _batches(self, data: Any) -> BatchSource:
        a, plan = self.accelerator, self.plan
        return as_batches(
            data, plan.batch_size, seed=plan.seed, shuffle=True, workers=plan.workers, rank=a.process_index,
            world=a.num_processes,
        )  # fmt: skip

    def _set_length(self) -> None:
        """Find how long the run is: in steps, or in epochs where each epoch selects what it trains on."""
        plan, ctx = self.plan, self.distiller.ctx
        per_epoch = None
        if plan.epochs is not None or hasattr(getattr(self.batches, "source", self.batches), "__len__"):
            per_epoch = math.ceil(len(self.batches) / plan.accumulate)
        certain = plan.select is None and per_epoch is not None
        self.total: float = math.inf
        if plan.steps is not None:
            self.total = plan.steps
        elif per_epoch is not None and certain:
            self.total = per_epoch * (plan.epochs or 1)
        self.epochs: float = plan.epochs if plan.epochs is not None else math.inf
        if plan.steps is not None and per_epoch is not None and certain:
            self.epochs = math.ceil(plan.steps / per_epoch)
        # A length that the Distiller was given holds only where the plan cannot tell: schedules follow the real run.
        ctx.steps = int(self.total) if self.total < math.inf else ctx.steps
        ctx.epochs = int(self.epochs) if self.epochs < math.inf else ctx.epochs

    def _check_teacher(self) -> None:
        """Score every teacher on the validation data; one alone at chance stops the run, one of several is named."""
        teachers, task = self.distiller.teachers, self.distiller.task
        if not teachers or not task.has_accuracy:
            return
        if self.val is None:
            warnings.warn(
                "The teacher was not scored, as there are no validation data: pass val= (or check_teacher=False).",
                stacklevel=5,
            )
            return
        for name, teacher in teachers.items():
            with self.distiller.cast.lent(teacher):
                seen = teacher_above_chance(task, teacher, self.val)
            if not seen["ok"] and len(teachers) == 1:
                raise DistilError(f"The run stops before training: {seen['message']}")
            if not seen["ok"]:  # of several, some may know a part of the data alone
                warnings.warn(f"The teacher '{name}': {seen['message']}", stacklevel=5)

    def _wrapped(self) -> Any:
        """Wrap student and adapters for many processes; parameters that no loss reaches are left out of the reducer."""
        if self.spread.kind not in ("ddp", "zero"):
            return self.distiller
        lost = unreached(self.distiller, next(iter(self.batches.iterate(0))))
        if lost:
            self.accelerator.print(f"No gradient reaches {len(lost)} parameters ({lost[0]}, …); they stay as they are.")
            self.distiller.untied = frozenset(lost)
        if self.spread.kind == "zero":
            model, self.optimizers = self.spread.divide(self.optimizers, lost)
            return model
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.distiller, lost)
        return self.accelerator.prepare_model(self.distiller)

    def _resume(self, found: Any) -> None:
        state = load_checkpoint(found, self.distiller, bare(self.optimizers), identity=self._identity, ema=self.ema)
        self.ledger.restore(state["ledger"])
        self.distiller.cast.recall(state["ledger"].get("teacher_forward", {}))
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until the plan is fulfilled, patience ends, or Ctrl-C asks to stop at the next whole step."""
        ctx, plan = self.distiller.ctx, self.plan
        with gentle_interrupt() as interrupted:
            while ctx.epoch < self.epochs and ctx.step < self.total and not self.ledger.stopped:
                self._epoch(interrupted)
        if self.ledger.batch and ctx.step >= self.total:  # a run that died between its last step and the last scores
            self._close_epoch(finished=True)
        if plan.out is not None:
            self._save()

    def _epoch(self, interrupted: Callable[[], bool]) -> None:
        ctx, plan, books, begun = self.distiller.ctx, self.plan, self.ledger, time.perf_counter()
        batches = self._chosen(ctx.epoch)
        self._train_mode()
        if not batches.resumable:  # its order is drawn from the global generators, so those are set for every epoch
            seed_draws(mix_seed("epoch", plan.seed, 0, ctx.epoch))  # alike everywhere: ranks deal it out
        began = ctx.step
        if not books.batch and self.distiller.method.begins_stage(ctx.epoch):
            forget(bare(self.optimizers).values())
        for window in _windows(batches.iterate(ctx.epoch, books.batch), plan.accumulate):
            self._step(window, self.factor(self._done(batches)))
            books.batch += len(window)
            books.seconds, begun = books.seconds + time.perf_counter() - begun, time.perf_counter()
            if plan.progress is not None:
                plan.progress(ctx.step, ctx.steps or 0)
            if plan.save_every and ctx.step % plan.save_every == 0 and batches.resumable:
                self._save()
            if self._all_stop(interrupted):
                if plan.out is not None:
                    self._save_or_say(batches)
                raise KeyboardInterrupt
            if ctx.step >= self.total:
                break
        if ctx.step == began and not books.batch:
            raise DistilError("The training data gave no batch in this epoch; give data with at least one sample.")
        self._close_epoch(self.epochs <= ctx.epoch + 1 or ctx.step >= self.total)
        books.seconds += time.perf_counter() - begun
        # A plain iterable can be entered only at its beginning, so its checkpoints wait for the end of an epoch.
        late = plan.save_every is not None and not batches.resumable
        due = plan.save_every is None and time.monotonic() - self._saved_at > SAVE_SECONDS
        # Clocks differ, and saving is done by all processes together or by none.
        if plan.out is not None and agreed({"save": float(late or due)}, self.accelerator.device)["save"]:
            self._save()

    def _all_stop(self, interrupted: Callable[[], bool]) -> bool:
        """Say whether to stop here; many processes ask each other now and then, and stop at the same step."""
        if self.accelerator.num_processes == 1:
            return interrupted()
        return self.distiller.ctx.step % ASK_EVERY == 0 and any_of(interrupted(), self.accelerator.device)

    def _save_or_say(self, batches: BatchSource) -> None:
        if batches.resumable:
            self._save()
        else:
            warnings.warn(
                "The data can be entered only at the start of an epoch, so this one is lost: a resumed run goes on "
                "from the last whole epoch that was saved.",
                stacklevel=2,
            )

    def _train_mode(self) -> None:
        """Switch to train mode, but for the sub-modules that the user had frozen in eval before the run."""
        self.distiller.train()
        for module in self.asleep:
            module.training = False

    def _done(self, batches: BatchSource) -> float:
        """Return the share of the run that is done."""
        ctx = self.distiller.ctx
        if self.total < math.inf:
            return ctx.step / self.total
        return (ctx.epoch + self.ledger.batch / len(batches)) / self.epochs

    def _chosen(self, epoch: int) -> BatchSource:
        """The batches of this epoch: all, or those that ``select`` chose (once: a resumed epoch keeps its choice)."""
        if self.plan.select is None:
            return self.batches
        if isinstance(self.batches, Streams) or not hasattr(self.dataset, "__getitem__"):
            raise DistilError(
                "select= chooses samples of one map-style dataset; this run trains on streams or batches."
            )
        if self.ledger.chosen is None:
            seed_draws(mix_seed("select", self.plan.seed, epoch))
            with torch.no_grad():
                chosen = torch.as_tensor(self.plan.select(epoch, self.dataset, self.distiller)).long().cpu()
            self.ledger.chosen = from_first(chosen)  # its BatchNorm statistics differ from those of other processes
        ids = self.ledger.chosen
        place = {int(i): k for k, i in enumerate(ids_of(self.dataset))}
        unknown = [int(i) for i in ids if int(i) not in place]
        if unknown or not len(ids):
            what = f"the unknown id {unknown[0]}" if unknown else "no ids"
            raise DistilError(f"select() returned {what} in epoch {epoch}; it must choose among the ids of the data.")
        return self._batches(View(self.dataset, torch.tensor([place[int(i)] for i in ids])))

    def _step(self, window: list[Any], factor: float) -> None:
        ctx, a, books, plan = self.distiller.ctx, self.accelerator, self.ledger, self.plan
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
        seed_draws(mix_seed("window", plan.seed, a.process_index, ctx.step))
        totals = self.distiller.totals(window)
        look = plan.diagnose and a.num_processes == 1 and (ctx.step == 0 or books.batch == 0)
        losses = []
        for i in range(len(window)):
            seed_draws(mix_seed("step", plan.seed, a.process_index, ctx.step, i))
            with self.spread.micro_step(self.model, last=i == len(window) - 1):
                losses.append(self._micro_step(totals, look=look and i == 0))
        books.samples += sum(
            sum(map(batch_size, b.values())) if is_streams(b) else batch_size(b) for b in totals.batches
        )
        self.spread.average()
        if plan.clip is not None:
            self.spread.clip(
                [p for o in self.optimizers.values() for g in o.param_groups for p in g["params"]], plan.clip
            )
        before = ctx.step
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if ctx.step == before:  # the scaler skipped the step: its window is gone, its time has passed
            self.distiller.skip_step()
            ctx.step += 1
            return
        if self.ema is not None:
            self.ema.update()
        books.add(ctx.terms, torch.stack(losses).sum())
        if ctx.step == 1:
            terms = {name: float(value) for name, value in ctx.terms.items()}
            books.history.append({"epoch": 0, "step": 1, "terms": terms, **books.diagnosis()})
            self.tracks.epoch(books.history[-1])

    def _micro_step(self, totals: Any, *, look: bool) -> Tensor:
        self.distiller.keep_live(look)
        with self.spread.autocast():
            # The next of the window: DDP copies what it is given, so a batch could not be recognised behind it.
            step = self.model(totals=totals, divides=False)
        if look:
            began = time.perf_counter()
            self.ledger.shares = gradient_shares(self.distiller)
            self.ledger.diagnosis_seconds += time.perf_counter() - began
            self.distiller.keep_live(False)
        return self.spread.backward(step.loss)

    # --- the end of an epoch ----------------------------------------------------------------------------------------

    def _close_epoch(self, finished: bool) -> None:
        ctx, plan, books = self.distiller.ctx, self.plan, self.ledger
        done = ctx.epoch + 1
        metrics = self._evaluate() if self.val is not None and (done % plan.eval_every == 0 or finished) else {}
        lr = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        means = books.close()
        books.history.append({"epoch": done, "step": ctx.step, **means, "val": metrics, "lr": lr, **books.diagnosis()})
        self.tracks.epoch(books.history[-1])
        self.distiller.end_epoch(metrics)
        if metrics:
            task = self.distiller.task
            if books.judge(metrics, task.metric, higher=task.higher_is_better, epoch=done, ties=plan.ties):
                with self.ema.applied() if self.ema is not None else nullcontext():
                    state = self.distiller.state_dict()
                    books.best_state = {name: kept(value) for name, value in state.items()}
            books.stopped = plan.patience is not None and books.stale >= plan.patience

    def _evaluate(self) -> dict[str, float]:
        began = time.perf_counter()
        same_buffers(self.distiller)
        with self.ema.applied() if self.ema is not None else nullcontext():
            metrics = self.distiller.task.evaluate(self.distiller.deployed(), self.val)
        self.ledger.validation_seconds += time.perf_counter() - began
        return agreed(metrics, self.accelerator.device)

    def _save(self) -> None:
        assert self.plan.out is not None
        self.distiller.check_finite()
        same_buffers(self.distiller)
        scaler = self.accelerator.scaler
        state = self.ledger.state() | {"teacher_seconds": self.cost()["teacher_seconds"]}
        state["teacher_forward"] = self.distiller.cast.said()
        loop = {"ledger": state, "scaler": scaler.state_dict() if scaler is not None else None}
        first = self.accelerator.is_main_process
        if first or self.spread.parted:
            inner, own = bare(self.optimizers), self._identity
            save_checkpoint(self.plan.out, self.distiller, inner, identity=own, loop=loop, ema=self.ema, write=first)
        self.accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()

    # --- after ------------------------------------------------------------------------------------------------------

    def finish(self, test: Any) -> dict[str, dict[str, float]]:
        """Score the last and the best weights on ``test``, and leave those that ``keep`` names in place, in eval."""
        distiller, books, scored = self.distiller, self.ledger, {}
        distiller.check_finite()
        if self.ema is not None:
            self.ema.settle()
        same_buffers(distiller)
        if test is not None:
            scored["last"] = distiller.task.evaluate(distiller.deployed(), test)
            scored["best"] = dict(scored["last"])
        if books.best_state is not None and books.best["epoch"] != distiller.ctx.epoch:
            last = {name: value.detach().clone() for name, value in distiller.state_dict().items()}
            distiller.load_state_dict(books.best_state)
            same_buffers(distiller)  # each process kept its own
            if test is not None:
                scored["best"] = distiller.task.evaluate(distiller.deployed(), test)
            if self.plan.keep == "last":
                distiller.load_state_dict(last)
        self.spread.restore()
        distiller.eval()
        return scored

    def cost(self) -> dict[str, float]:
        """Return what the run cost; ``labels`` where they could be counted."""
        plan, books = self.plan, self.ledger
        labels = labels_read(self.batches, self.distiller.method)
        return {
            "seconds": books.seconds,
            "teacher_seconds": books.teacher_seconds + self.distiller.teacher_seconds - self._before,
            "validation_seconds": books.validation_seconds, "diagnosis_seconds": books.diagnosis_seconds,
            "prepare_seconds": books.prepare_seconds,
            "updates": float(self.distiller.ctx.step), "samples": float(books.samples),
            "batch_size": float(plan.batch_size * plan.accumulate * self.accelerator.num_processes),
            **({} if labels is None else {"labels": float(labels)}),
        }  # fmt: skip


def _windows(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    window: list[Any] = []
    for batch in batches:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window
