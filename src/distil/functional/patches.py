"""Images as patches of which most are hidden: cutting, random masks with ids, reconstruction, and tokens compared.

Paper: He et al., *Masked Autoencoders Are Scalable Vision Learners* (MAE), CVPR 2022, arXiv 2111.06377; Bai et al.,
*Masked Autoencoders Enable Efficient Knowledge Distillers* (DMAE), CVPR 2023, arXiv 2208.12256.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import known, same_shape, shaped
from distil.functional.reduction import reduce, working

__all__ = [
    "PatchMask",
    "masked_reconstruction",
    "patch_mask",
    "patch_noise",
    "patch_targets",
    "patchify",
    "restore_patches",
    "take_patches",
    "token_distance",
]

DISTANCES = ("l1", "l2")


class PatchMask(NamedTuple):
    """Which patches of each image are seen.

    Attributes:
        keep: (N, V) int64, the visible patches, those of the smallest noise first.
        restore: (N, L) int64; a sequence of the visible patches followed by L − V others, gathered by it, is in the
            image's order again.
        removed: (N, L) float32, 0 for a visible patch and 1 for a removed one.
    """

    keep: Tensor
    restore: Tensor
    removed: Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images into patches, row by row; within a patch the order is row, column, channel.

    Args:
        images: (N, C, H, W), both sides multiples of ``patch``.
        patch: the side of a patch.

    Returns:
        (N, L, patch² · C) with L = (H / patch) · (W / patch).

    Raises:
        DistilError: if the images are no batch of images, or a side is not a multiple of the patch.

    >>> patchify(torch.arange(8.0).reshape(1, 1, 2, 4), 2)
    tensor([[[0., 1., 4., 5.],
             [2., 3., 6., 7.]]])
    """
    fix = "give a batch of images"
    shaped("patchify", "the images", images, ("N", "C", "H", "W"), fix)
    height, width = images.shape[2:]
    if patch < 1 or height % patch or width % patch:
        raise DistilError(
            f"patchify: images of {height}x{width} cannot be cut into patches of {patch}x{patch}; give a divisor of "
            "both sides, or resize the images."
        )
    cut = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (N, C, h, p, w, q)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def patch_noise(
    count: int, patches: int, *, generator: torch.Generator | None = None, ids: Tensor | None = None
) -> Tensor:
    """Draw the noise that `patch_mask` sorts, uniform in [0, 1).

    Args:
        count: N, the images.
        patches: L, the patches of each.
        generator: what is drawn from.
        ids: (N,) int64; with them each row is drawn from its own id alone, so that a sample has the same mask whenever
            and with whomever it is seen (for a loss that is only measured).

    Returns:
        (N, L) float32, on the CPU.

    >>> rows = patch_noise(3, 4, ids=torch.tensor([7, 2, 7]))
    >>> bool((rows[0] == rows[2]).all()), bool((rows[0] == rows[1]).any())
    (True, False)
    """
    if ids is None:
        return torch.rand(count, patches, generator=generator)
    if len(ids) != count:
        raise DistilError(f"patch_noise: {len(ids)} ids name {count} images; give one id for each.")
    rows = [torch.rand(patches, generator=torch.Generator().manual_seed(int(each))) for each in ids.tolist()]
    return torch.stack(rows) if rows else torch.empty(0, patches)


def patch_mask(noise: Tensor, ratio: float) -> PatchMask:
    """Remove a share of each image's patches at random; the V = int(L · (1 − ratio)) of the smallest noise are kept.

    The whole number is taken as floats give it: ten patches at ratio 0.9 leave 0.9999…, hence none, which is refused.

    Args:
        noise: (N, L), one number for each patch.
        ratio: in [0, 1), the share that is removed; 0 keeps all.

    Raises:
        DistilError: if the ratio is outside [0, 1), or no patch would stay.

    >>> mask = patch_mask(torch.tensor([[0.3, 0.1, 0.9, 0.2]]), 0.5)
    >>> mask.keep, mask.removed, mask.restore
    (tensor([[1, 3]]), tensor([[1., 0., 1., 0.]]), tensor([[2, 0, 3, 1]]))
    """
    shaped("patch_mask", "the noise", noise, ("N", "L"), "give one number for each patch of each image")
    if not 0 <= ratio < 1:
        raise DistilError(f"patch_mask: ratio={ratio} must be in [0, 1); it is the share of patches that is removed.")
    patches = noise.shape[1]
    visible = int(patches * (1 - ratio))
    if visible < 1:
        raise DistilError(
            f"patch_mask: ratio={ratio} leaves none of {patches} patches to see; give a smaller ratio, larger images, "
            "or smaller patches."
        )
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    return PatchMask(order[:, :visible], restore, (restore >= visible).float())


def take_patches(tokens: Tensor, keep: Tensor) -> Tensor:
    """Return the tokens of the visible patches, in the order of ``keep``.

    Args:
        tokens: (N, L, D), one for each patch.
        keep: (N, V) int64.

    Returns:
        (N, V, D).

    >>> take_patches(torch.arange(3.0).reshape(1, 3, 1), torch.tensor([[2, 0]])).flatten()
    tensor([2., 0.])
    """
    fix = "give the ids that patch_mask returned for this batch"
    shaped("take_patches", "the list of visible patches", keep, (tokens.shape[0], "V"), fix)
    return tokens.gather(1, keep.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def restore_patches(tokens: Tensor, filler: Tensor, restore: Tensor) -> Tensor:
    """Put tokens of visible patches back where they were, and a filler token everywhere else.

    Args:
        tokens: (N, V, D).
        filler: (D,) or (1, 1, D), for every removed patch.
        restore: (N, L) int64, L ≥ V.

    Returns:
        (N, L, D).

    >>> restore_patches(torch.tensor([[[5.0]]]), torch.zeros(1), torch.tensor([[1, 0, 2]])).flatten()
    tensor([0., 5., 0.])
    """
    count, seen, dim = tokens.shape
    fix = "give the ids that patch_mask returned for this batch"
    shaped("restore_patches", "the order", restore, (count, "L"), fix)
    if restore.shape[1] < seen:
        raise DistilError(
            f"restore_patches: there are {seen} visible tokens and only {restore.shape[1]} places; leave out the class "
            "token."
        )
    fillers = filler.reshape(1, 1, dim).expand(count, restore.shape[1] - seen, dim).to(tokens.dtype)
    whole = torch.cat([tokens, fillers], 1)
    return whole.gather(1, restore.unsqueeze(2).expand(-1, -1, dim))


def patch_targets(images: Tensor, patch: int, *, normalise: bool = False, eps: float = 1e-6) -> Tensor:
    """Return what a masked autoencoder reconstructs: the pixels of each patch, as they are or normalised per patch.

    ``(x − mean) / sqrt(var + eps)`` with the unbiased variance over a patch's pixels and channels; a constant patch
    gives 0, and so does a patch of one value.

    Args:
        images: (N, C, H, W), both sides multiples of ``patch``.
        patch: the side of a patch.
        normalise: each patch to mean 0 and variance 1.
        eps: added to the variance.

    Returns:
        (N, L, patch² · C), as `patchify`; half precision is raised to float32.

    >>> patch_targets(torch.tensor([[[[1.0, 3.0]]]]), 1, normalise=True).flatten()
    tensor([0., 0.])
    """
    (pixels,) = working(patchify(images, patch))
    if not normalise:
        return pixels
    centred = pixels - pixels.mean(-1, keepdim=True)
    if pixels.shape[-1] == 1:
        return centred
    return centred / (pixels.var(-1, keepdim=True) + eps).sqrt()


def masked_reconstruction(
    prediction: Tensor, targets: Tensor, removed: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return the squared error of predicted patches, where the patch was removed.

    ``Σ removed · mean_pixels (prediction − target)² / Σ removed`` over all patches of the batch; 0 where none was
    removed. Visible patches change nothing.

    Args:
        prediction: (N, L, D).
        targets: the same shape, from `patch_targets`.
        removed: (N, L), 1 for a removed patch and 0 for a visible one.
        weight: broadcastable to (N, L), e.g. (N, 1) for one weight per image.
        reduction: "mean", "sum" or "none": (N, L), 0 at visible patches.

    Raises:
        DistilError: if the shapes do not fit.

    >>> prediction, targets = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 3.0], [9.0, 9.0]]])
    >>> masked_reconstruction(prediction, targets, torch.tensor([[1.0, 0.0]]))
    tensor(5.)

    Paper: MAE, CVPR 2022, arXiv 2111.06377. Differs from official code: with nothing removed it is 0, not NaN.
    """
    fix = "predict patch² · channels numbers for each patch, and cut the targets with the same patch"
    same_shape("masked_reconstruction", prediction, targets, fix)
    shaped("masked_reconstruction", "the mask", removed, prediction.shape[:2], "take `removed` of this batch's mask")
    predicted, wanted = working(prediction, targets)
    values = (predicted - wanted).square().mean(-1)
    counted = removed if weight is None else removed * weight
    return reduce(values, counted, reduction=reduction)


def token_distance(
    student_tokens: Tensor,
    teacher_tokens: Tensor,
    *,
    distance: str = "l1",
    normalise: bool = True,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return how far the student's tokens are from the teacher's, each scaled to length 1 over its channels.

    "l1": mean |s − t|; "l2": mean (s − t)²; means over tokens and channels. With ``normalise`` it does not change
    under a positive scale of any token of either side, and lies in [0, 2] ("l1") or [0, 4] ("l2"); for random
    directions "l1" is about ``0.8 · sqrt(2 / D)``, small where D is large.

    Args:
        student_tokens: (N, V, D), after the projection.
        teacher_tokens: the same shape.
        distance: "l1" or "l2".
        normalise: divide each token by its length (at least 1e-12) first.
        weight: (N,) or broadcastable to it.
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if the shapes differ or are no tokens, or the distance is unknown.

    >>> student, teacher = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 5.0]]])
    >>> token_distance(student, teacher), token_distance(student, teacher, normalise=False)
    (tensor(1.), tensor(3.5000))

    Paper: DMAE, CVPR 2023, arXiv 2208.12256, whose formula shows no normalisation and whose code has it wherever the
    student is projected.
    """
    known("token_distance", "distance", distance, DISTANCES)
    fix = "project the student's tokens to the teacher's width, and show both the same patches"
    same_shape("token_distance", student_tokens, teacher_tokens, fix)
    shaped("token_distance", "the student's tokens", student_tokens, ("N", "V", "D"), "tap a transformer's block")
    student, teacher = working(student_tokens, teacher_tokens)
    if normalise:
        student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    gap = student - teacher
    values = (gap.abs() if distance == "l1" else gap.square()).mean((1, 2))
    return reduce(values, weight, reduction=reduction)
