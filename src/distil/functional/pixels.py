"""Images as parameters: how smooth they are, where they may lie, how they are shifted, and at which rate they move.

Paper: Yin, Xing, Shen, *Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective*
(SRe2L), NeurIPS 2023, arXiv 2306.13092; Zhang et al., *Breaking Class Barriers: Efficient Dataset Distillation via
Inter-Class Feature Compensator* (INFER), ICLR 2025, arXiv 2408.06927.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, positive, shaped
from distil.functional.reduction import working

__all__ = [
    "clipped_pixels",
    "compensated",
    "cosine_rate",
    "draw_rolls",
    "eight_bit",
    "rolled",
    "roughness",
    "unit_pixels",
]

KINDS = ("l2", "l1")


def roughness(images: Tensor, *, kind: str = "l2") -> Tensor:
    """Return the total variation of a batch of images along both axes and both diagonals, a scalar.

    With the differences d of neighbours to the right, below, and on the two diagonals: Σ_d ‖d‖₂ over the whole batch
    ("l2", grows with its size) or Σ_d mean |d| ("l1"). 0 for constant images.

    Args:
        images: [B, ch, H, W], at least 2 pixels high and wide.
        kind: "l2" or "l1".

    >>> roughness(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]), kind="l1")
    tensor(3.)

    Differs from official code: its "l1" divides by 255 and multiplies by 255 again, which this leaves out.
    """
    known("roughness", "kind", kind, KINDS)
    shaped("roughness", "the images", images, ("B", "ch", "H", "W"), "give a batch of images")
    if min(images.shape[-2:]) < 2:
        raise DistilError(f"roughness: images of {tuple(images.shape[-2:])} pixels have no neighbours; give 2 x 2.")
    (x,) = working(images)
    steps = (
        x[..., :-1] - x[..., 1:],
        x[..., :-1, :] - x[..., 1:, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., :-1, :-1] - x[..., 1:, 1:],
    )
    each = [step.abs().mean() if kind == "l1" else torch.linalg.vector_norm(step) for step in steps]
    return torch.stack(each).sum()


def _channels(values: Sequence[float] | Tensor, images: Tensor) -> Tensor:
    """Return one value for each channel, in the images' shape."""
    tensor = torch.as_tensor(values, dtype=images.dtype, device=images.device)
    shaped("pixels", "the channels' values", tensor, (images.shape[1],), "give one for each channel of the images")
    return tensor.view(1, -1, *(1,) * (images.ndim - 2))


def clipped_pixels(images: Tensor, *, mean: Sequence[float] | Tensor, deviation: Sequence[float] | Tensor) -> Tensor:
    """Return normalised images with every value back where a pixel can lie: from −mean/σ to (1 − mean)/σ.

    Args:
        images: [B, ch, …], normalised.
        mean, deviation: [ch], what images in [0, 1] were normalised by.

    >>> clipped_pixels(torch.tensor([[[-9.0, 0.5, 9.0]]]), mean=[0.5], deviation=[0.25])
    tensor([[[-2.0000,  0.5000,  2.0000]]])
    """
    middle, scale = _channels(mean, images), _channels(deviation, images)
    return torch.maximum(torch.minimum(images, (1 - middle) / scale), -middle / scale)


def unit_pixels(images: Tensor, *, mean: Sequence[float] | Tensor, deviation: Sequence[float] | Tensor) -> Tensor:
    """Return normalised images [B, ch, …] as pixels in [0, 1]: σ x + mean, cut off at both ends.

    >>> unit_pixels(torch.tensor([[[-2.0, 0.5, 9.0]]]), mean=[0.5], deviation=[0.25])
    tensor([[[0.0000, 0.6250, 1.0000]]])
    """
    return (images * _channels(deviation, images) + _channels(mean, images)).clamp(0, 1)


def eight_bit(images: Tensor) -> Tensor:
    """Return images in [0, 1] on the 256 levels that a PNG keeps; those that are there already stay as they are.

    >>> eight_bit(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.5020, 1.0000])
    """
    return (images.clamp(0, 1) * 255).round() / 255


def draw_rolls(steps: int, *, jitter: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw how far a batch is shifted at each step, int64 [steps, 2]: down and right, each uniform in 0 … ``jitter``.

    >>> draw_rolls(2, jitter=0)
    tensor([[0, 0],
            [0, 0]])
    """
    if steps < 0 or jitter < 0:
        raise DistilError(f"draw_rolls: steps={steps} and jitter={jitter} must not be below 0.")
    return torch.randint(jitter + 1, (steps, 2), generator=generator)


def rolled(images: Tensor, roll: Tensor) -> Tensor:
    """Return images [..., H, W] shifted down and right by ``roll`` [2]; what leaves one side comes in at the other.

    >>> rolled(torch.tensor([[1, 2, 3]]), torch.tensor([0, 1]))
    tensor([[3, 1, 2]])
    """
    down, right = (int(value) for value in roll)
    return torch.roll(images, (down, right), (-2, -1)) if down or right else images


def cosine_rate(rate: float, *, step: int, steps: int) -> float:
    """Return the learning rate at ``step`` = 0 … steps − 1: ½ (1 + cos(π step / steps)) · rate, which never reaches 0.

    >>> [round(cosine_rate(0.25, step=t, steps=4), 4) for t in range(4)]
    [0.25, 0.2134, 0.125, 0.0366]
    """
    positive("cosine_rate", "steps", steps)
    return 0.5 * (1 + math.cos(math.pi * step / steps)) * rate


def compensated(images: Tensor, compensators: Tensor) -> Tensor:
    """Return x + u: images [B, ch, H, W] with one additive image [1, ch, H, W] that all share, or one for each, [B, …].

    >>> compensated(torch.zeros(2, 1, 1, 1), torch.ones(1, 1, 1, 1)).flatten()
    tensor([1., 1.])
    """
    if len(compensators) not in (1, len(images)) or compensators.shape[1:] != images.shape[1:]:
        raise DistilError(
            f"compensated: additive images are {tuple(compensators.shape)} and images {tuple(images.shape)}; give one "
            "for all or one for each, of the images' own shape."
        )
    return images + compensators
