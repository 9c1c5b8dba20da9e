"""CAT-KD: look for each class where the teacher finds it."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec, side_of
from distil.errors import DistilError, nearest
from distil.functional.gram import class_maps
from distil.functional.maps import ORDERS, class_attention
from distil.functional.reduction import Term
from distil.methods.align import maps_of
from distil.methods.maps import check_pooled

__all__ = ["CATKD"]


@final
class CATKD(Method):
    """Match class activation maps, each pooled to ``size`` x ``size`` and scaled to length 1.

    A class's map is its row of the classifier's weight times the last map, ``M_n = Σ_c W_nc F_c``, whose average over
    positions is the logit without its bias. Where a classifier reads the average of the last map, that is the paper's
    head (a 1x1 convolution before the pool) without changing the model. A model that was rebuilt with
    :func:`distil.models.with_class_maps` holds those maps itself: ``CATKD(head=(None, "head"))`` for such a student.
    Published weight 0.7 to 400 by pair (15 from ResNet-32x4 to ResNet-8x4 on CIFAR-100), beside the task's loss.

    Args:
        size: the side to which maps are pooled; 2.
        normalise: scale each class's map to length 1.
        binarise: the teacher's map only says where it is above the mean of its absolute values.
        classes: compare so many classes only, in the teacher's order of scores; 0 compares all.
        order: "top" or "bottom".
        tap: the last map of both.
        head: the classifier; ``None`` for a side whose last map already holds one map for each class.

    Relations:
        AT merges all channels into one map; CWD compares channels one by one.

    Example:
        >>> from distil.methods import CATKD, Supervised
        >>> (Supervised() + 15 * CATKD()).expression
        'supervised + 15*catkd'

    Paper: Guo, Yan, Li, Wang, Class Attention Transfer Based Knowledge Distillation, CVPR 2023, arXiv 2304.12777.
    Differs from official code: none in value (golden); a head's bias stays where there is one, outside the maps.
    """

    at_equality = {"catkd": "zero"}  # noqa: RUF012

    def __init__(
        self, *, size: int = 2, normalise: bool = True, binarise: bool = False, classes: int = 0, order: str = "top",
        tap: Spec = "map", head: Spec | None = "head", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        if order not in ORDERS:
            raise DistilError(f"catkd(order='{order}') is unknown; {nearest(order, ORDERS)}")
        if size < 1 or classes < 0:
            raise DistilError(f"catkd(size={size}, classes={classes}): size must be at least 1, and classes 0 or more.")
        self.options: dict[str, Any] = {
            "size": size, "normalise": normalise, "binarise": binarise, "classes": classes, "order": order,
        }  # fmt: skip
        self.tap: Spec = tap if isinstance(tap, str) else (tap[0], tap[1])
        self.head: Spec = (None, None) if head is None else head if isinstance(head, str) else (head[0], head[1])
        sides = {role: None if side_of(self.head, role) is None else "emb" for role in ("student", "teacher")}
        self.emb: Spec = (sides["student"], sides["teacher"])
        self.taps = (self.tap, self.head, self.emb, "logits")

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Check on both sides that the average of the class maps is what the model scores by."""
        for trace in (student, teacher):
            if side_of(self.head, trace.role) is None:
                check_pooled("catkd", trace, self.tap, trace.logits, "the scores without a head")
            else:
                check_pooled("catkd", trace, self.tap, trace[self.emb], "what the classifier reads")
        if self.options["classes"] > teacher.logits.shape[1]:
            raise DistilError(
                f"catkd(classes={self.options['classes']}) is more than the {teacher.logits.shape[1]} classes scored."
            )

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``catkd``, one value per sample."""
        ours, theirs = (self._maps(handle, batch) for handle in (student, teacher))
        return {"catkd": Term(class_attention(ours, theirs, **self.options, reduction="none"))}

    def _maps(self, handle: Handles, batch: Batch) -> Tensor:
        (found,) = maps_of("catkd", [self.tap], handle(batch), tokens=True)
        if side_of(self.head, handle.role) is None:
            return found
        return class_maps(found, handle.part(self.head).weight)
