"""What every run of the experiment shares: standardised images, the networks, teaching and probing for a seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from distil.data import load, split
from distil.data.bundle import Bundle, DictDataset
from distil.engine.fit import Result
from distil.functional.crops import channel_moments, noise_like, standardised_channels
from distil.loops.lab import Lab
from distil.loops.training import Training
from distil.models import Headed, L2Head, load_model
from distil.systems.random_teachers.procedure import ProbeTask, near_teacher, probed, teach, without_labels

__all__ = ["Bench", "Head", "Images", "Taught"]


@dataclass(frozen=True)
class Images:
    """Which images.

    Attributes:
        data: a name that ``distil.load`` reads.
        size: height and width that they are brought to; by default their own.
        train: how many are taught from, stratified; the probes learn from the same, with labels.
        val: how many the learning curve is scored on; they choose nothing.
        test: how many the probes are scored on at the end, at most.
    """

    data: str = "cifar10"
    size: int | None = 16
    train: int = 10000
    val: int = 1000
    test: int = 10000


@dataclass(frozen=True)
class Head:
    """The head of both networks; see `distil.models.L2Head`."""

    outputs: int = 256
    hidden: tuple[int, ...] = (256, 256)
    bottleneck: int = 64
    normalise_features: bool = True
    normalise_weights: bool = True


@dataclass(frozen=True)
class Taught:
    """A teacher, its student's start, the student as taught, and the run."""

    teacher: nn.Module
    start: nn.Module
    student: nn.Module
    result: Result


@dataclass(frozen=True)
class Bench:
    """Images as tensors of mean 0 and deviation 1 for each channel, and what is made with them."""

    images: Images
    encoder: str
    head: Head
    training: Training
    lab: Lab = field(repr=False)
    bundle: Bundle = field(repr=False)

    @classmethod
    def of(cls, images: Images, encoder: str, head: Head, training: Training, lab: Lab) -> Bench:
        """Read the images; each channel is standardised by the training images."""
        whole = load(images.data, size=images.size, channels=3)
        parts = {}
        for name, count in (("train", images.train), ("val", images.val), ("test", images.test)):
            data = getattr(whole, name)
            parts[name] = split(data, [min(count, len(data))])[0]
        read = {name: part.batch(torch.arange(len(part))) for name, part in parts.items()}
        moments = channel_moments(read["train"]["inputs"])
        ready = {
            name: DictDataset(standardised_channels(part["inputs"], *moments), part["labels"], part["id"])
            for name, part in read.items()
        }
        cut = "-".join(str(len(part)) for part in ready.values())
        bundle = replace(whole, **ready, fingerprint=f"{whole.fingerprint}-{cut}-standardised")
        return cls(images, encoder, head, training, lab, bundle)

    def net(self) -> nn.Module:
        """Make an encoder with a head, from torch's global generator."""
        shape = self.bundle.input_shape
        encoder = load_model(self.encoder, classes=0, input_shape=shape)
        with torch.no_grad():
            width = encoder(torch.zeros(1, *shape)).flatten(1).shape[1]
        head = self.head
        return Headed(
            encoder,
            L2Head(
                width, head.outputs, hidden=head.hidden, bottleneck=head.bottleneck,
                normalise_features=head.normalise_features, normalise_weights=head.normalise_weights,
            ),
        )  # fmt: skip

    def pair(self, seed: int, *, alpha: float, teacher: nn.Module | None = None) -> tuple[nn.Module, nn.Module]:
        """Return a student's start and its teacher."""
        return near_teacher(self.net, alpha=alpha, seed=seed, teacher=teacher)

    def taught(
        self, seed: int, *, alpha: float, method: str, data: Any = None, teacher: nn.Module | None = None,
        training: Training | None = None, curve: bool = False,
    ) -> Taught:  # fmt: skip
        """Teach one student; without labels, whatever ``data`` (by default the training images) hold of them."""
        student, theirs = self.pair(seed, alpha=alpha, teacher=teacher)
        start, _ = self.pair(seed, alpha=alpha, teacher=teacher)
        shown = without_labels(self.bundle.train if data is None else data)
        result = teach(
            student, theirs, shown, training or self.training, method=method, seed=seed, device=self.lab.device,
            val=self.bundle.val if curve else None, task=ProbeTask(self.bundle.train, linear=False),
            progress=self.lab.progress.step,
        )  # fmt: skip
        return Taught(theirs, start, student, result)

    def probe(self, net: nn.Module, *, linear: bool = True) -> dict[str, float]:
        """Score an encoder (that of a network with a head) on the test images."""
        encoder = net.encoder if isinstance(net, Headed) else net
        return probed(encoder, self.bundle.train, self.bundle.test, linear=linear)

    def fewer(self, count: int) -> DictDataset:
        """Return so many of the training images, or all where there are fewer."""
        few = split(self.bundle.train, [min(count, len(self.bundle.train))])[0]
        read = few.batch(torch.arange(len(few)))
        return DictDataset(read["inputs"], read["labels"], read["id"])

    def noise(self, count: int, seed: int) -> DictDataset:
        """Return so many fixed samples of Gaussian noise."""
        like = torch.zeros(count, *self.bundle.input_shape)
        return DictDataset(noise_like(like, generator=torch.Generator().manual_seed(seed)))

    def steps(self, count: int, updates: int) -> Training:
        """Return a training of about so many updates on so many samples."""
        each = max(1, count // self.training.batch_size)
        return replace(self.training, epochs=max(1, round(updates / each)))
