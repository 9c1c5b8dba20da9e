"""What the teacher's classifier reads of its embedding, from the layer itself or from stored answers."""

from __future__ import annotations

from torch import Tensor, nn

from distil.engine.method import Handles
from distil.errors import DistilError
from distil.functional.subspace import linear_rows, null_space
from distil.tasks.base import BatchReader

__all__ = ["unseen_by_head"]

_LINEAR = 1e-2  # the share of the logits' variance that a linear head may leave unsaid


def unseen_by_head(teacher: Handles, head: str | None, features: Tensor, logits: Tensor) -> Tensor:
    """Return a basis of the directions of the embedding that the classifier does not read.

    Args:
        head: the tap of the linear layer; ``None`` finds it by least squares from ``features`` and ``logits``, and so
            does "head" where it means no layer of the teacher's, or what a cache stored of one.
    """
    layer = None if head is None else _layer(teacher, head)
    if layer is None:
        weight, unsaid = linear_rows(features, logits)
        if unsaid > _LINEAR:
            raise DistilError(
                f"subclasskd: {float(unsaid):.0%} of the teacher's logits are not linear in the embedding; name the "
                "input of its last linear layer with tap=, or use null_space=False."
            )
        return null_space(weight)
    if not isinstance(layer, nn.Linear) or layer.in_features != features.shape[1]:
        raise DistilError(
            f"subclasskd: the teacher's head '{head}' is a {type(layer).__name__}, and the null space is that of a "
            f"linear layer on the embedding, {features.shape[1]} wide; name both with head= and tap=, find it from "
            "embeddings and logits with head=none, or use null_space=False."
        )
    return null_space(layer.weight.detach().cpu())


def _layer(teacher: Handles, head: str) -> nn.Module | None:
    """Return the layer, or nothing where "head" is no layer that is there."""
    if head != "head":
        return teacher.part(head)
    if isinstance(teacher.module, BatchReader):
        return None
    try:
        return teacher.part("head?")
    except DistilError:
        return None
