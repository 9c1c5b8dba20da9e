"""Small sets by matching: free samples are moved until they give the gradients, or the features, of the real data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.data.bundle import Bundle
from distil.data.loading import mix_seed
from distil.errors import DistilError, Diverged
from distil.functional import (
    GRADIENT_DISTANCES,
    SIAMESE_CHANGES,
    channel_moments,
    draw_siamese,
    gradient_distance,
    mean_match,
    mmd,
    noise_like,
    siamese,
    standardised_channels,
)
from distil.loops.order import Order
from distil.loops.training import build_model
from distil.models.heads import find_head, replaced

__all__ = [
    "Carrier",
    "Distributions",
    "Gradients",
    "Real",
    "default_net",
    "fresh_net",
    "match_distributions",
    "match_gradients",
    "moved",
    "started",
]

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
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


@dataclass(frozen=True)
class Distributions:
    """Distribution matching.

    Attributes:
        net: a model by name, drawn anew for every iteration and never trained; "" chooses by the data.
        iterations: the authors' code makes 20,000.
        lr, momentum: of the samples, by SGD.
        batch: real samples of each class in an iteration.
        start: "real" samples or "noise".
        augment: change images, real and synthetic alike (differentiable siamese augmentation); vectors never.
        compare: "mean", "moments" (mean and mean square) or "mmd" (a Gaussian kernel).
    """

    net: str = ""
    iterations: int = 1000
    lr: float = 1.0
    momentum: float = 0.5
    batch: int = 256
    start: str = "real"
    augment: bool = True
    compare: str = "mean"

    def __post_init__(self) -> None:
        _sound("dm", self, compare=("mean", "moments", "mmd"))


@dataclass(frozen=True)
class Gradients:
    """Gradient matching.

    Attributes:
        net: a model by name, drawn anew for every iteration; "" chooses by the data.
        iterations: the authors' code makes 1,000.
        lr, momentum: of the samples, by SGD.
        net_lr: of the net, which learns from the set between matches.
        outer, inner: matches in an iteration, and epochs of the net between two of them; 0 takes the published pair
            for this many per class (:data:`LOOPS`), or that of the nearest number.
        batch: real samples of each class at a match.
        start, augment: as for distributions.
        distance: "ours", "mse" or "cos".
        layers: "all" parameters, or the "last" layer's alone, which is cheaper.
        learn_labels: labels are learned too, as softmax of free logits, with the rate ``label_lr``.
    """

    net: str = ""
    iterations: int = 300
    lr: float = 0.1
    momentum: float = 0.5
    net_lr: float = 0.01
    outer: int = 0
    inner: int = 0
    batch: int = 256
    start: str = "real"
    augment: bool = True
    distance: str = "ours"
    layers: str = "all"
    learn_labels: bool = False
    label_lr: float = 0.1

    def __post_init__(self) -> None:
        _sound("dc", self, distance=GRADIENT_DISTANCES, layers=("all", "last"))
        if self.outer < 0 or self.inner < 0:
            raise DistilError(f"dc: outer={self.outer} and inner={self.inner} must be at least 0 (0: as published).")

    def loops(self, per_class: int) -> tuple[int, int]:
        """Return how many matches an iteration makes, and epochs of the net between them."""
        outer, inner = LOOPS[min(LOOPS, key=lambda size: abs(size - per_class))]
        return self.outer or outer, self.inner or inner


def _sound(name: str, how: Any, **options: Sequence[str]) -> None:
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


def match_distributions(
    real: Real, carrier: Carrier, how: Distributions, generator: torch.Generator, *, penalty: Penalty | None = None
) -> list[float]:
    """Move the carrier until its mean features are the real ones, class by class, in nets drawn at random.

    min over S of E_net Σ_c ‖mean f(A(x)) − mean f(A(s))‖², f what the last layer reads, A one drawn change for both.
    There is no inner problem: nets are not trained. All classes go through a net together, so that batch norm sees
    their mixture.

    Returns:
        The loss of every iteration.

    Paper: Zhao, Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, arXiv 2110.04181.
    """
    optimizer = torch.optim.SGD(carrier.groups(how.lr, how.lr), momentum=how.momentum)
    classes = real.order.classes
    compared = [mean_match, mmd][how.compare == "mmd"]
    losses = []
    for step in range(how.iterations):
        net = fresh_net(real, how.net, "dm", real.order.seed, step).requires_grad_(False)
        net = replaced(net, find_head(net), nn.Identity())
        whole, small, there, here = [], [], [], []
        inputs = carrier.inputs()
        for label in range(classes):
            change = _change(real, how.augment, generator)
            places = real.draw(label, how.batch, generator)
            whole.append(change(real.read(places)))
            small.append(change(inputs[carrier.rows(label)]))
            there += [label] * len(whole[-1])
            here += [label] * len(small[-1])
        with torch.no_grad():
            target = net(torch.cat(whole))
        made = net(torch.cat(small))
        theirs, ours = (torch.tensor(labels, device=real.device) for labels in (there, here))
        if how.compare == "mmd":
            each = [compared(made[ours == c], target[theirs == c]) for c in range(classes)]
            loss = torch.stack(each).sum()
        else:
            moments = 2 if how.compare == "moments" else 1
            loss = mean_match(made, target, small_labels=ours, whole_labels=theirs, classes=classes, moments=moments)
        losses.append(moved(real, carrier, loss, optimizer, "dm", step, how.iterations, penalty))
    return losses


def match_gradients(
    real: Real, carrier: Carrier, how: Gradients, generator: torch.Generator, *, penalty: Penalty | None = None
) -> list[float]:
    """Move the carrier until training on it gives the gradients of the real data, class by class.

    min over S of E_net Σ_c dist(∇L(S_c), ∇L(D_c)) along the way of a net that learns from S alone: drawn anew in each
    iteration, matched ``outer`` times, trained for ``inner`` epochs in between. The net's weights are not touched by a
    match; statistics of batch norm are taken from real samples of all classes and then held.

    Returns:
        The mean loss of every iteration's matches.

    Paper: Zhao, Mopuri, Bilen, *Dataset Condensation with Gradient Matching*, ICLR 2021, arXiv 2006.05929; with
    ``augment``, Zhao, Bilen, ICML 2021, arXiv 2102.08259. Where ``real`` is soft, both gradients are those of
    distillation, which no code was found for: the small side's targets are what the teacher says of it as it is now.
    """
    optimizer = torch.optim.SGD(carrier.groups(how.lr, how.label_lr), momentum=how.momentum)
    outer, inner = how.loops(int(carrier.labels.bincount().max()))
    losses = []
    for step in range(how.iterations):
        net = fresh_net(real, how.net, "dc", real.order.seed, step)
        learner = torch.optim.SGD(net.parameters(), lr=how.net_lr)
        total = 0.0
        for match in range(outer):
            _hold_statistics(net, real, generator)
            loss = _gradient_loss(real, carrier, how, net, generator)
            last = match == outer - 1
            shown = step if last else None
            total += moved(real, carrier, loss, optimizer, "dc", shown, how.iterations, penalty)
            if not last:
                _learn(real, carrier, how, net, learner, inner, generator)
        losses.append(total / outer)
    return losses


def _gradient_loss(real: Real, carrier: Carrier, how: Gradients, net: nn.Module, generator: torch.Generator) -> Tensor:
    """Σ_c of the distance between the gradients of the two sides."""
    head = net.get_submodule(find_head(net)) if how.layers == "last" else net
    parameters = list(head.parameters())
    inputs, targets = carrier.inputs(), carrier.targets()
    total = inputs.new_zeros(())
    for label in range(real.order.classes):
        change = _change(real, how.augment, generator)
        whole = real.read(real.draw(label, how.batch, generator))
        rows = carrier.rows(label)
        labels = torch.full((len(whole),), label, device=real.device)
        there = real.targets(whole, labels)
        here = targets[rows] if real.teacher is None else real.targets(inputs[rows].detach(), carrier.labels[rows])
        theirs = torch.autograd.grad(F.cross_entropy(net(change(whole)), there), parameters)
        ours = torch.autograd.grad(F.cross_entropy(net(change(inputs[rows])), here), parameters, create_graph=True)
        total = total + gradient_distance(ours, theirs, distance=how.distance)
    return total


def _learn(
    real: Real, carrier: Carrier, how: Gradients, net: nn.Module, learner: torch.optim.Optimizer, epochs: int,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """Train the net on the set as it is now, in batches of at most 256."""
    inputs, targets = carrier.inputs().detach(), carrier.targets().detach()
    net.train()
    if real.teacher is not None:
        targets = real.targets(inputs, carrier.labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(256):
            change = _change(real, how.augment, generator)
            loss = F.cross_entropy(net(change(inputs[rows])), targets[rows])
            learner.zero_grad()
            loss.backward()
            learner.step()


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


def _change(real: Real, augment: bool, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return one drawn change of images, to be made on both sides; none for vectors."""
    if not augment or len(real.order.bundle.input_shape) != 3:
        return lambda images: images
    view = draw_siamese(generator, changes=SIAMESE_CHANGES)
    return lambda images: siamese(images, view)


def _hold_statistics(net: nn.Module, real: Real, generator: torch.Generator) -> None:
    """Where a net has batch norm: take its statistics from real samples of all classes, and hold them."""
    norms = [part for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    places = torch.cat([real.draw(label, 16, generator) for label in range(real.order.classes)])
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        net(real.read(places))
    for norm in norms:
        norm.eval()
