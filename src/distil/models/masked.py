"""Vision transformers that may see a part of an image's patches and stop at a block, and the masked autoencoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distil.errors import DistilError, nearest
from distil.functional.patches import restore_patches, take_patches
from distil.models.heads import find_head
from distil.models.tokens import EPS, Block, Patches

__all__ = ["MaskedAutoencoder", "MaskedViT", "load_encoder", "sincos_positions", "token_head"]

POOLS = ("mean", "cls")
HEADS = ("fc-1layer", "mlp-1layer", "mlp-2layer", "none")


def sincos_positions(dim: int, height: int, width: int) -> Tensor:
    """Return fixed position codes of a grid, row by row, behind a zero for the class token: ``[1, 1 + h·w, dim]``.

    The first half of the channels codes the column x, the second the row y, each as ``sin(x·ω_k), …, cos(x·ω_k), …``
    with ``ω_k = 10000^(−4k/dim)``, k = 0 … dim/4 − 1.

    >>> sincos_positions(4, 1, 2)[0, 1:]
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0000, 1.0000]])
    """
    if dim % 4:
        raise DistilError(f"positions by sine and cosine need a width that 4 divides, not dim={dim}; give e.g. 32.")
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [axis.flatten().double()[:, None] * omega for axis in (columns, rows)]
    codes = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), codes]).float().unsqueeze(0)


def _start(net: nn.Module) -> None:
    """Xavier-uniform linear maps without bias, LayerNorm 1 and 0, as masked autoencoders start."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


class MaskedViT(nn.Module):
    """A vision transformer whose patches may be chosen, and that may stop at a block; it answers with features.

    Patches, a class token, fixed positions (:func:`sincos_positions`), ``blocks``, ``norm``. Its state dict has the
    names and shapes of timm's ``VisionTransformer`` (MLP ratio 4 by default) and of ``distil:vit(ratio=4)``, so that
    loading it there leaves only the classifier missing.

    Args:
        size: the side of the images, or ``(height, width)``.
        patch: the side of a patch; it divides both sides.
        dim: the width of a token; 4 and ``heads`` divide it.
        depth: the number of blocks.
        heads: of attention.
        ratio: the MLP's hidden width over ``dim``.
        channels: input channels.
        pool: what :meth:`forward` returns: "mean" over the patch tokens, or the "cls" token.

    >>> net = MaskedViT(8, patch=4, dim=16, depth=2, heads=2)
    >>> net(torch.zeros(3, 3, 8, 8)).shape, net.tokens(torch.zeros(3, 3, 8, 8), torch.zeros(3, 1).long(), stop=0).shape
    (torch.Size([3, 16]), torch.Size([3, 2, 16]))
    """

    pos_embed: Tensor

    def __init__(
        self, size: int | Sequence[int] = 32, *, patch: int = 4, dim: int = 64, depth: int = 4, heads: int = 4,
        ratio: float = 4.0, channels: int = 3, pool: str = "mean",
    ) -> None:  # fmt: skip
        super().__init__()
        if min(depth, heads) < 1 or not ratio > 0 or dim % heads:
            raise DistilError(
                f"MaskedViT: dim={dim} must be a multiple of heads={heads}, and depth={depth}, ratio={ratio} above 0."
            )
        if pool not in POOLS:
            raise DistilError(f"MaskedViT: pool={pool!r} is unknown; {nearest(str(pool), POOLS)}")
        self.pool = pool
        self.patch_embed = Patches(size, patch, channels, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        height, width = self.patch_embed.size
        self.register_buffer("pos_embed", sincos_positions(dim, height // patch, width // patch))
        self.blocks = nn.Sequential(*(Block(dim, heads, int(dim * ratio)) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, EPS)
        nn.init.normal_(self.cls_token, std=0.02)
        _start(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(dim, -1))

    def tokens(self, inputs: Tensor, keep: Tensor | None = None, *, stop: int | None = None) -> Tensor:
        """Return the class token and those of the patches, ``[B, 1 + V, dim]``.

        Args:
            inputs: images ``[B, channels, H, W]``.
            keep: ``[B, V]``, the visible patches (:func:`distil.functional.patch_mask`); by default all are.
            stop: the last block that runs, counted from 0; its output is returned as it is, before the final norm.
        """
        if stop is not None and not 0 <= stop < len(self.blocks):
            raise DistilError(f"stop={stop} is no block of {len(self.blocks)}; blocks are counted from 0.")
        found = self.patch_embed(inputs) + self.pos_embed[:, 1:]
        if keep is not None:
            found = take_patches(found, keep)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(found), -1, -1)
        found = torch.cat([first, found], 1)
        for index, block in enumerate(self.blocks):
            found = block(found)
            if index == stop:
                return found
        return self.norm(found)

    def pooled(self, tokens: Tensor) -> Tensor:
        """Return ``[B, dim]`` of the tokens ``[B, 1 + V, dim]``."""
        return tokens[:, 0] if self.pool == "cls" else tokens[:, 1:].mean(1)

    def forward(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return features ``[B, dim]`` of the visible patches."""
        return self.pooled(self.tokens(inputs, keep))


class _Decoder(nn.Module):
    """From tokens of visible patches to pixels of all: a linear map, mask tokens, positions, blocks, norm, pixels."""

    pos_embed: Tensor

    def __init__(
        self, width: int, dim: int, depth: int, heads: int, ratio: float, grid: tuple[int, int], out: int
    ) -> None:
        super().__init__()
        if min(depth, heads) < 1 or dim % heads:
            raise DistilError(
                f"MaskedAutoencoder: decoder_dim={dim} must be a multiple of decoder_heads={heads}, and "
                f"decoder_depth={depth} above 0."
            )
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("pos_embed", sincos_positions(dim, *grid))
        self.blocks = nn.Sequential(*(Block(dim, heads, int(dim * ratio)) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, EPS)
        self.pred = nn.Linear(dim, out)
        nn.init.normal_(self.mask_token, std=0.02)
        _start(self)

    def forward(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Return ``[B, L, patch² · channels]`` of ``[B, 1 + V, width]``."""
        found = self.embed(tokens)
        whole = restore_patches(found[:, 1:], self.mask_token, restore)
        found = self.blocks(torch.cat([found[:, :1], whole], 1) + self.pos_embed)
        pixels: Tensor = self.pred(self.norm(found))
        return pixels[:, 1:]


class MaskedAutoencoder(nn.Module):
    """A masked autoencoder: ``encoder`` sees a part of the patches, ``decoder`` predicts the pixels of all.

    Args:
        size: the side of the images, or ``(height, width)``.
        patch, dim, depth, heads, ratio, channels, pool: of the encoder, a :class:`MaskedViT`.
        decoder_dim, decoder_depth, decoder_heads: of the decoder, which is dropped after pre-training.

    >>> import distil.functional as D
    >>> net = MaskedAutoencoder(8, patch=2, dim=16, depth=1, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2)
    >>> mask = D.patch_mask(D.patch_noise(3, 16), 0.75)
    >>> net(torch.zeros(3, 3, 8, 8), mask.keep, mask.restore).shape
    torch.Size([3, 16, 12])

    Paper: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, arXiv 2111.06377. Differs from
    official code: images need not be square; without ``restore`` the decoder does not run.
    """

    def __init__(
        self, size: int | Sequence[int] = 32, *, patch: int = 4, dim: int = 64, depth: int = 4, heads: int = 4,
        ratio: float = 4.0, channels: int = 3, pool: str = "mean", decoder_dim: int = 32, decoder_depth: int = 2,
        decoder_heads: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = MaskedViT(
            size, patch=patch, dim=dim, depth=depth, heads=heads, ratio=ratio, channels=channels, pool=pool
        )
        height, width = self.encoder.patch_embed.size
        grid, out = (height // patch, width // patch), patch * patch * channels
        self.decoder = _Decoder(dim, decoder_dim, decoder_depth, decoder_heads, ratio, grid, out)

    def forward(self, inputs: Tensor, keep: Tensor | None = None, restore: Tensor | None = None) -> Tensor:
        """Return the predicted pixels ``[B, L, patch² · channels]``; without ``restore`` the encoder's features."""
        if restore is None:
            features: Tensor = self.encoder(inputs, keep)
            return features
        pixels: Tensor = self.decoder(self.encoder.tokens(inputs, keep), restore)
        return pixels


def load_encoder(classifier: nn.Module, encoder: MaskedViT) -> nn.Module:
    """Copy a pre-trained encoder into a classifier of the same sizes, all but its head, and return the classifier.

    Args:
        classifier: ``distil:vit(ratio=4, …)``, timm's ``VisionTransformer``, or whatever else has the names of its
            state dict; its last linear layer stays as it is.
        encoder: what was pre-trained.

    Raises:
        DistilError: if anything but the head is missing, left over, or of another shape.

    >>> from distil.models import ViT
    >>> encoder = MaskedViT(8, patch=4, dim=16, depth=1, heads=2)
    >>> net = load_encoder(ViT(8, patch=4, dim=16, depth=1, heads=2, ratio=4, classes=3), encoder)
    >>> bool((net.pos_embed == encoder.pos_embed).all())
    True
    """
    head, own, given = find_head(classifier), classifier.state_dict(), encoder.state_dict()
    missing = [key for key in own if key not in given and not key.startswith(f"{head}.")]
    extra = [key for key in given if key not in own]
    wrong = [key for key in given if key in own and given[key].shape != own[key].shape]
    if missing or extra or wrong:
        what, names = next((w, k) for w, k in (("missing", missing), ("too many", extra), ("misshapen", wrong)) if k)
        raise DistilError(
            f"the encoder does not fit {type(classifier).__name__}: {len(names)} tensors are {what} ({names[0]}, …); "
            "make the classifier with the encoder's size, patch, dim, depth and ratio (4 by default)."
        )
    classifier.load_state_dict(given, strict=False)
    return classifier


def token_head(kind: str, student_dim: int, teacher_dim: int) -> nn.Module:
    """Return a projection of each token from the student's width to the teacher's.

    Args:
        kind: "fc-1layer": a linear map; "mlp-1layer": linear, GELU, linear at the teacher's width; "mlp-2layer": two
            of those; "none": the token itself, for equal widths.

    >>> token_head("mlp-1layer", 4, 6)(torch.zeros(2, 5, 4)).shape
    torch.Size([2, 5, 6])
    """
    if kind not in HEADS:
        raise DistilError(f"token_head: kind={kind!r} is unknown; {nearest(str(kind), HEADS)}")
    if kind == "none":
        if student_dim != teacher_dim:
            raise DistilError(
                f"head='none' compares tokens as they are, but the student's are {student_dim} wide and the teacher's "
                f"{teacher_dim}; use head='fc-1layer', or models of one width."
            )
        return nn.Identity()
    if kind == "fc-1layer":
        made: nn.Module = nn.Linear(student_dim, teacher_dim)
    else:
        widths = (student_dim, teacher_dim) if kind == "mlp-2layer" else (student_dim,)
        mlps = [(nn.Linear(width, teacher_dim), nn.GELU(), nn.Linear(teacher_dim, teacher_dim)) for width in widths]
        made = nn.Sequential(*(layer for mlp in mlps for layer in mlp))
    _start(made)
    return made
