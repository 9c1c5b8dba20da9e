"""An exported model beside the one that was trained: the largest difference on real batches, and what each costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distil.errors import DistilError
from distil.ship.served import Served
from distil.tasks.base import device_of, to_device

__all__ = ["TOLERANCE", "compared", "run_session", "timed"]

TOLERANCE = 1e-4


def run_session(session: Any, tensors: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return the first output of an ONNX session."""
    try:
        (answer, *_) = session.run(None, {i.name: tensors[i.name] for i in session.get_inputs()})
    except Exception as error:  # onnxruntime's exceptions have no common parent but this
        raise DistilError(f"onnxruntime cannot run the model ({str(error).strip().splitlines()[0][:200]}).") from None
    return np.asarray(answer)


def compared(served: Served, session: Any, batches: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, float]]:
    """Return, for each batch, ``max_difference``, ``largest`` (max |y|) and ``relative``, their quotient.

    Raises:
        DistilError: an answer that differs in shape, is not finite where the trained one is, or is off by more than
            1e-4 of the largest value.
    """
    found = {}
    for name, tensors in batches.items():
        with torch.no_grad():
            ours = served(*tensors.values()).double().numpy()
        try:
            theirs = run_session(session, {key: value.numpy() for key, value in tensors.items()}).astype(np.float64)
        except DistilError as error:
            raise DistilError(f"The exported model fails on a {name}, and the trained one does not: {error}") from None
        if ours.shape != theirs.shape:
            raise DistilError(
                f"The exported model answers a {name} in the shape {theirs.shape}, the trained one in {ours.shape}; "
                "nothing was written."
            )
        delta, largest = float(np.abs(ours - theirs).max(initial=0)), float(np.abs(ours).max(initial=0))
        if not delta <= TOLERANCE * largest:  # a NaN is refused as well
            raise DistilError(
                f"The exported model is another one than was trained: on a {name} its answers differ by up to "
                f"{delta:.3g}, where {TOLERANCE:g} of the largest, {TOLERANCE * largest:.3g}, is allowed; nothing was "
                "written. A model that acts otherwise while it is exported, or draws at random in eval, is the cause."
            )
        found[name] = {"max_difference": delta, "largest": largest, "relative": delta / largest if largest else 0.0}
    return found


def timed(
    served: Served, session: Any, tensors: Mapping[str, Tensor], *, device: torch.device, seconds: float = 0.3
) -> dict[str, dict[str, float]]:
    """Time both on one batch, turn by turn, so that a busy machine slows both: median and 95th percentile in ms.

    Args:
        served: the trained model; it runs on ``device``.
        session: the exported one, or ``None``; it runs on the CPU.
        tensors: the batch.
        device: where the trained model runs.
        seconds: about how long to measure.
    """
    arrays = {key: value.numpy() for key, value in tensors.items()}
    placed = to_device(dict(tensors), device)

    def torch_pass() -> None:
        with torch.inference_mode():
            served(*placed.values())
        if device.type == "cuda":
            torch.cuda.synchronize()

    passes: dict[str, Callable[[], Any]] = {"torch": torch_pass}
    if session is not None:
        passes["onnxruntime"] = lambda: run_session(session, arrays)
    times: dict[str, list[float]] = {name: [] for name in passes}
    with _placed(served, device):
        for call in (*passes.values(), *passes.values()):
            call()
        began = time.perf_counter()
        while len(times["torch"]) < 10 or (len(times["torch"]) < 200 and time.perf_counter() - began < seconds):
            for name, call in passes.items():
                start = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: {"p50_ms": statistics.median(t), "p95_ms": _percentile(t)} for name, t in times.items()}


def _percentile(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]


class _placed:
    """A module on another device for a while."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module, self.device, self.before = module, device, device_of(module)

    def __enter__(self) -> None:
        if self.device != self.before:
            self.module.to(self.device)

    def __exit__(self, *_: Any) -> None:
        if self.device != self.before:
            self.module.to(self.before)
