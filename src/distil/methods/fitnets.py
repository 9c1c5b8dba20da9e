"""FitNets: regress the student's hidden map onto the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import Batch, Handles, Method, Traces
from distil.engine.trace import Spec, side_of
from distil.errors import DistilError
from distil.functional.features import mse
from distil.functional.reduction import Term
from distil.methods.align import map_or_embedding

__all__ = ["FitNets", "Regressor"]

UNREACHED = 0.05  # of the teacher's squares below zero: what a ReLU's features have by rounding alone is far less


@final
class Regressor(nn.Module):
    """Convolution, BatchNorm, ReLU from the student's map to the shape of the teacher's; for vectors one linear map.

    A student map twice as large is convolved with stride 2, one half as large is transposed-convolved, and one a little
    larger gets a kernel that cuts it down to size.

    Args:
        student_shape: ``(N, C_s, H_s, W_s)``, or ``(N, D_s)`` of an embedding; the batch size is not read.
        teacher_shape: ``(N, C_t, H_t, W_t)``, or ``(N, D_t)``.
        relu: whether maps end in a ReLU.

    >>> import torch
    >>> Regressor((1, 4, 8, 8), (1, 6, 4, 4))(torch.zeros(2, 4, 8, 8)).shape
    torch.Size([2, 6, 4, 4])
    """

    def __init__(self, student_shape: Sequence[int], teacher_shape: Sequence[int], *, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.conv: nn.Module
        self.bn: nn.Module | None = None
        if len(student_shape) == len(teacher_shape) == 2:
            self.conv = nn.Linear(student_shape[1], teacher_shape[1])
            return
        if len(student_shape) != 4 or len(teacher_shape) != 4:
            raise DistilError(
                f"FitNets matches feature maps [N, C, H, W] or embeddings [N, D]; the taps give {list(student_shape)} "
                f"(student) and {list(teacher_shape)} (teacher). "
                "Name a convolutional stage with FitNets(tap='path'), or the embedding with FitNets(tap='emb')."
            )
        (_, s_channels, s_height, s_width), (_, t_channels, t_height, t_width) = student_shape, teacher_shape
        if (s_height, s_width) == (2 * t_height, 2 * t_width):
            self.conv = nn.Conv2d(s_channels, t_channels, 3, stride=2, padding=1)
        elif (2 * s_height, 2 * s_width) == (t_height, t_width):
            self.conv = nn.ConvTranspose2d(s_channels, t_channels, 4, stride=2, padding=1)
        elif s_height >= t_height and s_width >= t_width:
            self.conv = nn.Conv2d(s_channels, t_channels, (1 + s_height - t_height, 1 + s_width - t_width))
        else:
            raise DistilError(
                f"FitNets has no regressor from a {s_height}x{s_width} student map to a {t_height}x{t_width} teacher "
                "map; tap a stage of the student that is larger, or exactly half as large."
            )
        self.bn = nn.BatchNorm2d(t_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return the regressed map or vector."""
        regressed: Tensor = self.conv(features)
        if self.bn is None:
            return regressed
        regressed = self.bn(regressed)
        return regressed.relu() if self.relu else regressed


@final
class FitNets(Method):
    """Mean squared error between a regressed student map and the teacher's at one middle stage.

    Args:
        tap: the stage, by default the middle one of both nets ("stages.1"); a path, or ``(student, teacher)``.
        relu: whether the regressor of maps ends in a ReLU, as published. It can match nothing below zero, which a
            transformer's features have, or a MobileNet's at its narrow layers; where they have much of it, a warning
            says so.

    Relations:
        AT compares where maps look rather than what they hold, and needs no regressor.

    Example:
        >>> from distil.methods import FitNets
        >>> FitNets(tap="layer2").taps
        ('layer2',)

    Paper: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv
    1412.6550. Differs from official code: follows the later practice of adding the hint to the loss (weight 100 in
    mdistiller) rather than a separate first stage; the regressor is mdistiller's. Its BatchNorm couples the batch
    while training. Embeddings are matched through a linear map, without BatchNorm and ReLU. ``relu=False`` is this
    project's.
    """

    at_equality = {"hint": "zero"}  # noqa: RUF012

    def __init__(self, *, tap: Spec = "stages.1", relu: bool = True, name: str | None = None) -> None:
        super().__init__(name=name)
        self.relu = relu
        self.tap: Spec = tap if isinstance(tap, str) else (tap[0], tap[1])
        self.taps = (self.tap,)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make the regressor from the shapes of the dry run."""
        ours, theirs = (map_or_embedding("fitnets", self.tap, trace) for trace in (student, teacher))
        self.regressor: nn.Module = Regressor(ours.shape, theirs.shape, relu=self.relu)
        below = float(theirs.clamp(max=0).square().sum() / theirs.square().sum().clamp(min=1e-30))
        if self.relu and theirs.ndim == 4 and below > UNREACHED:
            teacher.notes.append(
                f"{below:.0%} of the teacher's features at '{side_of(self.tap, teacher.role)}' (by their squares) lie "
                "below zero, where the ReLU at the end of FitNets' regressor cannot reach; fitnets(relu=false) leaves "
                "it out."
            )

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``hint``, one value per sample."""
        ours, theirs = (map_or_embedding("fitnets", self.tap, handle(batch)) for handle in (student, teacher))
        regressed = self.regressor(ours)
        # In training the BatchNorm of the regressor makes each value depend on the batch.
        coupled = self.training and regressed.ndim == 4
        return {"hint": Term(mse(regressed, theirs, reduction="none"), coupled=coupled)}
