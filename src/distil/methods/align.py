"""What brings a student's map to the shape of the teacher's: a 1x1 convolution and bilinear resizing, where needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

from torch import Tensor, nn

from distil.engine.method import Traces
from distil.engine.trace import Spec
from distil.errors import DistilError
from distil.functional.dense import resize_match

__all__ = ["Align", "as_specs", "maps_of"]


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


def maps_of(name: str, specs: Iterable[Spec], trace: Traces) -> list[Tensor]:
    """Return the feature maps at ``specs`` in order; a tap such as "stages" gives several."""
    found = [trace[spec] for spec in specs]
    maps = [m for value in found for m in (value if isinstance(value, tuple) else (value,))]
    flat = [m for m in maps if m.ndim != 4]
    if flat:
        raise DistilError(
            f"{name} compares maps [N, C, H, W]; a tap of the {trace.role} gives {list(flat[0].shape)}. Name score "
            "maps or convolutional stages with taps=, or use a method on logits or embeddings (kd, dkd, dist, rkd)."
        )
    return maps
