"""What a start is worth: lottery tickets by rewinding, paths between runs, and the plane around a start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.loading import as_batches
from distil.errors import DistilError
from distil.functional.averages import flat_weights, named_weights
from distil.functional.crops import crop_boxes, cropped
from distil.functional.landscape import on_line, plane_through
from distil.functional.pruning import kept_share, magnitude_masks, masked_weights
from distil.tasks.scores import class_loss

__all__ = ["Run", "Supervision", "Ticket", "along_path", "lottery_tickets", "on_plane", "supervise"]

Masks = Mapping[str, Tensor]
Score = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Supervision:
    """How a network is trained with labels between two prunings.

    Attributes:
        epochs, batch_size, lr, momentum, weight_decay: of SGD.
        drops: shares of the run after which the learning rate falls to a tenth (the paper's 80 and 120 of 160).
        augment: crop and mirror the images at random.
    """

    epochs: int = 160
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    drops: tuple[float, ...] = (0.5, 0.75)
    augment: bool = True

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0.

        >>> [round(Supervision(epochs=4).rate(epoch), 4) for epoch in range(4)]
        [0.1, 0.1, 0.01, 0.001]
        """
        return self.lr * 0.1 ** sum(epoch >= drop * self.epochs for drop in self.drops)


@dataclass
class Run:
    """Where supervised training stands: weights and momenta by name, and the epochs done."""

    state: dict[str, Tensor]
    momenta: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 0


@dataclass(frozen=True)
class Ticket:
    """One round: the share of weights kept, the score after training them, the masks, and what training began with."""

    kept: float
    score: float
    masks: Masks
    start: Mapping[str, Tensor]


def supervise(
    model: nn.Module, data: Any, how: Supervision, *, begin: Run | None = None, end: int | None = None,
    masks: Masks | None = None, seed: int = 0,
) -> Run:  # fmt: skip
    """Train a classifier with labels, in place, from ``begin`` to the end of epoch ``end``; return where it stands.

    Order, crops and everything else drawn depend on ``seed`` and the epoch alone, so that a run which begins at an
    epoch goes on as the one that was there, bit for bit.

    Args:
        model: gives class scores.
        data: a labelled dataset.
        how: the training; its schedule is that of the whole run.
        begin: weights and momenta to begin with; by default the model's own, at epoch 0.
        end: epochs in all, ``how.epochs`` by default.
        masks: weights that stay 0 throughout.
        seed: of order and crops.
    """
    run = begin or Run(_copied(model.state_dict()))
    if not 0 <= run.epoch <= (stop := how.epochs if end is None else end) <= how.epochs:
        raise DistilError(f"supervise goes from epoch {run.epoch} to {end}, which is not within 0 … {how.epochs}.")
    model.load_state_dict(run.state)
    names = dict(model.named_parameters())
    optimizer = torch.optim.SGD(names.values(), lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay)
    for name, value in run.momenta.items():
        optimizer.state[names[name]]["momentum_buffer"] = value.clone()
    _apply(model, masks)
    model.train()
    batches = as_batches(data, how.batch_size, seed=seed, shuffle=True)
    for epoch in range(run.epoch, stop):
        rng = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        optimizer.param_groups[0]["lr"] = how.rate(epoch)
        for batch in batches.iterate(epoch):
            inputs = batch["inputs"]
            if how.augment:
                boxes = crop_boxes(len(inputs), share=(0.7, 1.0), generator=rng)
                inputs = cropped(inputs, boxes, side=inputs.shape[-1])
            optimizer.zero_grad()
            class_loss(model(inputs), batch["labels"]).mean().backward()
            optimizer.step()
            _apply(model, masks)
    model.eval()
    found = {n: optimizer.state[p]["momentum_buffer"].clone() for n, p in names.items() if optimizer.state[p]}
    return Run(_copied(model.state_dict()), found, stop)


def lottery_tickets(
    model: nn.Module, data: Any, score: Score, how: Supervision, *, rounds: int = 10, share: float = 0.2,
    rewind: int = 0, seed: int = 0,
) -> list[Ticket]:  # fmt: skip
    """Prune by magnitude, rewind, train again: how few weights of a start still train to what all of them do.

    Each round trains to the end, leaves out the smallest ``share`` of the weights still kept (over all parameters
    together), and sets weights and momenta back to what they were after epoch ``rewind`` of the first, whole run; the
    order of the data is that run's from there on. After k rounds (1 − share)^k of the weights are kept.

    Args:
        model: a classifier at its start; a copy is trained.
        data: labelled training data.
        score: of a trained model, e.g. its test accuracy.
        how: the training of each round.
        rounds: prunings; one more training is made than that.
        share: pruned of what is left, in each round.
        rewind: epoch; 0 goes back to the start itself.
        seed: of the order of the data.

    Paper: Frankle et al., *Linear Mode Connectivity and the Lottery Ticket Hypothesis*, ICML 2020, arXiv 1912.05671.
    """
    if rounds < 0 or not 0 <= rewind <= how.epochs:
        raise DistilError(f"lottery_tickets: rounds={rounds} must be at least 0, rewind={rewind} in 0 … {how.epochs}.")
    net = deepcopy(model)
    origin = supervise(net, data, how, end=rewind, seed=seed)
    masks: Masks = magnitude_masks(dict(net.named_parameters()), share=0.0)
    found = []
    for k in range(rounds + 1):
        start = masked_weights(origin.state, masks)
        supervise(net, data, how, begin=Run(start, origin.momenta, rewind), masks=masks, seed=seed)
        found.append(Ticket(kept_share(masks), score(net), masks, start))
        if k < rounds:
            masks = magnitude_masks(dict(net.named_parameters()), masks, share=share)
    return found


def along_path(
    model: nn.Module, first: Mapping[str, Tensor], second: Mapping[str, Tensor], score: Score, *,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> list[float]:  # fmt: skip
    """Return the score at places on the straight line between two states of one network.

    Statistics of batch norm are mixed like weights, which no training would give; nets without it are meant.

    >>> line = along_path(nn.Linear(1, 1), {"weight": torch.ones(1, 1), "bias": torch.zeros(1)},
    ...     {"weight": torch.zeros(1, 1), "bias": torch.ones(1)}, lambda m: m.weight.item(), shares=(0.0, 0.5))
    >>> line
    [1.0, 0.5]
    """
    net, found = deepcopy(model), []
    for share in shares:
        net.load_state_dict({name: on_line(value, second[name], share=share) if value.is_floating_point() else value
                             for name, value in first.items()})  # fmt: skip
        found.append(score(net.eval()))
    return found


def on_plane(
    model: nn.Module, points: Sequence[nn.Module], score: Score, *, across: Sequence[float], up: Sequence[float],
    orthonormal: bool = False, nearest_zero: bool = False,
) -> list[list[float]]:  # fmt: skip
    """Return a score at every place of a grid on the plane through three networks' parameters.

    Args:
        model: an architecture with the points' parameters; its buffers are used.
        points: three networks, e.g. the teacher, the start and the taught student.
        score: of a network.
        across: first coordinates of the grid's columns.
        up: second coordinates of its rows.
        orthonormal, nearest_zero: see `functional.plane_through`; by default the points are (0, 0), (1, 0) and (0, 1).

    Returns:
        One list for each of ``up``, one number in it for each of ``across``.
    """
    net = deepcopy(model)
    like = dict(net.named_parameters())
    flat = torch.stack([flat_weights(dict(point.named_parameters())) for point in points])
    plane = plane_through(flat, orthonormal=orthonormal, nearest_zero=nearest_zero)
    rows = []
    for b in up:
        row = []
        for a in across:
            net.load_state_dict(named_weights(plane.at(a, b), like), strict=False)
            row.append(score(net.eval()))
        rows.append(row)
    return rows


def _apply(model: nn.Module, masks: Masks | None) -> None:
    if masks:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(masked_weights({name: parameter}, {name: masks[name]})[name])


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
