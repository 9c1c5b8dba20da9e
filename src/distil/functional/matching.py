"""What a small set is made to share with the whole: gradients, distributions of features, or the weights it trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import class_index, known, positive, same_shape, shaped
from distil.functional.reduction import reduce, working

__all__ = ["GRADIENT_DISTANCES", "gradient_distance", "mean_match", "mmd", "row_distance"]
__all__ += ["trajectory_distance"]

GRADIENT_DISTANCES = ("ours", "mse", "cos")
KERNELS = ("gaussian", "linear")


def row_distance(small: Tensor, whole: Tensor, *, eps: float = 1e-6, reduction: str = "sum") -> Tensor:
    """Compare the gradients of one parameter tensor output by output: Σ_o 1 − ⟨g_o, h_o⟩ / (‖g_o‖‖h_o‖ + ε).

    A tensor of shape (out, …) is read as (out, rest). One of a single axis (biases, scales of norms) has no rows and
    counts 0. Directions alone are compared: a factor on either side changes nothing but what ε adds.

    Args:
        small: the gradient that the small set gives, (out, …).
        whole: that of the real data, the same shape; no gradient reaches it.
        eps: ε, which keeps gradients of length 0 finite; equal gradients leave ε / (‖g_o‖² + ε) a row.
        reduction: "sum", "mean" or "none" (one value for each row).

    >>> row_distance(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]]), reduction="none")
    tensor([4.7684e-07, 2.0000e+00])
    >>> row_distance(torch.ones(3), torch.zeros(3))
    tensor(0.)

    Paper: Zhao, Mopuri, Bilen, *Dataset Condensation with Gradient Matching*, ICLR 2021, arXiv 2006.05929.
    """
    same_shape("row_distance", small, whole, "give the gradients of one and the same parameter")
    ours, theirs = working(small, whole.detach())
    if ours.ndim < 2:
        return reduce(0 * ours, reduction=reduction)
    ours, theirs = ours.flatten(1), theirs.flatten(1)
    lengths = torch.linalg.vector_norm(ours, dim=1) * torch.linalg.vector_norm(theirs, dim=1)
    return reduce(1 - (ours * theirs).sum(1) / (lengths + eps), reduction=reduction)


def gradient_distance(
    small: Sequence[Tensor], whole: Sequence[Tensor], *, distance: str = "ours", eps: float = 1e-6
) -> Tensor:
    """Compare the gradients of all parameters that a small set and the real data give, as one number.

    With g and h the gradients: "ours" is Σ over tensors of :func:`row_distance`; "mse" Σ (g − h)² over all entries;
    "cos" 1 − ⟨g, h⟩ / (‖g‖‖h‖ + ε) of everything as one vector. "ours" does not see the length of a gradient, "mse"
    does; only "mse" and "cos" see biases.

    Args:
        small: gradients of the small set, made with ``create_graph=True`` where they are to be differentiated.
        whole: gradients of the real data, in the same order; no gradient reaches them.
        distance: one of `GRADIENT_DISTANCES`.
        eps: ε of the cosines.

    Returns:
        A scalar, at least 0 up to rounding; at equality 0 up to what ε adds.

    Raises:
        DistilError: if the two do not have as many tensors of the same shapes, there are none, or the distance is
            unknown.

    >>> g, h = [torch.eye(2), torch.ones(2)], [2 * torch.eye(2), torch.zeros(2)]
    >>> [round(float(gradient_distance(g, h, distance=name)), 4) for name in ("ours", "mse", "cos")]
    [0.0, 4.0, 0.2929]

    Paper: Zhao, Mopuri, Bilen, *Dataset Condensation with Gradient Matching*, ICLR 2021, arXiv 2006.05929. The names
    are those of its code.
    """
    known("gradient_distance", "distance", distance, GRADIENT_DISTANCES)
    if not small or len(small) != len(whole):
        raise DistilError(
            f"gradient_distance: {len(small)} gradients against {len(whole)}; give one for each parameter on both "
            "sides, in the same order."
        )
    for ours, theirs in zip(small, whole):
        same_shape("gradient_distance", ours, theirs, "give the gradients of the same parameters in the same order")
    if distance == "ours":
        return torch.stack([row_distance(ours, theirs, eps=eps) for ours, theirs in zip(small, whole)]).sum()
    ours, theirs = (torch.cat([each.flatten() for each in working(*side)]) for side in (small, whole))
    theirs = theirs.detach()
    if distance == "mse":
        return (ours - theirs).square().sum()
    lengths = torch.linalg.vector_norm(ours) * torch.linalg.vector_norm(theirs)
    return 1 - (ours * theirs).sum() / (lengths + eps)


def mean_match(
    small: Tensor,
    whole: Tensor,
    *,
    small_labels: Tensor | None = None,
    whole_labels: Tensor | None = None,
    classes: int = 1,
    moments: int = 1,
    reduction: str = "sum",
) -> Tensor:
    """Compare the mean features of a small set and of real data, class by class: Σ_c ‖μ_c(small) − μ_c(whole)‖².

    Summed over the dimensions of the features and over classes, so that twice as many features of the same kind give
    twice the value. ``moments=2`` adds the squared distance of the means of the squares, and so on. A class that either
    side lacks counts 0.

    Args:
        small: features (M, …) of the small set, flattened to (M, D).
        whole: features (N, …) of real data, of as many dimensions; no gradient reaches them.
        small_labels, whole_labels: (M,) and (N,) class indices; without them all rows are of one class.
        classes: C.
        moments: how many powers are compared, at least 1.
        reduction: "sum", "mean" or "none" (one value for each class).

    >>> mean_match(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    tensor(1.)

    Paper: Zhao, Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, arXiv 2110.04181; higher moments
    are this project's extension.
    """
    ours, theirs = _features("mean_match", small, whole)
    if moments < 1:
        raise DistilError(f"mean_match: moments={moments} must be at least 1; 1 compares the means alone.")
    values = ours.new_zeros(classes)
    for power in range(1, moments + 1):
        mean, count = _class_means(ours**power, small_labels, classes)
        target, there = _class_means(theirs**power, whole_labels, classes)
        both = (count > 0) & (there > 0)
        values = values + torch.where(both, (mean - target).square().sum(1), torch.zeros_like(values))
    return reduce(values, reduction=reduction)


def mmd(small: Tensor, whole: Tensor, *, kernel: str = "gaussian", bandwidth: float | None = None) -> Tensor:
    """Compare two sets of features by the squared maximum mean discrepancy, as it is (biased) on these samples.

    mean k(s, s') − 2 mean k(s, r) + mean k(r, r'), every pair counted, a sample with itself too: at least 0, and 0 for
    equal sets. "linear" (k = ⟨a, b⟩) is the squared distance of the means, which :func:`mean_match` computes;
    "gaussian", k = exp(−‖a − b‖² / 2h²), sees every moment.

    Args:
        small: features (M, …). whole: features (N, …); no gradient reaches them.
        kernel: "gaussian" or "linear".
        bandwidth: h; by default the median distance within the real features (1 where they are all equal).

    >>> a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    >>> mmd(a, b, kernel="linear"), mmd(a, b, bandwidth=1.0)
    (tensor(0.), tensor(0.3546))

    Paper: Gretton et al., *A Kernel Two-Sample Test*, JMLR 2012.
    """
    ours, theirs = _features("mmd", small, whole)
    known("mmd", "kernel", kernel, KERNELS)
    if kernel == "linear":
        return (ours.mean(0) - theirs.mean(0)).square().sum()
    if bandwidth is None:
        away = torch.pdist(theirs) if len(theirs) > 1 else theirs.new_ones(1)
        width = away.median()
        width = torch.where(width > 0, width, torch.ones_like(width))
    else:
        positive("mmd", "bandwidth", bandwidth)
        width = theirs.new_tensor(bandwidth)

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[:, None] - b[None]).square().sum(-1) / (2 * width**2)).exp().mean()

    return mean(ours, ours) - 2 * mean(ours, theirs) + mean(theirs, theirs)


def trajectory_distance(end: Tensor, start: Tensor, target: Tensor, *, eps: float = 1e-12) -> Tensor:
    """Return how much of an expert's way is left: ‖end − target‖² / ‖start − target‖².

    0 at the target, 1 at the start; above 1 where training led away. Dividing both by the number of parameters, as is
    also done, cancels. Where start and target coincide no way was to be gone: the divisor is at least ε (1 +
    ‖target‖²), so that value and gradient stay finite.

    Args:
        end: (P,), the weights that training on the small set reached.
        start: (P,), where it began. target: (P,), where the expert was later. No gradient reaches these.
        eps: see above; it changes nothing where the expert moved by a millionth of its length.

    >>> start, target = torch.zeros(2), torch.tensor([2.0, 0.0])
    >>> trajectory_distance(torch.tensor([1.0, 0.0]), start, target)
    tensor(0.2500)

    Paper: Cazenavette, Wang, Torralba, Efros, Zhu, *Dataset Distillation by Matching Training Trajectories*, CVPR 2022,
    arXiv 2203.11932. Its code divides by 0 where the expert stood still.
    """
    for what, vector in (("start", start), ("target", target)):
        shaped("trajectory_distance", f"the {what}", vector, tuple(end.shape), "give the same parameters as vectors")
    end, start, target = working(end, start.detach(), target.detach())
    way = (start - target).square().sum()
    least = eps * (1 + target.square().sum())
    return (end - target).square().sum() / torch.maximum(way, least)


def _features(name: str, small: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides as rows, the real one without gradient."""
    if not len(small) or not len(whole) or small.shape[1:] != whole.shape[1:]:
        raise DistilError(
            f"{name}: the small set's features are {tuple(small.shape)} and the real ones {tuple(whole.shape)}; give "
            "at least one row on both sides, with the same dimensions after the first."
        )
    ours, theirs = working(small, whole.detach())
    return ours.flatten(1), theirs.flatten(1)


def _class_means(rows: Tensor, labels: Tensor | None, classes: int) -> tuple[Tensor, Tensor]:
    """Return the mean row of each class (C, D), 0 where it has none, and how many rows each has (C,)."""
    if labels is None:
        labels = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    index, counted = class_index("mean_match", labels, (len(rows),), classes)
    share = counted.to(rows.dtype)
    count = rows.new_zeros(classes).index_add(0, index, share)
    total = rows.new_zeros(classes, rows.shape[1]).index_add(0, index, rows * share[:, None])
    return total / count.clamp(min=1)[:, None], count
