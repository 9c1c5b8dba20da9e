"""Places between trained networks: on the line through two of them, and on the plane through three."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distil.errors import DistilError

__all__ = ["Plane", "on_line", "plane_through"]


def on_line(first: Tensor, second: Tensor, *, share: float) -> Tensor:
    """Return (1 − share) · first + share · second: a place on the line through two points.

    >>> on_line(torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0]), share=0.25)
    tensor([1., 2.])
    """
    return torch.lerp(first, second, share)


@dataclass(frozen=True)
class Plane:
    """A plane: (a, b) is the place ``centre + a · axes[0] + b · axes[1]``.

    Args:
        centre: (D,).
        axes: (2, D).
        places: (3, 2), where the three points that made it are.
    """

    centre: Tensor
    axes: Tensor
    places: Tensor

    def at(self, a: float, b: float) -> Tensor:
        """Return the place (a, b), (D,)."""
        return self.centre + a * self.axes[0] + b * self.axes[1]


def plane_through(points: Tensor, *, orthonormal: bool = True, nearest_zero: bool = False) -> Plane:
    """Return the plane through three points.

    The plain axes are the second and the third point minus the first, so the points are (0, 0), (1, 0) and (0, 1).

    Args:
        points: (3, D), not on one line.
        orthonormal: axes of length 1 at right angles, from a singular value decomposition of the two differences, the
            first along the longest spread; distances on the plane are then those between weights.
        nearest_zero: the centre is the plane's point of the smallest norm instead of the first point.

    Raises:
        DistilError: if the points are not three, or lie on one line.

    >>> plane = plane_through(torch.tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [0.0, 3.0, 1.0]]), nearest_zero=True)
    >>> plane.centre
    tensor([0., 0., 1.])
    """
    if points.ndim != 2 or len(points) != 3:
        raise DistilError(f"plane_through: the points are {tuple(points.shape)} but (3, D) is expected.")
    first, spread = points[0], points[1:] - points[0]
    values = torch.linalg.svdvals(spread)
    if not float(values[-1]) > 1e-6 * float(values[0]):
        raise DistilError("plane_through: the three points lie on one line, and many planes go through it.")
    axes = torch.linalg.svd(spread, full_matrices=False).Vh if orthonormal else spread
    solve = torch.linalg.pinv(axes.mT)  # from a difference to its two coordinates
    centre = first - axes.mT @ (solve @ first) if nearest_zero else first
    return Plane(centre, axes, (points - centre) @ solve.mT)
