"""Tiny nets, tiny data and tiny methods, shared by the tests of the engine and of the methods."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distil.data import DictDataset
from distil.engine import Distiller, Method, OwnOptimizer, Term, fit
from distil.engine.method import Sum
from distil.functional.divergence import kl
from distil.methods import KD, Supervised
from distil.models import MaskedAutoencoder

CLASSES = 3
torch.set_num_threads(1)  # on tensors this small, threads only wait for each other


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a model whose weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def mlp(width: int = 8, *, inputs: int = 6, classes: int = CLASSES, dropout: float = 0.0) -> nn.Sequential:
    """A perceptron: ``hidden``, ``act``, ``drop``, ``head``."""
    net = nn.Sequential()
    net.add_module("flat", nn.Flatten())
    net.add_module("hidden", nn.Linear(inputs, width))
    net.add_module("act", nn.ReLU())
    net.add_module("drop", nn.Dropout(dropout))
    net.add_module("head", nn.Linear(width, classes))
    return net


class CNN(nn.Module):
    """Two stages of one resolution each, pooled and classified; with or without BatchNorm."""

    def __init__(self, width: int = 4, *, channels: int = 2, classes: int = CLASSES, norm: bool = True) -> None:
        super().__init__()
        self.one = self._stage(channels, width, 1, norm)
        self.two = self._stage(width, width, 2, norm)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, classes)

    @staticmethod
    def _stage(below: int, width: int, stride: int, norm: bool) -> nn.Sequential:
        layers = [nn.Conv2d(below, width, 3, stride, 1), nn.BatchNorm2d(width) if norm else nn.Identity(), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.pool(self.two(self.one(inputs))).flatten(1))


class DenseNet(nn.Module):
    """Two stages and a score map at half the resolution of the input; with or without BatchNorm."""

    def __init__(self, width: int = 4, *, channels: int = 2, classes: int = CLASSES, norm: bool = True) -> None:
        super().__init__()
        self.one = CNN._stage(channels, width, 2, norm)
        self.two = CNN._stage(width, width, 1, norm)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.two(self.one(inputs)))


def masked_pair() -> tuple[nn.Module, nn.Module]:
    """A masked autoencoder and a wider, deeper one, as deep as ``dmae``'s published blocks ask for."""
    shared: dict[str, Any] = {
        "patch": 2,
        "heads": 2,
        "channels": 2,
        "decoder_dim": 8,
        "decoder_depth": 1,
        "decoder_heads": 2,
    }
    student = seeded(lambda: MaskedAutoencoder(8, dim=8, depth=9, **shared), 1)
    return student, seeded(lambda: MaskedAutoencoder(8, dim=12, depth=18, **shared), 2)


def still_after(block: int) -> nn.Module:
    """A masked autoencoder whose blocks after this one change nothing, so that all of them give the same."""
    net: Any = masked_pair()[1]
    for later in net.encoder.blocks[block + 1 :]:
        for layer in (later.attn.proj, later.mlp.fc2):
            nn.init.zeros_(layer.weight)
    return net


class GraphNet(nn.Module):
    """A graph network of two dense propagations; it takes the edges."""

    needs_edges = True

    def __init__(self, inputs: int = 6, width: int = 8, classes: int = CLASSES) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(inputs, width), nn.Linear(width, classes)

    def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
        mix = torch.eye(len(inputs), dtype=inputs.dtype).index_put((edge_index[1], edge_index[0]), inputs.new_ones(()))
        mix = mix / mix.sum(1, keepdim=True)
        return self.head(mix @ self.hidden(mix @ inputs).relu())


def vectors(count: int = 32, *, inputs: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> DictDataset:
    """Vectors labelled by a fixed linear rule, so that there is something to learn."""
    rng = torch.Generator().manual_seed(seed)
    rule = torch.randn(inputs, CLASSES, generator=torch.Generator().manual_seed(99))
    x = torch.randn(count, inputs, generator=rng)
    return DictDataset(x.to(dtype), (x @ rule).argmax(1), torch.arange(count) + 100)


def images(count: int = 32, *, size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> DictDataset:
    """Images labelled by a fixed linear rule."""
    flat = vectors(count, inputs=2 * size * size, seed=seed, dtype=dtype)
    return DictDataset(flat.inputs.view(count, 2, size, size), flat.labels, flat.ids)


class TwoViewed(DictDataset):
    """Samples with a ``strong`` view: the inputs, mirrored and with less contrast."""

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = super().__getitem__(position)
        return {**item, "strong": 0.7 * item["inputs"].flip(-1)}

    def batch(self, positions: Tensor) -> dict[str, Tensor]:
        found = super().batch(positions)
        return {**found, "strong": 0.7 * found["inputs"].flip(-1)}


def two_views(count: int = 32, *, size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> DictDataset:
    """Images labelled by a fixed linear rule, in two views."""
    flat = images(count, size=size, seed=seed, dtype=dtype)
    return TwoViewed(flat.inputs, flat.labels, flat.ids)


def scenes(count: int = 32, *, size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> DictDataset:
    """Images labelled pixel by pixel by a fixed linear rule; sample k has k % 5 rows of void, the first one none."""
    flat = images(count, size=size, seed=seed, dtype=dtype)
    rule = torch.randn(2, CLASSES, generator=torch.Generator().manual_seed(99), dtype=dtype)
    labels = torch.einsum("nchw,ck->nkhw", flat.inputs, rule).argmax(1)
    void = torch.arange(size) < (torch.arange(count) % 5)[:, None]
    return DictDataset(flat.inputs, labels.masked_fill(void[:, :, None], -100), flat.ids)


def graph(nodes: int = 24, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A ring with chords: both directions of every edge, half of the nodes in the mask."""
    data = vectors(nodes, seed=seed, dtype=dtype)
    ring = torch.arange(nodes)
    ends = (
        torch.cat([torch.stack([ring, (ring + k) % nodes]) for k in (1, 5)], 1) if nodes > 1 else ring.new_zeros(2, 0)
    )
    return {
        "inputs": data.inputs, "edge_index": torch.cat([ends, ends.flip(0)], 1), "labels": data.labels,
        "mask": ring % 2 == 0, "id": ring,
    }  # fmt: skip


def batch(data: DictDataset, count: int | None = None, start: int = 0) -> dict[str, Tensor]:
    """The first samples as one batch."""
    return data.batch(torch.arange(start, len(data) if count is None else start + count))


def pair(make: Callable[..., nn.Module] = mlp, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A student and a wider teacher."""
    return seeded(lambda: make(4, **options), 1), seeded(lambda: make(8, **options), 2)


def taught(method: Method | Sum | None = None, *, make: Callable[..., nn.Module] = mlp, **options: Any) -> Distiller:
    """A distiller on toy nets, ready to train (a watched SGD is in ``.sgd``)."""
    student, teacher = pair(make)
    data = images() if isinstance(make, type) and issubclass(make, CNN) else vectors()
    chosen = 0.9 * KD(temperature=4) + 0.1 * Supervised() if method is None else method
    distiller = Distiller(student, teacher, chosen, **{"example": batch(data, 4), **options})
    if not distiller.prepared:
        distiller.prepare(data)
    object.__setattr__(distiller, "sgd", distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1)))
    return distiller


def step(distiller: Distiller, data: Any, **options: Any) -> Any:
    """One optimizer step on one batch."""
    made = distiller(data, **options)
    made.loss.backward()
    distiller.sgd.step()
    distiller.sgd.zero_grad()
    return made


def grads(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every gradient, zero where there is none."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return copy.deepcopy(module.state_dict())


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two mappings of tensors are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def hooks(*models: nn.Module) -> int:
    """How many hooks there are on any module of these models."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for model in models for m in model.modules() for kind in kinds)


def train(distiller: Distiller, data: Any, val: Any = None, **options: Any) -> Any:
    """A short run on the CPU, whatever the teacher knows."""
    given = {"epochs": 4, "batch_size": 12, "lr": 0.02, "check_teacher": False, "device": "cpu", **options}
    return fit(distiller, data, val, **given)


def fell(result: Any, term: str | None = None) -> bool:
    """Whether the loss, or one term, is lower at the end than after the first epoch."""
    first, last = ((r["loss"] if term is None else r["terms"][term]) for r in (result.history[1], result.history[-1]))
    return last < first


class Hint(Method):
    """Match a tap; the smallest method that reads one."""

    at_equality = {"hint": "zero"}  # noqa: RUF012

    def __init__(self, *, tap: Any = "logits", name: str | None = None) -> None:
        super().__init__(name=name)
        self.taps, self.tap = (tap,), tap

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        return {"hint": Term((student(batch)[self.tap] - teacher(batch)[self.tap]).square().flatten(1).mean(1))}


class Controller(Method):
    """KD whose weight per sample a controller learns on a second stream, through one unrolled student step."""

    labels = ("val",)
    at_equality = {"controlled": None}  # noqa: RUF012

    def __init__(self, *, lr: float = 0.05, name: str | None = None) -> None:
        super().__init__(name=name)
        self.lr = lr

    def setup(self, student: Any, teacher: Any) -> None:
        self.gate = nn.Linear(CLASSES, 1)
        self.own = OwnOptimizer(self.gate, torch.optim.Adam, lr=self.lr)

    def _value(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        weight = torch.sigmoid(self.gate(teacher_logits)).squeeze(1)
        return weight * kl(student_logits, teacher_logits, reduction="none")

    def before_step(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> None:
        params = {n: p.detach().requires_grad_() for n, p in student.module.named_parameters()}
        known = teacher(batch["train"]).logits
        inner = self._value(student(batch["train"], params=params).logits, known).mean()
        slopes = torch.autograd.grad(inner, list(params.values()), create_graph=True)
        moved = {name: p - 0.1 * g for (name, p), g in zip(params.items(), slopes)}
        outer = student.task.loss(student(batch["val"], params=moved).output, batch["val"]).mean()
        self.own.step(outer)

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        train = batch["train"]
        return {"controlled": Term(self._value(student(train).logits, teacher(train).logits))}

    def counts(self, batch: Any) -> dict[str, float]:
        return {"controlled": float(len(batch["train"]["inputs"]))}


class Memory(Method):
    """A queue of teacher logits, a schedule moved by the terms, and noise from ``ctx.rng``: all must resume."""

    at_equality = {"memory": None}  # noqa: RUF012
    queue: Tensor
    share: Tensor

    def setup(self, student: Any, teacher: Any) -> None:
        self.adapter = nn.Linear(CLASSES, CLASSES)
        self.register_buffer("queue", torch.zeros(16, CLASSES))
        self.register_buffer("share", torch.tensor(0.1))

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        known = teacher(batch).logits
        noise = torch.randn(known.shape, generator=ctx.rng)
        target = known * (1 - self.share) + self.share * self.queue.mean(0) + 0.1 * noise
        if ctx.training:
            self.queue = torch.cat([known.detach(), self.queue])[:16]
        return {"memory": Term((self.adapter(student(batch).logits) - target).square().mean(1))}

    def after_step(self, ctx: Any) -> None:
        self.share.copy_((0.9 * self.share + 0.1 * ctx.terms[self.name].tanh()).clamp(0, 1))


def noting(seen: list[dict[str, float]]) -> Callable[..., torch.optim.Optimizer]:
    """SGD that notes the rates of its groups at every step."""

    def make(groups: Any) -> torch.optim.Optimizer:
        made = torch.optim.SGD(groups)
        made.register_step_pre_hook(lambda one, *_: seen.append({g["name"]: g["lr"] for g in one.param_groups}))
        return made

    return make
