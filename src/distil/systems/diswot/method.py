"""DisWOT's two distances as losses of distillation (the paper's †), and its whole weighted sum."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Sum, Traces
from distil.engine.trace import ModelHandle
from distil.errors import DistilError, nearest
from distil.functional.gram import channel_gram, class_maps, sample_gram
from distil.functional.reduction import Term
from distil.methods.kd import KD
from distil.methods.supervised import Supervised

__all__ = ["GramMatch", "head_weight", "published"]

SEMANTIC = ("cam", "channel", "none")


@final
class GramMatch(Method):
    """Match which classes light up together in a sample's map, and which samples have maps alike.

    ``w_s · ‖𝒢_t − 𝒢_s‖² / N² + w_r · ‖𝒜_t − 𝒜_s‖² / B²``: ``𝒢`` is a sample's row-normalised Gram matrix over classes
    (of its class activation maps) or over channels, averaged over the batch, ``𝒜`` that over the samples of a batch,
    which is Similarity-Preserving distillation. Widths and sizes may differ, except with "channel".

    Args:
        semantic: what 𝒢 correlates: "cam" (classes), "channel" (both maps need as many) or "none".
        semantic_weight: w_s.
        relation_weight: w_r; the term couples the batch and is 0 for a batch of one.

    Requirements: a feature map, and for "cam" a linear classifier on its pooled channels, on both sides.

    Relations:
        RKD compares distances and angles of embeddings, AT where a map is active whatever the class.

    Example:
        >>> from distil.systems.diswot import GramMatch
        >>> GramMatch(relation_weight=0.0).expression
        'grammatch(relation_weight=0)'

    Paper: Dong, Li, Wei, DisWOT: Student Architecture Search for Distillation WithOut Training, CVPR 2023,
    arXiv 2303.15678.
    Differs from official code: the weights of the two are not published. These were set once, so that on the first
    step of a small CNN each distance has about half of KD's gradient, and not tuned.
    """

    at_equality = {"semantic": "zero", "relation": "zero"}  # noqa: RUF012

    def __init__(
        self,
        *,
        semantic: str | None = "cam",
        semantic_weight: float = 2.0,
        relation_weight: float = 100.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        semantic = semantic or "none"  # an expression reads the word none so
        if semantic not in SEMANTIC:
            raise DistilError(f"grammatch(semantic='{semantic}') is unknown; {nearest(semantic, SEMANTIC)}")
        self.semantic = semantic if semantic_weight else "none"
        self.semantic_weight, self.relation_weight = semantic_weight, relation_weight
        if self.semantic == "none" and not relation_weight:
            raise DistilError(
                "grammatch(semantic=none, relation_weight=0) compares nothing; give one of the two a weight."
            )
        self.taps = ("map", "head") if self.semantic == "cam" else ("map",)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Check that there are maps, and that their channels can be compared."""
        for trace in (student, teacher):
            if trace["map"].ndim < 3:
                raise DistilError(
                    f"grammatch() compares feature maps; the tap 'map' of the {trace.role} gives "
                    f"{list(trace['map'].shape)}. Name a convolutional layer: taps={{'map': 'layer4'}}."
                )
        ours, theirs = student["map"].shape[1], teacher["map"].shape[1]
        if self.semantic == "channel" and ours != theirs:
            raise DistilError(
                f"grammatch(semantic=channel): the student's map has {ours} channels and the teacher's {theirs}; use "
                "semantic=cam, which compares classes and takes any widths."
            )

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the terms ``semantic`` (one value per sample) and ``relation`` (coupled) that have a weight."""
        ours, theirs = student(batch)["map"], teacher(batch)["map"]
        terms: dict[str, Term] = {}
        if self.relation_weight:
            values = sample_gram(ours, theirs, reduction="none")
            terms["relation"] = Term(self.relation_weight * values, coupled=True)
        if self.semantic == "cam":
            ours, theirs = class_maps(ours, head_weight(student)), class_maps(theirs, head_weight(teacher))
        if self.semantic != "none":
            values = channel_gram(ours, theirs, reduction="none", normaliser="cells")
            terms["semantic"] = Term(self.semantic_weight * values)
        return terms


def head_weight(handle: ModelHandle) -> Tensor:
    """Return the weight [N, C] of a model's classifier; a 1x1 convolution is one, too."""
    head: Any = handle.part("head")
    weight: Tensor = head.weight
    if weight.shape[2:].numel() != 1:
        raise DistilError(
            f"The {handle.role}'s classifier is a {type(head).__name__} with weights {list(weight.shape)}; a linear "
            "layer on pooled channels is expected. Name it: taps={'head': 'fc'}."
        )
    return weight.flatten(1)


def published(
    *,
    cls_weight: float = 0.1,
    kd_weight: float = 0.9,
    temperature: float = 4.0,
    gram_losses: bool = False,
    semantic: str | None = "cam",
    semantic_weight: float = 2.0,
    relation_weight: float = 100.0,
) -> Sum:
    """Return the loss by which the paper distils the student it found, with the two distances (†) where wanted.

    ``cls_weight · CE + kd_weight · KL(T)``, and with ``gram_losses`` also ``GramMatch`` of the last three arguments.

    >>> published(gram_losses=True, relation_weight=0).expression
    '0.1*supervised + 0.9*kd(temperature=4) + grammatch(semantic=cam, semantic_weight=2, relation_weight=0)'
    """
    total = cls_weight * Supervised() + kd_weight * KD(temperature=temperature)
    if not gram_losses:
        return total
    return total + GramMatch(semantic=semantic, semantic_weight=semantic_weight, relation_weight=relation_weight)
