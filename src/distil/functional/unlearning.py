"""Losses of unlearning in graphs: what is kept copies one model, what is deleted copies another that never knew it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, positive, same_shape, shaped
from distil.functional.graph import _check_edges
from distil.functional.reduction import reduce, working

__all__ = ["bernoulli_kl", "layer_mse", "link_ascent", "link_scores", "node_ascent", "retain_and_forget"]

CLAMP = 1e-5


def link_scores(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Return z_u · z_v for each pair (u, v), (P,): the logit of there being a link.

    Args:
        embeddings: (N, D), one row per node.
        pairs: (2, P) node ids.

    Raises:
        DistilError: if the shapes do not fit, or a pair names a node that is not there.

    >>> link_scores(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([[0, 0], [1, 0]]))
    tensor([1., 5.])
    """
    shaped("link_scores", "embeddings", embeddings, ("N", "D"), "give one row per node")
    _check_edges("link_scores", pairs, len(embeddings))
    (embeddings,) = working(embeddings)
    return (embeddings[pairs[0]] * embeddings[pairs[1]]).sum(1)


def bernoulli_kl(
    student_scores: Tensor,
    teacher_scores: Tensor,
    *,
    temperature: float = 1.0,
    clamp: float = CLAMP,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return KL(teacher ‖ student) of link or no link, for each pair.

    With π = clamp(sigmoid(s / T), ε, 1 − ε) on either side: π_t ln(π_t / π_s) + (1 − π_t) ln((1 − π_t) / (1 − π_s)).
    The clamp keeps saturated scores finite; a student's score that it holds gets no gradient. No T² factor.

    Args:
        student_scores: (P,), or any shape of logits.
        teacher_scores: the same shape.
        temperature: T, above 0; the peer implementation has 1.
        clamp: ε, in 0 … 0.5; 0 clamps nothing.
        weight: broadcastable to the scores.
        reduction: "mean", "sum" or "none" (one value per pair).

    Raises:
        DistilError: if the shapes differ, or an option is out of range.

    >>> bernoulli_kl(torch.tensor([0.0, 50.0]), torch.tensor([1.0, -50.0]), reduction="none")
    tensor([ 0.1109, 11.5113])

    Paper: Sinha, Mandal, Kankanhalli, *Distill to Delete: Unlearning in Graph Networks with Knowledge Distillation*,
    2023, arXiv 2309.16173. There is no official code: form and clamp are those of the OpenGU benchmark (golden).
    """
    same_shape("bernoulli_kl", student_scores, teacher_scores, "score the same pairs by both models")
    positive("bernoulli_kl", "temperature", temperature)
    if not 0 <= clamp < 0.5:
        raise DistilError(f"bernoulli_kl: clamp={clamp} must be in [0, 0.5); 1e-5 is the published value.")
    student, teacher = working(student_scores, teacher_scores)
    q, p = ((scores / temperature).sigmoid().clamp(clamp, 1 - clamp) for scores in (student, teacher))
    values = torch.xlogy(p, p) - torch.xlogy(p, q) + torch.xlogy(1 - p, 1 - p) - torch.xlogy(1 - p, 1 - q)
    return reduce(values, weight, reduction=reduction)


def layer_mse(student_layers: Sequence[Tensor], teacher_layers: Sequence[Tensor], *, reduction: str = "mean") -> Tensor:
    """Return the squared distance of embeddings, added over the layers of two models of one architecture.

    Σ_l ‖z^l − h^l‖²: "sum" adds all numbers of a layer (the peer's node task), "mean" averages them (its edge task), so
    that a wide layer weighs no more than a narrow one.

    Args:
        student_layers: one tensor per layer, (N, D_l), or (P,) for pair scores.
        teacher_layers: as many, of the same shapes.
        reduction: "mean" or "sum" within a layer, or "none" (one value per row, added over dimensions and layers).

    Raises:
        DistilError: if layers are missing or their shapes differ.

    >>> ours, theirs = [torch.zeros(2, 2), torch.zeros(2, 4)], [torch.ones(2, 2), torch.ones(2, 4)]
    >>> layer_mse(ours, theirs), layer_mse(ours, theirs, reduction="sum")
    (tensor(2.), tensor(12.))

    Paper: as `bernoulli_kl`.
    """
    known("layer_mse", "reduction", reduction, ("mean", "sum", "none"))
    if not student_layers or len(student_layers) != len(teacher_layers):
        raise DistilError(
            f"layer_mse: the student has {len(student_layers)} layers and the teacher {len(teacher_layers)}; give the "
            "embeddings of every layer of two models of one architecture."
        )
    total: Tensor | None = None
    for student, teacher in zip(student_layers, teacher_layers):
        same_shape("layer_mse", student, teacher, "give both models the same rows and layers")
        student, teacher = working(student, teacher)
        squared = (student - teacher).square()
        # Nothing deleted is a distance of 0, not the NaN that a mean of nothing would be.
        layer = squared.flatten(1).sum(1) if reduction == "none" and squared.ndim > 1 else squared
        layer = layer if reduction == "none" else layer.sum()
        layer = layer / max(squared.numel(), 1) if reduction == "mean" else layer
        total = layer if total is None else total + layer
    assert total is not None
    return total


def retain_and_forget(retain: Tensor | None, forget: Tensor | None, *, alpha: float = 0.5) -> Tensor:
    """Return α · L_retain + (1 − α) · L_forget; a side without weight, or that is ``None``, is left out.

    Args:
        retain: the loss on what is kept; ``None`` only where alpha = 0.
        forget: the loss on what is deleted; ``None`` where nothing is.
        alpha: 0 … 1.

    Raises:
        DistilError: if alpha is out of range, or nothing is left.

    >>> retain_and_forget(torch.tensor(2.0), torch.tensor(4.0), alpha=0.75)
    tensor(2.5000)
    >>> retain_and_forget(torch.tensor(2.0), None)
    tensor(1.)
    """
    if not 0 <= alpha <= 1:
        raise DistilError(f"retain_and_forget: alpha={alpha} is the share of what is kept; it must lie in [0, 1].")
    parts = [share * loss for share, loss in ((alpha, retain), (1 - alpha, forget)) if share and loss is not None]
    if not parts:
        raise DistilError(
            f"retain_and_forget: nothing is left to learn at alpha={alpha}; keep something, or delete something."
        )
    return sum(parts[1:], parts[0])


def link_ascent(scores: Tensor, *, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Return −BCE(sigmoid(s), 1) = ln sigmoid(s): minimised, it drives the scores of deleted links down without end.

    Args:
        scores: (P,) logits of the deleted links.
        weight: (P,).
        reduction: "mean", "sum" or "none" (one value per pair).

    >>> link_ascent(torch.tensor([0.0]))
    tensor(-0.6931)

    The baseline of GNNDelete (Cheng et al., ICLR 2023, arXiv 2302.13406), by its code.
    """
    (scores,) = working(scores)
    return reduce(F.logsigmoid(scores), weight, reduction=reduction)


def node_ascent(logits: Tensor, labels: Tensor, *, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Return −CE = ln softmax(z)_y of the deleted nodes, `link_ascent` for classes.

    >>> node_ascent(torch.zeros(1, 2), torch.tensor([1]))
    tensor(-0.6931)
    """
    shaped("node_ascent", "logits", logits, ("N", "C"), "give one row per node")
    (logits,) = working(logits)
    return reduce(-F.cross_entropy(logits, labels, reduction="none"), weight, reduction=reduction)
