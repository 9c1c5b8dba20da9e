"""What each training sample is worth, by a model's answers: how unsure, how hard, how often forgotten, how readable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional._checks import class_index, counted_weight, known, same_shape, shaped
from distil.functional.reduction import working
from distil.functional.views import entropy

__all__ = ["el2n", "following_difficulty", "forgetting", "grand", "last_layer_gradients", "perplexity", "uncertainty"]

UNCERTAINTIES = ("confidence", "entropy", "margin")
NEVER = ("most", "count")


def uncertainty(logits: Tensor, *, kind: str = "confidence", as_coded: bool = False) -> Tensor:
    """Return how unsure a model is of each sample, (N,): larger is less sure.

    With p = softmax(z): "confidence" is 1 − max p (least confidence), "entropy" is −Σ p log p, "margin" is
    1 − (largest p − second largest p).

    Args:
        logits: (N, C), C ≥ 2 for "margin".
        kind: one of the three.
        as_coded: the numbers of DeepCore's code, in which *small* is unsure: the largest raw logit,
            Σ p log(p + 1e-6), and the largest p minus the second. Its unbalanced selection then takes the highest,
            the most certain samples.

    >>> [round(float(uncertainty(torch.tensor([[2.0, 0.0]]), kind=kind)), 4) for kind in UNCERTAINTIES]
    [0.1192, 0.3653, 0.2384]

    Paper: Coleman et al., *Selection via Proxy*, ICLR 2020, arXiv 1906.11829, compares the three. Differs from official
    code (DeepCore): see ``as_coded``.
    """
    known("uncertainty", "kind", kind, UNCERTAINTIES)
    shaped("uncertainty", "logits", logits, ("N", "C"), "give one row for each sample")
    (z,) = working(logits.detach())
    p = z.softmax(1)
    if kind == "confidence":
        return z.amax(1) if as_coded else 1 - p.amax(1)
    if kind == "entropy":
        return (p * (p + 1e-6).log()).sum(1) if as_coded else entropy(z)
    if z.shape[1] < 2:
        raise DistilError("uncertainty: kind='margin' needs two classes at least; the logits have one.")
    first, second = p.topk(2, 1).values.unbind(1)
    return first - second if as_coded else 1 - (first - second)


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ‖softmax(z) − onehot(y)‖₂ of each sample, (N,), from 0 (known) to √2; NaN where there is no label.

    Args:
        logits: (N, C), of a model early in its training; averaged over several models where there are.
        labels: (N,).

    >>> el2n(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.7071])

    Paper: Paul, Ganguli, Dziugaite, *Deep Learning on a Data Diet*, NeurIPS 2021, arXiv 2107.07075.
    """
    slope, counted = _slope("el2n", logits, labels)
    return slope.norm(dim=1).masked_fill(~counted, torch.nan)


def grand(logits: Tensor, emb: Tensor, labels: Tensor) -> Tensor:
    """Return the length of each sample's gradient of cross-entropy in the last layer, bias included, (N,).

    ``‖p − onehot(y)‖ · √(1 + ‖h‖²)`` for z = W h + b: no backward pass is needed. NaN where there is no label.

    Args:
        logits: (N, C).
        emb: h (N, D), what the last layer reads.
        labels: (N,).

    >>> grand(torch.zeros(1, 2), torch.tensor([[3.0]]), torch.tensor([0]))
    tensor([2.2361])

    Paper: Paul, Ganguli, Dziugaite, *Deep Learning on a Data Diet*, NeurIPS 2021, arXiv 2107.07075. Differs from
    official code: the paper's GraNd takes the gradient of all weights; the last layer's is DeepCore's.
    """
    shaped("grand", "emb", emb, (len(logits), "D"), "give what the last layer reads, one row for each sample")
    (h,) = working(emb.detach())
    return el2n(logits, labels).to(h.dtype) * (1 + h.square().sum(1)).sqrt()


def last_layer_gradients(logits: Tensor, emb: Tensor, labels: Tensor) -> Tensor:
    """Return each sample's gradient of cross-entropy in the last layer, (N, C · (D + 1)): bias first, then weights.

    Args:
        logits: (N, C). emb: (N, D). labels: (N,), every sample labelled.

    >>> last_layer_gradients(torch.zeros(1, 2), torch.tensor([[3.0]]), torch.tensor([0]))
    tensor([[-0.5000,  0.5000, -1.5000,  1.5000]])
    """
    shaped("last_layer_gradients", "emb", emb, (len(logits), "D"), "give what the last layer reads")
    slope, counted = _slope("last_layer_gradients", logits, labels)
    if not bool(counted.all()):
        raise DistilError(f"last_layer_gradients: {int((~counted).sum())} samples have no label; leave them out.")
    (h,) = working(emb.detach())
    return torch.cat([slope, (slope[:, :, None] * h[:, None, :]).flatten(1)], 1)


def forgetting(right: Tensor, *, never: str = "most") -> Tensor:
    """Return how often each sample was forgotten, (N,): right at one look and wrong at the next.

    Args:
        right: (E, N) of bool, whether the model had the sample right at each look (once an epoch).
        never: what a sample counts that was right at no look: "most" (E, above every count, as the paper ranks them) or
            "count" (0, the number itself).

    >>> forgetting(torch.tensor([[True, False, True], [False, False, True], [True, False, True]]))
    tensor([1, 3, 0])

    Paper: Toneva et al., *An Empirical Study of Example Forgetting during Deep Neural Network Learning*, ICLR 2019,
    arXiv 1812.05159. Differs from official code: DeepCore counts a sample that was never right as 0 ("count").
    """
    known("forgetting", "never", never, NEVER)
    shaped("forgetting", "right", right, ("E", "N"), "give one row of bool for each look at the training data")
    if right.dtype != torch.bool:
        raise DistilError(f"forgetting: right is {right.dtype}; give bool, e.g. logits.argmax(1) == labels.")
    events = (right[:-1] & ~right[1:]).sum(0)
    return events if never == "count" else torch.where(right.any(0), events, len(right))


def perplexity(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return exp of the mean negative log-likelihood of each text's tokens, (N,).

    Args:
        logits: (N, L, V), those that foretell ``tokens`` (already shifted).
        tokens: (N, L); −100 does not count (padding, a prompt). A text in which nothing counts has NaN.

    >>> perplexity(torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]]))
    tensor([4.])
    """
    shaped("perplexity", "logits", logits, (*tokens.shape, "V"), "give one row of scores for each token")
    (z,) = working(logits.detach())
    index, counted = class_index("perplexity", tokens, z.shape[:2], z.shape[2])
    nll = F.cross_entropy(z.flatten(0, 1), index.flatten(), reduction="none").view(tokens.shape)
    return ((nll * counted_weight(counted, None)).sum(1) / counted.sum(1)).exp()


def following_difficulty(told: Tensor, alone: Tensor) -> Tensor:
    """Return PPL(answer | instruction) / PPL(answer), (N,): near 1 or above, the instruction hardly helps.

    Args:
        told: (N,), the answer's perplexity after its instruction.
        alone: (N,), without it.

    >>> following_difficulty(torch.tensor([3.0]), torch.tensor([4.0]))
    tensor([0.7500])

    Paper: Li et al., *From Quantity to Quality: Boosting LLM Performance with Self-Guided Data Selection for
    Instruction Tuning*, NAACL 2024, arXiv 2308.12032.
    """
    same_shape("following_difficulty", told, alone, "give both perplexities of the same answers")
    told, alone = working(told, alone)
    return told / alone


def _slope(name: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """p − onehot(y), and which rows have a label."""
    shaped(name, "logits", logits, ("N", "C"), "give one row for each sample")
    (z,) = working(logits.detach())
    index, counted = class_index(name, labels, z.shape[:1], z.shape[1])
    return z.softmax(1) - F.one_hot(index, z.shape[1]), counted
