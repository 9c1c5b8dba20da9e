"""Small sets by trajectory matching: what experts learned from the real data in epochs is learned from few samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from distil.errors import DistilError, Diverged
from distil.functional import flat_weights, named_weights, trajectory_distance, unrolled_step
from distil.loops.carrier import Carrier, Real, drawn_change, fresh_net, moved, sound

__all__ = ["Experts", "Trajectories", "match_trajectories", "train_experts", "without_batchnorm"]


@dataclass(frozen=True)
class Experts:
    """The nets whose ways are followed; they learn from all real data by plain SGD.

    Attributes:
        net: a model by name without batch norm; "" chooses by the data.
        experts: how many, each drawn anew.
        epochs: of each; its weights are kept before the first and after every one.
        lr, batch: of their training.
    """

    net: str = ""
    experts: int = 4
    epochs: int = 20
    lr: float = 0.1
    batch: int = 256

    def __post_init__(self) -> None:
        if min(self.experts, self.epochs, self.batch) < 1 or not self.lr > 0:
            raise DistilError(
                f"tm: experts={self.experts}, epochs={self.epochs} and expert_batch={self.batch} must be at least 1 "
                f"and expert_lr={self.lr:g} above 0."
            )


@dataclass(frozen=True)
class Trajectories:
    """Trajectory matching.

    Attributes:
        iterations: each follows one expert from one epoch.
        lr, momentum: of the samples, by SGD; gradients are tiny where nets are large: the authors take 100 to
            10,000 for images.
        step_lr: rate at which the step size of the inner training is learned, as a logarithm.
        step: the step size it begins with.
        steps: inner steps N that begin at an expert's epoch t; ``ahead``: epochs M that the expert is ahead at the end.
        latest: t is drawn from 0 … latest.
        batch: samples of the small set in an inner step.
        start, augment: as for distributions.
        learn_labels, label_lr: labels are learned too, as softmax of free logits.
    """

    iterations: int = 500
    lr: float = 10.0
    momentum: float = 0.5
    step_lr: float = 0.01
    step: float = 0.1
    steps: int = 10
    ahead: int = 2
    latest: int = 10
    batch: int = 256
    start: str = "real"
    augment: bool = True
    learn_labels: bool = False
    label_lr: float = 1.0

    def __post_init__(self) -> None:
        sound("tm", self)
        if min(self.steps, self.ahead) < 1 or self.latest < 0 or not self.step > 0 or self.step_lr < 0:
            raise DistilError(
                f"tm: steps={self.steps} and ahead={self.ahead} must be at least 1, latest={self.latest} and "
                f"step_lr={self.step_lr:g} not below 0, step={self.step:g} above 0."
            )


def train_experts(real: Real, how: Experts) -> list[Tensor]:
    """Train nets on the real data; return each one's weights, before training and after each epoch, ``[E + 1, P]``."""
    ways = []
    for expert in range(how.experts):
        net = without_batchnorm(fresh_net(real, how.net, "expert", real.order.seed, expert))
        generator = torch.Generator().manual_seed(expert + 1)
        learner = torch.optim.SGD(net.parameters(), lr=how.lr)
        positions = torch.cat(real.places)
        labels = torch.arange(len(real.places)).repeat_interleave(torch.tensor([len(each) for each in real.places]))
        way = [flat_weights(dict(net.named_parameters()))]
        for _ in range(how.epochs):
            for rows in torch.randperm(len(positions), generator=generator).split(how.batch):
                loss = F.cross_entropy(net(real.read(positions[rows])), labels[rows].to(real.device))
                learner.zero_grad()
                loss.backward()
                learner.step()
            way.append(flat_weights(dict(net.named_parameters())))
        if not bool(torch.isfinite(way[-1]).all()):
            raise Diverged(f"tm: expert {expert} has weights that are not finite; lower expert_lr={how.lr:g}.")
        ways.append(torch.stack(way))
        real.order.progress.step(expert + 1, how.experts)
    return ways


def match_trajectories(
    real: Real, carrier: Carrier, experts: Sequence[Tensor], how: Trajectories, net: str, generator: torch.Generator
) -> tuple[list[float], float]:
    """Move the carrier until few steps on it lead from an expert's epoch t to where the expert is at t + M.

    min over S and the step size of ‖θ_N − θ*_{t+M}‖² / ‖θ*_t − θ*_{t+M}‖², θ_N the weights after N plain gradient steps
    on S from θ*_t, which are differentiated through.

    Args:
        experts: each ``[E + 1, P]``, from :func:`train_experts` with the same net; need E ≥ M.
        net: the net's name; only its form counts.

    Returns:
        The loss of every iteration, and the learned step size.

    Paper: Cazenavette, Wang, Torralba, Efros, Zhu, *Dataset Distillation by Matching Training Trajectories*, CVPR 2022,
    arXiv 2203.11932. Differs from official code: the step size is learned as its logarithm, so that it cannot turn
    negative (the official one is learned as it is, at a rate of 1e-5 or 1e-7).
    """
    epochs = min(len(way) for way in experts) - 1
    if epochs < how.ahead:
        raise DistilError(f"tm: the experts were trained for {epochs} epochs, and ahead={how.ahead} looks further.")
    template = without_batchnorm(fresh_net(real, net, "template"))
    like = dict(template.named_parameters())
    log_step = torch.tensor(how.step, device=real.device).log().requires_grad_()
    optimizer = torch.optim.SGD(
        [*carrier.groups(how.lr, how.label_lr), {"params": [log_step], "lr": how.step_lr}], momentum=how.momentum
    )
    losses = []
    for step in range(how.iterations):
        way = experts[int(torch.randint(len(experts), (1,), generator=generator))].to(real.device)
        first = int(torch.randint(min(how.latest, epochs - how.ahead) + 1, (1,), generator=generator))
        start, target = way[first], way[first + how.ahead]
        weights = {"flat": start.clone().requires_grad_()}
        inputs, targets = carrier.inputs(), carrier.targets()
        rows: list[Tensor] = []
        for _ in range(how.steps):
            rows = rows or list(torch.randperm(len(inputs), generator=generator).split(how.batch))
            some = rows.pop()
            change = drawn_change(real, how.augment, generator)
            said = functional_call(template, named_weights(weights["flat"], like), (change(inputs[some]),))
            loss = F.cross_entropy(said, targets[some])
            weights = unrolled_step(loss, weights, lr=log_step.exp())  # type: ignore[arg-type]  # a tensor learns
        loss = trajectory_distance(weights["flat"], start, target)
        losses.append(moved(real, carrier, loss, optimizer, "tm", step, how.iterations))
    return losses, float(log_step.detach().exp())


def without_batchnorm(net: nn.Module) -> nn.Module:
    """Return the net; one with batch norm is refused."""
    for name, part in net.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise DistilError(
                f"tm follows weights alone, and {name} of {type(net).__name__} has statistics besides; use a net "
                "without batch norm, as distil:convnet or distil:mlp."
            )
    return net
