"""How NRR-DD looks at a teacher: its scores, and where it finds a class."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from distil.engine.anatomy import anatomy
from distil.engine.trace import ModelHandle, Trace
from distil.errors import DistilError
from distil.functional.activation import activation_map
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
        scale: of activation maps, see :func:`distil.functional.activation_map`.

    Raises:
        DistilError: it has none of these; activation maps and statistics would mean nothing.
    """

    def __init__(
        self, teacher: nn.Module, task: Task, example: Tensor, *, chunk: int = 256, scale: str = "min-max"
    ) -> None:
        self.teacher, self.task, self.chunk, self.device = teacher, task, chunk, device_of(teacher)
        self.scale = scale
        example = example.to(self.device)
        found = anatomy(teacher, lambda module: self.call(module, example))
        if not any(isinstance(part, nn.BatchNorm2d) and part.track_running_stats for part in teacher.modules()):
            raise DistilError(
                f"nrr-dd needs a teacher with BatchNorm2d layers that remember their statistics, and {found.model} has "
                "none; train one with batch norm (distil:cnn, distil:resnet, torchvision:resnet18)."
            )
        if any(place not in found.meanings for place in ("map", "head")):
            raise DistilError(
                f"nrr-dd needs a teacher that ends in global average pooling and one linear layer, and {found.model} "
                "has no last feature map or no head; class activation maps are found by them."
            )
        taps = {name: found.resolve(name, role="teacher") for name in ("map", "head", "emb")}
        self.handle = ModelHandle("teacher", "teacher", teacher, task, taps, frozen=True)
        head = self.handle.part("head")
        if not isinstance(head, nn.Linear):
            raise DistilError(
                f"nrr-dd needs a teacher whose head is one linear layer; that of {found.model} is a "
                f"{type(head).__name__}."
            )
        self.head = head
        trace = self._seen(example)
        check_pooled("nrr-dd", trace, "map", trace["emb"], "what the classifier reads")

    def logits(self, images: Tensor) -> Tensor:
        """Return the scores of images [n, C, H, W], without gradient."""
        return torch.cat([self._seen(part).logits for part in images.split(self.chunk)])

    def maps(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the activation map of each image's class, [n, H, W] from 0 on, without gradient."""
        size = (int(images.shape[2]), int(images.shape[3]))
        parts = zip(images.split(self.chunk), labels.to(self.device).split(self.chunk), strict=True)
        return torch.cat(
            [
                activation_map(self._seen(part)["map"], self.head.weight, of, size=size, scale=self.scale)
                for part, of in parts
            ]
        )

    def call(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the scores that a network of the teacher's kind gives to images."""
        return self.task.logits(self.task.call(network, {"inputs": images}, role="teacher"))

    def _seen(self, images: Tensor) -> Trace:
        with evaluating(self.teacher):
            trace = self.handle({"inputs": images.to(self.device)})
        self.handle.forget()
        return trace
