"""Small sets by matching: free samples are moved until they give the gradients, or the features, of the real data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional import GRADIENT_DISTANCES, gradient_distance, mean_match, mmd
from distil.loops.carrier import Carrier, Penalty, Real, drawn_change, fresh_net, moved, sound
from distil.models.heads import find_head, replaced

__all__ = ["Distributions", "Gradients", "match_distributions", "match_gradients"]

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}


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
        sound("dm", self, compare=("mean", "moments", "mmd"))


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
        sound("dc", self, distance=GRADIENT_DISTANCES, layers=("all", "last"))
        if self.outer < 0 or self.inner < 0:
            raise DistilError(f"dc: outer={self.outer} and inner={self.inner} must be at least 0 (0: as published).")

    def loops(self, per_class: int) -> tuple[int, int]:
        """Return how many matches an iteration makes, and epochs of the net between them."""
        outer, inner = LOOPS[min(LOOPS, key=lambda size: abs(size - per_class))]
        return self.outer or outer, self.inner or inner


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
    losses = []
    for step in range(how.iterations):
        net = fresh_net(real, how.net, "dm", real.order.seed, step).requires_grad_(False)
        net = replaced(net, find_head(net), nn.Identity())
        whole, small, there, here = [], [], [], []
        inputs = carrier.inputs()
        for label in range(classes):
            change = drawn_change(real, how.augment, generator)
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
            each = [mmd(made[ours == c], target[theirs == c]) for c in range(classes)]
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
        change = drawn_change(real, how.augment, generator)
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
            change = drawn_change(real, how.augment, generator)
            loss = F.cross_entropy(net(change(inputs[rows])), targets[rows])
            learner.zero_grad()
            loss.backward()
            learner.step()


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
