"""Small classifiers of texts: a bag of words and a convolutional net, for students that run anywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError

__all__ = ["BagOfWords", "TextCNN"]


class BagOfWords(nn.Module):
    """Mean of word vectors → Linear → ReLU → dropout → Linear (the deep averaging network, one hidden layer).

    ``forward(input_ids, attention_mask)`` takes int64 ``[B, T]`` both and returns logits ``[B, classes]``; places whose
    mask is 0 count for nothing. The order of the words does not matter to it.

    Args:
        vocab: the number of entries of the tokenizer.
        classes: the number of outputs.
        dim: the width of a word vector.
        hidden: the width of the hidden layer; 0 leaves it out, and the net is linear in the mean.
        dropout: the probability of zeroing a hidden unit, in [0, 1).

    >>> BagOfWords(100, 3)(torch.ones(2, 5, dtype=torch.long)).shape
    torch.Size([2, 3])

    Paper: Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", ACL 2015; its
    word dropout is left out.
    """

    def __init__(self, vocab: int, classes: int, *, dim: int = 64, hidden: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        _check("BagOfWords", {"vocab": vocab, "classes": classes, "dim": dim}, dropout)
        self.embedding = nn.Embedding(vocab, dim)
        self.hidden = nn.Linear(dim, hidden) if hidden else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden or dim, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return logits ``[B, classes]``."""
        vectors = self.embedding(input_ids)
        mask = _mask(input_ids, attention_mask)[..., None].to(vectors.dtype)
        mean = (vectors * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.head(self.dropout(mean if self.hidden is None else F.relu(self.hidden(mean))))


class TextCNN(nn.Module):
    """Word vectors → convolutions over 1D windows with residuals → maximum over the text → dropout → Linear.

    ``forward(input_ids, attention_mask)`` takes int64 ``[B, T]`` both and returns logits ``[B, classes]``. Padding is
    zeroed before every convolution and left out of the maximum, so a text's logits do not depend on its batch.

    Args:
        vocab: the number of entries of the tokenizer.
        classes: the number of outputs.
        dim: the width of word vectors and channels.
        layers: the number of convolutions.
        kernel: the odd width of their window.
        dropout: the probability of zeroing a pooled channel, in [0, 1).

    >>> TextCNN(100, 3, dim=8)(torch.ones(2, 5, dtype=torch.long)).shape
    torch.Size([2, 3])

    Paper: after Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, which has one layer of
    several widths side by side; here equal widths are stacked.
    """

    def __init__(
        self, vocab: int, classes: int, *, dim: int = 64, layers: int = 2, kernel: int = 3, dropout: float = 0.1
    ) -> None:
        super().__init__()
        _check("TextCNN", {"vocab": vocab, "classes": classes, "dim": dim, "layers": layers, "kernel": kernel}, dropout)
        if kernel % 2 == 0:
            raise DistilError(f"TextCNN: kernel={kernel} is even; give an odd width, so that a window has a middle.")
        self.embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(_Window(dim, kernel) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return logits ``[B, classes]``."""
        mask = _mask(input_ids, attention_mask)[..., None]
        hidden = self.embedding(input_ids)
        for block in self.blocks:
            hidden = block(hidden, mask)
        # A text of padding alone would have a maximum of minus infinity.
        pooled = hidden.masked_fill(mask == 0, torch.finfo(hidden.dtype).min).amax(1)
        pooled = pooled.masked_fill(mask.sum(1) == 0, 0.0)
        return self.head(self.dropout(pooled))


class _Window(nn.Module):
    """One residual convolution on ``[B, T, D]``."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        kept = hidden * mask.to(hidden.dtype)
        return kept + F.relu(self.convolution(kept.transpose(1, 2)).transpose(1, 2))


def _mask(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    return torch.ones_like(input_ids) if attention_mask is None else attention_mask


def _check(name: str, sizes: dict[str, Any], dropout: float) -> None:
    wrong = next((key for key, value in sizes.items() if not isinstance(value, int) or value < 1), None)
    if wrong is not None:
        raise DistilError(f"{name}: {wrong}={sizes[wrong]!r} must be a whole number of at least 1.")
    if not 0.0 <= dropout < 1.0:
        raise DistilError(f"{name}: dropout={dropout} is outside [0, 1); use for example 0.1.")
