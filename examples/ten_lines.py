"""The ten-line loop, and its twin in plain PyTorch: after 20 steps the weights are equal bit for bit.

python examples/ten_lines.py
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import distil
from distil.methods import KD, Supervised


def models() -> tuple[nn.Module, nn.Module]:
    """A student and a teacher."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5)), nn.Linear(20, 5)


def batches(count: int = 20) -> list[tuple[Tensor, Tensor]]:
    """Batches of inputs and labels."""
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(32, 20, generator=draw), torch.randint(5, (32,), generator=draw)) for _ in range(count)]


def with_distil(student: nn.Module, teacher: nn.Module, loader: list[tuple[Tensor, Tensor]]) -> nn.Module:
    """Train with distil."""
    method = 0.9 * KD(temperature=4) + 0.1 * Supervised()
    distiller = distil.Distiller(student, teacher, method, example=loader[0])
    optimizer = distiller.watch(torch.optim.AdamW(distiller.parameters(), lr=1e-3))
    for batch in loader:
        step = distiller(batch)
        step.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return distiller.deployed()


def by_hand(student: nn.Module, teacher: nn.Module, loader: list[tuple[Tensor, Tensor]]) -> nn.Module:
    """Train the same in plain PyTorch."""
    teacher.eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    for inputs, labels in loader:
        with torch.no_grad():
            target = (teacher(inputs) / 4).log_softmax(-1)
        logits = student(inputs)
        kl = (target.exp() * (target - (logits / 4).log_softmax(-1))).sum(-1).mean()
        loss = 0.9 * 16 * kl + 0.1 * F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return student


def main() -> None:
    """Run both and compare."""
    student, teacher = models()
    twin = copy.deepcopy(student)
    ours = with_distil(student, teacher, batches())
    plain = by_hand(twin, teacher, batches())
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    print(f"largest difference between the weights after 20 steps: {gap:g}")


if __name__ == "__main__":
    main()
