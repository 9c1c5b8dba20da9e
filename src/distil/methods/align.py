"""Feature maps as methods read them, and what brings a student's to the shape of the teacher's.

Every method on maps reads its taps here: maps as they are, tokens on the grid of their patches where that is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

from torch import Tensor, nn

from distil.engine.method import Traces
from distil.engine.trace import Spec, side_of
from distil.errors import DistilError
from distil.functional.dense import resize_match

__all__ = ["Align", "as_specs", "map_or_embedding", "map_pairs", "maps_of"]


@final
class Align(nn.Module):
    """A 1x1 convolution (with bias) where widths differ, then bilinear resizing where sizes differ; else nothing.

    >>> import torch
    >>> Align(4, 6)(torch.zeros(2, 4, 3, 3), torch.zeros(2, 6, 5, 5)).shape
    torch.Size([2, 6, 5, 5])
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        same = student_channels == teacher_channels
        self.conv: nn.Module = nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the student's map in the teacher's shape."""
        return resize_match(self.conv(student_map), teacher_map)


def as_specs(taps: Spec | Sequence[Any]) -> tuple[Spec, ...]:
    """Return ``taps=`` as a tuple of taps: one name, or a list of names and of ``(student, teacher)`` pairs.

    >>> as_specs("logits"), as_specs(["stages.1", ("up2", "up3")])
    (('logits',), ('stages.1', ('up2', 'up3')))
    """
    members = [taps] if isinstance(taps, str) else list(taps)
    if not members:
        raise DistilError("taps=[] names nothing to compare; name one tap at least, e.g. taps=logits.")
    return tuple(member if isinstance(member, str) else (member[0], member[1]) for member in members)


def maps_of(name: str, specs: Iterable[Spec], trace: Traces, *, tokens: bool = False) -> list[Tensor]:
    """Return the feature maps ``[N, C, H, W]`` at ``specs`` in order; a tap such as "stages" gives several.

    Args:
        name: the method, for an error.
        specs: the taps.
        trace: of one model.
        tokens: read token sequences ``[N, L, D]`` as maps of their patches where it is certain how these lie (see
            :func:`distil.engine.grid.token_grid`); else they are refused.

    Raises:
        DistilError: a tap gives no map; names the methods that fit.
    """
    found = []
    for spec in specs:
        value = trace[spec]
        found += [_map(name, spec, trace, v, tokens) for v in (value if isinstance(value, tuple) else (value,))]
    return found


def map_pairs(
    name: str, specs: Iterable[Spec], student: Traces, teacher: Traces, *, least: int = 1, tokens: bool = True
) -> list[tuple[Tensor, Tensor]]:
    """Return the maps at ``specs`` as (student, teacher) pairs, in order; tokens on their grid.

    Raises:
        DistilError: a tap gives no map, the two sides have different numbers of maps, or fewer than ``least``.
    """
    specs = tuple(specs)
    ours, theirs = (maps_of(name, specs, trace, tokens=tokens) for trace in (student, teacher))
    if len(ours) != len(theirs):
        raise DistilError(
            f"{name}(taps={list(specs)}): the student has {len(ours)} maps and the teacher {len(theirs)}; pair them by "
            "hand, e.g. taps=[('layer1', 'layer2'), …]."
        )
    if len(ours) < least:
        raise DistilError(
            f"{name}(taps={list(specs)}) finds {len(ours)} map, and it compares what happens between {least}; name "
            "more with taps=[…]."
        )
    return list(zip(ours, theirs, strict=True))


def map_or_embedding(name: str, spec: Spec, trace: Traces) -> Tensor:
    """Return the one map ``[N, C, H, W]`` or embedding ``[N, D]`` at ``spec``; tokens on their grid."""
    found = trace[spec]
    if isinstance(found, tuple):
        raise DistilError(
            f"{name} compares one feature map [N, C, H, W] or embedding [N, D]; tap '{spec}' of the {trace.role} gives "
            f"{len(found)} outputs. Name one of them, e.g. {name}(tap='stages.1') or {name}(tap='emb')."
        )
    return found if found.ndim == 2 else _map(name, spec, trace, found, True)


def _map(name: str, spec: Spec, trace: Traces, value: Tensor, tokens: bool) -> Tensor:
    why = ""
    if value.ndim == 4:
        return value
    if value.ndim == 3 and tokens:
        try:
            found: Tensor = trace.patches(spec, value)
        except DistilError as error:
            why = f" ({error})"
        else:
            return found
    raise DistilError(
        f"{name} compares feature maps [N, C, H, W]; tap '{side_of(spec, trace.role)}' of the {trace.role} gives "
        f"{list(value.shape)}{why}. Name convolutional stages or score maps, or use a method on logits or embeddings "
        "(kd, dkd, dist, rkd, pkt, cc, crd, sp(tap='emb'))."
    )
