"""Where the tokens of an image model lie: which of them are patches, and on what grid, as far as that is certain."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["TokenGrid", "laid", "placed", "square_images", "token_grid", "told"]

LIBRARIES = ("timm", "torchvision", "transformers", "distil")
UNTOLD = (0, 1, 2)
"""How many tokens may stand before the patches of a model that says of none."""
EXTRA = ("cls_token", "class_token", "dist_token", "distillation_token", "reg_token", "register_tokens")
"""Parameters ``[1, k, D]`` of those libraries' models that stand before the patches."""


class Record(Protocol):
    """What the dry run saw of one module, as far as it is asked for here."""

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of its input."""

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """The shape of its output."""


@dataclass(frozen=True)
class TokenGrid:
    """``height`` x ``width`` patches, row by row, behind ``prefix`` other tokens (class, distillation, registers).

    >>> import torch
    >>> TokenGrid(1, 2, 3).map(torch.arange(7.0).view(1, 7, 1))
    tensor([[[[1., 2., 3.],
              [4., 5., 6.]]]])
    """

    prefix: int
    height: int
    width: int

    def map(self, tokens: Tensor) -> Tensor | None:
        """Return the patches of ``[N, L, D]`` as ``[N, D, height, width]``; nothing where L is another number.

        As many tokens as there are patches are the patches: what stands before them joins later, or has left.
        """
        patches = self.height * self.width
        before = tokens.shape[1] - patches
        if before not in (0, self.prefix):
            return None
        return tokens[:, before:].transpose(1, 2).unflatten(2, (self.height, self.width))

    def fit(self, length: int, class_tokens: int | None = None) -> TokenGrid | None:
        """Return how ``length`` tokens of this model lie: on this grid, or on the one coarser grid that they fill.

        Args:
            length: all tokens.
            class_tokens: how many stand before the patches, as the user says; else those of this grid, none, or, where
                the model says of none, one or two.

        >>> TokenGrid(1, 4, 6).fit(25), TokenGrid(1, 4, 6).fit(7), TokenGrid(1, 4, 6).fit(26)
        (TokenGrid(prefix=1, height=4, width=6), TokenGrid(prefix=1, height=2, width=3), None)
        """
        before = ({0, self.prefix} if self.prefix else set(UNTOLD)) if class_tokens is None else {class_tokens}
        found = []
        for k in range(1, min(self.height, self.width) + 1):
            height, width = self.height // k, self.width // k
            if (height * k, width * k) == (self.height, self.width) and length - height * width in before:
                found.append(TokenGrid(length - height * width, height, width))
        return found[0] if found and (len(found) == 1 or found[0].height == self.height) else None

    def __str__(self) -> str:
        kept = f"{self.height}x{self.width} patches"
        if not self.prefix:
            return kept
        return f"{kept}, without the {self.prefix} token{'s' if self.prefix > 1 else ''} before them"


def token_grid(model: nn.Module, records: Mapping[str, Record]) -> TokenGrid | str:
    """Return how the tokens of a model lie, or why that is not known, as words for an error.

    The grid is the map of the convolution whose flattened output is the first token sequence of that width. How many
    tokens stand before the patches is known from ``num_prefix_tokens`` of the model or a part of it (timm has it, and
    any model may), else from the class and register tokens of models of timm, torchvision, transformers and distil.

    Args:
        model: the module that was watched.
        records: what its calls gave, in order of their end.
    """
    modules = dict(model.named_modules())
    cut: tuple[int, ...] = ()
    for path, record in records.items():
        shape = record.output_shape or ()
        if len(shape) == 4 and isinstance(modules.get(path), nn.Conv2d):
            cut = shape
        elif cut and len(shape) == 3 and shape[1] > 1 and (shape[0], shape[2]) == cut[:2]:
            return TokenGrid(_before(model, shape[2]), cut[2], cut[3])
    return "no convolution was seen to cut an image into them"


def laid(grid: TokenGrid | str, tokens: Tensor, role: str, notes: list[str]) -> Tensor:
    """Return tokens ``[N, L, D]`` as the map ``[N, D, h, w]`` of their patches, and add a sentence on it to ``notes``.

    Raises:
        DistilError: it is not certain which tokens are patches, or on what grid.
    """
    found = grid.map(tokens) if isinstance(grid, TokenGrid) else None
    if found is None:
        if isinstance(grid, TokenGrid):
            grid = f"{tokens.shape[1]} are not {grid}; num_prefix_tokens on a model of your own says how many are none"
        raise DistilError(f"where they lie is not certain: {grid or 'no dry run saw them'}")
    note = f"Maps of the {role} are made of its tokens: {grid}."
    if note not in notes:
        notes.append(note)
    return found


def placed(grid: TokenGrid | str, length: int, role: str, class_tokens: int | None) -> TokenGrid | None:
    """Return how ``length`` tokens lie (see :meth:`TokenGrid.fit`); nothing where the model's grid does not say.

    Raises:
        DistilError: the grid is known, these tokens do not fill it, and the user did not say what stands before them.
    """
    found = grid.fit(length, class_tokens) if isinstance(grid, TokenGrid) else None
    if found is None and isinstance(grid, TokenGrid) and class_tokens is None:
        raise DistilError(
            f"the {length} tokens of the {role} are not its {grid}; say with class_tokens= how many of them stand "
            "before the patches, or name another tap."
        )
    return found


def square_images(records: Mapping[str, Record]) -> bool:
    """Return whether the model was seen to take images as high as wide."""
    shape = records[""].input_shape if "" in records else None
    return shape is not None and len(shape) == 4 and shape[2] == shape[3]


def told(*traces: Any) -> list[str]:
    """Say once, as warnings, what the dry run found to be said of how taps are read, and return it."""
    each = [trace for found in traces for trace in (found.values() if isinstance(found, Mapping) else (found,))]
    notes = list(dict.fromkeys(note for trace in each for note in getattr(trace, "notes", ())))
    for note in notes:
        warnings.warn(note, stacklevel=5)
    return notes


def _before(model: nn.Module, width: int) -> int:
    for module in model.modules():
        told = getattr(module, "num_prefix_tokens", None)
        if isinstance(told, int):
            return told
    return sum(_extra(model, width))


def _extra(model: nn.Module, width: int) -> Iterator[int]:
    for module in model.modules():
        if type(module).__module__.partition(".")[0] in LIBRARIES:
            for name, value in module.named_parameters(recurse=False):
                if name in EXTRA and value.ndim == 3 and (value.shape[0], value.shape[2]) == (1, width):
                    yield value.shape[1]
