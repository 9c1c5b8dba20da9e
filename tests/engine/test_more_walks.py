"""More systems as small methods: what feeds the student, what is fitted first, what moves with training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.data import DictDataset
from distil.engine import Distiller, Method, Term
from distil.tasks import ClassificationTask
from engine import toys
from engine.toys import fell, train

IMAGES, VECTORS = toys.images(32), toys.vectors(32)


# --- fabric-ad: the student reads the teacher's features, and ships with the teacher ---


class FeatureTask(ClassificationTask):
    """The student's input is what the teacher made of the images; an example brings both."""

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        return module(batch["inputs"] if role == "teacher" else batch["features"])


class Decoder(nn.Module):
    """From the deepest features back to the shallower ones."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        return self.up(features[-1])


class Anomaly(nn.Module):
    """Teacher, student and the map of their disagreement."""

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.teacher.one(inputs)
        return 1 - F.cosine_similarity(self.student((first, self.teacher.two(first))), first)


class Reverse(Method):
    taps = ((None, "stages"),)
    at_equality = {"reverse": "zero"}  # noqa: RUF012

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        features = teacher(batch)["stages"]
        rebuilt = student({**batch, "features": features}).output
        return {"reverse": Term(1 - F.cosine_similarity(rebuilt, features[0]).flatten(1).mean(1))}

    def deployed(self, student: Any, teacher: Any) -> nn.Module:
        return Anomaly(teacher.module, student.module)


def test_fabric_ad() -> None:
    teacher = toys.seeded(lambda: toys.CNN(8), 2).eval()
    inputs = IMAGES.inputs[:4]
    first = teacher.one(inputs)
    example = {"inputs": inputs, "features": (first.detach(), teacher.two(first).detach())}
    distiller = Distiller(Decoder(), teacher, Reverse(), task=FeatureTask(), example=example)
    before = toys.state(teacher)
    result = train(distiller, DictDataset(IMAGES.inputs))
    assert fell(result)
    assert isinstance(result.model, Anomaly)
    assert result.model(inputs).shape == (4, 8, 8)
    assert toys.same(before, teacher.state_dict())


# --- lelp: targets over more outputs than classes, from the teacher's embedding and head; a layer added at the end ---


class SubClasses(Method):
    """Two sub-classes per class, split by the sign of the first principal direction of the teacher's embedding."""

    taps = (("logits", None), (None, "emb"), (None, "head"))
    at_equality = {"subclasses": "stationary"}  # noqa: RUF012
    mean: Tensor
    way: Tensor

    def setup(self, student: Any, teacher: Any) -> None:
        self.register_buffer("mean", torch.zeros(teacher["emb"].shape[1]))
        self.register_buffer("way", torch.zeros(teacher["emb"].shape[1]))

    def prepare(self, teacher: Any, data: Any) -> None:
        count = 0
        for batch in data:
            count += len(batch["inputs"])
            self.mean += teacher(batch)["emb"].sum(0)
        self.mean /= count
        spread = sum(
            (c := teacher(batch)["emb"] - self.mean).T @ c for batch in data
        )  # a second pass over the same data
        self.way.copy_(torch.linalg.eigh(spread).eigenvectors[:, -1])

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        emb, head = teacher(batch)["emb"], teacher.part("head")
        split = torch.sigmoid((emb - self.mean) @ self.way)[:, None, None]
        known = F.linear(emb, head.weight, head.bias).softmax(1)[:, :, None]
        target = torch.cat([known * split, known * (1 - split)], 2).flatten(1)
        return {"subclasses": Term(-(target * student(batch).logits.log_softmax(1)).sum(1))}

    def deployed(self, student: Any, teacher: Any) -> nn.Module:
        return nn.Sequential(student.module, SumPairs())


class SumPairs(nn.Module):
    """From sub-classes to classes."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.unflatten(1, (-1, 2)).logsumexp(2)


def test_lelp() -> None:
    teacher = toys.pair()[1]
    student = toys.mlp(8, classes=2 * toys.CLASSES)
    distiller = Distiller(student, teacher, SubClasses(), example=toys.batch(VECTORS, 4))
    result = train(distiller, VECTORS, VECTORS, epochs=10, keep="last")
    assert fell(result)
    (method,) = (c.method for c in distiller.method)
    centred = teacher.act(teacher.hidden(VECTORS.inputs)) - method.mean
    assert torch.allclose(centred.mean(0), torch.zeros(8), atol=1e-6)
    assert distiller.task.predict(result.model, VECTORS)["logits"].shape == (32, toys.CLASSES)
    assert distiller.task.evaluate(result.model, VECTORS) == result.last


# --- taid: a target that moves with the loss, after real steps only ---


class Taid(Method):
    at_equality = {"taid": "stationary"}  # noqa: RUF012
    share: Tensor
    before: Tensor
    momentum: Tensor

    def setup(self, student: Any, teacher: Any) -> None:
        for name, value in (("share", 0.4), ("before", float("inf")), ("momentum", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        ours, theirs = student(batch).logits, teacher(batch).logits
        target = ((1 - self.share) * ours.detach() + self.share * theirs).softmax(1)
        return {"taid": Term(-(target * ours.log_softmax(1)).sum(1))}

    def after_step(self, ctx: Any) -> None:
        now = ctx.terms[self.name]
        if self.before.isfinite():
            change = (self.before - now) / (self.before + 1e-15)
            self.momentum.mul_(0.9).add_(0.1 * change)
            self.share.add_(0.05 * torch.sigmoid(self.momentum) * (1 - self.share)).clamp_(max=1)
        self.before.copy_(now)


def test_taid() -> None:
    method = Taid()
    distiller = Distiller(*toys.pair(), method, example=toys.batch(VECTORS, 4))
    optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1))
    shares = [0.4]
    for _ in range(3):
        window = [toys.batch(VECTORS, 9), toys.batch(VECTORS, 5, 9)]
        totals = distiller.totals(window)
        values = []
        for part in window:
            step = distiller(part, totals=totals, divides=False)
            step.loss.backward()
            values.append(step.loss.detach())
            distiller.eval()
            kept = toys.state(method)
            distiller(toys.batch(VECTORS))  # measuring moves nothing
            assert toys.same(kept, method.state_dict())
            distiller.train()
        optimizer.step()
        optimizer.zero_grad()
        shares.append(float(method.share))
        assert torch.allclose(method.before, sum(values), rtol=1e-6)  # the whole step, not its last micro-batch
    assert shares[1] == pytest.approx(0.4)
    assert shares[1] < shares[2] < shares[3]


# --- infer: pixels are what learns, through a frozen teacher and its BatchNorms' inputs ---


class Pixels(nn.Module):
    """A learnable set of images, called by index."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.images = nn.Parameter(torch.randn(count, 2, 8, 8))

    def forward(self, index: Tensor) -> Tensor:
        return self.images[index]


class PixelTask(ClassificationTask):
    """The student is asked by index, the teacher by image."""

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        return module(batch["inputs"] if role == "teacher" else batch["id"])


class Invert(Method):
    taps = ((None, "*.1:in"), (None, "logits"))
    labels = True
    contains_task = True
    at_equality = {"labels": None, "statistics": None}  # noqa: RUF012

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        seen = teacher({**batch, "inputs": student(batch).output}, grad=True)
        norms = [m for m in teacher.module.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == len(seen["*.1:in"]) == 2
        gaps = [
            (x.mean((0, 2, 3)) - m.running_mean).norm() + (x.var((0, 2, 3)) - m.running_var).norm()
            for x, m in zip(seen["*.1:in"], norms)
        ]
        return {
            "labels": Term(F.cross_entropy(seen.logits, batch["labels"], reduction="none")),
            "statistics": Term(torch.stack(gaps), coupled=True),
        }


def test_infer() -> None:
    _, teacher = toys.pair(toys.CNN)
    teacher(IMAGES.inputs)  # statistics of real data, before it is frozen
    before = toys.state(teacher)
    made = [{"inputs": torch.zeros(6, 2, 8, 8), "id": torch.arange(6), "labels": torch.arange(6) % toys.CLASSES}]
    pixels = Pixels(6)
    distiller = Distiller(pixels, teacher, Invert(), task=PixelTask(), example=made[0])
    result = train(distiller, made, epochs=20, lr=0.1, optimizer=torch.optim.Adam)
    assert fell(result, "invert.labels")
    assert fell(result, "invert.statistics")
    assert toys.same(before, teacher.state_dict())
    assert all(p.grad is None for p in teacher.parameters())
