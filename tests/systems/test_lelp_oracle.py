"""LELP against a brute-force twin in float64: numpy and scikit-learn, one sample, class and subclass at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from distil.engine.distiller import Distiller
from distil.systems.lelp import SubclassKD

from .toys import CLASSES, samples

WIDTH, S = 13, 3


def student(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, CLASSES))
    return SubclassKD(subclasses=S, **options).rebuild(net).double()


class Teacher(nn.Module):
    """An embedding and a linear head, spread so that classes are unsure."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(inputs)))


def double_batch(count: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    batch = samples(count, seed)
    return batch | {"inputs": batch["inputs"].double() / 3}


def distiller(batch: dict[str, torch.Tensor], **options: Any) -> tuple[Distiller, SubclassKD, Teacher]:
    method, teacher = SubclassKD(subclasses=S, **options), Teacher().double()
    made = Distiller(student(), teacher, method, example=batch, seed=3)
    return made.prepare([batch]).eval(), method, teacher


def rotated_away(weight: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Take out of h, one by one, the directions of a Gram-Schmidt basis of the rows of ``weight``."""
    basis: list[np.ndarray] = []
    for row in weight:
        for one in basis:
            row = row - (row @ one) * one
        if np.linalg.norm(row) > 1e-9:
            basis.append(row / np.linalg.norm(row))
    for one in basis:
        h = h - np.outer(h @ one, one)
    return h


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def twin(batch: dict[str, torch.Tensor], method: SubclassKD, teacher: Teacher, view: torch.Tensor, **on: bool) -> Any:
    """The targets of a view and the directions, from the training batch; Q is read off the method's directions."""
    weight, bias = (p.detach().numpy() for p in (teacher.head.weight, teacher.head.bias))
    embed = lambda x: np.tanh(  # noqa: E731
        x.numpy() @ teacher.body.weight.detach().numpy().T + teacher.body.bias.detach().numpy()
    )
    train, labels, shown = embed(batch["inputs"]), batch["labels"].numpy(), embed(view)
    clean = rotated_away(weight, train) if on["null_space"] else train
    seen = rotated_away(weight, shown) if on["null_space"] else shown
    targets = np.zeros((len(view), CLASSES, S))
    for c in range(CLASSES):
        mine = clean[labels == c]
        pca = PCA(S, svd_solver="full").fit(mine)
        found = method.directions[c].numpy()
        turn = pca.components_ @ found  # found = U Q, so Q = Uᵀ found
        np.testing.assert_allclose(turn.T @ turn, np.eye(S), atol=1e-9)  # the same subspace, only turned
        if not on["rotate"]:
            np.testing.assert_allclose(np.abs(turn), np.eye(S), atol=1e-7)
        for k in range(S):
            way = pca.components_.T @ turn[:, k]
            spread = np.sqrt(np.mean([((row - pca.mean_) @ way) ** 2 for row in mine]))
            for i, row in enumerate(seen):
                targets[i, c, k] = (row - pca.mean_) @ way / (spread if on["standardize"] else 1.0)
    for i, row in enumerate(shown):
        classes = softmax((weight @ row + bias) / method.temperature)
        for c in range(CLASSES):
            targets[i, c] = classes[c] * softmax(targets[i, c] / method.beta)
    return targets


@pytest.mark.parametrize("null_space", [True, False])
@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("standardize", [True, False])
def test_loss_and_gradient_are_the_twins(null_space: bool, rotate: bool, standardize: bool) -> None:
    on = {"null_space": null_space, "rotate": rotate, "standardize": standardize}
    batch, view = double_batch(), double_batch(12, seed=5)
    made, method, teacher = distiller(batch, **on, beta=0.4, temperature=1.7)
    targets = twin(batch, method, teacher, view["inputs"], **on)
    np.testing.assert_allclose(targets.sum((1, 2)), 1, atol=1e-9)
    net = made.student
    hidden = torch.tanh(net[0](view["inputs"]))
    scores = net[2].subclasses(hidden)
    expected = 0.0
    for i, row in enumerate(scores):
        log_q = row - row.exp().sum().log()
        for c in range(CLASSES):
            for k in range(S):
                expected = expected - targets[i, c, k] * log_q[c * S + k]
    expected = expected / len(scores)
    step = made(view)
    torch.testing.assert_close(step.loss, expected, rtol=1e-8, atol=1e-10)
    parameters = list(net.parameters())
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (step.loss, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_class_scores_are_sums_of_subclasses() -> None:
    net, view = student(), double_batch(9)["inputs"]
    scores = net[2].subclasses(torch.tanh(net[0](view))).detach().numpy()
    probabilities = net(view).softmax(1).detach().numpy()
    for i, row in enumerate(scores):
        q = softmax(row)
        for c in range(CLASSES):
            assert probabilities[i, c] == pytest.approx(sum(q[c * S + k] for k in range(S)), abs=1e-12)
