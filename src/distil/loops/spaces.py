"""Spaces of architectures: two that are built in, and a user's own by name."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from distil.errors import DistilError, nearest
from distil.models.cnn import SmallCNN
from distil.models.load import import_own
from distil.models.resnet import CifarResNet

__all__ = ["S0", "SPACES", "TinyCNN", "load_space"]


@dataclass(frozen=True)
class S0:
    """The CIFAR ResNets with 1, 3, 5 or 7 blocks in each of three stages: 64 nets, all of one width.

    A genome is the blocks of each stage; mutation changes one stage.

    >>> S0().build((1, 3, 5)).fc.in_features, len(S0().all())
    (64, 64)
    """

    classes: int = 10
    channels: int = 3
    depths: tuple[int, ...] = (1, 3, 5, 7)
    widths: tuple[int, ...] = (16, 32, 64)

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Draw every stage."""
        return tuple(rng.choice(self.depths) for _ in self.widths)

    def mutate(self, genome: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
        """Give one stage another depth."""
        return _with_another(genome, rng.randrange(len(genome)), self.depths, rng)

    def build(self, genome: tuple[int, ...]) -> nn.Module:
        """Return the ResNet."""
        return CifarResNet(genome, classes=self.classes, channels=self.channels, widths=self.widths)

    def all(self) -> list[tuple[int, ...]]:
        """Return every genome."""
        return list(itertools.product(self.depths, repeat=len(self.widths)))


@dataclass(frozen=True)
class TinyCNN:
    """Plain convolutional nets for small images such as 28x28: two to four stages, the last 32 channels wide.

    A genome is the widths of the stages before the last, whose width is fixed so that every net's classifier reads as
    many values. Mutation changes a width, or adds or takes away a stage.

    >>> TinyCNN(channels=1).build((8, 16)).fc.in_features, len(TinyCNN().all())
    (32, 258)
    """

    classes: int = 10
    channels: int = 3
    widths: tuple[int, ...] = (4, 8, 12, 16, 24, 32)
    stages: tuple[int, ...] = (2, 3, 4)
    last: int = 32

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Draw the number of stages, then their widths."""
        return tuple(rng.choice(self.widths) for _ in range(rng.choice(self.stages) - 1))

    def mutate(self, genome: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
        """Change one width, insert a stage, or take one away."""
        place = rng.randrange(len(genome))
        shorter, longer = len(genome) in self.stages, len(genome) + 2 in self.stages
        change = rng.choice(["width", *["drop"] * shorter, *["insert"] * longer])
        if change == "drop":
            return genome[:place] + genome[place + 1 :]
        if change == "insert":
            return (*genome[:place], rng.choice(self.widths), *genome[place:])
        return _with_another(genome, place, self.widths, rng)

    def build(self, genome: tuple[int, ...]) -> nn.Module:
        """Return the net."""
        return SmallCNN(self.channels, self.classes, widths=(*genome, self.last))

    def all(self) -> list[tuple[int, ...]]:
        """Return every genome."""
        return [g for stages in self.stages for g in itertools.product(self.widths, repeat=stages - 1)]


SPACES: dict[str, type] = {"s0": S0, "tiny-cnn": TinyCNN}


def load_space(spec: str, *, classes: int, input_shape: Sequence[int]) -> Any:
    """Return a space by name: ``s0``, ``tiny-cnn``, or a user's own as ``module:object`` or ``file.py:object``.

    An object that has ``sample`` is taken as it is; a class or a function is called, and gets ``classes``,
    ``channels`` and ``input_shape`` if it names them.

    >>> load_space("tiny-cnn", classes=10, input_shape=(1, 28, 28)).channels
    1
    """
    context = {"classes": classes, "input_shape": tuple(input_shape), "channels": int(input_shape[0])}
    kind, colon, name = spec.rpartition(":")
    if not colon:
        if spec not in SPACES:
            hint = nearest(spec, SPACES).rstrip("?.")
            raise DistilError(f"There is no space '{spec}'; {hint}, or your own as module:object or file.py:object.")
        return SPACES[spec](classes=classes, channels=context["channels"])
    module = import_own(kind, f"the space {spec!r}")
    found = getattr(module, name, None)
    if found is None:
        raise DistilError(f"{kind!r} has no {name!r}; {nearest(name, [n for n in vars(module) if n[:1] != '_'])}")
    if not inspect.isclass(found) and callable(getattr(found, "sample", None)):
        return found
    if not callable(found):
        raise DistilError(f"The space '{spec}' is a {type(found).__name__}; an object with sample() is expected.")
    wanted = inspect.signature(found).parameters
    passed = {key: value for key, value in context.items() if key in wanted}
    try:
        return found(**passed)
    except Exception as error:
        raise DistilError(
            f"The space '{spec}' cannot be made with {passed}: {type(error).__name__}: {error}."
        ) from error


def _with_another(genome: tuple[int, ...], place: int, choices: Sequence[int], rng: random.Random) -> tuple[int, ...]:
    others = [value for value in choices if value != genome[place]]
    return (*genome[:place], rng.choice(others), *genome[place + 1 :])
