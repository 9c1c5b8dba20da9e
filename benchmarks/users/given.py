"""What a user has before choosing a tool: images, and two networks, small and quick on purpose."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

EPOCHS = 10


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Train and test: images ``[N, 1, 8, 8]`` in [0, 1], and their labels."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target, dtype=torch.int64)
    return (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what a residual block does."""
        return torch.relu(inputs + self.inner(inputs))


def resnet(width: int, blocks: int) -> nn.Module:
    """A small residual network."""
    body = [Block(width) for _ in range(blocks)]
    stem = nn.Conv2d(1, width, 3, padding=1)
    return nn.Sequential(stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def make_teacher() -> nn.Module:
    """The larger one."""
    torch.manual_seed(0)
    return resnet(16, 2)


def make_student() -> nn.Module:
    """The smaller one, the same at every call."""
    torch.manual_seed(1)
    return resnet(4, 1)
