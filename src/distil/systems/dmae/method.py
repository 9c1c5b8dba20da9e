"""DMAE as a method: one mask for both networks, removed pixels to reconstruct, and the teacher's tokens at a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, final

from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, Traces, as_sum
from distil.errors import DistilError, nearest
from distil.functional.patches import (
    PatchMask,
    masked_reconstruction,
    patch_mask,
    patch_noise,
    patch_targets,
    token_distance,
)
from distil.functional.reduction import Term
from distil.models.masked import HEADS, MaskedAutoencoder, token_head
from distil.tasks.base import BatchReader

__all__ = ["DMAE", "published"]

DISTANCES = ("l1", "l2")
PAIRS = ((8, 17),)


@final
class DMAE(Method):
    """Masked autoencoding that also meets a teacher's tokens of the same visible patches.

    ``L = mean over removed patches (pred − pixels)² + weight · Σ_k mean |n(σ_k(z_S)) − n(z_T)|``, with z the output of
    a block (class token included, before the final norm), σ a head for each token, n the scaling to length 1 over
    channels. The mask is drawn once for each sample and step and shown to both; the teacher's pass stops at its last
    aligned block.

    Args:
        pairs: aligned blocks, ``((student, teacher), …)``, counted from 0; (8, 17) is ¾ of 12 and of 24.
        mask_ratio: in [0, 1), the share of patches that is removed.
        reconstruction: whether pixels are reconstructed; without it the decoder does not run.
        weight: α, how much the teacher counts; with 0 no teacher is needed (plain masked autoencoding).
        head: "fc-1layer", "mlp-1layer", "mlp-2layer", or "none" for equal widths.
        distance: "l1" or "l2".
        normalise: scale tokens to length 1; by default where there is a head, as the code does.
        norm_pix: reconstruct pixels normalised per patch.

    Requirements: student and teacher are :class:`~distil.models.MaskedAutoencoder` (the teacher's decoder is never
    run), of one grid of patches; no labels. Use ``task="features"``: the encoder ships, and has no classes. A cached
    teacher does not know masked inputs.

    Relations:
        With ``weight=0`` it is a masked autoencoder (MAE); FitNets compares whole images without a mask.

    Example:
        >>> from distil.systems.dmae import DMAE
        >>> DMAE(pairs=((2, 2),)).taps
        (('encoder.blocks.2', 'encoder.blocks.2'),)

    Paper: Bai, Wang, Xiao, Wei, Xie, Yuille, Zhou, Masked Autoencoders Enable Efficient Knowledge Distillers, CVPR
    2023, arXiv 2208.12256.
    Differs from official code: the teacher's pass stops at its last aligned block (same numbers); ``weight`` is free;
    "mlp-2layer" runs; a mask that removes nothing gives 0, not NaN; in evaluation a sample's mask depends on its id.
    """

    labels = False
    at_equality: Mapping[str, AtEquality] = {"reconstruction": None, "distil": "zero"}

    def __init__(
        self,
        *,
        pairs: Sequence[Sequence[int]] = PAIRS,
        mask_ratio: float = 0.75,
        reconstruction: bool = True,
        weight: float = 1.0,
        head: str = "fc-1layer",
        distance: str = "l1",
        normalise: bool | None = None,
        norm_pix: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        for key, value, options in (("head", head, HEADS), ("distance", distance, DISTANCES)):
            if value not in options:
                raise DistilError(f"dmae({key}={value!r}) is unknown; {nearest(str(value), options)}")
        if not 0 <= mask_ratio < 1:
            raise DistilError(f"dmae(mask_ratio={mask_ratio}) must be in [0, 1): the share of patches that is removed.")
        if weight < 0 or not (weight or reconstruction):
            raise DistilError(f"dmae(weight={weight}) must not be below 0, nor 0 without reconstruction.")
        self.pairs = _pairs(pairs) if weight else ()
        self.mask_ratio, self.reconstruction, self.weight = mask_ratio, reconstruction, weight
        self.head, self.distance, self.norm_pix = head, distance, norm_pix
        self.normalise = head != "none" if normalise is None else normalise
        self.taps = tuple((f"encoder.blocks.{s}", f"encoder.blocks.{t}") for s, t in self.pairs)
        known: dict[str, AtEquality] = {"reconstruction": None, "distil": "zero"}
        self.at_equality = {k: known[k] for k, on in (("reconstruction", reconstruction), ("distil", weight)) if on}

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Make a head for every pair."""
        if self.pairs and teacher is None:
            raise DistilError("dmae aligns blocks with a teacher's and there is none; give one, or weight=0.")
        widths = [(student[tap].shape, teacher[tap].shape) for tap in self.taps]
        for tap, (mine, theirs) in zip(self.taps, widths, strict=True):
            if len(mine) != 3 or len(theirs) != 3 or mine[1] != theirs[1]:
                raise DistilError(
                    f"dmae shows both networks the same patches, but '{tap[0]}' of the student gives {tuple(mine)} and "
                    f"'{tap[1]}' of the teacher {tuple(theirs)}; give both the same image and patch size."
                )
        self.heads: nn.Module = _Heads([token_head(self.head, mine[2], theirs[2]) for mine, theirs in widths])

    def transform(self, batch: Batch, student: Handles, teacher: Handles, ctx: Context) -> Batch:
        """Draw the mask that both see; a loss that is only measured is measured under each sample's own."""
        images = batch["inputs"]
        if not isinstance(images, Tensor) or images.ndim != 4:
            raise DistilError("dmae masks images, a tensor (N, C, H, W); these inputs are none.")
        if self.pairs and isinstance(teacher.module, BatchReader):
            raise DistilError(
                "dmae shows a teacher the visible patches of every step, which a cache of whole images does not know; "
                "give the live model."
            )
        patches = _autoencoder(student).encoder.patch_embed.count
        ids = None if self.training else batch.get("id")
        noise = patch_noise(len(images), patches, generator=ctx.rng, ids=ids).to(images.device)
        mask = patch_mask(noise, self.mask_ratio)
        seen = {"inputs": images, "keep": mask.keep, **({"restore": mask.restore} if self.reconstruction else {})}
        return {**batch, "inputs": seen, "mask_of_patches": mask}

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return ``reconstruction``, one value per patch, and ``distil``, one per sample."""
        s, terms = student(batch), {}
        if self.reconstruction:
            mask: PatchMask = batch["mask_of_patches"]
            images, predicted = batch["inputs"]["inputs"], s.output
            side = isqrt(predicted.shape[2] // images.shape[1])
            targets = patch_targets(images, side, normalise=self.norm_pix)
            errors = masked_reconstruction(predicted, targets, mask.removed, reduction="none")
            terms["reconstruction"] = Term(errors, mask.removed)
        if self.pairs:
            t = teacher(batch)
            projected = self.heads([s[tap] for tap in self.taps])
            gaps = [
                token_distance(mine, t[tap], distance=self.distance, normalise=self.normalise, reduction="none")
                for mine, tap in zip(projected, self.taps, strict=True)
            ]
            terms["distil"] = Term(self.weight * sum(gaps[1:], gaps[0]))
        return terms

    def counts(self, batch: Batch) -> dict[str, float | Tensor]:
        """Count removed patches, and samples."""
        removed = batch["mask_of_patches"].removed
        counted: dict[str, float | Tensor] = {"reconstruction": removed.sum(), "distil": float(len(removed))}
        return {key: counted[key] for key in self.at_equality}

    def deployed(self, student: Handles, teacher: Handles) -> nn.Module:
        """Return the student's encoder; decoder and heads are dropped."""
        return _autoencoder(student).encoder


class _Heads(nn.Module):
    """A head for each aligned pair."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(heads)

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        return [head(mine) for head, mine in zip(self.each, tokens, strict=True)]


def _autoencoder(student: Handles) -> MaskedAutoencoder:
    module: Any = getattr(student, "module", None)
    if not isinstance(module, MaskedAutoencoder):
        raise DistilError(
            f"dmae trains a MaskedAutoencoder and the student is {type(module).__name__}; make one with "
            "distil.models.MaskedAutoencoder, or load_model('distil:mae(patch=4)', input_shape=…)."
        )
    return module


def _pairs(pairs: Any) -> tuple[tuple[int, int], ...]:
    """Read aligned blocks; one pair may stand alone."""
    try:
        given = [pairs] if isinstance(pairs[0], int) else list(pairs)
        found = tuple((int(student), int(teacher)) for student, teacher in given)
    except (TypeError, ValueError, IndexError, KeyError):
        found = ()
    if not found or any(block < 0 for pair in found for block in pair) or len(set(found)) < len(found):
        raise DistilError(
            f"dmae(pairs={pairs!r}) must name different pairs of blocks, the student's and the teacher's, counted from "
            "0, e.g. ((8, 17),)."
        )
    return found


def published(
    *,
    pairs: Sequence[Sequence[int]] = PAIRS,
    mask_ratio: float = 0.75,
    reconstruction: bool = True,
    weight: float = 1.0,
    head: str = "fc-1layer",
    distance: str = "l1",
    normalise: bool | None = None,
    norm_pix: bool = False,
) -> Sum:
    """Return the paper's whole loss: reconstruction plus the teacher's tokens, 75 % removed, block 8 to block 17.

    >>> sorted(published().methods)
    ['dmae']
    """
    return as_sum(
        DMAE(
            pairs=pairs, mask_ratio=mask_ratio, reconstruction=reconstruction, weight=weight, head=head,
            distance=distance, normalise=normalise, norm_pix=norm_pix,
        )
    )  # fmt: skip
