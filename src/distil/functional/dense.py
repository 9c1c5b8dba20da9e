"""Comparisons of dense predictions: distributions over positions or over classes of a map, and maps of unequal size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, positive, same_shape, shaped
from distil.functional.reduction import reduce, working

__all__ = ["cwd", "resize_match"]

NORMS = ("channel", "spatial", "channel_mean")
DIVERGENCES = ("kl", "mse")


def resize_match(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the student's map resized to the teacher's height and width (bilinear); itself where they are equal.

    >>> resize_match(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 8, 6)).shape
    torch.Size([2, 3, 8, 6])
    """
    fix = "tap feature maps of both nets"
    shaped("resize_match", "the student's map", student_map, ("B", "C", "H", "W"), fix)
    shaped("resize_match", "the teacher's map", teacher_map, (student_map.shape[0], "C", "H", "W"), fix)
    size = teacher_map.shape[2:]
    if student_map.shape[2:] == size:
        return student_map
    (student,) = working(student_map)
    return F.interpolate(student, size=size, mode="bilinear", align_corners=False)


def cwd(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    temperature: float = 4.0,
    norm: str = "channel",
    divergence: str = "kl",
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return channel-wise distillation: what a channel finds where, compared as a distribution over positions.

    - "channel": τ² KL(softmax_hw(t / τ) ‖ softmax_hw(s / τ)) for each channel; unchanged by a constant per channel.
    - "spatial": the same over classes for each position; unchanged by a constant per position.
    - "channel_mean": the squared difference of a channel's means (divergence "mse" only).

    Args:
        student_map: (B, C, H, W), aligned to the teacher's shape.
        teacher_map: the same shape.
        temperature: τ above 0; "mse" takes 1 whatever is given, as the official code does.
        norm: "channel", "spatial" or "channel_mean".
        divergence: "kl", or "mse" (the summed squared difference of the distributions).
        weight: broadcastable to the values.
        reduction: "mean", "sum" or "none": (B, C), for "spatial" (B, H, W).

    Raises:
        DistilError: if the shapes differ, or an option is unknown.

    >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 4.0]]]])
    >>> cwd(student, teacher, temperature=4.0)
    tensor(1.7751)

    Paper: Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction*, ICCV 2021, arXiv 2011.13256.
    Differs from official code: log-space, where it takes the logarithm of a softmax. mmrazor's is "channel".
    """
    known("cwd", "norm", norm, NORMS)
    known("cwd", "divergence", divergence, DIVERGENCES)
    positive("cwd", "temperature", temperature)
    same_shape("cwd", student_map, teacher_map, "put a 1x1 convolution on the student, or tap maps of one size")
    shaped("cwd", "the student's map", student_map, ("B", "C", "H", "W"), "tap a feature map or a score map")
    student, teacher = working(student_map, teacher_map)
    if norm == "channel_mean":
        if divergence == "kl":
            raise DistilError("cwd: norm='channel_mean' compares numbers, not distributions; use divergence='mse'.")
        return reduce((student.mean((2, 3)) - teacher.mean((2, 3))).square(), weight, reduction=reduction)
    if norm == "channel":
        student, teacher = student.flatten(2), teacher.flatten(2)
    dim = 2 if norm == "channel" else 1
    if divergence == "mse":
        values = (student.softmax(dim) - teacher.softmax(dim)).square().sum(dim)
    else:
        log_s, log_t = (torch.log_softmax(m / temperature, dim) for m in (student, teacher))
        values = temperature**2 * (log_t.exp() * (log_t - log_s)).sum(dim)
    return reduce(values, weight, reduction=reduction)
