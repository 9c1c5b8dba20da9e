"""Small teachers, data and tasks that the tests of the cache share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distil.data import DictDataset
from distil.tasks import ClassificationTask


def teacher(seed: int = 0, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, classes))


def student(seed: int = 5, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


def dataset(count: int = 60, seed: int = 1, **options: object) -> DictDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, 3, 2, 2, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return DictDataset(inputs, labels, torch.arange(count) * 7 + 3, **options)  # type: ignore[arg-type]


def live(model: nn.Module, data: DictDataset) -> Tensor:
    with torch.no_grad():
        return model(data.inputs)


TASK = ClassificationTask()
