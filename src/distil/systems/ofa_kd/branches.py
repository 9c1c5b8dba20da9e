"""Exits at the student's stages as a method: made from the dry run, taught by the teacher's logits, never shipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.layout import CHANNELS_LAST, UNCLEAR
from distil.engine.method import AtEquality, Batch, Handles, Method, Traces, batch_size
from distil.engine.trace import Spec, side_of
from distil.errors import DistilError, nearest
from distil.functional.enhanced import ENHANCEMENTS, dominant_labels, enhanced_cross_entropy, labelled_rows
from distil.functional.features import mse
from distil.functional.reduction import Term
from distil.methods.align import as_specs
from distil.methods.exits import exit_for
from distil.methods.places import layout_of, square

__all__ = ["GAMMA", "OFAExits", "check", "labels_of", "stages_of"]

SPACES = ("logits", "features")
GAMMA = 1.5  # the release's exponent for ImageNet


@final
class OFAExits(Method):
    """A throw-away exit at every stage of the student, whose class scores learn from the teacher's logits.

    The loss is `OFALogits`'s on the scores of each exit, summed over exits. Of the teacher nothing but logits is
    read; and once, where it shows, how wide its embedding is, since a map's exit takes the wider of both widths. With n
    stages, stage k is followed by n − k others: a map's exit has so many convolutions that halve it, tokens' exit so
    many blocks (at least one). For four stages that is the paper's table; three stages get its exits 2 to 4.

    Args:
        branches: which stages, counted from 1, or "all".
        gamma: one exponent, 1.5 by default, or one for each exit in the order of the stages.
        enhance, temperature: as in `OFALogits`.
        project: "logits"; or "features": exits give vectors as wide as the teacher's embedding, which they match by
            their mean squared error (for comparison; the paper's point is that this fails between families).
        taps: the stages: "depths" (the last four resolutions; blocks 1, 3, 9, 11 of twelve), or paths.
        class_tokens: how many tokens come before the patches; by default what the student itself says, and of square
            images whose grid nobody knows, 0, 1 or 2, whichever leaves a square.

    Requirements: stages that are maps, or tokens of which it is known how they lie: on the grid of patches that a
    convolution cut, or on a square of square images.

    Relations:
        Each exit is an early classifier as in deep supervision, taught by the teacher in place of labels.

    Example:
        >>> from distil.systems.ofa_kd import OFAExits
        >>> OFAExits(branches=[3, 4], gamma=[1, 1.5]).expression
        'ofaexits(branches=[3, 4], gamma=[1, 1.5])'

    Paper: see `published`.
    """

    at_equality: Mapping[str, AtEquality] = {"branches": None}

    def __init__(
        self,
        *,
        branches: str | Sequence[int] = "all",
        gamma: float | Sequence[float] | None = None,
        enhance: str = "code",
        temperature: float = 1.0,
        project: str = "logits",
        taps: Spec | Sequence[Any] = "depths",
        class_tokens: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.branches = stages_of(branches)
        if self.branches == ():
            raise DistilError(f"{self.name}(branches={branches!r}) has no exit to teach; leave the method out.")
        self.gamma = GAMMA if gamma is None else gamma
        check(self.name, enhance, temperature, self.gamma)
        if project not in SPACES:
            raise DistilError(f"{self.name}: project={project!r} is unknown; {nearest(str(project), SPACES)}")
        self.enhance, self.temperature, self.project, self.class_tokens = enhance, temperature, project, class_tokens
        self.labels = enhance != "off" and project == "logits"
        self.stages = tuple((side_of(spec, "student"), None) for spec in as_specs(taps))
        theirs: tuple[Spec, ...] = (("emb", "emb?"), "logits") if project == "logits" else ("emb",)
        self.taps = (*self.stages, *theirs)
        self.exits = nn.ModuleDict()
        self.gammas: tuple[float, ...] = ()
        self.normed = False

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make the exits from the shapes of the dry run."""
        found, layouts = self._read(student), [at for spec in self.stages for at in student.layout(spec)]
        specs = [spec for spec in self.stages for _ in student.layout(spec)]
        chosen = range(1, len(found) + 1) if self.branches is None else self.branches
        absent = [k for k in chosen if k > len(found)]
        if absent:
            raise DistilError(
                f"{self.name}(branches={list(chosen)}): the student has {len(found)} stages, so there is no stage "
                f"{absent[0]}; count them from 1, or name paths with taps=[…]."
            )
        self.gammas = self._for_each(list(chosen))
        if self.project == "features":
            theirs, classes = 0, int(teacher["emb"].shape[-1])
        else:
            theirs = max([int(emb.shape[-1]) for emb in teacher["emb?"]], default=0)
            classes = int(student.logits.shape[-1])
        for k in chosen:
            if layouts[k - 1] == UNCLEAR:
                raise DistilError(
                    f"{self.name}: whether stage {k} of the student, {list(found[k - 1].shape)}, has its channels "
                    "first or last cannot be told; give images of another size, or name another module with taps=[…]."
                )
            self.exits[str(k)] = exit_for(
                found[k - 1].shape, left=len(found) - k, classes=classes, width=int(student["emb"].shape[-1]),
                teacher_width=theirs, tokens=layouts[k - 1] == CHANNELS_LAST,
                **self._lie(student, specs[k - 1], k, found[k - 1]),
            )  # fmt: skip
        self.normed = any(isinstance(part, nn.BatchNorm2d) for part in self.exits.modules())

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return ``branches``, one value per sample: the sum over exits."""
        seen, labels = self._read(student(batch)), labels_of(batch) if self.labels else None
        theirs = teacher(batch)["emb" if self.project == "features" else "logits"]
        options: dict[str, Any] = {"enhance": self.enhance, "temperature": self.temperature, "reduction": "none"}
        values = []
        for (stage, leave), gamma in zip(self.exits.items(), self.gammas, strict=True):
            ours = leave(seen[int(stage) - 1])
            if self.project == "features":
                values.append(mse(ours, theirs, reduction="none"))
            else:
                values.append(enhanced_cross_entropy(ours, theirs, labels, gamma=gamma, **options))
        weights = None if labels is None else labelled_rows(labels)
        # In training the BatchNorm of exits makes each value depend on the batch.
        return {"branches": Term(torch.stack(values).sum(0), weights, coupled=self.training and self.normed)}

    def counts(self, batch: Batch) -> dict[str, float | Tensor]:
        """Count the samples with a label, or all where none is read."""
        return {"branches": labelled_rows(labels_of(batch)).sum() if self.labels else float(batch_size(batch))}

    def _lie(self, student: Traces, spec: Spec, stage: int, features: Tensor) -> dict[str, Any]:
        """Return how a stage's tokens lie, as the dry run saw it; of square images it may be left to their number."""
        layout = layout_of(self.name, spec, student, features, self.class_tokens)
        if layout is not None:
            return {"class_tokens": layout[0], "grid": layout[1:]}
        if features.ndim == 3 and not square(spec, student):
            said = "" if self.class_tokens is None else f" with class_tokens={self.class_tokens}"
            raise DistilError(
                f"{self.name}: how the {features.shape[1]} tokens of stage {stage} lie{said} is not known: no "
                "convolution was seen to cut images into as many patches, and neither they nor the images are known to "
                "be square. Cut the patches by a convolution and say with class_tokens= what stands before them, give "
                "square images, or leave exits out with branches=none."
            )
        return {"class_tokens": self.class_tokens}

    def _read(self, trace: Traces) -> list[Tensor]:
        values = [trace[spec] for spec in self.stages]
        return [stage for value in values for stage in (value if isinstance(value, tuple) else (value,))]

    def _for_each(self, chosen: list[int]) -> tuple[float, ...]:
        if not isinstance(self.gamma, Sequence):
            return (self.gamma,) * len(chosen)
        if len(self.gamma) != len(chosen):
            raise DistilError(
                f"{self.name}: gamma has {len(self.gamma)} numbers for the exits and there are {len(chosen)} (stages "
                f"{', '.join(map(str, chosen))}); give one number, or one for each exit, and to ofa-kd one more for "
                "the logits, last."
            )
        return tuple(self.gamma)


def labels_of(batch: Batch) -> Tensor:
    """Return the labels; of a sample mixed from two, that of the larger part."""
    labels: Tensor = batch["labels"]
    if "partner_labels" in batch:
        labels = dominant_labels(labels, batch["partner_labels"], batch["share"].to(labels.device))
    return labels


def stages_of(branches: str | Sequence[int]) -> tuple[int, ...] | None:
    """Return the numbers of the stages with exits; ``None`` for all of them."""
    if isinstance(branches, str):
        if branches not in ("all", "none"):
            raise DistilError(
                f"branches={branches!r} is unknown; {nearest(branches, ['all', 'none'])} Or stages: [2, 4]."
            )
        return None if branches == "all" else ()
    stages = tuple(branches)
    if any(not isinstance(k, int) or k < 1 for k in stages) or list(stages) != sorted(set(stages)):
        raise DistilError(f"branches={list(branches)} must be stages in order, counted from 1, each once; e.g. [2, 4].")
    return stages


def check(name: str, enhance: str, temperature: float, gamma: float | Sequence[float]) -> None:
    """Refuse settings out of range."""
    if enhance not in ENHANCEMENTS:
        raise DistilError(f"{name}: enhance={enhance!r} is unknown; {nearest(str(enhance), ENHANCEMENTS)}")
    many = list(gamma) if isinstance(gamma, Sequence) and not isinstance(gamma, str) else [gamma]
    wrong = [g for g in many if isinstance(g, bool) or not isinstance(g, (int, float)) or not 0 < g < math.inf]
    if wrong or not 0 < temperature < math.inf:
        raise DistilError(
            f"{name}: gamma={gamma} (one or a list) and temperature={temperature} must be finite numbers above 0."
        )
