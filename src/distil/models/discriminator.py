"""A small net that tells from logits whose they are."""

from __future__ import annotations

from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["LogitDiscriminator"]


class LogitDiscriminator(nn.Module):
    """Three linear layers on logits: C → C // k → C // k // k → 2, a ReLU between each (and after the last, if wanted).

    MEAL V2's: its 1×1 convolutions on C×1×1 are these layers.

    Args:
        classes: C ≥ 1.
        reduction: k ≥ 1, by which widths shrink; 1,000 classes give 1000 → 125 → 15 → 2.
        final_relu: a ReLU after the last layer, as released: scores are then at least 0, and where both are 0 the loss
            rests at log 2 without a gradient.
        least: channels that a hidden layer keeps at least; 10 classes and k = 8 would leave 1 and 0.

    Shapes: ``[..., C]`` to ``[..., 2]``.

    >>> net = LogitDiscriminator(1000)
    >>> [layer.out_features for layer in (net.first, net.second, net.last)]
    [125, 15, 2]
    >>> LogitDiscriminator(10).second.out_features
    2
    """

    def __init__(self, classes: int, *, reduction: int = 8, final_relu: bool = False, least: int = 2) -> None:
        super().__init__()
        if classes < 1 or reduction < 1 or least < 1:
            raise DistilError(
                f"LogitDiscriminator: classes={classes}, reduction={reduction} and least={least} must each be at least "
                "1; MEAL V2 reduces by 8."
            )
        wide, narrow = max(least, classes // reduction), max(least, classes // reduction // reduction)
        self.first, self.second, self.last = nn.Linear(classes, wide), nn.Linear(wide, narrow), nn.Linear(narrow, 2)
        self.final_relu = final_relu

    def forward(self, logits: Tensor) -> Tensor:
        """Return the two scores of each row."""
        scores: Tensor = self.last(self.second(self.first(logits).relu()).relu())
        return scores.relu() if self.final_relu else scores
