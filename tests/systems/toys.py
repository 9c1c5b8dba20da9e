"""Small nets, batches and a graph on which a system's whole loss runs in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distil.engine.distiller import Distiller
from distil.engine.method import Sum
from distil.functional.reduction import working
from distil.models import GCN, MLP, MaskedAutoencoder, SmallCNN, UNet

CLASSES = 5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(width: int, seed: int = 0, features: int = 6) -> nn.Module:
    """An MLP whose embedding is ``width`` wide, without dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(features, width, CLASSES)


def samples(count: int = 20, seed: int = 0) -> dict[str, Tensor]:
    """A batch in which every class occurs."""
    labels = torch.arange(count) % CLASSES
    inputs = torch.randn(count, 6, generator=seeded(seed)) + labels[:, None]
    return {"inputs": inputs, "labels": labels, "id": torch.arange(count)}


def graph(nodes: int = 14) -> dict[str, Tensor]:
    """A graph in both directions; the last two nodes have no edge, a third of the nodes is labelled for training."""
    draw = seeded(3)
    pairs = torch.randint(nodes - 2, (2, 3 * nodes), generator=draw)
    pairs = pairs[:, pairs[0] != pairs[1]].unique(dim=1)
    return {
        "inputs": torch.randn(nodes, 6, generator=draw),
        "edge_index": torch.cat([pairs, pairs.flip(0)], 1).unique(dim=1),
        "labels": torch.arange(nodes) % CLASSES,
        "mask": torch.arange(nodes) % 3 == 0,
        "id": torch.arange(nodes),
    }


def gcn(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GCN(6, 8, CLASSES, dropout=0.0)


def image_distiller(
    method: Sum, *, width: int = 4, teacher_width: int = 8, epochs: int = 2, seed: int = 0
) -> Distiller:
    """Student and teacher MLPs on :func:`samples`, prepared."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = method.rebuild(mlp(width))
    made = Distiller(student, mlp(teacher_width, 1), method, example=samples(), epochs=epochs, seed=seed)
    return made.prepare([samples()])


def pictures(count: int = 20, seed: int = 0) -> dict[str, Tensor]:
    """A batch of small images in which every class occurs."""
    labels = torch.arange(count) % CLASSES
    inputs = torch.randn(count, 1, 8, 8, generator=seeded(seed)) + labels[:, None, None, None]
    return {"inputs": inputs, "labels": labels, "id": torch.arange(count)}


def map_distiller(method: Sum, *, epochs: int = 2, seed: int = 0) -> Distiller:
    """A student and a wider teacher with feature maps on :func:`pictures`, prepared."""
    nets = []
    for widths, start in (((4, 6), 0), ((6, 8), 1)):
        with torch.random.fork_rng():
            torch.manual_seed(start)
            nets.append(SmallCNN(1, CLASSES, widths=widths))
    made = Distiller(nets[0], nets[1], method, example=pictures(), epochs=epochs, seed=seed)
    return made.prepare([pictures()])


def ensemble(count: int = 3) -> dict[str, nn.Module]:
    """Several teachers of :func:`pictures` by name, of different widths and weights."""
    return {f"t{k}": nn.Sequential(nn.Flatten(), mlp(6 + 2 * k, k + 1, 64)) for k in range(count)}


def ensemble_distiller(method: Sum, *, teachers: int = 3, epochs: int = 2, seed: int = 0) -> Distiller:
    """A student MLP and several teachers on :func:`pictures`, prepared."""
    student = nn.Sequential(nn.Flatten(), mlp(4, 0, 64))
    made = Distiller(student, ensemble(teachers), method, example=pictures(), epochs=epochs, seed=seed)
    return made.prepare([pictures()])


def masked(seed: int = 0, *, dim: int = 8, depth: int = 18) -> MaskedAutoencoder:
    """A masked autoencoder of 16 patches on :func:`pictures`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedAutoencoder(
            8, patch=2, dim=dim, depth=depth, heads=2, channels=1, decoder_dim=8, decoder_depth=1, decoder_heads=2
        )


def masked_distiller(method: Sum, *, epochs: int = 2, seed: int = 0, width: int = 8) -> Distiller:
    """Two masked autoencoders on :func:`pictures`, deep enough for the published blocks."""
    options: dict[str, Any] = {"task": "features", "example": pictures(), "epochs": epochs, "seed": seed}
    return Distiller(masked(depth=9), masked(1, dim=width), method, **options)


def graph_distiller(method: Sum, *, epochs: int = 2, seed: int = 0) -> Distiller:
    """A student MLP and a GCN on :func:`graph`, prepared."""
    options: dict[str, Any] = {"task": "node-classification", "example": graph(), "epochs": epochs, "seed": seed}
    return Distiller(mlp(8), gcn(), method, **options).prepare(graph())


def scenes(count: int = 6) -> dict[str, Tensor]:
    """Small images with a label for every pixel, some of them void."""
    inputs = torch.randn(count, 3, 16, 16, generator=seeded(5))
    labels = torch.randint(-1, CLASSES, (count, 16, 16), generator=seeded(6))
    return {"inputs": inputs, "labels": labels.masked_fill(labels < 0, -100), "id": torch.arange(count)}


def unet(width: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(3, CLASSES, width=width)


def scene_distiller(method: Sum, *, width: int = 2, teacher_width: int = 4, epochs: int = 2) -> Distiller:
    """Two encoder-decoders on :func:`scenes`, prepared."""
    options: dict[str, Any] = {"task": "segmentation", "example": scenes(), "epochs": epochs}
    return Distiller(unet(width), unet(teacher_width, 1), method, **options).prepare([scenes()])


def train(distiller: Distiller, batch: dict[str, Tensor], *, steps: int = 2, epochs: int = 2) -> tuple[Tensor, Tensor]:
    """Return the losses of a few steps, and the student's parameters after them; dropout draws the same each time."""
    torch.manual_seed(0)
    optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.05))
    losses = []
    for _ in range(epochs):
        for _ in range(steps):
            step = distiller(batch)
            step.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(step.loss.detach())
        distiller.end_epoch()
    return torch.stack(losses), torch.cat([p.detach().flatten() for p in distiller.student.parameters()])


class Fixed(nn.Module):
    """A model whose output is its one parameter, whatever the input."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(working(logits)[0].clone())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits
