"""How a model lays its maps: channels before height and width, or after them.

Read off what the layers do with tensors of a shape: a linear layer and a plain LayerNorm work on the last axis, a
convolution and BatchNorm on the second. A shape that both kinds handle is unclear, and said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

__all__ = ["CHANNELS_LAST", "UNCLEAR", "layouts"]

CHANNELS_LAST = "channels last"
UNCLEAR = "unclear"
Shape = tuple[int, ...]


def layouts(calls: Iterable[tuple[nn.Module, Tensor | None, Tensor | None]]) -> Callable[[Shape | None], str]:
    """Return a function from a shape ``[N, ., ., .]`` to how it is laid: "" is channels first, or not known better.

    Args:
        calls: every module called, with the first tensor of its input and of its output.

    >>> import torch
    >>> x, y = torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 8, 5)
    >>> laid = layouts([(nn.Linear(3, 5), x, y)])
    >>> laid((1, 8, 8, 5)), laid((1, 5, 8, 8))
    ('channels last', '')
    """
    first: set[Shape] = set()
    last: set[Shape] = set()
    for module, before, after in calls:
        side = last if _on_last_axis(module, before) else first if _on_second_axis(module) else None
        if side is not None:
            side |= {tuple(t.shape) for t in (before, after) if t is not None and t.ndim == 4}

    def laid(shape: Shape | None) -> str:
        if shape is None or shape not in last:
            return ""
        return UNCLEAR if shape in first else CHANNELS_LAST

    return laid


def _on_second_axis(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d))


def _on_last_axis(module: nn.Module, before: Tensor | None) -> bool:
    if before is None or before.ndim != 4:
        return False
    if isinstance(module, nn.Linear):
        return True
    if not isinstance(module, nn.LayerNorm) or len(module.normalized_shape) != 1:
        return False
    # timm's LayerNorm2d is a LayerNorm that works on the second axis of a map.
    return before.shape[-1] == module.normalized_shape[0] != before.shape[1]
