"""What matching moves and what it reads: real data standardised, free samples and labels, nets drawn apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.data.bundle import Bundle
from distil.data.loading import mix_seed
from distil.errors import DistilError, Diverged
from distil.functional import (
    SIAMESE_CHANGES,
    channel_moments,
    draw_siamese,
    noise_like,
    siamese,
    standardised_channels,
)
from distil.loops.order import Order
from distil.loops.training import build_model

__all__ = [
    "SAMPLE",
    "Carrier",
    "Penalty",
    "Real",
    "default_net",
    "drawn_change",
    "fresh_net",
    "moved",
    "sound",
    "started",
]

SAMPLE = 4096  # real samples that the standardisation is taken from
Penalty = Callable[[Tensor], Tensor]


@final
class Real:
    """The real training data as matching reads them: standardised, by class, drawn with a generator.

    Images are standardised channel by channel; vectors are centred and divided by one number, which keeps their
    angles and the order of their distances.

    Args:
        order: whose data, device and (for soft targets) first teacher are used.
        soft: the targets of a sample are the teacher's probabilities instead of its label.
    """

    def __init__(self, order: Order, *, soft: bool = False) -> None:
        self.order = order
        self.device = torch.device(order.device or "cpu")
        self.places = [order.real(label) for label in range(order.classes)]
        total = len(order.bundle.train)
        spread = torch.linspace(0, total - 1, min(SAMPLE, total)).long()
        self.mean, self.deviation = channel_moments(order.inputs(spread))
        if len(order.bundle.input_shape) == 1:
            self.deviation = self.deviation.square().mean().sqrt().expand_as(self.deviation)
        self.teacher = order.teachers[0].to(self.device).eval() if soft and order.teachers else None
        if soft and self.teacher is None:
            raise DistilError("The gradients of distillation need a teacher, and none is given; name one.")

    def read(self, positions: Tensor) -> Tensor:
        """Return samples by their positions, standardised."""
        return standardised_channels(self.order.inputs(positions).to(self.device), self.mean, self.deviation)

    def raw(self, inputs: Tensor) -> Tensor:
        """Return standardised inputs as the data hold them."""
        return standardised_channels(inputs, -self.mean / self.deviation, 1 / self.deviation)

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """Return positions of at most ``count`` samples of a class, without replacement."""
        places = self.places[label]
        return places[torch.randperm(len(places), generator=generator)[:count]]

    def targets(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return ``[B, C]`` what a net should say of standardised inputs: their labels, or what the teacher says."""
        if self.teacher is None:
            return F.one_hot(labels, self.order.classes).to(inputs)
        with torch.no_grad():
            said = self.order.task.call(self.teacher, {"inputs": self.raw(inputs)}, "teacher")
            return said.softmax(1)


@final
class Carrier:
    """What is learned of a small set: free inputs, or codes that a decoder makes into inputs, and perhaps labels.

    Args:
        free: ``[M, ...]``, what is moved.
        labels: ``[M]``, the class of each row.
        classes: how many there are.
        decode: from codes to standardised inputs, differentiable; by default the free tensor is the inputs.
        soft: labels are learned too, as softmax of free logits that start at ``sure`` for the class and 0 elsewhere.
    """

    def __init__(
        self, free: Tensor, labels: Tensor, classes: int, *, decode: Callable[[Tensor], Tensor] | None = None,
        soft: bool = False, sure: float = 4.0,
    ) -> None:  # fmt: skip
        self.free = free.detach().clone().requires_grad_()
        self.labels = labels.to(free.device)
        self.decode = decode
        hot = F.one_hot(self.labels, classes).to(free)
        self.hot = hot
        self.logits = (sure * hot).requires_grad_() if soft else None

    def inputs(self) -> Tensor:
        """Return the standardised inputs that it stands for."""
        return self.free if self.decode is None else self.decode(self.free)

    def targets(self) -> Tensor:
        """Return ``[M, C]`` label probabilities."""
        return self.hot if self.logits is None else self.logits.softmax(1)

    def rows(self, label: int) -> Tensor:
        """Return the places of a class."""
        return (self.labels == label).nonzero().flatten()

    def groups(self, lr: float, label_lr: float) -> list[dict[str, Any]]:
        """Return what an optimizer moves, and how fast."""
        learned = [{"params": [self.free], "lr": lr}]
        return learned if self.logits is None else [*learned, {"params": [self.logits], "lr": label_lr}]


def sound(name: str, how: Any, **options: Sequence[str]) -> None:
    """Refuse options of a matching method that make no sense; ``options`` names what is known of others."""
    for key in ("iterations", "batch"):
        if getattr(how, key) < 1:
            raise DistilError(f"{name}: {key}={getattr(how, key)} must be at least 1.")
    for key in ("lr", "net_lr", "label_lr"):
        if not getattr(how, key, 1.0) > 0:
            raise DistilError(f"{name}: {key}={getattr(how, key)} must be above 0.")
    for key, known in {"start": ("real", "noise"), **options}.items():
        if getattr(how, key) not in known:
            raise DistilError(f"{name}: {key}={getattr(how, key)!r} is unknown; use {' or '.join(known)}.")


def default_net(bundle: Bundle) -> str:
    """Return the net that a set of these data is made with: a ConvNet for images of 16 pixels and more, else an MLP."""
    shape = bundle.input_shape
    return "distil:convnet(width=64)" if len(shape) == 3 and min(shape[1:]) >= 16 else "distil:mlp(hidden=128)"


def fresh_net(real: Real, spec: str, *parts: int | str) -> nn.Module:
    """Return a net in train mode whose weights depend on the parts alone; no student's are drawn like it."""
    seed = mix_seed("matching", *parts)
    bundle = real.order.bundle
    return build_model(spec or default_net(bundle), bundle, seed=seed, role="matching").to(real.device).train()


def started(real: Real, per_class: int, start: str, generator: torch.Generator, **options: Any) -> Carrier:
    """Return a small set before it is moved: real samples, or noise; where a class has too few, the rest is noise."""
    labels = torch.arange(real.order.classes).repeat_interleave(per_class)
    parts = []
    for label in range(real.order.classes):
        found = real.draw(label, per_class if start == "real" else 0, generator)
        example = real.read(real.places[label][:1])
        noise = noise_like(example.expand(per_class - len(found), *example.shape[1:]), generator=generator)
        parts += [real.read(found), noise] if len(found) else [noise]
    return Carrier(torch.cat(parts), labels, real.order.classes, **options)


def moved(
    real: Real, carrier: Carrier, loss: Tensor, optimizer: torch.optim.Optimizer, name: str, step: int | None,
    steps: int, penalty: Penalty | None = None,
) -> float:  # fmt: skip
    """Move the carrier by one step, show how far the run is, and return the loss; one that is not finite stops it."""
    value = float(loss.detach())
    if not torch.isfinite(loss.detach()):
        raise Diverged(f"{name}: the matching loss is {value} in step {step}; lower lr (and net_lr, step_lr).")
    if penalty is not None:
        loss = loss + penalty(carrier.free)
    learned = [each for group in optimizer.param_groups for each in group["params"]]
    slopes = torch.autograd.grad(loss, learned, materialize_grads=True)
    for each, slope in zip(learned, slopes, strict=True):
        each.grad = slope
    optimizer.step()
    if step is not None:
        real.order.progress.step(step + 1, steps)
    return value


def drawn_change(real: Real, augment: bool, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return one drawn change of images, to be made on both sides; none for vectors."""
    if not augment or len(real.order.bundle.input_shape) != 3:
        return lambda images: images
    view = draw_siamese(generator, changes=SIAMESE_CHANGES)
    return lambda images: siamese(images, view)
