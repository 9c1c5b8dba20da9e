"""Feature maps and token sequences as the same tokens for student and teacher, and how the tokens of an image relate.

A token is one place of an image: a patch of a feature map, or a member of a transformer's sequence. Which of an image's
tokens take part in a graph is drawn here too; the graph itself is in `token_graph`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, shaped
from distil.functional.features import mse
from distil.functional.reduction import working

__all__ = ["draw_tokens", "gather_tokens", "image_values", "inner_relation", "token_attention", "token_pair"]

LEADING = (0, 1, 2)
"""How many leading tokens may be no patches, in the order in which they are tried: none, a class token, two of them."""
Layout = tuple[int, int, int]
"""How many leading tokens are no patches, and how many patches lie down and across."""
Shape = tuple[int, int]


def token_pair(
    student_features: Tensor,
    teacher_features: Tensor,
    *,
    patch: int = 1,
    grid: int | None = None,
    class_tokens: int | None = None,
    layouts: tuple[Layout | None, Layout | None] = (None, None),
    square: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return both sides' features as the same P tokens of each image.

    A map is cut into patches of ``patch`` x ``patch`` that do not overlap, each flattened to one token of C · patch²
    numbers, row by row. A transformer's tokens lose those that stand for no patch and, where they meet a map or another
    number of tokens, are laid out on their grid. Of two grids the larger is average-pooled to the smaller. An embedding
    is one token.

    Args:
        student_features: (B, C, H, W), (B, L, D) or (B, D).
        teacher_features: the same images; the form, the widths and the sizes may differ.
        patch: side of a patch, on the smaller grid; it must divide both sides of that.
        grid: both sides are pooled to ``grid`` x ``grid`` first, where they are larger; 1 makes one token an image.
        class_tokens: how many leading tokens of a sequence are no patches; by default as many of 0, 1 and 2 as leave
            the places of the other side, else a square.
        layouts: of the student's and of the teacher's sequence, where known: (leading tokens that are no patches, rows,
            columns). What is known is not guessed.
        square: the images are square, so that a number that is a square tells the grid; without it such a sequence is
            refused where nothing else tells it. 4 x 6 patches and a class token look like 5 x 5 patches.

    Returns:
        (B, P, D_s) and (B, P, D_t).

    Raises:
        DistilError: another form, other batches, a sequence whose grid is unknown, or a patch that does not divide.

    >>> ours, theirs = token_pair(torch.zeros(2, 3, 8, 8), torch.zeros(2, 17, 5))
    >>> ours.shape, theirs.shape
    (torch.Size([2, 16, 3]), torch.Size([2, 16, 5]))
    """
    if patch < 1 or (grid is not None and grid < 1):
        raise DistilError(f"token_pair: patch={patch} and grid={grid} must be whole numbers of at least 1.")
    student, teacher = working(student_features, teacher_features)
    if len(student) != len(teacher) or not {student.ndim, teacher.ndim} <= {2, 3, 4}:
        raise DistilError(
            f"token_pair: the student gives {tuple(student_features.shape)} and the teacher "
            f"{tuple(teacher_features.shape)}, but maps (B, C, H, W), tokens (B, L, D) or embeddings (B, D) of the "
            "same images are expected; tap a convolutional stage or a block."
        )
    shapes = [_shape(side, layout) for side, layout in zip((student, teacher), layouts)]
    sides = [
        _patches(side, class_tokens if layout is None else layout[0], other, square)
        for side, layout, other in zip((student, teacher), layouts, reversed(shapes))
    ]
    same_places = sides[0].shape[1] == sides[1].shape[1] and (None in shapes or shapes[0] == shapes[1])
    if student.ndim == teacher.ndim == 3 and patch == 1 and grid is None and same_places:
        return sides[0], sides[1]
    maps = [_laid_out(*given, square) for given in zip(sides, shapes, reversed(shapes))]
    height, width = (min(*sizes, *([] if grid is None else [grid])) for sizes in zip(*(m.shape[2:] for m in maps)))
    ours, theirs = (m if m.shape[2:] == (height, width) else F.adaptive_avg_pool2d(m, (height, width)) for m in maps)
    if height % patch or width % patch:
        raise DistilError(
            f"token_pair: a grid of {height}x{width} (the student gives {tuple(student_features.shape)}, the teacher "
            f"{tuple(teacher_features.shape)}) cannot be cut into patches of {patch}x{patch}; give patch= a divisor of "
            "both, or pool with grid=."
        )
    return _cut(ours, patch), _cut(theirs, patch)


def _shape(features: Tensor, layout: Layout | None) -> Shape | None:
    """Return the rows and columns of a map, or of a sequence where they are known."""
    if features.ndim == 4:
        return features.shape[2], features.shape[3]
    return None if layout is None else layout[1:]


def _patches(features: Tensor, leading: int | None, other: Shape | None, square: bool) -> Tensor:
    """Return a sequence without the leading tokens that are no patches; a map or an embedding as it is."""
    if features.ndim != 3:
        return features
    length = features.shape[1]
    if leading is None and other is not None:  # the other side says how many places there are
        leading = next((n for n in LEADING if length - n == math.prod(other)), None)
    if leading is None and square:
        leading = next((n for n in LEADING if length > n and math.isqrt(length - n) ** 2 == length - n), None)
    if leading is None:
        why = "are no square of patches, with or without one or two class tokens" if square else (
            "may lie in many ways: no grid of patches was seen, and the images are not known to be square"
        )  # fmt: skip
        raise DistilError(
            f"token_pair: {length} tokens {why}; say with class_tokens= how many leading tokens are no patches."
        )
    if not 0 <= leading < length:
        raise DistilError(
            f"token_pair: class_tokens={leading} leaves no patch of {length} tokens; give the number of leading tokens "
            "that are none, or leave it out."
        )
    return features[:, leading:]


def _laid_out(features: Tensor, shape: Shape | None, other: Shape | None, square: bool) -> Tensor:
    """Return a map: a sequence is laid out as is known, as the other side's map of as many places, or on a square."""
    if features.ndim == 4:
        return features
    if features.ndim == 2:
        return features[:, :, None, None]
    count = features.shape[1]
    if shape is None and other is not None and math.prod(other) == count:
        shape = other
    if shape is None:
        side = math.isqrt(count)
        if not square or side**2 != count:
            why = "are no square, so their grid is unknown" if square else "lie on a grid that is not known"
            raise DistilError(
                f"token_pair: {count} tokens {why}; give both sides as many tokens (with patch=1 and no grid=), or "
                "leave out class tokens with class_tokens=."
            )
        shape = side, side
    return features.mT.unflatten(2, shape)


def _cut(features: Tensor, patch: int) -> Tensor:
    return features.flatten(2).mT if patch == 1 else F.unfold(features, patch, stride=patch).mT


def token_attention(tokens: Tensor) -> Tensor:
    """Return how the tokens of each image attend to one another: the row softmax of F Fᵀ / √D.

    Args:
        tokens: (B, P, D).

    Returns:
        (B, P, P), rows that sum to 1; unchanged by a rotation of the D axes.

    >>> token_attention(torch.zeros(1, 2, 3))
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]])
    """
    shaped("token_attention", "the tokens", tokens, ("B", "P", "D"), "cut maps into tokens with token_pair")
    (tokens,) = working(tokens)
    with torch.autocast(tokens.device.type, enabled=False):
        return (tokens @ tokens.mT / math.sqrt(tokens.shape[2])).softmax(-1)


def inner_relation(
    student_tokens: Tensor, teacher_tokens: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return how differently the tokens of each image attend to one another: the mean squared gap of both attentions.

    (1/P²) Σ_pq (A^s_pq − A^t_pq)² with A of `token_attention`. Widths may differ. Unchanged by rotations of either
    space and by the order of the images; 0 where an image is one token.

    Args:
        student_tokens: (B, P, D_s).
        teacher_tokens: (B, P, D_t), the same places.
        weight: (B,).
        reduction: "mean", "sum" or "none" (one value per image).

    Raises:
        DistilError: if the two do not hold the same number of tokens of the same images.

    >>> inner_relation(torch.zeros(1, 2, 3), 9 * torch.eye(2)[None])
    tensor(0.2500)

    Paper: Zhang, Liu, He, *Knowledge Distillation via Token-level Relationship Graph*, 2023, arXiv 2306.12442.
    """
    if student_tokens.shape[:2] != teacher_tokens.shape[:2]:
        raise DistilError(
            f"inner_relation: the student gives {tuple(student_tokens.shape)} and the teacher "
            f"{tuple(teacher_tokens.shape)}, which must hold as many tokens of as many images; use token_pair."
        )
    return mse(token_attention(student_tokens), token_attention(teacher_tokens), weight=weight, reduction=reduction)


def draw_tokens(
    images: int,
    tokens: int,
    samples: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return which tokens of each image take part, drawn without replacement; all of them where ``samples`` suffice.

    Args:
        images: B.
        tokens: P, of each image.
        samples: n, at least 1.
        generator: of the CPU; the draw does not depend on the device.
        device: where the result is.

    Returns:
        (B, min(n, P)) positions, sorted within each image.

    >>> draw_tokens(2, 3, 8)
    tensor([[0, 1, 2],
            [0, 1, 2]])
    """
    if samples < 1:
        raise DistilError(f"draw_tokens: samples={samples} must be at least 1 token of each image.")
    if samples >= tokens:
        return torch.arange(tokens, device=device).repeat(images, 1)
    drawn = torch.rand(images, tokens, generator=generator).argsort(1)[:, :samples]
    return drawn.sort(1).values.to(device)


def gather_tokens(tokens: Tensor, positions: Tensor) -> Tensor:
    """Return the tokens at ``positions`` of every image as the nodes of one graph, image by image.

    Args:
        tokens: (B, P, D).
        positions: (B, n) of `draw_tokens`.

    Returns:
        (B · n, D).

    >>> gather_tokens(torch.arange(4.0).reshape(2, 2, 1), torch.tensor([[1], [0]])).flatten()
    tensor([1., 2.])
    """
    shaped("gather_tokens", "the tokens", tokens, ("B", "P", "D"), "cut maps into tokens with token_pair")
    shaped("gather_tokens", "positions", positions, (tokens.shape[0], "n"), "give one row of positions for each image")
    return tokens.gather(1, positions[:, :, None].expand(-1, -1, tokens.shape[2])).flatten(0, 1)


def image_values(values: Tensor, images: int, *, reduction: str = "mean") -> Tensor:
    """Return one value per image from one per node, so that their mean over images is the nodes' mean, or their sum.

    Args:
        values: (B · n,), image by image.
        images: B.
        reduction: of the nodes: "mean" or "sum".

    >>> image_values(torch.arange(4.0), 2), image_values(torch.arange(4.0), 2, reduction="sum")
    (tensor([0.5000, 2.5000]), tensor([ 2., 10.]))
    """
    known("image_values", "reduction", reduction, ("mean", "sum"))
    rows = values.unflatten(0, (images, -1))
    return images * rows.sum(1) if reduction == "sum" else rows.mean(1)
