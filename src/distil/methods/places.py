"""How a model's tokens lie, for methods that read them by place: as the dry run saw it, never by a likely number."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

from distil.engine.grid import placed
from distil.engine.method import Traces
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.tokens import Layout

__all__ = ["Lie", "layout_of", "lie_of", "square"]


class Lie(TypedDict):
    """How both sides' tokens lie, as :func:`distil.functional.token_pair` is told."""

    layouts: tuple[Layout | None, Layout | None]
    square: bool


def lie_of(name: str, spec: Spec, student: Traces, teacher: Traces, class_tokens: int | None) -> Lie:
    """Return how the tokens at ``spec`` lie on both sides, which see the same images.

    Raises:
        DistilError: tokens that are not those of the model's known grid, where ``class_tokens`` does not say why.
    """
    ours, theirs = (layout_of(name, spec, trace, trace[spec], class_tokens) for trace in (student, teacher))
    return {"layouts": (ours, theirs), "square": square(spec, student) or square(spec, teacher)}


def layout_of(name: str, spec: Spec, trace: Traces, features: Tensor, class_tokens: int | None) -> Layout | None:
    """Return how many tokens stand before the patches, and the patches' rows and columns; nothing where not known."""
    tap = trace.tap(spec)
    if features.ndim != 3 or tap is None:
        return None
    try:
        found = placed(tap.grid, features.shape[1], trace.role, class_tokens)
    except DistilError as error:
        raise DistilError(f"{name}: {error}") from None
    return None if found is None else (found.prefix, found.height, found.width)


def square(spec: Spec, trace: Traces) -> bool:
    """Return whether a model's patches, or else its images, are known to be as many down as across."""
    tap = trace.tap(spec)
    return tap is not None and tap.square
