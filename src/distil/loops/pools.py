"""What a selection looks at: the candidates of each class, their features, and what models say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.bundle import labels_of
from distil.data.loading import epoch_order, mix_seed
from distil.engine.anatomy import anatomy
from distil.engine.optim import make_optimizers
from distil.engine.trace import ModelHandle
from distil.errors import DistilError, Diverged
from distil.functional.sample_scores import forgetting
from distil.loops.order import Order
from distil.loops.training import build_model
from distil.tasks.base import evaluating

__all__ = ["Answers", "answers", "candidates", "features", "forgotten"]

READ = 256  # samples in one pass


@dataclass(frozen=True)
class Answers:
    """What a model says of candidates: ``logits`` [n, C] and ``emb`` [n, D], what its last layer reads."""

    logits: Tensor
    emb: Tensor


def candidates(order: Order, most: int | None) -> tuple[Tensor, Tensor]:
    """Return positions and labels of the training samples to choose from, in their order.

    Args:
        order: samples without a label are no candidates.
        most: at most so many of each class, drawn by the order's seed; None takes all.
    """
    rng = torch.Generator().manual_seed(mix_seed("candidates", order.seed))
    found = [order.real(k, limit=most, generator=rng if most is not None else None) for k in range(order.classes)]
    positions = torch.cat(found).sort().values
    return positions, labels_of(order.bundle.train)[positions]


def features(order: Order, positions: Tensor, source: str) -> Tensor:
    """Return one row for each candidate: a teacher's embedding ("teacher"), or the inputs ("inputs").

    "auto" takes the teacher's where there is a teacher. Of several teachers the rows stand side by side.
    """
    if order.raw:
        raise DistilError(
            f"{order.bundle.name} holds texts, which are compared as vectors; name their encoder: --set "
            "encoder=hf:FOLDER."
        )
    if source == "teacher" and not order.teachers:
        raise DistilError("features=teacher reads a teacher's embedding; name one with --teacher, or features=inputs.")
    if source == "inputs" or not order.teachers:
        return torch.cat([order.inputs(part).flatten(1) for part in positions.split(READ)])
    return torch.cat([answers(order, teacher, positions).emb for teacher in order.teachers], 1)


@torch.no_grad()
def answers(order: Order, model: nn.Module, positions: Tensor) -> Answers:
    """Return what a model says of the training samples at ``positions``, on the CPU, in eval mode."""
    place = torch.device(order.device or "cpu")
    model = model.to(place)
    few = {"inputs": order.inputs(positions[:2]).to(place)}
    with evaluating(model):
        found = anatomy(model, lambda net: order.task.call(net, few, role="teacher"), logits=order.task.logits)
        taps = {"emb": found.resolve("emb", role="teacher", overrides={})}
        handle = ModelHandle("teacher", "model", model, order.task, taps, frozen=True)
        rows, said = [], []
        for part in positions.split(READ):
            trace = handle({"inputs": order.inputs(part).to(place)})
            said.append(trace.logits.float().cpu())
            rows.append(trace["emb"].flatten(1).float().cpu())
            handle.forget()
    return Answers(torch.cat(said), torch.cat(rows))


def forgotten(order: Order, positions: Tensor, labels: Tensor, *, net: str, epochs: int, lr: float) -> Tensor:
    """Train a fresh net on the candidates and return how often each was forgotten, looked at after every epoch.

    A sample that was never right counts ``epochs``, more than any that was forgotten.

    Args:
        order: whose seed the net and the order of the samples are drawn from.
        positions, labels: the candidates.
        net: a model by name.
        epochs, lr: of AdamW, in batches of 64.
    """
    place = torch.device(order.device or "cpu")
    model = build_model(net, order.bundle, seed=mix_seed("forgetting", order.seed)).to(place)
    [optimizer] = make_optimizers(
        {"probe": list(model.parameters())}, optimizer="adamw", lr=lr, weight_decay=0.0
    ).values()
    looks = []
    for epoch in range(epochs):
        model.train()
        for part in epoch_order(len(positions), epoch, order.seed, True).split(64):
            if len(part) < 2 <= len(positions):
                continue  # BatchNorm has no statistics of one
            batch: dict[str, Any] = {
                "inputs": order.inputs(positions[part]).to(place),
                "labels": labels[part].to(place),
            }
            loss = order.task.loss(order.task.call(model, batch), batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if not bool(loss.isfinite()):
            raise Diverged(f"forgetting: the loss of {net} is {float(loss)} after {epoch + 1} epochs; lower lr={lr}.")
        looks.append(answers(order, model, positions).logits.argmax(1) == labels)
        order.progress.step(epoch + 1, epochs)
    return forgetting(torch.stack(looks))
