"""How NRR-DD looks at a teacher: its scores, where it finds a class, and what its batch norms are given."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.anatomy import anatomy
from distil.engine.trace import ModelHandle, Trace
from distil.errors import DistilError
from distil.functional.activation import activation_map
from distil.functional.batchnorm import Layer
from distil.methods.maps import check_pooled
from distil.tasks import Task
from distil.tasks.base import device_of, evaluating

__all__ = ["Look"]


@final
class Look:
    """A frozen teacher of images.

    It runs in eval mode, no hook stays on it, and no weight, gradient, buffer or mode of it is changed.

    Args:
        teacher: a net with BatchNorm2d layers, global average pooling and one linear layer behind it.
        task: how it is called.
        example: a few images [B, C, H, W].
        chunk: images in a pass without gradient.

    Raises:
        DistilError: it has none of these; activation maps and statistics would mean nothing.
    """

    def __init__(self, teacher: nn.Module, task: Task, example: Tensor, *, chunk: int = 256) -> None:
        self.teacher, self.task, self.chunk, self.device = teacher, task, chunk, device_of(teacher)
        batch = {"inputs": example.to(self.device)}

        def call(module: nn.Module) -> Any:
            return task.call(module, batch, role="teacher")

        found = anatomy(teacher, call, logits=task.logits)
        norms = {p: m for p, m in teacher.named_modules() if isinstance(m, nn.BatchNorm2d) and p in found.records}
        self.norms = {path: norm for path, norm in norms.items() if norm.running_mean is not None}
        if not self.norms:
            raise DistilError(
                f"nrr-dd needs a teacher with BatchNorm2d layers that remember their statistics, and {found.model} "
                "calls none; train one with batch norm (distil:cnn, distil:resnet, torchvision:resnet18)."
            )
        if any(place not in found.meanings for place in ("map", "head")):
            raise DistilError(
                f"nrr-dd needs a teacher that ends in global average pooling and one linear layer, and {found.model} "
                "has no last feature map or no head; class activation maps are found by them."
            )
        names = ("map", "head", "emb", *(f"{path}:in" for path in self.norms))
        taps = {name: found.resolve(name, role="teacher") for name in names}
        self.handle = ModelHandle("teacher", "teacher", teacher, task, taps, frozen=True)
        self.head = self.handle.part("head")
        if not isinstance(self.head, nn.Linear):
            raise DistilError(
                f"nrr-dd needs a teacher whose head is one linear layer; that of {found.model} is a "
                f"{type(self.head).__name__}."
            )
        trace = self._seen(batch["inputs"])
        check_pooled("nrr-dd", trace, "map", trace["emb"], "what the classifier reads")

    def logits(self, images: Tensor) -> Tensor:
        """Return the scores of images [n, C, H, W], without gradient."""
        return torch.cat([self._seen(part).logits for part in images.split(self.chunk)])

    def maps(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the activation map of each image's class, [n, H, W] in [0, 1], without gradient."""
        size = (int(images.shape[2]), int(images.shape[3]))
        parts = zip(images.split(self.chunk), labels.to(self.device).split(self.chunk), strict=True)
        return torch.cat(
            [activation_map(self._seen(part)["map"], self.head.weight, of, size=size) for part, of in parts]
        )

    def deeply(self, images: Tensor) -> tuple[Tensor, list[Layer]]:
        """Return the scores of images, and what each batch norm is given and remembers; gradient reaches the images."""
        trace = self._seen(images, grad=True)
        layers = []
        for path, norm in self.norms.items():
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None
            assert variance is not None
            layers.append(Layer(trace[f"{path}:in"], mean, variance))
        return trace.logits, layers

    def _seen(self, images: Tensor, *, grad: bool = False) -> Trace:
        with evaluating(self.teacher):
            trace = self.handle({"inputs": images.to(self.device)}, grad=grad)
        self.handle.forget()
        return trace
