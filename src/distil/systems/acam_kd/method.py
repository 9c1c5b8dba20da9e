"""ACAM-KD as a method: masks made anew at each step from both networks' maps, and imitation under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Sum, Traces
from distil.engine.trace import Spec
from distil.errors import DistilError, nearest
from distil.functional.masking import cross_attention, dice, masked_mse
from distil.functional.reduction import Term
from distil.methods.align import Align, as_specs, maps_of
from distil.methods.maskd import MaskTokens, learn_masks, usual_masks
from distil.methods.supervised import Supervised

__all__ = ["ACAMKD", "Level", "published"]

OPTIONS = {
    "fusion": ("stca", "teacher_only", "student_only", "concat"),
    "query": ("teacher", "student"),
    "diversity": ("mean", "ratio", "off"),
    "normalizer": ("sum", "literal"),
}


@final
class Level(nn.Module):
    """One tapped location: alignment, the fusion of both maps, and the units that make masks of the fused map.

    None of it ships.

    Args:
        student_channels, teacher_channels: of the two maps.
        units: M, the masks of each kind.
        fusion: "stca" (cross-attention), "teacher_only", "student_only" or "concat" (a 1x1 convolution over both).
        query: who asks in the attention; the other gives keys and values.
        stride: average-pooling before the attention.
        kinds: which masks there are, of "channel" and "spatial".
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, units: int, *, fusion: str = "stca",
        query: str = "teacher", stride: int = 1, kinds: Sequence[str] = ("channel", "spatial"),
    ) -> None:  # fmt: skip
        super().__init__()
        self.fusion, self.query, self.stride = fusion, query, stride
        width, narrow = teacher_channels, max(1, teacher_channels // 2)
        self.align = Align(student_channels, width)
        if fusion == "stca":
            self.ask, self.key, self.value = (nn.Conv2d(width, out, 1) for out in (narrow, narrow, width))
        elif fusion == "concat":
            self.mix = nn.Conv2d(2 * width, width, 1)
        self.units = nn.ModuleDict({kind: MaskTokens(width, units, kind=kind) for kind in kinds})

    def fuse(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the map that the masks are made from; both maps are in the teacher's shape."""
        if self.fusion == "teacher_only":
            return teacher_map
        if self.fusion == "student_only":
            return student_map
        if self.fusion == "concat":
            mixed: Tensor = self.mix(torch.cat([teacher_map, student_map], 1))
            return mixed
        asks, answers = (teacher_map, student_map) if self.query == "teacher" else (student_map, teacher_map)
        return cross_attention(self.ask(asks), self.key(answers), self.value(answers), stride=self.stride)

    def masks(self, student_map: Tensor, teacher_map: Tensor) -> dict[str, Tensor]:
        """Return the masks of each kind: "channel" ``[B, M, C]``, "spatial" ``[B, M, H, W]``."""
        fused = self.fuse(student_map, teacher_map)
        return {kind: units(fused) for kind, units in self.units.items()}


@final
class ACAMKD(Method):
    """Imitate the teacher's maps under channel and spatial masks that both networks make together; summed over taps.

    The maps are fused by cross-attention (the teacher asks, the student answers); learned units make masks of the fused
    map; the squared error is taken under each mask and divided by the mask's sum; a Dice term keeps units apart.
    ``alpha · (L_channel + L_spatial) + lam · L_diversity``.

    Args:
        taps: score maps ("logits") for segmentation, the levels of a pyramid for detection; one tap or several, each a
            meaning, a path or ``(student, teacher)``. Each has its own fusion and units.
        units: masks of each kind and level; 0 means as many as there are classes on score maps, and 6 elsewhere.
        alpha, lam: the weights of imitation and of diversity.
        fusion: what the masks are made from: "stca", "teacher_only", "student_only" or "concat".
        query: "teacher" or "student": who asks in the attention.
        spatial, channel: which masks there are.
        diversity: "mean" (of pairwise Dice), "ratio" (as printed) or "off".
        normalizer: "sum" divides by the mask's sum, "literal" multiplies by it as printed.
        adaptive: masks keep learning. False: units are learned first on the teacher's own maps, then frozen, and the
            masks read the teacher alone (MasKD, with channel masks too); there is no diversity term then.
        detach_masks: no gradient of the imitation through the masks.
        detach_mask_student: no gradient to the student (and its alignment) through the masks.
        inherit: before the first step, copy those tensors of the teacher's head that fit into the student's.
        stride: average-pool before the attention, which needs (HW)² work.
        epochs: of the first stage, where ``adaptive`` is false.

    Requirements: feature maps; ``prepare`` (which does nothing while masks are adaptive); labels for the first stage.

    Relations:
        MasKD reads the teacher alone and freezes its masks; MSE on the same taps has none.

    Example:
        >>> from distil.systems.acam_kd import ACAMKD
        >>> ACAMKD(channel=False).expression
        'acamkd(channel=false)'

    Paper: Lan, Tian, ACAM-KD: Adaptive and Cooperative Attention Masking for Knowledge Distillation, ICCV 2025,
    arXiv 2503.06307.
    Differs from official code: none was published. The mask's sum divides (MasKD's form of the printed factor),
    diversity is MasKD's mean over pairs and covers both kinds of masks, units start at N(0, 0.01²); see the card.
    """

    at_equality = {"channel": "zero", "spatial": "zero", "diversity": None}  # noqa: RUF012

    def __init__(
        self, *, taps: Spec | Sequence[Any] = "logits", units: int = 0, alpha: float = 1.0, lam: float = 1.0,
        fusion: str = "stca", query: str = "teacher", spatial: bool = True, channel: bool = True,
        diversity: str = "mean", normalizer: str = "sum", adaptive: bool = True, detach_masks: bool = False,
        detach_mask_student: bool = False, inherit: bool = False, stride: int = 1, epochs: int = 5,
        name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        given = {"fusion": fusion, "query": query, "diversity": diversity, "normalizer": normalizer}
        for option, value in given.items():
            if value not in OPTIONS[option]:
                raise DistilError(f"acamkd({option}='{value}') is unknown; {nearest(value, OPTIONS[option])}")
        if not (spatial or channel):
            raise DistilError("acamkd(spatial=false, channel=false) leaves no masks; keep one kind, or use mse.")
        if units < 0 or stride < 1 or epochs < 0:
            raise DistilError(
                f"acamkd(units={units}, stride={stride}, epochs={epochs}): at least 0, 1 and 0 are expected."
            )
        self.maps = as_specs(taps)
        self.taps = (*self.maps, "head") if inherit else self.maps
        self.units, self.alpha, self.lam, self.stride, self.epochs = units, alpha, lam, stride, epochs
        self.fusion, self.query = (fusion if adaptive else "teacher_only"), query
        self.kinds = tuple(kind for kind, on in (("channel", channel), ("spatial", spatial)) if on)
        self.diversity = diversity if adaptive else "off"
        self.normalizer, self.adaptive, self.inherit = normalizer, adaptive, inherit
        self.detach_masks, self.detach_mask_student = detach_masks, detach_mask_student
        self.labels = not adaptive
        kept = (*self.kinds, *(() if self.diversity == "off" else ("diversity",)))
        self.at_equality = {key: claim for key, claim in type(self).at_equality.items() if key in kept}

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make alignment, fusion and units for each pair of maps."""
        ours, theirs = maps_of("acamkd", self.maps, student), maps_of("acamkd", self.maps, teacher)
        if len(theirs) != len(self.maps):
            raise DistilError(
                f"acamkd(taps={list(self.maps)}) names {len(theirs)} maps of the teacher; name each by itself, e.g. "
                "[stages.2, stages.3]."
            )
        options: dict[str, Any] = {"fusion": self.fusion, "query": self.query, "stride": self.stride}
        self.levels = nn.ModuleList(
            Level(s.shape[1], t.shape[1], self.units or usual_masks(spec, t), kinds=self.kinds, **options)
            for spec, s, t in zip(self.maps, ours, theirs, strict=True)
        )
        for level in self._levels():
            level.units.requires_grad_(self.adaptive)

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Learn the units on the teacher and freeze them, where masks are not adaptive; else nothing."""
        if self.adaptive:
            return
        stage: list[tuple[Spec, Any]] = [
            (spec, masks) for spec, level in zip(self.maps, self._levels()) for masks in level.units.values()
        ]
        learn_masks(teacher, data, stage, epochs=self.epochs)

    def before_step(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> None:
        """Let the student's head inherit from the teacher's, once."""
        if self.inherit and ctx.step == 0:
            mine, theirs = student.part("head"), teacher.part("head").state_dict()
            fits = {k: theirs[k] for k, v in mine.state_dict().items() if k in theirs and theirs[k].shape == v.shape}
            if not fits:
                raise DistilError("acamkd(inherit=true): no tensor of the teacher's head has the student's shape.")
            mine.load_state_dict(fits, strict=False)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the terms ``channel``, ``spatial`` and ``diversity``, as far as they are on; one value per sample."""
        values: dict[str, list[Tensor]] = {key: [] for key in self.at_equality}
        for _, ours, theirs, masks in self.levels_of(student(batch), teacher(batch)):
            for kind, mask in masks.items():
                shown = mask.detach() if self.detach_masks else mask
                error = masked_mse(ours, theirs, shown, normalizer=self.normalizer, reduction="none")
                values[kind].append(self.alpha * error.mean(1))
                if self.diversity != "off":
                    values["diversity"].append(self.lam * dice(mask, reading=self.diversity, reduction="none"))
        # Without the student in the masks, diversity trains the units alone.
        alone = self.detach_mask_student or self.fusion == "teacher_only"
        return {key: Term(sum(parts[1:], parts[0]), aux=key == "diversity" and alone) for key, parts in values.items()}

    def levels_of(self, student: Traces, teacher: Traces) -> Iterator[tuple[Level, Tensor, Tensor, dict[str, Tensor]]]:
        """Yield each level with both maps, the student's aligned, and the masks that the two make."""
        ours, theirs = maps_of("acamkd", self.maps, student), maps_of("acamkd", self.maps, teacher)
        for level, s, t in zip(self._levels(), ours, theirs, strict=True):
            aligned = level.align(s, t)
            yield level, aligned, t, level.masks(aligned.detach() if self.detach_mask_student else aligned, t)

    def _levels(self) -> list[Level]:
        return list(self.levels)  # type: ignore[arg-type]


def published(
    *,
    alpha: float = 1.0,
    lam: float = 1.0,
    taps: Spec | Sequence[Any] = "logits",
    units: int = 0,
    fusion: str = "stca",
    query: str = "teacher",
    spatial: bool = True,
    channel: bool = True,
    diversity: str = "mean",
    normalizer: str = "sum",
    adaptive: bool = True,
    detach_masks: bool = False,
    detach_mask_student: bool = False,
    inherit: bool = False,
    stride: int = 1,
) -> Sum:
    """Return the paper's whole loss: ``task + alpha · (L_channel + L_spatial) + lam · L_diversity``.

    Defaults are those of segmentation: score maps, as many units as classes. For a detector name the pyramid's levels.

    >>> [component.name for component in published(taps=["stages.2", "stages.3"])]
    ['supervised', 'acamkd']
    """
    given = dict(locals())
    return Supervised() + ACAMKD(**given)
