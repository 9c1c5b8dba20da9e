"""What a model costs to use, and how its answers compare with its teacher's and with the truth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.bundle import NO_LABEL
from distil.tasks import Prediction, Task
from distil.tasks.base import device_of, evaluating, to_device

__all__ = ["agreement", "comparable", "latency", "reliability", "size_in_bytes"]

BINS = 10


def latency(
    task: Task, module: nn.Module, batch: Mapping[str, Any], *, role: str = "student", seconds: float = 0.4
) -> dict[str, float]:
    """Time the forward pass on one batch: median and 95th percentile in ms, samples per second.

    At least 10 and at most 200 passes after three warm-up passes, for about ``seconds``; on the device the batch is on.
    """
    times: list[float] = []
    place = device_of(module)
    batch = to_device(batch, place)
    size = int(next(v for v in batch.values() if isinstance(v, Tensor)).shape[0])
    with evaluating(module), torch.inference_mode():
        for _ in range(3):
            task.call(module, batch, role)
        began = time.perf_counter()
        while len(times) < 10 or (len(times) < 200 and time.perf_counter() - began < seconds):
            start = time.perf_counter()
            task.call(module, batch, role)
            if place.type == "cuda":
                torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - start))
    times.sort()
    middle = statistics.median(times)
    return {
        "p50_ms": middle,
        "p95_ms": times[min(len(times) - 1, int(0.95 * len(times)))],
        "throughput_per_s": 1000 * size / middle,
        "batch": float(size),
    }


def agreement(student: Prediction, teacher: Prediction) -> float:
    """Return the share of counted samples, in %, on which both give the same class."""
    mask = _counted(student)
    same = _answer(student) == _answer(teacher)
    return 100 * float(same[mask].float().mean())


def comparable(student: Prediction, teacher: Prediction) -> bool:
    """Say whether two predictions answer the same questions with the same classes."""
    key = "logits" if "logits" in student else "answer"
    return key in teacher and student[key].shape == teacher[key].shape  # type: ignore[literal-required]


def reliability(prediction: Prediction) -> dict[str, list[float]]:
    """Return mean confidence, accuracy and count for each of ten equal bins of confidence."""
    mask = _counted(prediction)
    if "logits" in prediction:
        confidence, answer = prediction["logits"][mask].softmax(1).max(1)
    else:
        confidence, answer = prediction["confidence"][mask].float(), prediction["answer"][mask]
    right = (answer == prediction["labels"][mask]).float()
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    count = torch.bincount(place, minlength=BINS)
    safe = count.clamp(min=1)
    return {
        "confidence": (torch.bincount(place, confidence, minlength=BINS) / safe).tolist(),
        "accuracy": (torch.bincount(place, right, minlength=BINS) / safe).tolist(),
        "count": count.tolist(),
    }


def size_in_bytes(module: nn.Module) -> tuple[int, int]:
    """Return the number of parameters and the bytes of parameters and buffers."""
    parameters = sum(p.numel() for p in module.parameters())
    held = [*module.parameters(), *module.buffers()]
    return parameters, sum(t.numel() * t.element_size() for t in held)


def _answer(prediction: Prediction) -> Tensor:
    return prediction["logits"].argmax(1) if "logits" in prediction else prediction["answer"]


def _counted(prediction: Prediction) -> Tensor:
    mask = prediction["labels"] != NO_LABEL
    return mask & prediction["mask"] if "mask" in prediction else mask
