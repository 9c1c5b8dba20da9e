"""Small sets without an inner loop, and on a decoder: kernel ridge in closed form, and codes held near real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional import RIDGE_KERNELS, kernel_ridge, latent_prior
from distil.loops.carrier import SAMPLE, Carrier, Penalty, Real, moved, sound

__all__ = ["Codes", "Ridge", "match_ridge", "principal_codes", "prior_of"]


@dataclass(frozen=True)
class Ridge:
    """Kernel inducing points: the set whose ridge solution is best on the real data.

    Attributes:
        iterations: each on ``batch`` real samples in all.
        lr: of the samples, by Adam.
        kernel: "relu" (a wide net), "linear" or "gaussian".
        ridge: relative to the kernel's mean diagonal.
        start: "real" or "noise".
        learn_labels, label_lr: labels are learned too, as softmax of free logits.
    """

    iterations: int = 500
    lr: float = 0.01
    kernel: str = "relu"
    ridge: float = 1e-3
    batch: int = 512
    start: str = "real"
    learn_labels: bool = False
    label_lr: float = 0.1

    def __post_init__(self) -> None:
        sound("krr", self, kernel=RIDGE_KERNELS)
        if not self.ridge > 0:
            raise DistilError(f"krr: ridge={self.ridge} must be above 0.")


def match_ridge(real: Real, carrier: Carrier, how: Ridge, generator: torch.Generator) -> list[float]:
    """Move the carrier until ridge regression on it, solved in closed form, answers for the real data.

    min over S of ½ mean ‖y − f_S(x)‖², f_S from :func:`distil.functional.kernel_ridge`, y one-hot less 1/C.

    Paper: Nguyen, Chen, Lee, *Dataset Meta-Learning from Kernel Ridge-Regression*, ICLR 2021, arXiv 2011.00050. Its
    kernels are those of deep nets of endless width; here of one hidden layer, or none.
    """
    optimizer = torch.optim.Adam(carrier.groups(how.lr, how.label_lr))
    classes = real.order.classes
    positions = torch.cat(real.places)
    labels = torch.arange(classes).repeat_interleave(torch.tensor([len(each) for each in real.places]))
    losses = []
    for step in range(how.iterations):
        some = torch.randperm(len(positions), generator=generator)[: how.batch]
        there = F.one_hot(labels[some], classes).to(real.device, torch.float32) - 1 / classes
        whole = real.read(positions[some])
        said = kernel_ridge(
            carrier.inputs(), carrier.targets() - 1 / classes, whole, ridge=how.ridge, kernel=how.kernel
        )
        loss = (there - said).square().sum(1).mean() / 2
        losses.append(moved(real, carrier, loss, optimizer, "krr", step, how.iterations))
    return losses


@final
class Codes:
    """A linear autoencoder in closed form: whitened principal coordinates, in which real codes have unit variance.

    Any pair ``encode``, ``decode`` (differentiable) may stand in its place: a frozen text autoencoder that decodes to
    token embeddings, a generator.

    Args:
        rows: ``[N, ...]`` real samples. size: how many directions are kept.

    >>> codes = Codes(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]), 1)
    >>> codes.decode(codes.encode(torch.tensor([[6.0, 1.0]])))
    tensor([[6., 1.]])
    """

    def __init__(self, rows: Tensor, size: int) -> None:
        flat = rows.flatten(1)
        self.shape = rows.shape[1:]
        self.mean = flat.mean(0)
        _, spread, directions = torch.linalg.svd(flat - self.mean, full_matrices=False)
        real = spread > 1e-6 * spread.max()
        kept = min(size, int(real.sum()))
        if kept < 1:
            raise DistilError(
                f"Codes: size={size} of {len(rows)} samples leaves no direction; give at least 1 and more."
            )
        self.directions = directions[:kept]
        self.spread = spread[:kept] / max(1, len(rows) - 1) ** 0.5

    def encode(self, inputs: Tensor) -> Tensor:
        """Return codes ``[B, size]``."""
        return (inputs.flatten(1) - self.mean) @ self.directions.T / self.spread

    def decode(self, codes: Tensor) -> Tensor:
        """Return inputs ``[B, ...]``, differentiably."""
        return ((codes * self.spread) @ self.directions + self.mean).view(len(codes), *self.shape)


def principal_codes(real: Real, size: int) -> tuple[Codes, Tensor]:
    """Return the codec of the real data, and the codes of (at most 4,096 of) them."""
    total = len(real.order.bundle.train)
    rows = real.read(torch.linspace(0, total - 1, min(SAMPLE, total)).long())
    codec = Codes(rows, size)
    return codec, codec.encode(rows)


def prior_of(kind: str, beta: float, bank: Tensor) -> Penalty | None:
    """Return β Σ of :func:`distil.functional.latent_prior` over the codes."""
    if beta == 0:
        return None
    return lambda codes: beta * latent_prior(codes, bank, kind=kind, reduction="sum")
