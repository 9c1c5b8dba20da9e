"""MIX-KD as a method: one mixed batch for both networks, and each sample's own deviation in place of a temperature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, Traces, as_sum
from distil.errors import DistilError, nearest
from distil.functional.divergence import kl
from distil.functional.mixing import Mix, draw_mix, mixed, mixed_labels, rescaled_kl, soft_label_term
from distil.functional.reduction import Term
from distil.methods.deviation import enough_classes

__all__ = ["MixKD", "published"]

MIXING = ("off", "full", "partial")
LOSSES = ("rescaled", "plain")
TEACHER_INPUTS = ("mixed", "clean")


@final
class MixKD(Method):
    """Labels and teacher on mixed inputs.

    ``x̃_i = λ_i x_r1(i) + (1 − λ_i) x_r2(i)``, labels alike, λ ~ Beta(a, a). Rescaled: ``γ · CE(ỹ, s/σ_s) + α ·
    KL(softmax(t/σ_t) ‖ softmax(s/σ_s))`` with σ each row's own deviation over classes. Plain: ``γ · CE(ỹ, s) + α T² ·
    KL`` at a temperature.

    Args:
        mixing: "partial" leaves some samples whole, "full" mixes all, "off" mixes nothing.
        partial: in [0, 1], the share of draws that stay whole under "partial".
        draw: "published" draws those with replacement (0.9 leaves about 59 % whole), "exact" without.
        loss: "rescaled" or "plain".
        a: the Beta parameter, above 0.
        shared: one λ for the whole batch instead of one for each sample.
        gamma, alpha: weights of labels and teacher; with ``alpha=0`` no teacher is needed (training with mixup).
        temperature: of the plain loss.
        teacher_input: "mixed": the teacher sees what the student sees; "clean": its logits on clean inputs are mixed.
        eps: added to deviations, so that constant logits are no division by 0; the release has 0.

    Requirements: labels; a batch with mixed samples has soft labels only, so no other method of the sum may read
    labels. A cached teacher does not know mixed inputs. The rescaled loss needs three classes at least: the logits of
    two lie σ·√2 apart whatever they are, so nothing would be learnt, and they are refused.

    Relations:
        With mixing and rescaling off it is KD with labels; TGeo-KD weighs the same two losses for each sample.

    Example:
        >>> from distil.systems.mix_kd import MixKD
        >>> MixKD(mixing="full", loss="plain").expression
        'mixkd(mixing=full, loss=plain)'

    Paper: Choi, Jeon, Shukla, Turaga, Understanding the Role of Mixup in Knowledge Distillation: An Empirical Study,
    WACV 2023, arXiv 2211.03946.
    Differs from official code: any number of classes and input shape; mixed labels in the plain loss too (its loop
    pairs mixed inputs with unmixed labels there, and cannot select it); ``eps``.
    """

    labels = True
    contains_task = True
    at_equality: Mapping[str, AtEquality] = {"labels": None, "kd": "zero"}

    def __init__(
        self,
        *,
        mixing: str = "partial",
        partial: float = 0.9,
        draw: str = "published",
        loss: str = "rescaled",
        a: float = 1.0,
        shared: bool = False,
        gamma: float = 0.1,
        alpha: float = 0.9,
        temperature: float = 4.0,
        teacher_input: str = "mixed",
        eps: float = 1e-7,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        for key, value, options in (
            ("mixing", mixing, MIXING), ("loss", loss, LOSSES), ("teacher_input", teacher_input, TEACHER_INPUTS),
        ):  # fmt: skip
            if value not in options:
                raise DistilError(f"mixkd({key}={value!r}) is unknown; {nearest(str(value), options)}")
        if gamma < 0 or alpha < 0 or gamma + alpha == 0 or not temperature > 0 or eps < 0:
            raise DistilError(
                f"mixkd: gamma={gamma}, alpha={alpha} and eps={eps} must not be below 0 (nor both weights 0), and "
                f"temperature={temperature} must be above 0."
            )
        unmixed = partial if mixing == "partial" else 0.0
        self.mix: dict[str, Any] = {"a": a, "unmixed": unmixed, "draw": draw, "shared": shared}
        draw_mix(1, **self.mix)  # refuses what is out of range before any data are read
        self.mixing, self.rescaled, self.clean = mixing != "off", loss == "rescaled", teacher_input == "clean"
        self.gamma, self.alpha, self.temperature, self.eps = gamma, alpha, temperature, eps
        known: dict[str, AtEquality] = {"labels": None, "kd": None if self.clean else "zero"}
        self.at_equality = {key: known[key] for key, weight in (("labels", gamma), ("kd", alpha)) if weight}
        self.classes = 0

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Note how many classes a mixed label has; refuse to rescale the logits of two."""
        self.classes = int(student.logits.shape[-1])
        if student.logits.ndim != 2:
            raise DistilError(f"mixkd mixes samples of one label each; the logits are {tuple(student.logits.shape)}.")
        for trace in (student, *([teacher] if self.alpha else [])) if self.rescaled else ():
            enough_classes("mixkd", trace, "its plain loss at a temperature: mix-kd(loss=plain, temperature=4)")

    def transform(self, batch: Batch, student: Handles, teacher: Handles, ctx: Context) -> Batch:
        """Mix inputs and labels; a loss that is only measured is measured on whole samples."""
        inputs, labels = batch["inputs"], batch["labels"]
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise DistilError("mixkd mixes inputs that are one tensor of numbers (images, tables); these are not.")
        mix = draw_mix(len(labels), **self.mix, generator=ctx.rng) if self.mixing and self.training else None
        ready = {key: value for key, value in batch.items() if key != "labels"}
        if mix is None:
            mix = Mix.whole(len(labels))
        else:
            ready["inputs"] = mixed(inputs, mix)
        ready["soft_labels"] = mixed_labels(labels, mix, classes=self.classes)
        return ready | ({"clean": dict(batch), "mix": mix} if self.clean else {})

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return ``labels`` and ``kd``, one value per sample."""
        s, soft = student(batch).logits, batch["soft_labels"]
        terms: dict[str, Term] = {}
        if self.gamma:
            eps = self.eps if self.rescaled else None
            terms["labels"] = soft_label_term(s, soft, factor=self.gamma, eps=eps)
        if self.alpha:
            t = mixed(teacher(batch["clean"]).logits, batch["mix"]) if self.clean else teacher(batch).logits
            values = (
                rescaled_kl(s, t, reduction="none", eps=self.eps)
                if self.rescaled
                else kl(s, t, temperature=self.temperature, reduction="none")
            )
            terms["kd"] = Term(self.alpha * values)
        return terms

    def counts(self, batch: Batch) -> dict[str, float | Tensor]:
        """Count the labelled shares, and the samples."""
        counted = {"labels": batch["soft_labels"].sum(), "kd": float(len(batch["soft_labels"]))}
        return {key: counted[key] for key in self.at_equality}


def published(
    *,
    mixing: str = "partial",
    partial: float = 0.9,
    draw: str = "published",
    loss: str = "rescaled",
    a: float = 1.0,
    shared: bool = False,
    gamma: float = 0.1,
    alpha: float = 0.9,
    temperature: float = 4.0,
    teacher_input: str = "mixed",
) -> Sum:
    """Return the paper's whole loss: labels 0.1 and teacher 0.9 on partly mixed batches, rescaled by deviation.

    >>> sorted(published().methods)
    ['mixkd']
    """
    return as_sum(
        MixKD(
            mixing=mixing, partial=partial, draw=draw, loss=loss, a=a, shared=shared, gamma=gamma, alpha=alpha,
            temperature=temperature, teacher_input=teacher_input,
        )
    )  # fmt: skip
