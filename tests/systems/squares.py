"""A toy for small sets: images of five classes, and nets that tell them apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import nn

from distil.data import DictDataset
from distil.data.bundle import Bundle
from distil.models import SmallCNN, load_model

__all__ = ["CLASSES", "bundle", "named", "teachers", "trained"]

CLASSES = 5


@lru_cache
def bundle() -> Bundle:
    """Five classes of small images, each of its own colour and place."""
    draw = torch.Generator().manual_seed(0)

    def part(count: int, first: int) -> DictDataset:
        labels = torch.arange(count) % CLASSES
        images = 0.3 * torch.rand(count, 3, 8, 8, generator=draw)
        for k, label in enumerate(labels.tolist()):
            images[k, label % 3, :, label : label + 3] += 0.6
        return DictDataset(images, labels, torch.arange(first, first + count))

    return Bundle(
        name="squares", task="classification", train=part(60, 0), val=part(30, 100), test=part(30, 200),
        classes=tuple("abcde"), input_shape=(3, 8, 8), fingerprint="squares-1",
    )  # fmt: skip


@lru_cache
def trained(widths: tuple[int, ...], *, seed: int, norm: bool = True) -> nn.Module:
    """Return a small net, trained for a moment."""
    return _taught(lambda: SmallCNN(3, CLASSES, widths=widths, norm=norm), seed, steps=25 if norm else 60)


@lru_cache
def named(spec: str) -> nn.Module:
    """Return a net by its name, trained for a moment."""
    return _taught(lambda: load_model(spec, classes=CLASSES, input_shape=(3, 8, 8)), 0, steps=60, lr=0.005)


def _taught(make: Callable[[], nn.Module], seed: int, *, steps: int, lr: float = 0.02) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, data = make(), bundle().train
        optimizer = torch.optim.Adam(net.parameters(), lr)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(net(data.inputs), data.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def teachers() -> tuple[nn.Module, ...]:
    """Return two nets of unlike depth."""
    return trained((6, 8), seed=0), trained((4, 6, 8), seed=1)
