"""Systems that do not exist yet, walked through the engine as small methods: a contract nobody uses is proven here.

Each is the skeleton of a paper: the hooks, taps, streams and parts it needs, with the plainest losses. Here those whose
models take part in each other; the others are in ``test_more_walks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.data import DictDataset
from distil.engine import Distiller, Method, OwnOptimizer, Term
from distil.functional.divergence import kl
from distil.methods import Supervised
from distil.models import MLP, with_second_head
from engine import toys
from engine.toys import fell, train

IMAGES, VECTORS = toys.images(32), toys.vectors(32)


def two_views(batch: Mapping[str, Any], rng: torch.Generator) -> dict[str, Any]:
    noise = torch.randn(batch["inputs"].shape, generator=rng)
    return {**batch, "view": {**batch, "inputs": batch["inputs"] + 0.1 * noise}}


# --- kd3: two views, the teacher's head on a projected map, a pool chosen each epoch, more than the student ships ---


class Projected(nn.Module):
    """The student's body, a projector, and the teacher's frozen head."""

    def __init__(self, student: nn.Module, projector: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.student, self.projector, self.head = student, projector, head

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.projector(self.student.two(self.student.one(inputs))).mean((2, 3)))


class Kd3(Method):
    taps = ("map", (None, "head"))
    at_equality = {"match": "zero", "logits": "zero", "contrast": None}  # noqa: RUF012

    def setup(self, student: Any, teacher: Any) -> None:
        self.projector = nn.Conv2d(student["map"].shape[1], teacher["map"].shape[1], 1)

    def transform(self, batch: Any, student: Any, teacher: Any, ctx: Any) -> Any:
        return two_views(batch, ctx.rng)

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        ours, theirs = self.projector(student(batch)["map"]), teacher(batch)["map"]
        head = teacher.part("head")
        again = self.projector(student(batch["view"])["map"]).mean((2, 3))
        pairs = F.normalize(ours.mean((2, 3)), dim=1) @ F.normalize(again, dim=1).T / 0.5
        return {
            "match": Term((ours - theirs).square().flatten(1).mean(1)),
            "logits": Term((head(ours.mean((2, 3))) - teacher(batch).logits).square().mean(1)),
            "contrast": Term(F.cross_entropy(pairs, torch.arange(len(pairs)), reduction="none"), coupled=True),
        }

    def deployed(self, student: Any, teacher: Any) -> nn.Module:
        return Projected(student.module, self.projector, teacher.part("head"))


def test_kd3() -> None:
    def select(epoch: int, pool: DictDataset, distiller: Distiller) -> Tensor:
        said = distiller.task.predict(distiller.teachers["model"], pool, role="teacher")
        return said["id"][said["logits"].softmax(1).amax(1).argsort(descending=True)[:24]]

    student, teacher = toys.pair(toys.CNN)
    before = toys.state(teacher)
    distiller = Distiller(student, teacher, Kd3(), example=toys.batch(IMAGES, 4))
    result = train(distiller, IMAGES, IMAGES, select=select, keep="last")
    assert fell(result)
    assert toys.same(before, teacher.state_dict())
    assert isinstance(result.model, Projected)
    assert not result.model.training
    assert distiller.task.evaluate(result.model, IMAGES) == result.last
    assert not teacher.head.weight.requires_grad
    assert result.model.head is teacher.head
    assert set(distiller.groups()) == {"student", "kd3"}


# --- dho: a second head, a labelled and an unlabelled stream, probabilities mixed at the end ---


class Mixture(nn.Module):
    """The log of the two heads' mixed probabilities."""

    def __init__(self, student: nn.Module, share: float) -> None:
        super().__init__()
        self.student, self.share = student, share

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.student(inputs)
        return (self.share * out.logits.softmax(1) + (1 - self.share) * out.second.softmax(1)).log()


class Dho(Method):
    labels = ("train",)
    contains_task = True
    at_equality = {"labels": None, "train": "zero", "pool": "zero"}  # noqa: RUF012

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        terms = {
            name: Term(kl(student(part).output.second, teacher(part).logits, reduction="none"))
            for name, part in batch.items()
        }
        return {"labels": student.task.loss(student(batch["train"]).output, batch["train"]), **terms}

    def counts(self, batch: Any) -> dict[str, float | Tensor]:
        sizes = {name: float(len(part["inputs"])) for name, part in batch.items()}
        return {"labels": (batch["train"]["labels"] >= 0).sum(), **sizes}

    def deployed(self, student: Any, teacher: Any) -> nn.Module:
        return Mixture(student.module, 0.4)


def test_dho() -> None:
    student = with_second_head(MLP(6, 8, toys.CLASSES), toys.CLASSES)
    streams = {"train": toys.vectors(12), "pool": toys.vectors(30, seed=3)}
    example = {name: toys.batch(data, 4) for name, data in streams.items()}
    distiller = Distiller(student, toys.pair()[1], Dho(), example=example)
    result = train(distiller, streams, VECTORS, epochs=12, accumulate=2, batch_size=6)
    assert fell(result)
    assert isinstance(result.model, Mixture)
    said = distiller.task.predict(result.model, VECTORS)["logits"]
    assert torch.allclose(said.exp().sum(1), torch.ones(32), atol=1e-5)


# --- mst-distill: masks inside frozen teachers, three stages ---


class Masks(Method):
    """A gate in each of two teachers, made with ``replace=``, trained together with the student."""

    taps = ((None, "hidden"), "logits")
    at_equality = {"x": None, "y": None, "balance": None}  # noqa: RUF012

    def setup(self, student: Any, teacher: Any) -> None:
        self.masks = nn.ModuleDict(
            {n: nn.Linear(t["hidden"].shape[1], t["hidden"].shape[1]) for n, t in teacher.items()}
        )

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        ours = student(batch).logits
        seen = {n: t(batch, replace={"hidden": self.masks[n]}).logits for n, t in teacher.items()}
        terms = {n: Term(kl(ours, theirs, reduction="none")) for n, theirs in seen.items()}
        share = torch.stack([theirs.logsumexp(1) for theirs in seen.values()], 1).softmax(1).mean(0)
        return {**terms, "balance": Term((share - 0.5).square().sum()[None], coupled=True, aux=True)}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {f"masks.{name}": list(mask.parameters()) for name, mask in self.masks.items()}


class Routed(toys.Hint):
    """The last stage: the student follows the masked teachers of the stage before, which learn no more."""

    taps = ((None, "hidden"), "logits")

    def __init__(self, masks: nn.ModuleDict) -> None:
        super().__init__()
        self.taps, self.masks = Routed.taps, masks.requires_grad_(False)

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        with torch.no_grad():
            seen = [t(batch, replace={"hidden": self.masks[n]}, grad=False).logits for n, t in teacher.items()]
        return {"hint": Term((student(batch).logits - torch.stack(seen).mean(0)).square().mean(1))}


def test_mst_distill_in_three_stages() -> None:
    teachers = {name: toys.seeded(toys.mlp, seed) for name, seed in (("x", 3), ("y", 4))}
    example, student = toys.batch(VECTORS, 4), toys.pair()[0]
    for model in teachers.values():  # stage one: each teacher learns
        assert fell(train(Distiller(model, None, Supervised(), example=example), VECTORS))
    frozen = {name: toys.state(model) for name, model in teachers.items()}
    masks = Masks()
    second = Distiller(student, teachers, masks, example=example)
    starts = toys.state(masks)
    result = train(
        second,
        VECTORS,
        optimizer={"student": "adamw", "masks.x": torch.optim.Adam},
        lr={"student": 0.02, "masks.y": 1e-9},
    )
    assert fell(result)
    moved = {name: float((masks.state_dict()[name] - value).abs().max()) for name, value in starts.items()}
    assert moved["masks.x.weight"] > 1e-3 > 1e-6 > moved["masks.y.weight"]
    third = Distiller(student, teachers, Routed(masks.masks), example=example)
    assert set(third.groups()) == {"student"}
    assert fell(train(third, VECTORS))
    assert all(toys.same(frozen[name], model.state_dict()) for name, model in teachers.items())


# --- tgeo-kd: the controller's gradient goes through one step of the student ---


def test_the_hyper_gradient_is_the_slope_of_the_outer_loss() -> None:
    student, teacher = (model.double() for model in toys.pair())
    wide = {name: toys.batch(toys.vectors(10, seed=s, dtype=torch.float64)) for name, s in (("train", 1), ("val", 2))}
    method = toys.Controller()
    distiller = Distiller(student, teacher, method, example=wide).double()
    method.own = OwnOptimizer(method.gate, torch.optim.SGD, lr=1.0)
    start = method.gate.weight.detach().clone()

    def outer(weight: Tensor) -> float:
        """The same by hand: plain modules, one step, loss on the other stream."""
        net = toys.pair()[0].double()
        known = teacher(wide["train"]["inputs"])
        share = torch.sigmoid(known @ weight.T + bias).squeeze(1)
        (share * kl(net(wide["train"]["inputs"]), known, reduction="none")).mean().backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.1 * p.grad
        return F.cross_entropy(net(wide["val"]["inputs"]), wide["val"]["labels"]).item()

    bias = method.gate.bias.detach().clone()
    distiller(wide)
    slope = start - method.gate.weight.detach()
    nudge = torch.zeros_like(start)
    for i in range(toys.CLASSES):
        nudge.zero_()[0, i] = 1e-5
        assert (outer(start + nudge) - outer(start - nudge)) / 2e-5 == pytest.approx(float(slope[0, i]), rel=1e-4)


# --- cnn-vit-collab: two students, part of one on the features of the other, two optimizers ---


class Collaborate(Method):
    taps = ("stages.0", "logits")
    labels = True
    contains_task = True
    at_equality = {"a": None, "b": None, "cross": None}  # noqa: RUF012

    def setup(self, student: Any, teacher: Any) -> None:
        widths = {name: trace["stages.0"].shape[1] for name, trace in student.items()}
        self.bridge = nn.Conv2d(widths["a"], widths["b"], 1)

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        tasks = {name: handle.task.loss(handle(batch).output, batch) for name, handle in student.items()}
        crossed = student["b"].part("two")(self.bridge(student["a"](batch)["stages.0"])).mean((2, 3))
        theirs = student["b"].part("head")(crossed)
        return {**tasks, "cross": Term((theirs - student["b"](batch).logits).square().mean(1))}

    def deployed(self, student: Any, teacher: Any) -> nn.Module:
        return student["a"].module


def test_cnn_vit_collab() -> None:
    students = {"a": toys.seeded(lambda: toys.CNN(4), 1), "b": toys.seeded(lambda: toys.CNN(6), 2)}
    method = Collaborate()
    distiller = Distiller(students, None, method, example=toys.batch(IMAGES, 4))
    distiller.keep_live(True)
    distiller(toys.batch(IMAGES))
    distiller.live["collaborate.cross"].backward()
    assert students["a"].one[0].weight.grad is not None
    assert students["b"].two[0].weight.grad is not None
    assert students["a"].head.weight.grad is None
    distiller.zero_grad()
    distiller.skip_step()
    distiller.keep_live(False)
    optimizers = {"student.a": "adamw", "student.b": "sgd", "collaborate": "adamw"}
    result = train(
        distiller, IMAGES, IMAGES, optimizer=optimizers, lr={"student.a": 0.02, "student.b": 0.05, "collaborate": 0.02}
    )
    assert fell(result)
    assert result.model is students["a"]
