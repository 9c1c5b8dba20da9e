"""NRR-DD as methods: labels of mixed images, and the two numbers of a teacher that stand for its whole answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from distil.data.bundle import NO_LABEL
from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, as_sum
from distil.errors import DistilError, nearest
from distil.functional.cutmix import draw_patch, pasted
from distil.functional.divergence import kd
from distil.functional.mixing import Mix, draw_mix, mixed
from distil.functional.reduction import Term
from distil.functional.soft_labels import soft_label_cross_entropy
from distil.functional.two_numbers import (
    DISTANCES,
    SCE_TARGETS,
    label_distances,
    mixed_cross_entropy,
    rebuilt_labels,
    two_distances,
)

__all__ = ["DBR", "MixedLabels", "published"]

LABELS = ("two-numbers", "soft", "onehot")
TARGETS = (*SCE_TARGETS, "soft")
MIXING = ("cutmix", "mixup", "none")


@final
class MixedLabels(Method):
    """Each image mixed with another of its batch, and cross-entropy with what that makes of their labels.

    Args:
        target: "mix": λ of the image's own label, 1 − λ of the one mixed in; "reconstructed": the teacher's
            probabilities of both labels, the rest evenly over all other classes; "soft": the teacher's whole
            distribution, as KL divergence at ``temperature`` without T², and no label is read.
        mixing: "cutmix", "mixup" or "none", drawn for every batch while training; a batch that brings its own ``share``
            and ``partner_labels`` is taken as it is.
        beta: the share is drawn from Beta(beta, beta), once a batch.
        temperature: of "soft".

    Relations:
        "soft" is KD under CutMix, as RDED and SRe2L train; "mix" is CutMix without a teacher.

    Example:
        >>> from distil.systems.nrr_dd import MixedLabels
        >>> MixedLabels(target="soft").expression
        'mixedlabels(target=soft)'

    Paper: see :func:`published`; Yun et al., CutMix, ICCV 2019, arXiv 1905.04899.
    """

    contains_task = True
    at_equality: Mapping[str, AtEquality] = {"labels": None}

    def __init__(
        self,
        *,
        target: str = "mix",
        mixing: str = "cutmix",
        beta: float = 1.0,
        temperature: float = 20.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        _known(self.name, target=(target, TARGETS), mixing=(mixing, MIXING))
        if not temperature > 0 or not beta > 0:
            raise DistilError(f"{self.name}: temperature={temperature} and beta={beta} must be above 0.")
        self.target, self.mixing, self.beta, self.temperature = target, mixing, beta, temperature
        self.labels = target != "soft"
        if target == "soft":
            self.at_equality = {"labels": "zero"}
        self.taps = (("logits", None),) if target == "mix" else ("logits",)

    def transform(self, batch: Batch, student: Handles, teacher: Handles, ctx: Context) -> Batch:
        """Mix each image with another of the batch; a loss that is only measured is measured on whole images."""
        if "share" in batch or self.mixing == "none" or not self.training:
            return batch
        inputs, ready = batch["inputs"], dict(batch)
        if not isinstance(inputs, Tensor) or (self.mixing == "cutmix" and inputs.ndim != 4):
            raise DistilError(
                f"{self.name} pastes patches into images [B, C, H, W], and these inputs are none; give mixing='mixup' "
                "or 'none'."
            )
        count, rng = len(inputs), ctx.rng
        if self.mixing == "mixup":
            drawn = draw_mix(count, a=self.beta, shared=True, generator=rng)
            order, share = drawn.second, drawn.share
            ready["inputs"] = mixed(inputs, Mix(torch.arange(count), order, share))
        else:
            patch, order = draw_patch(inputs.shape, beta=self.beta, generator=rng)
            assert patch is not None  # the default is to mix every batch
            left = 1 - patch.height * patch.width / (inputs.shape[2] * inputs.shape[3])
            share = torch.tensor([left]).expand(count)
            ready["inputs"] = pasted(inputs, inputs[order.to(inputs.device)], patch)
        ready["share"] = share.to(inputs.device)
        if self.labels or "labels" in batch:
            ready["partner_labels"] = batch["labels"][order.to(inputs.device)]
        return ready

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``labels``, one value per image; one without a label weighs 0, if labels are read."""
        logits = student(batch).logits
        if self.target == "soft":
            options: dict[str, Any] = {"temperature": self.temperature, "convention": "trl", "reduction": "none"}
            return {"labels": Term(kd(logits, teacher(batch).logits, **options))}
        labels, partners = _pair(batch)
        if self.target == "mix":
            values = mixed_cross_entropy(logits, labels, partners, _share(batch), reduction="none")
        else:
            soft = rebuilt_labels(_numbers(teacher, batch), labels, partners, classes=logits.shape[1])
            values = soft_label_cross_entropy(logits, soft, reduction="none")
        return {"labels": Term(values, labels != NO_LABEL)}

    def counts(self, batch: Batch) -> Mapping[str, float | Tensor]:
        """Count the images that have a label, or all where none is read."""
        return {"labels": (_pair(batch)[0] != NO_LABEL).sum()} if self.labels else super().counts(batch)


@final
class DBR(Method):
    """Distance-based representatives: of each mixed image, two numbers of the teacher in place of a distribution.

    With labels y and, mixed in, y': ``|d_S − d_T| + |d'_S − d'_T|`` for ``d = −log p(y)``, ``d' = −log p(y')``. Where
    nothing is mixed both are the same.

    Args:
        distance: "l1", "mse" or "smooth-l1" between the student's and the teacher's numbers.

    Requirements: labels; a mixed batch holds ``partner_labels`` (:class:`MixedLabels` makes one). A batch may bring
    the teacher's numbers as ``distances`` [B, 2]: then no teacher is asked.

    Relations:
        KD compares all classes; this one leaves those free that are neither label.

    Example:
        >>> from distil.systems.nrr_dd import DBR
        >>> DBR(distance="mse").expression
        'dbr(distance=mse)'

    Paper: see :func:`published`. Differs from official code: it could not be had; which distance is a reading.
    """

    labels = True
    at_equality: Mapping[str, AtEquality] = {"dbr": "zero"}

    def __init__(self, *, distance: str = "l1", name: str | None = None) -> None:
        super().__init__(name=name)
        _known(self.name, distance=(distance, DISTANCES))
        self.distance = distance

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``dbr``, one value per image; one without a label weighs 0."""
        logits, theirs, pair = student(batch).logits, _numbers(teacher, batch), _pair(batch)
        values = two_distances(logits, theirs, *pair, distance=self.distance, reduction="none")
        return {"dbr": Term(values, pair[0] != NO_LABEL)}

    def counts(self, batch: Batch) -> Mapping[str, float | Tensor]:
        """Count the images that have a label."""
        return {"dbr": (_pair(batch)[0] != NO_LABEL).sum()}


def published(
    *,
    labels: str = "two-numbers",
    distance: str = "l1",
    sce_target: str = "mix",
    distance_weight: float = 1.0,
    temperature: float = 20.0,
    mixing: str = "cutmix",
    beta: float = 1.0,
) -> Sum:
    """Return what a student is taught: mixed labels and the two numbers, or one of the two it is compared with.

    Args:
        labels: "two-numbers"; "soft" (the teacher's whole distribution); "onehot" (mixed labels alone).
        distance: see :class:`DBR`.
        sce_target: "mix" or "reconstructed", the target beside the two numbers; see :class:`MixedLabels`.
        distance_weight: of the two numbers.
        temperature, mixing, beta: see :class:`MixedLabels`.

    >>> published(distance_weight=0.5).expression
    'mixedlabels(target=mix, mixing=cutmix, beta=1, temperature=20) + 0.5*dbr(distance=l1)'

    Paper: Tran et al., Enhancing Dataset Distillation via Non-Critical Region Refinement, CVPR 2025, arXiv 2503.18267.
    Differs from official code: it could not be had. That the label loss takes the true mixed share, that numbers are
    compared by L1, and all weights are this project's readings.
    """
    _known("nrr-dd", labels=(labels, LABELS), sce_target=(sce_target, SCE_TARGETS), distance=(distance, DISTANCES))
    target = {"two-numbers": sce_target, "soft": "soft", "onehot": "mix"}[labels]
    taught = as_sum(MixedLabels(target=target, mixing=mixing, beta=beta, temperature=temperature))
    return taught + distance_weight * DBR(distance=distance) if labels == "two-numbers" else taught


def _known(name: str, **options: tuple[str, tuple[str, ...]]) -> None:
    for key, (value, known) in options.items():
        if value not in known:
            raise DistilError(f"{name}: {key}={value!r} is unknown; {nearest(str(value), known)}")


def _pair(batch: Batch) -> tuple[Tensor, Tensor]:
    """Each image's own label and the one mixed in, its own again where nothing was."""
    labels: Tensor = batch["labels"]
    return labels, batch.get("partner_labels", labels)


def _share(batch: Batch) -> Tensor:
    found: Tensor | None = batch.get("share")
    return torch.ones(len(batch["labels"]), device=batch["labels"].device) if found is None else found


def _numbers(teacher: Handles, batch: Batch) -> Tensor:
    """The teacher's two numbers of each image: those that the batch brings, or asked for now."""
    stored: Tensor | None = batch.get("distances")
    if stored is not None:
        return stored
    return label_distances(teacher(batch).logits, *_pair(batch))
