"""Small nets on patches of small images: a vision transformer and an MLP-Mixer, with the keys that timm's have.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929; Tolstikhin et al., "MLP-Mixer: An
all-MLP Architecture for Vision", NeurIPS 2021, arXiv 2105.01601.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.errors import DistilError

__all__ = ["Mixer", "ViT"]

EPS = 1e-6  # of LayerNorm, as in both papers' code


class Patches(nn.Module):
    """Cut images of one size into patches and embed each by one linear map: ``[B, C, H, W]`` → ``[B, L, dim]``."""

    def __init__(self, size: int | Sequence[int], patch: int, channels: int, dim: int) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        if min(patch, height, width, channels, dim) < 1 or height % patch or width % patch:
            raise DistilError(
                f"images of {height}x{width} cannot be cut into patches of {patch}x{patch}; give patch= a divisor of "
                "both sides, e.g. distil:vit(patch=4), or resize the images."
            )
        self.size, self.count = (height, width), (height // patch) * (width // patch)
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the tokens, row by row."""
        if tuple(inputs.shape[2:]) != self.size:
            raise DistilError(
                f"the net was made for images of {self.size[0]}x{self.size[1]}, and these are "
                f"{tuple(inputs.shape[2:])}; make it with size=, or resize the images."
            )
        tokens: Tensor = self.proj(inputs).flatten(2).mT
        return tokens


class Mlp(nn.Module):
    """Linear, GELU, linear over the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the same shape."""
        found: Tensor = self.fc2(F.gelu(self.fc1(inputs)))
        return found


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the same shape."""
        query, key, value = self.qkv(inputs).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        found: Tensor = self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return found


class Block(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim, hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the same shape."""
        hidden: Tensor = inputs + self.attn(self.norm1(inputs))
        return hidden + self.mlp(self.norm2(hidden))


class MixerBlock(nn.Module):
    """An MLP over positions and one over channels, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, dim: int, count: int, over_tokens: int, over_channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.mlp_tokens, self.mlp_channels = Mlp(count, over_tokens), Mlp(dim, over_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the same shape."""
        hidden: Tensor = inputs + self.mlp_tokens(self.norm1(inputs).mT).mT
        return hidden + self.mlp_channels(self.norm2(hidden))


class ViT(nn.Module):
    """A vision transformer: patches, a class token, learned positions, ``blocks``, ``norm``; ``head`` reads the class.

    Args:
        size: the side of the images, or ``(height, width)``; fixed, since each position has its embedding.
        patch: the side of a patch.
        dim: the width of a token.
        depth: the number of blocks.
        heads: of attention; they divide ``dim``.
        ratio: the MLP's hidden width over ``dim``.
        classes: the number of outputs.
        channels: input channels.

    >>> ViT(32, dim=16, depth=1, heads=2)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, size: int | Sequence[int] = 32, *, patch: int = 4, dim: int = 128, depth: int = 6, heads: int = 4,
        ratio: float = 2.0, classes: int = 10, channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(depth, heads, classes) < 1 or not ratio > 0 or dim % heads:
            raise DistilError(
                f"ViT: dim={dim} must be a multiple of heads={heads}, and depth={depth}, classes={classes}, "
                f"ratio={ratio} above 0."
            )
        self.patch_embed = Patches(size, patch, channels, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.count + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, int(dim * ratio)) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, EPS)
        self.head = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        _start(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` for images ``[B, channels, H, W]``."""
        tokens = self.patch_embed(inputs)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class Mixer(nn.Module):
    """An MLP-Mixer: patches (``stem``), ``blocks``, ``norm``; ``head`` reads the mean of the tokens.

    Args:
        size: the side of the images, or ``(height, width)``; fixed, since MLPs run over positions.
        patch: the side of a patch.
        dim: the width of a token.
        depth: the number of blocks.
        ratio: the hidden widths over ``dim`` of the MLPs over positions and over channels.
        classes: the number of outputs.
        channels: input channels.

    >>> Mixer(32, dim=16, depth=1)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, size: int | Sequence[int] = 32, *, patch: int = 4, dim: int = 128, depth: int = 6,
        ratio: tuple[float, float] = (0.5, 2.0), classes: int = 10, channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(depth, classes) < 1 or len(ratio) != 2 or min(int(share * dim) for share in ratio) < 1:
            raise DistilError(
                f"Mixer: depth={depth} and classes={classes} must be above 0, and ratio={tuple(ratio)} two numbers "
                f"that leave the MLPs a hidden unit at dim={dim}."
            )
        self.stem = Patches(size, patch, channels, dim)
        hidden = [int(share * dim) for share in ratio]
        self.blocks = nn.Sequential(*(MixerBlock(dim, self.stem.count, *hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, EPS)
        self.head = nn.Linear(dim, classes)
        _start(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` for images ``[B, channels, H, W]``."""
        return self.head(self.norm(self.blocks(self.stem(inputs))).mean(1))


def _start(net: nn.Module) -> None:
    """Small random weights and no bias in every linear layer."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
