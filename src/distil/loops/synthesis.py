"""Images made by descent on their pixels, through networks that stay as they are.

What SRe2L, INFER and the refinement of NRR-DD share: a frozen network in eval mode, a loss on what it says of the
images and on what its batch norms are given, and an optimizer of pixels alone.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from distil.errors import DistilError, nearest
from distil.functional.activation import masked_step
from distil.functional.batchnorm import Layer, statistics_terms
from distil.functional.collage import label_cross_entropy
from distil.functional.crops import crop_boxes, cropped, standardised_channels
from distil.functional.pixels import compensated, cosine_rate, draw_rolls, rolled, roughness

__all__ = [
    "RATES",
    "Observed",
    "Pixels",
    "Seen",
    "Synthesis",
    "SynthesisLoss",
    "Synthesised",
    "agreeing",
    "synthesis_loss",
    "synthesise",
]

PRECISIONS = ("fp32", "bf16")
OPTIMIZERS = ("adam", "sgd")
RATES = ("cosine", "linear", "constant")
CALL_TOLERANCE, BF16_COSINE = 1e-3, 0.99
Mask = Tensor | Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Synthesis:
    """How pixels are optimised; the defaults are those of SRe2L and INFER for images of 32 pixels.

    Attributes:
        steps: T; 0 leaves the start as it is.
        rate: of the first step; then what ``schedule`` leaves of it.
        statistics: weight of the batch-norm term; 0 reads no batch norm, and needs none.
        first: weight, within that term, of the first batch norm; the others weigh 1.
        skip: places of batch norms, in module order, that are left out.
        jitter: largest cyclic shift down and right, drawn at each step.
        crops: whether each step first shows one random crop of 8 to 100 % of the area, mirrored half of the time and
            resized; one draw for the whole batch.
        smooth: weight of the total variation of what is shown ("l2" kind).
        size: weight of the mean length ‖x‖₂ of what is shown.
        optimizer: "adam" or "sgd" (plain).
        betas: of Adam.
        schedule: "cosine" (½ (1 + cos(π t / T)) of the rate), "linear" (1 − t / T) or "constant".
    """

    steps: int = 1000
    rate: float = 0.25
    statistics: float = 1.0
    first: float = 10.0
    skip: tuple[int, ...] = ()
    jitter: int = 4
    crops: bool = False
    smooth: float = 0.0
    size: float = 0.0
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.5, 0.9)
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        for name in ("steps", "statistics", "first", "jitter", "smooth", "size"):
            if getattr(self, name) < 0:
                raise DistilError(f"{name}={getattr(self, name)} must not be below 0.")
        if not self.rate > 0:
            raise DistilError(f"rate={self.rate} must be above 0; steps=0 leaves the images as they are.")
        if self.optimizer not in OPTIMIZERS:
            raise DistilError(f"optimizer={self.optimizer!r} is unknown; {nearest(self.optimizer, OPTIMIZERS)}")
        if self.schedule not in RATES:
            raise DistilError(f"schedule={self.schedule!r} is unknown; {nearest(self.schedule, RATES)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise DistilError(f"betas={list(self.betas)} must be two numbers from 0 to below 1, as [0.5, 0.9].")


class Pixels(NamedTuple):
    """The space that pixels are optimised in: images in [0, 1], each channel by its mean and deviation, [ch] each.

    >>> space = Pixels(torch.tensor([0.5]), torch.tensor([0.25]))
    >>> space.normalised(torch.ones(1, 1, 1, 1)).item(), space.high.item()
    (2.0, 2.0)
    """

    mean: Tensor
    deviation: Tensor

    @property
    def low(self) -> Tensor:
        """What black is, [ch, 1, 1]."""
        return (-self.mean / self.deviation).view(-1, 1, 1)

    @property
    def high(self) -> Tensor:
        """What white is, [ch, 1, 1]."""
        return ((1 - self.mean) / self.deviation).view(-1, 1, 1)

    def normalised(self, images: Tensor) -> Tensor:
        """Return images [B, ch, H, W] in this space."""
        return standardised_channels(images, self.mean, self.deviation)

    def raw(self, images: Tensor) -> Tensor:
        """Return images of this space as they were, without cutting off what no pixel can be."""
        return self.added(images) + self.mean.to(images).view(1, -1, 1, 1)

    def added(self, difference: Tensor) -> Tensor:
        """Return a difference of two images of this space as one of pixels."""
        return difference * self.deviation.to(difference).view(1, -1, 1, 1)

    def to(self, device: torch.device | str) -> Pixels:
        """Return it on a device."""
        return Pixels(self.mean.to(device), self.deviation.to(device))


class Seen(NamedTuple):
    """What a network says of images, [B, C], and what its batch norms were given, in module order."""

    logits: Tensor
    layers: list[Layer]


@final
class Observed:
    """A frozen copy of a network, in eval mode, that gives its logits and what each batch norm was given.

    The network itself is never touched: no hook, mode, gradient flag or buffer of it changes.

    Args:
        network: maps images to logits.
        call: how it is called, ``call(network, images) → logits``; by default directly.
        pixels: where images in [0, 1] lie in the space they are given in, if the network wants them as they are.
        precision: of the copy: "fp32" or "bf16" (statistics are compared in float32 all the same).
        channels_last: lay the copy out for convolutions that are quicker so.
        device: where the copy lives; by default where the network does.

    >>> from distil.models import SmallCNN
    >>> seen = Observed(SmallCNN(1, 10, widths=(4, 8)))(torch.zeros(2, 1, 8, 8))
    >>> seen.logits.shape, [len(layer.mean) for layer in seen.layers]
    (torch.Size([2, 10]), [4, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        call: Callable[[nn.Module, Tensor], Any] | None = None,
        pixels: Pixels | None = None,
        precision: str = "fp32",
        channels_last: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise DistilError(f"precision={precision!r} is unknown; {nearest(precision, PRECISIONS)}")
        self.name = type(network).__name__
        self.precision, self.channels_last = precision, channels_last
        self._call, self._pixels = call or (lambda module, images: module(images)), pixels
        self._original = network
        self._network = deepcopy(network).eval().requires_grad_(False)
        if device is not None:
            self._network.to(device)
        self._kept: list[tuple[Tensor, Tensor]] = []  # in full precision
        self._inputs: dict[int, Tensor] = {}
        for norm in self._network.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
                place = len(self._kept)
                self._kept.append((norm.running_mean.clone(), norm.running_var.clone()))
                norm.register_forward_pre_hook(lambda _, args, place=place: self._inputs.__setitem__(place, args[0]))
        if channels_last:
            self._network.to(memory_format=torch.channels_last)
        if precision == "bf16":
            self._network.to(torch.bfloat16)

    @property
    def norms(self) -> int:
        """How many batch norms there are that remember statistics."""
        return len(self._kept)

    def __call__(self, images: Tensor) -> Seen:
        """Run the copy on images [B, ch, H, W]; gradients reach the images and nothing else."""
        self._inputs.clear()
        shown = images if self._pixels is None else self._pixels.raw(images)
        shown = shown.contiguous(memory_format=torch.channels_last) if self.channels_last else shown
        logits = self._call(self._network, shown.bfloat16() if self.precision == "bf16" else shown)
        layers = [Layer(self._inputs[k], *self._kept[k]) for k in range(self.norms) if k in self._inputs]
        self._inputs.clear()
        return Seen(logits.float() if self.precision == "bf16" else logits, layers)

    def plain(self) -> Observed:
        """Return the same network in full precision and its own layout: what the quick forms are held against."""
        device = next(self._network.parameters()).device
        options: dict[str, Any] = {"call": self._call, "pixels": self._pixels, "device": device}
        return Observed(self._original, channels_last=False, **options)


class SynthesisLoss(NamedTuple):
    """The loss of images, and its parts: cross-entropy, each weighted distance of statistics, and what regularises."""

    total: Tensor
    cross_entropy: Tensor
    statistics: Tensor
    regularisers: Tensor


def synthesis_loss(network: Observed, images: Tensor, labels: Tensor, how: Synthesis) -> SynthesisLoss:
    """Return CE + r Σ_l w_l R_l + smooth · TV + size · mean ‖x‖₂ of images as they are shown.

    R_l is :func:`distil.functional.statistics_distance`, w_0 is ``how.first`` and the other w_l are 1.

    Raises:
        DistilError: statistics are asked of a network without a batch norm that remembers any.
    """
    if how.statistics and not network.norms:
        raise DistilError(
            f"{network.name} has no BatchNorm2d that keeps running statistics, and statistics={how.statistics:g} "
            "compares images with those; name a network that has, or set statistics=0."
        )
    seen = network(images)
    entropy = label_cross_entropy(seen.logits, labels).mean()
    terms = entropy.new_zeros(0)
    if how.statistics:
        terms = statistics_terms(seen.layers, first=how.first, skip=how.skip)
    extra = entropy.new_zeros(())
    if how.smooth:
        extra = extra + how.smooth * roughness(images)
    if how.size:
        extra = extra + how.size * torch.linalg.vector_norm(images.flatten(1), dim=1).mean()
    return SynthesisLoss(entropy + how.statistics * terms.sum() + extra, entropy, terms, extra)


class Synthesised(NamedTuple):
    """What came of it.

    Attributes:
        pixels: after the last step, of the start's shape.
        before: those that the last loss was taken of, one step earlier.
        losses: [T], of each step.
    """

    pixels: Tensor
    before: Tensor
    losses: Tensor


def synthesise(
    network: Observed,
    start: Tensor,
    labels: Tensor,
    how: Synthesis,
    *,
    around: Tensor | None = None,
    low: Tensor | float | None = None,
    high: Tensor | float | None = None,
    mask: Mask | None = None,
    rolls: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Synthesised:
    """Optimise pixels so that the network classifies the images as they are labelled and knows their statistics.

    Args:
        network: what judges the images; see :func:`agreeing` for its quick forms.
        start: [B, ch, H, W] images, or [1, ch, H, W] (or [B, …]) what is added to ``around``.
        labels: int64 [B].
        how: the loss, the steps and their size.
        around: [B, ch, H, W], images that stay as they are and to which the optimised pixels are added.
        low, high: where pixels are put back to after each step; both or neither.
        mask: [B, 1, H, W], how much of each step is made, or a function of the step's number and the pixels that gives
            it anew; where it is 0 not a bit changes.
        rolls: [T, 2], how far each step shifts what it shows; drawn from ``generator`` by default.
        generator: a CPU generator; all that is drawn comes from it.

    Raises:
        DistilError: sizes that do not fit, a network without the statistics asked for, or a loss that is not finite.
    """
    if rolls is None:
        rolls = draw_rolls(how.steps, jitter=how.jitter, generator=generator)
    if len(rolls) != how.steps:
        raise DistilError(f"synthesise: {len(rolls)} shifts are given for {how.steps} steps; give one for each.")
    if (low is None) != (high is None):
        raise DistilError("synthesise: give both low and high, or neither.")
    pixels = start.detach().clone().requires_grad_()
    optimizer = _optimizer(pixels, how)
    before, losses, weight = pixels.detach().clone(), [], None
    for step in range(how.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(how, step)
        images = pixels if around is None else compensated(around, pixels)
        if how.crops:
            boxes = crop_boxes(1, share=(0.08, 1.0), generator=generator).expand(len(images), 4)
            images = cropped(images, boxes, side=images.shape[-1])
        loss = synthesis_loss(network, rolled(images, rolls[step]), labels, how).total
        (pixels.grad,) = torch.autograd.grad(loss, pixels)
        losses.append(loss.detach())
        before = pixels.detach().clone()
        optimizer.step()
        with torch.no_grad():
            if mask is not None:
                weight = mask(step, before) if callable(mask) else mask
                bounds = {} if low is None else {"low": low, "high": high}
                pixels.copy_(masked_step(before, pixels, weight, **_wide(bounds)))
            elif low is not None and high is not None:
                pixels.copy_(torch.maximum(torch.minimum(pixels, _like(high, pixels)), _like(low, pixels)))
    trace = torch.stack(losses) if losses else start.new_zeros(0)
    if not bool(trace.isfinite().all()):
        at = int((~trace.isfinite()).nonzero()[0])
        raise DistilError(f"The loss of step {at} is not finite; lower rate={how.rate:g} or statistics.")
    return Synthesised(pixels.detach(), before, trace)


def _rate(how: Synthesis, step: int) -> float:
    if how.schedule == "cosine":
        return cosine_rate(how.rate, step=step, steps=how.steps)
    return how.rate if how.schedule == "constant" else how.rate * (1 - step / how.steps)


def _optimizer(pixels: Tensor, how: Synthesis) -> torch.optim.Optimizer:
    if how.optimizer == "sgd":
        return torch.optim.SGD([pixels], lr=how.rate)
    return torch.optim.Adam([pixels], lr=how.rate, betas=how.betas)


def _wide(bounds: dict[str, Any]) -> dict[str, Any]:
    """Return the bounds of a masked step; without any, nothing is put back."""
    return bounds or {"low": -torch.inf, "high": torch.inf}


def _like(value: Tensor | float, pixels: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=pixels.dtype, device=pixels.device)


def agreeing(
    network: Observed, images: Tensor, labels: Tensor, how: Synthesis, *, say: Callable[[str], None] | None = None
) -> Observed:
    """Return the network as it is if it agrees with its plain form on a batch, else the plain form, and say so.

    In full precision the loss and its gradient must be the same but for rounding (1e-3 of the largest); in bf16 the
    loss within 5 % and the gradients' cosine at least 0.99.
    """
    slow = network.plain()
    loss, gradient = _slope(network, images, labels, how)
    wanted, direction = _slope(slow, images, labels, how)
    off = float((loss - wanted).abs() / wanted.abs().clamp(min=1e-12))
    if network.precision == "bf16":
        cosine = float(torch.cosine_similarity(gradient.flatten(), direction.flatten(), dim=0))
        fits, said = off <= 0.05 and cosine >= BF16_COSINE, f"loss off by {off:.1%}, gradients' cosine {cosine:.3f}"
    else:
        worst = float((gradient - direction).abs().max() / direction.abs().max().clamp(min=1e-30))
        fits, said = max(off, worst) <= CALL_TOLERANCE, f"off by {max(off, worst):.1e}"
    if not fits and say is not None:
        say(f"{network.name} runs in its plain form: the quick one is not the same ({said}).")
    return network if fits else slow


def _slope(network: Observed, images: Tensor, labels: Tensor, how: Synthesis) -> tuple[Tensor, Tensor]:
    shown = images.detach().clone().requires_grad_()
    loss = synthesis_loss(network, shown, labels, how).total
    (gradient,) = torch.autograd.grad(loss, shown)
    return loss.detach(), gradient
