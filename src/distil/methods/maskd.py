"""MasKD: masks learned on the frozen teacher first, then imitation under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec, side_of
from distil.errors import DistilError, nearest
from distil.functional.masking import (
    channel_masks,
    dice,
    maskd_detection,
    maskd_segmentation,
    masked_map,
    spatial_masks,
)
from distil.functional.reduction import Term
from distil.methods.align import Align, as_specs, maps_of

__all__ = ["MasKD", "MaskTokens", "learn_masks", "usual_masks"]

MASKS = 6  # of each level of a detector
LOSSES = ("segmentation", "detection")
START = 0.01  # standard deviation of fresh tokens: masks begin near one half


@final
class MaskTokens(nn.Module):
    """M learned tokens that make masks of a map: σ(token · map), and how important each mask is, where asked for.

    Args:
        channels: of the map.
        masks: M.
        kind: "spatial" (tokens ``[M, C]``) or "channel" (tokens ``[M]``).
        importance: add the small net of MasKD's detection loss: 3x3 convolution, mean over positions, 1x1 convolution,
            softmax over masks.

    >>> MaskTokens(4, 3)(torch.zeros(2, 4, 5, 5)).unique()
    tensor([0.5000], grad_fn=<Unique2Backward0>)
    """

    def __init__(self, channels: int, masks: int, *, kind: str = "spatial", importance: bool = False) -> None:
        super().__init__()
        if masks < 1:
            raise DistilError(f"masks={masks} must be at least 1; MasKD uses 6 for detectors.")
        self.kind = kind
        self.tokens = nn.Parameter(START * torch.randn(*((masks, channels) if kind == "spatial" else (masks,))))
        if importance:
            first, last = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, masks, 1)
            for conv in (first, last):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out")
                nn.init.constant_(conv.bias, 0.0)  # type: ignore[arg-type]
            self.prob = nn.Sequential(first, nn.AdaptiveAvgPool2d(1), last)

    def forward(self, features: Tensor) -> Tensor:
        """Return the masks, ``[B, M, H, W]`` or ``[B, M, C]``."""
        make = spatial_masks if self.kind == "spatial" else channel_masks
        return make(features, self.tokens)

    def importance(self, features: Tensor) -> Tensor:
        """Return ``[B, M]``, rows that sum to 1."""
        return self.prob(features).flatten(1).float().softmax(1)

    def seen(self, features: Tensor) -> Tensor:
        """Return the map through its masks, weighted by their importance where there is one."""
        return masked_map(features, self(features), self.importance(features) if hasattr(self, "prob") else None)


class _Through(nn.Module):
    """Stands in for one tap: hands on the map through its masks, and keeps how much these overlap."""

    def __init__(self, masks: MaskTokens) -> None:
        super().__init__()
        self.masks = masks
        self.overlap: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        self.overlap = dice(self.masks(features))
        return self.masks.seen(features).to(features.dtype)


def learn_masks(
    teacher: Handles,
    data: Any,
    levels: Sequence[tuple[Spec, MaskTokens]],
    *,
    epochs: int,
    lr: float = 0.1,
    batch_size: int = 32,
) -> None:
    """Learn masks on the frozen teacher, then freeze them: MasKD's first stage.

    The teacher runs on with its map seen through the masks; its task loss asks the masks to keep what matters, and the
    Dice term asks them to differ. SGD with momentum 0.9 and weight decay 1e-3, as official.

    Args:
        teacher: the handle that ``prepare`` is given.
        data: what ``prepare`` is given; batches with labels.
        levels: each tap with the masks to be learned there.
        epochs: passes over ``data``.
        lr: the learning rate, falling to 0 as (1 - t)^0.9.
        batch_size: samples of one update.
    """
    parameters = [p.requires_grad_() for _, masks in levels for p in masks.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=1e-3)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - epoch / epochs) ** 0.9
        for whole in data:
            for batch in _parts(whole, batch_size):
                with torch.enable_grad():
                    loss = torch.stack([_stage_one(teacher, batch, tap, masks) for tap, masks in levels]).sum()
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                teacher.forget()
    for parameter in parameters:
        parameter.requires_grad_(False)


def usual_masks(tap: Spec, teacher_map: Tensor) -> int:
    """Return how many masks a map gets by default: one for each class of a score map, 6 elsewhere."""
    return int(teacher_map.shape[1]) if side_of(tap, "teacher") == "logits" else MASKS


def _stage_one(teacher: Handles, batch: Batch, tap: Spec, masks: MaskTokens) -> Tensor:
    if side_of(tap, "teacher") == "logits":
        scores = teacher(batch).logits
        task: Tensor = teacher.task.loss(masks.seen(scores), batch).mean()
        return task + dice(masks(scores))
    stand_in = _Through(masks)
    task = teacher.task.loss(teacher(batch, replace={tap: stand_in}).output, batch).mean()
    return task if stand_in.overlap is None else task + stand_in.overlap


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Cut a large batch into smaller ones; a graph, or a batch of other things than tensors, stays whole."""
    tensors = all(isinstance(value, Tensor) for value in batch.values())
    if not tensors or len({len(value) for value in batch.values()}) != 1:
        yield batch
        return
    for start in range(0, len(batch["inputs"]), size):
        yield {key: value[start : start + size] for key, value in batch.items()}


@final
class MasKD(Method):
    """Imitate the teacher's maps under masks that were learned on the teacher alone; summed over taps.

    "segmentation": half the squared error under each mask, over the mask's sum, averaged over masks. "detection": each
    mask weighted by its importance, and after ``warmup`` updates multiplied by the mask that the same tokens find in
    the student, without gradient.

    Args:
        taps: one tap or several; each a meaning, a path or ``(student, teacher)``. Score maps ("logits") by default.
        masks: tokens of each tap; 0 means as many as there are classes on score maps, and 6 elsewhere.
        loss: "segmentation" or "detection".
        epochs: of the first stage.
        lr: of the first stage.
        warmup: updates before the student customises the masks ("detection").

    Requirements: labels, for the first stage; ``prepare``.

    Example:
        >>> from distil.methods import MasKD
        >>> MasKD(masks=8).expression
        'maskd(masks=8)'

    Paper: Huang, Zhang, Xie, Wang, Qin, Qiao, Xu, Masked Distillation with Receptive Tokens, ICLR 2023, arXiv
    2205.14589. Differs from official code: the first stage is counted in epochs (10,000 updates there), and one update
    trains the tokens of all taps, each by a pass of its own.
    """

    labels = True
    at_equality = {"maskd": "zero"}  # noqa: RUF012

    def __init__(
        self, *, taps: Spec | Sequence[Any] = "logits", masks: int = 6, loss: str = "segmentation", epochs: int = 5,
        lr: float = 0.1, warmup: int = 1000, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        if loss not in LOSSES:
            raise DistilError(f"maskd(loss='{loss}') is unknown; {nearest(loss, LOSSES)}")
        if masks < 0 or epochs < 0:
            raise DistilError(f"maskd(masks={masks}, epochs={epochs}) must not be below 0.")
        self.taps = as_specs(taps)
        self.masks, self.loss, self.epochs, self.lr, self.warmup = masks, loss, epochs, lr, warmup

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make an alignment and fresh tokens for each pair of maps."""
        ours, theirs = maps_of("maskd", self.taps, student), maps_of("maskd", self.taps, teacher)
        if len(theirs) != len(self.taps):
            raise DistilError(
                f"maskd(taps={list(self.taps)}) names {len(theirs)} maps; name each by itself, e.g. stages.1, since "
                "each is learned by a pass of its own."
            )
        self.align = nn.ModuleList(Align(s.shape[1], t.shape[1]) for s, t in zip(ours, theirs, strict=True))
        weighted = self.loss == "detection"
        self.tokens = nn.ModuleList(
            MaskTokens(t.shape[1], self.masks or usual_masks(spec, t), importance=weighted)
            for spec, t in zip(self.taps, theirs)
        ).requires_grad_(False)

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Learn the tokens on the teacher, then freeze them."""
        levels: list[tuple[Spec, Any]] = list(zip(self.taps, self.tokens, strict=True))
        learn_masks(teacher, data, levels, epochs=self.epochs, lr=self.lr)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``maskd``, one value per sample."""
        ours, theirs = (maps_of("maskd", self.taps, handle(batch)) for handle in (student, teacher))
        values = [
            self._value(align(s, t), t, masks, late=ctx.step >= self.warmup)
            for align, masks, s, t in zip(self.align, self.tokens, ours, theirs, strict=True)
        ]
        return {"maskd": Term(torch.stack(values).sum(0))}

    def _value(self, student_map: Tensor, teacher_map: Tensor, masks: Any, *, late: bool) -> Tensor:
        if self.loss == "segmentation":
            return maskd_segmentation(student_map, teacher_map, masks.tokens, reduction="none").mean(1)
        importance = masks.importance(teacher_map)
        return maskd_detection(student_map, teacher_map, masks.tokens, importance, customised=late, reduction="none")
