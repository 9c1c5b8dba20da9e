"""Codecs that keep a few classes of many: the most likely ones, or a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from distil.cache.bits import Bytes, layout, pack_fields, pack_sorted, unpack_fields, unpack_sorted
from distil.cache.codec import FLOOR, HALF, Codec, Targets, as_bytes, checked, view_as
from distil.errors import DistilError

__all__ = ["Sampled", "TopK"]


@final
@dataclass(frozen=True)
class TopK(Codec):
    """The ``k`` most likely classes and the tail's mass: sorted ids in Elias and Fano's code, values in few ``bits``.

    Log-probabilities are counted downwards from the largest and rounded on a scale whose steps grow with the distance
    (the square of a uniform one), fine where the probability is. They are normalised again when they are decoded, so
    that with the tail they sum to 1. A row takes the ids' bytes, k · bits / 8, and 4 for the scale and the tail: 140
    for k = 64 of 128,256 classes in 4 bits.

    Args:
        k: classes kept.
        bits: of each log-probability, 2 to 8.
        temperature: the softmax's, for targets and tail alike; the loss must use the same.

    The error is the largest difference of a kept log-probability; the bound follows from the row's own range.

    >>> TopK(64).bytes(128_256)
    140
    """

    k: int = 64
    bits: int = 4
    temperature: float = 1.0
    name: ClassVar[str] = "topk"
    dense: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.k < 1 or not 2 <= self.bits <= 8 or not self.temperature > 0:
            raise DistilError(
                f"topk: k={self.k}, bits={self.bits}, temperature={self.temperature}; expected k >= 1, 2 to 8 bits "
                "and a temperature above 0."
            )

    def bytes(self, width: int) -> int:
        """Return the bytes of ids, values and scale."""
        self._fits(width)
        return layout(self.k, width).bytes + (self.k * self.bits + 7) // 8 + 4

    def encode(self, values: Tensor, keys: Tensor | None = None) -> Bytes:
        """Return the rows of logits ``values``; see :class:`Codec`."""
        self._fits(values.shape[1])
        log_p = (checked(self.name, values) / self.temperature).log_softmax(1)
        kept, ids = log_p.topk(self.k, 1)
        order = ids.argsort(1)
        return self.encode_kept(ids.gather(1, order), kept.gather(1, order), values.shape[1])

    def encode_kept(self, ids: Tensor, log_probs: Tensor, width: int) -> Bytes:
        """Return the rows of sorted ``ids`` with their log-probabilities, both ``[N, k]``; the rest is the tail."""
        self._fits(width)
        below = (log_probs.amax(1, keepdim=True) - log_probs.float()).clamp(max=FLOOR)
        span = below.amax(1, keepdim=True).half()
        level = (below / span.float().clamp(min=1e-7)).clamp(max=1).sqrt() * (2**self.bits - 1)
        kept = log_probs.double().logsumexp(1, keepdim=True).clamp(max=0)
        odds = (torch.log(-torch.expm1(kept)) - kept).half()  # log of tail / kept; −inf where nothing is left
        if self.k == width:
            odds = torch.full_like(odds, -torch.inf)
        parts = [pack_sorted(ids.cpu().numpy(), width), pack_fields(level.round().int().cpu().numpy(), self.bits)]
        return np.concatenate([*parts, as_bytes(span.cpu().numpy()), as_bytes(odds.cpu().numpy())], axis=1)

    def decode(self, rows: Bytes, width: int) -> Targets:
        """Return ``ids`` int64 and ``log_probs`` float32, both ``[N, k]``, and the ``tail``'s mass ``[N]``."""
        first, most = layout(self.k, width).bytes, 2**self.bits - 1
        middle = first + (self.k * self.bits + 7) // 8
        span, odds = (view_as(rows[:, at : at + 2], np.float16).astype(np.float32) for at in (middle, middle + 2))
        table = -((np.arange(most + 1, dtype=np.float32) / most) ** 2)
        level = table.take(unpack_fields(rows[:, first:middle], self.k, self.bits))
        level *= span
        with np.errstate(over="ignore"):
            level -= np.log(np.exp(level).sum(1, keepdims=True)) + np.logaddexp(0, odds)
            tail = 1 / (1 + np.exp(-odds[:, 0]))
        return {
            "ids": torch.from_numpy(unpack_sorted(rows, self.k, width)),
            "log_probs": torch.from_numpy(level),
            "tail": torch.from_numpy(tail),
        }

    def error(self, values: Tensor, decoded: Targets) -> Tensor:
        """Return the largest difference of a kept log-probability."""
        log_p = (values.double() / self.temperature).log_softmax(1)
        log_p = torch.maximum(log_p, log_p.amax(1, keepdim=True) - FLOOR)
        return (log_p.gather(1, decoded["ids"]) - decoded["log_probs"].double()).abs().amax(1)

    def bound(self, values: Tensor) -> Tensor:
        """Return twice the largest rounding on the row's scale, and that of scale and tail in fp16."""
        log_p = (values.double() / self.temperature).log_softmax(1)
        kept = log_p.topk(self.k, 1).values
        span, most = (kept[:, 0] - kept[:, -1]).clamp(max=FLOOR), 2**self.bits - 1
        mass = kept.logsumexp(1).clamp(max=-1e-12)
        odds = (torch.log(-torch.expm1(mass)) - mass).abs()
        # Subnormals of fp16 are 2⁻²⁴ apart; sums in float32 add the last term.
        return 2 * span * ((most - 0.25) / most**2 + HALF) + odds * HALF + 2.0**-23 + 1e-5

    def _fits(self, width: int) -> None:
        if self.k > width:
            raise DistilError(f"topk: k={self.k} of {width} classes; give at most {width}, or take dense16.")


@final
@dataclass(frozen=True)
class Sampled(Codec):
    """``draws`` classes drawn from the teacher's distribution: sparse, and unbiased where top-k is not.

    With p = softmax(z / T) classes are drawn from π ∝ p^power and weigh p / (π · draws). Whatever is summed over the
    draws has the sum over all classes as its expectation, so loss and gradient are right on average. With ``power`` 1
    weights are all 1 / draws and take no bytes; a repeated id is its count. Below 1 rare classes come more often, and
    each weight takes 2 bytes in fp16 (which adds a bias of up to 2⁻¹¹ of itself). The entropy of p is kept, in 2 bytes.

    Args:
        draws: classes drawn for each row.
        power: of the proposal, above 0 and at most 1.
        temperature: the softmax's; the loss must use the same.
        seed: with a row's key decides its draws, so that a cache is written twice alike.

    The error is that of the entropy, or infinite where a class of probability 0 was drawn.

    >>> Sampled(50).bytes(128_256)
    85
    """

    draws: int = 50
    power: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    name: ClassVar[str] = "sampled"
    dense: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.draws < 1 or not 0 < self.power <= 1 or not self.temperature > 0:
            raise DistilError(
                f"sampled: draws={self.draws}, power={self.power}, temperature={self.temperature}; expected draws >= "
                "1, a power above 0 and at most 1, and a temperature above 0."
            )

    def bytes(self, width: int) -> int:
        """Return the bytes of ids, weights (unless the power is 1) and entropy."""
        return layout(self.draws, width).bytes + (2 * self.draws if self.power != 1 else 0) + 2

    def encode(self, values: Tensor, keys: Tensor | None = None) -> Bytes:
        """Return the rows of logits ``values``; ``keys`` default to the positions."""
        keys = torch.arange(len(values)) if keys is None else keys
        numbers = [np.random.default_rng([self.seed, key & (2**63 - 1)]).random(self.draws) for key in keys.tolist()]
        return self.encode_drawn(values, torch.from_numpy(np.stack(numbers)))

    def encode_drawn(self, values: Tensor, uniforms: Tensor) -> Bytes:
        """Return the rows for given random numbers in [0, 1), ``[N, draws]``."""
        log_p = (checked(self.name, values).double() / self.temperature).log_softmax(1)
        log_pi = (self.power * log_p).log_softmax(1)
        edges = log_pi.exp().cumsum(1)
        ids = torch.searchsorted(edges, uniforms.to(edges) * edges[:, -1:], right=True).clamp(max=values.shape[1] - 1)
        ids = ids.sort(1).values
        p = log_p.exp()
        entropy = -(p * torch.where(p > 0, log_p, 0.0)).sum(1, keepdim=True)
        parts = [pack_sorted(ids.cpu().numpy(), values.shape[1])]
        if self.power != 1:
            weights = (log_p - log_pi).gather(1, ids).exp() / self.draws
            parts.append(as_bytes(weights.clamp(max=65504).half().cpu().numpy()))
        return np.concatenate([*parts, as_bytes(entropy.half().cpu().numpy())], axis=1)

    def decode(self, rows: Bytes, width: int) -> Targets:
        """Return ``ids`` int64 and ``weights`` float32, both ``[N, draws]``, and ``entropy`` ``[N]``."""
        first = layout(self.draws, width).bytes
        weights = np.full((len(rows), self.draws), 1 / self.draws, dtype=np.float32)
        if self.power != 1:
            weights = view_as(rows[:, first:-2], np.float16).astype(np.float32)
        return {
            "ids": torch.from_numpy(unpack_sorted(rows, self.draws, width)),
            "weights": torch.from_numpy(weights),
            "entropy": torch.from_numpy(view_as(rows[:, -2:], np.float16).astype(np.float32)[:, 0]),
        }

    def error(self, values: Tensor, decoded: Targets) -> Tensor:
        """Return the difference of the entropies; infinite where a drawn class has probability 0."""
        log_p = (values.double() / self.temperature).log_softmax(1)
        p = log_p.exp()
        entropy = -(p * torch.where(p > 0, log_p, 0.0)).sum(1)
        gap = (entropy - decoded["entropy"].double()).abs()
        return torch.where((p.gather(1, decoded["ids"]) > 0).all(1), gap, torch.inf)

    def bound(self, values: Tensor) -> Tensor:
        """Return the rounding of the entropy to fp16."""
        largest = float(np.log(values.shape[1]))
        return torch.full((len(values),), largest * HALF + 1e-5, dtype=torch.float64)
