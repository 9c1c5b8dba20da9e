"""TGeo-KD as a method: a ratio between teacher and label for each sample, learned on held-out data through one step."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from distil.data.held import HeldOut, held_out_ids, inside, listed, outside
from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Sum, Traces, as_sum, is_streams
from distil.engine.own_optimizer import OwnOptimizer
from distil.errors import DistilError, nearest
from distil.functional.bilevel import full_precision, unrolled_step
from distil.functional.fusion import fused, ratio_by_likelihood, ratio_by_margin
from distil.functional.prototypes import ClassMeans
from distil.functional.reduction import Term
from distil.functional.trilateral import STATE_BLOCKS, add_probabilities, mean_rows, trilateral_state
from distil.systems.tgeo_kd.controller import Controller, FreeRatios
from distil.tasks.base import to_device

__all__ = ["TGeoKD", "published"]

RULES = ("tgeo", "fixed", "annealed", "ada", "wls", "free")
CONTROLLERS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (32, 16), "activation": "leaky"},
    "cifar": {"hidden": (128,), "activation": "relu"},
}
STREAMS = ("train", "validation")
MOST = 4096  # held samples stay in memory


@final
class TGeoKD(Method):
    """Teacher and label in a ratio of their own for each sample: ``α τ² KL(t ‖ s) + (1 − α) CE(s, y)``.

    A small network reads the sample's state (probabilities of student, teacher, label and the teacher's class mean, and
    distances between them) and says α in (0, 1). It learns what the ratio is for: before each step the student is moved
    by one plain gradient step under the ratios, in thought, and the cross-entropy of the moved student on held-out data
    is differentiated through that step. Then the student learns under the refreshed ratios. Only the student ships.

    Args:
        rule: "tgeo", or how else α is found: "fixed" (``alpha``), "annealed" (1 → 0 over the epochs), "ada" (the
            teacher's margin on the label), "wls" (1 − exp(−CE_s / CE_t)), "free" (one number for each training sample,
            learned by Adam on the training loss).
        state: the design of the state, 1 to 7 or "cifar"; see :func:`distil.functional.trilateral_state`.
        controller: "mlp" (32, 16, LeakyReLU) or "cifar" (128, ReLU).
        trained: False leaves the controller as it was drawn.
        unroll: False trains it on the training loss itself, as earlier commits did: α drifts to the smaller loss.
        every: steps between updates of the controller.
        alpha: of rule "fixed", in [0, 1].
        temperature: τ > 0 of the teacher's part; states are at temperature 1.
        controller_lr, controller_decay: of the controller's (or the free ratios') own Adam.
        inner_lr: η > 0 of the step in thought.
        validation: share of the training samples, of each class, that is held out (at least one of a class, at most
            4096 in all). They never enter the student's loss, under any rule, so that all rules learn from the same
            samples; 0 holds out none and suits the other rules.
        validation_batch: held-out samples in one update of the controller.
        split_seed: decides who is held out.

    Requirements: labels; ``prepare``; ids (``distil.indexed``). Or two streams, "train" and "validation", and then
    nothing is held out. A step costs about three times that of KD (two functional passes of the student in float32, one
    differentiated twice) and twice its memory for activations; FSDP2 is refused.

    Relations:
        ``rule=fixed`` is KD with labels. MIX-KD mixes samples instead of weighing them.

    Example:
        >>> from distil.systems.tgeo_kd import TGeoKD
        >>> TGeoKD(rule="fixed", alpha=0.9).expression
        'tgeokd(rule=fixed, alpha=0.9)'

    Paper: Hu et al., Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation, ICLR 2024,
    arXiv 2312.15112.
    Differs from official code: there the controller gets no gradient and stays as it was drawn; see the card. Held-out
    samples are read once, as ``prepare`` reads them. With accumulation the first micro-batch speaks for the step.
    """

    labels = True
    contains_task = True
    at_equality = {"fused": None}  # noqa: RUF012
    means: Tensor
    held: Tensor
    decides: Controller | FreeRatios

    def __init__(
        self, *, rule: str = "tgeo", state: int | str = 3, controller: str = "mlp", trained: bool = True,
        unroll: bool = True, every: int = 1, alpha: float = 0.5, temperature: float = 1.5, controller_lr: float = 1e-2,
        controller_decay: float = 0.0, inner_lr: float = 0.1, validation: float = 0.1, validation_batch: int = 64,
        split_seed: int = 0, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        for key, value, options in (
            ("rule", rule, RULES), ("controller", controller, CONTROLLERS), ("state", str(state), STATE_BLOCKS),
        ):  # fmt: skip
            if value not in options:
                raise DistilError(f"tgeokd({key}={value!r}) is unknown; {nearest(value, options)}")
        if not (0 <= alpha <= 1 and 0 <= validation <= 0.5 and controller_decay >= 0):
            raise DistilError(
                f"tgeokd(alpha={alpha}, validation={validation}, controller_decay={controller_decay}): expected 0 to "
                "1, 0 to 0.5, and at least 0."
            )
        if not (temperature > 0 and controller_lr > 0 and inner_lr > 0 and every >= 1 and validation_batch >= 1):
            raise DistilError(
                f"tgeokd(temperature={temperature}, controller_lr={controller_lr}, inner_lr={inner_lr}, every={every}, "
                f"validation_batch={validation_batch}): the first three must be above 0, the others at least 1."
            )
        self.rule, self.design, self.kind, self.every, self.alpha = rule, str(state), controller, every, alpha
        self.learns = rule == "free" or (rule == "tgeo" and trained)
        self.unrolls = rule == "tgeo" and trained and unroll
        self.temperature, self.inner_lr = temperature, inner_lr
        self.adam = {"lr": controller_lr, "weight_decay": controller_decay}
        self.validation, self.validation_batch, self.split_seed = validation, validation_batch, split_seed
        self.reserve: HeldOut | None = None
        self.own: OwnOptimizer | None = None

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make room for class means and held-out ids, and the controller."""
        if student.logits.ndim != 2:
            raise DistilError(f"tgeokd weighs samples of one label each; the logits are {tuple(student.logits.shape)}.")
        classes = student.logits.shape[1]
        self.register_buffer("means", student.logits.new_zeros(classes, classes).float())
        self.register_buffer("held", student.logits.new_zeros(0).long())
        if self.rule == "tgeo":
            self.decides = Controller(len(STATE_BLOCKS[self.design]) * classes, **CONTROLLERS[self.kind])
        elif self.rule == "free":
            self.decides = FreeRatios(self.held)
        self._own()

    def _own(self) -> None:
        """Give what learns its own optimizer, and freeze what does not."""
        if self.learns:
            self.own = OwnOptimizer(self.decides, torch.optim.Adam, **self.adam)
        elif self.rule == "tgeo":
            self.decides.requires_grad_(False)

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Hold samples out, and average the teacher's probabilities of each class over the others."""
        streams = is_streams(next(iter(data)))
        if self.unrolls and not (self.validation or streams):
            raise DistilError(
                "tgeokd(validation=0) leaves the controller nothing to learn from: give a share such as 0.1, or a "
                "stream 'validation' beside 'train'."
            )
        if (self.validation and not streams) or self.rule == "free":
            ids, labels = listed(map(_train, data))
            if self.validation and not streams:
                share = min(self.validation, MOST / len(ids))
                self.held = held_out_ids(ids, labels, share, self.split_seed).to(self.means.device)
            if self.rule == "free":
                self.decides = FreeRatios(ids).to(self.means.device)
                self._own()
        means, kept = ClassMeans(len(self.means)), []
        for batch in map(_train, data):
            add_probabilities(means, teacher(batch).logits, batch["labels"], outside(batch, self.held))
            kept += inside(batch, self.held) if self.unrolls else []
        self.means.copy_(mean_rows(means))
        self.reserve = HeldOut(kept) if kept else None

    def before_step(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> None:
        """Teach the controller what its ratios did to the held-out loss; the student is moved in thought only."""
        train = _train(batch)
        counted = outside(train, self.held)
        if self.own is None or not self.training or ctx.step % self.every or not counted.any():
            return
        with full_precision(counted.device.type):
            known = teacher(train).logits
            if not self.unrolls:
                self.own.step(self._loss(student(train).logits, known, train, ctx))
                return
            params = {n: p.detach().requires_grad_() for n, p in student.module.named_parameters() if p.requires_grad}
            inner = self._loss(student(train, params=params).logits, known, train, ctx)
            moved = unrolled_step(inner, params, lr=self.inner_lr)
            later = self._validation(batch, ctx)
            self.own.step(student.task.loss(student(later, params=moved).output, later).mean())

    def _loss(self, s: Tensor, t: Tensor, train: Batch, ctx: Context) -> Tensor:
        """Return the mean of the fused loss over the samples that count, ratios in its graph."""
        ratio, counted = self.ratio(s, t, train, ctx), outside(train, self.held)
        return fused(s, t, train["labels"], ratio, temperature=self.temperature, weight=counted.to(s.dtype))

    def _validation(self, batch: Batch, ctx: Context) -> Batch:
        if self.reserve is None and not is_streams(batch):
            raise DistilError("tgeokd has no held-out samples in memory: call distiller.prepare(data) before training.")
        drawn = batch["validation"] if self.reserve is None else self.reserve.draw(self.validation_batch, ctx.rng)
        later: Batch = to_device(drawn, self.means.device)
        return later

    def ratio(self, student_logits: Tensor, teacher_logits: Tensor, batch: Batch, ctx: Context) -> Tensor:
        """Return α of each sample of a batch, [B]; only rule "wls" has the student in its graph, as published."""
        s, t, labels = student_logits, teacher_logits, batch["labels"]
        if self.rule in ("tgeo", "free"):
            free = self.rule == "free"
            seen = batch["id"] if free else trilateral_state(s, t, labels, self.means, design=self.design)
            ratio: Tensor = self.decides(seen)
            return ratio
        if self.rule == "ada":
            return ratio_by_margin(t, labels)
        if self.rule == "wls":
            return ratio_by_likelihood(s, t, labels)
        if self.rule == "annealed" and not ctx.epochs:
            raise DistilError("tgeokd(rule=annealed) needs the run's length: pass epochs= to Distiller, or use fit.")
        last = max((ctx.epochs or 1) - 1, 1)
        return s.new_full((len(s),), self.alpha if self.rule == "fixed" else max(last - ctx.epoch, 0) / last)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``fused``, one value per sample; held-out samples weigh 0."""
        train = _train(batch)
        s, t, labels = student(train).logits, teacher(train).logits, train["labels"]
        ratio = self.ratio(s, t, train, ctx)
        values = fused(s, t, labels, ratio, temperature=self.temperature, reduction="none")
        return {"fused": Term(values, outside(train, self.held).to(values.dtype))}

    def counts(self, batch: Batch) -> dict[str, float | Tensor]:
        """Count the labelled samples that are not held out."""
        return {"fused": outside(_train(batch), self.held).sum()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + "held")
        if isinstance(stored, Tensor):  # how many are held out is known only once the data were read
            self.held = self.held.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _train(batch: Batch) -> Batch:
    """Return the batch that the student learns from: the whole, or the stream "train"."""
    if not is_streams(batch):
        return batch
    if not set(STREAMS) <= set(batch):
        raise DistilError(
            f"tgeokd reads one training set, or the streams {' and '.join(STREAMS)}; the batch has {', '.join(batch)}."
        )
    train: Batch = batch["train"]
    return train


def published(
    *, rule: str = "tgeo", state: int | str = 3, controller: str = "mlp", trained: bool = True, unroll: bool = True,
    every: int = 1, alpha: float = 0.5, temperature: float = 1.5, controller_lr: float = 1e-2,
    controller_decay: float = 0.0, inner_lr: float = 0.1, validation: float = 0.1, validation_batch: int = 64,
    split_seed: int = 0,
) -> Sum:  # fmt: skip
    """Return the paper's whole loss: teacher and label fused by a learned ratio; the other rules are its rivals.

    >>> published(state=6).expression.startswith("tgeokd(rule=tgeo, state=6")
    True
    """
    given = dict(locals())
    return as_sum(TGeoKD(**given))
