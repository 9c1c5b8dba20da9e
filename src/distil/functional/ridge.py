"""Training in closed form, and what holds a small set near real data: kernel ridge, a prior on codes, nearest rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, positive, shaped
from distil.functional.reduction import reduce, working

__all__ = ["RIDGE_KERNELS", "kernel_ridge", "latent_prior", "nearest_rows", "ridge_kernel"]

RIDGE_KERNELS = ("linear", "relu", "gaussian")
PRIORS = ("normal", "nearest")
METRICS = ("euclidean", "cosine")


def ridge_kernel(a: Tensor, b: Tensor, *, kernel: str = "relu") -> Tensor:
    """Return k(a_i, b_j) for all rows, (M, N), with D their dimensions.

    "linear": (⟨a, b⟩ + 1) / D, a linear model with a bias. "gaussian": exp(−‖a − b‖² / 2D). "relu": the tangent kernel
    of a ReLU net with one hidden layer of endless width, of rows to which a 1 is appended for the bias:
    (‖a‖‖b‖ κ₁(u) + ⟨a, b⟩ κ₀(u)) / D with u their cosine, κ₀ = (π − arccos u) / π and κ₁ = (u (π − arccos u) +
    √(1 − u²)) / π. Training such a net to the end on a set and ridge regression with this kernel on it are the same.

    >>> ridge_kernel(torch.tensor([[1.0]]), torch.tensor([[2.0]]), kernel="linear")
    tensor([[3.]])

    Paper: Nguyen, Chen, Lee, *Dataset Meta-Learning from Kernel Ridge-Regression*, ICLR 2021, arXiv 2011.00050.
    """
    known("ridge_kernel", "kernel", kernel, RIDGE_KERNELS)
    shaped("ridge_kernel", "the second", b, ("N", *a.shape[1:]), "give rows of the same dimensions")
    a, b = working(a.flatten(1), b.flatten(1))
    size = a.shape[1]
    if kernel == "gaussian":
        return (-(a[:, None] - b[None]).square().sum(-1) / (2 * size)).exp()
    if kernel == "linear":
        return (a @ b.T + 1) / size
    inner = a @ b.T + 1
    lengths = (a.square().sum(1) + 1).sqrt()[:, None] * (b.square().sum(1) + 1).sqrt()[None]
    # Just inside ±1, where the slope of arccos is finite: a row with itself.
    edge = 1 - 4 * torch.finfo(a.dtype).eps
    cosine = (inner / lengths).clamp(-edge, edge)
    beyond = math.pi - cosine.arccos()
    first = (cosine * beyond + (1 - cosine.square()).sqrt()) / math.pi
    return (lengths * first + inner * beyond / math.pi) / size


def kernel_ridge(
    small: Tensor, targets: Tensor, queries: Tensor, *, ridge: float = 1e-6, kernel: str = "relu"
) -> Tensor:
    """Train on a small set in closed form and return what the result says of other rows, differentiably.

    f(q) = k(q, S) (K + λ tr(K)/M · I)⁻¹ Y with K = k(S, S): λ is relative to the mean of the diagonal, so that it means
    the same on rows of any length. Gradients reach the small set, its targets and the queries.

    Args:
        small: S, (M, …). targets: Y, (M, C). queries: (N, …), of the dimensions of S.
        ridge: λ, above 0.
        kernel: one of `RIDGE_KERNELS`.

    Returns:
        Predictions (N, C), of the scale of the targets: no logits.

    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.eye(2)
    >>> kernel_ridge(x, y, torch.tensor([[1.0]]), kernel="linear").round(decimals=3).abs()
    tensor([[0., 1.]])

    Paper: Nguyen, Chen, Lee, *Dataset Meta-Learning from Kernel Ridge-Regression*, ICLR 2021, arXiv 2011.00050.
    """
    positive("kernel_ridge", "ridge", ridge)
    if not len(small) or targets.ndim != 2 or len(targets) != len(small):
        raise DistilError(
            f"kernel_ridge: {len(small)} rows and targets of shape {tuple(targets.shape)}; give one row of targets "
            "for each row of the set, and at least one."
        )
    small, targets, queries = working(small, targets, queries)
    own = ridge_kernel(small, small, kernel=kernel)
    held = own + ridge * own.diagonal().mean() * torch.eye(len(small), dtype=own.dtype, device=own.device)
    return ridge_kernel(queries, small, kernel=kernel) @ torch.linalg.solve(held, targets)


def latent_prior(
    codes: Tensor, real: Tensor | None = None, *, kind: str = "normal", weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Say how far codes are from where their decoder was trained: ½‖z‖² ("normal"), or ½‖z − z*‖² ("nearest").

    z* is the nearest real code: the set then stays near what exists. At rest at 0, or at a real code.

    Args:
        codes: (M, …). real: (N, …), codes of real data, for "nearest"; no gradient reaches them.
        kind: "normal" or "nearest".
        weight: (M,). reduction: "mean", "sum" or "none" (one value for each code).

    >>> latent_prior(torch.tensor([[3.0, 4.0]])), latent_prior(torch.tensor([[3.0, 4.0]]), torch.eye(2), kind="nearest")
    (tensor(12.5000), tensor(9.))

    No paper writes it out: a survey of dataset distillation (arXiv 2504.14772) names the idea in one line.
    """
    known("latent_prior", "kind", kind, PRIORS)
    (flat,) = working(codes.flatten(1))
    if kind == "nearest":
        if real is None or not len(real):
            raise DistilError("latent_prior: kind='nearest' needs the codes of real data; give them as `real`.")
        bank = real.detach().flatten(1).to(flat)
        flat = flat - bank[nearest_rows(flat, bank)[0]]
    return reduce(flat.square().sum(1) / 2, weight, reduction=reduction)


def nearest_rows(
    rows: Tensor,
    bank: Tensor,
    *,
    labels: Tensor | None = None,
    bank_labels: Tensor | None = None,
    distinct: bool = False,
    metric: str = "euclidean",
) -> tuple[Tensor, Tensor]:
    """Return, for each row, which row of a bank is nearest and how far it is: free vectors become real items.

    Rows may be vectors of whole items, or of tokens: leading axes are kept, so that (M, L, D) against a vocabulary
    (V, D) gives (M, L) token ids. Of equally near ones the first is taken.

    Args:
        rows: (…, D). bank: (N, D). No gradient passes.
        labels, bank_labels: (…,) and (N,): each row becomes one of its own label.
        distinct: no row of the bank is taken twice: the assignment with the least sum of distances.
        metric: "euclidean", or "cosine" (1 − cosine).

    Returns:
        ids (…,) int64, and distances (…,).

    Raises:
        DistilError: if dimensions differ, or a label has no row (with ``distinct`` too few rows) in the bank.

    >>> bank = torch.tensor([[0.0], [1.0], [5.0]])
    >>> nearest_rows(torch.tensor([[0.2], [0.3]]), bank)
    (tensor([0, 0]), tensor([0.2000, 0.3000]))
    >>> nearest_rows(torch.tensor([[0.2], [0.3]]), bank, distinct=True)[0]
    tensor([0, 1])
    """
    known("nearest_rows", "metric", metric, METRICS)
    shaped("nearest_rows", "the bank", bank, ("N", rows.shape[-1]), "give vectors of the same dimensions")
    if (labels is None) != (bank_labels is None):
        raise DistilError("nearest_rows: give labels of both the rows and the bank, or of neither.")
    flat, held = working(rows.detach().flatten(0, -2), bank.detach())
    held = held.to(flat.dtype)
    away = _away(flat, held, metric)
    if labels is not None and bank_labels is not None:
        away = away.masked_fill(labels.flatten()[:, None] != bank_labels[None], math.inf)
    if not held.shape[0] or bool((away == math.inf).all(1).any()):
        raise DistilError("nearest_rows: some label has no row in the bank; give real rows of every label.")
    picked = _assigned(away) if distinct else away.argmin(1)
    return picked.view(rows.shape[:-1]), away.gather(1, picked[:, None]).view(rows.shape[:-1])


def _away(rows: Tensor, bank: Tensor, metric: str) -> Tensor:
    if metric == "euclidean":
        return torch.cdist(rows, bank, compute_mode="donot_use_mm_for_euclid_dist")
    lengths = torch.linalg.vector_norm(rows, dim=1)[:, None] * torch.linalg.vector_norm(bank, dim=1)[None]
    return 1 - rows @ bank.T / lengths.clamp(min=torch.finfo(rows.dtype).tiny)


def _assigned(away: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    try:
        places, picked = linear_sum_assignment(away.cpu().numpy())
    except ValueError as error:
        raise DistilError("nearest_rows: distinct=True, and a label has more rows than the bank has of it.") from error
    if len(places) < len(away):
        raise DistilError(f"nearest_rows: distinct=True, and {len(away)} rows share a bank of {away.shape[1]}.")
    return torch.from_numpy(picked).to(away.device)
