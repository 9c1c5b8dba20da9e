"""MEAL V2 as methods: soft labels of several teachers together, and a discriminator on final outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, Traces, as_sum
from distil.engine.optim import RatedGroup
from distil.engine.trace import Trace
from distil.errors import DistilError, nearest
from distil.functional.cutmix import draw_patch, pasted
from distil.functional.reduction import Term
from distil.functional.soft_labels import KINDS, draw_teacher, mean_labels, mean_logits, soft_label_cross_entropy
from distil.functional.sources import reversed_gradient, source_cross_entropy
from distil.methods import Supervised
from distil.models.discriminator import LogitDiscriminator

__all__ = ["MealV2", "OutputDiscriminator", "published"]

ENSEMBLES = ("mean-prob", "mean-logit", "random", "single")
SIGNS = ("published", "adversarial", "detached")
CHOSEN = "teachers"
"""Where a batch says which teachers were chosen for it, so that the discriminator sees the same ones."""


@final
class MealV2(Method):
    """The mean of the teachers' probabilities as the only label, at temperature 1.

    ``−Σ_c p̄_c log softmax(s)_c`` with ``p̄ = (1/K) Σ_k softmax(t_k)``, averaged over samples; no factor T², no labels.
    It is meant for a student that is already trained; weight decay 0. One teacher is an ensemble of one.

    Args:
        ensemble: "mean-prob"; "mean-logit": ``softmax`` of the mean of logits; "random": one teacher drawn for each
            batch; "single": the first of the mapping.
        shares: of the teachers under "random", in the mapping's order; even by default (the release: 1/5, 2/5, 2/5 of
            three).
        recover: how a label is filled in that is known on a few classes (:func:`distil.functional.recover_labels`):
            "full", "hard", "smoothing", "marginal" or "renormalised". A live teacher's is cut likewise.
        top: how many classes of it are known; by default all that the teacher or its cache gives.
        cutmix: in [0, 1], the share of training batches in which a patch of each image is another's. Only images are
            mixed: both networks see them, so no label need be.
        beta: of the Beta distribution that the patch's area is drawn from.

    Requirements: a teacher, or a mapping of names to teachers, of the student's classes. A cached teacher of top-k
    targets at temperature 1 serves where ``recover`` is not "full" (in stored views: ``cache.viewed(data)``); it does
    not know images mixed here. With ``cutmix`` no other method of the sum may read labels.

    Relations:
        With one teacher its gradient is KD's at temperature 1.

    Example:
        >>> from distil.systems.meal_v2 import MealV2
        >>> MealV2(recover="marginal", top=5).expression
        'mealv2(recover=marginal, top=5)'

    Paper: Shen, Savvides, MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks, 2020,
    arXiv 2009.08453; stored labels: Shen, Xing, A Fast Knowledge Distillation Framework, ECCV 2022, arXiv 2112.01528.
    Differs from official code: any number of teachers and their shares; a label that is cut is cut for each teacher.
    """

    at_equality: Mapping[str, AtEquality] = {"mealv2": "stationary"}
    sparse = True

    def __init__(
        self,
        *,
        ensemble: str = "mean-prob",
        shares: Sequence[float] | None = None,
        recover: str = "full",
        top: int | None = None,
        cutmix: float = 0.0,
        beta: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        for key, value, options in (("ensemble", ensemble, ENSEMBLES), ("recover", recover, KINDS)):
            if value not in options:
                raise DistilError(f"mealv2({key}={value!r}) is unknown; {nearest(str(value), options)}")
        if not 0 <= cutmix <= 1 or not beta > 0:
            raise DistilError(f"mealv2: cutmix={cutmix} must lie in [0, 1] and beta={beta} above 0.")
        if shares is not None:
            if ensemble != "random":
                raise DistilError("mealv2: shares= are those of ensemble='random'; leave them out otherwise.")
            draw_teacher(len(shares), shares=shares)
        if recover == "full" and top is not None:
            raise DistilError(
                f"mealv2: top={top} cuts a label, and recover='full' does not say how to fill it in; give one of "
                f"{', '.join(KINDS[1:])}."
            )
        self.ensemble, self.shares, self.cutmix, self.beta = ensemble, shares, cutmix, beta
        self.how = "mean-logit" if ensemble == "mean-logit" else "mean-prob"
        self.label: dict[str, Any] = {"kind": recover, "top": top}
        self.at_equality = {"mealv2": "stationary" if recover == "full" else None}

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Refuse models that do not fit, and labels that cannot be recovered, before anything is trained."""
        teachers = _fitting("mealv2", student, teacher)
        if self.shares is not None:
            draw_teacher(len(teachers), shares=self.shares)
        mean_labels([_said(trace) for trace in teachers.values()], how=self.how, **self.label)

    def transform(self, batch: Batch, student: Handles, teacher: Handles, ctx: Context) -> Batch:
        """Choose the batch's teachers, and paste a patch of another image into each; not where a loss is measured."""
        ready = dict(batch)
        if isinstance(teacher, Mapping) and self.ensemble in ("random", "single"):
            at = draw_teacher(len(teacher), shares=self.shares, generator=ctx.rng) if self.ensemble == "random" else 0
            ready[CHOSEN] = (list(teacher)[at],)
        if not self.cutmix or not self.training:
            return ready
        images = batch["inputs"]
        if not isinstance(images, Tensor) or images.ndim != 4:
            raise DistilError("mealv2(cutmix=…) mixes images [B, C, H, W]; these inputs are none. Leave cutmix at 0.")
        ready = {key: value for key, value in ready.items() if key != "labels"}
        patch, order = draw_patch(images.shape, probability=self.cutmix, beta=self.beta, generator=ctx.rng)
        ready["inputs"] = images if patch is None else pasted(images, images[order.to(images.device)], patch)
        return ready

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``mealv2``, one value per sample."""
        said = [_said(trace) for trace in _asked(teacher, batch)]
        label = mean_labels(said, how=self.how, **self.label)
        return {"mealv2": Term(soft_label_cross_entropy(student(batch).logits, label, reduction="none"))}


@final
class OutputDiscriminator(Method):
    """A small net that tells the student's logits from the mean of the teachers' logits, trained in the same step.

    Binary cross-entropy of its two outputs on the 2B rows of both. As published student and discriminator *both*
    minimise it, so it is no game: the student is rewarded for being told apart.

    Args:
        sign: "published"; "adversarial": the student's gradient is reversed; "detached": only the discriminator learns.
        final_relu: a ReLU after the last layer, as released; it can leave the loss at log 2 without a gradient.
        reduction: by which the widths C, C // k, C // k // k shrink.
        least: channels that are kept at least.
        lr: the discriminator's own learning rate under ``fit``, which its schedule moves and ``lr={"discriminator":
            …}`` overrides; 0 takes the student's, as the release does. In a loop of your own give
            ``distiller.groups()`` their rates.

    Requirements: all logits of the teachers. Beside :class:`MealV2` it sees the teachers chosen for the batch.

    Example:
        >>> from distil.systems.meal_v2 import MealV2, OutputDiscriminator
        >>> (MealV2() + 0.5 * OutputDiscriminator(sign="adversarial")).expression
        'mealv2 + 0.5*outputdiscriminator(sign=adversarial)'

    Paper: Shen, Savvides, MEAL V2, 2020, arXiv 2009.08453.
    Differs from official code: its own rate holds (there the student's overwrites it); no last ReLU by default; at
    least two channels in a hidden layer (there 10 classes leave 1 and 0).
    """

    at_equality: Mapping[str, AtEquality] = {"discriminator": None}

    def __init__(
        self,
        *,
        sign: str = "published",
        final_relu: bool = False,
        reduction: int = 8,
        least: int = 2,
        lr: float = 1e-4,
        name: str = "discriminator",
    ) -> None:
        super().__init__(name=name)
        if sign not in SIGNS:
            raise DistilError(f"outputdiscriminator(sign={sign!r}) is unknown; {nearest(sign, SIGNS)}")
        if not lr >= 0:
            raise DistilError(f"outputdiscriminator(lr={lr}) must be above 0, or 0 for the student's rate.")
        self.sign, self.lr = sign, lr
        self.shape: dict[str, Any] = {"reduction": reduction, "final_relu": final_relu, "least": least}
        LogitDiscriminator(2, **self.shape)  # refuses what is out of range before any data are read
        self.net: nn.Module = nn.Identity()

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make the discriminator for the classes at hand."""
        _fitting("outputdiscriminator", student, teacher)
        self.net = LogitDiscriminator(int(student.logits.shape[-1]), **self.shape)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return the discriminator's parameters, with their own rate."""
        mine = super().groups()
        return mine if self.lr == 0 else {key: RatedGroup(group, lr=self.lr) for key, group in mine.items()}

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``discriminator``, one value per sample (a row of each source)."""
        s = student(batch).logits
        t = mean_logits([trace.logits for trace in _asked(teacher, batch)])
        if self.sign != "published":
            s = reversed_gradient(s) if self.sign == "adversarial" else s.detach()
        values = source_cross_entropy(self.net(s), self.net(t), reduction="none")
        return {"discriminator": Term(values, aux=self.sign == "detached")}


def published(
    *, ensemble: str = "mean-prob", shares: Sequence[float] | None = None, discriminator: float = 1.0,
    sign: str = "published", final_relu: bool = False, labels: float = 0.0, cutmix: float = 0.0, recover: str = "full",
    top: int | None = None, reduction: int = 8, d_lr: float = 1e-4,
) -> Sum:  # fmt: skip
    """Return the paper's whole loss: soft labels and the discriminator, each of weight 1, and no hard labels.

    >>> sorted(published().methods), sorted(published(discriminator=0, labels=1).methods)
    (['discriminator', 'mealv2'], ['mealv2', 'supervised'])
    """
    if labels and cutmix:
        raise DistilError(
            f"meal-v2: labels={labels:g} would be those of whole images, and cutmix={cutmix:g} mixes them; use one of "
            "the two."
        )
    soft = as_sum(MealV2(ensemble=ensemble, shares=shares, recover=recover, top=top, cutmix=cutmix))
    net = OutputDiscriminator(sign=sign, final_relu=final_relu, reduction=reduction, lr=d_lr)
    return soft + discriminator * net + labels * Supervised()


def _asked(teacher: Handles, batch: Batch) -> list[Trace]:
    """Run the teachers that this batch is taught by."""
    if not isinstance(teacher, Mapping):
        return [teacher(batch)]
    return [teacher[name](batch) for name in batch.get(CHOSEN, teacher)]


def _said(trace: Trace) -> Any:
    """Logits, or what a cache knows of a few classes."""
    return trace.logits if trace.sparse is None else trace.sparse


def _fitting(name: str, student: Traces, teacher: Traces) -> Mapping[str, Trace]:
    """Refuse models that do not fit each other; returns the teachers by name."""
    if isinstance(student, Mapping):
        raise DistilError(f"{name} teaches one student, and there are several ({', '.join(student)}); give one.")
    if teacher is None:
        raise DistilError(
            f"{name} learns from teachers, and there is none; give one, or a mapping of names to teachers."
        )
    teachers = teacher if isinstance(teacher, Mapping) else {"model": teacher}
    for key, trace in teachers.items():
        ours, theirs = tuple(student.logits.shape), tuple((trace.sparse or trace.logits).shape)
        if len(ours) != 2 or ours != theirs:
            raise DistilError(
                f"{name}: the student gives logits {ours} and the teacher '{key}' {theirs}; expected [B, C] of the "
                "same classes in the same order from all."
            )
    return teachers
